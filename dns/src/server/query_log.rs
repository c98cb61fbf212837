//! The query log: one query in so many, as an event of `mesh_dns::query`.

use crate::{metrics::Transport, packet::question_octets};
use std::{fmt::Write as _, net::SocketAddr, time::Duration};

/// Which queries are due.
#[derive(Debug)]
pub(super) struct QueryLog {
    every: u64,
    seen: u64,
}

impl QueryLog {
    /// Of every `every`-th; of none for 0.
    pub(super) fn new(every: u64) -> QueryLog {
        QueryLog { every, seen: 0 }
    }

    /// Whether this query is to be logged. Asked once for each.
    pub(super) fn due(&mut self) -> bool {
        if self.every == 0 {
            return false;
        }
        self.seen += 1;
        self.seen.is_multiple_of(self.every)
    }
}

/// Logs a query and what came of it; `source` is `mesh`, `cache` or `upstream`.
pub(super) fn write(
    (client, transport): (SocketAddr, Transport),
    packet: &[u8],
    reply: &[u8],
    source: &'static str,
    took: Duration,
) {
    let protocol = match transport {
        Transport::Udp => "udp",
        Transport::Tcp => "tcp",
    };
    let (name, kind) = question(packet);
    let rcode = reply.get(3).map_or(0, |byte| byte & 0x0f);
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    tracing::info!(target: "mesh_dns::query", %client, protocol, %name, kind, rcode, source, micros, "query");
}

/// A packet's name, as in a master file (RFC 1035 section 5.1), and type; `-` and 0 when it has none. All but letters,
/// digits, `-` and `_` is written as `\DDD`, so that nobody can write lines of their own into the log.
fn question(packet: &[u8]) -> (String, u16) {
    let Some(octets) = question_octets(packet) else { return ("-".to_owned(), 0) };
    let (mut name, mut at) = (String::new(), 0);
    while let Some(length) = octets.get(at).map(|length| usize::from(*length)).filter(|length| *length > 0) {
        for byte in octets.get(at + 1..at + 1 + length).unwrap_or_default() {
            if byte.is_ascii_alphanumeric() || b"-_".contains(byte) {
                name.push(char::from(*byte));
            } else {
                // Writing to a string cannot fail.
                let _ = write!(name, "\\{byte:03}");
            }
        }
        name.push('.');
        at += 1 + length;
    }
    if name.is_empty() {
        name.push('.');
    }
    let kind = octets.get(at + 1..at + 3).map_or(0, |kind| u16::from_be_bytes([kind[0], kind[1]]));
    (name, kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_so_manyth_is_due() {
        let due = |every| {
            let mut log = QueryLog::new(every);
            (0..12).filter(|_| log.due()).count()
        };
        assert_eq!([due(0), due(1), due(3), due(100)], [0, 12, 4, 0]);
    }

    #[test]
    fn names_forge_no_lines() {
        let packet = |name: &[u8]| {
            let header = [0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
            [&header[..], name, &[0, 0, 28, 0, 1]].concat()
        };
        for (name, text) in [
            (&b"\x03Web\x07cluster"[..], "Web.cluster."),
            (b"", "."),
            (b"\x05a\nb\"c\x02\xffd", "a\\010b\\034c.\\255d."),
            (b"\x03a.b", "a\\046b."),
        ] {
            assert_eq!(question(&packet(name)), (text.to_owned(), 28));
        }
        assert_eq!(question(b"short"), ("-".to_owned(), 0));
    }
}
