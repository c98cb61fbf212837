//! What backends and frontends got: what destinations count, and elements of our sets.

use super::{Kernel, realize::virtuals, rules::EMPTY, state::State, write::Change};
use crate::{
    dataplane::{
        counters::{BackendCounters, Counters, FrontendCounters},
        netfilter::{places::Places, sets::Common},
    },
    plan::{BackendId, Entry, FrontendKey},
    sys::{
        ipvs::{Command, Destination, Ipvs, IpvsError, Seen, Stats, Virtual},
        nft::Element,
    },
};
use mesh_control::model::{Protocol, ServiceKey};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::SocketAddr,
};

/// A destination: its place in the range of ports, its service, its address.
type Put = (u16, Virtual, SocketAddr);
type BackendKey = (ServiceKey, BackendId, Protocol);
/// How many flows of each backend were ended.
pub(super) type Ended = BTreeMap<BackendKey, u64>;

/// Sums of backends that nobody asks about any more are kept up to so many.
const SPARE: usize = 4096;

/// What was counted so far. The kernel's counters go with what they are on; these never go down.
#[derive(Debug, Default)]
pub(super) struct Tally {
    sums: BTreeMap<BackendKey, Stats>,
    reset: Ended,
    /// What destinations said last.
    said: BTreeMap<FrontendKey, BTreeMap<Put, Stats>>,
    /// Flows that found no backend, and that came from a source that is not allowed.
    refused: BTreeMap<FrontendKey, [u64; 2]>,
    /// What elements said last.
    elements: BTreeMap<(usize, &'static str, Vec<u8>), u64>,
}

/// The sets whose elements count, in the order of [`Tally::refused`].
const COUNTED: [&str; 2] = [EMPTY, Common::Denied.name()];

/// Open flows of backends now.
type Active = BTreeMap<BackendKey, u64>;

fn further(now: u64, before: u64) -> u64 {
    if now >= before { now - before } else { now }
}

impl Tally {
    /// Notes what counters say that the change will remove.
    pub(super) fn before(&mut self, kernel: &mut Kernel, state: &State, change: &Change) -> io::Result<()> {
        let leaving: BTreeSet<Virtual> = change
            .commands
            .iter()
            .filter_map(|command| match command {
                Command::DelDest(of, _) | Command::DelService(of) => Some(*of),
                _ => None,
            })
            .collect();
        if !leaving.is_empty() {
            for key in &change.touched {
                let Some(entry) = state.table.get(key) else { continue };
                self.destinations(&mut kernel.ipvs, state, entry, Some(&leaving), &mut Active::new())?;
            }
        }
        for (i, (side, elements)) in state.sides.iter().zip(&change.elements).enumerate() {
            for (which, set) in COUNTED.into_iter().enumerate() {
                let Some(out) = elements.out.get(set).filter(|_| side.base) else { continue };
                let keys: Vec<Vec<u8>> = out.iter().map(|element| element.key.clone()).collect();
                let places = Places::new(change.touched.iter(), &side.layout);
                for element in kernel.nft.get(&side.layout.table, set, &keys)? {
                    self.element(i, which, &element, &places, state);
                    self.elements.remove(&(i, set, element.key));
                }
            }
        }
        Ok(())
    }

    /// Counts flows that were reset.
    pub(super) fn reset(&mut self, ended: Ended) {
        for (key, count) in ended {
            *self.reset.entry(key).or_default() += count;
        }
    }

    /// Forgets a frontend that is gone.
    pub(super) fn forget(&mut self, key: &FrontendKey) {
        self.said.remove(key);
        self.refused.remove(key);
    }

    fn element(&mut self, i: usize, which: usize, element: &Element, places: &Places, state: &State) {
        let Some((key, _)) = places.find(&state.sides[i].layout, &element.key) else { return };
        let now = element.count.map_or(0, |count| count.packets);
        let said = self.elements.insert((i, COUNTED[which], element.key.clone()), now).unwrap_or(0);
        self.refused.entry(key).or_default()[which] += further(now, said);
    }

    /// Asks the destinations of an entry, those of the services in `only`.
    fn destinations(
        &mut self,
        ipvs: &mut Ipvs,
        state: &State,
        entry: &Entry,
        only: Option<&BTreeSet<Virtual>>,
        active: &mut Active,
    ) -> io::Result<()> {
        for (offset, of) in virtuals(&entry.frontend, &state.numbers) {
            if only.is_some_and(|only| !only.contains(&of)) {
                continue;
            }
            let held = match ipvs.destinations(&of) {
                Err(IpvsError::NoService) => continue,
                held => held.map_err(io::Error::from)?,
            };
            // What goes to another node is counted there.
            for (at, seen) in held.into_iter().filter(|(_, seen)| seen.what.forward != Destination::ROUTE) {
                self.destination(entry, (offset, of, at), &seen, active);
            }
        }
        Ok(())
    }

    fn destination(&mut self, entry: &Entry, place: Put, seen: &Seen<Destination>, active: &mut Active) {
        let theirs = entry.backends.iter().filter(|b| b.socket(place.0) == place.2);
        let Some(backend) = theirs.max_by_key(|b| b.takes_new_flows()) else { return };
        let frontend = &entry.frontend;
        let key = (frontend.service.clone(), backend.id.clone(), frontend.key.protocol);
        // Flows of UDP are never "active" to IPVS.
        let open = if frontend.key.protocol == Protocol::Tcp { seen.active } else { seen.inactive };
        *active.entry(key.clone()).or_default() += u64::from(open);
        let said = self.said.entry(frontend.key).or_default();
        let before = said.insert(place, seen.stats).unwrap_or_default();
        // Of destinations that went long ago nothing is remembered: they begin anew if they come back.
        if said.len() > 4 * entry.backends.len() * frontend.key.ports.iter().count() + 64 {
            said.retain(|(offset, _, at), _| entry.backends.iter().any(|b| b.socket(*offset) == *at));
        }
        let sum = self.sums.entry(key).or_default();
        sum.connections += further(seen.stats.connections, before.connections);
        sum.bytes_in += further(seen.stats.bytes_in, before.bytes_in);
        sum.bytes_out += further(seen.stats.bytes_out, before.bytes_out);
    }
}

/// Everything counted, as of now. Costs time in destinations and elements.
pub(super) fn read(kernel: &mut Kernel, state: &State, tally: &mut Tally) -> io::Result<Counters> {
    for (i, side) in state.sides.iter().enumerate().filter(|(_, side)| side.base) {
        let places = Places::new(state.table.keys(), &side.layout);
        for (which, set) in COUNTED.into_iter().enumerate() {
            for element in kernel.nft.elements(&side.layout.table, set)? {
                tally.element(i, which, &element, &places, state);
            }
        }
    }
    let mut active = Active::new();
    for entry in state.table.values() {
        tally.destinations(&mut kernel.ipvs, state, entry, None, &mut active)?;
    }
    let mut backends: BTreeMap<BackendKey, &'static str> = BTreeMap::new();
    let mut frontends = Vec::new();
    for entry in state.table.values() {
        let frontend = &entry.frontend;
        for backend in entry.backends.iter() {
            let key = (frontend.service.clone(), backend.id.clone(), frontend.key.protocol);
            backends.insert(key, backend.state.as_str());
        }
        let [no_backend, denied] = tally.refused.get(&frontend.key).copied().unwrap_or_default();
        frontends.push(FrontendCounters {
            service: frontend.service.clone(),
            frontend: frontend.key,
            no_backend,
            denied,
            // Destinations at their limit are passed over unseen.
            limited: 0,
        });
    }
    if tally.sums.len() + tally.reset.len() > 2 * backends.len() + SPARE {
        tally.sums.retain(|key, _| backends.contains_key(key));
        tally.reset.retain(|key, _| backends.contains_key(key));
    }
    let backends = backends.into_iter().map(|(key, state)| {
        let sum = tally.sums.get(&key).copied().unwrap_or_default();
        BackendCounters {
            active: active.get(&key).copied().unwrap_or(0),
            established: sum.connections,
            failed: 0,
            reset: tally.reset.get(&key).copied().unwrap_or(0),
            bytes_in: sum.bytes_in,
            bytes_out: sum.bytes_out,
            service: key.0,
            backend: key.1,
            protocol: key.2,
            state,
        }
    });
    Ok(Counters { backends: backends.collect(), frontends, drops: Vec::new() })
}
