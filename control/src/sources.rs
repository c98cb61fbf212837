//! Where refused packets and connections come from: each source is said once, a bounded number of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr},
};

/// Sources that are told apart.
const MAX_SOURCES: usize = 256;

/// One host, as far as an address tells: an IPv6 host has a whole /64.
pub(crate) fn source(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
        v4 => v4,
    }
}

/// The sources that were said.
#[derive(Debug, Default)]
pub(crate) struct Said {
    known: BTreeSet<IpAddr>,
    full: bool,
}

impl Said {
    /// Logs a refusal, if it is the first of its source.
    pub(crate) fn refused(&mut self, ip: IpAddr, what: &str, reason: &str) {
        match self.is_new(source(ip)) {
            Some(true) => {
                tracing::warn!(from = %ip, %reason, "{what} refused: no member of this mesh, or it has another key or release; said once for each source");
            }
            Some(false) => {
                tracing::warn!(from = %ip, %reason, "{what} refused, after {MAX_SOURCES} sources already: further ones are only counted");
            }
            None => tracing::debug!(from = %ip, %reason, "{what} refused"),
        }
    }

    /// Whether to say it: a new source, the first beyond the limit, or not at all.
    fn is_new(&mut self, source: IpAddr) -> Option<bool> {
        if self.known.contains(&source) {
            return None;
        }
        if self.known.len() < MAX_SOURCES {
            return Some(self.known.insert(source));
        }
        (!std::mem::replace(&mut self.full, true)).then_some(false)
    }
}

/// How many of something each source has at once. Holds no source that has none.
#[derive(Debug, Default)]
pub(crate) struct Held(BTreeMap<IpAddr, usize>);

impl Held {
    /// One more for a source, unless it has `most`.
    pub(crate) fn take(&mut self, source: IpAddr, most: usize) -> bool {
        let held = self.0.entry(source).or_default();
        let room = *held < most;
        *held += usize::from(room);
        room
    }

    /// One less.
    pub(crate) fn give_back(&mut self, source: IpAddr) {
        if let Some(held) = self.0.get_mut(&source) {
            *held -= 1;
            if *held == 0 {
                self.0.remove(&source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_source_is_said_once_and_the_rest_together() {
        let mut said = Said::default();
        let v6 =
            |net: u128, host: u128| source(Ipv6Addr::from_bits((0xfd << 120) | (net << 64) | host).into());
        assert_eq!(
            (said.is_new(v6(1, 1)), said.is_new(v6(1, 2)), said.is_new(v6(2, 1))),
            (Some(true), None, Some(true))
        );
        let mapped: IpAddr = "::ffff:10.0.0.1".parse().unwrap();
        assert_eq!(source(mapped), IpAddr::from([10, 0, 0, 1]));
        let words: Vec<_> = (3..1_000).map(|net| said.is_new(v6(net, 1))).collect();
        assert_eq!(words.iter().filter(|w| **w == Some(true)).count(), MAX_SOURCES - 2);
        assert_eq!(words.iter().filter(|w| **w == Some(false)).count(), 1);
        assert_eq!(said.known.len(), MAX_SOURCES);
    }

    #[test]
    fn a_source_holds_no_more_than_its_share_and_nothing_is_kept_of_it() {
        let (mut held, ip) = (Held::default(), source([10, 0, 0, 1].into()));
        assert!(held.take(ip, 2) && held.take(ip, 2) && !held.take(ip, 2));
        held.give_back(ip);
        assert!(held.take(ip, 2));
        held.give_back(ip);
        held.give_back(ip);
        assert!(held.0.is_empty());
    }
}
