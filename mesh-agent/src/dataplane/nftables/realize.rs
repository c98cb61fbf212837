//! From a frontend and its backends to the elements that stand for it. Pure: the same entry always gives the same
//! elements, so what the kernel holds can be compared with what it should hold.

use super::{
    chain::{Pick, Shape, Target},
    layout::{Layout, octets},
    names::{ALLOW, BACKENDS, DENIED, HAIRPIN, IDLE, IDS, LIMITED, MASQUERADE, PICKS, SERVICES, SLOTS, VIPS},
    note,
    slots::slots,
};
use crate::{
    plan::{Backend, Entry, Frontend, Listen, maglev},
    sys::nft::{Data, Element, concat},
};
use ipnetwork::IpNetwork;
use mesh_control::model::{Family, NoBackend, NodeName, Scheduler, ServiceKey};
use std::net::IpAddr;

/// Most elements of one frontend: ports times slots.
const MOST: usize = 1 << 18;

/// What elements depend on besides the frontend.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::dataplane) struct Place {
    /// This node.
    pub(in crate::dataplane) node: NodeName,
    /// Networks of addresses whose answers come back through us wherever the endpoint is.
    pub(in crate::dataplane) overlay: Vec<IpNetwork>,
}

/// An element and the set it belongs to.
pub(in crate::dataplane) type Placed = (&'static str, Element);

/// What stands for a frontend.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Realized {
    pub(super) target: Target,
    /// Elements of its own.
    pub(super) own: Vec<Placed>,
    /// Elements that several frontends may need alike.
    pub(super) shared: Vec<Placed>,
}

/// Why a frontend cannot be had, whatever its backends.
pub(super) fn unsupported(frontend: &Frontend) -> Option<String> {
    if frontend.proxy_protocol {
        return Some(
            "nftables sends no PROXY protocol: backends see the client's address as it is, or use the userspace plane"
                .into(),
        );
    }
    (frontend.scheduler == Scheduler::Lc).then(|| {
        let scheduler = frontend.scheduler;
        format!("nftables cannot schedule by {scheduler}: use rr, wrr, random or maglev")
    })
}

/// Why a frontend cannot be had with so many ports and backends.
pub(super) fn too_large(entry: &Entry) -> Option<String> {
    let slots = slots(entry).map_or(0, |(_, slots)| slots.len());
    let ports = usize::try_from(entry.frontend.key.ports.count()).unwrap_or(usize::MAX);
    (ports.saturating_mul(slots.max(1)) > MOST).then(|| {
        format!("{ports} ports × {slots} slots are more than nftables should hold: publish fewer ports")
    })
}

/// The id of a service, for affinity.
pub(super) fn service_id(service: &ServiceKey) -> [u8; 8] {
    let bytes = service.namespace.as_str().bytes().chain([b'/']).chain(service.name.as_str().bytes());
    let fnv = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    maglev::mix(fnv).to_ne_bytes()
}

/// The id of a backend, for affinity.
pub(in crate::dataplane) fn backend_id(backend: &Backend) -> [u8; 8] {
    maglev::backend_hash(&backend.id).to_ne_bytes()
}

/// The elements of an entry; `counter` is which of the round-robin counters it has.
pub(super) fn realize(layout: &Layout, place: &Place, entry: &Entry, counter: u16) -> Realized {
    let frontend = &*entry.frontend;
    let key = frontend.key;
    let (address, local) = match key.listen {
        Listen::Vip(a) | Listen::Address(a) => (Some(a), false),
        Listen::AnyLocal(_) => (None, true),
    };
    let usable = |b: &Backend| Family::of(&b.address) == layout.family;
    let (pick, picked) = slots(entry).unwrap_or((Pick::Random, Vec::new()));
    let picked: Vec<usize> = picked.into_iter().filter(|i| usable(&entry.backends[*i])).collect();
    let pick = if let Pick::Next(_) = pick { Pick::Next(counter) } else { pick };
    let target = match (picked.is_empty(), frontend.no_backend) {
        (true, NoBackend::Drop) => Target::Drop,
        (true, NoBackend::Reject | NoBackend::Hold) => Target::Reject,
        (false, _) => Target::Pick(Shape {
            pick,
            slots: u32::try_from(picked.len()).unwrap_or(u32::MAX),
            local,
            // A timeout of 0 would be for ever.
            sticky: frontend
                .affinity
                .map(|a| u64::try_from(a.timeout.as_millis()).unwrap_or(u64::MAX).max(1)),
            most: frontend.max_connections,
            allow: !frontend.allow.is_empty(),
        }),
    };
    let mut own = Vec::new();
    for (offset, port) in (0_u16..).zip(key.ports.iter()) {
        let base = layout.key(address, key.protocol, port);
        let first = offset == 0;
        let plain = |key: Vec<u8>, data| Element { key, data, ..Element::default() };
        let noted = |element: Element, backend: &Backend, new: bool| match first && new {
            true => Element { note: note::of_backend(backend), ..element },
            false => element,
        };
        let mut service = plain(base.clone(), Some(Data::Goto(target.to_string())));
        if first {
            service.note = note::of_frontend(frontend);
        }
        own.push((SERVICES, service));
        let sticky = target.shape().is_some_and(|shape| shape.sticky.is_some());
        let mut seen = vec![false; entry.backends.len()];
        for (slot, index) in (0_u32..).zip(&picked) {
            let backend = &entry.backends[*index];
            let new = !std::mem::replace(&mut seen[*index], true);
            let numbered = concat(&[&base, &slot.to_ne_bytes()]);
            if sticky {
                let id = Some(Data::Bytes(backend_id(backend).to_vec()));
                own.push((PICKS, plain(numbered, id)));
                if new {
                    let named = concat(&[&base, &backend_id(backend)]);
                    let element = plain(named, Some(Data::Bytes(socket(backend, offset))));
                    own.push((BACKENDS, noted(element, backend, true)));
                }
            } else {
                let element = plain(numbered, Some(Data::Bytes(socket(backend, offset))));
                own.push((SLOTS, noted(element, backend, new)));
            }
        }
        if sticky {
            let id = Data::Bytes(service_id(&frontend.service).to_vec());
            own.push((IDS, plain(base.clone(), Some(id))));
        }
        if first {
            for (backend, _) in entry.backends.iter().zip(&seen).filter(|(_, seen)| !**seen) {
                let element = plain(concat(&[&base, &backend_id(backend)]), None);
                own.push((IDLE, noted(element, backend, true)));
            }
        }
        if frontend.max_connections.is_some() {
            own.push((LIMITED, plain(base.clone(), None)));
        }
        if !frontend.allow.is_empty() {
            own.push((DENIED, plain(base.clone(), None)));
            own.extend(allowed(layout, &base, &frontend.allow).map(|element| (ALLOW, element)));
        }
    }
    Realized { target, own, shared: shared(layout, place, entry, &picked) }
}

/// Where slot and backend elements lead.
fn socket(backend: &Backend, offset: u16) -> Vec<u8> {
    concat(&[&octets(backend.address), &backend.port.saturating_add(offset).to_be_bytes()])
}

/// One element for each network of the family, with its place in the list.
pub(in crate::dataplane) fn allowed<'a>(
    layout: &'a Layout,
    base: &'a [u8],
    allow: &'a [IpNetwork],
) -> impl Iterator<Item = Element> + 'a {
    let ours = |(_, network): &(u16, &IpNetwork)| Family::of(&network.ip()) == layout.family;
    (0_u16..).zip(allow).filter(ours).map(move |(at, network)| Element {
        key: concat(&[base, &octets(network.network())]),
        key_end: Some(concat(&[base, &octets(network.broadcast())])),
        note: concat(&[&at.to_be_bytes(), &[network.prefix()], &octets(network.ip())]),
        ..Element::default()
    })
}

/// The place and the network of an element of [`ALLOW`].
pub(in crate::dataplane) fn read_allowed(note: &[u8]) -> Option<(u16, IpNetwork)> {
    let at = u16::from_be_bytes(note.get(..2)?.try_into().ok()?);
    let prefix = *note.get(4)?;
    let address: IpAddr = match note.get(8..)? {
        v4 if v4.len() == 4 => <[u8; 4]>::try_from(v4).ok()?.into(),
        v6 => <[u8; 16]>::try_from(v6).ok()?.into(),
    };
    Some((at, IpNetwork::new(address, prefix).ok()?))
}

/// What several frontends may need alike; `picked` are the backends that get flows.
pub(in crate::dataplane) fn shared(
    layout: &Layout,
    place: &Place,
    entry: &Entry,
    picked: &[usize],
) -> Vec<Placed> {
    let bare = |set, key| (set, Element { key, ..Element::default() });
    let mut shared = Vec::new();
    if let Listen::Vip(vip) = entry.frontend.key.listen {
        shared.push(bare(VIPS, octets(vip)));
    }
    let mut backends: Vec<&Backend> = picked.iter().map(|i| &entry.backends[*i]).collect();
    backends.sort_unstable_by_key(|b| (b.address, &b.id));
    backends.dedup_by_key(|b| b.address);
    for backend in backends.into_iter().filter(|b| Family::of(&b.address) == layout.family) {
        let bytes = octets(backend.address);
        if backend.id.node == place.node {
            shared.push(bare(HAIRPIN, concat(&[&bytes, &bytes])));
        } else if !place.overlay.iter().any(|network| network.contains(backend.address)) {
            shared.push(bare(MASQUERADE, bytes));
        }
    }
    shared
}
