//! What is written down beside what the programs need, so that the whole table can be read back: policies, names,
//! states. Pure.

use super::realize::{address, hash, narrow, number, wide};
use crate::plan::{Backend, BackendId, BackendState, Frontend, FrontendKey, Listen};
use ipnetwork::IpNetwork;
use mesh_control::model::{Affinity, Family, Name, NoBackend, PortRange, Protocol, Scheduler, ServiceKey};
use mesh_ebpf::{
    common::{self as kernel, NAME_LEN},
    notes::{AllowNote, BackendNote, FrontendNote, note},
};
use std::{collections::HashMap, time::Duration};

/// Names by key.
pub(super) type Names = HashMap<u64, String>;
/// A name as it is in the map: padded with zeroes.
pub(super) type NameBytes = [u8; NAME_LEN];

pub(super) fn name_key(name: &str) -> u64 {
    hash(name.bytes())
}

/// A name's entry; those of the model are at most 63 bytes long.
pub(super) fn name_entry(name: &str) -> (u64, NameBytes) {
    let mut bytes = [0; NAME_LEN];
    bytes.iter_mut().zip(name.bytes()).for_each(|(to, byte)| *to = byte);
    (name_key(name), bytes)
}

pub(super) fn read_name(bytes: &NameBytes) -> String {
    String::from_utf8_lossy(bytes.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

/// The names in a frontend's note.
pub(super) fn frontend_names(frontend: &Frontend) -> [&str; 2] {
    [frontend.service.namespace.as_str(), frontend.service.name.as_str()]
}

/// The names in a backend's note.
pub(super) fn backend_names(id: &BackendId) -> [&str; 2] {
    [id.instance.as_str(), id.node.as_str()]
}

const NO_BACKEND: [NoBackend; 3] = [NoBackend::Reject, NoBackend::Drop, NoBackend::Hold];

/// Where something is in a list of all that there is.
fn place<T: PartialEq>(mut all: impl Iterator<Item = T>, one: &T) -> u8 {
    all.position(|other| other == *one).and_then(|at| u8::try_from(at).ok()).unwrap_or(u8::MAX)
}

fn nanoseconds(duration: Option<Duration>) -> u64 {
    duration.map_or(0, |duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
}

pub(super) fn of_frontend(frontend: &Frontend) -> FrontendNote {
    let FrontendKey { listen, ports, protocol } = frontend.key;
    let affinity = frontend.affinity.map(|affinity| affinity.timeout);
    let bits = [
        (note::V6, listen.family() == Family::V6),
        (note::AFFINITY, affinity.is_some()),
        (note::IDLE, frontend.idle_timeout.is_some()),
        (note::LIMIT, frontend.max_connections.is_some()),
    ];
    let [namespace, name] = frontend_names(frontend).map(name_key);
    FrontendNote {
        address: address(listen),
        namespace,
        name,
        affinity: nanoseconds(affinity),
        idle: nanoseconds(frontend.idle_timeout),
        limit: frontend.max_connections.unwrap_or(0),
        first: ports.first(),
        last: ports.last(),
        protocol: number(protocol),
        listen: match listen {
            Listen::Vip(_) => 0,
            Listen::Address(_) => 1,
            Listen::AnyLocal(_) => 2,
        },
        scheduler: place(Scheduler::ALL.into_iter().map(|(scheduler, _)| scheduler), &frontend.scheduler),
        no_backend: place(NO_BACKEND.into_iter(), &frontend.no_backend),
        bits: bits.into_iter().filter(|(_, on)| *on).fold(0, |bits, (bit, _)| bits | bit),
    }
}

pub(super) fn frontend(held: &FrontendNote, names: &Names, allow: Vec<IpNetwork>) -> Option<Frontend> {
    let has = |bit| held.bits & bit != 0;
    let family = if has(note::V6) { Family::V6 } else { Family::V4 };
    let at = narrow(held.address, family);
    let listen = match held.listen {
        0 => Listen::Vip(at),
        1 => Listen::Address(at),
        2 => Listen::AnyLocal(family),
        _ => return None,
    };
    let protocol = match held.protocol {
        6 => Protocol::Tcp,
        17 => Protocol::Udp,
        _ => return None,
    };
    Some(Frontend {
        key: FrontendKey { listen, ports: PortRange::new(held.first, held.last).ok()?, protocol },
        service: ServiceKey::new(names.get(&held.namespace)?, names.get(&held.name)?).ok()?,
        scheduler: Scheduler::ALL.get(usize::from(held.scheduler))?.0,
        affinity: has(note::AFFINITY).then_some(Affinity { timeout: Duration::from_nanos(held.affinity) }),
        no_backend: *NO_BACKEND.get(usize::from(held.no_backend))?,
        proxy_protocol: false,
        idle_timeout: has(note::IDLE).then_some(Duration::from_nanos(held.idle)),
        max_connections: has(note::LIMIT).then_some(held.limit),
        allow,
    })
}

fn of_family(family: Family) -> u32 {
    if family == Family::V4 { 4 } else { 6 }
}

fn family(number: u32) -> Option<Family> {
    match number {
        4 => Some(Family::V4),
        6 => Some(Family::V6),
        _ => None,
    }
}

pub(super) fn of_backend(backend: &Backend) -> BackendNote {
    let (state, deadline) = match backend.state {
        BackendState::Active => (0, 0),
        BackendState::Down => (1, 0),
        BackendState::Draining { deadline: None } => (2, 0),
        BackendState::Draining { deadline: Some(at) } => (3, at),
    };
    let [instance, node] = backend_names(&backend.id).map(name_key);
    let family = of_family(Family::of(&backend.address));
    BackendNote { instance, node, deadline, weight: backend.weight, state, family }
}

pub(super) fn backend(held: &BackendNote, value: &kernel::Backend, names: &Names) -> Option<Backend> {
    let state = match held.state {
        0 => BackendState::Active,
        1 => BackendState::Down,
        2 => BackendState::Draining { deadline: None },
        3 => BackendState::Draining { deadline: Some(held.deadline) },
        _ => return None,
    };
    let name = |key| Name::new(names.get(key)?).ok();
    Some(Backend {
        id: BackendId { instance: name(&held.instance)?, node: name(&held.node)? },
        address: narrow(value.address, family(held.family)?),
        port: value.port,
        weight: held.weight,
        state,
    })
}

pub(super) fn of_allowed(network: &IpNetwork) -> AllowNote {
    AllowNote {
        address: wide(network.ip()),
        family: of_family(Family::of(&network.ip())),
        prefix: u32::from(network.prefix()),
    }
}

pub(super) fn allowed(held: &AllowNote) -> Option<IpNetwork> {
    IpNetwork::new(narrow(held.address, family(held.family)?), u8::try_from(held.prefix).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_down_comes_back() {
        let long = "x".repeat(63);
        let names: Names = [long.as_str(), "web", "node-a"]
            .map(|name| (name_key(name), read_name(&name_entry(name).1)))
            .into();
        let name = |text: &str| Name::new(text).unwrap();
        let at = |text: &str| text.parse().unwrap();
        for (listen, scheduler, no_backend) in [
            (Listen::Vip(at("2001:db8::1")), Scheduler::Random, NoBackend::Drop),
            (Listen::Address(at("192.0.2.1")), Scheduler::Lc, NoBackend::Hold),
            (Listen::AnyLocal(Family::V6), Scheduler::Rr, NoBackend::Reject),
        ] {
            let bare = Frontend {
                key: FrontendKey {
                    listen,
                    ports: PortRange::new(60_000, 65_535).unwrap(),
                    protocol: Protocol::Udp,
                },
                service: ServiceKey::new(&long, "web").unwrap(),
                scheduler,
                affinity: None,
                no_backend,
                proxy_protocol: false,
                idle_timeout: None,
                max_connections: None,
                allow: vec!["10.1.2.3/8".parse().unwrap(), "2001:db8::1/64".parse().unwrap()],
            };
            let full = Frontend {
                affinity: Some(Affinity { timeout: Duration::from_nanos(86_400_000_000_001) }),
                idle_timeout: Some(Duration::from_millis(1)),
                max_connections: Some(u32::MAX),
                ..bare.clone()
            };
            for wanted in [bare, full] {
                let allow: Vec<_> = wanted.allow.iter().map(of_allowed).collect();
                let allow = allow.iter().filter_map(allowed).collect();
                assert_eq!(frontend(&of_frontend(&wanted), &names, allow), Some(wanted));
            }
        }
        for state in [
            BackendState::Active,
            BackendState::Down,
            BackendState::Draining { deadline: None },
            BackendState::Draining { deadline: Some(u64::MAX) },
        ] {
            for address in ["2001:db8::1", "192.0.2.7"] {
                let id = BackendId { instance: name("web"), node: name("node-a") };
                let wanted = Backend { id, address: at(address), port: 65_535, weight: 65_535, state };
                let value = kernel::Backend {
                    address: wide(wanted.address),
                    port: wanted.port,
                    ..Default::default()
                };
                assert_eq!(backend(&of_backend(&wanted), &value, &names), Some(wanted.clone()));
                assert_eq!(backend(&of_backend(&wanted), &value, &Names::new()), None, "names are missing");
            }
        }
    }
}
