//! Packets: a program that parses one and changes a port, and one of the shape of Katran: every packet asks an LRU table,
//! the clock and per-CPU counters, a new one the frontends and a ring of backends (`katran/lib/bpf/balancer.bpf.c`).

use aya_ebpf::{
    EbpfContext,
    bindings::xdp_action::{XDP_PASS, XDP_TX},
    helpers::bpf_ktime_get_ns,
    macros::{classifier, map, xdp},
    maps::{Array, HashMap, LruHashMap, PerCpuArray, ProgramArray},
    programs::{TcContext, XdpContext},
};
use mesh_ebpf_common::{FlowKey, ServiceKey, V4};

/// Places on the ring: a prime, as Katran has it.
const RING: u32 = 65_537;
const TCP: u8 = 6;
/// Ports that new flows dial, from 1 on.
const FRONTENDS: u32 = 1000;
/// The port that all other flows dial.
const PORT: u16 = 65_000;

/// What is known of a flow.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Known {
    /// New ports, network order.
    source_port: u16,
    destination_port: u16,
    backend: u32,
    seen: u64,
}

/// Packets and bytes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Counts {
    packets: u64,
    bytes: u64,
}

/// What packets are made of.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Made {
    /// How many were made.
    count: u32,
    /// How many flows there are, less 1: all bits below the highest. All of them: each packet begins one.
    flows: u32,
    /// The link-layer addresses, as they are in the frame.
    link: [u32; 3],
    /// Always 0.
    pad: u32,
}

#[map(name = "floor_flows")]
static FLOWS: LruHashMap<FlowKey<V4>, Known> = LruHashMap::with_max_entries(1, 0);
#[map(name = "floor_fronts")]
static FRONTS: HashMap<ServiceKey<V4>, u32> = HashMap::with_max_entries(1, 0);
#[map(name = "floor_ring")]
static BACKENDS: Array<u32> = Array::with_max_entries(RING, 0);
#[map(name = "floor_counts")]
static COUNTS: PerCpuArray<Counts> = PerCpuArray::with_max_entries(512, 0);
/// What [`floor_tc_flow`] and [`floor_xdp_flow`] make.
#[map(name = "floor_maker")]
static MADE: Array<Made> = Array::with_max_entries(1, 0);
/// The program that is measured.
#[map(name = "floor_next")]
static NEXT: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// A packet in memory: from, and to behind its last byte.
type Bytes = (usize, usize);

/// Where the headers are: Ethernet, IPv4 without options, TCP.
struct Headers {
    key: FlowKey<V4>,
    ports: *mut u32,
    len: u64,
}

#[inline(always)]
fn parse((start, end): Bytes) -> Option<Headers> {
    if start + 54 > end {
        return None;
    }
    // SAFETY: 54 bytes are there; machines that run eBPF read at any address.
    let word = |at: usize| unsafe { *((start + at) as *const u32) };
    let half = |at: usize| unsafe { *((start + at) as *const u16) };
    if half(12) != 0x0800_u16.to_be() || word(14) as u8 != 0x45 || (word(22) >> 8) as u8 != TCP {
        return None;
    }
    // SAFETY: as above.
    let addresses = unsafe { *((start + 26) as *const u64) };
    let ports = word(34);
    let key = FlowKey {
        source: (addresses as u32).to_ne_bytes(),
        destination: ((addresses >> 32) as u32).to_ne_bytes(),
        source_port: ports as u16,
        destination_port: (ports >> 16) as u16,
        protocol: TCP,
        pad: [0; 3],
    };
    Some(Headers { key, ports: (start + 34) as *mut u32, len: u64::from(u16::from_be(half(16))) })
}

/// Writes the ports and corrects TCP's checksum.
#[inline(always)]
fn rewrite(headers: &Headers, source: u16, destination: u16) {
    let key = &headers.key;
    // SAFETY: the header is there, as `parse` has seen; its checksum is four words behind the ports.
    unsafe {
        let checksum = headers.ports.add(4).cast::<u16>();
        let mut sum = u32::from(!*checksum) + u32::from(source) + u32::from(destination);
        sum += u32::from(!key.source_port) + u32::from(!key.destination_port);
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        *headers.ports = u32::from(source) | u32::from(destination) << 16;
        *checksum = !(sum as u16);
    }
}

/// Makes the packet at hand one of the next flow, each of as many as there are in turn, or one of a client's end that was not
/// there before to the next of [`FRONTENDS`] ports of `10.96.0.1`; and goes on with another program.
#[classifier]
pub fn floor_tc_flow(ctx: TcContext) -> i32 {
    made(&ctx, (ctx.data(), ctx.data_end()));
    2
}

/// The same at XDP.
#[xdp]
pub fn floor_xdp_flow(ctx: XdpContext) -> u32 {
    made(&ctx, (ctx.data(), ctx.data_end()));
    XDP_PASS
}

#[inline(always)]
fn made<C: EbpfContext>(ctx: &C, (start, end): Bytes) {
    let Some(made) = MADE.get_ptr_mut(0) else { return };
    if start + 54 > end {
        return;
    }
    // SAFETY: one CPU measures; 54 bytes are there.
    unsafe {
        let number = (*made).count.wrapping_add(1);
        (*made).count = number;
        // Every number once; neighbours are far from each other.
        let flow = number.wrapping_mul(0x9e37_79b1).rotate_right(7) & (*made).flows;
        let to = if (*made).flows == u32::MAX { 1 + (number % FRONTENDS) as u16 } else { PORT };
        let from = 1024 + (flow & 0x3fff) as u16;
        let put = |at: usize, word: u32| *((start + at) as *mut u32) = word;
        let [one, two, three] = (*made).link;
        *(start as *mut u64) = u64::from(one) | u64::from(two) << 32;
        put(8, three);
        put(22, 64 | u32::from(TCP) << 8);
        // At once, as they are read: what was written in parts is not at hand for that.
        let addresses =
            u64::from((0x0a00_0000 | flow >> 14).to_be()) | u64::from(0x0a60_0001_u32.to_be()) << 32;
        *((start + 26) as *mut u64) = addresses;
        put(34, u32::from(from.to_be()) | u32::from(to.to_be()) << 16);
        // Wrong, but no sum that a device is to complete.
        *((start + 50) as *mut u16) = 0x5a5a;
        // It does not come back unless there is no program.
        let _ = NEXT.tail_call(ctx, 0);
    }
}

/// Parses and changes the source port.
#[inline(always)]
fn least(bytes: Bytes) -> Option<()> {
    let headers = parse(bytes)?;
    let next = u16::from_be(headers.key.source_port).wrapping_add(1).to_be();
    rewrite(&headers, next, headers.key.destination_port);
    Some(())
}

/// [`least`].
#[classifier]
pub fn floor_tc_parse(ctx: TcContext) -> i32 {
    least((ctx.data(), ctx.data_end())).map_or(2, |()| -1)
}

/// The same at XDP.
#[xdp]
pub fn floor_xdp_parse(ctx: XdpContext) -> u32 {
    least((ctx.data(), ctx.data_end())).map_or(XDP_PASS, |()| XDP_TX)
}

/// As Katran does it. A new flow's destination port goes up by one, as the benchmark's backends have it.
#[classifier]
pub fn floor_tc_lru(ctx: TcContext) -> i32 {
    balance((ctx.data(), ctx.data_end())).map_or(2, |()| -1)
}

/// The same at XDP.
#[xdp]
pub fn floor_xdp_lru(ctx: XdpContext) -> u32 {
    balance((ctx.data(), ctx.data_end())).map_or(XDP_PASS, |()| XDP_TX)
}

#[inline(always)]
fn balance(bytes: Bytes) -> Option<()> {
    let headers = parse(bytes)?;
    // SAFETY: asks for nothing.
    let now = unsafe { bpf_ktime_get_ns() };
    let known = match FLOWS.get_ptr_mut(&headers.key) {
        // SAFETY: an entry of this map stays memory of this map while the program runs.
        Some(known) => unsafe {
            (*known).seen = now;
            *known
        },
        None => {
            let key = &headers.key;
            let front =
                ServiceKey { address: key.destination, port: key.destination_port, protocol: TCP, pad: 0 };
            // SAFETY: entries are not written to while the benchmark runs.
            let front = unsafe { FRONTS.get(front) }?;
            let mixed = u32::from_ne_bytes(key.source)
                .wrapping_mul(0x9e37_79b1)
                .wrapping_add(u32::from(key.source_port).wrapping_mul(0x85eb_ca6b));
            let backend = *BACKENDS.get((mixed ^ mixed >> 15).wrapping_add(*front) % RING)?;
            let destination_port = u16::from_be(key.destination_port).wrapping_add(1).to_be();
            let known = Known { source_port: key.source_port, destination_port, backend, seen: now };
            FLOWS.insert(key, known, 0).ok()?;
            known
        }
    };
    for number in [0, 1 + known.backend % 256] {
        let counts = COUNTS.get_ptr_mut(number)?;
        // SAFETY: the entry of this CPU.
        unsafe {
            (*counts).packets += 1;
            (*counts).bytes += headers.len;
        }
    }
    rewrite(&headers, known.source_port, known.destination_port);
    Some(())
}
