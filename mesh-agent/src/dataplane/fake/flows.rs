//! Flows as the data plane's promises have them: who gets a new one, and what the table and the clock do to old ones.

use super::pick::{self, Memory, Taker};
use crate::plan::{Backend, BackendId, BackendState, Entry, FrontendKey, Listen, Table};
use mesh_control::model::{Family, NoBackend, Protocol, ServiceKey};
use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

/// Names a flow of one [`super::FakePlane`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct FlowId(u64);

/// What a client meets when it opens a flow.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Opening {
    /// A new flow to this backend.
    Open(FlowId, BackendId),
    /// The UDP flow it had already.
    Continued(FlowId, BackendId),
    /// No backend takes it and the policy is `reject`.
    Refused,
    /// No backend takes it and the policy is `drop`.
    Dropped,
    /// No backend takes it and the policy is `hold`: it waits.
    Held(FlowId),
    /// The source is not on the allow-list.
    Denied,
    /// Every backend is at its connection limit.
    Limited,
    /// Nobody listens there.
    NoListener,
}

/// What became of a flow.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FlowState {
    /// Waits for a backend.
    Held,
    /// Goes to this backend.
    Open(BackendId),
    /// Was reset: its backend or frontend is gone, or a drain ran out.
    Reset,
}

/// Idle time of a UDP flow whose frontend names none.
const UDP_IDLE: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct FlowRecord {
    frontend: FrontendKey,
    service: ServiceKey,
    client: SocketAddr,
    destination: SocketAddr,
    state: FlowState,
    /// When the client last sent.
    used: u64,
}

#[derive(Debug, Default)]
pub(super) struct Flows {
    /// Unix time in milliseconds.
    pub(super) now: u64,
    next: u64,
    flows: BTreeMap<FlowId, FlowRecord>,
    memory: HashMap<FrontendKey, Memory>,
    /// Per service and client: the backend, the time of the last new flow, and the timeout then in force.
    affinity: HashMap<(ServiceKey, IpAddr), (BackendId, u64, Duration)>,
}

/// What happened to a flow: whose it was and what it is now.
pub(super) type Event = (ServiceKey, Protocol, BackendId, FlowState);

/// The frontend that a destination meets: an address of its own goes before every local address.
pub(super) fn find(table: &Table, destination: SocketAddr, protocol: Protocol) -> Option<&Entry> {
    let ip = destination.ip();
    let meets = |key: &FrontendKey| match key.listen {
        Listen::Vip(a) | Listen::Address(a) => a == ip,
        Listen::AnyLocal(family) => family == Family::of(&ip),
    };
    let matches = |(key, _): &(&FrontendKey, &Entry)| {
        key.protocol == protocol && key.ports.contains(destination.port()) && meets(key)
    };
    // Keys sort VIPs, then addresses, then wildcards.
    table.iter().find(matches).map(|(_, entry)| entry)
}

/// The word for a backend of a service in counters.
pub(super) fn backend_state(
    table: &Table,
    service: &ServiceKey,
    protocol: Protocol,
    id: &BackendId,
) -> &'static str {
    let mine = |e: &&Entry| e.frontend.service == *service && e.frontend.key.protocol == protocol;
    let backend = table.values().filter(mine).find_map(|e| e.backends.iter().find(|b| b.id == *id));
    backend.map_or("removed", |b| b.state.as_str())
}

impl Flows {
    pub(super) fn state(&self, id: FlowId) -> Option<FlowState> {
        self.flows.get(&id).map(|f| f.state.clone())
    }

    pub(super) fn close(&mut self, id: FlowId) {
        self.flows.remove(&id);
    }

    pub(super) fn open(&mut self, entry: &Entry, client: SocketAddr, destination: SocketAddr) -> Opening {
        let frontend = &*entry.frontend;
        let udp = frontend.key.protocol == Protocol::Udp;
        if udp
            && let Some((id, record)) = self.flows.iter_mut().find(|(_, f)| {
                f.frontend == frontend.key && f.client == client && f.destination == destination
            })
            && let FlowState::Open(backend) = &record.state
        {
            record.used = self.now;
            return Opening::Continued(*id, backend.clone());
        }
        if !frontend.allow.is_empty() && !frontend.allow.iter().any(|net| net.contains(client.ip())) {
            return Opening::Denied;
        }
        let state = match self.choose(entry, client.ip()) {
            Some(backend) => FlowState::Open(backend),
            None if entry.backends.iter().any(Backend::takes_new_flows) => return Opening::Limited,
            None => match frontend.no_backend {
                NoBackend::Reject => return Opening::Refused,
                NoBackend::Drop => return Opening::Dropped,
                NoBackend::Hold => FlowState::Held,
            },
        };
        let id = FlowId(self.next);
        self.next += 1;
        let (service, used) = (frontend.service.clone(), self.now);
        let opening = match &state {
            FlowState::Open(backend) => Opening::Open(id, backend.clone()),
            _ => Opening::Held(id),
        };
        let record = FlowRecord { frontend: frontend.key, service, client, destination, state, used };
        self.flows.insert(id, record);
        opening
    }

    /// The backend for a new flow: the remembered one, else the scheduler's; it is remembered.
    fn choose(&mut self, entry: &Entry, client: IpAddr) -> Option<BackendId> {
        let takers = self.takers(entry);
        let picked = self.remembered(entry, client).or_else(|| {
            let memory = self.memory.entry(entry.frontend.key).or_default();
            memory.pick(entry, &takers, client)
        })?;
        if let Some(affinity) = entry.frontend.affinity {
            let key = (entry.frontend.service.clone(), client);
            self.affinity.insert(key, (picked.clone(), self.now, affinity.timeout));
        }
        Some(picked)
    }

    fn takers<'a>(&self, entry: &'a Entry) -> Vec<Taker<'a>> {
        let limit = entry.frontend.max_connections.map_or(u64::MAX, u64::from);
        let taking = entry.backends.iter().filter(|b| b.takes_new_flows());
        taking
            .map(|b| (b, self.active(&entry.frontend.key, &b.id)))
            .filter(|(_, active)| *active < limit)
            .collect()
    }

    fn active(&self, key: &FrontendKey, id: &BackendId) -> u64 {
        let mine = |f: &&FlowRecord| f.frontend == *key && matches!(&f.state, FlowState::Open(b) if b == id);
        u64::try_from(self.flows.values().filter(mine).count()).unwrap_or(u64::MAX)
    }

    pub(super) fn active_of_service(&self, service: &ServiceKey, protocol: Protocol, id: &BackendId) -> u64 {
        let mine = |f: &&FlowRecord| {
            f.service == *service
                && f.frontend.protocol == protocol
                && matches!(&f.state, FlowState::Open(b) if b == id)
        };
        u64::try_from(self.flows.values().filter(mine).count()).unwrap_or(u64::MAX)
    }

    /// What affinity says, while it is in force and its backend takes new flows.
    pub(super) fn remembered(&self, entry: &Entry, client: IpAddr) -> Option<BackendId> {
        let timeout = entry.frontend.affinity?.timeout;
        let (id, at, _) = self.affinity.get(&(entry.frontend.service.clone(), client))?;
        let fresh = u128::from(self.now - at) < timeout.as_millis();
        let takes = self.takers(entry).iter().any(|(b, _)| b.id == *id);
        (fresh && takes).then(|| id.clone())
    }

    /// Chance of each backend of the entry, or why it has none.
    pub(super) fn chances(
        &self,
        entry: &Entry,
        client: Option<IpAddr>,
        affinity: Option<&BackendId>,
    ) -> Vec<(f64, Option<String>)> {
        let takers = self.takers(entry);
        let shares = pick::shares(entry, &takers, client);
        let chance = |b: &Backend| {
            let at = takers.iter().position(|(taker, _)| taker.id == b.id);
            let reason = match (b.state, at) {
                (_, Some(at)) => match affinity {
                    Some(id) => return (if *id == b.id { 1.0 } else { 0.0 }, None),
                    None => return (shares.get(at).copied().unwrap_or(0.0), None),
                },
                (BackendState::Active, None) if b.weight == 0 => "weight 0",
                (BackendState::Active, None) => "at its connection limit",
                (BackendState::Draining { .. }, None) => "draining",
                (BackendState::Down, None) => "down",
            };
            (0.0, Some(reason.to_owned()))
        };
        entry.backends.iter().map(chance).collect()
    }

    /// Lets table and clock take effect. Returns what ended on or moved to which backend.
    pub(super) fn settle(&mut self, table: &Table) -> Vec<Event> {
        let mut events = Vec::new();
        let ids: Vec<FlowId> = self.flows.keys().copied().collect();
        for id in ids {
            let Some(flow) = self.flows.get(&id) else { continue };
            let (key, client) = (flow.frontend, flow.client.ip());
            let entry = table.get(&key);
            let idle = entry.and_then(|e| e.frontend.idle_timeout).unwrap_or(UDP_IDLE);
            if key.protocol == Protocol::Udp && u128::from(self.now - flow.used) >= idle.as_millis() {
                self.flows.remove(&id);
                continue;
            }
            let old = flow.state.clone();
            let new = match (&old, entry) {
                (FlowState::Reset, _) => continue,
                (_, None) => FlowState::Reset,
                (FlowState::Held, Some(entry)) => {
                    self.choose(entry, client).map_or(FlowState::Held, FlowState::Open)
                }
                (FlowState::Open(backend), Some(entry)) => {
                    let held = entry.backends.iter().find(|b| b.id == *backend);
                    match (held.map(|b| b.state), key.protocol) {
                        (Some(BackendState::Active), _) | (Some(BackendState::Down), Protocol::Tcp) => {
                            continue;
                        }
                        (Some(BackendState::Draining { deadline }), _) => {
                            if deadline.is_none_or(|at| at > self.now) {
                                continue;
                            }
                            FlowState::Reset
                        }
                        (None, Protocol::Tcp) => FlowState::Reset,
                        (None | Some(BackendState::Down), Protocol::Udp) => {
                            self.choose(entry, client).map_or(FlowState::Reset, FlowState::Open)
                        }
                    }
                }
            };
            if new == old {
                continue;
            }
            let Some(flow) = self.flows.get_mut(&id) else { continue };
            for (state, counted) in [(&old, FlowState::Reset), (&new, new.clone())] {
                if let FlowState::Open(backend) = state {
                    events.push((flow.service.clone(), key.protocol, backend.clone(), counted));
                }
            }
            flow.state = new;
        }
        let live = |key: &FrontendKey| table.contains_key(key);
        self.memory.retain(|key, _| live(key));
        let now = self.now;
        self.affinity.retain(|_, (_, at, timeout)| u128::from(now - *at) < timeout.as_millis());
        events
    }
}
