//! The time, as flows have it: asking for it costs next to nothing.

use aya_ebpf::helpers::generated::bpf_jiffies64;

/// Jiffies, low half.
#[inline(always)]
pub fn now() -> u32 {
    // SAFETY: asks for nothing.
    unsafe { bpf_jiffies64() as u32 }
}
