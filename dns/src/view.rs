//! The view: a snapshot indexed by name and by address.

use crate::index::{Entry, Here, Owners};
use imbl::{OrdMap, OrdSet};
use mesh_control::model::{Changes, Name, ServiceKey, ServiceView, Snapshot};
use std::{net::IpAddr, sync::Arc};

/// A snapshot as DNS reads it; immutable and cheap to clone. [`DnsView::updated`] shares all that did not change, so
/// a change of one service costs O(log n) in the number of services and O(k log n) in its own k endpoints. Every
/// lookup is O(log n).
#[derive(Clone, Debug)]
pub struct DnsView {
    revision: u64,
    here: Here,
    namespaces: OrdMap<Name, Namespace>,
    reverse: OrdMap<IpAddr, Owners>,
    services: usize,
}

/// The services of one namespace. A namespace exists while it has one.
#[derive(Clone, Debug, Default)]
struct Namespace {
    services: OrdMap<Name, Arc<Entry>>,
    /// Alias → the services that claim it; the least name has it.
    aliases: OrdMap<Name, OrdSet<Name>>,
}

impl DnsView {
    /// Indexes a whole snapshot.
    #[must_use]
    pub fn new(snapshot: &Snapshot) -> Self {
        let mut view = DnsView {
            revision: snapshot.revision,
            here: here(snapshot),
            namespaces: OrdMap::new(),
            reverse: OrdMap::new(),
            services: 0,
        };
        for (key, service) in &snapshot.services {
            view.put(key, Arc::clone(service));
        }
        view
    }

    /// The view of a later snapshot of the same node.
    #[must_use]
    pub fn updated(&self, snapshot: &Snapshot) -> Self {
        let Some(changed) = self.changed(snapshot) else { return DnsView::new(snapshot) };
        let mut view = self.clone();
        for key in changed {
            match snapshot.services.get(&key) {
                Some(service) => view.put(&key, Arc::clone(service)),
                None => view.remove(&key),
            }
        }
        view.revision = snapshot.revision;
        view
    }

    /// Whether [`DnsView::updated`] would have to index everything.
    pub(crate) fn needs_rebuild(&self, snapshot: &Snapshot) -> bool {
        self.changed(snapshot).is_none()
    }

    fn changed(&self, snapshot: &Snapshot) -> Option<std::collections::BTreeSet<ServiceKey>> {
        // A move of this node to another zone touches every `locality`.
        if here(snapshot) != self.here {
            return None;
        }
        match snapshot.changed_since(self.revision) {
            Changes::All => None,
            Changes::Services(keys) => Some(keys),
        }
    }

    /// The snapshot's revision.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// How many services have names here.
    #[must_use]
    pub fn services(&self) -> usize {
        self.services
    }

    /// The service with this name or else alias, both in lower case.
    pub(crate) fn service(&self, namespace: &str, name: &str) -> Option<&Arc<Entry>> {
        let namespace = self.namespaces.get(namespace)?;
        namespace.services.get(name).or_else(|| {
            let claimants = namespace.aliases.get(name)?;
            namespace.services.get(claimants.get_min()?)
        })
    }

    pub(crate) fn has_namespace(&self, namespace: &str) -> bool {
        self.namespaces.contains_key(namespace)
    }

    /// Whose address this is.
    pub(crate) fn owners(&self, address: IpAddr) -> Option<&Owners> {
        self.reverse.get(&address)
    }

    fn put(&mut self, key: &ServiceKey, service: Arc<ServiceView>) {
        if let Some(namespace) = self.namespaces.get(&key.namespace)
            && let Some(old) = namespace.services.get(&key.name)
            && Arc::ptr_eq(&old.view, &service)
        {
            return;
        }
        self.remove(key);
        let entry = Arc::new(Entry::new(service, &self.here));
        for (address, owner) in entry.owners() {
            match self.reverse.get_mut(&address) {
                Some(owners) => owners.insert(owner),
                None => drop(self.reverse.insert(address, Owners::One(owner))),
            }
        }
        let mut namespace = self.namespaces.get(&key.namespace).cloned().unwrap_or_default();
        for alias in &entry.view.spec.aliases {
            let mut claimants = namespace.aliases.get(alias).cloned().unwrap_or_default();
            claimants.insert(key.name.clone());
            namespace.aliases.insert(alias.clone(), claimants);
        }
        namespace.services.insert(key.name.clone(), entry);
        self.namespaces.insert(key.namespace.clone(), namespace);
        self.services += 1;
    }

    fn remove(&mut self, key: &ServiceKey) {
        let Some(mut namespace) = self.namespaces.get(&key.namespace).cloned() else { return };
        let Some(entry) = namespace.services.remove(&key.name) else { return };
        self.services -= 1;
        for (address, owner) in entry.owners() {
            if let Some(owners) = self.reverse.remove(&address)
                && let Some(left) = owners.without(&owner)
            {
                self.reverse.insert(address, left);
            }
        }
        for alias in &entry.view.spec.aliases {
            if let Some(mut claimants) = namespace.aliases.get(alias).cloned() {
                claimants.remove(&key.name);
                if claimants.is_empty() {
                    namespace.aliases.remove(alias);
                } else {
                    namespace.aliases.insert(alias.clone(), claimants);
                }
            }
        }
        if namespace.services.is_empty() {
            self.namespaces.remove(&key.namespace);
        } else {
            self.namespaces.insert(key.namespace.clone(), namespace);
        }
    }
}

fn here(snapshot: &Snapshot) -> Here {
    let zone = snapshot.nodes.get(&snapshot.local).and_then(|node| node.info.zone.clone());
    Here { node: snapshot.local.clone(), zone }
}
