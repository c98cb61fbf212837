//! One service as DNS sees it: the addresses of its ready endpoints, sorted out once for each change.

use imbl::OrdSet;
use mesh_control::model::{EndpointMode, EndpointView, Locality, Name, ServiceKey, ServiceView};
use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

/// Addresses by family, each once: an RRset has no duplicates (RFC 2181 section 5.1).
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct AddressList {
    /// IPv4, in the endpoints' order.
    pub(crate) v4: Vec<Ipv4Addr>,
    /// IPv6, in the endpoints' order.
    pub(crate) v6: Vec<Ipv6Addr>,
}

/// Who an address belongs to; VIPs sort first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Owner {
    /// It is the VIP of this service.
    Vip(ServiceKey),
    /// It is an address of this ready instance of the service.
    Instance(ServiceKey, Name),
}

/// Whose one address is. Nearly always one owner's, and then without the node of a set, which is many times as large;
/// a host's own address can be that of thousands.
#[derive(Clone, Debug)]
pub(crate) enum Owners {
    /// One.
    One(Owner),
    /// Two or more, or what is left of them.
    Many(OrdSet<Owner>),
}

impl Owners {
    /// Adds one; that it is there already changes nothing.
    pub(crate) fn insert(&mut self, owner: Owner) {
        match self {
            Owners::One(one) if *one == owner => {}
            Owners::One(one) => *self = Owners::Many([one.clone(), owner].into_iter().collect()),
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

/// A service, prepared for answers.
#[derive(Debug)]
pub(crate) struct Entry {
    /// As the snapshot has it.
    pub(crate) view: Arc<ServiceView>,
    /// Every ready endpoint.
    pub(crate) tasks: AddressList,
    /// What the name of a `dnsrr` service answers first …
    pub(crate) near: AddressList,
    /// … and after that.
    pub(crate) far: AddressList,
}

impl AddressList {
    /// The endpoints' addresses that are not in `seen` yet.
    fn of<'e>(endpoints: impl Iterator<Item = &'e EndpointView>, seen: &mut HashSet<IpAddr>) -> Self {
        let mut list = AddressList::default();
        for address in endpoints.flat_map(|e| e.endpoint.addresses.iter()) {
            if seen.insert(address) {
                match address {
                    IpAddr::V4(a) => list.v4.push(a),
                    IpAddr::V6(a) => list.v6.push(a),
                }
            }
        }
        list
    }
}

impl Entry {
    pub(crate) fn new(view: Arc<ServiceView>, here: &Here) -> Self {
        let ready = || view.endpoints.iter().filter(|e| e.endpoint.ready);
        let tasks = AddressList::of(ready(), &mut HashSet::new());
        let (mut near, mut far) = (AddressList::default(), AddressList::default());
        if view.spec.endpoint_mode == EndpointMode::Dnsrr {
            // Balancing by DNS has no other place for the weight than leaving the 0 out.
            let balanced = || ready().filter(|e| e.endpoint.weight > 0);
            let is_near = |e: &&EndpointView| match view.spec.locality {
                Locality::Any => true,
                Locality::PreferLocal | Locality::LocalOnly => e.node == here.node,
                Locality::PreferZone => e.node == here.node || (e.zone.is_some() && e.zone == here.zone),
            };
            let mut seen = HashSet::new();
            near = AddressList::of(balanced().filter(is_near), &mut seen);
            if view.spec.locality != Locality::LocalOnly {
                far = AddressList::of(balanced().filter(|e| !is_near(e)), &mut seen);
            }
        }
        Entry { view, tasks, near, far }
    }

    pub(crate) fn key(&self) -> &ServiceKey {
        &self.view.key
    }

    /// The endpoints called `instance`, ready or not: more than one when two nodes use the same name.
    pub(crate) fn instances(&self, instance: &str) -> &[EndpointView] {
        let all = &self.view.endpoints;
        let from = all.partition_point(|e| e.endpoint.instance.as_str() < instance);
        let len = all[from..].partition_point(|e| e.endpoint.instance.as_str() == instance);
        &all[from..from + len]
    }

    /// Every endpoint that takes new flows.
    pub(crate) fn ready(&self) -> impl Iterator<Item = &EndpointView> {
        self.view.endpoints.iter().filter(|e| e.endpoint.ready)
    }

    /// Which addresses answer to a reverse lookup, and as whom.
    pub(crate) fn owners(&self) -> impl Iterator<Item = (IpAddr, Owner)> {
        let vips = self.view.vips.iter().map(|a| (a, Owner::Vip(self.key().clone())));
        let instances = self.ready().flat_map(|e| {
            let owner = Owner::Instance(self.key().clone(), e.endpoint.instance.clone());
            e.endpoint.addresses.iter().map(move |a| (a, owner.clone()))
        });
        vips.chain(instances)
    }
}
