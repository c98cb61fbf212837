//! The functions that the verifier looks at by themselves, one of each for either family.

use super::{
    act::Act,
    answer, begin, cache, flow,
    frame::Skb,
    guest, icmp, table,
    work::{Steps, WORK4, WORK6, Work},
};
use aya_ebpf::{bindings::__sk_buff, maps::PerCpuArray};
use mesh_ebpf_common::{Flow, FlowKey, V4, V6};

macro_rules! steps {
    ($family:ty, $area:ident, $find:ident, $yields:ident, $rooms:ident, $add:ident, $both:ident, $resolve:ident, $beside:ident, $choice:ident, $open:ident, $enroll:ident, $complete:ident, $welcome:ident, $concern:ident, $error:ident, $reset:ident) => {
        impl Steps for $family {
            #[inline(always)]
            fn area() -> &'static PerCpuArray<Work<$family>> {
                &$area
            }
            #[inline(always)]
            fn locate(key: &FlowKey<$family>, ends: u32) -> u32 {
                $find(key, ends)
            }
            #[inline(always)]
            fn yields(first: u32, kept: u32) -> u32 {
                $yields(first, kept)
            }
            #[inline(always)]
            fn add(key: &FlowKey<$family>, flow: &Flow<$family>, kept: u32) -> u32 {
                $add(key, flow, kept)
            }
            #[inline(always)]
            fn rooms(first: u32, tag: u32, other: u32) -> u32 {
                $rooms(first, tag, other)
            }
            #[inline(always)]
            fn add_both() -> bool {
                $both() != 0
            }
            #[inline(always)]
            fn resolve(skb: Skb, line: u32) -> Act {
                Act::of($resolve(skb.0, line))
            }
            #[inline(always)]
            fn beside(line: u32) -> u32 {
                $beside(line)
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
            fn enroll(line: u32, done: bool) -> Act {
                Act::of($enroll(line, done.into()))
            }
            #[inline(always)]
            fn complete() {
                $complete();
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
        extern "C" fn $find(key: *const FlowKey<$family>, ends: u32) -> u32 {
            table::search::<$family>(key, ends)
        }
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $yields(first: u32, kept: u32) -> u32 {
            table::yields::<$family>(first, kept)
        }
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $add(key: *const FlowKey<$family>, flow: *const Flow<$family>, kept: u32) -> u32 {
            table::add::<$family>(key, flow, kept)
        }
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $rooms(first: u32, tag: u32, other: u32) -> u32 {
            table::rooms::<$family>(first, tag, other)
        }
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $both() -> u32 {
            table::add_both::<$family>().into()
        }
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $resolve(skb: *mut __sk_buff, line: u32) -> u32 {
            flow::resolve::<$family, Skb>(Skb(skb), line).number()
        }
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $beside(line: u32) -> u32 {
            cache::beside::<$family>(line)
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
        extern "C" fn $enroll(line: u32, done: u32) -> u32 {
            begin::enroll::<$family>(line, done != 0).number()
        }
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $complete() -> u32 {
            flow::complete::<$family>();
            0
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
    mesh_find4,
    mesh_yields4,
    mesh_rooms4,
    mesh_add4,
    mesh_both4,
    mesh_resolve4,
    mesh_beside4,
    mesh_choice4,
    mesh_open4,
    mesh_enroll4,
    mesh_complete4,
    mesh_welcome4,
    mesh_concern4,
    mesh_error4,
    mesh_reset4
);
steps!(
    V6,
    WORK6,
    mesh_find6,
    mesh_yields6,
    mesh_rooms6,
    mesh_add6,
    mesh_both6,
    mesh_resolve6,
    mesh_beside6,
    mesh_choice6,
    mesh_open6,
    mesh_enroll6,
    mesh_complete6,
    mesh_welcome6,
    mesh_concern6,
    mesh_error6,
    mesh_reset6
);
