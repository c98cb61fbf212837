//! What must hold: in every view after every step, and between the views at rest.

use super::Sim;
use imbl::ordmap::DiffItem;
use ipnetwork::IpNetwork;
use mesh_control::model::{NodeName, NodeView, Protocol, ServiceKey, ServiceView, Snapshot};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

/// Something that at most one holder may have in any one view, ever.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Thing {
    Vip(IpAddr),
    Port(Protocol, u16),
    Subnet(IpNetwork),
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Holder {
    Service(ServiceKey),
    Node(NodeName),
}

/// What a service holds, as a view programs it.
fn of_service(view: &ServiceView) -> Vec<Thing> {
    let ports = view.published.iter().filter(|p| p.conflict.is_none());
    let ports = ports.filter_map(|p| p.port.map(|port| Thing::Port(p.protocol, port.first())));
    view.vips.iter().map(Thing::Vip).chain(ports).collect()
}

/// What a node holds.
fn of_node(view: &NodeView) -> Vec<Thing> {
    view.subnets.iter().copied().map(Thing::Subnet).collect()
}

/// Follows one node's view; a step costs O(what changed in it).
#[derive(Default)]
pub(super) struct Watch {
    before: Option<Snapshot>,
    held: HashMap<Thing, Holder>,
    /// Services whose settled address this view had.
    knew: HashSet<ServiceKey>,
}

impl Watch {
    /// Looks at the view after a step; whether it is a new one.
    ///
    /// # Errors
    /// What does not hold.
    pub(super) fn look(
        &mut self,
        view: &Snapshot,
        settled: &BTreeMap<ServiceKey, IpAddr>,
    ) -> Result<bool, String> {
        let before = match self.before.take() {
            Some(before) if before.revision == view.revision => {
                self.before = Some(before);
                return Ok(false);
            }
            before => before.unwrap_or_else(|| Snapshot::empty(view.local.clone())),
        };
        let (mut gone, mut come) = (Vec::new(), Vec::new());
        for item in before.services.diff(&view.services) {
            let (old, new) = sides(&item);
            let of = |(key, service): (&ServiceKey, &ServiceView)| {
                (Holder::Service(key.clone()), of_service(service))
            };
            gone.extend(old.map(|(k, v)| of((k, v))));
            come.extend(new.map(|(k, v)| of((k, v))));
            if let Some((key, service)) = new
                && let Some(address) = settled.get(key)
            {
                if service.vips.iter().any(|vip| vip == *address) {
                    self.knew.insert(key.clone());
                } else if self.knew.contains(key) {
                    return Err(format!("the VIP of {key} moved from {address} to {:?}", service.vips));
                }
            }
        }
        for item in before.nodes.diff(&view.nodes) {
            let (old, new) = sides(&item);
            gone.extend(old.map(|(k, v)| (Holder::Node(k.clone()), of_node(v))));
            come.extend(new.map(|(k, v)| (Holder::Node(k.clone()), of_node(v))));
        }
        for (holder, things) in gone {
            things.into_iter().for_each(|thing| {
                if self.held.get(&thing) == Some(&holder) {
                    self.held.remove(&thing);
                }
            });
        }
        for (holder, things) in come {
            for thing in things {
                if let Some(other) = self.held.insert(thing.clone(), holder.clone())
                    && other != holder
                {
                    return Err(format!("{holder:?} and {other:?} both hold {thing:?}"));
                }
            }
        }
        self.before = Some(view.clone());
        Ok(true)
    }
}

/// One side of a difference.
type Side<'a, K, V> = Option<(&'a K, &'a V)>;

/// The old and the new side of a difference.
fn sides<'a, K, V>(item: &DiffItem<'a, 'a, K, Arc<V>>) -> (Side<'a, K, V>, Side<'a, K, V>) {
    match item {
        DiffItem::Add(key, new) => (None, Some((key, new))),
        DiffItem::Update { old, new } => (Some((old.0, old.1)), Some((new.0, new.1))),
        DiffItem::Remove(key, old) => (Some((key, old)), None),
    }
}

impl Sim {
    /// Checks that all nodes that run hold the same state and see the same services; returns one view.
    pub(crate) fn check_equal(&self) -> &Snapshot {
        let alive = self.alive();
        let first = self.node(alive[0]);
        for i in &alive {
            let node = self.node(*i);
            assert_eq!(
                node.state_hash(),
                first.state_hash(),
                "{}: n{i} and n{} differ; {:?} sees {}",
                self.failed(),
                alive[0],
                node.stats(),
                others(node.snapshot())
            );
            assert_eq!(
                node.snapshot().services,
                first.snapshot().services,
                "{}: n{i} sees {}",
                self.failed(),
                others(node.snapshot())
            );
        }
        first.snapshot()
    }

    /// Checks that every service has its address and its ports, or shows a conflict.
    pub(crate) fn check_claims(&self, what: &str) {
        for (key, view) in &self.check_equal().services {
            assert!(view.vips.v4.is_some(), "{}: {what}: {key} has no VIP", self.failed());
            for published in &view.published {
                assert!(published.port.is_some(), "{}: {what}: {key} has no port", self.failed());
            }
        }
    }

    /// Checks that nobody shows an endpoint of a node that does not run.
    pub(crate) fn check_no_ghosts(&self, what: &str) {
        for i in self.alive() {
            for (key, service) in &self.view(i).services {
                for endpoint in service.endpoints.iter() {
                    let dead = self.dead().into_iter().any(|d| super::name(d) == endpoint.node);
                    assert!(!dead, "{}: {what}: n{i} shows {} in {key}", self.failed(), endpoint.node);
                }
            }
        }
    }

    /// The addresses that all nodes agree on are settled: from now on they must not move.
    pub(crate) fn settle(&mut self) {
        let services = self.check_equal().services.clone();
        self.settled = services.iter().filter_map(|(k, v)| Some((k.clone(), v.vips.v4?.into()))).collect();
        // Whoever runs now knows them.
        for slot in self.slots.iter_mut().filter(|slot| slot.node.is_some()) {
            slot.watch.knew = self.settled.keys().cloned().collect();
        }
    }
}

/// The nodes that a view does not show alive.
fn others(view: &Snapshot) -> String {
    let not_alive = view.nodes.values().filter(|n| n.state != mesh_control::model::NodeState::Alive);
    let list: Vec<String> = not_alive.map(|n| format!("{} {}", n.name, n.state.as_str())).collect();
    format!("{} nodes, of them {list:?}", view.nodes.len())
}
