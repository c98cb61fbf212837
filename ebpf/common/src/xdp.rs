//! What the program at XDP is told: which devices there are, and where the other ends of VXLAN devices are.

use crate::V6;

/// A device, by its index: value of `xdp_devices`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Device {
    /// Its link-layer address.
    pub mac: [u8; 6],
    /// [`bit`]s.
    pub bits: u16,
}

/// Bits of [`Device::bits`].
pub mod bit {
    /// It takes frames of programs, whichever device they came by (`NETDEV_XDP_ACT_NDO_XMIT`).
    pub const SENDS: u16 = 0x1;
    /// It sends back frames that came by it, which is the shorter way (`XDP_TX`).
    pub const RETURNS: u16 = 0x2;
}

/// A VXLAN device and the link-layer address of another node's: key of `xdp_vteps`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct VtepKey {
    /// The device's index.
    pub device: u32,
    /// The other's address.
    pub mac: [u8; 6],
    /// Always 0.
    pub pad: u16,
}

/// How packets go there (RFC 7348): over IPv4, with addresses in the first four bytes, or over IPv6.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Vtep {
    /// Address of the other node on the underlay.
    pub remote: V6,
    /// Address of this node there.
    pub local: V6,
    /// Network identifier, 24 bits, host order.
    pub vni: u32,
    /// UDP port, network order.
    pub port: u16,
    /// 4 or 6.
    pub family: u16,
}
