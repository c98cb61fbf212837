//! The plan of all services, kept up to date service by service.

use super::{
    compile::compile_service,
    facts::{NodeFacts, Policy},
    frontend::FrontendKey,
    ops::{Entry, Table},
};
use imbl::{OrdMap, OrdSet};
use mesh_control::model::{ServiceKey, Snapshot};
use std::{collections::BTreeSet, sync::Arc};

/// What a data plane should hold. Cloning costs O(1); an update copies O(log n) per frontend it touches.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Desired {
    /// Frontends with their backends.
    pub table: Table,
    /// The frontends each service asks for, also those it does not get; sorted.
    pub by_service: OrdMap<ServiceKey, Arc<[FrontendKey]>>,
    /// Frontends that several services ask for, and who. Claims make this empty; while they disagree (a partition
    /// that just healed) the least service key gets the frontend on every node.
    contested: OrdMap<FrontendKey, OrdSet<ServiceKey>>,
}

/// The plan of a whole snapshot: the union of [`compile_service`] over its services. Pure and deterministic.
#[must_use]
pub fn compile(snapshot: &Snapshot, node: &NodeFacts, policy: &Policy) -> Desired {
    let mut desired = Desired::default();
    desired.update(snapshot, snapshot.services.keys(), node, policy);
    desired
}

impl Desired {
    /// Recompiles the services named in `changed` (added, edited or removed) and returns the frontends whose entry
    /// may differ now. Costs time in what changed, whatever the number of services. What stays equal keeps its
    /// allocations. The result equals [`compile`] of the same snapshot if every changed service is named.
    pub fn update<'a>(
        &mut self,
        snapshot: &Snapshot,
        changed: impl IntoIterator<Item = &'a ServiceKey>,
        node: &NodeFacts,
        policy: &Policy,
    ) -> BTreeSet<FrontendKey> {
        let mut touched = BTreeSet::new();
        for service in changed {
            let compile = |key: &ServiceKey| {
                snapshot.services.get(key).map_or_else(Vec::new, |view| compile_service(view, node, policy))
            };
            let entries = compile(service);
            let wanted: Arc<[FrontendKey]> = entries.iter().map(|e| e.frontend.key).collect();
            let before = match wanted.is_empty() {
                true => self.by_service.remove(service),
                false => self.by_service.insert(service.clone(), Arc::clone(&wanted)),
            };
            for key in before.iter().flat_map(|keys| keys.iter()) {
                if wanted.binary_search(key).is_err() {
                    touched.insert(*key);
                    self.release(*key, service, compile);
                }
            }
            for entry in entries {
                touched.insert(entry.frontend.key);
                self.claim(entry);
            }
        }
        touched
    }

    /// Takes `service` off `key`; if others ask for it too, the least of them inherits it.
    fn release(
        &mut self,
        key: FrontendKey,
        service: &ServiceKey,
        compile: impl Fn(&ServiceKey) -> Vec<Entry>,
    ) {
        let mut heir = None;
        if let Some(mut claimants) = self.contested.remove(&key) {
            claimants.remove(service);
            heir = claimants.get_min().cloned();
            if claimants.len() > 1 {
                self.contested.insert(key, claimants);
            }
        }
        if self.table.get(&key).is_some_and(|held| held.frontend.service != *service) {
            return;
        }
        // The heir may have changed in the same step and not want it any more: then its own turn sorts it out.
        let inherited = heir.and_then(|heir| compile(&heir).into_iter().find(|e| e.frontend.key == key));
        match inherited {
            Some(entry) => self.table.insert(key, entry),
            None => self.table.remove(&key),
        };
    }

    /// Gives `entry` its frontend unless a lesser service holds it.
    fn claim(&mut self, entry: Entry) {
        let key = entry.frontend.key;
        let Some(held) = self.table.get(&key) else {
            self.table.insert(key, entry);
            return;
        };
        let (mine, theirs) = (&entry.frontend.service, &held.frontend.service);
        if mine != theirs {
            let claimants = self.contested.entry(key).or_default();
            claimants.insert(mine.clone());
            claimants.insert(theirs.clone());
            if theirs < mine {
                return;
            }
        }
        if *held != entry {
            let kept = entry.sharing(held);
            self.table.insert(key, kept);
        }
    }
}
