//! Ways out at XDP: for each next hop what is written before a packet's IP header, and by which device it leaves.
//!
//! A way is found anew every second, and the packet for which it is goes by the one at tc: so the kernel, which hears of no other
//! one, goes on asking whether its neighbours are there.

use super::{
    cache::made,
    checksum::fold64,
    clock::now,
    frame::{ETHERNET, Frame, Xdp},
    ip::{HOPS, Ip, zeroed},
    parse::UDP,
    work::{Steps, work},
};
use crate::{
    maps::{XDP_DEVICES, XDP_VTEPS, config},
    service::{Family as _, halves},
};
use aya_ebpf::{
    bindings::{
        BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup,
        xdp_action::{XDP_PASS, XDP_REDIRECT, XDP_TX},
    },
    helpers::generated::bpf_fib_lookup as lookup,
    macros::map,
    maps::PerCpuArray,
};
use mesh_ebpf_common::{
    Config, Rewrite, V4,
    xdp::{VtepKey, bit},
};

/// Ways of a CPU, a power of two.
const PLACES: u32 = 1 << 10;
/// Places that a next hop may have, a power of two: hops that had but one would take turns there, and a packet of each would pass.
const SET: u32 = 4;
/// No place.
pub const NOWHERE: u32 = u32::MAX;
/// Bytes of IPv4, UDP and VXLAN, and of the Ethernet header in front.
pub const OUTER: usize = ETHERNET + 20 + 8 + 8;
/// What a packet of the overlay has in front of its type: the outer headers and two link-layer addresses.
pub const LONGEST: usize = OUTER + 12;
/// What [`Way::head`] is written in.
pub const HEAD: usize = LONGEST.div_ceil(8);

/// A way. It is of the next hop that these first fields say.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Way {
    /// IPv4 in the first four bytes.
    nexthop: [u64; 2],
    /// The device of the route.
    device: u32,
    /// The device that packets come by.
    ingress: u32,
    /// `AF_*` of the next hop; 0 for no way at all.
    family: u32,
    /// When it was found: jiffies, low half.
    since: u32,
    /// [`Config::epoch`] at that time.
    epoch: u32,
    /// `XDP_TX`, `XDP_REDIRECT`, or `XDP_PASS` where only the kernel has a way.
    pub verdict: u32,
    /// The device that packets leave by.
    pub out: u32,
    /// Longest packet that may go there, bytes of its IP.
    pub longest: u32,
    /// Sum of the outer IP header's words that are known.
    pub sum: u32,
    /// Address of the device that packets come by, in the order of the bytes.
    pub own: u64,
    /// Whether outer headers are written.
    pub outer: u64,
    /// What is written: link-layer addresses, and for the overlay all of [`LONGEST`].
    pub head: [u64; HEAD],
}

#[map(name = "xdp_ways")]
static WAYS: PerCpuArray<Way> = PerCpuArray::with_max_entries(PLACES, 0);

/// Where the way to a rewrite's next hop is looked for first. Beside it are the other places of its set.
#[inline(always)]
fn first<A: Ip>(rewrite: &Rewrite<A>) -> u32 {
    let mixed = (rewrite.nexthop.sum() ^ u64::from(rewrite.device) << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 40) as u32 % PLACES
}

/// A way of this CPU.
#[inline(always)]
fn at(place: u32) -> Option<&'static mut Way> {
    // SAFETY: the entry of this CPU, which runs one program of this kind at a time.
    WAYS.get_ptr_mut(place).map(|way| unsafe { &mut *way })
}

impl Way {
    /// Whether it may still be gone.
    #[inline(always)]
    fn is_good(&self, config: &Config) -> bool {
        self.epoch == config.epoch && now().wrapping_sub(self.since) < config.hz
    }

    /// Whether it is that of a rewrite's packets that come by a device.
    #[inline(always)]
    fn is_of<A: Ip>(&self, ingress: u32, rewrite: &Rewrite<A>, config: &Config) -> bool {
        self.family == u32::from(A::FAMILY)
            && self.device == rewrite.device
            && self.ingress == ingress
            && self.is_good(config)
            && self.nexthop == halves(rewrite.nexthop.wide())
    }
}

/// The way that a rewrite's packets leave by, when it is known and in the first of its places.
#[inline(always)]
pub fn glance<A: Ip>(xdp: Xdp, rewrite: &Rewrite<A>, config: &Config) -> Option<&'static Way> {
    let way = at(first(rewrite))?;
    way.is_of(xdp.device(), rewrite, config).then_some(way)
}

/// The same in another place: what [`find`] said.
#[inline(always)]
pub fn elsewhere(place: u32) -> Option<&'static Way> {
    if place == NOWHERE { None } else { at(place).map(|way| &*way) }
}

/// Where the way of the packet at hand is, whose rewrite lies in a line of the cache. If it is not known it is found and written
/// down, and the packet is to pass: then that is [`NOWHERE`], as it is where all places are other hops' who came within a
/// second.
#[inline(always)]
pub fn find<A: Steps>(xdp: Xdp, line: u32) -> u32 {
    let (Some(config), Some(rewrite)) = (config(), made::<A>(line)) else { return NOWHERE };
    let (first, mut free) = (first(rewrite), NOWHERE);
    for step in (0..SET).rev() {
        let Some(way) = at(first ^ step) else { return NOWHERE };
        if way.is_of(xdp.device(), rewrite, config) {
            return first ^ step;
        }
        if way.family == 0 || !way.is_good(config) {
            free = first ^ step;
        }
    }
    if free != NOWHERE {
        lay::<A>(xdp, rewrite, free, config);
    }
    NOWHERE
}

/// Finds a way for the packet at hand and writes it down.
#[inline(always)]
fn lay<A: Steps>(xdp: Xdp, rewrite: &Rewrite<A>, place: u32, config: &Config) {
    let (Some(work), Some(way)) = (work::<A>(), at(place)) else { return };
    if rewrite.nexthop.is(A::ZERO) {
        return;
    }
    let ingress = xdp.device();
    // SAFETY: entries of this map are replaced, never written to, and freed after programs that may see them.
    let own = unsafe { XDP_DEVICES.get(ingress) }.map_or([0; 6], |device| device.mac);
    way.nexthop = halves(rewrite.nexthop.wide());
    way.device = rewrite.device;
    way.ingress = ingress;
    way.family = u32::from(A::FAMILY);
    way.since = now();
    way.epoch = config.epoch;
    way.verdict = XDP_PASS;
    way.out = rewrite.device;
    way.longest = u32::MAX;
    way.own = u64::from_ne_bytes([own[0], own[1], own[2], own[3], own[4], own[5], 0, 0]);
    way.outer = 0;
    let mut fib: bpf_fib_lookup = zeroed();
    fib.family = A::FAMILY;
    fib.l4_protocol = work.packet.key.protocol;
    fib.sport = rewrite.source_port;
    fib.dport = rewrite.destination_port;
    fib.ifindex = ingress;
    A::ask(&mut fib, rewrite.source, rewrite.destination);
    if !ask(xdp, &mut fib) || fib.ifindex != rewrite.device || !A::hop(&fib).is(rewrite.nexthop) {
        return;
    }
    let (to, from) = (fib.dmac, fib.smac);
    let key = VtepKey { device: rewrite.device, mac: to, pad: 0 };
    // SAFETY: as above.
    let Some(vtep) = (unsafe { XDP_VTEPS.get(key) }) else {
        way.verdict = verdict(ingress, rewrite.device);
        way.head = head(to, from);
        return;
    };
    if vtep.family != 4 {
        return;
    }
    let (local, remote) = (V4::narrow(&vtep.local), V4::narrow(&vtep.remote));
    let mut fib: bpf_fib_lookup = zeroed();
    fib.family = V4::FAMILY;
    fib.l4_protocol = UDP;
    fib.dport = vtep.port;
    fib.ifindex = ingress;
    fib.__bindgen_anon_1.tot_len = 1;
    V4::ask(&mut fib, local, remote);
    if !ask(xdp, &mut fib) {
        return;
    }
    // SAFETY: a number.
    let mtu = u32::from(unsafe { fib.__bindgen_anon_1.mtu_result });
    way.longest = mtu.saturating_sub(OUTER as u32);
    way.out = fib.ifindex;
    way.outer = 1;
    way.verdict = verdict(ingress, fib.ifindex);
    way.head = head(fib.dmac, fib.smac);
    let bytes = &raw mut way.head;
    let half = |at: usize, value: u16| {
        // SAFETY: within the head, which has `LONGEST` bytes.
        unsafe { bytes.cast::<u16>().add(at / 2).write(value) };
    };
    let address = |at: usize, value: [u8; 4]| {
        half(at, u16::from_ne_bytes([value[0], value[1]]));
        half(at + 2, u16::from_ne_bytes([value[2], value[3]]));
    };
    half(12, 0x0800_u16.to_be());
    half(14, 0x45);
    // Length, identification and checksum are each packet's. It may be fragmented, as the kernel has it.
    half(20, 0);
    half(22, HOPS as u16 | u16::from(UDP) << 8);
    address(26, local);
    address(30, remote);
    half(36, vtep.port);
    // Without a checksum: IPv4 knows that, and the packet within has its own (RFC 7348 section 4.3).
    half(40, 0);
    half(42, 0x08);
    half(44, 0);
    address(46, (vtep.vni << 8).to_be_bytes());
    for (number, mac) in [to, from].into_iter().enumerate() {
        half(OUTER + number * 6, u16::from_ne_bytes([mac[0], mac[1]]));
        address(OUTER + number * 6 + 2, [mac[2], mac[3], mac[4], mac[5]]);
    }
    let words = 0x45 + (u64::from(HOPS) | u64::from(UDP) << 8) + local.sum() + remote.sum();
    way.sum = fold64(words);
}

/// Asks for a route and the neighbour there.
#[inline(always)]
fn ask(xdp: Xdp, fib: &mut bpf_fib_lookup) -> bool {
    // SAFETY: the context is the kernel's, the structure as long as is said.
    let found = unsafe { lookup(xdp.context(), &raw mut *fib, size_of::<bpf_fib_lookup>() as i32, 0) };
    found as u32 == BPF_FIB_LKUP_RET_SUCCESS
}

/// How packets get from one device to another.
#[inline(always)]
fn verdict(from: u32, to: u32) -> u32 {
    // SAFETY: as in `find`.
    let bits = unsafe { XDP_DEVICES.get(to) }.map_or(0, |device| device.bits);
    if from == to && bits & bit::RETURNS != 0 {
        XDP_TX
    } else if bits & bit::SENDS != 0 {
        XDP_REDIRECT
    } else {
        XDP_PASS
    }
}

/// The two addresses that a frame begins with.
#[inline(always)]
fn head(to: [u8; 6], from: [u8; 6]) -> [u64; HEAD] {
    let mut head = [0; HEAD];
    head[0] = u64::from_ne_bytes([to[0], to[1], to[2], to[3], to[4], to[5], from[0], from[1]]);
    head[1] = u64::from(u32::from_ne_bytes([from[2], from[3], from[4], from[5]]));
    head
}
