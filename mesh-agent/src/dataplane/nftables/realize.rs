//! From a frontend and its backends to the elements that stand for it. Pure: the same entry always gives the same
//! elements, so what the kernel holds can be compared with what it should hold.

use super::{
    ids::SetId,
    shape::{Pick, Shape, Target, hashed},
    slots::slots,
};
use crate::{
    dataplane::netfilter::{
        elements::{Place, allowed, backend_id, shared},
        layout::{Layout, octets},
        note,
        sets::Common,
    },
    plan::{Backend, Entry, Frontend, Listen},
    sys::nft::{Count, Data, Element, concat},
};
use mesh_control::model::{Family, NoBackend, Scheduler, ServiceKey};
use std::time::Duration;

/// Most elements of one frontend: ports times slots.
const MOST: usize = 1 << 18;

/// An element and the set it belongs to.
pub(super) type Placed = (SetId, Element);

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
    hashed(bytes)
}

/// Where an entry's flows go: what there is to decide before its elements can be told.
pub(super) struct Picked {
    /// With number 0.
    pub(super) target: Target,
    /// What slots lead to, by the index of the backend.
    slots: Vec<usize>,
}

/// Works that out.
pub(super) fn picked(layout: &Layout, entry: &Entry) -> Picked {
    let frontend = &*entry.frontend;
    let (pick, mut slots) = slots(entry).unwrap_or((Pick::Random, Vec::new()));
    slots.retain(|i| Family::of(&entry.backends[*i].address) == layout.family);
    let target = match (slots.is_empty(), frontend.no_backend) {
        (true, NoBackend::Drop) => Target::Drop,
        (true, NoBackend::Reject | NoBackend::Hold) => Target::Reject,
        (false, _) => Target::Pick(Shape {
            pick,
            slots: u32::try_from(slots.len()).unwrap_or(u32::MAX),
            number: 0,
            local: matches!(frontend.key.listen, Listen::AnyLocal(_)),
            // A timeout of 0 would be for ever.
            sticky: frontend
                .affinity
                .map(|a| u64::try_from(a.timeout.as_millis()).unwrap_or(u64::MAX).max(1)),
            most: frontend.max_connections,
            allow: !frontend.allow.is_empty(),
            idle: frontend.idle_timeout.map(seconds),
        }),
    };
    Picked { target, slots }
}

/// The elements of an entry; `number` is which of the chains that are otherwise alike it has.
pub(super) fn realize(
    layout: &Layout,
    place: &Place,
    entry: &Entry,
    picked: &Picked,
    number: u16,
) -> Realized {
    let frontend = &*entry.frontend;
    let key = frontend.key;
    let address = match key.listen {
        Listen::Vip(a) | Listen::Address(a) => Some(a),
        Listen::AnyLocal(_) => None,
    };
    let target = match picked.target {
        Target::Pick(shape) => Target::Pick(Shape { number, ..shape }),
        other => other,
    };
    let mut own = Vec::new();
    for (offset, port) in (0_u16..).zip(key.ports.iter()) {
        let base = layout.key(address, key.protocol, port);
        let first = offset == 0;
        let plain = |key: Vec<u8>, data| Element { key, data, ..Element::default() };
        let mut service = plain(base.clone(), Some(Data::Bytes(target.id().to_vec())));
        if first {
            service.note = note::of_frontend(frontend);
        }
        if target.shape().is_none() {
            service.count = Some(Count::default());
        }
        own.push((SetId::Services, service));
        let mut seen = vec![false; entry.backends.len()];
        for (slot, index) in (0_u32..).zip(&picked.slots) {
            let Some(shape) = target.shape() else { break };
            let backend = &entry.backends[*index];
            let new = !std::mem::replace(&mut seen[*index], true);
            let numbered = concat(&[&base, &slot.to_ne_bytes()]);
            let id = backend_id(backend);
            let leads = |key| {
                let note = if first && new { note::of_active(backend) } else { Vec::new() };
                Element { note, ..plain(key, Some(Data::Bytes(socket(backend, offset)))) }
            };
            if shape.sticky.is_none() {
                own.push((SetId::Slots(shape), leads(numbered)));
                continue;
            }
            own.push((SetId::Picks(shape), plain(numbered, Some(Data::Bytes(id.to_vec())))));
            if new {
                own.push((SetId::Backends(shape), leads(concat(&[&base, &id]))));
            }
        }
        if let Some(shape) = target.shape().filter(|shape| shape.sticky.is_some()) {
            let id = Data::Bytes(service_id(&frontend.service).to_vec());
            own.push((SetId::Ids(shape), plain(base.clone(), Some(id))));
        }
        if first {
            for (backend, _) in entry.backends.iter().zip(&seen).filter(|(_, seen)| !**seen) {
                let element = plain(concat(&[&base, &backend_id(backend)]), None);
                own.push((SetId::Idle, Element { note: note::of_backend(backend), ..element }));
            }
        }
        if frontend.max_connections.is_some() {
            own.push((SetId::Limited, plain(base.clone(), None)));
        }
        if !frontend.allow.is_empty() {
            own.push((SetId::Common(Common::Denied), plain(base.clone(), None)));
            let allow = allowed(layout, &base, &frontend.allow);
            own.extend(allow.map(|element| (SetId::Common(Common::Allow), element)));
        }
    }
    let shared = shared(layout, place, entry, &picked.slots).into_iter();
    Realized { target, own, shared: shared.map(|(set, element)| (SetId::Common(set), element)).collect() }
}

/// The kernel counts whole seconds; the plane forgets nothing before its time.
fn seconds(timeout: Duration) -> u32 {
    let up = timeout.as_secs() + u64::from(timeout.subsec_nanos() > 0);
    u32::try_from(up).unwrap_or(u32::MAX).max(1)
}

/// Where slot and backend elements lead.
pub(super) fn socket(backend: &Backend, offset: u16) -> Vec<u8> {
    concat(&[&octets(backend.address), &backend.port.saturating_add(offset).to_be_bytes()])
}
