//! One TCP flow from its accept to its end.

use super::{connect, leg::Leg, relay};
use crate::dataplane::userspace::{
    choose::{Chosen, NoChoice, Seeker, choose},
    context::{Context, Ticket},
    proxy_protocol,
    stats::{ActiveGuard, BackendStats},
    view::{FrontendState, View},
};
use mesh_control::model::NoBackend;
use std::{
    cell::Cell,
    io,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    io::AsyncWriteExt,
    time::{sleep, timeout},
};

/// A connection that was just accepted.
pub(super) struct Accepted {
    pub(super) client: Leg,
    pub(super) peer: SocketAddr,
    /// The port it dialled.
    pub(super) port: u16,
    pub(super) frontend: Arc<FrontendState>,
    pub(super) ticket: Ticket,
}

/// A flow that reached its backend: counted as reset unless it ends by itself.
struct Running {
    stats: Arc<BackendStats>,
    ended: bool,
    _active: ActiveGuard,
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            self.stats.reset();
        }
    }
}

impl relay::Meter for Running {
    fn bytes_in(&self, n: u64) {
        self.stats.bytes_in(n);
    }

    fn bytes_out(&self, n: u64) {
        self.stats.bytes_out(n);
    }
}

/// Finds a backend and relays until the flow ends. Every early return drops the client's leg and so resets it.
pub(super) async fn run(context: Rc<Context>, mut accepted: Accepted) {
    let Some((mut backend, mut running, view)) = reach(&context, &mut accepted).await else { return };
    let idle = view.frontend.idle_timeout.or(context.config.tcp_idle);
    drop(view);
    let moved = Cell::new(false);
    let outcome = {
        let (client, backend) = (&mut accepted.client.stream, &mut backend.stream);
        let relaying = relay::relay(client, backend, &context.pipes, &running, &moved);
        match idle {
            None => relaying.await,
            Some(idle) => tokio::select! {
                outcome = relaying => outcome,
                () = quiet(idle, &moved) => Ok(()),
            },
        }
    };
    // An error of one side is not our reset; both legs drop unfinished, so the other side sees it too.
    running.ended = true;
    if outcome.is_ok() {
        accepted.client.finish();
        backend.finish();
    }
}

/// Ends when nothing moved for `idle`, found out at most `idle` late.
async fn quiet(idle: Duration, moved: &Cell<bool>) {
    let idle = idle.max(Duration::from_millis(1));
    moved.set(true);
    while moved.replace(false) {
        sleep(idle).await;
    }
}

/// Connects to a backend, trying others when one fails and waiting for one where the frontend holds.
async fn reach(context: &Rc<Context>, accepted: &mut Accepted) -> Option<(Leg, Running, Arc<View>)> {
    let frontend = Arc::clone(&accepted.frontend);
    let mut changed = None;
    let mut tried = Vec::new();
    let mut place = None;
    let give_up = tokio::time::Instant::now() + context.config.hold_wait;
    loop {
        let view = frontend.view.load_full();
        if !view.allows(accepted.peer.ip()) {
            view.stats.denied();
            return None;
        }
        let seeker = Seeker {
            client: accepted.peer.ip(),
            port_offset: accepted.port.saturating_sub(frontend.key.ports.first()),
            tried: &tried,
            now: Instant::now(),
            random: context.random(),
        };
        match choose(&frontend, &view, seeker) {
            Ok(chosen) => {
                accepted.ticket.set_slot(Some(&chosen.slot));
                match connect_to(context, accepted, &view, chosen).await {
                    Reached::Yes(leg, running) => return Some((leg, running, view)),
                    Reached::Shortage => {
                        view.stats.limited();
                        return None;
                    }
                    Reached::No(id) => tried.push(id),
                }
                accepted.ticket.set_slot(None);
                if tried.len() >= context.config.connect_attempts.max(1) {
                    return None;
                }
            }
            Err(NoChoice::Limited) => {
                view.stats.limited();
                return None;
            }
            // Every backend there is failed it: each counted that already.
            Err(NoChoice::NoBackend) if !tried.is_empty() => return None,
            Err(NoChoice::NoBackend) => {
                if view.frontend.no_backend != NoBackend::Hold {
                    view.stats.no_backend();
                    return None;
                }
                // Subscribe first, then look again: a change in between is not missed.
                let Some(watch) = &mut changed else {
                    changed = Some(frontend.changed.subscribe());
                    continue;
                };
                if place.is_none() {
                    place = context.hold();
                }
                if place.is_none() {
                    view.stats.no_backend();
                    return None;
                }
                let woken = tokio::time::timeout_at(give_up, watch.changed()).await;
                if !matches!(woken, Ok(Ok(()))) {
                    view.stats.no_backend();
                    return None;
                }
            }
        }
    }
}

enum Reached {
    Yes(Leg, Running),
    No(crate::plan::BackendId),
    Shortage,
}

async fn connect_to(context: &Context, accepted: &Accepted, view: &View, chosen: Chosen) -> Reached {
    let Chosen { slot, address, guard } = chosen;
    let limit = context.config.connect_timeout;
    let result = async {
        let mut leg = Leg::new(connect::dial(address, limit).await?);
        if view.frontend.proxy_protocol {
            let header = proxy_protocol::header(accepted.peer, accepted.client.stream.local_addr()?);
            timeout(limit, leg.stream.write_all(&header))
                .await
                .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        }
        Ok::<_, io::Error>(leg)
    }
    .await;
    match result {
        Ok(leg) => {
            slot.stats.established();
            let running = Running { stats: Arc::clone(&slot.stats), ended: false, _active: guard };
            Reached::Yes(leg, running)
        }
        Err(e) if connect::is_shortage(&e) => {
            tracing::warn!(%address, error = %e, "no descriptor or port left to reach a backend");
            Reached::Shortage
        }
        Err(e) => {
            tracing::debug!(%address, backend = %slot.id, error = %e, "backend did not answer");
            slot.stats.failed();
            Reached::No(slot.id.clone())
        }
    }
}
