//! Which cores a thread runs on, so that who measures does not take from who is measured.

use nix::{
    libc,
    sched::{CpuSet, sched_setaffinity},
    unistd::{Pid, SysconfVar, sysconf},
};
use std::{
    ops::Range,
    path::Path,
    process::{Command, Stdio},
};

/// Cores of the machine. Not those that this thread may use: one that keeps off the first would take that for the only
/// one.
pub(crate) fn count() -> usize {
    let online = sysconf(SysconfVar::_NPROCESSORS_ONLN);
    online.ok().flatten().and_then(|cores| usize::try_from(cores).ok()).unwrap_or(1)
}

/// Keeps the calling thread, and what it starts, on these cores.
pub(crate) fn keep_to(cores: Range<usize>) -> nix::Result<()> {
    let mut set = CpuSet::new();
    cores.into_iter().try_for_each(|core| set.set(core))?;
    sched_setaffinity(Pid::from_raw(0), &set)
}

/// Keeps the calling thread off the first core, which is that of who is measured, where there are more.
pub(crate) fn leave_the_first() {
    if count() > 1 && keep_to(1..count()).is_err() {
        eprintln!("the load could not be kept off the first core");
    }
}

/// Lets the calling thread go before all that is not real-time, if that may be.
pub(crate) fn go_first() {
    let first = libc::sched_param { sched_priority: 1 };
    // SAFETY: of the calling thread, with parameters that outlive the call. It is no worse where it is refused.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const first) };
}

/// A command on the first core only, where `taskset` is there and there are two; it reads nothing.
pub(crate) fn pinned(program: &str) -> Command {
    let taskset = "/usr/bin/taskset";
    let mut command = if count() > 1 && Path::new(taskset).exists() {
        let mut command = Command::new(taskset);
        command.args(["-c", "0", program]);
        command
    } else {
        Command::new(program)
    };
    command.stdin(Stdio::null());
    command
}
