//! The view: a snapshot indexed by name and by address.

use crate::{
    index::{Entry, Here, Owner, Owners},
    shards::Shards,
    zone::Label,
};
use foldhash::fast::RandomState;
use hashbrown::hash_table;
use imbl::OrdMap;
use mesh_control::model::{Changes, Name, ServiceKey, ServiceView, Snapshot};
use smallvec::SmallVec;
use std::{
    hash::{BuildHasher, Hasher},
    net::IpAddr,
    sync::Arc,
};

/// A snapshot as DNS reads it; immutable and cheap to clone. [`DnsView::updated`] shares all that did not change: a
/// change of one service copies one small shard for each of its names, and costs O(log n) for each of its addresses.
/// A name is found in O(1), an address in O(log n).
#[derive(Clone, Debug)]
pub struct DnsView {
    revision: u64,
    here: Here,
    hasher: RandomState,
    names: Shards<Named>,
    namespaces: Shards<(Name, usize)>,
    reverse: OrdMap<IpAddr, Owners>,
    services: usize,
    expired: bool,
}

/// What a name in a namespace leads to.
#[derive(Clone, Debug)]
struct Named {
    /// The name, a 0 and the namespace; most fit here, so that comparing them waits for nothing else.
    text: SmallVec<[u8; 32]>,
    /// The service of this name.
    own: Option<Arc<Entry>>,
    /// The services with this alias; the first has it, unless `own` has.
    aliases: Option<Owners>,
}

impl Named {
    fn is(&self, namespace: Label<'_>, name: Label<'_>) -> bool {
        let (length, text) = (name.len(), self.text.as_slice());
        text.len() == length + 1 + namespace.len()
            && text[length] == 0
            && text[..length] == *name
            && text[length + 1..] == *namespace
    }

    /// Its name and its namespace.
    fn parts(&self) -> (Label<'_>, Label<'_>) {
        match self.text.iter().position(|byte| *byte == 0) {
            Some(at) => (&self.text[..at], &self.text[at + 1..]),
            None => (&self.text[..], &[][..]),
        }
    }

    /// The hash of its text.
    fn hash(&self, hasher: &RandomState) -> u64 {
        let (name, namespace) = self.parts();
        pair(hasher, namespace, name)
    }
}

impl DnsView {
    /// Indexes a whole snapshot.
    #[must_use]
    pub fn new(snapshot: &Snapshot) -> Self {
        let mut view = DnsView {
            revision: snapshot.revision,
            here: here(snapshot),
            hasher: RandomState::default(),
            names: Shards::default(),
            namespaces: Shards::default(),
            reverse: OrdMap::new(),
            services: 0,
            expired: false,
        };
        for (key, service) in &snapshot.services {
            view.put(key, Arc::clone(service));
        }
        view
    }

    /// The view of a later snapshot of the same node.
    #[must_use]
    pub fn updated(&self, snapshot: &Snapshot) -> Self {
        self.updated_within(snapshot, None).unwrap_or_else(|| DnsView::new(snapshot))
    }

    /// The same, if no more than `most` services changed; `None` also when everything is to be indexed anew.
    pub(crate) fn updated_within(&self, snapshot: &Snapshot, most: Option<usize>) -> Option<Self> {
        let changed = self.changed(snapshot)?;
        if most.is_some_and(|most| changed.len() > most) {
            return None;
        }
        let mut view = self.clone();
        for key in changed {
            match snapshot.services.get(&key) {
                Some(service) => view.put(&key, Arc::clone(service)),
                None => view.remove(&key),
            }
        }
        view.revision = snapshot.revision;
        Some(view)
    }

    /// The same, too old to be told: [`crate::answer()`] says SERVFAIL to all names that are ours, as a server whose
    /// copy of a zone has expired (RFC 1034 section 4.3.5).
    #[must_use]
    pub fn expired(&self) -> Self {
        DnsView { expired: true, ..self.clone() }
    }

    pub(crate) fn is_expired(&self) -> bool {
        self.expired
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
    pub(crate) fn service(&self, namespace: Label<'_>, name: Label<'_>) -> Option<&Arc<Entry>> {
        let named = self.find(namespace, name)?;
        let alias = || named.aliases.as_ref().and_then(Owners::first).map(|owner| &owner.entry);
        named.own.as_ref().or_else(alias)
    }

    /// Every service with this alias.
    pub(crate) fn with_alias(
        &self,
        namespace: Label<'_>,
        name: Label<'_>,
    ) -> impl Iterator<Item = &Arc<Entry>> {
        let aliases = self.find(namespace, name).and_then(|named| named.aliases.as_ref());
        aliases.into_iter().flat_map(Owners::iter).map(|owner| &owner.entry)
    }

    fn find(&self, namespace: Label<'_>, name: Label<'_>) -> Option<&Named> {
        let hash = pair(&self.hasher, namespace, name);
        self.names.get(hash, |named| named.is(namespace, name))
    }

    /// Where [`DnsView::service`] looks.
    pub(crate) fn hash(&self, namespace: Label<'_>, name: Label<'_>) -> u64 {
        pair(&self.hasher, namespace, name)
    }

    /// Reads a little of what is at that place; the result says nothing.
    pub(crate) fn touch(&self, hash: u64) -> usize {
        let named = self.names.get(hash, |_| true);
        named
            .and_then(|named| named.own.as_ref())
            .map_or(0, |entry| entry.near.v4.len() + entry.tasks.v4.len())
    }

    /// Whether any service is in this namespace.
    pub(crate) fn has_namespace(&self, namespace: Label<'_>) -> bool {
        let hash = pair(&self.hasher, namespace, b"");
        self.namespaces.get(hash, |(name, _)| name.as_str().as_bytes() == namespace).is_some()
    }

    /// Every name that [`DnsView::service`] finds, with its namespace, in no order.
    pub(crate) fn names(&self) -> impl Iterator<Item = (Label<'_>, Label<'_>)> {
        self.names.iter().map(Named::parts)
    }

    /// Every namespace with a service, in no order.
    pub(crate) fn namespaces(&self) -> impl Iterator<Item = &Name> {
        self.namespaces.iter().map(|(name, _)| name)
    }

    /// Where the server stands.
    pub(crate) fn here(&self) -> &Here {
        &self.here
    }

    /// Whose address this is.
    pub(crate) fn owners(&self, address: IpAddr) -> Option<&Owners> {
        self.reverse.get(&address)
    }

    fn put(&mut self, key: &ServiceKey, service: Arc<ServiceView>) {
        let same = |named: &Named| named.own.as_ref().is_some_and(|own| Arc::ptr_eq(&own.view, &service));
        let (namespace, name) = (key.namespace.as_str().as_bytes(), key.name.as_str().as_bytes());
        if self.find(namespace, name).is_some_and(same) {
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
        for alias in &entry.view.spec.aliases {
            let owner = Owner::service(Arc::clone(&entry));
            self.named(&key.namespace, alias, |named| match &mut named.aliases {
                Some(owners) => owners.insert(owner),
                none => *none = Some(Owners::One(owner)),
            });
        }
        self.named(&key.namespace, &key.name, |named| named.own = Some(entry));
        self.count(&key.namespace, |count| count + 1);
        self.services += 1;
    }

    fn remove(&mut self, key: &ServiceKey) {
        let (namespace, name) = (key.namespace.as_str().as_bytes(), key.name.as_str().as_bytes());
        let Some(entry) = self.find(namespace, name).and_then(|named| named.own.clone()) else { return };
        for (address, owner) in entry.owners() {
            if let Some(owners) = self.reverse.remove(&address)
                && let Some(left) = owners.without(&owner)
            {
                self.reverse.insert(address, left);
            }
        }
        let owner = Owner::service(Arc::clone(&entry));
        for alias in &entry.view.spec.aliases {
            self.named(&key.namespace, alias, |named| {
                named.aliases = named.aliases.take().and_then(|owners| owners.without(&owner));
            });
        }
        self.named(&key.namespace, &key.name, |named| named.own = None);
        self.count(&key.namespace, |count| count - 1);
        self.services -= 1;
    }

    /// Changes what a name leads to; a name that leads nowhere is gone.
    fn named(&mut self, namespace: &Name, name: &Name, change: impl FnOnce(&mut Named)) {
        let hasher = &self.hasher;
        let (namespace, name) = (namespace.as_str().as_bytes(), name.as_str().as_bytes());
        let hash = pair(hasher, namespace, name);
        let same = |named: &Named| named.is(namespace, name);
        let mut entry = match self.names.shard_mut(hash).entry(hash, same, |named| named.hash(hasher)) {
            hash_table::Entry::Occupied(entry) => entry,
            hash_table::Entry::Vacant(entry) => {
                let text = name.iter().chain(&[0]).chain(namespace).copied().collect();
                entry.insert(Named { text, own: None, aliases: None })
            }
        };
        change(entry.get_mut());
        if entry.get().own.is_none() && entry.get().aliases.is_none() {
            entry.remove();
        }
    }

    /// Counts the services of a namespace.
    fn count(&mut self, namespace: &Name, change: impl FnOnce(usize) -> usize) {
        let hasher = &self.hasher;
        let hash_of = |name: &Name| pair(hasher, name.as_str().as_bytes(), b"");
        let hash = hash_of(namespace);
        let shard = self.namespaces.shard_mut(hash);
        let entry = shard.entry(hash, |(name, _)| name == namespace, |(name, _)| hash_of(name));
        let mut entry = match entry {
            hash_table::Entry::Occupied(entry) => entry,
            hash_table::Entry::Vacant(entry) => entry.insert((namespace.clone(), 0)),
        };
        entry.get_mut().1 = change(entry.get().1);
        if entry.get().1 == 0 {
            entry.remove();
        }
    }
}

/// The hash of a name in a namespace, without putting the two together.
fn pair(hasher: &RandomState, namespace: Label<'_>, name: Label<'_>) -> u64 {
    let mut state = hasher.build_hasher();
    state.write(name);
    // No label's byte, so that no two pairs write the same.
    state.write_u8(0);
    state.write(namespace);
    state.finish()
}

fn here(snapshot: &Snapshot) -> Here {
    let zone = snapshot.nodes.get(&snapshot.local).and_then(|node| node.info.zone.clone());
    Here { node: snapshot.local.clone(), zone }
}
