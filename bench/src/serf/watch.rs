//! What agents' logs say about other nodes.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
};

/// Whose agent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// mesh-agent.
    Ours,
    /// Debian's serf.
    Serf,
}

impl Kind {
    /// As the tables show it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Ours => "mesh-agent",
            Kind::Serf => "serf",
        }
    }
}

/// The name of a node.
pub(super) fn node_name(number: usize) -> String {
    format!("node-{number}")
}

fn node_number(name: &str) -> Option<usize> {
    name.strip_prefix("node-")?.parse().ok()
}

/// A log that is read as it grows.
#[derive(Debug)]
pub(super) struct Log {
    file: BufReader<fs::File>,
    /// A line whose end is not written yet.
    begun: String,
    /// The last lines, to tell why an agent ended.
    last: Vec<String>,
}

impl Log {
    /// Reads from the beginning.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        Ok(Log { file: BufReader::new(fs::File::open(path)?), begun: String::new(), last: Vec::new() })
    }

    /// The lines since the last call.
    pub(super) fn lines(&mut self) -> anyhow::Result<Vec<String>> {
        let mut lines = Vec::new();
        while self.file.read_line(&mut self.begun)? > 0 {
            if self.begun.ends_with('\n') {
                lines.push(std::mem::take(&mut self.begun).trim_end().to_owned());
            }
        }
        self.last.extend(lines.iter().cloned());
        self.last.drain(..self.last.len().saturating_sub(10));
        Ok(lines)
    }

    /// The last ten lines.
    pub(super) fn tail(&mut self) -> String {
        drop(self.lines());
        self.last.join("\n")
    }
}

/// One node begins to show another as up or down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Change {
    pub(super) of: usize,
    pub(super) up: bool,
}

impl Change {
    /// Out of a line of the log of either agent; most lines say nothing of the kind.
    pub(super) fn parse(kind: Kind, line: &str) -> Option<Self> {
        match kind {
            // … message="node changed" node=node-3 state=down gossip=…
            Kind::Ours => {
                let rest = line.split_once("node changed")?.1;
                let mut words = rest.split_ascii_whitespace();
                let mut field =
                    |name: &str| words.find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
                let of = node_number(field("node")?)?;
                let up = matches!(field("state")?, "alive" | "suspect");
                Some(Change { of, up })
            }
            // … [INFO] serf: EventMemberFailed: node-3 10.0.0.3
            Kind::Serf => {
                let (event, rest) = line.split_once("serf: EventMember")?.1.split_once(": ")?;
                let up = match event {
                    "Join" => true,
                    "Failed" | "Leave" => false,
                    _ => return None,
                };
                Some(Change { of: node_number(rest.split(' ').next()?)?, up })
            }
        }
    }
}

/// The nodes that one agent shows as up.
#[derive(Debug, Default)]
pub(super) struct Seen(BTreeSet<usize>);

impl Seen {
    /// Takes a change in.
    pub(super) fn apply(&mut self, change: &Change) {
        if change.up {
            self.0.insert(change.of);
        } else {
            self.0.remove(&change.of);
        }
    }

    /// Whether it shows `node` as up.
    pub(super) fn is_up(&self, node: usize) -> bool {
        self.0.contains(&node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn both_logs_are_understood() {
        let ours =
            "ts=2026 level=info target=view message=\"node changed\" node=node-7 state=down gossip=None";
        assert_eq!(Change::parse(Kind::Ours, ours), Some(Change { of: 7, up: false }));
        let serf = "    2026/11/21 07:39:33 [INFO] serf: EventMemberJoin: node-12 10.231.0.12";
        assert_eq!(Change::parse(Kind::Serf, serf), Some(Change { of: 12, up: true }));
        let failed = "    2026/11/21 07:39:33 [INFO] serf: EventMemberFailed: node-12 10.231.0.12";
        assert_eq!(Change::parse(Kind::Serf, failed), Some(Change { of: 12, up: false }));
        let other = "    2026/11/21 07:39:33 [INFO] memberlist: Suspect node-12 has failed, no acks received";
        assert_eq!(Change::parse(Kind::Serf, other), None);
    }

    #[test]
    fn a_line_counts_when_its_end_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut file = fs::File::create(&path).unwrap();
        let mut log = Log::open(&path).unwrap();
        file.write_all(b"one\ntw").unwrap();
        assert_eq!(log.lines().unwrap(), ["one"]);
        assert!(log.lines().unwrap().is_empty());
        file.write_all(b"o\n").unwrap();
        assert_eq!(log.lines().unwrap(), ["two"]);
    }
}
