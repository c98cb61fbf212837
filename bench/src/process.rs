//! What a process uses, out of `/proc`.

use anyhow::Context as _;
use std::{fs, time::Duration};

/// A size out of `/proc/PID/status`, as `VmRSS` or `VmHWM`, in bytes.
pub(crate) fn memory(process: u32, field: &str) -> anyhow::Result<u64> {
    let text = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = text.lines().find_map(|l| l.strip_prefix(field)?.strip_prefix(':'));
    let size = line.and_then(|l| l.trim().strip_suffix(" kB")).with_context(|| format!("no {field}"))?;
    Ok(size.trim().parse::<u64>()? * 1024)
}

/// Processor time of all its threads so far (`/proc/PID/task/*/schedstat`, first field, nanoseconds).
pub(crate) fn processor_time(process: u32) -> anyhow::Result<Duration> {
    let mut total = 0;
    for task in fs::read_dir(format!("/proc/{process}/task"))? {
        let text = fs::read_to_string(task?.path().join("schedstat"))?;
        total += text.split(' ').next().unwrap_or("0").parse::<u64>()?;
    }
    Ok(Duration::from_nanos(total))
}
