//! What is to be done with a packet: a number, so that functions of the kernel's kind can return it.

use mesh_ebpf_common::Drop;

/// `TCX_NEXT`: the next program, then the host.
pub const NEXT: i32 = -1;
/// `TCX_DROP`.
pub const SHOT: i32 = 2;

/// A kind in the lowest byte, the reason or the MTU above it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Act(u32);

/// Kinds of [`Act`].
pub mod act {
    /// It is none of ours: on its way untouched.
    pub const NEXT: u32 = 0;
    /// Rewritten, on to where the rewrite says.
    pub const SEND: u32 = 1;
    /// Away with it.
    pub const DROP: u32 = 2;
    /// Away with it, and its sender is told: reset, or port unreachable.
    pub const REFUSE: u32 = 3;
    /// It may begin a flow.
    pub const BEGIN: u32 = 4;
}

impl Act {
    pub const NEXT: Act = Act(act::NEXT);
    pub const SEND: Act = Act(act::SEND);
    pub const BEGIN: Act = Act(act::BEGIN);

    #[inline(always)]
    pub fn drop(reason: Drop) -> Act {
        Act(act::DROP | (reason as u32) << 8)
    }

    #[inline(always)]
    pub fn refuse(reason: Drop) -> Act {
        Act(act::REFUSE | (reason as u32) << 8)
    }

    /// As a function of the kernel's kind returned it.
    #[inline(always)]
    pub fn of(number: u32) -> Act {
        Act(number)
    }

    #[inline(always)]
    pub fn number(self) -> u32 {
        self.0
    }

    #[inline(always)]
    pub fn kind(self) -> u32 {
        self.0 & 0xff
    }

    /// The number of the [`Drop`].
    #[inline(always)]
    pub fn reason(self) -> u32 {
        self.0 >> 8
    }
}
