//! The eBPF data plane: programs on sockets and devices, and maps that hold the services.
//!
//! ```text
//!  connect(), sendmsg() ─▶ cgroup programs ─┐                 ┌─▶ slots ─▶ backends
//!                                           ├─▶ services4/6 ──┤
//!  packets ─▶ tcx programs ─▶ flows4/6 ─────┘                 └─▶ frontends (policy)
//! ```
//!
//! The programs and the form of the maps are `mesh_ebpf`'s. What stands for a frontend is a pure function of it
//! (`realize`) and of the places it has in the maps (`state`); a change is the difference of two such states
//! (`change`), written in an order in which no lookup fails (`maps`). Names and policies are written down beside
//! (`note`), so the whole table can be read back and compared (`observe`), also by another run of the agent. All is
//! pinned: without an agent it goes on.

mod apart;
mod change;
mod core;
mod counters;
mod explain;
mod flows;
mod host;
mod keeper;
mod maps;
mod note;
mod observe;
mod realize;
mod space;
mod state;

use self::core::Core;
pub use self::{apart::Apart, core::leftovers};
use super::{
    batch::Batch,
    blocking::{blocking, locked},
    counters::Counters,
    explain::{Explanation, Flow},
    plane::{ApplyReport, Capabilities, DataPlane, PlaneError},
};
use crate::plan::{Op, Table};
use ipnetwork::IpNetwork;
use keeper::Keeper;
use mesh_control::model::{Addresses, NodeName, Protocol, Scheduler, Snapshot};
use std::{
    io,
    path::PathBuf,
    sync::{Arc, Mutex},
};
use tokio::sync::watch;

pub use mesh_ebpf::Sizes;

const NAME: &str = "ebpf";

/// What the plane has to know.
#[derive(Clone, Debug)]
pub struct EbpfConfig {
    /// This node, as backends name it.
    pub node: NodeName,
    /// Its addresses on the underlay: sources of flows whose answers would pass this node by.
    pub addresses: Addresses,
    /// Where VIPs are claimed: what is dialled there and served by nobody is refused. Two of a family at most.
    pub vip_cidrs: Vec<IpNetwork>,
    /// The overlay: from there answers come back through this node, so that backends may see the client's address.
    pub overlay: Vec<IpNetwork>,
    /// The overlay's bridge.
    pub bridge: Option<String>,
    /// The overlay's device, by which flows of other nodes come.
    pub device: Option<String>,
    /// The mesh as it changes, for the addresses of its nodes.
    pub snapshots: Option<watch::Receiver<Arc<Snapshot>>>,
    /// A BPF file system; a usual one, or one mounted at `/run/mesh-agent/bpf`, when absent.
    pub bpffs: Option<PathBuf>,
    /// The cgroup (version 2) whose processes' sockets are translated; that of all processes when absent.
    pub cgroup: Option<PathBuf>,
    /// How much the maps hold; what is pinned keeps its size.
    pub sizes: Sizes,
    /// New flows that packets may begin on one CPU within a jiffy; any number for 0.
    pub new_flows: u32,
}

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
