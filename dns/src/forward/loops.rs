//! Loops through other resolvers (coredns#2087): each upstream is asked for a name that only this process knows. If
//! that name comes back as a query, the upstream leads here.

use super::upstream::{Terms, Upstream};
use crate::packet::{HEADER, question_octets};
use rand::TryRng;
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// A looped upstream is looked at again after so long: somebody may have put it right.
const AGAIN: Duration = Duration::from_secs(60);

/// Octets of the probes' name: two labels of 16 hexadecimal digits, and the root. Not below `.invalid` or the like,
/// which resolvers answer themselves, and not one label, which some do not ask servers for.
const NAME: usize = 17 + 17 + 1;

/// HINFO, as CoreDNS' `loop` asks, IN: nobody has a reason to know that.
const KIND: [u8; 4] = [0, 13, 0, 1];

/// The probes of this process.
#[derive(Debug)]
pub(super) struct Loops {
    /// The second label, random.
    own: [u8; 17],
    /// The first labels under way, and whether they came back; one for each upstream at most.
    probes: Mutex<HashMap<[u8; 17], bool>>,
}

impl Loops {
    pub(super) fn new() -> Self {
        Loops { own: label(), probes: Mutex::default() }
    }

    /// Whether `question` is a probe that came back; if so that is noted.
    pub(super) fn caught(&self, question: &[u8]) -> bool {
        let Some((name, _)) = question.split_last_chunk::<4>() else { return false };
        if name.len() != NAME || !name[17..34].eq_ignore_ascii_case(&self.own) {
            return false;
        }
        let Some(first) = name.first_chunk::<17>() else { return false };
        let mut probes = self.probes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(back) = probes.get_mut(&first.to_ascii_lowercase()[..]) {
            *back = true;
        }
        true
    }

    /// Finds out whether `upstream` leads here, again and again while it does or does not answer.
    pub(super) async fn watch(&self, upstream: &Upstream, terms: &Terms) {
        let mut pause = terms.holdoff;
        loop {
            let probe = Probe::new(self);
            let answered = upstream.ask_aside(&probe.query(), terms.per_try, terms).await.is_ok();
            let looped = probe.is_back();
            drop(probe);
            // Silence says nothing about a loop that was found before.
            if looped || answered {
                let news = upstream.set_looped(looped);
                terms.metrics.loops.with_label_values(&[&upstream.label]).set(i64::from(looped));
                match (news, looped) {
                    (true, true) => tracing::warn!(
                        upstream = %upstream.label,
                        "this upstream sends queries back to this server, in a circle: it is left out. Give it another resolver, or name another upstream in dns.upstreams"
                    ),
                    (true, false) => tracing::info!(upstream = %upstream.label, "the loop is gone"),
                    (false, _) => {}
                }
            }
            if answered && !upstream.is_looped() {
                return;
            }
            tokio::time::sleep(if upstream.is_looped() { AGAIN } else { pause }).await;
            pause = (pause * 2).min(AGAIN);
        }
    }
}

/// A probe under way.
struct Probe<'l> {
    loops: &'l Loops,
    first: [u8; 17],
}

impl<'l> Probe<'l> {
    fn new(loops: &'l Loops) -> Self {
        let first = label();
        loops.probes.lock().unwrap_or_else(PoisonError::into_inner).insert(first, false);
        Probe { loops, first }
    }

    fn query(&self) -> Vec<u8> {
        let header = [0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        let query = [&header[..], &self.first, &self.loops.own, &[0], &KIND].concat();
        debug_assert_eq!(question_octets(&query), query.get(HEADER..));
        query
    }

    fn is_back(&self) -> bool {
        let probes = self.loops.probes.lock().unwrap_or_else(PoisonError::into_inner);
        probes.get(&self.first).copied().unwrap_or(false)
    }
}

impl Drop for Probe<'_> {
    fn drop(&mut self) {
        self.loops.probes.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.first);
    }
}

/// A random label of 16 hexadecimal digits, with its length in front.
fn label() -> [u8; 17] {
    let mut random = [0; 8];
    // Without randomness of the system nothing works anyway; a label of zeros still finds a loop.
    let _ = rand::rngs::SysRng.try_fill_bytes(&mut random);
    let mut label = [16; 17];
    for (digits, octet) in label[1..].chunks_exact_mut(2).zip(random) {
        digits
            .copy_from_slice(&[octet >> 4, octet & 0x0f].map(|half| b"0123456789abcdef"[usize::from(half)]));
    }
    label
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_process_own_probe_is_one_that_came_back() {
        let (ours, others) = (Loops::new(), Loops::new());
        let probe = Probe::new(&ours);
        let query = probe.query();
        let question = question_octets(&query).unwrap();
        assert!(!others.caught(question) && !probe.is_back());
        assert!(
            ours.caught(&question.to_ascii_uppercase()) && probe.is_back(),
            "0x20 on the way changes nothing"
        );
        assert!(!ours.caught(b"\x07example\x03org\x00\x00\x01\x00\x01") && !ours.caught(b""));
        let former = Probe::new(&ours).query();
        assert!(ours.caught(&former[HEADER..]), "one that nobody waits for is ours all the same");
        assert_eq!(ours.probes.lock().unwrap().len(), 1, "and nothing is kept of it");
    }
}
