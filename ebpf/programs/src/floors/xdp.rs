//! Frames: a program that makes datagrams of many flows, one that sends back what comes, and one that counts.

use aya_ebpf::{
    bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_TX},
    macros::{map, xdp},
    maps::{Array, PerCpuArray},
    programs::XdpContext,
};

/// Bytes of a frame: Ethernet, IPv4, UDP and 22 bytes of data.
const LEN: usize = 64;
/// Flows: as many source ports, from the first.
const FLOWS: u64 = 1000;
const FIRST: u64 = 20_000;

#[map(name = "floor_frame")]
static FRAME: Array<[u64; LEN / 8]> = Array::with_max_entries(1, 0);
#[map(name = "floor_made")]
static MADE: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);
#[map(name = "floor_came")]
static CAME: PerCpuArray<u64> = PerCpuArray::with_max_entries(2, 0);

/// The frame's bytes, if it has as many.
#[inline(always)]
fn frame(ctx: &XdpContext) -> Option<*mut u8> {
    (ctx.data() + LEN <= ctx.data_end()).then_some(ctx.data() as *mut u8)
}

/// Writes the datagram of the next flow. The first word of its data balances the port, so that one checksum fits all.
#[xdp]
pub fn floor_make(ctx: XdpContext) -> u32 {
    let (Some(frame), Some(pattern), Some(made)) = (frame(&ctx), FRAME.get(0), MADE.get_ptr_mut(0)) else {
        return XDP_ABORTED;
    };
    // SAFETY: the bytes are there, the counter is this CPU's; machines that run eBPF write at any address.
    unsafe {
        for number in 0..LEN / 8 {
            *frame.cast::<u64>().add(number) = pattern[number];
        }
        let port = ((FIRST + *made % FLOWS) as u16).to_be();
        *made += 1;
        *frame.add(34).cast::<u16>() = port;
        *frame.add(42).cast::<u16>() = !port;
    }
    XDP_TX
}

/// Sends a frame back to where it came from.
#[xdp]
pub fn floor_reflect(ctx: XdpContext) -> u32 {
    let Some(frame) = frame(&ctx) else { return XDP_ABORTED };
    let words = frame.cast::<u16>();
    // SAFETY: the bytes are there.
    unsafe {
        for number in 0..3 {
            core::ptr::swap(words.add(number), words.add(number + 3));
        }
    }
    XDP_TX
}

/// Counts datagrams for port 8080, and those for port 80, and drops all.
#[xdp]
pub fn floor_count(ctx: XdpContext) -> u32 {
    let Some(frame) = frame(&ctx) else { return XDP_ABORTED };
    // SAFETY: the bytes are there.
    let (kind, port) = unsafe { (*frame.add(23), *frame.add(36).cast::<u16>()) };
    let translated = port == 8080_u16.to_be();
    if kind == 17
        && (translated || port == 80_u16.to_be())
        && let Some(came) = CAME.get_ptr_mut(u32::from(!translated))
    {
        // SAFETY: the entry of this CPU.
        unsafe { *came += 1 };
    }
    XDP_DROP
}
