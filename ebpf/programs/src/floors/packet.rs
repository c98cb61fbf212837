//! Packets: a program that parses one and changes a port, and one of the shape of Katran: every packet asks an LRU table,
//! the clock and per-CPU counters, a new one the frontends and a ring of backends (`katran/lib/bpf/balancer.bpf.c`).

use aya_ebpf::{
    helpers::{bpf_ktime_get_ns, generated::bpf_l4_csum_replace},
    macros::{classifier, map},
    maps::{Array, HashMap, LruHashMap, PerCpuArray, ProgramArray},
    programs::TcContext,
};
use mesh_ebpf_common::{FlowKey, ServiceKey, V4};

/// Places on the ring: a prime, as Katran has it.
const RING: u32 = 65_537;
const TCP: u8 = 6;
/// Ports that new flows dial, from 1 on.
const FRONTENDS: u32 = 1000;

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

#[map(name = "floor_flows")]
static FLOWS: LruHashMap<FlowKey<V4>, Known> = LruHashMap::with_max_entries(1, 0);
#[map(name = "floor_fronts")]
static FRONTS: HashMap<ServiceKey<V4>, u32> = HashMap::with_max_entries(1, 0);
#[map(name = "floor_ring")]
static BACKENDS: Array<u32> = Array::with_max_entries(RING, 0);
#[map(name = "floor_counts")]
static COUNTS: PerCpuArray<Counts> = PerCpuArray::with_max_entries(512, 0);

/// Where the headers are: Ethernet, IPv4 without options, TCP.
struct Headers {
    key: FlowKey<V4>,
    ports: *mut u32,
    len: u64,
}

#[inline(always)]
fn parse(ctx: &TcContext) -> Option<Headers> {
    let start = ctx.data();
    if start + 54 > ctx.data_end() {
        return None;
    }
    // SAFETY: 54 bytes are there; machines that run eBPF read at any address.
    let word = |at: usize| unsafe { *((start + at) as *const u32) };
    let half = |at: usize| unsafe { *((start + at) as *const u16) };
    if half(12) != 0x0800_u16.to_be() || word(14) as u8 != 0x45 || (word(22) >> 8) as u8 != TCP {
        return None;
    }
    let key = FlowKey {
        source: word(26).to_ne_bytes(),
        destination: word(30).to_ne_bytes(),
        source_port: half(34),
        destination_port: half(36),
        protocol: TCP,
        pad: [0; 3],
    };
    Some(Headers { key, ports: (start + 34) as *mut u32, len: u64::from(u16::from_be(half(16))) })
}

/// Writes the ports and corrects TCP's checksum.
#[inline(always)]
fn rewrite(ctx: &TcContext, headers: &Headers, source: u16, destination: u16) {
    let key = &headers.key;
    let old = u32::from(key.source_port) + u32::from(key.destination_port);
    let change = u64::from(!old) + u64::from(source) + u64::from(destination);
    let change = (change & 0xffff_ffff) + (change >> 32);
    // SAFETY: these bytes are there.
    unsafe {
        *headers.ports = u32::from(source) | u32::from(destination) << 16;
        bpf_l4_csum_replace(ctx.skb.skb, 50, 0, change, 0);
    }
}

/// How many packets [`floor_new`] made.
#[map(name = "floor_numbers")]
static NUMBERS: Array<u32> = Array::with_max_entries(1, 0);
/// The program that it measures.
#[map(name = "floor_next")]
static NEXT: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// Makes the packet at hand one of a client's end that has not been there before, to the next of [`FRONTENDS`] ports of
/// `10.96.0.1`, and goes on with another program.
#[classifier]
pub fn floor_new(ctx: TcContext) -> i32 {
    made(&ctx).unwrap_or(2)
}

#[inline(always)]
fn made(ctx: &TcContext) -> Option<i32> {
    let headers = parse(ctx)?;
    let count = NUMBERS.get_ptr_mut(0)?;
    // SAFETY: one CPU measures.
    let number = unsafe {
        *count += 1;
        *count
    };
    // Every number once; neighbours are far from each other.
    let end = number.wrapping_mul(0x9e37_79b1);
    let address = 0x0a02_0000 | end & 0xffff;
    let port = (1 + number % FRONTENDS) as u16;
    // SAFETY: the header is there, as `parse` has seen.
    unsafe {
        *headers.ports.wrapping_sub(2) = address.to_be();
        *headers.ports.wrapping_sub(1) = 0x0a60_0001_u32.to_be();
        *headers.ports = u32::from(((end >> 16) as u16).to_be()) | u32::from(port.to_be()) << 16;
    }
    // SAFETY: it does not come back unless there is no program.
    let _ = unsafe { NEXT.tail_call(ctx, 0) };
    None
}

/// Parses and changes the source port.
#[classifier]
pub fn floor_parse(ctx: TcContext) -> i32 {
    let Some(headers) = parse(&ctx) else { return 2 };
    let next = u16::from_be(headers.key.source_port).wrapping_add(1).to_be();
    rewrite(&ctx, &headers, next, headers.key.destination_port);
    -1
}

/// As Katran does it. A new flow's destination port goes up by one, as the benchmark's backends have it.
#[classifier]
pub fn floor_lru(ctx: TcContext) -> i32 {
    balance(&ctx).unwrap_or(2)
}

#[inline(always)]
fn balance(ctx: &TcContext) -> Option<i32> {
    let headers = parse(ctx)?;
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
    rewrite(ctx, &headers, known.source_port, known.destination_port);
    Some(-1)
}
