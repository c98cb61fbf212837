//! The hosts of one test, and what is told of them when it fails.

use super::{capture::Capture, host::Host};
use std::{io, thread};

/// Lines told of one look at one host; a ruleset of thousands of services is not read to its end.
const LINES: usize = 300;

/// Lines with this in them are the same everywhere: routes to own addresses, multicast groups.
const NOISE: [&str; 3] = [" table local ", "33:33:", "01:00:5e:"];

/// What is asked of every host when a test fails.
const LOOKS: [(&str, &[&str]); 8] = [
    ("ip", &["-brief", "address"]),
    ("ip", &["rule"]),
    ("ip", &["-4", "route", "show", "table", "all"]),
    ("ip", &["-6", "rule"]),
    ("ip", &["-6", "route", "show", "table", "all"]),
    ("ip", &["neighbour"]),
    ("bridge", &["fdb"]),
    ("nft", &["list", "ruleset"]),
];

/// The hosts of one test. They go with it, however it ends; when it fails, their state is printed first.
#[derive(Debug, Default)]
pub struct Hosts {
    hosts: Vec<Host>,
    captures: Vec<Capture>,
}

impl Hosts {
    /// One more host.
    ///
    /// # Errors
    /// As [`Host::new`].
    pub fn add(&mut self, name: &str) -> io::Result<Host> {
        let host = Host::new(name)?;
        self.hosts.push(host.clone());
        Ok(host)
    }

    /// Records the packets of `host` that match `filter` (pcap-filter(7)) from now on; the last of them are told when
    /// the test fails.
    ///
    /// # Errors
    /// When tcpdump is absent or refuses.
    pub fn capture(&mut self, host: &Host, filter: &str) -> io::Result<&Capture> {
        self.captures.push(Capture::start(host, filter)?);
        self.captures.last().ok_or_else(|| io::Error::other("no capture"))
    }

    /// What can be seen of all hosts now.
    #[must_use]
    pub fn describe(&self) -> String {
        let mut text = String::new();
        for host in &self.hosts {
            for (program, arguments) in LOOKS {
                let seen = match host.output(program, arguments) {
                    Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
                    Err(e) => format!("cannot run it: {e}\n"),
                };
                look(&mut text, host, &format!("{program} {}", arguments.join(" ")), seen.lines());
            }
            let flows = host.flows().unwrap_or_default();
            look(&mut text, host, "conntrack", flows.iter().map(String::as_str));
        }
        for capture in &self.captures {
            let lines = capture.lines();
            look(&mut text, capture.host(), "packets", lines.iter().map(String::as_str));
        }
        text
    }
}

fn look<'a>(text: &mut String, host: &Host, what: &str, lines: impl Iterator<Item = &'a str>) {
    let mut lines = lines.filter(|line| !NOISE.iter().any(|noise| line.contains(noise))).peekable();
    if lines.peek().is_none() {
        return;
    }
    *text += &format!("--- {}: {what}\n", host.name);
    for line in lines.by_ref().take(LINES) {
        *text += line;
        *text += "\n";
    }
    let more = lines.count();
    if more > 0 {
        *text += &format!("    and {more} lines more\n");
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.describe());
        }
    }
}
