//! The packet at hand, for functions that the verifier looks at by themselves, once: those have numbers and the context
//! as arguments. Inlined they would multiply each other's paths, and together they need more than the 512 bytes of stack.

use super::{act::Act, answer, begin, flow, frame::Skb, guest, icmp, ip::Ip, parse::Packet};
use aya_ebpf::{bindings::__sk_buff, macros::map, maps::PerCpuArray};
use mesh_ebpf_common::{Service, V4, V6};

/// What is being worked at on this CPU.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Work<A> {
    /// The packet.
    pub packet: Packet<A>,
    /// The frontend it dials.
    pub service: Service,
    /// Index into `backends` of what was chosen.
    pub backend: u32,
    /// Always 0.
    pub pad: u32,
}

/// IPv4's.
#[map(name = "work4")]
pub static WORK4: PerCpuArray<Work<V4>> = PerCpuArray::with_max_entries(1, 0);
/// IPv6's.
#[map(name = "work6")]
pub static WORK6: PerCpuArray<Work<V6>> = PerCpuArray::with_max_entries(1, 0);

/// The packet at hand.
#[inline(always)]
pub fn work<A: Steps>() -> Option<&'static mut Work<A>> {
    // SAFETY: the entry of this CPU, which runs one program of this kind at a time.
    A::area().get_ptr_mut(0).map(|work| unsafe { &mut *work })
}

/// The functions of a family.
pub trait Steps: Ip {
    /// Where its packet is.
    fn area() -> &'static PerCpuArray<Work<Self>>;
    /// [`flow::resolve`].
    fn resolve(skb: Skb, line: u32) -> Act;
    /// [`begin::choice`].
    fn choice() -> Act;
    /// [`begin::open`].
    fn open(skb: Skb, line: u32) -> Act;
    /// [`guest::welcome`].
    fn welcome(skb: Skb);
    /// [`icmp::translate`].
    fn concern(skb: Skb, line: u32) -> Act;
    /// [`answer::error`].
    fn error(skb: Skb, error: u32, mtu: u32) -> i32;
    /// [`answer::reset`].
    fn reset(skb: Skb) -> i32;
}

macro_rules! steps {
    ($family:ty, $area:ident, $resolve:ident, $choice:ident, $open:ident, $welcome:ident, $concern:ident, $error:ident, $reset:ident) => {
        impl Steps for $family {
            #[inline(always)]
            fn area() -> &'static PerCpuArray<Work<$family>> {
                &$area
            }
            #[inline(always)]
            fn resolve(skb: Skb, line: u32) -> Act {
                Act::of($resolve(skb.0, line))
            }
            #[inline(always)]
            fn choice() -> Act {
                Act::of($choice())
            }
            #[inline(always)]
            fn open(skb: Skb, line: u32) -> Act {
                Act::of($open(skb.0, line))
            }
            #[inline(always)]
            fn welcome(skb: Skb) {
                $welcome(skb.0);
            }
            #[inline(always)]
            fn concern(skb: Skb, line: u32) -> Act {
                Act::of($concern(skb.0, line))
            }
            #[inline(always)]
            fn error(skb: Skb, error: u32, mtu: u32) -> i32 {
                $error(skb.0, error, mtu)
            }
            #[inline(always)]
            fn reset(skb: Skb) -> i32 {
                $reset(skb.0)
            }
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $resolve(skb: *mut __sk_buff, line: u32) -> u32 {
            flow::resolve::<$family>(Skb(skb), line).number()
        }
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $choice() -> u32 {
            begin::choice::<$family>().number()
        }
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $open(skb: *mut __sk_buff, line: u32) -> u32 {
            begin::open::<$family>(Skb(skb), line).number()
        }
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $welcome(skb: *mut __sk_buff) -> u32 {
            guest::welcome::<$family>(Skb(skb));
            0
        }
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $concern(skb: *mut __sk_buff, line: u32) -> u32 {
            icmp::translate::<$family>(Skb(skb), line).number()
        }
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $error(skb: *mut __sk_buff, error: u32, mtu: u32) -> i32 {
            answer::error::<$family>(Skb(skb), error, mtu)
        }
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $reset(skb: *mut __sk_buff) -> i32 {
            answer::reset::<$family>(Skb(skb))
        }
    };
}

steps!(
    V4,
    WORK4,
    mesh_resolve4,
    mesh_choice4,
    mesh_open4,
    mesh_welcome4,
    mesh_concern4,
    mesh_error4,
    mesh_reset4
);
steps!(
    V6,
    WORK6,
    mesh_resolve6,
    mesh_choice6,
    mesh_open6,
    mesh_welcome6,
    mesh_concern6,
    mesh_error6,
    mesh_reset6
);
