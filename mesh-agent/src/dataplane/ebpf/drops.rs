//! What the log says of packets that were not forwarded. The programs count every one and tell of some; what they tell of
//! is put together here, so that whoever sends what nobody wants cannot fill the log.

use super::{config::NAME, realize::narrow};
use mesh_control::model::Family;
use mesh_ebpf::common::{Drop, Event};
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

/// Most events that are read at a time: as many as the ring holds, so that reading ends.
const MOST: usize = 1 << 11;
/// The same reason is told again for the same destination after so long (ms).
const AGAIN: u64 = 60_000;
/// Most destinations with reasons that are told in this time.
const KEPT: usize = 32;

/// A reason, a protocol's number and a destination.
type What = (&'static str, u8, SocketAddr);

/// A line of the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Line {
    /// What.
    what: What,
    /// One of those who sent.
    from: IpAddr,
    /// Packets that were told of; more were counted.
    packets: u64,
}

/// What was told, and when (ms).
#[derive(Debug, Default)]
pub(super) struct Told(BTreeMap<What, u64>);

fn read(event: &Event) -> Option<(What, IpAddr)> {
    let family = match event.family {
        4 => Family::V4,
        6 => Family::V6,
        _ => return None,
    };
    let reason = Drop::NAMES.get(usize::from(event.reason))?;
    let to = SocketAddr::new(narrow(event.destination, family), u16::from_be(event.destination_port));
    Some(((reason, event.protocol, to), narrow(event.source, family)))
}

impl Told {
    /// Which lines are to be written at `now` (ms).
    fn lines(&mut self, events: impl Iterator<Item = Event>, now: u64) -> Vec<Line> {
        self.0.retain(|_, since| *since + AGAIN > now);
        let mut lines = BTreeMap::<What, Line>::new();
        for (what, from) in events.take(MOST).filter_map(|event| read(&event)) {
            if let Some(line) = lines.get_mut(&what) {
                line.packets += 1;
            } else if self.0.len() < KEPT && !self.0.contains_key(&what) {
                self.0.insert(what, now);
                lines.insert(what, Line { what, from, packets: 1 });
            }
        }
        lines.into_values().collect()
    }

    /// Reads what there is, and writes it to the log.
    pub(super) fn tell(&mut self, events: impl Iterator<Item = Event>, now: u64) {
        for Line { what: (reason, protocol, to), from, packets } in self.lines(events, now) {
            tracing::info!(plane = NAME, reason, protocol, %from, %to, packets, "packets are dropped");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::ebpf::realize::wide;

    #[test]
    fn a_destination_is_told_once_a_minute_and_not_too_many_are() {
        let event = |reason: Drop, port: u16| Event {
            source: wide([198, 51, 100, 7].into()),
            destination: wide([10, 96, 0, 1].into()),
            source_port: 1_u16.to_be(),
            destination_port: port.to_be(),
            family: 4,
            protocol: 6,
            reason: reason as u16,
        };
        let mut told = Told::default();
        let (denied, full) = (event(Drop::Denied, 80), event(Drop::Full, 80));
        let lines = told.lines([denied, full, denied].into_iter(), 1000);
        let to: SocketAddr = "10.96.0.1:80".parse().unwrap();
        let line = |reason, packets| Line { what: (reason, 6, to), from: [198, 51, 100, 7].into(), packets };
        assert_eq!(lines, [line("denied", 2), line("full", 1)]);
        assert_eq!(told.lines([denied].into_iter(), 60_999), []);
        assert_eq!(told.lines([denied].into_iter(), 61_000), [line("denied", 1)]);
        let of_another_version = [Event { reason: 99, ..denied }, Event { family: 0, ..denied }];
        assert_eq!(told.lines(of_another_version.into_iter(), 61_000), []);
        let many = told.lines((1..1000).map(|port| event(Drop::Denied, port)), 200_000);
        assert_eq!((many.len(), told.0.len()), (KEPT, KEPT), "what is kept is bounded");
    }
}
