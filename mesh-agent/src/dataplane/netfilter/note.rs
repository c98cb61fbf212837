//! What elements carry beside what the kernel needs, so that the whole table can be read back: policies, names, states.
//! Pure.

use crate::plan::{Backend, BackendId, BackendState, Frontend, FrontendKey, Listen};
use ipnetwork::IpNetwork;
use mesh_control::model::{Affinity, Family, Name, NoBackend, PortRange, Protocol, Scheduler, ServiceKey};
use serde::{Deserialize, Serialize};
use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

/// Changes with the form of notes; those of another version are not read, and their frontends are written anew.
const VERSION: u8 = 1;

/// A frontend, on the element of its first port.
#[derive(Serialize, Deserialize)]
struct FrontNote<'a> {
    version: u8,
    namespace: &'a str,
    name: &'a str,
    /// A VIP, not a published port of one address.
    vip: bool,
    last_port: u16,
    scheduler: Scheduler,
    affinity: Option<Duration>,
    no_backend: NoBackend,
    idle_timeout: Option<Duration>,
    max_connections: Option<u32>,
}

/// A backend, on one of the elements that lead to it. Short, for there are many: the kernel takes 88 bytes for such an
/// element of IPv4 and gives it the next power of two, so that names of 34 bytes together cost nothing.
#[derive(Serialize, Deserialize)]
struct ActiveNote<'a> {
    instance: &'a str,
    node: &'a str,
    weight: u16,
}

/// A backend that no element leads to. Former versions had it of all backends.
#[derive(Serialize, Deserialize)]
struct BackNote<'a> {
    instance: &'a str,
    node: &'a str,
    address: IpAddr,
    port: u16,
    weight: u16,
    /// 0 active, 1 down, 2 draining, 3 draining with a deadline.
    state: u8,
    deadline: u64,
}

pub(in crate::dataplane) fn of_frontend(frontend: &Frontend) -> Vec<u8> {
    let note = FrontNote {
        version: VERSION,
        namespace: frontend.service.namespace.as_str(),
        name: frontend.service.name.as_str(),
        vip: matches!(frontend.key.listen, Listen::Vip(_)),
        last_port: frontend.key.ports.last(),
        scheduler: frontend.scheduler,
        affinity: frontend.affinity.map(|a| a.timeout),
        no_backend: frontend.no_backend,
        idle_timeout: frontend.idle_timeout,
        max_connections: frontend.max_connections,
    };
    // Writing to memory cannot fail.
    postcard::to_stdvec(&note).unwrap_or_default()
}

/// The frontend at that key; its allow list is elsewhere.
pub(in crate::dataplane) fn frontend(
    bytes: &[u8],
    (address, protocol, port): (Option<IpAddr>, Protocol, u16),
    family: Family,
    allow: Vec<IpNetwork>,
) -> Option<Frontend> {
    let note: FrontNote<'_> = postcard::from_bytes(bytes).ok()?;
    if note.version != VERSION {
        return None;
    }
    let listen = match address {
        Some(address) if note.vip => Listen::Vip(address),
        Some(address) => Listen::Address(address),
        None => Listen::AnyLocal(family),
    };
    let ports = PortRange::new(port, note.last_port).ok()?;
    Some(Frontend {
        key: FrontendKey { listen, ports, protocol },
        service: ServiceKey::new(note.namespace, note.name).ok()?,
        scheduler: note.scheduler,
        affinity: note.affinity.map(|timeout| Affinity { timeout }),
        no_backend: note.no_backend,
        proxy_protocol: false,
        idle_timeout: note.idle_timeout,
        max_connections: note.max_connections,
        allow,
    })
}

pub(in crate::dataplane) fn of_active(backend: &Backend) -> Vec<u8> {
    let (instance, node) = (backend.id.instance.as_str(), backend.id.node.as_str());
    postcard::to_stdvec(&ActiveNote { instance, node, weight: backend.weight }).unwrap_or_default()
}

pub(in crate::dataplane) fn of_backend(backend: &Backend) -> Vec<u8> {
    let (state, deadline) = match backend.state {
        BackendState::Active => (0, 0),
        BackendState::Down => (1, 0),
        BackendState::Draining { deadline: None } => (2, 0),
        BackendState::Draining { deadline: Some(at) } => (3, at),
    };
    let note = BackNote {
        instance: backend.id.instance.as_str(),
        node: backend.id.node.as_str(),
        address: backend.address,
        port: backend.port,
        weight: backend.weight,
        state,
        deadline,
    };
    postcard::to_stdvec(&note).unwrap_or_default()
}

/// The backend of an element that leads to `socket`, if it leads anywhere.
pub(in crate::dataplane) fn backend(bytes: &[u8], socket: Option<SocketAddr>) -> Option<Backend> {
    // The short one is never the start of a long one: what follows would be cut short.
    idle(bytes).or_else(|| {
        let (note, socket): (ActiveNote<'_>, _) = (postcard::from_bytes(bytes).ok()?, socket?);
        Some(Backend {
            id: BackendId { instance: Name::new(note.instance).ok()?, node: Name::new(note.node).ok()? },
            address: socket.ip(),
            port: socket.port(),
            weight: note.weight,
            state: BackendState::Active,
        })
    })
}

fn idle(bytes: &[u8]) -> Option<Backend> {
    let note: BackNote<'_> = postcard::from_bytes(bytes).ok()?;
    let state = match note.state {
        0 => BackendState::Active,
        1 => BackendState::Down,
        2 => BackendState::Draining { deadline: None },
        3 => BackendState::Draining { deadline: Some(note.deadline) },
        _ => return None,
    };
    let id = BackendId { instance: Name::new(note.instance).ok()?, node: Name::new(note.node).ok()? };
    Some(Backend { id, address: note.address, port: note.port, weight: note.weight, state })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_of_the_longest_names_fit_and_come_back() {
        let long = "x".repeat(63);
        let name = || Name::new(&long).unwrap();
        let address: IpAddr = "2001:db8::1".parse().unwrap();
        let frontend = Frontend {
            key: FrontendKey {
                listen: Listen::Vip(address),
                ports: PortRange::new(60_000, 65_535).unwrap(),
                protocol: Protocol::Udp,
            },
            service: ServiceKey::new(&long, &long).unwrap(),
            scheduler: Scheduler::Random,
            affinity: Some(Affinity { timeout: Duration::from_millis(86_400_001) }),
            no_backend: NoBackend::Drop,
            proxy_protocol: false,
            idle_timeout: Some(Duration::from_secs(1)),
            max_connections: Some(u32::MAX),
            allow: Vec::new(),
        };
        let note = of_frontend(&frontend);
        assert!(note.len() <= 253, "{}", note.len());
        let at = (Some(address), Protocol::Udp, 60_000);
        assert_eq!(super::frontend(&note, at, Family::V6, Vec::new()), Some(frontend));
        for state in [
            BackendState::Active,
            BackendState::Down,
            BackendState::Draining { deadline: None },
            BackendState::Draining { deadline: Some(u64::MAX) },
        ] {
            let id = BackendId { instance: name(), node: name() };
            let backend = Backend { id, address, port: 65_535, weight: 65_535, state };
            let note = of_backend(&backend);
            assert!(note.len() <= 253, "{}", note.len());
            let socket = Some((address, 65_535).into());
            assert_eq!(super::backend(&note, socket), Some(backend.clone()));
            for cut in 0..note.len() {
                assert_eq!(super::backend(&note[..cut], None), None, "cut at {cut}");
            }
            if backend.state == BackendState::Active {
                let note = of_active(&backend);
                assert_eq!(super::backend(&note, socket), Some(backend));
                for cut in 0..note.len() {
                    assert_eq!(super::backend(&note[..cut], socket), None, "cut at {cut}");
                }
            }
        }
    }
}
