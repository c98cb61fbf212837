//! Turning operations into sockets, views and commands to the workers.

use super::{
    config::UserspaceConfig,
    listen::{ListenSocket, SocketHandle, addresses},
    registry::{Held, Port, Registry},
    view::{BackendSlot, FrontendState, Gate, View},
    worker::{Command, Worker},
};
use crate::{
    dataplane::{ApplyError, ApplyReport},
    plan::{Backend, BackendId, BackendState, Frontend, FrontendKey, Op},
};
use std::{collections::BTreeMap, io, sync::Arc, time::Duration};
use tokio::sync::oneshot;

/// How long removed sockets may take to close before the plane goes on without waiting.
const CLOSE_WAIT: Duration = Duration::from_secs(5);

/// A batch on its way in. Views are swapped once per frontend, at the end, and flows are cut after that, so that no
/// flow can still choose what was removed.
pub(super) struct Batch<'a> {
    registry: &'a mut Registry,
    workers: &'a [Worker],
    config: &'a UserspaceConfig,
    /// Frontends to look at when the operations are through: which operation touched each first, and whether its view
    /// changed.
    touched: BTreeMap<FrontendKey, (usize, bool)>,
    after: Vec<(u64, After)>,
    closing: Vec<oneshot::Receiver<()>>,
}

enum After {
    Cut(Option<BackendId>),
    Drain(Arc<BackendSlot>),
}

impl<'a> Batch<'a> {
    /// A batch that nothing has happened in yet.
    pub(super) fn new(
        registry: &'a mut Registry,
        workers: &'a [Worker],
        config: &'a UserspaceConfig,
    ) -> Self {
        Batch { registry, workers, config, touched: BTreeMap::new(), after: Vec::new(), closing: Vec::new() }
    }

    /// Applies `ops` in order.
    pub(super) async fn run(mut self, ops: &[Op]) -> ApplyReport {
        let mut report = ApplyReport::default();
        for (index, op) in ops.iter().enumerate() {
            let result = match op {
                Op::PutFrontend(frontend) => self.put_frontend(index, frontend).await,
                Op::PutBackend { frontend, backend } => self.put_backend(index, *frontend, backend),
                Op::RemoveBackend { frontend, backend } => self.remove_backend(index, *frontend, backend),
                Op::RemoveFrontend(key) => {
                    self.remove_frontend(*key);
                    Ok(())
                }
            };
            match result {
                Ok(()) => report.applied += 1,
                Err(e) => report.failed.push((index, e)),
            }
        }
        for (key, (index, changed)) in std::mem::take(&mut self.touched) {
            if let Err(e) = self.settle(key, changed)
                && !report.failed.iter().any(|(failed, _)| *failed == index)
            {
                report.applied -= 1;
                report.failed.push((index, e));
            }
        }
        report.failed.sort_by_key(|(index, _)| *index);
        self.finish().await;
        report
    }

    async fn put_frontend(&mut self, index: usize, frontend: &Arc<Frontend>) -> Result<(), ApplyError> {
        let key = frontend.key;
        let changed = match self.registry.frontends.get(&key) {
            Some(held) => held.frontend != *frontend,
            None => true,
        };
        let state = match self.registry.frontends.get(&key) {
            Some(held) => Arc::clone(&held.state),
            None => {
                let service = self.registry.service(&frontend.service, self.config.affinity_entries);
                let stats = service.frontend(key);
                let view = View::new(Arc::clone(frontend), service, stats, Vec::new());
                Arc::new(FrontendState::new(self.registry.next_id(), view))
            }
        };
        let fresh = self.bind_missing(key, &state)?;
        for (socket, worker) in fresh.served {
            if !worker.send(Command::Serve(socket)).await {
                return Err(system(key, "start serving", io::ErrorKind::BrokenPipe.into()));
            }
        }
        for (at, handles) in fresh.ports {
            self.registry.ports.insert(at, Port { owner: key, sockets: handles });
        }
        for address in addresses(key) {
            if let Some(port) = self.registry.ports.get_mut(&(address, key.protocol)) {
                port.owner = key;
                for socket in port.sockets.iter().filter_map(SocketHandle::get) {
                    socket.owner.store(Arc::clone(&state));
                }
            }
        }
        let service = self.registry.service(&frontend.service, self.config.affinity_entries);
        let stats = service.frontend(key);
        match self.registry.frontends.get_mut(&key) {
            Some(held) => {
                let moved = held.frontend.service != frontend.service;
                let old = std::mem::replace(&mut held.frontend, Arc::clone(frontend));
                (held.service, held.stats) = (Arc::clone(&service), stats);
                if moved {
                    for (backend, slot) in held.backends.values_mut() {
                        let counters = service.backend(&backend.id, key.protocol);
                        *slot = Arc::new(BackendSlot::new(backend.id.clone(), counters));
                        slot.set_state(Some(backend.state));
                    }
                    self.registry.count_service(&frontend.service);
                    self.registry.forget_service(&old.service);
                }
            }
            None => {
                let frontend = Arc::clone(frontend);
                self.registry.count_service(&frontend.service);
                let held = Held { state, frontend, service, stats, backends: BTreeMap::new() };
                self.registry.frontends.insert(key, held);
            }
        }
        self.touch(key, index, changed);
        Ok(())
    }

    /// Binds every port of the frontend that has no living sockets; all or none.
    fn bind_missing(&self, key: FrontendKey, owner: &Arc<FrontendState>) -> Result<Fresh<'a>, ApplyError> {
        let mut fresh = Fresh { served: Vec::new(), ports: Vec::new() };
        for address in addresses(key) {
            let at = (address, key.protocol);
            if self.registry.ports.get(&at).is_some_and(|p| p.sockets.iter().all(|s| s.get().is_some())) {
                continue;
            }
            if self.registry.socket_count() + fresh.served.len() + self.workers.len()
                > self.registry.socket_limit
            {
                return Err(system(key, "bind", no_descriptors(self.registry.socket_limit)));
            }
            let mut handles = Vec::with_capacity(self.workers.len());
            for worker in self.workers {
                let (socket, handle) = ListenSocket::bind(address, Arc::clone(owner), self.config.backlog)
                    .map_err(|e| system(key, "bind", io::Error::new(e.kind(), format!("{address}: {e}"))))?;
                fresh.served.push((socket, worker));
                handles.push(handle);
            }
            fresh.ports.push((at, handles));
        }
        Ok(fresh)
    }

    fn put_backend(&mut self, index: usize, key: FrontendKey, backend: &Backend) -> Result<(), ApplyError> {
        let held = self.registry.frontends.get_mut(&key).ok_or(ApplyError::NoSuchFrontend(key))?;
        let slot = match held.backends.get_mut(&backend.id) {
            Some((old, _)) if old == backend => return Ok(()),
            Some((old, slot)) => {
                *old = backend.clone();
                Arc::clone(slot)
            }
            None => {
                let stats = held.service.backend(&backend.id, key.protocol);
                let slot = Arc::new(BackendSlot::new(backend.id.clone(), stats));
                held.backends.insert(backend.id.clone(), (backend.clone(), Arc::clone(&slot)));
                slot
            }
        };
        slot.set_state(Some(backend.state));
        if let BackendState::Draining { deadline: Some(_) } = backend.state {
            self.after.push((held.state.id, After::Drain(slot)));
        }
        self.touch(key, index, true);
        Ok(())
    }

    fn remove_backend(
        &mut self,
        index: usize,
        key: FrontendKey,
        backend: &BackendId,
    ) -> Result<(), ApplyError> {
        // Gone with its frontend is as good as removed.
        let Some(held) = self.registry.frontends.get_mut(&key) else { return Ok(()) };
        if let Some((_, slot)) = held.backends.remove(backend) {
            slot.set_state(None);
            self.after.push((held.state.id, After::Cut(Some(backend.clone()))));
            self.touch(key, index, true);
        }
        Ok(())
    }

    /// Removes a frontend if it is there. A port that another frontend has taken over stays open.
    pub(super) fn remove_frontend(&mut self, key: FrontendKey) {
        let Some(held) = self.registry.frontends.remove(&key) else { return };
        self.touched.remove(&key);
        for address in addresses(key) {
            let at = (address, key.protocol);
            if self.registry.ports.get(&at).is_some_and(|port| port.owner == key)
                && let Some(port) = self.registry.ports.remove(&at)
            {
                self.closing.extend(port.sockets.into_iter().map(SocketHandle::close));
            }
        }
        for (_, slot) in held.backends.values() {
            slot.set_state(None);
        }
        held.state.publish(View::new(
            Arc::clone(&held.frontend),
            Arc::clone(&held.service),
            Arc::clone(&held.stats),
            Vec::new(),
        ));
        self.registry.forget_service(&held.frontend.service);
        self.after.push((held.state.id, After::Cut(None)));
    }

    fn touch(&mut self, key: FrontendKey, index: usize, changed: bool) {
        let entry = self.touched.entry(key).or_insert((index, false));
        entry.1 |= changed;
    }

    /// Publishes a frontend's view and sets the gate of its sockets: opened after the backends are there, shut after
    /// they are gone.
    fn settle(&mut self, key: FrontendKey, changed: bool) -> Result<(), ApplyError> {
        let Some(held) = self.registry.frontends.get(&key) else { return Ok(()) };
        if changed {
            held.state.publish(View::new(
                Arc::clone(&held.frontend),
                Arc::clone(&held.service),
                Arc::clone(&held.stats),
                held.backends.values().cloned().collect(),
            ));
        }
        let gate: Gate = held.state.view.load().gate();
        for socket in self.registry.sockets(key) {
            socket.set_gate(gate).map_err(|e| system(key, "listen", e))?;
        }
        Ok(())
    }

    /// Tells the workers what to cut and waits until removed sockets are closed and cuts are made.
    pub(super) async fn finish(self) -> bool {
        for (frontend, after) in self.after {
            for worker in self.workers {
                let command = match &after {
                    After::Cut(backend) => Command::Cut { frontend, backend: backend.clone() },
                    After::Drain(slot) => Command::Drain { frontend, slot: Arc::clone(slot) },
                };
                worker.send(command).await;
            }
        }
        let mut waits = self.closing;
        for worker in self.workers {
            let (done, wait) = oneshot::channel();
            worker.send(Command::Barrier(done)).await;
            waits.push(wait);
        }
        let all = async {
            for wait in waits {
                // Resolves either way when the other end is dropped.
                let _ = wait.await;
            }
        };
        tokio::time::timeout(CLOSE_WAIT, all).await.is_ok()
    }
}

struct Fresh<'a> {
    served: Vec<(Arc<ListenSocket>, &'a Worker)>,
    ports: Vec<(super::registry::PortKey, Vec<SocketHandle>)>,
}

fn system(frontend: FrontendKey, action: &'static str, source: io::Error) -> ApplyError {
    ApplyError::System { frontend, action, source }
}

fn no_descriptors(limit: usize) -> io::Error {
    io::Error::other(format!(
        "{limit} listening sockets are open, half of the descriptor limit: raise it (ulimit -n, LimitNOFILE=)"
    ))
}
