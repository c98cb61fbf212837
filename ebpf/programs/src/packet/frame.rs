//! A packet's bytes, in the reach of the program.

use aya_ebpf::{
    bindings::{__sk_buff, xdp_md},
    helpers::generated::bpf_skb_pull_data,
};
use core::{arch::asm, ffi::c_void, mem::offset_of};

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
    /// The context, as helpers take it that all kinds of programs have.
    fn context(self) -> *mut c_void;

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
fn pointer<T, const OFFSET: usize>(context: *mut T) -> usize {
    let pointer;
    // SAFETY: the context is the kernel's and has this field.
    unsafe {
        asm!("{0} = *(u32 *)({1} + {2})", out(reg) pointer, in(reg) context, const OFFSET,
            options(pure, readonly, nostack, preserves_flags));
    }
    pointer
}

/// A socket buffer: what programs at tc get.
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
        pointer::<_, { offset_of!(__sk_buff, data) }>(self.0)
    }

    #[inline(always)]
    fn end(self) -> usize {
        pointer::<_, { offset_of!(__sk_buff, data_end) }>(self.0)
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
    #[inline(always)]
    fn context(self) -> *mut c_void {
        self.0.cast()
    }
}

/// A frame in the memory of its device: what programs at XDP get. All of it can be read.
#[derive(Clone, Copy)]
pub struct Xdp(pub *mut xdp_md);

impl Frame for Xdp {
    #[inline(always)]
    fn start(self) -> usize {
        pointer::<_, { offset_of!(xdp_md, data) }>(self.0)
    }

    #[inline(always)]
    fn end(self) -> usize {
        pointer::<_, { offset_of!(xdp_md, data_end) }>(self.0)
    }

    #[inline(always)]
    fn len(self) -> u32 {
        (self.end() - self.start()) as u32
    }

    #[inline(always)]
    fn pull(self) {}

    #[inline(always)]
    fn device(self) -> u32 {
        // SAFETY: the kernel gives a context that lives as long as the program runs.
        unsafe { (*self.0).ingress_ifindex }
    }

    #[inline(always)]
    fn context(self) -> *mut c_void {
        self.0.cast()
    }
}

/// The same number, of which the compiler knows nothing.
#[inline(always)]
pub fn opaque(mut number: u32) -> u32 {
    // SAFETY: it stays where it is. Without any instruction the kernel does not take the lines of the source.
    unsafe { asm!("{0} = {0}", inout(reg) number, options(pure, nomem, nostack, preserves_flags)) };
    number
}
