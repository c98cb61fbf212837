//! One service as DNS sees it: the addresses of its ready endpoints, sorted out once for each change.

use crate::zone::Label;
use imbl::OrdSet;
use mesh_control::model::{EndpointMode, EndpointView, Locality, Name, ServiceKey, ServiceView};
use smallvec::SmallVec;
use std::{
    cmp::Ordering,
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

/// Addresses by family, each once: an RRset has no duplicates (RFC 2181 section 5.1).
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct AddressList {
    /// IPv4, in the endpoints' order. A VIP lies in the entry itself: one place less to wait for.
    pub(crate) v4: SmallVec<[Ipv4Addr; 4]>,
    /// IPv6, in the endpoints' order.
    pub(crate) v6: SmallVec<[Ipv6Addr; 1]>,
}

/// A service by one of the names or addresses that lead to it, or one of its instances.
#[derive(Clone, Debug)]
pub(crate) struct Owner {
    /// The service.
    pub(crate) entry: Arc<Entry>,
    /// Which of its endpoints; none for the service itself.
    at: Option<u32>,
}

impl Owner {
    /// The service itself.
    pub(crate) fn service(entry: Arc<Entry>) -> Self {
        Owner { entry, at: None }
    }

    /// The instance, when it is one's.
    pub(crate) fn instance(&self) -> Option<&Name> {
        let at = usize::try_from(self.at?).ok()?;
        self.entry.view.endpoints.get(at).map(|e| &e.endpoint.instance)
    }

    fn order(&self) -> (bool, &ServiceKey, Option<&Name>) {
        (self.at.is_some(), self.entry.key(), self.instance())
    }
}

/// Services first, then by key and instance; two versions of one service are the same.
impl Ord for Owner {
    fn cmp(&self, other: &Self) -> Ordering {
        self.order().cmp(&other.order())
    }
}

impl PartialOrd for Owner {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Owner {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Owner {}

/// Who has an address or claims an alias. Nearly always one, and then without the node of a set, which is many times
/// as large; a host's own address can be that of thousands.
#[derive(Clone, Debug)]
pub(crate) enum Owners {
    /// One.
    One(Owner),
    /// Two or more, or what is left of them.
    Many(Box<OrdSet<Owner>>),
}

impl Owners {
    /// Adds one; that it is there already changes nothing.
    pub(crate) fn insert(&mut self, owner: Owner) {
        match self {
            Owners::One(one) if *one == owner => {}
            Owners::One(one) => {
                *self = Owners::Many(Box::new([one.clone(), owner].into_iter().collect()));
            }
            Owners::Many(all) => drop(all.insert(owner)),
        }
    }

    /// Without `owner`; `None` when nobody is left.
    pub(crate) fn without(mut self, owner: &Owner) -> Option<Owners> {
        match &mut self {
            Owners::One(one) => (one != owner).then_some(self),
            Owners::Many(all) => {
                all.remove(owner);
                match all.len() {
                    0 => None,
                    1 => all.get_min().cloned().map(Owners::One),
                    _ => Some(self),
                }
            }
        }
    }

    /// The first in order.
    pub(crate) fn first(&self) -> Option<&Owner> {
        match self {
            Owners::One(one) => Some(one),
            Owners::Many(all) => all.get_min(),
        }
    }

    /// In order: services first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Owner> {
        let (one, many) = match self {
            Owners::One(one) => (Some(one), None),
            Owners::Many(all) => (None, Some(all.iter())),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }
}

/// Where the server stands, for `locality`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Here {
    /// This node.
    pub(crate) node: Name,
    /// Its zone label.
    pub(crate) zone: Option<Name>,
}

/// Where an endpoint stands when the name of a service without a VIP is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It takes no new flow.
    Unready,
    /// Balancing by DNS has no other place for a weight of 0 than leaving it out.
    Weightless,
    /// `local-only`, and it is on another node.
    Elsewhere,
    /// Answered first …
    Near,
    /// … and after those the others.
    Far,
}

impl Here {
    pub(crate) fn standing(&self, e: &EndpointView, locality: Locality) -> Standing {
        let near = match locality {
            Locality::Any => true,
            Locality::PreferLocal | Locality::LocalOnly => e.node == self.node,
            Locality::PreferZone => e.node == self.node || (e.zone.is_some() && e.zone == self.zone),
        };
        match (e.endpoint.ready, e.endpoint.weight) {
            (false, _) => Standing::Unready,
            (true, 0) => Standing::Weightless,
            (true, _) if near => Standing::Near,
            (true, _) if locality == Locality::LocalOnly => Standing::Elsewhere,
            (true, _) => Standing::Far,
        }
    }
}

/// A service, prepared for answers.
#[derive(Debug)]
pub(crate) struct Entry {
    /// As the snapshot has it.
    pub(crate) view: Arc<ServiceView>,
    /// Every ready endpoint.
    pub(crate) tasks: AddressList,
    /// What the service's name answers: its VIPs, or with `dnsrr` the endpoints to prefer …
    pub(crate) near: AddressList,
    /// … and after those the others.
    pub(crate) far: AddressList,
    /// Of the spec, here so that most answers need not look there: its TTLs …
    pub(crate) ttl: Option<u32>,
    pub(crate) negative_ttl: Option<u32>,
    /// … and whether another domain name stands for the service.
    pub(crate) external: bool,
}

impl AddressList {
    /// No address.
    pub(crate) const NONE: AddressList = AddressList { v4: SmallVec::new_const(), v6: SmallVec::new_const() };

    pub(crate) fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// The addresses that are not in `seen` yet.
    fn of(addresses: impl Iterator<Item = IpAddr>, seen: &mut HashSet<IpAddr>) -> Self {
        let (mut v4, mut v6) = (SmallVec::new(), SmallVec::new());
        for address in addresses.filter(|a| seen.insert(*a)) {
            match address {
                IpAddr::V4(a) => v4.push(a),
                IpAddr::V6(a) => v6.push(a),
            }
        }
        v4.shrink_to_fit();
        v6.shrink_to_fit();
        AddressList { v4, v6 }
    }

    fn of_endpoints<'e>(
        endpoints: impl Iterator<Item = &'e EndpointView>,
        seen: &mut HashSet<IpAddr>,
    ) -> Self {
        Self::of(endpoints.flat_map(|e| e.endpoint.addresses.iter()), seen)
    }
}

impl Entry {
    pub(crate) fn new(view: Arc<ServiceView>, here: &Here) -> Self {
        let ready = || view.endpoints.iter().filter(|e| e.endpoint.ready);
        let tasks = AddressList::of_endpoints(ready(), &mut HashSet::new());
        let mut seen = HashSet::new();
        let (near, far) = match view.spec.endpoint_mode {
            EndpointMode::Vip => (AddressList::of(view.vips.iter(), &mut seen), AddressList::default()),
            EndpointMode::Dnsrr => {
                let standing = |wanted: Standing| {
                    let locality = view.spec.locality;
                    view.endpoints.iter().filter(move |e| here.standing(e, locality) == wanted)
                };
                let near = AddressList::of_endpoints(standing(Standing::Near), &mut seen);
                (near, AddressList::of_endpoints(standing(Standing::Far), &mut seen))
            }
        };
        let (ttl, negative_ttl) = (view.spec.ttl, view.spec.negative_ttl);
        let external = view.spec.external_name.is_some();
        Entry { view, tasks, near, far, ttl, negative_ttl, external }
    }

    pub(crate) fn key(&self) -> &ServiceKey {
        &self.view.key
    }

    /// The endpoints called `instance`, ready or not: more than one when two nodes use the same name.
    pub(crate) fn instances(&self, instance: Label<'_>) -> &[EndpointView] {
        let all = &self.view.endpoints;
        let order = |e: &EndpointView| e.endpoint.instance.as_str().as_bytes().cmp(instance);
        let from = all.partition_point(|e| order(e).is_lt());
        let len = all[from..].partition_point(|e| order(e).is_eq());
        &all[from..from + len]
    }

    /// Every endpoint that takes new flows.
    pub(crate) fn ready(&self) -> impl Iterator<Item = &EndpointView> {
        self.view.endpoints.iter().filter(|e| e.endpoint.ready)
    }

    /// Which addresses answer to a reverse lookup, and as whom.
    pub(crate) fn owners(self: &Arc<Self>) -> impl Iterator<Item = (IpAddr, Owner)> {
        let vips = self.view.vips.iter().map(|a| (a, Owner::service(Arc::clone(self))));
        let instances = (0u32..).zip(self.view.endpoints.iter()).filter(|(_, e)| e.endpoint.ready);
        let instances = instances.flat_map(|(at, e)| {
            let owner = Owner { entry: Arc::clone(self), at: Some(at) };
            e.endpoint.addresses.iter().map(move |a| (a, owner.clone()))
        });
        vips.chain(instances)
    }
}
