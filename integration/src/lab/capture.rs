//! The packets of a host, as tcpdump(8) prints them.

use super::{host::Host, process::Process};
use std::{
    collections::VecDeque,
    io::{self, BufRead, BufReader},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

/// Packets kept; older ones are forgotten.
const KEPT: usize = 1000;
/// Bytes taken of each packet. In immediate mode each has that much of the buffer, however short it is: with 256 KiB,
/// tcpdump's own choice, the buffer was full after 16 packets and the kernel dropped the next while tcpdump waited for a
/// processor.
const HEAD: &str = "512";
/// KiB of that buffer: 3,500 packets fit.
const ROOM: &str = "4096";

/// A recording that goes on until it is dropped.
#[derive(Debug)]
pub struct Capture {
    host: Host,
    _process: Process,
    lines: Arc<Mutex<VecDeque<String>>>,
}

impl Capture {
    /// Records the packets on all links of `host` that match `filter`; it listens when this returns.
    ///
    /// # Errors
    /// When tcpdump is absent or refuses, with its own words.
    pub fn start(host: &Host, filter: &str) -> io::Result<Capture> {
        let arguments = ["-i", "any", "-nn", "-l", "--immediate-mode", "-s", HEAD, "-B", ROOM, filter];
        let mut process = Process::start(host, "tcpdump", &arguments)?;
        let (out, err) = process.output().ok_or(io::ErrorKind::BrokenPipe)?;
        let lines = Arc::<Mutex<VecDeque<String>>>::default();
        let capture = Capture { host: host.clone(), _process: process, lines: Arc::clone(&lines) };
        let mut said = BufReader::new(err);
        let mut words = String::new();
        while !words.contains("listening on") {
            if said.read_line(&mut words)? == 0 {
                return Err(io::Error::other(format!("tcpdump {filter}: {words}")));
            }
        }
        // Both end with the process, which ends with the capture.
        thread::spawn(move || io::copy(&mut said, &mut io::sink()));
        thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
                if lines.len() == KEPT {
                    lines.pop_front();
                }
                lines.push_back(line);
            }
        });
        Ok(capture)
    }

    /// Whose packets these are.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The last packets, a line each, the oldest first.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}
