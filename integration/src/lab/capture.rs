//! The packets of a host, as tcpdump(8) prints them.

use super::host::Host;
use std::{
    collections::VecDeque,
    io::{self, BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

/// Packets kept; older ones are forgotten.
const KEPT: usize = 1000;

/// A recording that goes on until it is dropped.
#[derive(Debug)]
pub struct Capture {
    host: Host,
    child: Child,
    lines: Arc<Mutex<VecDeque<String>>>,
}

impl Capture {
    /// Records the packets on all links of `host` that match `filter`; it listens when this returns.
    ///
    /// # Errors
    /// When tcpdump is absent or refuses, with its own words.
    pub fn start(host: &Host, filter: &str) -> io::Result<Capture> {
        let mut child = host
            .inside(|| {
                Command::new("tcpdump")
                    .args(["-i", "any", "-nn", "-l", "--immediate-mode", filter])
                    .stdin(Stdio::null())
                    .stdout(Stdio::piped())
                    .stderr(Stdio::piped())
                    .spawn()
            })
            .flatten()
            .map_err(|e| io::Error::new(e.kind(), format!("tcpdump: {e}")))?;
        let lines = Arc::<Mutex<VecDeque<String>>>::default();
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let capture = Capture { host: host.clone(), child, lines: Arc::clone(&lines) };
        let (Some(out), Some(err)) = (out, err) else { return Err(io::ErrorKind::BrokenPipe.into()) };
        let mut said = BufReader::new(err);
        let mut words = String::new();
        while !words.contains("listening on") {
            if said.read_line(&mut words)? == 0 {
                return Err(io::Error::other(format!("tcpdump {filter}: {words}")));
            }
        }
        // Both end with the child, which ends with the capture.
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

impl Drop for Capture {
    fn drop(&mut self) {
        if self.child.kill().is_ok() {
            drop(self.child.wait());
        }
    }
}
