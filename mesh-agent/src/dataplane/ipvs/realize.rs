//! From a frontend and its backends to what stands for it: virtual services with their destinations, and elements of
//! our sets. Pure: the same entry always gives the same, so what the kernel holds can be compared with it.

use super::{
    direct::{self, Direct},
    numbers::Numbers,
    rules::{ANCHORS, ARRIVING, ARRIVING_MARK, BACKENDS, EMPTY, MARK, MARKS, OURS, anchor, mark},
    site::Site,
};
use crate::{
    dataplane::netfilter::{
        elements::{allowed, backend_id, shared},
        layout::{Layout, number, octets},
        names::{DROP, REJECT},
        note,
        sets::Common,
    },
    plan::{Backend, BackendState, Entry, Frontend, FrontendKey, Listen},
    sys::{
        ipvs::{Destination, Service, Virtual, flags},
        nft::{Data, Element, concat},
    },
};
use mesh_control::model::{Family, NoBackend, Protocol, Scheduler};
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

/// Most destinations of one frontend: ports times backends.
const MOST: usize = 1 << 16;
/// The longest that IPVS remembers a client: 31 days, as `ipvsadm` has it.
const LONGEST: u64 = 31 * 24 * 3600;

/// An element and the set it belongs to.
pub(super) type Placed = (&'static str, Element);

/// A virtual service with its destinations.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Program {
    pub(super) service: Service,
    pub(super) destinations: BTreeMap<SocketAddr, Destination>,
}

/// What stands for a frontend.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Realized {
    /// One for each port, and one for its packets that come by the overlay; with the port's place in the range.
    pub(super) programs: BTreeMap<Virtual, (u16, Program)>,
    /// Elements of its own.
    pub(super) own: Vec<Placed>,
    /// Elements that several frontends may need alike.
    pub(super) shared: Vec<Placed>,
}

/// The kernel's name of a scheduler, and the flags that it needs.
pub(super) fn scheduler(scheduler: Scheduler) -> (&'static str, u32) {
    match scheduler {
        Scheduler::Rr => ("rr", 0),
        Scheduler::Wrr => ("wrr", 0),
        Scheduler::Lc => ("wlc", 0),
        // Without fallback, clients of a backend that takes no new flows would find none.
        Scheduler::Maglev => ("mh", flags::FALLBACK),
        Scheduler::Random => ("twos", 0),
    }
}

/// Why a frontend cannot be had, whatever its backends.
pub(super) fn unsupported(frontend: &Frontend, schedulers: &[Scheduler]) -> Option<String> {
    if frontend.proxy_protocol {
        return Some(
            "IPVS sends no PROXY protocol: backends see the client's address as it is, or use the userspace plane"
                .into(),
        );
    }
    (!schedulers.contains(&frontend.scheduler)).then(|| {
        let (wanted, name) = (frontend.scheduler, scheduler(frontend.scheduler).0);
        format!("this kernel's IPVS has no scheduler for {wanted}: modprobe ip_vs_{name}, or choose another")
    })
}

/// Why a frontend cannot be had with so many ports and backends.
pub(super) fn too_large(entry: &Entry) -> Option<String> {
    let ports = usize::try_from(entry.frontend.key.ports.count()).unwrap_or(usize::MAX);
    let backends = entry.backends.len().max(1);
    (ports.saturating_mul(backends) > MOST).then(|| {
        format!("{ports} ports × {backends} backends are more than IPVS should hold: publish fewer ports")
    })
}

/// Seconds, not less than what is asked for.
fn seconds(timeout: Duration) -> u32 {
    let whole = timeout.as_secs() + u64::from(timeout.subsec_nanos() > 0);
    u32::try_from(whole.clamp(1, LONGEST)).unwrap_or(u32::MAX)
}

/// How the virtual services of a frontend work.
fn service(frontend: &Frontend) -> Service {
    let (name, scheduler_flags) = scheduler(frontend.scheduler);
    let sticky = frontend.affinity.map(|affinity| seconds(affinity.timeout));
    Service {
        scheduler: name.to_owned(),
        flags: scheduler_flags | sticky.map_or(0, |_| flags::PERSISTENT),
        timeout: sticky.unwrap_or(0),
        prefix: if frontend.key.listen.family() == Family::V4 { 32 } else { 128 },
    }
}

/// Whether a backend is a destination: one that takes no new flows is, of weight 0, while it may keep old ones.
fn stays(backend: &Backend, protocol: Protocol, now: u64) -> bool {
    match backend.state {
        BackendState::Active => true,
        BackendState::Down => protocol == Protocol::Tcp,
        BackendState::Draining { deadline } => deadline.is_none_or(|at| at > now),
    }
}

/// Destinations: what leads where, weighted; one address may be two instances', of which one goes.
fn destinations(
    frontend: &Frontend,
    all: impl Iterator<Item = (SocketAddr, u32, u32)>,
) -> BTreeMap<SocketAddr, Destination> {
    let most = frontend.max_connections.unwrap_or(0);
    let mut destinations: BTreeMap<SocketAddr, Destination> = BTreeMap::new();
    for (at, forward, weight) in all {
        let new = Destination { forward, weight: 0, upper: most, lower: most };
        let at = destinations.entry(at).or_insert(new);
        at.weight = (at.weight + weight).min(u32::from(u16::MAX));
    }
    destinations
}

/// The program of a port of which packets go to other nodes as they are. A node counts for all its backends there, so
/// they have to be weighed also where each counts for one.
fn sent(
    direct: &Direct,
    site: &Site,
    entry: &Entry,
    staying: &[&Backend],
    (offset, port): (u16, u16),
) -> Program {
    let frontend = &*entry.frontend;
    let even = frontend.scheduler == Scheduler::Rr;
    let mut service = service(frontend);
    if even {
        service.scheduler = scheduler(Scheduler::Wrr).0.into();
    }
    let all = staying.iter().map(|backend| {
        let weight = if even { u32::from(backend.takes_new_flows()) } else { weight(backend) };
        match direct.hop(&site.place.node, backend) {
            Some(hop) => (SocketAddr::new(hop, port), Destination::ROUTE, weight),
            None => (backend.socket(offset), Destination::MASQUERADE, weight),
        }
    });
    Program { service, destinations: destinations(frontend, all) }
}

/// The program of what other nodes sent here: to backends of this node. Those of others, which another node may have been
/// told of later than this one, have a weight while there are none here.
fn received(site: &Site, entry: &Entry, staying: &[&Backend], offset: u16) -> Program {
    let here = |backend: &Backend| backend.id.node == site.place.node;
    let any = staying.iter().any(|backend| here(backend) && weight(backend) > 0);
    let all = staying.iter().map(|backend| {
        let weight = if any && !here(backend) { 0 } else { weight(backend) };
        (backend.socket(offset), Destination::MASQUERADE, weight)
    });
    Program { service: service(&entry.frontend), destinations: destinations(&entry.frontend, all) }
}

/// What a backend counts for.
fn weight(backend: &Backend) -> u32 {
    if backend.takes_new_flows() { u32::from(backend.weight) } else { 0 }
}

/// What stands for an entry at `now` (Unix ms), which has its `numbers`.
pub(super) fn realize(layout: &Layout, site: &Site, entry: &Entry, numbers: &Numbers, now: u64) -> Realized {
    let frontend = &*entry.frontend;
    let key = frontend.key;
    let address = numbers.address(&key);
    let direct = site.direct.as_ref().filter(|_| direct::suits(frontend));
    let usable = |b: &&Backend| Family::of(&b.address) == layout.family;
    let listen = match key.listen {
        Listen::Vip(a) | Listen::Address(a) => Some(a),
        Listen::AnyLocal(_) => None,
    };
    let takes: Vec<usize> = (0..entry.backends.len())
        .filter(|i| usable(&&entry.backends[*i]) && entry.backends[*i].takes_new_flows())
        .collect();
    let staying: Vec<&Backend> =
        entry.backends.iter().filter(usable).filter(|b| stays(b, key.protocol, now)).collect();
    let (mut programs, mut own) = (BTreeMap::new(), Vec::new());
    for (offset, port) in (0_u16..).zip(key.ports.iter()) {
        let base = layout.key(listen, key.protocol, port);
        let (of, number) = virtual_of(frontend, port, address);
        let program = match direct {
            Some(direct) => sent(direct, site, entry, &staying, (offset, port)),
            None => {
                let all = staying.iter().map(|b| (b.socket(offset), Destination::MASQUERADE, weight(b)));
                Program { service: service(frontend), destinations: destinations(frontend, all) }
            }
        };
        programs.insert(of, (offset, program));
        let plain = |key: Vec<u8>, data| Element { key, data, ..Element::default() };
        if direct.is_some()
            && let Some(of @ Virtual::Mark { mark, .. }) = arriving(frontend, port, numbers)
        {
            programs.insert(of, (offset, received(site, entry, &staying, offset)));
            own.push((ARRIVING, plain(base.clone(), Some(Data::Bytes(mark.to_ne_bytes().to_vec())))));
        }
        let mut marked = plain(base.clone(), Some(Data::Bytes(number.to_ne_bytes().to_vec())));
        if offset == 0 {
            marked.note = note::of_frontend(frontend);
            for backend in entry.backends.iter() {
                let named = plain(concat(&[&base, &backend_id(backend)]), None);
                own.push((BACKENDS, Element { note: note::of_backend(backend), ..named }));
            }
        }
        own.push((MARKS, marked));
        if let (Virtual::Address { at, .. }, true) = (of, key.listen.is_published()) {
            let to = concat(&[&octets(at.ip()), &at.port().to_be_bytes()]);
            own.push((ANCHORS, plain(base.clone(), Some(Data::Bytes(to)))));
        }
        if takes.is_empty() {
            let chain = if frontend.no_backend == NoBackend::Drop { DROP } else { REJECT };
            own.push((EMPTY, plain(base.clone(), Some(Data::Goto(chain.into())))));
        }
        if !frontend.allow.is_empty() {
            own.push((Common::Denied.name(), plain(base.clone(), None)));
            let allow = allowed(layout, &base, &frontend.allow);
            own.extend(allow.map(|element| (Common::Allow.name(), element)));
        }
    }
    let mut shared = shared(layout, &site.place, entry, &takes);
    if frontend.affinity.is_some() && key.listen.is_published() {
        let key = octets(anchor(layout.family, address));
        shared.push((Common::Vips, Element { key, ..Element::default() }));
    }
    let shared = shared.into_iter().map(|(set, element)| (set.name(), element)).collect();
    Realized { programs, own, shared }
}

/// The virtual service of a port, and the mark of its packets.
pub(super) fn virtual_of(frontend: &Frontend, port: u16, address: u8) -> (Virtual, u32) {
    let FrontendKey { listen, protocol, .. } = frontend.key;
    let by_address = |ip| Virtual::Address { at: SocketAddr::new(ip, port), protocol: number(protocol) };
    let (family, mark) = (listen.family(), mark(address, protocol, port));
    match listen {
        Listen::Vip(vip) => (by_address(vip), MARK),
        _ if frontend.affinity.is_some() => (by_address(anchor(family, address)), mark),
        _ => (Virtual::Mark { mark, v6: family == Family::V6 }, mark),
    }
}

/// The virtual service of a port's packets that come by the overlay.
fn arriving(frontend: &Frontend, port: u16, numbers: &Numbers) -> Option<Virtual> {
    let Listen::Vip(vip) = frontend.key.listen else { return None };
    let number = numbers.arriving(&(vip, frontend.key.protocol, port))?;
    Some(received_by(number, vip.is_ipv6()))
}

/// The virtual service of packets that come by the overlay, by the number of their port.
pub(super) fn received_by(number: u32, v6: bool) -> Virtual {
    Virtual::Mark { mark: ARRIVING_MARK | number, v6 }
}

/// All virtual services of a frontend, with their ports' places in its range.
pub(super) fn virtuals(frontend: &Frontend, numbers: &Numbers) -> impl Iterator<Item = (u16, Virtual)> {
    (0_u16..).zip(frontend.key.ports.iter()).flat_map(|(offset, port)| {
        let (dialled, _) = virtual_of(frontend, port, numbers.address(&frontend.key));
        let both = [Some(dialled), arriving(frontend, port, numbers)];
        both.into_iter().flatten().map(move |of| (offset, of))
    })
}

/// Whether a virtual service is one of ours: by its mark, or because it is on a VIP, which none but us has.
pub(super) fn is_ours(of: &Virtual, vips: impl Fn(IpAddr) -> bool) -> bool {
    match of {
        Virtual::Mark { mark, .. } => mark & super::rules::MARK_MASK == OURS,
        Virtual::Address { at, .. } => vips(at.ip()),
    }
}
