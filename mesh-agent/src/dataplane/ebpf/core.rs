//! The maps, what they hold, and the host around them, in one place; one at a time works with it.

use super::{
    change::Change,
    config::{EbpfConfig, NAME},
    counters::{self, Tally},
    drops::Told,
    explain, flows,
    host::Host,
    leaks::Leaks,
    maps::Maps,
    observe,
    realize::Place,
    state::{Now, State},
};
use crate::{
    dataplane::{
        counters::Counters,
        explain::{Explanation, Flow},
    },
    plan::{FrontendKey, Table},
    sys::sockdiag::SockDiag,
};
use mesh_ebpf::{Events, Kernel, place};
use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

#[derive(Debug)]
pub(super) struct Core {
    pub(super) config: EbpfConfig,
    bpffs: PathBuf,
    cgroup: PathBuf,
    netns: u64,
    began: Instant,
    diag: SockDiag,
    pub(super) host: Host,
    /// Absent after a teardown, until there is something to hold again.
    set_up: Option<SetUp>,
    pub(super) place: Place,
    pub(super) state: State,
    tally: Tally,
    told: Told,
    leaks: Leaks,
}

/// What is pinned.
#[derive(Debug)]
struct SetUp {
    kernel: Kernel,
    maps: Maps,
    events: Events,
}

/// The folders of pins of the calling thread's network namespace, of whatever layout; nothing is mounted for it.
///
/// # Errors
/// The system's.
pub fn leftovers(bpffs: Option<&Path>) -> io::Result<Vec<PathBuf>> {
    let Some(bpffs) = place::mounted_bpffs(bpffs) else { return Ok(Vec::new()) };
    let netns = place::netns_cookie()?;
    let ours = mesh_ebpf::folder(&bpffs, netns);
    let mut all = mesh_ebpf::other_layouts(&bpffs, netns);
    all.extend(Some(ours).filter(|folder| folder.exists()));
    Ok(all)
}

impl Core {
    pub(super) fn open(config: EbpfConfig) -> io::Result<Core> {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        if let Some(why) = place::too_old(release.trim()) {
            return Err(io::Error::new(io::ErrorKind::Unsupported, why));
        }
        let bpffs = place::bpffs(config.bpffs.as_deref())?;
        let cgroup = config.cgroup.clone().map_or_else(place::cgroups, Ok)?;
        let mut core = Core {
            bpffs,
            cgroup,
            netns: place::netns_cookie()?,
            began: Instant::now(),
            diag: SockDiag::open()?,
            host: Host::open(config.hook.filters(release.trim())?)?,
            set_up: None,
            place: Place {
                node: config.node.clone(),
                overlay: config.overlay.clone(),
                here: BTreeSet::new(),
                direct: config.direct && config.tunnel.is_some(),
            },
            state: State::empty([0; 3]),
            tally: Tally::default(),
            told: Told::default(),
            leaks: Leaks::default(),
            config,
        };
        core.set_up()?;
        Ok(core)
    }

    pub(super) fn table(&self) -> &Table {
        &self.state.table
    }

    pub(super) fn now(&self) -> Now {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let ms = |ms: u128| u64::try_from(ms).unwrap_or(u64::MAX);
        Now { unix: ms(since), since: ms(self.began.elapsed().as_millis()) }
    }

    /// Makes maps and programs unless they are there, and puts the programs to work.
    fn set_up(&mut self) -> io::Result<()> {
        if self.set_up.is_some() {
            return Ok(());
        }
        let folder = mesh_ebpf::folder(&self.bpffs, self.netns);
        let kernel = Kernel::open(&folder, &self.config.sizes).map_err(io::Error::other)?;
        let maps = Maps::open(&kernel)?;
        self.state = State::empty(maps.sizes());
        self.host.begin(&maps, &self.config, self.netns)?;
        let events = kernel.events()?;
        self.set_up = Some(SetUp { kernel, maps, events });
        // Before the sockets: where no device can be had, another plane is taken.
        self.look_around()?;
        let set_up = self.maps()?;
        set_up.kernel.attach_cgroup(&self.cgroup).map_err(io::Error::other)?;
        set_up.kernel.forget_others()?;
        for folder in mesh_ebpf::other_layouts(&self.bpffs, self.netns) {
            mesh_ebpf::remove(&folder)?;
        }
        Ok(())
    }

    fn maps(&self) -> io::Result<&SetUp> {
        self.set_up.as_ref().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Follows links, addresses and nodes; what stands otherwise for a backend because of it is written.
    pub(super) fn look_around(&mut self) -> io::Result<()> {
        let Some(set_up) = &self.set_up else { return Ok(()) };
        let here = self.host.look(&set_up.kernel, &set_up.maps, &self.config)?;
        if here == self.place.here {
            return Ok(());
        }
        let moved: BTreeSet<_> = here.symmetric_difference(&self.place.here).copied().collect();
        self.place.here = here;
        let concerned =
            self.state.table.values().filter(|e| e.backends.iter().any(|b| moved.contains(&b.address)));
        let touched = concerned.map(|entry| entry.frontend.key).collect();
        let refused = self.bring(&self.state.table.clone(), &touched);
        refused.into_iter().next().map_or(Ok(()), |(_, error)| Err(error))
    }

    /// Puts the tokens of backends where an earlier run put none.
    fn name_tokens(&mut self) -> io::Result<()> {
        let lacks = |key: &&FrontendKey| {
            let held = self.state.held.get(key);
            key.listen.is_published() && held.is_some_and(|held| held.direct != self.place.direct)
        };
        let touched = self.state.table.keys().filter(lacks).copied().collect();
        let refused = self.bring(&self.state.table.clone(), &touched);
        refused.into_iter().next().map_or(Ok(()), |(_, error)| Err(error))
    }

    /// Brings the maps from what they hold to `work`, where they differ in `touched`; what could not be had and why.
    pub(super) fn bring(
        &mut self,
        work: &Table,
        touched: &BTreeSet<FrontendKey>,
    ) -> Vec<(FrontendKey, io::Error)> {
        let all = |error: &io::Error| -> Vec<(FrontendKey, io::Error)> {
            touched.iter().map(|key| (*key, io::Error::new(error.kind(), error.to_string()))).collect()
        };
        if touched.is_empty() {
            return Vec::new();
        }
        if let Err(error) = self.set_up() {
            return all(&error);
        }
        let (mut change, mut refused, now) = (Change::default(), Vec::new(), self.now());
        // What goes makes room for what comes.
        let (gone, stay): (Vec<&FrontendKey>, Vec<&FrontendKey>) =
            touched.iter().partition(|key| !work.contains_key(*key));
        for key in gone.into_iter().chain(stay) {
            let put = self.state.put(&self.place, *key, work.get(key), now, &mut change);
            if let Err(full) = put {
                let text = format!(
                    "no room for more {full}: raise ebpf.max_backends, and clean up before the next start"
                );
                refused.push((*key, io::Error::new(io::ErrorKind::StorageFull, text)));
            }
        }
        change.finish(std::mem::take(&mut self.state.debris));
        self.state.settle(&change);
        if let Err(error) = self.write(&change) {
            tracing::warn!(plane = NAME, %error, "the kernel refused a change: reading what it holds");
            if let Err(error) = self.read() {
                tracing::warn!(plane = NAME, %error, "cannot read the maps");
            }
            return all(&error);
        }
        refused
    }

    fn write(&mut self, change: &Change) -> io::Result<()> {
        let set_up = self.set_up.as_ref().ok_or(io::ErrorKind::NotFound)?;
        self.tally.keep(&set_up.maps, change)?;
        set_up.maps.write(change)?;
        if change.cuts.is_empty() {
            return Ok(());
        }
        self.host.bump(&set_up.maps)?;
        self.tally.reset(flows::cut(&mut self.diag, &set_up.maps, &change.cuts)?);
        Ok(())
    }

    /// Ends the flows of backends whose drain deadline has come.
    pub(super) fn end_due(&mut self) {
        let due = self.state.take_due(self.now().unix);
        let due = due.into_iter().filter(|key| self.state.table.contains_key(key)).collect();
        for (key, error) in self.bring(&self.state.table.clone(), &due) {
            tracing::warn!(plane = NAME, frontend = %key, %error, "cannot end drained flows");
        }
    }

    /// Forgets flows that have said nothing for too long, and tells of packets that were dropped.
    pub(super) fn collect(&mut self) -> io::Result<()> {
        let now = self.now().since;
        let Some(set_up) = &mut self.set_up else { return Ok(()) };
        self.told.tell(std::iter::from_fn(|| set_up.events.next_event()), now);
        flows::collect(&set_up.maps, &self.state, &mut self.leaks)
    }

    fn read(&mut self) -> io::Result<()> {
        let Some(set_up) = &self.set_up else { return Ok(()) };
        self.state = observe::read(&set_up.maps, &self.place, self.now().unix)?;
        Ok(())
    }

    pub(super) fn observe(&mut self) -> io::Result<Table> {
        self.end_due();
        self.read()?;
        self.look_around()?;
        self.name_tokens()?;
        Ok(self.state.table.clone())
    }

    pub(super) fn counters(&mut self) -> io::Result<Counters> {
        match &self.set_up {
            Some(set_up) => counters::read(&set_up.maps, &self.state, &mut self.tally),
            None => Ok(Counters::default()),
        }
    }

    pub(super) fn explain(&self, flow: &Flow) -> Explanation {
        explain::explain(self.set_up.as_ref().map(|set_up| &set_up.maps), &self.state, flow)
    }

    pub(super) fn teardown(&mut self) -> io::Result<()> {
        self.set_up = None;
        self.state = State::empty([0; 3]);
        let unhooked = self.host.forget();
        mesh_ebpf::remove(&mesh_ebpf::folder(&self.bpffs, self.netns)).and(unhooked)
    }
}
