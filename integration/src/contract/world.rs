//! A plane under test with the table it should hold: the words the scenarios are written in.

use super::fixture::{Dialed, PlaneUnderTest, Said};
use mesh_agent::{
    dataplane::{ApplyError, DataPlane, Explanation, Flow},
    plan::{Backend, BackendState, Entry, Frontend, FrontendKey, Listen, Op, Table, diff},
};
use mesh_control::model::{NoBackend, PortRange, Protocol, Scheduler, ServiceKey};
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

/// Longest wait for something that must happen; only a broken plane gets there.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
/// Wait for something that must not happen.
pub(super) const BRIEF: Duration = Duration::from_millis(300);

/// A frontend under construction.
#[derive(Clone, Debug)]
pub struct Front {
    /// Policy.
    pub frontend: Frontend,
    /// Backends, in any order.
    pub backends: Vec<Backend>,
}

impl Front {
    /// Its key.
    #[must_use]
    pub fn key(&self) -> FrontendKey {
        self.frontend.key
    }

    /// Where clients dial it.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        let ip = match self.frontend.key.listen {
            Listen::Vip(a) | Listen::Address(a) => a,
            Listen::AnyLocal(_) => IpAddr::from([127, 0, 0, 1]),
        };
        SocketAddr::new(ip, self.frontend.key.ports.first())
    }

    /// The backend of that instance.
    ///
    /// # Panics
    /// When there is none.
    pub fn backend(&mut self, instance: &str) -> &mut Backend {
        let found = self.backends.iter_mut().find(|b| b.id.instance.as_str() == instance);
        found.unwrap_or_else(|| panic!("no backend {instance}"))
    }

    /// Sets the state of one backend.
    pub fn set_state(&mut self, instance: &str, state: BackendState) {
        self.backend(instance).state = state;
    }

    /// Takes one backend out.
    pub fn remove(&mut self, instance: &str) {
        self.backends.retain(|b| b.id.instance.as_str() != instance);
    }

    fn entry(&self) -> Entry {
        let mut backends = self.backends.clone();
        backends.sort_by(|a, b| a.id.cmp(&b.id));
        Entry { frontend: Arc::new(self.frontend.clone()), backends: backends.into() }
    }
}

/// A plane under test and the table it should hold.
pub struct World<P: PlaneUnderTest> {
    /// The fixture.
    pub put: P,
    /// What was applied so far.
    pub table: Table,
    services: u32,
}

impl<P: PlaneUnderTest> World<P> {
    /// An empty plane.
    pub async fn start() -> Self {
        World { put: P::start().await, table: Table::new(), services: 0 }
    }

    /// A frontend of a new service on a new VIP, without backends: round robin, reject.
    pub fn front(&mut self, protocol: Protocol) -> Front {
        self.front_of(protocol, 1)
    }

    /// As [`World::front`], of several ports.
    ///
    /// # Panics
    /// When the fixture gives no room for so many.
    pub fn front_of(&mut self, protocol: Protocol, ports: u16) -> Front {
        let vip = self.put.vip(ports);
        self.services += 1;
        let ports = PortRange::new(vip.port(), vip.port() + ports - 1).expect("the fixture gives free ports");
        let service = ServiceKey::in_default(&format!("s{}", self.services)).expect("a short name");
        let frontend = Frontend {
            key: FrontendKey { listen: Listen::Vip(vip.ip()), ports, protocol },
            service,
            scheduler: Scheduler::Rr,
            affinity: None,
            no_backend: NoBackend::Reject,
            proxy_protocol: false,
            idle_timeout: None,
            max_connections: None,
            allow: Vec::new(),
        };
        Front { frontend, backends: Vec::new() }
    }

    /// A frontend with running instances of these names, applied.
    pub async fn serving(&mut self, protocol: Protocol, instances: &[&str]) -> Front {
        let mut front = self.front(protocol);
        for instance in instances {
            front.backends.push(self.put.serve(instance, 1).await);
        }
        self.set(&front).await;
        front
    }

    /// Makes the plane hold this frontend as it is now.
    pub async fn set(&mut self, front: &Front) {
        let mut table = self.table.clone();
        table.insert(front.key(), front.entry());
        self.become_table(table).await;
    }

    /// Takes a frontend away.
    pub async fn unset(&mut self, front: &Front) {
        let mut table = self.table.clone();
        table.remove(&front.key());
        self.become_table(table).await;
    }

    /// Makes the plane hold exactly this table.
    pub async fn become_table(&mut self, table: Table) {
        self.apply(&diff(&self.table, &table)).await;
        self.table = table;
    }

    /// Applies operations; every one must take effect.
    ///
    /// # Panics
    /// When one does not.
    pub async fn apply(&mut self, ops: &[Op]) {
        let report = self.put.plane().apply(ops).await;
        assert!(report.failed.is_empty(), "{:?}", report.failed);
        assert_eq!(report.applied, ops.len());
    }

    /// Whether the plane has this scheduler. One that has not refuses it with a reason and changes nothing.
    ///
    /// # Panics
    /// When it does otherwise.
    pub async fn honours(&mut self, scheduler: Scheduler) -> bool {
        if self.put.plane().capabilities().schedulers.contains(&scheduler) {
            return true;
        }
        let mut front = self.front(Protocol::Tcp);
        front.frontend.scheduler = scheduler;
        let report = self.put.plane().apply(&[Op::PutFrontend(front.entry().frontend)]).await;
        let refused =
            |e: &ApplyError| matches!(e, ApplyError::Unsupported { reason, .. } if !reason.is_empty());
        assert!(report.failed.len() == 1 && refused(&report.failed[0].1), "{scheduler}: {report:?}");
        assert_eq!(self.observed().await, self.table, "{scheduler} was refused");
        false
    }

    /// What the plane says it holds.
    ///
    /// # Panics
    /// When it cannot be read.
    pub async fn observed(&mut self) -> Table {
        self.put.plane().observe().await.expect("the plane can be read")
    }

    /// Opens a flow that must be answered; gives it and the instance.
    ///
    /// # Panics
    /// When it is not.
    pub async fn reach(&mut self, client: u16, front: &Front) -> (P::Flow, String) {
        self.reach_at(client, front, front.address()).await
    }

    /// As [`World::reach`], at another address of the frontend.
    ///
    /// # Panics
    /// When it is not answered.
    pub async fn reach_at(&mut self, client: u16, front: &Front, to: SocketAddr) -> (P::Flow, String) {
        let client = self.put.client(client);
        match self.put.dial(client, to, front.key().protocol, PATIENCE).await {
            Dialed::Answered(flow, by) => (flow, by),
            other => panic!("{client} at {to}: {}", other.word()),
        }
    }

    /// Opens a flow that may fail.
    pub async fn try_reach(&mut self, client: u16, front: &Front, patience: Duration) -> Dialed<P::Flow> {
        let client = self.put.client(client);
        self.put.dial(client, front.address(), front.key().protocol, patience).await
    }

    /// Opens flows one after the other, hanging up after each answer: how many each instance got.
    pub async fn hits(&mut self, front: &Front, clients: impl Iterator<Item = u16>) -> BTreeMap<String, u32> {
        let mut hits = BTreeMap::new();
        for client in clients {
            let (flow, by) = self.reach(client, front).await;
            *hits.entry(by).or_default() += 1;
            self.put.hang_up(flow).await;
        }
        hits
    }

    /// Speaks on a flow that must be answered by this instance.
    ///
    /// # Panics
    /// When it is not.
    pub async fn still(&mut self, flow: &mut P::Flow, instance: &str) {
        assert_eq!(self.put.say(flow, PATIENCE).await, Said::Answer(instance.to_owned()));
    }

    /// Speaks until the outcome is the one awaited.
    ///
    /// # Panics
    /// When it never is.
    pub async fn until_said(&mut self, flow: &mut P::Flow, wanted: &Said) {
        let end = Instant::now() + PATIENCE;
        loop {
            let said = self.put.say(flow, BRIEF).await;
            if said == *wanted {
                return;
            }
            assert!(Instant::now() < end, "never {wanted:?}, last {said:?}");
            self.put.tick().await;
        }
    }

    /// Looks until the condition holds.
    ///
    /// # Panics
    /// When it never does.
    pub async fn until(&mut self, what: &str, condition: impl FnMut(&mut P) -> bool) {
        self.until_within(PATIENCE, what, condition).await;
    }

    /// As [`World::until`], for what takes a plane longer.
    ///
    /// # Panics
    /// When it never does.
    pub async fn until_within(
        &mut self,
        bound: Duration,
        what: &str,
        mut condition: impl FnMut(&mut P) -> bool,
    ) {
        let end = Instant::now() + bound;
        while !condition(&mut self.put) {
            assert!(Instant::now() < end, "never: {what}");
            self.put.tick().await;
        }
    }

    /// The plane's explanation for a client of a frontend.
    pub fn explain(&mut self, client: u16, front: &Front) -> Explanation {
        explain(&mut self.put, client, front)
    }
}

/// The plane's explanation for a client of a frontend.
pub(super) fn explain<P: PlaneUnderTest>(put: &mut P, client: u16, front: &Front) -> Explanation {
    let client = Some(put.client(client));
    put.plane().explain(&Flow { client, destination: front.address(), protocol: front.key().protocol })
}
