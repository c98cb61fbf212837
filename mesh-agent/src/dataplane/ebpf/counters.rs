//! What backends and frontends got, summed over CPUs.

use super::{change::Change, maps::Maps, state::State};
use crate::{
    dataplane::counters::{BackendCounters, Counters, FrontendCounters},
    plan::BackendId,
};
use mesh_control::model::{Protocol, ServiceKey};
use mesh_ebpf::common::{BackendCounts, Drop, FrontendCounts};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

pub(super) type BackendKey = (ServiceKey, BackendId, Protocol);

/// What was counted in places that others have now: flows begun, and the rest. With it, counts never go down.
#[derive(Debug, Default)]
pub(super) struct Tally(BTreeMap<BackendKey, (u64, BackendCounts)>);

fn add(to: &mut BackendCounts, counts: &BackendCounts) {
    to.reset += counts.reset;
    to.bytes_in += counts.bytes_in;
    to.bytes_out += counts.bytes_out;
}

impl Tally {
    /// Notes what was counted in places that a change takes away.
    pub(super) fn keep(&mut self, maps: &Maps, change: &Change) -> io::Result<()> {
        for (index, service, backend, protocol) in &change.gone {
            let kept = self.0.entry((service.clone(), backend.clone(), *protocol)).or_default();
            kept.0 += maps.backends.get(*index).map_or(0, |backend| backend.begun);
            maps.backend_counts.at(*index)?.iter().for_each(|counts| add(&mut kept.1, counts));
        }
        Ok(())
    }

    /// Counts flows that were reset.
    pub(super) fn reset(&mut self, ended: BTreeMap<BackendKey, u64>) {
        for (key, count) in ended {
            self.0.entry(key).or_default().1.reset += count;
        }
    }
}

/// Everything counted, as of now. Costs time in endpoints and CPUs.
pub(super) fn read(maps: &Maps, state: &State, tally: &mut Tally) -> io::Result<Counters> {
    let end = state.backends.end();
    let mut counts = vec![BackendCounts::default(); usize::try_from(end).unwrap_or(0)];
    maps.backend_counts.of_all_cpus(end, |index, cpus| {
        if let Some(to) = usize::try_from(index).ok().and_then(|at| counts.get_mut(at)) {
            cpus.iter().for_each(|counts| add(to, counts));
        }
    })?;
    let mut refused = vec![FrontendCounts::default(); usize::try_from(state.frontends.end()).unwrap_or(0)];
    maps.frontend_counts.of_all_cpus(state.frontends.end(), |index, cpus| {
        if let Some(to) = usize::try_from(index).ok().and_then(|at| refused.get_mut(at)) {
            for counts in cpus {
                to.no_backend += counts.no_backend;
                to.denied += counts.denied;
                to.limited += counts.limited;
            }
        }
    })?;
    let mut backends: BTreeMap<BackendKey, (&'static str, BackendCounts, [u64; 2])> = BTreeMap::new();
    let mut frontends = Vec::new();
    for (key, entry) in &state.table {
        let (service, Some(held)) = (&entry.frontend.service, state.held.get(key)) else { continue };
        for backend in entry.backends.iter() {
            let place = held.backends.get(&backend.id).map(|b| b.index);
            let at = place.and_then(|index| usize::try_from(index).ok());
            let whose = (service.clone(), backend.id.clone(), key.protocol);
            let so_far = backends.entry(whose).or_insert(("", BackendCounts::default(), [0; 2]));
            so_far.0 = backend.state.as_str();
            if let Some(counts) = at.and_then(|at| counts.get(at)) {
                add(&mut so_far.1, counts);
            }
            if let Some(held) = place.and_then(|index| maps.backends.get(index)) {
                so_far.2[0] += u64::try_from(held.active).unwrap_or(0);
                so_far.2[1] += held.begun;
            }
        }
        let counts =
            usize::try_from(held.index()).ok().and_then(|at| refused.get(at)).copied().unwrap_or_default();
        frontends.push(FrontendCounters {
            service: service.clone(),
            frontend: *key,
            no_backend: counts.no_backend,
            denied: counts.denied,
            limited: counts.limited,
        });
    }
    let services: BTreeSet<&ServiceKey> = state.table.values().map(|entry| &entry.frontend.service).collect();
    tally.0.retain(|(service, ..), _| services.contains(service));
    let told = backends.into_iter().map(|(key, (state, mut counts, [active, mut begun]))| {
        if let Some((kept, rest)) = tally.0.get(&key) {
            begun += kept;
            add(&mut counts, rest);
        }
        BackendCounters {
            state,
            active,
            established: begun,
            failed: 0,
            reset: counts.reset,
            bytes_in: counts.bytes_in,
            bytes_out: counts.bytes_out,
            service: key.0,
            backend: key.1,
            protocol: key.2,
        }
    });
    let mut drops = Drop::NAMES.map(|reason| (reason, 0));
    maps.drops.of_all_cpus(Drop::COUNT, |reason, cpus| {
        if let Some(to) = usize::try_from(reason).ok().and_then(|at| drops.get_mut(at)) {
            to.1 = cpus.iter().sum();
        }
    })?;
    Ok(Counters { backends: told.collect(), frontends, drops: drops.into() })
}
