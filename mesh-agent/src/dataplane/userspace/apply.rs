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
use std::{
    collections::HashMap,
    io,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::sync::oneshot;

/// How long removed sockets may take to close before the plane goes on without waiting.
const CLOSE_WAIT: Duration = Duration::from_secs(5);

/// A batch on its way in. A view is swapped once per frontend, after the last operation about it, and flows are cut at
/// the end, so that no flow can still choose what was removed.
pub(super) struct Batch<'a> {
    registry: &'a mut Registry,
    workers: &'a [Worker],
    config: &'a UserspaceConfig,
    /// Frontends that operations so far were about and that later ones are about too.
    open: HashMap<FrontendKey, Open>,
    after: Vec<(u64, After)>,
    closing: Vec<oneshot::Receiver<()>>,
}

/// A frontend while operations are applied to it.
struct Open {
    /// The operation that touched it first.
    index: usize,
    /// Whether its view changes.
    changed: bool,
    /// Its backends as they will be, sorted by id; absent while they stay as the view has them.
    backends: Option<Backends>,
}

type Backends = Vec<(Backend, Arc<BackendSlot>)>;

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
        Batch { registry, workers, config, open: HashMap::new(), after: Vec::new(), closing: Vec::new() }
    }

    /// Applies `ops` in order.
    pub(super) async fn run(mut self, ops: &[Op]) -> ApplyReport {
        let mut report = ApplyReport::default();
        // Swapped as soon as that is possible, so that of thousands of frontends few are held twice at once.
        let last: HashMap<FrontendKey, usize> =
            ops.iter().enumerate().map(|(index, op)| (op.frontend(), index)).collect();
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
            let key = op.frontend();
            if last.get(&key) == Some(&index)
                && let Some(open) = self.open.remove(&key)
                && let Err((index, e)) = self.settle(key, open)
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
        let mut opened = self.open.remove(&key).unwrap_or(Open { index, changed: false, backends: None });
        opened.changed |= changed;
        match self.registry.frontends.get_mut(&key) {
            Some(held) => {
                let moved = held.frontend.service != frontend.service;
                let old = std::mem::replace(&mut held.frontend, Arc::clone(frontend));
                (held.service, held.stats) = (Arc::clone(&service), stats);
                if moved {
                    for (backend, slot) in opened.backends(&held.state) {
                        let counters = service.backend(&backend.id, key.protocol);
                        *slot = Arc::new(BackendSlot::new(backend.id.clone(), counters));
                        slot.set_state(Some(backend.state), clock());
                    }
                    self.registry.count_service(&frontend.service);
                    self.registry.forget_service(&old.service);
                }
            }
            None => {
                let frontend = Arc::clone(frontend);
                self.registry.count_service(&frontend.service);
                self.registry.frontends.insert(key, Held { state, frontend, service, stats });
            }
        }
        self.open.insert(key, opened);
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
        let held = self.registry.frontends.get(&key).ok_or(ApplyError::NoSuchFrontend(key))?;
        let open = self.open.entry(key).or_insert(Open { index, changed: false, backends: None });
        let backends = open.backends(&held.state);
        let slot = match place(backends, &backend.id) {
            Ok(at) if backends[at].0 == *backend => return Ok(()),
            Ok(at) => {
                backends[at].0 = backend.clone();
                Arc::clone(&backends[at].1)
            }
            Err(at) => {
                let stats = held.service.backend(&backend.id, key.protocol);
                let slot = Arc::new(BackendSlot::new(backend.id.clone(), stats));
                backends.insert(at, (backend.clone(), Arc::clone(&slot)));
                slot
            }
        };
        open.changed = true;
        slot.set_state(Some(backend.state), clock());
        if let BackendState::Draining { deadline: Some(_) } = backend.state {
            self.after.push((held.state.id, After::Drain(slot)));
        }
        Ok(())
    }

    fn remove_backend(
        &mut self,
        index: usize,
        key: FrontendKey,
        backend: &BackendId,
    ) -> Result<(), ApplyError> {
        // Gone with its frontend is as good as removed.
        let Some(held) = self.registry.frontends.get(&key) else { return Ok(()) };
        let open = self.open.entry(key).or_insert(Open { index, changed: false, backends: None });
        let backends = open.backends(&held.state);
        if let Ok(at) = place(backends, backend) {
            backends.remove(at).1.set_state(None, clock());
            open.changed = true;
            self.after.push((held.state.id, After::Cut(Some(backend.clone()))));
        }
        Ok(())
    }

    /// Removes a frontend if it is there. A port that another frontend has taken over stays open.
    pub(super) fn remove_frontend(&mut self, key: FrontendKey) {
        let Some(held) = self.registry.frontends.remove(&key) else { return };
        let opened = self.open.remove(&key).and_then(|open| open.backends);
        for address in addresses(key) {
            let at = (address, key.protocol);
            if self.registry.ports.get(&at).is_some_and(|port| port.owner == key)
                && let Some(port) = self.registry.ports.remove(&at)
            {
                self.closing.extend(port.sockets.into_iter().map(SocketHandle::close));
            }
        }
        let view = held.state.view.load_full();
        for slot in view.slots.iter().chain(opened.iter().flatten().map(|(_, slot)| slot)) {
            slot.set_state(None, clock());
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

    /// Publishes a frontend's view and sets the gate of its sockets: opened after the backends are there, shut after
    /// they are gone.
    ///
    /// # Errors
    /// The operation that is to blame, and why the gate is not as it should be.
    fn settle(&self, key: FrontendKey, open: Open) -> Result<(), (usize, ApplyError)> {
        let Some(held) = self.registry.frontends.get(&key) else { return Ok(()) };
        if open.changed {
            let backends = open.backends.unwrap_or_else(|| held.state.view.load().parts());
            held.state.publish(View::new(
                Arc::clone(&held.frontend),
                Arc::clone(&held.service),
                Arc::clone(&held.stats),
                backends,
            ));
        }
        let gate: Gate = held.state.view.load().gate();
        for socket in self.registry.sockets(key) {
            socket.set_gate(gate).map_err(|e| (open.index, system(key, "listen", e)))?;
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

impl Open {
    fn backends(&mut self, state: &FrontendState) -> &mut Backends {
        self.backends.get_or_insert_with(|| state.view.load().parts())
    }
}

/// Where a backend stands, or where it belongs.
fn place(backends: &Backends, id: &BackendId) -> Result<usize, usize> {
    backends.binary_search_by(|(backend, _)| backend.id.cmp(id))
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

/// This moment by the steady clock and by the wall clock in Unix milliseconds, the unit of drain deadlines.
fn clock() -> (Instant, u64) {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (Instant::now(), u64::try_from(unix.as_millis()).unwrap_or(u64::MAX))
}
