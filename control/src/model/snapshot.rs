//! The whole merged state at one revision.

use super::{
    endpoint::{Addresses, EndpointView},
    name::{NodeName, ServiceKey},
    node::NodeView,
    port::{PortRange, Protocol},
    service::{PublishMode, ServiceSpec},
};
use imbl::{OrdMap, Vector};
use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, sync::Arc};

/// The whole merged state at one revision; immutable. Cloning costs O(1): the maps share structure, so a change of
/// one service copies O(log n).
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Grows by at least one with every change on this node; means nothing on another.
    pub revision: u64,
    /// The node that made the snapshot.
    pub local: NodeName,
    /// Every node known, also those that are down.
    pub nodes: OrdMap<NodeName, Arc<NodeView>>,
    /// Every service that is declared.
    pub services: OrdMap<ServiceKey, Arc<ServiceView>>,
    /// The overlay subnets that the local node may use: those of its [`NodeView::subnets`] that it held undisputed
    /// for long enough. Empty for the first seconds of every run.
    pub own_subnets: Vec<IpNetwork>,
    /// Which service changed at which revision, oldest first; bounded by [`Snapshot::LOG`].
    log: Vector<(u64, ServiceKey)>,
    /// The log is complete for changes after this revision.
    log_since: u64,
}

/// What changed between two revisions of one node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Changes {
    /// More than the log remembers: look at everything.
    All,
    /// These services were added, changed or removed; possibly none.
    Services(BTreeSet<ServiceKey>),
}

impl Snapshot {
    /// Most entries of the change log.
    pub const LOG: usize = 4096;

    /// An empty snapshot at revision 0.
    #[must_use]
    pub fn empty(local: NodeName) -> Self {
        Snapshot {
            revision: 0,
            local,
            nodes: OrdMap::new(),
            services: OrdMap::new(),
            own_subnets: Vec::new(),
            log: Vector::new(),
            log_since: 0,
        }
    }

    /// Puts (`Some`) or removes (`None`) one service and raises the revision.
    pub fn set_service(&mut self, key: ServiceKey, view: Option<Arc<ServiceView>>) {
        match view {
            Some(view) => self.services.insert(key.clone(), view),
            None => self.services.remove(&key),
        };
        self.revision += 1;
        self.log.push_back((self.revision, key));
        while self.log.len() > Self::LOG {
            if let Some((revision, _)) = self.log.pop_front() {
                self.log_since = revision;
            }
        }
    }

    /// Puts (`Some`) or removes (`None`) one node and raises the revision.
    pub fn set_node(&mut self, name: NodeName, view: Option<Arc<NodeView>>) {
        match view {
            Some(view) => self.nodes.insert(name, view),
            None => self.nodes.remove(&name),
        };
        self.revision += 1;
    }

    /// Sets the subnets that the local node may use and raises the revision.
    pub fn set_own_subnets(&mut self, subnets: Vec<IpNetwork>) {
        self.own_subnets = subnets;
        self.revision += 1;
    }

    /// The services that changed after `revision`, which must come from a snapshot of the same run of this node.
    #[must_use]
    pub fn changed_since(&self, revision: u64) -> Changes {
        if revision < self.log_since || revision > self.revision {
            return Changes::All;
        }
        let from = self.log.iter().rev().take_while(|(r, _)| *r > revision);
        Changes::Services(from.map(|(_, key)| key.clone()).collect())
    }
}

/// Who a declaration belongs to.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// This node's own sources (file, Docker); only that node withdraws it.
    Node(NodeName),
    /// A shared source (API, Kubernetes, etcd, Consul); anybody edits, the newest wins.
    Cluster,
}

/// Two live declarations of one service that differ.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Conflict {
    /// Whose declaration is in force.
    pub in_force: Origin,
    /// Whose differ from it.
    pub overruled: Vec<Origin>,
}

/// A service in a snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServiceView {
    /// Its key.
    pub key: ServiceKey,
    /// The newest declaration.
    pub spec: Arc<ServiceSpec>,
    /// Everybody who declares it, the one in force first.
    pub origins: Vec<Origin>,
    /// Set when declarations differ.
    pub conflict: Option<Conflict>,
    /// The VIPs it holds by right; empty for `dnsrr` and while a claim is not won yet.
    pub vips: Addresses,
    /// Its published ports; one entry for each `spec.ports` with `publish`.
    pub published: Vec<PublishedView>,
    /// Endpoints of nodes that are up, sorted by (instance, node).
    pub endpoints: Arc<[EndpointView]>,
    /// How many endpoints are hidden because their node is down.
    pub hidden_endpoints: usize,
}

/// A published port in a snapshot.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PublishedView {
    /// Index into `spec.ports`.
    pub index: usize,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The ports held; absent while a claim out of the dynamic range is not won yet.
    pub port: Option<PortRange>,
    /// Every node, or only where a backend runs.
    pub mode: PublishMode,
    /// The service that holds an overlapping port with the better claim; then this one is not programmed.
    pub conflict: Option<ServiceKey>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Name;

    #[test]
    fn the_log_names_changes_and_admits_when_it_forgot() {
        let key = |i: usize| ServiceKey::in_default(&format!("s{i}")).unwrap();
        let mut s = Snapshot::empty(Name::new("n1").unwrap());
        s.set_service(key(1), None);
        let at = s.revision;
        s.set_service(key(2), None);
        s.set_service(key(2), None);
        assert_eq!(s.changed_since(at), Changes::Services([key(2)].into()));
        assert_eq!(s.changed_since(s.revision), Changes::Services(BTreeSet::new()));
        for i in 0..Snapshot::LOG {
            s.set_service(key(i), None);
        }
        assert_eq!(s.changed_since(at), Changes::All);
    }
}
