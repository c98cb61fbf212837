//! What the plane holds: frontends, the sockets they listen on, and services.

use super::{
    listen::{ListenSocket, SocketHandle},
    service::ServiceState,
    stats::FrontendStats,
    view::{FrontendState, Gate},
};
use crate::{
    dataplane::Counters,
    plan::{BackendId, Entry, Frontend, FrontendKey, Table},
};
use mesh_control::model::{Protocol, ServiceKey};
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    net::SocketAddr,
    sync::Arc,
};

/// Services without a frontend whose counters and affinity are kept, should they come back.
const ORPHANS: usize = 1024;

/// Where a socket is bound.
pub(super) type PortKey = (SocketAddr, Protocol);

/// A frontend. Its backends are in its view and nowhere else.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) state: Arc<FrontendState>,
    pub(super) frontend: Arc<Frontend>,
    pub(super) service: Arc<ServiceState>,
    pub(super) stats: Arc<FrontendStats>,
}

/// The sockets of one address and port: one per worker.
#[derive(Debug)]
pub(super) struct Port {
    /// The frontend that new flows belong to: the last one put.
    pub(super) owner: FrontendKey,
    pub(super) sockets: Vec<SocketHandle>,
}

#[derive(Debug)]
struct Service {
    state: Arc<ServiceState>,
    frontends: usize,
}

/// Everything a plane holds.
#[derive(Debug, Default)]
pub(super) struct Registry {
    pub(super) frontends: BTreeMap<FrontendKey, Held>,
    pub(super) ports: HashMap<PortKey, Port>,
    services: HashMap<ServiceKey, Service>,
    orphans: VecDeque<ServiceKey>,
    /// Most listening sockets.
    pub(super) socket_limit: usize,
    ids: u64,
}

impl Registry {
    /// A registry that may hold so many sockets.
    pub(super) fn new(socket_limit: usize) -> Self {
        Registry { socket_limit, ..Registry::default() }
    }

    /// An id that no frontend has had.
    pub(super) fn next_id(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }

    /// How many listening sockets there are.
    pub(super) fn socket_count(&self) -> usize {
        self.ports.values().next().map_or(0, |port| port.sockets.len() * self.ports.len())
    }

    /// A service, made when it is new.
    pub(super) fn service(&mut self, key: &ServiceKey, affinity_entries: usize) -> Arc<ServiceState> {
        if let Some(service) = self.services.get(key) {
            return Arc::clone(&service.state);
        }
        let state = Arc::new(ServiceState::new(key.clone(), affinity_entries));
        self.services.insert(key.clone(), Service { state: Arc::clone(&state), frontends: 0 });
        self.orphan(key);
        state
    }

    /// One frontend more belongs to the service.
    pub(super) fn count_service(&mut self, key: &ServiceKey) {
        if let Some(service) = self.services.get_mut(key) {
            service.frontends += 1;
            self.orphans.retain(|orphan| orphan != key);
        }
    }

    /// One frontend less belongs to the service. Of services without any, the oldest are forgotten at some number.
    pub(super) fn forget_service(&mut self, key: &ServiceKey) {
        if let Some(service) = self.services.get_mut(key) {
            service.frontends = service.frontends.saturating_sub(1);
            if service.frontends == 0 {
                self.orphan(key);
            }
        }
    }

    fn orphan(&mut self, key: &ServiceKey) {
        self.orphans.push_back(key.clone());
        while self.orphans.len() > ORPHANS {
            if let Some(orphan) = self.orphans.pop_front() {
                self.services.remove(&orphan);
            }
        }
    }

    /// The living sockets that a frontend owns.
    pub(super) fn sockets(&self, key: FrontendKey) -> impl Iterator<Item = Arc<ListenSocket>> {
        super::listen::addresses(key)
            .filter_map(move |address| self.ports.get(&(address, key.protocol)))
            .filter(move |port| port.owner == key)
            .flat_map(|port| port.sockets.iter().filter_map(SocketHandle::get))
    }

    /// Reads back what is truly served: frontends all of whose sockets are alive, bound where they should be and, as
    /// the kernel says, listening or not as their view wants it.
    pub(super) fn observe(&self) -> Table {
        let mut table = Table::new();
        for (key, held) in &self.frontends {
            let view = held.state.view.load();
            if super::listen::addresses(*key).all(|address| self.serves(address, *key, view.gate())) {
                let entry =
                    Entry { frontend: Arc::clone(&view.frontend), backends: Arc::clone(&view.backends) };
                table.insert(*key, entry);
            }
        }
        table
    }

    fn serves(&self, address: SocketAddr, key: FrontendKey, gate: Gate) -> bool {
        let Some(port) = self.ports.get(&(address, key.protocol)) else { return false };
        port.owner == key
            && port.sockets.iter().all(|handle| {
                handle.get().is_some_and(|socket| {
                    let bound = socket.socket.local_addr().ok().and_then(|a| a.as_socket());
                    bound.is_some_and(|bound| bound.port() == address.port())
                        && (key.protocol == Protocol::Udp || socket.listens() == (gate != Gate::Refuse))
                })
            })
    }

    /// All counters.
    pub(super) fn counters(&self) -> Counters {
        let mut states: HashMap<(&ServiceKey, BackendId, Protocol), &'static str> = HashMap::new();
        for (key, held) in &self.frontends {
            let view = held.state.view.load();
            for backend in view.backends.iter() {
                let at = (&held.frontend.service, backend.id.clone(), key.protocol);
                let state = states.entry(at).or_insert("down");
                // Of several frontends the one says most that takes flows.
                let rank = |s: &str| ["down", "draining", "active"].iter().position(|r| *r == s);
                if rank(backend.state.as_str()) > rank(state) {
                    *state = backend.state.as_str();
                }
            }
        }
        let mut counters = Counters::default();
        let mut services: Vec<_> = self.services.iter().filter(|(_, s)| s.frontends > 0).collect();
        services.sort_by_key(|(key, _)| *key);
        for (key, service) in services {
            service.state.read(
                |id, protocol| states.get(&(key, id.clone(), protocol)).copied(),
                &mut counters.backends,
                &mut counters.frontends,
            );
        }
        counters
    }
}
