//! What the mesh has not been told yet. Pure.

use super::Merge;
use mesh_control::{
    LocalChange,
    model::{Endpoint, ServiceKey},
};
use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
};

/// What the control plane did not take, and why; not offered again until this is empty.
#[derive(Debug, Default)]
pub struct Refused {
    /// What is said of the node itself.
    pub node: Option<String>,
    /// What is said of services.
    pub services: BTreeMap<ServiceKey, String>,
}

impl Merge {
    /// At most about `most` changes that the mesh has not been told, by service, without those that were refused.
    #[must_use]
    pub fn changes(&mut self, most: usize, refused: &Refused) -> Vec<LocalChange> {
        let mut changes = Vec::new();
        if self.info != self.told_info && refused.node.is_none() {
            changes.push(LocalChange::SetNode(self.info.clone()));
        }
        let mut idle = Vec::new();
        for key in self.dirty.iter().filter(|k| !refused.services.contains_key(*k)) {
            if changes.len() >= most {
                break;
            }
            let before = changes.len();
            self.changes_of(key, &mut changes);
            if changes.len() == before {
                idle.push(key.clone());
            }
        }
        for key in &idle {
            self.forget(key);
        }
        changes
    }

    fn changes_of(&self, key: &ServiceKey, into: &mut Vec<LocalChange>) {
        let wanted = self.wanted(key);
        let none = BTreeMap::new();
        let told = self.told_specs.get(key).unwrap_or(&none);
        for (origin, spec) in &wanted {
            if told.get(origin) != Some(spec) {
                into.push(LocalChange::PutService {
                    origin: origin.clone(),
                    key: key.clone(),
                    spec: spec.clone(),
                });
            }
        }
        let own = self.own();
        let gone = told.keys().chain(self.leftover_specs.contains(key).then_some(&own));
        for origin in gone.filter(|o| !wanted.contains_key(*o)) {
            into.push(LocalChange::DeleteService { origin: origin.clone(), key: key.clone() });
        }
        let endpoints = self.announced(key);
        let told = self.told_endpoints.get(key);
        let same = told.map_or(endpoints.is_empty() && !self.leftover_endpoints.contains(key), |told| {
            *told == Told::of(&endpoints)
        });
        if !same {
            into.push(LocalChange::PutEndpoints { key: key.clone(), endpoints });
        }
    }

    /// The mesh took these, which came from [`Merge::changes`].
    pub fn told(&mut self, changes: &[LocalChange]) {
        let own = self.own();
        for change in changes {
            let key = match change {
                LocalChange::SetNode(info) => {
                    self.told_info = info.clone();
                    continue;
                }
                // No source speaks of keys.
                LocalChange::Key(_) => continue,
                LocalChange::PutService { origin, key, spec } => {
                    self.told_specs.entry(key.clone()).or_default().insert(origin.clone(), spec.clone());
                    key
                }
                LocalChange::DeleteService { origin, key } => {
                    if let Some(told) = self.told_specs.get_mut(key) {
                        told.remove(origin);
                    }
                    key
                }
                LocalChange::PutEndpoints { key, endpoints } => {
                    self.told_endpoints.insert(key.clone(), Told::of(endpoints));
                    self.leftover_endpoints.remove(key);
                    key
                }
            };
            if let LocalChange::PutService { origin, .. } | LocalChange::DeleteService { origin, .. } = change
                && *origin == own
            {
                self.leftover_specs.remove(key);
            }
        }
        for key in changes.iter().filter_map(key_of) {
            let mut left = Vec::new();
            self.changes_of(key, &mut left);
            if left.is_empty() {
                self.forget(key);
            }
        }
    }

    /// A service needs no telling.
    fn forget(&mut self, key: &ServiceKey) {
        self.dirty.remove(key);
        self.leftover_specs.remove(key);
        if self.told_specs.get(key).is_some_and(BTreeMap::is_empty) {
            self.told_specs.remove(key);
        }
        if self.told_endpoints.get(key).is_some_and(|told| told.count == 0) {
            self.told_endpoints.remove(key);
        }
    }
}

/// What the mesh was told of a service's endpoints: enough to see that they are others now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Told {
    count: usize,
    /// SipHash of them all; two different lists have the same by a chance of 2^-64.
    digest: u64,
}

impl Told {
    fn of(endpoints: &[Endpoint]) -> Self {
        let mut hasher = DefaultHasher::new();
        endpoints.hash(&mut hasher);
        Told { count: endpoints.len(), digest: hasher.finish() }
    }
}

/// The service that a change is about.
pub(crate) fn key_of(change: &LocalChange) -> Option<&ServiceKey> {
    match change {
        LocalChange::PutService { key, .. }
        | LocalChange::DeleteService { key, .. }
        | LocalChange::PutEndpoints { key, .. } => Some(key),
        LocalChange::SetNode(_) | LocalChange::Key(_) => None,
    }
}
