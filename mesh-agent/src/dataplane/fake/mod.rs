//! A reference data plane in memory: it holds the table by [`apply_ops`] and models flows by the semantics that
//! [`DataPlane`] promises, on a clock that only its owner moves. It moves no bytes.
//!
//! Clones share one state, as two runs of the agent share one kernel: dropping a clone and going on with another is
//! a restart. Failures and drift are injected through [`FakePlane::fail_frontend`], [`FakePlane::fail_op`] and
//! [`FakePlane::tamper`].

mod flows;
mod pick;

pub use flows::{FlowId, FlowState, Opening};

use super::{
    counters::{BackendCounters, Counters, FrontendCounters},
    explain::{Candidate, Explanation, Flow},
    plane::{ApplyError, ApplyReport, Capabilities, DataPlane, PlaneError},
};
use crate::plan::{BackendId, FrontendKey, Op, Table, apply_ops};
use flows::Flows;
use mesh_control::model::{Protocol, Scheduler, ServiceKey};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// The reference data plane.
#[derive(Clone, Debug, Default)]
pub struct FakePlane {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    table: Table,
    flows: Flows,
    totals: BTreeMap<(ServiceKey, Protocol, BackendId), Totals>,
    refused: BTreeMap<FrontendKey, FrontendCounters>,
    /// Operations received so far.
    received: u64,
    fail_ops: BTreeSet<u64>,
    fail_frontends: BTreeMap<FrontendKey, u32>,
    fail_observe: u32,
    refuses_new: bool,
}

#[derive(Debug, Default)]
struct Totals {
    established: u64,
    reset: u64,
}

impl FakePlane {
    /// An empty plane at time 0.
    #[must_use]
    pub fn new() -> Self {
        FakePlane::default()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many operations it was given so far, failed ones included.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.lock().received
    }

    /// Makes the operation `after` operations from now fail (0 is the next one).
    pub fn fail_op(&self, after: u64) {
        let mut state = self.lock();
        let number = state.received + after;
        state.fail_ops.insert(number);
    }

    /// Makes the next `times` frontend puts of this frontend fail; 0 ends the failures.
    pub fn fail_frontend(&self, key: FrontendKey, times: u32) {
        self.lock().fail_frontends.insert(key, times);
    }

    /// Makes the next `times` reads fail.
    pub fn fail_observe(&self, times: u32) {
        self.lock().fail_observe = times;
    }

    /// Changes what it holds behind everybody's back.
    pub fn tamper(&self, change: impl FnOnce(&mut Table)) {
        let mut state = self.lock();
        change(&mut state.table);
        state.settle();
    }

    /// What it holds.
    #[must_use]
    pub fn table(&self) -> Table {
        self.lock().table.clone()
    }

    /// Its clock: Unix time in milliseconds as it believes.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.lock().flows.now
    }

    /// Moves its clock; what is due by then happens.
    pub fn advance(&self, by: Duration) {
        let mut state = self.lock();
        state.flows.now += u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        state.settle();
    }

    /// A client opens a flow, or sends on the UDP flow it has.
    pub fn open(&self, client: SocketAddr, destination: SocketAddr, protocol: Protocol) -> Opening {
        let mut state = self.lock();
        if state.refuses_new {
            return Opening::NoListener;
        }
        let State { table, flows, .. } = &mut *state;
        let Some(entry) = flows::find(table, destination, protocol) else { return Opening::NoListener };
        let entry = entry.clone();
        let opening = flows.open(&entry, client, destination);
        state.count(&entry.frontend.key, &entry.frontend.service, &opening);
        opening
    }

    /// What became of a flow; absent when it was never opened or was closed.
    #[must_use]
    pub fn flow(&self, id: FlowId) -> Option<FlowState> {
        self.lock().flows.state(id)
    }

    /// The client closes a flow.
    pub fn close(&self, id: FlowId) {
        self.lock().flows.close(id);
    }
}

impl State {
    /// Lets table and clock take effect on the flows.
    fn settle(&mut self) {
        for (service, protocol, backend, state) in self.flows.settle(&self.table) {
            let totals = self.totals.entry((service, protocol, backend)).or_default();
            match state {
                FlowState::Open(_) => totals.established += 1,
                _ => totals.reset += 1,
            }
        }
    }

    fn count(&mut self, key: &FrontendKey, service: &ServiceKey, opening: &Opening) {
        let refused = self.refused.entry(*key).or_insert_with(|| FrontendCounters {
            service: service.clone(),
            frontend: *key,
            no_backend: 0,
            denied: 0,
            limited: 0,
        });
        match opening {
            Opening::Open(_, backend) => {
                let key = (service.clone(), key.protocol, backend.clone());
                self.totals.entry(key).or_default().established += 1;
            }
            Opening::Refused | Opening::Dropped | Opening::Held(_) => refused.no_backend += 1,
            Opening::Denied => refused.denied += 1,
            Opening::Limited => refused.limited += 1,
            Opening::Continued(..) | Opening::NoListener => {}
        }
    }

    /// Whether the operation is to fail, by injection.
    fn fails(&mut self, op: &Op) -> bool {
        let number = self.received;
        self.received += 1;
        if self.fail_ops.remove(&number) {
            return true;
        }
        let Op::PutFrontend(frontend) = op else { return false };
        match self.fail_frontends.get_mut(&frontend.key) {
            Some(left) if *left > 0 => {
                *left -= 1;
                true
            }
            _ => false,
        }
    }
}

impl DataPlane for FakePlane {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            schedulers: Scheduler::ALL.iter().map(|(s, _)| *s).collect(),
            protocols: vec![Protocol::Tcp, Protocol::Udp],
            proxy_protocol: false,
            keeps_client_address: true,
            survives_restart: true,
            hold: true,
        }
    }

    async fn observe(&mut self) -> Result<Table, PlaneError> {
        let mut state = self.lock();
        if state.fail_observe > 0 {
            state.fail_observe -= 1;
            let source = io::Error::other("injected failure");
            return Err(PlaneError { plane: "fake", action: "read the table", source });
        }
        Ok(state.table.clone())
    }

    async fn apply(&mut self, ops: &[Op]) -> ApplyReport {
        let mut state = self.lock();
        let mut report = ApplyReport::default();
        let (mut good, mut at) = (Vec::with_capacity(ops.len()), Vec::with_capacity(ops.len()));
        for (index, op) in ops.iter().enumerate() {
            if state.fails(op) {
                let source = io::Error::other("injected failure");
                let error = ApplyError::System { frontend: op.frontend(), action: "put", source };
                report.failed.push((index, error));
            } else {
                good.push(op.clone());
                at.push(index);
            }
        }
        for index in apply_ops(&mut state.table, &good) {
            report.failed.push((at[index], ApplyError::NoSuchFrontend(good[index].frontend())));
        }
        report.failed.sort_by_key(|(index, _)| *index);
        report.applied = ops.len() - report.failed.len();
        state.settle();
        report
    }

    fn counters(&self) -> Counters {
        let state = self.lock();
        let backends = state.totals.iter().map(|((service, protocol, backend), totals)| BackendCounters {
            service: service.clone(),
            backend: backend.clone(),
            state: flows::backend_state(&state.table, service, *protocol, backend),
            protocol: *protocol,
            active: state.flows.active_of_service(service, *protocol, backend),
            established: totals.established,
            failed: 0,
            reset: totals.reset,
            bytes_in: 0,
            bytes_out: 0,
        });
        let frontends = state.refused.values().cloned().collect();
        Counters { backends: backends.collect(), frontends, drops: Vec::new() }
    }

    fn explain(&self, flow: &Flow) -> Explanation {
        let state = self.lock();
        let Some(entry) = flows::find(&state.table, flow.destination, flow.protocol) else {
            let (frontend, service, affinity) = (None, None, None);
            return Explanation { frontend, service, candidates: Vec::new(), affinity, objects: Vec::new() };
        };
        let key = entry.frontend.key;
        let offset = flow.destination.port().saturating_sub(key.ports.first());
        let affinity = flow.client.and_then(|client| state.flows.remembered(entry, client));
        let chances = state.flows.chances(entry, flow.client, affinity.as_ref());
        let candidates = entry.backends.iter().zip(chances).map(|(backend, (probability, excluded))| {
            Candidate { backend: backend.id.clone(), address: backend.socket(offset), probability, excluded }
        });
        Explanation {
            frontend: Some(key),
            service: Some(entry.frontend.service.clone()),
            candidates: candidates.collect(),
            affinity,
            objects: vec![format!("table entry {key}")],
        }
    }

    async fn refuse_new(&mut self) {
        self.lock().refuses_new = true;
    }

    async fn teardown(&mut self) -> Result<(), PlaneError> {
        let mut state = self.lock();
        state.table = Table::new();
        state.settle();
        Ok(())
    }
}
