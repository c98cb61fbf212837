//! The handle on the last events: many readers, one lock held for one step.

use super::{
    event::{Event, News},
    ring::{Page, Ring, Since},
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// The last events of this agent. Cheap to clone.
#[derive(Clone, Debug)]
pub struct EventLog(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    ring: Mutex<Ring>,
    newest: watch::Sender<u64>,
    followers: Arc<Semaphore>,
}

/// A follower read too slowly: events that it had not read are forgotten.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PassedOver {
    /// How many.
    pub missed: u64,
}

impl Default for EventLog {
    fn default() -> Self {
        EventLog::new(EventLog::CAPACITY)
    }
}

impl EventLog {
    /// Events kept by default: about 1 MiB at most, as subject and text are at most [`News::MOST`] bytes each.
    pub const CAPACITY: usize = 1024;

    /// Most followers at once.
    pub const FOLLOWERS: usize = 32;

    /// Keeps the last `capacity` events.
    #[must_use]
    pub fn new(capacity: usize) -> EventLog {
        EventLog(Arc::new(Inner {
            ring: Mutex::new(Ring::new(capacity)),
            newest: watch::Sender::new(0),
            followers: Arc::new(Semaphore::new(Self::FOLLOWERS)),
        }))
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.0.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds what was seen at `at` (Unix time in milliseconds) in the snapshot of `revision`.
    pub fn add(&self, at: u64, revision: u64, news: impl IntoIterator<Item = News>) {
        let newest = {
            let mut ring = self.ring();
            news.into_iter().for_each(|n| ring.push(at, revision, n));
            ring.newest()
        };
        self.0.newest.send_if_modified(|n| std::mem::replace(n, newest) != newest);
    }

    /// All that is kept from there on.
    #[must_use]
    pub fn since(&self, since: Since) -> Page {
        self.ring().since(since, usize::MAX)
    }

    /// The number of the newest event; 0 when there is none.
    #[must_use]
    pub fn newest(&self) -> u64 {
        self.ring().newest()
    }

    /// Follows from the event of number `after` on; `None` when [`EventLog::FOLLOWERS`] do already. It holds no queue:
    /// a slow reader costs nothing, and is passed over.
    #[must_use]
    pub fn follow(&self, after: u64) -> Option<Follower> {
        let permit = Arc::clone(&self.0.followers).try_acquire_owned().ok()?;
        Some(Follower { log: self.clone(), newest: self.0.newest.subscribe(), after, _permit: permit })
    }
}

/// One reader that waits for more.
#[derive(Debug)]
pub struct Follower {
    log: EventLog,
    newest: watch::Receiver<u64>,
    after: u64,
    _permit: OwnedSemaphorePermit,
}

impl Follower {
    /// Waits for the next events and returns at most `most` of them, at least one. May be cancelled.
    ///
    /// # Errors
    /// [`PassedOver`] when some that come next are forgotten; the call after that goes on with the oldest that is kept.
    pub async fn next(&mut self, most: usize) -> Result<Vec<Arc<Event>>, PassedOver> {
        loop {
            let page = self.log.ring().since(Since::Number(self.after), most);
            if page.missed > 0 {
                self.after += page.missed;
                return Err(PassedOver { missed: page.missed });
            }
            if let Some(last) = page.events.last() {
                self.after = last.seq;
                return Ok(page.events);
            }
            let after = self.after;
            // The sender lives in the log that we hold, so it never closes.
            let _ = self.newest.wait_for(|n| *n > after).await;
        }
    }

    /// The number of the last event that was returned.
    #[must_use]
    pub fn after(&self) -> u64 {
        self.after
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::event::Kind;

    fn news(n: usize) -> Vec<News> {
        (0..n).map(|i| News::new(Kind::NodeUp, format!("n{i}"), "")).collect()
    }

    #[tokio::test]
    async fn a_follower_reads_in_order_and_is_told_when_it_was_passed_over() {
        let log = EventLog::new(4);
        log.add(1, 1, news(2));
        let mut follower = log.follow(0).unwrap();
        let numbers = |events: Vec<Arc<Event>>| events.iter().map(|e| e.seq).collect::<Vec<_>>();
        assert_eq!(numbers(follower.next(1).await.unwrap()), [1]);
        assert_eq!(numbers(follower.next(9).await.unwrap()), [2]);
        let writer = log.clone();
        let write = tokio::spawn(async move { writer.add(2, 2, news(1)) });
        assert_eq!(numbers(follower.next(9).await.unwrap()), [3]);
        write.await.unwrap();
        log.add(3, 3, news(6));
        assert_eq!(follower.next(9).await, Err(PassedOver { missed: 2 }));
        assert_eq!(numbers(follower.next(9).await.unwrap()), [6, 7, 8, 9]);
    }

    #[test]
    fn followers_are_bounded() {
        let log = EventLog::default();
        let mut all: Vec<_> = (0..EventLog::FOLLOWERS).map(|_| log.follow(0).unwrap()).collect();
        assert!(log.follow(0).is_none());
        all.pop();
        assert!(log.follow(0).is_some());
    }
}
