//! From a frontend and its backends to the values that stand for them. Pure: the same entry, place and time always give
//! the same values, so what the kernel holds can be compared with what it should hold.

use crate::{
    dataplane::slots,
    plan::{self, BackendState, Entry, Listen, maglev},
};
use ipnetwork::IpNetwork;
use mesh_control::model::{Family, NoBackend, NodeName, Protocol, Scheduler, ServiceKey};
use mesh_ebpf::common::{self as kernel, V4, V6, flag, state};
use std::{collections::BTreeSet, net::IpAddr, time::Duration};

/// What values depend on besides the frontend.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Place {
    /// This node.
    pub(super) node: NodeName,
    /// Networks of addresses whose answers come back through us wherever the endpoint is.
    pub(super) overlay: Vec<IpNetwork>,
    /// This host's own addresses.
    pub(super) here: BTreeSet<IpAddr>,
    /// Whether this node takes packets as other nodes' clients sent them.
    pub(super) direct: bool,
}

/// Why a frontend cannot be had, whatever its backends.
pub(super) fn unsupported(frontend: &plan::Frontend) -> Option<String> {
    frontend.proxy_protocol.then(|| {
        "ebpf sends no PROXY protocol: backends see the client's address as it is, or use the userspace plane".into()
    })
}

/// The number of a protocol in IP.
pub(super) fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
    }
}

/// An address in 16 bytes, IPv4 in the first four.
pub(super) fn wide(address: IpAddr) -> V6 {
    match address {
        IpAddr::V4(address) => {
            let mut wide = [0; 16];
            wide[..4].copy_from_slice(&address.octets());
            wide
        }
        IpAddr::V6(address) => address.octets(),
    }
}

/// An address out of 16 bytes.
pub(super) fn narrow(wide: V6, family: Family) -> IpAddr {
    match family {
        Family::V4 => first(wide).into(),
        Family::V6 => wide.into(),
    }
}

/// The first four of 16 bytes.
pub(super) fn first([a, b, c, d, ..]: V6) -> V4 {
    [a, b, c, d]
}

/// 64-bit FNV-1a, mixed: the key of a name.
pub(super) fn hash(bytes: impl Iterator<Item = u8>) -> u64 {
    maglev::mix(bytes.fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)))
}

/// What a service is known by in the map of affinity.
pub(super) fn service_hash(service: &ServiceKey) -> u64 {
    hash(service.namespace.as_str().bytes().chain([b'/']).chain(service.name.as_str().bytes()))
}

/// The address that frontends of a listen are found by: that of any local one is all zero.
pub(super) fn address(listen: Listen) -> V6 {
    match listen {
        Listen::Vip(address) | Listen::Address(address) => wide(address),
        Listen::AnyLocal(_) => [0; 16],
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1)
}

/// A frontend's policy, and the flags that say what of it is to be read.
pub(super) fn policy(frontend: &plan::Frontend) -> (kernel::Frontend, u16) {
    let values = kernel::Frontend {
        service: service_hash(&frontend.service),
        sticky_ms: frontend.affinity.map_or(0, |affinity| milliseconds(affinity.timeout)),
        idle_ms: frontend.idle_timeout.map_or(0, milliseconds),
        max_flows: frontend.max_connections.unwrap_or(0),
        pad: 0,
    };
    let pick = match frontend.scheduler {
        Scheduler::Rr | Scheduler::Wrr => flag::PICK_NEXT,
        Scheduler::Random => flag::PICK_RANDOM,
        Scheduler::Maglev => flag::PICK_HASH,
        Scheduler::Lc => flag::PICK_LEAST,
    };
    let flags = [
        (flag::STICKY, frontend.affinity.is_some()),
        (flag::ALLOW, !frontend.allow.is_empty()),
        (flag::SILENT, frontend.no_backend == NoBackend::Drop),
        (flag::LIMIT, frontend.max_connections.is_some()),
        (flag::IDLE, frontend.idle_timeout.is_some()),
        (flag::PUBLISHED, frontend.key.listen.is_published()),
    ];
    let on = flags.into_iter().filter(|(_, on)| *on).fold(pick, |flags, (flag, _)| flags | flag);
    (values, on)
}

/// Whether a drain deadline has come.
fn due(backend: &plan::Backend, now: u64) -> bool {
    matches!(backend.state, BackendState::Draining { deadline: Some(at) } if at <= now)
}

/// A backend of a protocol's frontend, without its frontend's number and its generation; `now` is Unix time in ms.
pub(super) fn backend(
    backend: &plan::Backend,
    protocol: Protocol,
    place: &Place,
    now: u64,
) -> kernel::Backend {
    let moves = backend.state == BackendState::Down && protocol == Protocol::Udp;
    let mut bits = match backend.takes_new_flows() {
        _ if due(backend, now) => state::RESET,
        true => state::ACTIVE | state::KEEPS,
        false if moves => 0,
        false => state::KEEPS,
    };
    if place.here.contains(&backend.address) {
        bits |= state::HERE;
    } else if backend.id.node != place.node {
        let overlay = place.overlay.iter().any(|network| network.contains(backend.address));
        bits |= if overlay { state::REMOTE } else { state::MASQUERADE };
    }
    kernel::Backend {
        address: wide(backend.address),
        port: backend.port,
        state: bits,
        generation: 0,
        frontend: 0,
        weight: u32::from(backend.weight),
        id: maglev::backend_hash(&backend.id),
        active: 0,
        begun: 0,
        pad: 0,
    }
}

/// The slots of an entry, each an index into its backends. Backends of another family are in none.
pub(super) fn picked(entry: &Entry) -> Vec<usize> {
    let family = entry.frontend.key.listen.family();
    let fits = |slot: &usize| Family::of(&entry.backends[*slot].address) == family;
    slots::slots(entry).into_iter().filter(fits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::BackendId;
    use mesh_control::model::Name;

    #[test]
    fn what_a_backend_keeps_follows_from_its_state_and_where_it_is() {
        let name = |text| Name::new(text).unwrap();
        let place = Place {
            node: name("a"),
            overlay: vec!["10.128.0.0/9".parse().unwrap()],
            here: ["192.0.2.1".parse().unwrap()].into(),
            direct: false,
        };
        let of = |node, address: &str, state, weight| plan::Backend {
            id: BackendId { instance: name("i"), node: name(node) },
            address: address.parse().unwrap(),
            port: 80,
            weight,
            state,
        };
        let drains = |deadline| BackendState::Draining { deadline };
        let (tcp, udp) = (Protocol::Tcp, Protocol::Udp);
        use state::{ACTIVE, HERE, KEEPS, MASQUERADE, REMOTE, RESET};
        for (protocol, node, address, state, weight, bits) in [
            (tcp, "a", "10.128.1.2", BackendState::Active, 1, ACTIVE | KEEPS),
            (tcp, "a", "192.0.2.1", BackendState::Active, 0, KEEPS | HERE),
            (tcp, "b", "10.128.1.2", BackendState::Down, 1, KEEPS | REMOTE),
            (udp, "b", "198.51.100.1", BackendState::Down, 1, MASQUERADE),
            (udp, "a", "10.128.1.2", drains(None), 1, KEEPS),
            (tcp, "a", "10.128.1.2", drains(Some(1001)), 1, KEEPS),
            (tcp, "a", "10.128.1.2", drains(Some(1000)), 1, RESET),
        ] {
            let made = backend(&of(node, address, state, weight), protocol, &place, 1000);
            assert_eq!(made.state, bits, "{protocol} {node} {address} {state:?} {weight}");
        }
    }
}
