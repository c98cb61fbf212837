//! One run of a guest in QEMU, without hardware support: the processor is emulated (TCG).

use crate::{
    packages::{Image, Tools},
    watch::Watch,
};
use anyhow::{Context, Result};
use std::{
    io::{self, Read},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel},
    thread,
    time::{Duration, Instant},
};

/// From power-on until the first group starts, and what a group has beyond its limit until the guest is taken to hang.
const GRACE: Duration = Duration::from_secs(60);
/// A kernel that has an oops is no kernel to test on: it panics, and a panic ends QEMU. What is measured against real
/// time goes wrong where this machine is busy: the check of the timer interrupt ends in a panic, and the processor's own
/// clock runs fast.
const COMMAND_LINE: &str = "console=ttyS0 quiet loglevel=4 reboot=t panic=-1 oops=panic mitigations=off nokaslr \
                            no_timer_check clocksource=hpet tsc=unstable";
/// What follows of a longer line is a line of its own.
const LONGEST_LINE: usize = 16 * 1024;

/// A process that does not outlive its watcher.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        if self.0.kill().is_ok() {
            drop(self.0.wait());
        }
    }
}

/// What to start.
fn qemu(tools: &Tools, image: &Image, (initrd, memory): (&Path, u32)) -> Command {
    let share = |folder: &str| tools.root.join("usr/share").join(folder);
    let program = tools.command("usr/bin/qemu-system-x86_64");
    // However this process ends, QEMU ends with it.
    let mut qemu = Command::new("setpriv");
    qemu.args(["--pdeathsig", "KILL"]).arg(program.get_program()).args(program.get_args());
    qemu.env("QEMU_MODULE_DIR", tools.root.join("usr/lib/x86_64-linux-gnu/qemu"));
    qemu.arg("-L").arg(share("qemu")).arg("-L").arg(share("seabios"));
    qemu.args(["-M", "q35", "-accel", "tcg", "-cpu", "max", "-smp", "1", "-m", &memory.to_string()]);
    qemu.arg("-kernel").arg(&image.kernel).arg("-initrd").arg(initrd);
    qemu.args(["-append", COMMAND_LINE]);
    qemu.args(["-display", "none", "-nodefaults", "-no-user-config", "-no-reboot", "-serial", "stdio"]);
    qemu
}

/// Boots with so many MiB of memory, shows every line that is worth it and waits for the end. `limit` says how long a group may take.
///
/// # Errors
/// When QEMU cannot be run, or the guest panics, hangs or goes away; what was heard until then is in `watch`.
pub(crate) fn boot(
    (tools, image, initrd, memory): (&Tools, &Image, &Path, u32),
    watch: &mut Watch,
    limit: impl Fn(&str) -> Duration,
    show: impl Fn(&str, Duration),
) -> Result<()> {
    let mut command = qemu(tools, image, (initrd, memory));
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut qemu = Killed(child.context("cannot start QEMU")?);
    let (sender, lines) = sync_channel(1024);
    let outputs: [Option<Box<dyn Read + Send>>; 2] =
        [qemu.0.stdout.take().map(|o| Box::new(o) as _), qemu.0.stderr.take().map(|o| Box::new(o) as _)];
    for output in outputs.into_iter().flatten() {
        let sender = sender.clone();
        thread::spawn(move || read_lines(output, &sender));
    }
    drop(sender);
    let (start, mut until) = (Instant::now(), Instant::now() + GRACE);
    let why = loop {
        match lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                let (before, now) = (watch.reports.len(), start.elapsed());
                if watch.hear(&line, now) {
                    show(&line, now);
                }
                if watch.reports.len() > before {
                    until = Instant::now() + limit(watch.running()) + GRACE;
                }
            }
            Err(RecvTimeoutError::Timeout) => break "the guest hangs".to_owned(),
            Err(RecvTimeoutError::Disconnected) if watch.done => return Ok(()),
            Err(RecvTimeoutError::Disconnected) => {
                let panic = watch.panic.as_ref().map(|p| format!("the guest's kernel panicked: {p}"));
                break panic.unwrap_or_else(|| "the guest went away".to_owned());
            }
        }
    };
    anyhow::bail!("{why}; it was at: {}; last lines:\n{}", watch.running(), watch.tail())
}

/// Sends line by line until the output or the listener ends.
fn read_lines(mut output: impl Read, to: &SyncSender<String>) {
    let (mut buffer, mut line) = ([0; 4096], Vec::new());
    let send = |line: &mut Vec<u8>| {
        let text = String::from_utf8_lossy(line).trim_end_matches('\r').to_owned();
        line.clear();
        to.send(text).is_ok()
    };
    loop {
        let read = match output.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        for byte in &buffer[..read] {
            if *byte != b'\n' {
                line.push(*byte);
            }
            if (*byte == b'\n' || line.len() == LONGEST_LINE) && !send(&mut line) {
                return;
            }
        }
    }
    if !line.is_empty() {
        send(&mut line);
    }
}

#[cfg(test)]
mod tests {
    use super::{LONGEST_LINE, read_lines};
    use std::sync::mpsc::sync_channel;

    #[test]
    fn lines_are_cut_where_they_end_and_where_they_are_too_long() {
        let long = "x".repeat(LONGEST_LINE + 1);
        let (sender, lines) = sync_channel(16);
        read_lines(format!("one\r\n\r\n{long}\nlast").as_bytes(), &sender);
        drop(sender);
        let lengths: Vec<usize> = lines.iter().map(|l| l.len()).collect();
        assert_eq!(lengths, [3, 0, LONGEST_LINE, 1, 4]);
    }
}
