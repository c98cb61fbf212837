//! The eBPF data plane: programs on sockets and devices, and maps that hold the services.
//!
//! ```text
//!  connect(), sendmsg() ─▶ cgroup programs ─┐                 ┌─▶ slots ─▶ backends
//!                                           ├─▶ services4/6 ──┤
//!  packets ─▶ tc programs  ─▶ flows4/6 ─────┘                 └─▶ frontends (policy)
//! ```
//!
//! The programs and the form of the maps are `mesh_ebpf`'s. What stands for a frontend is a pure function of it
//! (`realize`) and of the places it has in the maps (`state`); a change is the difference of two such states
//! (`change`), written in an order in which no lookup fails (`maps`). Names and policies are written down beside
//! (`note`), so the whole table can be read back and compared (`observe`), also by another run of the agent. All is
//! pinned: without an agent it goes on.

mod apart;
mod change;
mod config;
mod core;
mod counters;
mod drops;
mod explain;
mod flows;
mod held;
mod hook;
mod host;
mod keeper;
mod leaks;
mod maps;
mod note;
mod observe;
mod realize;
mod space;
mod state;
mod xdp;

pub use self::{
    apart::Apart,
    config::EbpfConfig,
    core::leftovers,
    hook::{Hook, Unhooked, unhook},
    xdp::{Xdp, drivers},
};
use self::{config::NAME, core::Core};
use super::{
    batch::Batch,
    blocking::{blocking, locked},
    counters::Counters,
    explain::{Explanation, Flow},
    plane::{ApplyReport, Capabilities, DataPlane, PlaneError},
};
use crate::plan::{Op, Table};
use keeper::Keeper;
use mesh_control::model::{Protocol, Scheduler};
use std::{
    io,
    sync::{Arc, Mutex},
};

pub use mesh_ebpf::Sizes;

/// The eBPF data plane of the network namespace it was started in.
#[derive(Debug)]
pub struct EbpfPlane {
    core: Arc<Mutex<Core>>,
    keeper: Keeper,
}

fn failed(action: &'static str) -> impl Fn(io::Error) -> PlaneError {
    move |source| PlaneError { plane: NAME, action, source }
}

impl EbpfPlane {
    /// Loads the programs and puts them to work in the calling thread's network namespace; what an earlier run left
    /// serves on, and is read by [`DataPlane::observe`].
    ///
    /// # Errors
    /// [`PlaneError`] with what is missing.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(config: EbpfConfig) -> Result<EbpfPlane, PlaneError> {
        let snapshots = config.snapshots.clone();
        let core = Core::open(config).map_err(failed("set up (or set data_plane: nftables)"))?;
        let core = Arc::new(Mutex::new(core));
        let keeper = Keeper::spawn(&core, snapshots).map_err(failed("watch links and addresses"))?;
        Ok(EbpfPlane { core, keeper })
    }
}

impl DataPlane for EbpfPlane {
    fn name(&self) -> &'static str {
        NAME
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            schedulers: Scheduler::ALL.map(|(scheduler, _)| scheduler).into(),
            protocols: vec![Protocol::Tcp, Protocol::Udp],
            proxy_protocol: false,
            keeps_client_address: true,
            survives_restart: true,
            hold: false,
        }
    }

    async fn observe(&mut self) -> Result<Table, PlaneError> {
        let table = blocking(|| locked(&self.core).observe()).map_err(failed("read the maps"))?;
        self.keeper.wake();
        Ok(table)
    }

    async fn apply(&mut self, ops: &[Op]) -> ApplyReport {
        let report = blocking(|| {
            let mut core = locked(&self.core);
            let batch = Batch::new(core.table(), ops, realize::unsupported, |_| None);
            let refused = core.bring(&batch.work, &batch.touched);
            batch.report(&refused)
        });
        self.keeper.wake();
        report
    }

    fn counters(&self) -> Counters {
        blocking(|| locked(&self.core).counters()).unwrap_or_else(|error| {
            tracing::warn!(plane = NAME, %error, "cannot read the counters");
            Counters::default()
        })
    }

    fn explain(&self, flow: &Flow) -> Explanation {
        blocking(|| locked(&self.core).explain(flow))
    }

    /// The kernel serves on without the agent, so there is nothing to refuse.
    async fn refuse_new(&mut self) {}

    async fn teardown(&mut self) -> Result<(), PlaneError> {
        blocking(|| locked(&self.core).teardown()).map_err(failed("remove pins"))
    }
}
