//! One run of one node as the failure detector knows it, and the table of the others.

use crate::{hash::hash64, model::NodeName};
use serde::{Deserialize, Serialize};
use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
};

/// One run of one node. Two identities with one address are runs of one node: the greater epoch is the present one.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// The node's name.
    pub(crate) name: NodeName,
    /// Where its gossip is reached.
    pub(crate) addr: SocketAddr,
    /// Unix milliseconds of its start; one more each time the mesh took it for dead.
    pub(crate) epoch: u64,
}

/// A run and what the failure detector holds of it.
pub(crate) type Member = foca::Member<Identity>;

impl PartialOrd for Identity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Identity {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.epoch, &self.name, self.addr).cmp(&(other.epoch, &other.name, other.addr))
    }
}

impl foca::Identity for Identity {
    type Addr = SocketAddr;

    fn renew(&self) -> Option<Self> {
        Some(Identity { epoch: self.epoch.checked_add(1)?, ..self.clone() })
    }

    fn addr(&self) -> SocketAddr {
        self.addr
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self > adversary
    }
}

impl Identity {
    /// A hash of all of it; its low half stands for it in probes.
    pub(crate) fn hash(&self) -> u64 {
        let addr = self.addr.to_string();
        hash64(&[self.name.as_str().as_bytes(), addr.as_bytes(), &self.epoch.to_be_bytes()])
    }

    /// What stands for it in probes.
    pub(crate) fn mark(&self) -> u32 {
        let [.., a, b, c, d] = self.hash().to_be_bytes();
        u32::from_be_bytes([a, b, c, d])
    }
}

/// The other members.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    /// The run at each address, and its place among those that are up.
    by_addr: HashMap<SocketAddr, (Identity, Option<usize>)>,
    by_name: BTreeMap<NodeName, Vec<SocketAddr>>,
    by_mark: HashMap<u32, SocketAddr>,
    alive: Vec<Identity>,
    /// Hash of those that are up.
    hash: u64,
    /// Names with several runs that are up.
    doubled: BTreeSet<NodeName>,
}

impl Peers {
    /// Puts an identity, up or down. O(log n).
    pub(crate) fn set(&mut self, id: Identity, up: bool) {
        self.remove(id.addr);
        self.by_name.entry(id.name.clone()).or_default().push(id.addr);
        self.by_mark.insert(id.mark(), id.addr);
        let place = up.then_some(self.alive.len());
        if up {
            self.hash ^= id.hash();
            self.alive.push(id.clone());
        }
        let (name, addr) = (id.name.clone(), id.addr);
        self.by_addr.insert(addr, (id, place));
        if !up {
            self.forget_superseded(&name, addr);
        }
        self.count_runs(&name);
    }

    fn remove(&mut self, addr: SocketAddr) {
        let Some((old, place)) = self.by_addr.remove(&addr) else { return };
        if let Some(place) = place {
            self.hash ^= old.hash();
            self.alive.swap_remove(place);
            if let Some(moved) = self.alive.get(place)
                && let Some(entry) = self.by_addr.get_mut(&moved.addr)
            {
                entry.1 = Some(place);
            }
        }
        self.by_mark.remove(&old.mark());
        if let Some(addrs) = self.by_name.get_mut(&old.name) {
            addrs.retain(|a| *a != addr);
            if addrs.is_empty() {
                self.by_name.remove(&old.name);
            }
        }
        self.count_runs(&old.name);
    }

    fn count_runs(&mut self, name: &NodeName) {
        if self.namesakes(name).len() > 1 {
            self.doubled.insert(name.clone());
        } else {
            self.doubled.remove(name);
        }
    }

    /// What is down and has a successor elsewhere is of no interest any more.
    fn forget_superseded(&mut self, name: &NodeName, gone: SocketAddr) {
        for addr in self.by_name.get(name).cloned().unwrap_or_default() {
            let down = self.by_addr.get(&addr).is_some_and(|(_, place)| place.is_none());
            if addr != gone && down {
                self.remove(addr);
            }
        }
    }

    /// Puts a later run in the place of the one at its address; whether it is up.
    pub(crate) fn rename(&mut self, new: &Identity) -> bool {
        let up = self.by_addr.get(&new.addr).is_some_and(|(_, place)| place.is_some());
        self.set(new.clone(), up);
        up
    }

    /// Everybody who is up.
    pub(crate) fn alive(&self) -> &[Identity] {
        &self.alive
    }

    /// Equal on two nodes when the same others are up.
    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    /// The run that a mark stands for.
    pub(crate) fn marked(&self, mark: u32) -> Option<&Identity> {
        self.by_mark.get(&mark).and_then(|addr| self.at(*addr))
    }

    /// The run at an address, up or down.
    pub(crate) fn at(&self, addr: SocketAddr) -> Option<&Identity> {
        self.by_addr.get(&addr).map(|(id, _)| id)
    }

    /// Names with several runs that are up.
    pub(crate) fn doubled(&self) -> &BTreeSet<NodeName> {
        &self.doubled
    }

    /// Whether a node of this name is known, up or down.
    pub(crate) fn knows(&self, name: &NodeName) -> bool {
        self.by_name.contains_key(name)
    }

    /// Whether a node of this name is up.
    pub(crate) fn is_up(&self, name: &NodeName) -> bool {
        self.latest(name).is_some_and(|(_, up)| up)
    }

    /// The run of this name to believe, and whether it is up: one that is up before one that is down, then the later.
    pub(crate) fn latest(&self, name: &NodeName) -> Option<(&Identity, bool)> {
        let runs = self.by_name.get(name)?.iter().filter_map(|addr| self.by_addr.get(addr));
        runs.max_by_key(|(id, place)| (place.is_some(), id.epoch)).map(|(id, place)| (id, place.is_some()))
    }

    /// The runs of this name that are up: more than one for long means two nodes with one name.
    pub(crate) fn namesakes(&self, name: &NodeName) -> Vec<&Identity> {
        let addrs = self.by_name.get(name).map(Vec::as_slice).unwrap_or_default();
        let runs = addrs.iter().filter_map(|a| self.by_addr.get(a));
        runs.filter(|(_, place)| place.is_some()).map(|(id, _)| id).collect()
    }

    /// Every name, up or down.
    pub(crate) fn names(&self) -> impl Iterator<Item = &NodeName> {
        self.by_name.keys()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Name;

    fn id(name: &str, port: u16, epoch: u64) -> Identity {
        Identity { name: Name::new(name).unwrap(), addr: ([127, 0, 0, 1], port).into(), epoch }
    }

    #[test]
    fn a_name_is_up_while_one_of_its_runs_is() {
        let name = Name::new("n1").unwrap();
        let mut peers = Peers::default();
        peers.set(id("n1", 1, 1), true);
        peers.set(id("n1", 2, 2), true);
        assert_eq!((peers.namesakes(&name).len(), peers.doubled().len()), (2, 1));
        peers.set(id("n1", 1, 1), false);
        assert_eq!(peers.latest(&name), Some((&id("n1", 2, 2), true)));
        assert!(peers.doubled().is_empty());
        assert_eq!(
            (peers.hash(), peers.marked(id("n1", 2, 2).mark())),
            (id("n1", 2, 2).hash(), peers.at(id("n1", 2, 2).addr))
        );
        peers.set(id("n1", 2, 2), false);
        assert!(!peers.is_up(&name) && peers.alive().is_empty());
        assert_eq!(peers.by_addr.len(), 1, "an address that a later run gave up is forgotten");
    }
}
