//! The last events. Pure.

use super::event::{Event, News};
use std::{collections::VecDeque, sync::Arc};

/// Where to begin reading.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Since {
    /// After the event of this number; 0 is before the first.
    Number(u64),
    /// From this moment on, Unix time in milliseconds.
    Time(u64),
}

/// What was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Page {
    /// How many events were asked for and are forgotten; asked by time, at most so many.
    pub missed: u64,
    /// The others, oldest first.
    pub events: Vec<Arc<Event>>,
}

/// The last events of one run, numbered from 1; older ones are forgotten.
#[derive(Debug)]
pub struct Ring {
    capacity: usize,
    events: VecDeque<Arc<Event>>,
    /// The number of the newest event; 0 before the first.
    newest: u64,
    /// When the newest forgotten event was.
    forgotten_at: Option<u64>,
}

impl Ring {
    /// Keeps so many events, at least one.
    #[must_use]
    pub fn new(capacity: usize) -> Ring {
        Ring { capacity: capacity.max(1), events: VecDeque::new(), newest: 0, forgotten_at: None }
    }

    /// Adds one; the oldest goes when there is no room.
    pub fn push(&mut self, at: u64, revision: u64, news: News) {
        if self.events.len() >= self.capacity {
            self.forgotten_at = self.events.pop_front().map(|e| e.at);
        }
        self.newest += 1;
        self.events.push_back(Arc::new(Event { seq: self.newest, at, revision, news }));
    }

    /// The number of the newest event; 0 when there is none.
    #[must_use]
    pub fn newest(&self) -> u64 {
        self.newest
    }

    /// How many are forgotten.
    fn forgotten(&self) -> u64 {
        self.newest - self.events.len() as u64
    }

    /// At most `most` events, oldest first.
    ///
    /// The wall clock may step: by time, everything from the first event on that is late enough counts.
    #[must_use]
    pub fn since(&self, since: Since, most: usize) -> Page {
        let (missed, skip) = match since {
            Since::Number(seq) => (
                self.forgotten().saturating_sub(seq),
                usize::try_from(seq.saturating_sub(self.forgotten())).unwrap_or(usize::MAX),
            ),
            Since::Time(at) => (
                if self.forgotten_at.is_some_and(|f| f >= at) { self.forgotten() } else { 0 },
                self.events.iter().position(|e| e.at >= at).unwrap_or(self.events.len()),
            ),
        };
        Page { missed, events: self.events.iter().skip(skip).take(most).cloned().collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::event::Kind;

    fn ring(events: u64) -> Ring {
        let mut ring = Ring::new(3);
        for i in 1..=events {
            ring.push(i * 100, i, News::new(Kind::NodeUp, "n", ""));
        }
        ring
    }

    #[test]
    fn readers_learn_what_they_missed() {
        // Events put in, asked since, forgotten ones, numbers found.
        let table: &[(u64, Since, u64, &[u64])] = &[
            (0, Since::Number(0), 0, &[]),
            (2, Since::Number(0), 0, &[1, 2]),
            (2, Since::Number(2), 0, &[]),
            (2, Since::Number(99), 0, &[]),
            (5, Since::Number(0), 2, &[3, 4, 5]),
            (5, Since::Number(1), 1, &[3, 4, 5]),
            (5, Since::Number(2), 0, &[3, 4, 5]),
            (5, Since::Number(3), 0, &[4, 5]),
            (5, Since::Number(u64::MAX), 0, &[]),
            (5, Since::Time(0), 2, &[3, 4, 5]),
            (5, Since::Time(200), 2, &[3, 4, 5]),
            (5, Since::Time(201), 0, &[3, 4, 5]),
            (5, Since::Time(350), 0, &[4, 5]),
            (5, Since::Time(u64::MAX), 0, &[]),
        ];
        for (events, since, missed, numbers) in table {
            let page = ring(*events).since(*since, 10);
            let found: Vec<u64> = page.events.iter().map(|e| e.seq).collect();
            assert_eq!((page.missed, found.as_slice()), (*missed, *numbers), "{events} events, {since:?}");
        }
        assert_eq!(ring(5).since(Since::Number(2), 1).events.len(), 1);
        assert_eq!((ring(5).newest(), ring(0).newest()), (5, 0));
    }
}
