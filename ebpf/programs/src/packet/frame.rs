//! A packet's bytes, in the reach of the program.

use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_skb_pull_data};
use core::{arch::asm, mem::offset_of};

/// Bytes that [`Frame::pull`] makes readable: IPv6 with a few extension headers.
const HEADERS: u32 = 512;
/// What most packets need of it: Ethernet, 60 bytes of IPv4 and 20 of TCP.
const USUAL: usize = 94;
/// How far headers are looked for, as a mask: the verifier wants to know. Farther than any extension headers reach.
const FARTHEST: usize = 0x3fff;
/// Ethernet's header.
pub const ETHERNET: usize = 14;

/// Where a packet's bytes are.
pub trait Frame: Copy {
    /// Its first byte.
    fn start(self) -> usize;
    /// Behind the last byte that can be read.
    fn end(self) -> usize;
    /// All bytes, readable or not.
    fn len(self) -> u32;
    /// Makes the headers readable. Pointers from [`Frame::at`] are void after it.
    fn pull(self);
    /// The device it came by, or leaves by.
    fn device(self) -> u32;

    /// A part of the packet, when it is there.
    #[inline(always)]
    fn at<T>(self, offset: usize) -> Option<*mut T> {
        let start = self.start() + (offset & FARTHEST);
        (start + size_of::<T>() <= self.end()).then_some(start as *mut T)
    }

    /// Makes the headers readable, unless they are.
    #[inline(always)]
    fn headers(self) {
        let readable = self.end() - self.start();
        if readable < USUAL && (readable as u32) < self.len() {
            self.pull();
        }
    }
}

/// A field of a context that is declared as 32 bits and becomes a pointer when it is loaded. The compiler would copy it
/// with an instruction of 32 bits, after which it is none.
#[inline(always)]
fn pointer<const OFFSET: usize>(context: *mut __sk_buff) -> usize {
    let pointer;
    // SAFETY: the context is the kernel's and has this field.
    unsafe {
        asm!("{0} = *(u32 *)({1} + {2})", out(reg) pointer, in(reg) context, const OFFSET,
            options(pure, readonly, nostack, preserves_flags));
    }
    pointer
}

/// A socket buffer: what programs at tcx get.
#[derive(Clone, Copy)]
pub struct Skb(pub *mut __sk_buff);

impl Skb {
    /// The context.
    #[inline(always)]
    pub fn get<'a>(self) -> &'a __sk_buff {
        // SAFETY: the kernel gives a context that lives as long as the program runs; the verifier checks what is read.
        unsafe { &*self.0 }
    }

    /// Marks the packet.
    #[inline(always)]
    pub fn mark(self, mark: u32) {
        // SAFETY: as in `get`; this field may be written.
        unsafe { (*self.0).mark = mark };
    }
}

impl Frame for Skb {
    #[inline(always)]
    fn start(self) -> usize {
        pointer::<{ offset_of!(__sk_buff, data) }>(self.0)
    }

    #[inline(always)]
    fn end(self) -> usize {
        pointer::<{ offset_of!(__sk_buff, data_end) }>(self.0)
    }

    #[inline(always)]
    fn len(self) -> u32 {
        self.get().len
    }

    #[inline(always)]
    fn pull(self) {
        // SAFETY: the context is the kernel's. What fails leaves the packet as it is, with less to read.
        unsafe { bpf_skb_pull_data(self.0, self.len().min(HEADERS)) };
    }

    #[inline(always)]
    fn device(self) -> u32 {
        self.get().ifindex
    }
}
