//! The nftables data plane: a fixed number of rules, and maps that hold the services.
//!
//! ```text
//!  first packet ─▶ prerouting/output ─▶ map services ─▶ map shapes ─▶ chain of that shape ─▶ its map slots ─▶ dnat
//!                   (nat, -105)          address . protocol . port                              … . number
//! ```
//!
//! One chain with its maps serves all frontends of its shape (`shape`, `chain`), so a packet of a new flow costs three
//! lookups whatever the number of services, and a change of an endpoint changes a few map elements (`write`). What
//! stands for a frontend is a pure function of it (`realize`); elements carry names and policies along (`note`), so
//! the whole table can be read back and compared (`observe`), also by another run of the agent.

mod chain;
mod counters;
mod explain;
mod ids;
mod observe;
mod realize;
mod sets;
mod shape;
mod slots;
mod state;
#[cfg(test)]
mod tests;
mod write;

pub use super::netfilter::names::RESET;
pub use ids::TABLE;

use super::{
    batch::Batch,
    blocking::{blocking, locked},
    counters::Counters,
    explain::{Explanation, Flow},
    netfilter::{
        NetfilterConfig,
        apply::{Bring, apply},
        base::Outline,
        deadline::Deadlines,
        elements::Place,
        flows::{self, Cut, Cuts},
    },
    plane::{ApplyReport, Capabilities, DataPlane, PlaneError},
};
use crate::{
    plan::{FrontendKey, Op, Table},
    sys::{
        conntrack::Conntrack,
        nft::{Nft, Transaction},
    },
};
use counters::Tally;
use mesh_control::model::{Protocol, Scheduler};
use state::State;
use std::{
    collections::BTreeSet,
    io,
    sync::{Arc, Mutex},
};
use write::Change;

const NAME: &str = "nftables";

/// The nftables data plane of the network namespace it was started in.
#[derive(Debug)]
pub struct NftablesPlane {
    place: Place,
    outline: Outline,
    nft: Mutex<Nft>,
    conntrack: Mutex<Conntrack>,
    state: State,
    tally: Arc<Mutex<Tally>>,
    deadlines: Deadlines,
}

fn failed(action: &'static str) -> impl Fn(io::Error) -> PlaneError {
    move |source| PlaneError { plane: NAME, action, source }
}

impl NftablesPlane {
    /// Opens the sockets, in the calling thread's network namespace. Changes nothing: what an earlier run left serves
    /// on and is read by [`DataPlane::observe`].
    ///
    /// # Errors
    /// [`PlaneError`] when the kernel has no nf_tables or the process may not use it.
    pub fn start(config: NetfilterConfig) -> Result<NftablesPlane, PlaneError> {
        let mut nft = Nft::open().map_err(failed("open a netlink socket"))?;
        for layout in ids::layouts() {
            nft.chains(&layout.table)
                .map_err(failed("use nf_tables (run as root, or set data_plane: userspace)"))?;
        }
        let tally = Arc::<Mutex<Tally>>::default();
        let conntrack = || Conntrack::open().map_err(failed("open a conntrack socket"));
        let (mut theirs, counted) = (conntrack()?, Arc::clone(&tally));
        let end = move |due: &[Cut]| {
            flows::cut(&mut theirs, due, flows::TRANSLATED).map(|ended| locked(&counted).reset(ended))
        };
        Ok(NftablesPlane {
            place: Place { node: config.node, overlay: config.overlay },
            outline: Outline { vip_cidrs: config.vip_cidrs, bridge: config.bridge },
            nft: Mutex::new(nft),
            conntrack: Mutex::new(conntrack()?),
            state: State::empty(),
            deadlines: Deadlines::start(NAME, end).map_err(failed("start the drain thread"))?,
            tally,
        })
    }

    fn program(&mut self, work: &Table, touched: &BTreeSet<FrontendKey>) -> io::Result<()> {
        let change = Change::plan(&self.state, &self.place, work, touched);
        if !change.is_empty() {
            let mut nft = locked(&self.nft);
            locked(&self.tally).before(&mut nft, &self.state, &change, touched)?;
            for batch in change.bring(&self.outline).into_iter().chain(change.remove()) {
                nft.commit(batch)?;
            }
        }
        self.state = change.next;
        Ok(())
    }

    /// Reads the kernel; what every frontend depends on is laid anew when it is damaged, in one transaction. Flows that
    /// are open go on.
    fn read(&mut self) -> io::Result<()> {
        let (state, damaged) = observe::read(&mut locked(&self.nft), &self.place, &self.outline)?;
        self.state = state;
        if damaged {
            tracing::warn!(plane = NAME, "chains or sets are another version's, or damaged: laid anew");
            let table = std::mem::take(&mut self.state.table);
            self.state = State::empty();
            let all = table.keys().copied().collect();
            self.program(&table, &all)?;
        }
        let mut cuts = Cuts::default();
        self.state.table.values().for_each(|entry| flows::deadlines(&mut cuts, entry));
        self.deadlines.follow(&self.state.table, cuts);
        Ok(())
    }
}

impl Bring for NftablesPlane {
    const NAME: &'static str = NAME;

    fn table(&self) -> &Table {
        &self.state.table
    }

    fn bring(&mut self, work: &Table, touched: &BTreeSet<FrontendKey>) -> io::Result<()> {
        let mut cuts = flows::cuts(&self.state.table, work, touched);
        self.deadlines.settle(work);
        self.program(work, touched)?;
        for key in touched.iter().filter(|key| !work.contains_key(*key)) {
            locked(&self.tally).forget(key);
        }
        let datagrams = cuts.take_datagrams();
        self.deadlines.follow(&self.state.table, cuts);
        let ended = flows::cut(&mut locked(&self.conntrack), &datagrams, flows::TRANSLATED);
        locked(&self.tally).reset(ended?);
        Ok(())
    }

    fn read_again(&mut self) -> io::Result<()> {
        self.read()
    }
}

impl DataPlane for NftablesPlane {
    fn name(&self) -> &'static str {
        NAME
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            schedulers: vec![Scheduler::Rr, Scheduler::Wrr, Scheduler::Random, Scheduler::Maglev],
            protocols: vec![Protocol::Tcp, Protocol::Udp],
            proxy_protocol: false,
            keeps_client_address: true,
            survives_restart: true,
            hold: false,
        }
    }

    async fn observe(&mut self) -> Result<Table, PlaneError> {
        blocking(|| self.read()).map_err(failed("read the ruleset"))?;
        Ok(self.state.table.clone())
    }

    async fn apply(&mut self, ops: &[Op]) -> ApplyReport {
        let batch = Batch::new(&self.state.table, ops, realize::unsupported, realize::too_large);
        blocking(|| apply(self, batch))
    }

    fn counters(&self) -> Counters {
        let read = || {
            let (mut nft, mut conntrack) = (locked(&self.nft), locked(&self.conntrack));
            counters::read(&mut nft, &mut conntrack, &self.state, &locked(&self.tally))
        };
        blocking(read).unwrap_or_else(|error| {
            tracing::warn!(plane = NAME, %error, "cannot read the counters");
            Counters::default()
        })
    }

    fn explain(&self, flow: &Flow) -> Explanation {
        blocking(|| explain::explain(&mut locked(&self.nft), &self.state, &self.place, flow))
    }

    /// The kernel serves on without the agent, so there is nothing to refuse.
    async fn refuse_new(&mut self) {}

    async fn teardown(&mut self) -> Result<(), PlaneError> {
        let all: BTreeSet<FrontendKey> = self.state.table.keys().copied().collect();
        let cuts = flows::cuts(&self.state.table, &Table::new(), &all);
        let mut batch = Transaction::new();
        for layout in ids::layouts() {
            batch.delete_table(&layout.table);
        }
        blocking(|| {
            locked(&self.nft).commit(batch)?;
            self.state = State::empty();
            self.deadlines.follow(&self.state.table, Cuts::default());
            // Without our rules nobody resets what is marked: what was translated is forgotten.
            flows::forget(&mut locked(&self.conntrack), &cuts.now, flows::TRANSLATED)
        })
        .map_err(failed("remove the tables"))
    }
}
