//! Equal questions that are asked at once share one query to the upstreams.

use super::race::Won;
use crate::packet::{HEADER, question_octets};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::watch;

/// What came of a flight: a reply, or what the last failure was.
pub(super) type Outcome = Result<Arc<Won>, String>;

/// The queries under way, by what they ask: all their octets, but for the id and the case of the name. There are no
/// more of them than permits to forward.
#[derive(Debug, Default)]
pub(super) struct Flights(Mutex<HashMap<Arc<[u8]>, Landing>>);

type Landing = watch::Receiver<Option<Outcome>>;

/// Where a query stands.
pub(super) enum Boarding {
    /// The first of its kind: to be asked.
    Leader(Flight, Landing),
    /// An equal one is under way.
    Follower(Landing),
}

impl Flights {
    pub(super) fn board(self: &Arc<Self>, query: &[u8]) -> Boarding {
        let mut key: Arc<[u8]> = query.get(2..).unwrap_or_default().into();
        let name = question_octets(query).map_or(0, |q| q.len() - 4);
        if let Some(octets) = Arc::get_mut(&mut key) {
            octets[HEADER - 2..][..name].make_ascii_lowercase();
        }
        let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(landing) = flights.get(&key) {
            return Boarding::Follower(landing.clone());
        }
        let (sender, landing) = watch::channel(None);
        flights.insert(Arc::clone(&key), landing.clone());
        Boarding::Leader(Flight { flights: Arc::clone(self), key, sender }, landing)
    }
}

/// A query under way. Dropped without landing, those who wait see that nothing will come.
pub(super) struct Flight {
    flights: Arc<Flights>,
    key: Arc<[u8]>,
    sender: watch::Sender<Option<Outcome>>,
}

impl Flight {
    /// Tells everybody who waits. Who asks from now on is a leader again.
    pub(super) fn land(self, outcome: Outcome) {
        let sender = self.sender.clone();
        drop(self);
        sender.send_replace(Some(outcome));
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.flights.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

/// What came of it; `None` when it was cancelled.
pub(super) async fn landed(mut landing: Landing) -> Option<Outcome> {
    landing.wait_for(Option::is_some).await.ok()?.clone()
}
