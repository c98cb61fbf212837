//! Direct routing to the nodes that backends are on, for VIPs (`ipvs.forward: direct`).
//!
//! ```text
//! client ─▶ node that has the VIP's packet ─ Route ─▶ overlay, the packet as it is ─▶ backend's node ─ Masq ─▶ backend
//!    ▲                                                                                       │
//!    └──────────────────────────── from the VIP, by its own route ◀────────────────────────┘
//! ```
//!
//! LVS wants of a real server that it has the VIP, keeps silent about it and is reached without a router between. Every
//! node of the mesh is so, as seen from the others: it has all VIPs, nobody is asked for them, and the overlay is one link.
//! Containers are not, so it is their node that translates. A packet that came by the overlay has a mark of its own, by
//! which it meets a service of this node's backends alone: it is never sent on to another node while one is here.
//!
//! When a node leaves, IPVS forgets what it led there (`expire_nodest_conn`, Linux 5.9): connections are reset by this host,
//! which has the VIP, and datagrams go elsewhere. Pure.

use crate::{
    overlay::plan::gateway,
    plan::{Backend, Frontend, Listen},
};
use ipnetwork::IpNetwork;
use mesh_control::model::{NodeName, Scheduler};
use std::net::IpAddr;

/// Where nodes are that take packets to VIPs as they are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Direct {
    /// The overlay's device, by which such packets come.
    pub device: String,
    /// The overlay's networks, and the prefix length of a node's subnet there.
    pub networks: Vec<(IpNetwork, u8)>,
}

impl Direct {
    /// The address of the node that a backend is on; `None` of this one's, and of those outside the overlay.
    pub(super) fn hop(&self, own: &NodeName, backend: &Backend) -> Option<IpAddr> {
        if backend.id.node == *own {
            return None;
        }
        let (_, prefix) = self.networks.iter().find(|(network, _)| network.contains(backend.address))?;
        IpNetwork::new(backend.address, *prefix).ok().map(gateway)
    }
}

/// Whether packets to a frontend may go to nodes as they are: where the choice among all its backends is what matters,
/// one node has to make it; where connections are counted, this node would have to see their ends.
pub(super) fn suits(frontend: &Frontend) -> bool {
    matches!(frontend.key.listen, Listen::Vip(_))
        && frontend.affinity.is_none()
        && frontend.max_connections.is_none()
        && !matches!(frontend.scheduler, Scheduler::Maglev | Scheduler::Lc)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{BackendId, BackendState, FrontendKey};
    use mesh_control::model::{Affinity, Name, PortRange, Protocol};
    use std::time::Duration;

    fn key(port: u16) -> FrontendKey {
        let listen = Listen::Vip([10, 96, 0, 1].into());
        FrontendKey { listen, ports: PortRange::single(port).unwrap(), protocol: Protocol::Tcp }
    }

    #[test]
    fn a_backend_is_reached_through_its_node() {
        let networks = ["10.244.0.0/16", "fd44::/48"].map(|n| n.parse().unwrap());
        let direct =
            Direct { device: "mesh-vx".into(), networks: vec![(networks[0], 24), (networks[1], 64)] };
        let own = Name::new("n1").unwrap();
        let hop = |node: &str, address: &str| {
            let id = BackendId { instance: Name::new("a").unwrap(), node: Name::new(node).unwrap() };
            let state = BackendState::Active;
            let backend = Backend { id, address: address.parse().unwrap(), port: 80, weight: 1, state };
            direct.hop(&own, &backend).map(|hop| hop.to_string())
        };
        assert_eq!(hop("n2", "10.244.7.9").as_deref(), Some("10.244.7.1"));
        assert_eq!(hop("n2", "fd44:0:0:3::9").as_deref(), Some("fd44:0:0:3::1"));
        assert_eq!(hop("n1", "10.244.7.9"), None, "of this node");
        assert_eq!(hop("n2", "192.0.2.9"), None, "outside the overlay");
    }

    #[test]
    fn what_one_node_has_to_choose_is_not_sent_on() {
        let plain = Frontend::plain(key(80));
        let sticky = Some(Affinity { timeout: Duration::from_secs(1) });
        assert!(suits(&plain));
        assert!(!suits(&Frontend { affinity: sticky, ..plain.clone() }));
        assert!(!suits(&Frontend { max_connections: Some(1), ..plain.clone() }));
        for scheduler in [Scheduler::Maglev, Scheduler::Lc] {
            assert!(!suits(&Frontend { scheduler, ..plain.clone() }));
        }
        let everywhere = FrontendKey { listen: Listen::AnyLocal(mesh_control::model::Family::V4), ..key(80) };
        assert!(!suits(&Frontend::plain(everywhere)), "no node has another's addresses");
    }
}
