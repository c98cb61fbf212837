//! The userspace data plane: a TCP and UDP proxy that needs no privileges.
//!
//! Worker threads (one event loop each) hold one listening socket per frontend port, spread over by SO_REUSEPORT;
//! several agents of one machine may hold the same VIP port that way. A frontend is an immutable view that `apply`
//! swaps whole; workers load it once per new flow. How new flows end without a backend: `reject` takes the socket out
//! of listening, so that the kernel itself refuses; `drop` lets a socket filter drop the SYN; `hold` accepts and waits
//! (UDP datagrams are dropped).

mod affinity;
mod apply;
mod choose;
mod config;
mod context;
mod explain;
mod listen;
mod pick;
pub mod proxy_protocol;
mod ready;
mod registry;
mod service;
mod stats;
mod tcp;
#[cfg(test)]
mod tests;
mod udp;
mod view;
mod worker;

pub use config::UserspaceConfig;

use super::{ApplyReport, Capabilities, Counters, DataPlane, Explanation, Flow, PlaneError};
use crate::{
    plan::{Op, Table},
    sys::rlimit,
};
use apply::Batch;
use listen::SocketHandle;
use mesh_control::model::{Protocol, Scheduler};
use registry::Registry;
use std::{io, sync::Arc, time::Instant};
use view::Gate;
use worker::Worker;

const NAME: &str = "userspace";

/// The userspace data plane. Dropping it closes every socket and resets every flow.
#[derive(Debug)]
pub struct UserspacePlane {
    // Before the workers, so that nothing is registered once they are gone.
    registry: Registry,
    workers: Vec<Worker>,
    config: Arc<UserspaceConfig>,
}

impl UserspacePlane {
    /// Starts the worker threads. Raises the descriptor limit to the hard limit and lowers `max_flows` to a third of
    /// it, for a TCP flow takes two.
    ///
    /// # Errors
    /// [`PlaneError`] when the system gives no thread or event loop.
    pub fn start(mut config: UserspaceConfig) -> Result<Self, PlaneError> {
        let fail = |source| PlaneError { plane: NAME, action: "start workers", source };
        let descriptors = usize::try_from(rlimit::raise_nofile()).unwrap_or(usize::MAX);
        config.max_flows = config.max_flows.min(descriptors / 3).max(1);
        let count = match config.workers {
            0 => std::thread::available_parallelism().map_err(fail)?.get(),
            n => n,
        };
        let config = Arc::new(config);
        let seed = config.seed.unwrap_or_else(rand::random);
        let workers = (0..count)
            .map(|i| Worker::start(i, count, Arc::clone(&config), seed.wrapping_add(i as u64)))
            .collect::<io::Result<Vec<_>>>()
            .map_err(fail)?;
        Ok(UserspacePlane { registry: Registry::new(descriptors / 2), workers, config })
    }
}

impl DataPlane for UserspacePlane {
    fn name(&self) -> &'static str {
        NAME
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            schedulers: Scheduler::ALL.iter().map(|(scheduler, _)| *scheduler).collect(),
            protocols: vec![Protocol::Tcp, Protocol::Udp],
            proxy_protocol: true,
            keeps_client_address: false,
            survives_restart: false,
            hold: true,
        }
    }

    async fn observe(&mut self) -> Result<Table, PlaneError> {
        Ok(self.registry.observe())
    }

    async fn apply(&mut self, ops: &[Op]) -> ApplyReport {
        Batch::new(&mut self.registry, &self.workers, &self.config).run(ops).await
    }

    fn counters(&self) -> Counters {
        self.registry.counters()
    }

    fn explain(&self, flow: &Flow) -> Explanation {
        explain::explain(&self.registry, flow, Instant::now())
    }

    async fn refuse_new(&mut self) {
        let sockets = self.registry.ports.values().flat_map(|port| &port.sockets);
        for socket in sockets.filter_map(SocketHandle::get).filter(|s| s.protocol == Protocol::Tcp) {
            // The kernel refuses from here on, or hands to another agent of this host that listens there too.
            if let Err(error) = socket.set_gate(Gate::Refuse) {
                tracing::debug!(%error, address = %socket.address, "goes on listening until it is closed");
            }
        }
    }

    async fn teardown(&mut self) -> Result<(), PlaneError> {
        let keys: Vec<_> = self.registry.frontends.keys().copied().collect();
        let mut batch = Batch::new(&mut self.registry, &self.workers, &self.config);
        for key in keys {
            batch.remove_frontend(key);
        }
        if batch.finish().await {
            return Ok(());
        }
        let source = io::Error::new(io::ErrorKind::TimedOut, "listening sockets are still open");
        Err(PlaneError { plane: NAME, action: "close", source })
    }
}
