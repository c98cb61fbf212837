//! Groups of processes.

use rustix::process::{Pid, Signal, kill_process_group};

/// Kills every process of the group that `leader` leads; one that is gone is no error.
pub fn kill_group(leader: u32) {
    if let Some(pid) = i32::try_from(leader).ok().and_then(Pid::from_raw) {
        // ESRCH says that nothing is left, EPERM that only processes of others are; neither can be helped.
        let _gone = kill_process_group(pid, Signal::KILL);
    }
}
