//! The IPVS data plane: the kernel's virtual server, as `ipvsadm -Ln` shows it.
//!
//! ```text
//!  packet to a VIP ─▶ mark ─▶ local (mesh-ipvs0 has the VIP) ─▶ IPVS: service by address ─▶ destination
//!  published port  ─▶ mark of that port ─▶ local               ─▶ IPVS: service by mark   ─▶ destination
//! ```
//!
//! IPVS moves the packets; what it lacks stands in tables of nf_tables beside it (`rules`): marks, lists of sources, what
//! a frontend without a backend says, resets, and the names of services and backends, so that all can be read back.
//! What stands for a frontend is a pure function of it (`realize`), a change is the difference to what the kernel holds
//! (`write`), never a deletion of what stays.

mod cleanup;
mod counters;
mod direct;
mod explain;
mod host;
mod numbers;
mod observe;
mod realize;
mod rules;
mod site;
mod state;
#[cfg(test)]
mod tests;
mod write;

pub use cleanup::clean;
pub use direct::Direct;
pub use host::LINK;
pub use rules::{TABLE, ours};

use super::{
    batch::Batch,
    blocking::{blocking, locked},
    counters::Counters,
    explain::{Explanation, Flow},
    netfilter::{
        NetfilterConfig,
        apply::{Bring, apply},
        base::Outline,
        deadline::{Deadlines, now},
        elements::Place,
        flows::{self, Cut, Cuts},
    },
    plane::{ApplyReport, Capabilities, DataPlane, PlaneError},
};
use crate::{
    plan::{Backend, BackendState, FrontendKey, Listen, Op, Table},
    sys::{
        conntrack::Conntrack,
        ipvs::{Command, Ipvs, IpvsError, Service, Virtual},
        nft::Nft,
    },
};
use counters::Tally;
use host::Ground;
use mesh_control::model::{Family, Protocol, Scheduler};
use numbers::{Numbers, numbered};
use site::Site;
use state::State;
use std::{
    collections::BTreeSet,
    io,
    sync::{Arc, Mutex},
};
use write::Change;

const NAME: &str = "ipvs";

/// The IPVS data plane of the network namespace it was started in.
#[derive(Debug)]
pub struct IpvsPlane {
    site: Site,
    schedulers: Vec<Scheduler>,
    ground: Ground,
    kernel: Mutex<Kernel>,
    state: State,
    tally: Arc<Mutex<Tally>>,
    /// What the thread that ends drains has to know.
    shown: Arc<Mutex<(Table, Numbers)>>,
    deadlines: Deadlines,
}

/// The sockets.
#[derive(Debug)]
struct Kernel {
    ipvs: Ipvs,
    nft: Nft,
    conntrack: Conntrack,
}

impl Kernel {
    fn open() -> Result<Kernel, PlaneError> {
        let ipvs = Ipvs::open().map_err(|e| failed("use IPVS")(e.into()))?;
        let nft = Nft::open().map_err(failed("open a netlink socket"))?;
        let conntrack = Conntrack::open().map_err(failed("open a conntrack socket"))?;
        Ok(Kernel { ipvs, nft, conntrack })
    }
}

fn failed(action: &'static str) -> impl Fn(io::Error) -> PlaneError {
    move |source| PlaneError { plane: NAME, action, source }
}

/// The schedulers that this kernel has, tried on the mark of UDP port 0, which no packet has.
fn schedulers(ipvs: &mut Ipvs) -> Result<Vec<Scheduler>, IpvsError> {
    let of = Virtual::Mark { mark: rules::mark(0, Protocol::Udp, 0), v6: false };
    let mut all = Vec::new();
    for (scheduler, _) in Scheduler::ALL {
        let (name, flags) = realize::scheduler(scheduler);
        let service = Service { scheduler: name.into(), flags, timeout: 0, prefix: 32 };
        match ipvs.one(Command::NewService(of, service)) {
            Ok(()) => all.push(scheduler),
            // One that somebody left behind half way.
            Err(IpvsError::Exists) => all.push(scheduler),
            Err(IpvsError::NotFound) => continue,
            Err(error) => return Err(error),
        }
        ipvs.one(Command::DelService(of))?;
    }
    Ok(all)
}

impl IpvsPlane {
    /// Opens the sockets, in the calling thread's network namespace. Changes nothing: what an earlier run left serves
    /// on and is read by [`DataPlane::observe`]. With `direct`, packets to VIPs go to the nodes of their backends as they
    /// are.
    ///
    /// # Errors
    /// [`PlaneError`] when the kernel has no IPVS or no nf_tables, or the process may not use them.
    pub fn start(config: NetfilterConfig, direct: Option<Direct>) -> Result<IpvsPlane, PlaneError> {
        let mut kernel = Kernel::open()?;
        let schedulers = schedulers(&mut kernel.ipvs).map_err(|e| failed("use IPVS")(e.into()))?;
        for layout in rules::layouts() {
            kernel.nft.chains(&layout.table).map_err(failed("use nf_tables"))?;
        }
        let ground = Ground::open(direct.is_some()).map_err(failed("look at the host's links"))?;
        let (tally, shown) = (Arc::<Mutex<Tally>>::default(), Arc::<Mutex<(Table, Numbers)>>::default());
        let mut theirs = Kernel::open()?;
        let (counted, seen) = (Arc::clone(&tally), Arc::clone(&shown));
        let (own, sends) = (config.node.clone(), direct.clone());
        let is_sent =
            move |backend: &Backend| sends.as_ref().is_some_and(|direct| direct.hop(&own, backend).is_some());
        let end = move |due: &[Cut]| {
            end(&mut theirs, &seen, due, &is_sent).map(|ended| locked(&counted).reset(ended))
        };
        Ok(IpvsPlane {
            site: Site {
                place: Place { node: config.node, overlay: config.overlay },
                outline: Outline { vip_cidrs: config.vip_cidrs, bridge: config.bridge },
                direct,
            },
            schedulers,
            ground,
            kernel: Mutex::new(kernel),
            state: State::empty(),
            deadlines: Deadlines::start(NAME, end).map_err(failed("start the drain thread"))?,
            tally,
            shown,
        })
    }

    /// Gives the frontends that are to be there the numbers that they need.
    fn number(&mut self, work: &Table, touched: &BTreeSet<FrontendKey>) -> io::Result<()> {
        for entry in touched.iter().filter_map(|key| work.get(key)) {
            if let Listen::Address(address) = entry.frontend.key.listen {
                let numbers = numbered(&self.state.numbers.addresses, &self.state.table, address);
                let most = "ports are published on too many single addresses: use fewer, or all";
                self.state.numbers.addresses = numbers.ok_or_else(|| io::Error::other(most))?;
            }
            if self.site.direct.is_some() && !numbers::number(&mut self.state.numbers, &entry.frontend) {
                return Err(io::Error::other("VIPs have too many ports for direct routing: use nat"));
            }
        }
        Ok(())
    }

    /// Tells the thread that ends drains what there is now.
    fn follow(&self, cuts: Cuts) {
        *locked(&self.shown) = (self.state.table.clone(), self.state.numbers.clone());
        self.deadlines.follow(&self.state.table, cuts);
    }

    /// Reads the kernel; what every frontend depends on is repaired when it is damaged.
    fn read(&mut self) -> io::Result<Table> {
        let mut state = State::empty();
        if let Some(link) = self.ground.link()? {
            state.vips = self.ground.vips(link.index)?;
        }
        let found = {
            let Kernel { ipvs, nft, .. } = &mut *locked(&self.kernel);
            let found = observe::read(nft, ipvs, &mut state, &self.site, now())?;
            if !state.table.is_empty() {
                let link = self.ground.prepare(ipvs)?;
                state.link = Some(link);
                let wanted = state.wanted_vips();
                for (vip, there) in wanted
                    .difference(&state.vips)
                    .map(|vip| (*vip, true))
                    .chain(state.vips.difference(&wanted).map(|vip| (*vip, false)))
                {
                    self.ground.set_vip(link, vip, there)?;
                }
                state.vips = wanted;
            }
            found
        };
        self.state = state;
        if found.damaged {
            tracing::warn!(plane = NAME, "chains or sets were changed by somebody else: laid anew");
            let table = std::mem::take(&mut self.state.table);
            for side in &mut self.state.sides {
                side.base = false;
                side.shared.clear();
                side.debris.clear();
            }
            let all = table.keys().copied().collect();
            self.bring(&table, &all)?;
        }
        let mut cuts = Cuts::default();
        self.state.table.values().for_each(|entry| flows::deadlines(&mut cuts, entry));
        self.follow(cuts);
        Ok(found.table)
    }
}

/// Does commands; that what is to go is not there is well.
fn run(ipvs: &mut Ipvs, commands: &[Command]) -> io::Result<()> {
    for (at, error) in ipvs.run(commands).map_err(io::Error::from)? {
        let goes = matches!(commands[at], Command::DelService(_) | Command::DelDest(..));
        if !(goes && matches!(error, IpvsError::NoService | IpvsError::NotFound)) {
            return Err(io::Error::other(format!("{}: {error}", commands[at])));
        }
    }
    Ok(())
}

/// Ends flows; of what drained long enough the destinations go before, unless somebody else has the same address. Those
/// of backends that are gone went with them.
fn end(
    kernel: &mut Kernel,
    state: &Mutex<(Table, Numbers)>,
    due: &[Cut],
    is_sent: &impl Fn(&Backend) -> bool,
) -> io::Result<counters::Ended> {
    let mut gone = Vec::new();
    let shown = locked(state);
    let (table, numbers) = &*shown;
    let over = |b: &Backend| matches!(b.state, BackendState::Draining { deadline: Some(at) } if at <= now());
    for cut in due {
        let held = table.get(&cut.frontend).zip(cut.backend.as_ref());
        let drained =
            held.filter(|(entry, backend)| entry.backends.iter().any(|b| b.id == backend.id && over(b)));
        let Some((entry, backend)) = drained else { continue };
        let shared = |socket| {
            let others = entry.backends.iter().filter(|b| b.id != backend.id);
            others.into_iter().any(|b| b.socket(0) == socket)
        };
        if shared(backend.socket(0)) {
            continue;
        }
        // A node that packets are sent to may have others.
        let sent = direct::suits(&entry.frontend) && is_sent(backend);
        let all = realize::virtuals(&entry.frontend, numbers);
        let all = all.filter(|(_, of)| !sent || matches!(of, Virtual::Mark { .. }));
        gone.extend(all.map(|(offset, of)| Command::DelDest(of, backend.socket(offset))));
    }
    run(&mut kernel.ipvs, &gone)?;
    drop(shown);
    flows::cut(&mut kernel.conntrack, due, None)
}

impl Bring for IpvsPlane {
    const NAME: &'static str = NAME;

    fn table(&self) -> &Table {
        &self.state.table
    }

    fn bring(&mut self, work: &Table, touched: &BTreeSet<FrontendKey>) -> io::Result<()> {
        self.deadlines.settle(work);
        self.number(work, touched)?;
        let kernel = &mut *locked(&self.kernel);
        if self.state.link.is_none() && touched.iter().any(|key| work.contains_key(key)) {
            self.state.link = Some(self.ground.prepare(&mut kernel.ipvs)?);
        }
        let change = Change::plan(&self.state, &self.site, work, touched, now());
        locked(&self.tally).before(kernel, &self.state, &change)?;
        if !change.is_quiet(&self.state) {
            kernel.nft.commit(change.transaction(&self.state, &self.site))?;
        }
        // Until it is done no drain ends: a backend that comes back just then would lose its destination.
        let mut shown = locked(&self.shown);
        run(&mut kernel.ipvs, &change.commands)?;
        if let Some(link) = self.state.link {
            for vip in &change.vips.0 {
                self.ground.set_vip(link, *vip, true)?;
                self.state.vips.insert(*vip);
            }
            for vip in &change.vips.1 {
                self.ground.set_vip(link, *vip, false)?;
                self.state.vips.remove(vip);
            }
        }
        let mut cuts = flows::cuts(&self.state.table, work, touched);
        change.done(&mut self.state, work);
        for key in touched.iter().filter(|key| !work.contains_key(*key)) {
            locked(&self.tally).forget(key);
            let programs = &self.state.programs;
            let v6 = key.listen.family() == Family::V6;
            let used = |number| programs.contains_key(&realize::received_by(number, v6));
            self.state.numbers.left(key, used);
        }
        let datagrams = cuts.take_datagrams();
        *shown = (self.state.table.clone(), self.state.numbers.clone());
        drop(shown);
        self.deadlines.follow(&self.state.table, cuts);
        let ended = flows::cut(&mut kernel.conntrack, &datagrams, None);
        locked(&self.tally).reset(ended?);
        Ok(())
    }

    fn read_again(&mut self) -> io::Result<()> {
        self.read().map(drop)
    }

    fn refused(&mut self) {
        // What was done half way is read; when not even that works, the next one says so.
        let _read = self.read();
    }
}

impl DataPlane for IpvsPlane {
    fn name(&self) -> &'static str {
        NAME
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            schedulers: self.schedulers.clone(),
            protocols: vec![Protocol::Tcp, Protocol::Udp],
            proxy_protocol: false,
            keeps_client_address: true,
            survives_restart: true,
            hold: false,
        }
    }

    async fn observe(&mut self) -> Result<Table, PlaneError> {
        blocking(|| self.read()).map_err(failed("read what the kernel holds"))
    }

    async fn apply(&mut self, ops: &[Op]) -> ApplyReport {
        let batch = Batch::new(
            &self.state.table,
            ops,
            |frontend| realize::unsupported(frontend, &self.schedulers),
            realize::too_large,
        );
        blocking(|| apply(self, batch))
    }

    fn counters(&self) -> Counters {
        blocking(|| counters::read(&mut locked(&self.kernel), &self.state, &mut locked(&self.tally)))
            .unwrap_or_else(|error| {
                tracing::warn!(plane = NAME, %error, "cannot read the counters");
                Counters::default()
            })
    }

    fn explain(&self, flow: &Flow) -> Explanation {
        blocking(|| explain::explain(&self.ground, &self.state, &self.schedulers, flow))
    }

    /// The kernel serves on without the agent, so there is nothing to refuse.
    async fn refuse_new(&mut self) {}

    async fn teardown(&mut self) -> Result<(), PlaneError> {
        let all: BTreeSet<FrontendKey> = self.state.table.keys().copied().collect();
        let cuts = flows::cuts(&self.state.table, &Table::new(), &all);
        blocking(|| {
            let kernel = &mut *locked(&self.kernel);
            cleanup::remove(&mut kernel.ipvs, &mut kernel.nft, &mut self.ground)?;
            self.state = State::empty();
            *locked(&self.shown) = (Table::new(), Numbers::default());
            self.deadlines.follow(&self.state.table, Cuts::default());
            // Without our rules nobody resets what is marked: what was translated is forgotten.
            flows::forget(&mut kernel.conntrack, &cuts.now, None)
        })
        .map_err(failed("remove what is in the kernel"))
    }
}
