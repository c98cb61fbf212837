//! Merges what the sources say into what this node tells the mesh. Pure: `now`, milliseconds of a clock that only
//! goes forward, and the snapshot are arguments.
//!
//! Drain: an endpoint that its source no longer mentions is announced terminating until `now + drain` and then
//! removed; one that comes back in time is ready again. It is removed at once if the service's drain is 0 or it has
//! only UDP ports, whose flows move to another backend without loss of a connection. A declaration is withdrawn at
//! once, so that a renamed service can take its ports over.

mod deadlines;
mod drain;
mod tell;
#[cfg(test)]
mod tests;

pub use tell::Refused;
pub(super) use tell::key_of;

use super::{
    instance::{Health, Instance},
    local::{LocalService, Process, SourceId, Verdict},
    state::{LocalState, LocalView, SourceStatus},
};
use mesh_control::model::{
    Endpoint, Name, NodeInfo, NodeName, Origin, Protocol, ServiceKey, ServiceSpec, Snapshot, Tunnel,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

/// Why an operator's wish has no place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "this node has no endpoint {instance} of {service}: `mesh-agent endpoint ls {service}` shows them all"
)]
pub struct NoSuchEndpoint {
    /// The service.
    pub service: ServiceKey,
    /// The instance.
    pub instance: Name,
}

/// The state of the source side.
#[derive(Debug)]
pub struct Merge {
    node: NodeName,
    info: NodeInfo,
    said: BTreeMap<SourceId, BTreeMap<ServiceKey, LocalService>>,
    statuses: BTreeMap<SourceId, SourceStatus>,
    instances: BTreeMap<ServiceKey, BTreeMap<Name, Instance>>,
    deadlines: deadlines::Deadlines,
    wall_ahead: u64,
    told_specs: BTreeMap<ServiceKey, BTreeMap<Origin, Arc<ServiceSpec>>>,
    told_endpoints: BTreeMap<ServiceKey, tell::Told>,
    told_info: NodeInfo,
    /// What an earlier run declared and announced, and this run has not spoken of yet.
    leftover_specs: BTreeSet<ServiceKey>,
    leftover_endpoints: BTreeSet<ServiceKey>,
    dirty: BTreeSet<ServiceKey>,
    local: LocalState,
}

impl Merge {
    /// `info` is what the control plane was started with; `sources` are those that will speak.
    #[must_use]
    pub fn new(node: NodeName, info: NodeInfo, sources: &[SourceId]) -> Self {
        let status = |id: &SourceId| SourceStatus {
            id: id.clone(),
            synced: false,
            services: 0,
            errors: Vec::new(),
            last_change: None,
        };
        Merge {
            node,
            told_info: info.clone(),
            info,
            said: BTreeMap::new(),
            statuses: sources.iter().map(|id| (id.clone(), status(id))).collect(),
            instances: BTreeMap::new(),
            deadlines: deadlines::Deadlines::default(),
            wall_ahead: 0,
            told_specs: BTreeMap::new(),
            told_endpoints: BTreeMap::new(),
            leftover_specs: BTreeSet::new(),
            leftover_endpoints: BTreeSet::new(),
            dirty: BTreeSet::new(),
            local: LocalState::new(),
        }
    }

    /// Where this node's encrypted overlay listens.
    pub fn set_tunnels(&mut self, tunnels: Vec<Tunnel>) {
        self.info.tunnels = tunnels;
    }

    /// Everything that `source` says, instead of what it said before.
    pub fn replace(&mut self, now: u64, snapshot: &Snapshot, source: &SourceId, services: Vec<LocalService>) {
        let mut gone: BTreeSet<ServiceKey> =
            self.said.get(source).into_iter().flatten().map(|(k, _)| k.clone()).collect();
        for service in services {
            gone.remove(&service.key);
            self.upsert(now, snapshot, source, service);
        }
        for key in gone {
            self.remove(now, snapshot, source, &key);
        }
    }

    /// What `source` says of one service, instead of what it said of it before.
    pub fn upsert(&mut self, now: u64, snapshot: &Snapshot, source: &SourceId, service: LocalService) {
        let key = service.key.clone();
        let said = self.said.entry(source.clone()).or_default();
        if said.get(&key) == Some(&service) {
            return;
        }
        said.insert(key.clone(), service);
        self.settle(now, snapshot, source, &key);
    }

    /// `source` no longer speaks of a service.
    pub fn remove(&mut self, now: u64, snapshot: &Snapshot, source: &SourceId, key: &ServiceKey) {
        let drain = self.drain_time(snapshot, key);
        if self.said.get_mut(source).and_then(|said| said.remove(key)).is_some() {
            self.settle_with(now, snapshot, source, key, drain);
        }
    }

    /// `source` has told everything once. Whether all have.
    pub fn synced(&mut self, source: &SourceId) -> bool {
        if let Some(status) = self.statuses.get_mut(source) {
            status.synced = true;
        }
        self.statuses.values().all(|s| s.synced)
    }

    /// What is wrong with a source's input now.
    pub fn set_errors(&mut self, source: &SourceId, errors: Vec<String>) {
        if let Some(status) = self.statuses.get_mut(source) {
            status.errors = errors;
        }
    }

    /// Every source.
    pub fn statuses(&self) -> Vec<SourceStatus> {
        self.statuses.values().cloned().collect()
    }

    /// What the checks say of an endpoint; `None` when nothing checks it any more. Dropped when the instance is
    /// another process by now: what was asked was the old one.
    pub fn set_verdict(&mut self, key: &ServiceKey, about: &Process, verdict: Option<Verdict>) {
        let health = verdict.map_or(Health::Unchecked, Health::Checked);
        if let Some(i) = self.instances.get_mut(key).and_then(|all| all.get_mut(&about.instance))
            && about.is(&i.said)
            && i.health != health
        {
            i.health = health;
            self.touch(key);
        }
    }

    fn instance(&mut self, key: &ServiceKey, instance: &Name) -> Result<&mut Instance, NoSuchEndpoint> {
        let none = || NoSuchEndpoint { service: key.clone(), instance: instance.clone() };
        self.instances.get_mut(key).and_then(|all| all.get_mut(instance)).ok_or_else(none)
    }

    /// What an earlier run of this node declared or announced; what no source wants now is withdrawn. To be called
    /// when every source is synced.
    pub fn withdraw_leftovers(&mut self, own: Vec<ServiceKey>) {
        let origin = self.own();
        for key in own {
            self.dirty.insert(key.clone());
            if !self.told_specs.get(&key).is_some_and(|told| told.contains_key(&origin)) {
                self.leftover_specs.insert(key.clone());
            }
            if !self.told_endpoints.contains_key(&key) {
                self.leftover_endpoints.insert(key);
            }
        }
    }

    fn own(&self) -> Origin {
        Origin::Node(self.node.clone())
    }

    /// What the rest of the agent may see.
    #[must_use]
    pub fn local(&self) -> &LocalState {
        &self.local
    }

    /// The declarations wanted, by origin; of two sources with one origin the first by name wins.
    fn wanted(&self, key: &ServiceKey) -> BTreeMap<Origin, Arc<ServiceSpec>> {
        let mut wanted = BTreeMap::new();
        for said in self.said.values() {
            if let Some((origin, spec)) = said.get(key).and_then(|s| s.declaration.as_ref()) {
                wanted.entry(origin.clone()).or_insert_with(|| spec.clone());
            }
        }
        wanted
    }

    fn announced(&self, key: &ServiceKey) -> Vec<Endpoint> {
        self.instances.get(key).into_iter().flatten().map(|(_, i)| i.announced()).collect()
    }

    /// The spec that rules: the one in force in the mesh, or this node's own until the mesh has it.
    fn spec(&self, snapshot: &Snapshot, key: &ServiceKey) -> Option<Arc<ServiceSpec>> {
        let in_force = snapshot.services.get(key).map(|view| view.spec.clone());
        in_force.or_else(|| self.wanted(key).into_values().next())
    }

    /// How long endpoints of a service drain; `None` when they go at once.
    fn drain_time(&self, snapshot: &Snapshot, key: &ServiceKey) -> Option<Duration> {
        let Some(spec) = self.spec(snapshot, key) else { return Some(ServiceSpec::DEFAULT_DRAIN) };
        let udp_only = !spec.ports.is_empty() && spec.ports.iter().all(|p| p.protocol == Protocol::Udp);
        Some(spec.drain).filter(|d| !d.is_zero() && !udp_only)
    }

    fn settle(&mut self, now: u64, snapshot: &Snapshot, source: &SourceId, key: &ServiceKey) {
        let drain = self.drain_time(snapshot, key);
        self.settle_with(now, snapshot, source, key, drain);
    }

    /// Brings the instances of a service in line with what the sources say now.
    fn settle_with(
        &mut self,
        now: u64,
        snapshot: &Snapshot,
        source: &SourceId,
        key: &ServiceKey,
        drain: Option<Duration>,
    ) {
        let mut wanted: BTreeMap<Name, (SourceId, Endpoint)> = BTreeMap::new();
        let mut checked = snapshot.services.get(key).is_some_and(|v| v.spec.health.is_some());
        for (id, said) in &self.said {
            let Some(service) = said.get(key) else { continue };
            checked |= service.exec_check.is_some()
                || service.declaration.as_ref().is_some_and(|(_, spec)| spec.health.is_some());
            for e in service.endpoints.iter() {
                wanted.entry(e.instance.clone()).or_insert_with(|| (id.clone(), e.clone()));
            }
        }
        let fresh = if checked { Health::Waiting } else { Health::Unchecked };
        let until = drain.map(|d| self.until(now, d));
        let all = self.instances.entry(key.clone()).or_default();
        for (name, (id, endpoint)) in &wanted {
            match all.get_mut(name) {
                Some(instance) => instance.say(id, endpoint, fresh),
                None => {
                    // After a restart of the agent, what was ready before stays so until a check says otherwise.
                    let before = !self.statuses.get(id).is_some_and(|s| s.synced);
                    let kept = before && was_ready(snapshot, &self.node, key, endpoint);
                    let health = if kept { Health::Unchecked } else { fresh };
                    all.insert(name.clone(), Instance::new(id.clone(), endpoint.clone(), health));
                }
            }
        }
        all.retain(|name, instance| {
            if !wanted.contains_key(name) && instance.leaving.is_none() {
                instance.leaving = until;
                return until.is_some();
            }
            if !checked {
                instance.health = Health::Unchecked;
            }
            true
        });
        self.schedule(key);
        self.follow_node(now, snapshot, key);
        if let Some(status) = self.statuses.get_mut(source) {
            status.last_change = Some(now.saturating_add(self.wall_ahead));
            status.services = self.said.get(source).map_or(0, BTreeMap::len);
        }
        self.touch(key);
    }

    /// Something about a service changed.
    fn touch(&mut self, key: &ServiceKey) {
        self.dirty.insert(key.clone());
        if self.instances.get(key).is_some_and(BTreeMap::is_empty) {
            self.instances.remove(key);
        }
        let spec = self.wanted(key).into_values().next();
        let exec_check = self.said.values().find_map(|s| s.get(key)?.exec_check.clone()).map(Arc::new);
        let endpoints: Vec<_> =
            self.instances.get(key).into_iter().flatten().map(|(_, i)| (i.announced(), i.health)).collect();
        if spec.is_none() && endpoints.is_empty() {
            self.local.remove(key);
        } else {
            self.local.insert(key.clone(), Arc::new(LocalView { spec, exec_check, endpoints }));
        }
    }
}

fn was_ready(snapshot: &Snapshot, node: &NodeName, key: &ServiceKey, endpoint: &Endpoint) -> bool {
    snapshot.services.get(key).is_some_and(|view| {
        view.endpoints.iter().any(|v| {
            let e = &v.endpoint;
            v.node == *node && e.ready && e.instance == endpoint.instance && e.addresses == endpoint.addresses
        })
    })
}

fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}
