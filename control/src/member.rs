//! One run of one node as the failure detector knows it, and the table of the others.

use crate::model::NodeName;
use serde::{Deserialize, Serialize};
use std::{
    cmp::Ordering,
    collections::{BTreeMap, HashMap},
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

/// The other members.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    by_addr: HashMap<SocketAddr, (Identity, bool)>,
    by_name: BTreeMap<NodeName, Vec<SocketAddr>>,
    alive: Vec<Identity>,
}

impl Peers {
    /// Puts an identity, up or down.
    pub(crate) fn set(&mut self, id: Identity, up: bool) {
        if let Some((old, _)) = self.by_addr.get(&id.addr) {
            let name = old.name.clone();
            if let Some(addrs) = self.by_name.get_mut(&name) {
                addrs.retain(|a| *a != id.addr);
                if addrs.is_empty() {
                    self.by_name.remove(&name);
                }
            }
        }
        self.by_name.entry(id.name.clone()).or_default().push(id.addr);
        self.alive.retain(|a| a.addr != id.addr);
        if up {
            self.alive.push(id.clone());
        } else {
            // What is down and has a successor elsewhere is of no interest any more.
            self.forget_superseded(&id);
        }
        self.by_addr.insert(id.addr, (id, up));
    }

    fn forget_superseded(&mut self, gone: &Identity) {
        let Some(addrs) = self.by_name.get_mut(&gone.name) else { return };
        let by_addr = &mut self.by_addr;
        addrs.retain(|a| {
            *a == gone.addr || by_addr.get(a).is_some_and(|(_, up)| *up) || by_addr.remove(a).is_none()
        });
    }

    /// Puts a later run in the place of the one at its address; whether it is up.
    pub(crate) fn rename(&mut self, new: &Identity) -> bool {
        let up = self.by_addr.get(&new.addr).is_some_and(|(_, up)| *up);
        self.set(new.clone(), up);
        up
    }

    /// Everybody who is up.
    pub(crate) fn alive(&self) -> &[Identity] {
        &self.alive
    }

    /// Whether a node of this name is up.
    pub(crate) fn is_up(&self, name: &NodeName) -> bool {
        self.latest(name).is_some_and(|(_, up)| up)
    }

    /// The run of this name to believe, and whether it is up: one that is up before one that is down, then the later.
    pub(crate) fn latest(&self, name: &NodeName) -> Option<(&Identity, bool)> {
        let runs = self.by_name.get(name)?.iter().filter_map(|addr| self.by_addr.get(addr));
        runs.max_by_key(|(id, up)| (*up, id.epoch)).map(|(id, up)| (id, *up))
    }

    /// The runs of this name that are up: more than one for long means two nodes with one name.
    pub(crate) fn namesakes(&self, name: &NodeName) -> Vec<&Identity> {
        let addrs = self.by_name.get(name).map(Vec::as_slice).unwrap_or_default();
        addrs.iter().filter_map(|a| self.by_addr.get(a)).filter(|(_, up)| *up).map(|(id, _)| id).collect()
    }

    /// Every name, up or down.
    pub(crate) fn names(&self) -> impl Iterator<Item = &NodeName> {
        self.by_name.keys()
    }

    /// Identities known.
    pub(crate) fn len(&self) -> usize {
        self.by_addr.len()
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
        assert_eq!(peers.namesakes(&name).len(), 2);
        peers.set(id("n1", 1, 1), false);
        assert_eq!(peers.latest(&name), Some((&id("n1", 2, 2), true)));
        peers.set(id("n1", 2, 2), false);
        assert!(!peers.is_up(&name) && peers.alive().is_empty());
        assert_eq!(peers.len(), 1, "an address that a later run gave up is forgotten");
    }
}
