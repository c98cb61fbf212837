//! What /proc says of this process (proc(5)); parsing is apart from reading, and pure.

use std::fs;

/// The process in numbers; a number that cannot be read is absent.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(crate) struct Process {
    pub(crate) cpu_seconds: Option<f64>,
    pub(crate) start_time_seconds: Option<f64>,
    pub(crate) resident_bytes: Option<u64>,
    pub(crate) virtual_bytes: Option<u64>,
    pub(crate) threads: Option<u64>,
    pub(crate) open_fds: Option<u64>,
    pub(crate) max_fds: Option<u64>,
}

impl Process {
    /// Reads /proc/self. Costs a few dozen microseconds, and one directory entry per open descriptor.
    pub(crate) fn read() -> Process {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let boot = fs::read_to_string("/proc/stat").unwrap_or_default();
        let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
        // The listing holds one descriptor itself.
        let open = fs::read_dir("/proc/self/fd").ok().map(|d| (d.count() as u64).saturating_sub(1));
        let mut process = parse(&stat, &boot, &limits);
        process.open_fds = open;
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        process.resident_bytes = kilobytes(&status, "VmRSS:");
        process
    }
}

/// Clock ticks a second in /proc: the kernel's USER_HZ, 100 on every architecture that Rust supports.
const TICKS: f64 = 100.0;

#[expect(clippy::cast_precision_loss, reason = "ticks of centuries fit into 53 bits")]
fn parse(stat: &str, boot: &str, limits: &str) -> Process {
    // The second field is the program's name in parentheses, and may hold blanks and parentheses itself.
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    // Numbered as in proc(5), where the first field after the name is 3.
    let field = |number: usize| rest.split_whitespace().nth(number - 3)?.parse::<u64>().ok();
    let seconds = |ticks: u64| ticks as f64 / TICKS;
    let boot_time = boot.lines().find_map(|l| l.strip_prefix("btime ")?.trim().parse::<f64>().ok());
    let max = limits.lines().find_map(|l| l.strip_prefix("Max open files")?.split_whitespace().next());
    Process {
        cpu_seconds: field(14).zip(field(15)).map(|(user, system)| seconds(user + system)),
        start_time_seconds: boot_time.zip(field(22)).map(|(boot, ticks)| boot + seconds(ticks)),
        resident_bytes: None,
        virtual_bytes: field(23),
        threads: field(20),
        open_fds: None,
        max_fds: max.and_then(|m| m.parse().ok()),
    }
}

fn kilobytes(status: &str, key: &str) -> Option<u64> {
    let line = status.lines().find_map(|l| l.strip_prefix(key))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kb| kb * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_is_parsed_as_proc5_says() {
        let stat = "7 (a (b) c) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 4 0 1000 8192 3 0\n";
        let limits = "Limit  Soft\nMax open files            1024                 4096 files\n";
        let p = parse(stat, "cpu 1\nbtime 1700000000\n", limits);
        assert_eq!(p.cpu_seconds, Some(2.0));
        assert_eq!(p.start_time_seconds, Some(1_700_000_010.0));
        assert_eq!((p.threads, p.virtual_bytes, p.max_fds), (Some(4), Some(8192), Some(1024)));
        assert_eq!(kilobytes("VmRSS:\t  12 kB\n", "VmRSS:"), Some(12288));
        assert_eq!(parse("", "", ""), Process::default());
    }

    #[test]
    fn this_process_is_found() {
        let p = Process::read();
        assert!(p.resident_bytes.unwrap() > 1 << 16 && p.open_fds.unwrap() > 0 && p.cpu_seconds.is_some());
    }
}
