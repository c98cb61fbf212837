//! What backends and frontends got, from the counters of elements and the table of flows.

use super::{
    ids::{self, ALWAYS, SetId},
    state::State,
    write::Change,
};
use crate::{
    dataplane::{
        counters::{BackendCounters, Counters, FrontendCounters},
        netfilter::{
            flows::{leads_to, over},
            layout::Layout,
            places::Places,
            sets::Common,
        },
    },
    plan::{BackendId, FrontendKey, Table},
    sys::{
        conntrack::{Conntrack, Filter, Masked, status},
        nft::{Data, Element, Nft},
    },
};
use mesh_control::model::{Family, Protocol, ServiceKey};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

type BackendKey = (ServiceKey, BackendId, Protocol);

/// What counters said that are gone, because their elements changed. With it, counts never go down.
#[derive(Debug, Default)]
pub(super) struct Tally {
    established: BTreeMap<BackendKey, u64>,
    reset: BTreeMap<BackendKey, u64>,
    frontends: BTreeMap<FrontendKey, Refused>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Refused {
    no_backend: u64,
    denied: u64,
    limited: u64,
}

impl Tally {
    /// Notes what the counters say that a change of the frontends `touched` will remove.
    pub(super) fn before(
        &mut self,
        nft: &mut Nft,
        state: &State,
        change: &Change,
        touched: &BTreeSet<FrontendKey>,
    ) -> io::Result<()> {
        for (side, step) in state.sides.iter().zip(&change.steps) {
            let out: Vec<_> = step.out.iter().chain(&step.gone).filter(|(set, _)| set.counts()).collect();
            if out.is_empty() || !side.base {
                continue;
            }
            let stay = touched.iter().filter(|key| change.next.table.contains_key(*key));
            let places = Places::new(stay, &side.layout);
            for (set, elements) in out {
                // Of frontends that go nobody asks any more.
                let keys: Vec<Vec<u8>> = elements
                    .iter()
                    .filter(|e| places.find(&side.layout, &e.key).is_some())
                    .map(|e| e.key.clone())
                    .collect();
                let found = if keys.is_empty() {
                    Vec::new()
                } else {
                    nft.get(&side.layout.table, &set.to_string(), &keys)?
                };
                for element in found {
                    self.add(&side.layout, &state.table, *set, &element, &places);
                }
            }
        }
        Ok(())
    }

    /// Counts flows that were reset.
    pub(super) fn reset(&mut self, ended: BTreeMap<BackendKey, u64>) {
        for (key, count) in ended {
            *self.reset.entry(key).or_default() += count;
        }
    }

    /// Forgets services that are gone.
    pub(super) fn forget(&mut self, key: &FrontendKey) {
        self.frontends.remove(key);
    }

    fn add(&mut self, layout: &Layout, table: &Table, set: SetId, element: &Element, places: &Places) {
        let Some(packets) = element.count.map(|count| count.packets).filter(|packets| *packets > 0) else {
            return;
        };
        let Some((key, offset)) = places.find(layout, &element.key) else { return };
        let Some(entry) = table.get(&key) else { return };
        let refused = self.frontends.entry(key).or_default();
        match (set, &element.data) {
            (SetId::Services, _) => refused.no_backend += packets,
            (SetId::Common(Common::Denied), _) => refused.denied += packets,
            (SetId::Limited, _) => refused.limited += packets,
            (_, Some(Data::Bytes(leads))) => {
                let at = layout.read_socket(leads);
                if let Some(backend) = entry.backends.iter().find(|b| Some(b.socket(offset)) == at) {
                    let key = (entry.frontend.service.clone(), backend.id.clone(), key.protocol);
                    *self.established.entry(key).or_default() += packets;
                }
            }
            _ => {}
        }
    }
}

/// Everything counted, as of now. Costs time in elements and flows.
pub(super) fn read(
    nft: &mut Nft,
    conntrack: &mut Conntrack,
    state: &State,
    tally: &Tally,
) -> io::Result<Counters> {
    let mut now = Tally {
        established: tally.established.clone(),
        reset: tally.reset.clone(),
        frontends: tally.frontends.clone(),
    };
    let mut active: BTreeMap<BackendKey, u64> = BTreeMap::new();
    for side in state.sides.iter().filter(|side| side.base) {
        let places = Places::new(state.table.keys(), &side.layout);
        let of_shapes = side.chains.keys().flat_map(|shape| ids::of(*shape));
        for set in ALWAYS.into_iter().chain(of_shapes).filter(|set| set.counts()) {
            for element in nft.elements(&side.layout.table, &set.to_string())? {
                now.add(&side.layout, &state.table, set, &element, &places);
            }
        }
        let family = match side.layout.family {
            Family::V4 => crate::sys::conntrack::Family::V4,
            Family::V6 => crate::sys::conntrack::Family::V6,
        };
        let translated =
            Filter { family: Some(family), status: Some(Masked::all(status::DST_NAT)), ..Filter::default() };
        conntrack.for_each(&translated, |flow| {
            let Some(entry) = places.dialled(&state.table, &flow).filter(|_| !over(&flow)) else { return };
            let offset = flow.original.dport.saturating_sub(entry.frontend.key.ports.first());
            if let Some(backend) = entry.backends.iter().find(|b| leads_to(&flow, b, offset)) {
                let key = (entry.frontend.service.clone(), backend.id.clone(), entry.frontend.key.protocol);
                *active.entry(key).or_default() += 1;
            }
        })?;
    }
    Ok(told(&state.table, &now, &active))
}

fn told(table: &Table, now: &Tally, active: &BTreeMap<BackendKey, u64>) -> Counters {
    let mut backends: BTreeMap<BackendKey, &'static str> = BTreeMap::new();
    let mut frontends = Vec::new();
    for entry in table.values() {
        let frontend = &entry.frontend;
        for backend in entry.backends.iter() {
            let key = (frontend.service.clone(), backend.id.clone(), frontend.key.protocol);
            backends.insert(key, backend.state.as_str());
        }
        let refused = now.frontends.get(&frontend.key).copied().unwrap_or_default();
        frontends.push(FrontendCounters {
            service: frontend.service.clone(),
            frontend: frontend.key,
            no_backend: refused.no_backend,
            denied: refused.denied,
            limited: refused.limited,
        });
    }
    let of = |counts: &BTreeMap<BackendKey, u64>, key: &BackendKey| counts.get(key).copied().unwrap_or(0);
    let backends = backends.into_iter().map(|(key, state)| BackendCounters {
        active: of(active, &key),
        established: of(&now.established, &key),
        failed: 0,
        reset: of(&now.reset, &key),
        // Flows are counted, not their packets: nothing of ours sees those.
        bytes_in: 0,
        bytes_out: 0,
        service: key.0,
        backend: key.1,
        protocol: key.2,
        state,
    });
    Counters { backends: backends.collect(), frontends, drops: Vec::new() }
}
