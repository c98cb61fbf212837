//! What the kernel programs do not need, and the agent only to read back what it wrote: names, states, policies.

use mesh_ebpf_common::V6;

/// A frontend, by its index.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FrontendNote {
    /// Address of a VIP or of this host; IPv4 in the first four bytes.
    pub address: V6,
    /// Key in `names` of the service's namespace.
    pub namespace: u64,
    /// Key in `names` of the service.
    pub name: u64,
    /// Affinity timeout in nanoseconds, when [`note::AFFINITY`] says so.
    pub affinity: u64,
    /// Idle timeout in nanoseconds, when [`note::IDLE`] says so.
    pub idle: u64,
    /// Most flows to one backend, when [`note::LIMIT`] says so.
    pub limit: u32,
    /// First port, host order.
    pub first: u16,
    /// Last port, host order.
    pub last: u16,
    /// `IPPROTO_*`.
    pub protocol: u8,
    /// 0 a VIP, 1 an address of this host, 2 all of them.
    pub listen: u8,
    /// Number of the scheduler.
    pub scheduler: u8,
    /// Number of what happens without a backend.
    pub no_backend: u8,
    /// [`note`] bits.
    pub bits: u32,
}

/// Bits of [`FrontendNote::bits`].
pub mod note {
    /// Of IPv6.
    pub const V6: u32 = 0x1;
    /// Has an affinity timeout.
    pub const AFFINITY: u32 = 0x2;
    /// Has an idle timeout.
    pub const IDLE: u32 = 0x4;
    /// Has a limit.
    pub const LIMIT: u32 = 0x8;
}

/// A backend, by its index.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BackendNote {
    /// Key in `names` of the instance.
    pub instance: u64,
    /// Key in `names` of its node.
    pub node: u64,
    /// Until when it drains, Unix time in milliseconds.
    pub deadline: u64,
    /// Its weight.
    pub weight: u16,
    /// 0 active, 1 down, 2 draining, 3 draining with a deadline.
    pub state: u16,
    /// 4 or 6.
    pub family: u32,
}

/// A network of a frontend's list of those who may connect.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AllowNote {
    /// Address; IPv4 in the first four bytes.
    pub address: V6,
    /// 4 or 6.
    pub family: u32,
    /// Length of the prefix in bits.
    pub prefix: u32,
}

/// Key of an [`AllowNote`]: the frontend, and the place in its list.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct AllowPlace {
    /// Index of the frontend.
    pub frontend: u32,
    /// Counts from 0.
    pub at: u32,
}

/// The maps that only the agent uses, with the sizes of their keys and values.
pub(crate) const MAPS: [(&str, usize, usize); 4] = [
    ("names", size_of::<u64>(), mesh_ebpf_common::NAME_LEN),
    ("frontend_notes", size_of::<u32>(), size_of::<FrontendNote>()),
    ("backend_notes", size_of::<u32>(), size_of::<BackendNote>()),
    ("allow_notes", size_of::<AllowPlace>(), size_of::<AllowNote>()),
];

const _: () = assert!(size_of::<FrontendNote>() == 64 && size_of::<BackendNote>() == 32);
