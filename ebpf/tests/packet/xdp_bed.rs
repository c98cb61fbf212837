//! The node with its program at XDP: veth devices take one, in their native mode.

use crate::{
    bed::{Bed, Device, NEIGHBOUR, Outcome, Way, arriving},
    packet::Packet,
    plan::ip,
    tables::{Tables as _, wide},
};
use aya::programs::{Program, TestRun as _, TestRunOptions, Xdp, XdpMode};
use mesh_ebpf::common::xdp::{self, Vtep, VtepKey, bit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::{net::UdpSocket, os::fd::AsRawFd as _};

/// `XDP_PASS`, `XDP_TX` and `XDP_REDIRECT`.
pub(crate) const PASS: i32 = 2;
pub(crate) const TX: i32 = 3;
pub(crate) const FAST: i32 = 4;

/// The overlay: its identifier, its port, the other node's end on the underlay, and this one's.
pub(crate) const VNI: u32 = 4097;
pub(crate) const PORT: u16 = 4789;
pub(crate) const REMOTE: [u8; 4] = [192, 0, 2, 2];
pub(crate) const LOCAL: [u8; 4] = [192, 0, 2, 1];

impl Bed {
    /// Puts the program to work on the NIC and the bridge, and says that both take frames; `vx` is of the overlay.
    pub(crate) fn fast() -> Option<Bed> {
        let mut bed = Bed::new()?;
        mesh_ebpf::load(bed.ebpf_mut().program_mut("xdp_ingress").unwrap()).unwrap();
        for device in [Device::Nic, Device::Mesh] {
            bed.attach_fast(device);
            bed.takes(device, bit::SENDS | bit::RETURNS);
        }
        let key = VtepKey { device: Device::Vx.index(), mac: NEIGHBOUR, pad: 0 };
        let address = |four: [u8; 4]| wide(four.into());
        let vtep =
            Vtep { remote: address(REMOTE), local: address(LOCAL), vni: VNI, port: PORT.to_be(), family: 4 };
        bed.put("xdp_vteps", key, vtep);
        // What is found stays known for as long as a test may take.
        bed.configure(|config| config.hz = 1 << 30);
        Some(bed)
    }

    /// Says what a device does with frames.
    pub(crate) fn takes(&mut self, device: Device, bits: u16) {
        self.put("xdp_devices", device.index(), xdp::Device { mac: device.mac(), bits });
    }

    fn attach_fast(&mut self, device: Device) {
        // The descriptor goes into a thread of the namespace.
        let Bed { netns, ebpf, .. } = self;
        let program: &mut Xdp = ebpf.program_mut("xdp_ingress").unwrap().try_into().unwrap();
        netns.run(|| program.attach(device.name(), XdpMode::Driver)).unwrap();
    }

    /// Runs the program over a packet that comes by a device.
    pub(crate) fn xdp(&self, device: Device, packet: &Packet) -> Outcome {
        self.xdp_bytes(device, &arriving(Way::In, device, packet).bytes())
    }

    /// The same with bytes. All is done on one CPU: what a packet leaves there the next one finds.
    pub(crate) fn xdp_bytes(&self, device: Device, bytes: &[u8]) -> Outcome {
        let program: &Xdp = self.ebpf().program("xdp_ingress").unwrap().try_into().unwrap();
        // `struct xdp_md`: `data_end`, `ingress_ifindex`.
        let mut context = [0; 24];
        context[4..8].copy_from_slice(&u32::try_from(bytes.len()).unwrap().to_ne_bytes());
        context[12..16].copy_from_slice(&device.index().to_ne_bytes());
        let mut out = vec![0; bytes.len() + 512];
        let mut options = TestRunOptions::new();
        (options.data_in, options.data_out, options.ctx_in) =
            (Some(bytes), Some(&mut out[..]), Some(&context[..]));
        let result = self.netns.run(|| {
            let may = sched_getaffinity(None).unwrap();
            let mut one = CpuSet::new();
            one.set((0..CpuSet::MAX_CPU).find(|cpu| may.is_set(*cpu)).unwrap());
            sched_setaffinity(None, &one).unwrap();
            program.test_run(options)
        });
        let result = result.unwrap();
        out.truncate(result.data_size_out as usize);
        Outcome { verdict: result.return_value.cast_signed(), bytes: out }
    }

    /// How often the programs ran: that at XDP, and that at tcx.
    pub(crate) fn runs(&self) -> [u64; 2] {
        ["xdp_ingress", "tc_ingress"].map(|name| {
            let program: &Program = self.ebpf().program(name).unwrap();
            program.info().unwrap().run_count()
        })
    }

    /// Lets tcx begin the flow of a packet.
    pub(crate) fn begin(&self, device: Device, first: &Packet) {
        self.run(Way::In, device, first);
        assert!(self.bits(first).is_some(), "{first:?} begins no flow");
    }
}

/// `ETHTOOL_STXCSUM` and `ETHTOOL_SGRO` of linux/ethtool.h.
pub(crate) const TX_CHECKSUM: u32 = 0x17;
pub(crate) const GRO: u32 = 0x2c;

/// Sets an offload of a link in the namespace of the calling thread.
pub(crate) fn offload(link: &str, command: u32, on: bool) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut value = [command, u32::from(on)];
    // SAFETY: plain old data, for which all zeros are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(link.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    request.ifr_ifru.ifru_data = value.as_mut_ptr().cast();
    // SAFETY: the request is whole and names a structure of the size that the command asks for; both outlive the call.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    assert_eq!(done, 0, "{link}: {}", std::io::Error::last_os_error());
}

/// The same frame from a device of the node to its neighbour.
pub(crate) fn leaving(device: Device, packet: &Packet) -> Packet {
    Packet { link: (NEIGHBOUR, device.mac()), ..packet.clone() }
}

/// A frame within one of the underlay, which leaves by the NIC with that identification and source port.
pub(crate) fn wrapped(inner: &[u8], id: u16, port: u16) -> Vec<u8> {
    let mut data = vec![0x08, 0, 0, 0];
    data.extend((VNI << 8).to_be_bytes());
    data.extend(inner);
    let body = crate::packet::Body::Udp { ports: (port, PORT), sum: false, data };
    let outer = Packet { id, dont_fragment: false, ..Packet::new(ip("192.0.2.1"), ip("192.0.2.2"), body) };
    leaving(Device::Nic, &outer).bytes()
}
