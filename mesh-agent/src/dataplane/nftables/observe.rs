//! Reading back what the kernel holds, and comparing it with what it should be.

use super::{
    chain::Target,
    layout::Layout,
    names::{AFFINITY, ALLOW, BACKENDS, HAIRPIN, IDLE, MASQUERADE, SAME, SERVICES, SLOTS, VIPS},
    note,
    realize::{Place, read_allowed},
    sets::{Outline, chains, sets},
    state::{Side, State},
};
use crate::{
    plan::{Backend, Entry},
    sys::nft::{Data, Element, Nft},
};
use ipnetwork::IpNetwork;
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
};

/// What is held by set and key, without counts.
type Held = BTreeMap<(&'static str, Vec<u8>), Element>;

/// Reads both families. With whether something that every frontend depends on is damaged: then the tables have to be
/// laid anew.
pub(super) fn read(nft: &mut Nft, place: &Place, outline: &Outline) -> io::Result<(State, bool)> {
    let mut state = State::empty();
    let mut damaged = false;
    for side in &mut state.sides {
        let mut entries = Vec::new();
        damaged |= read_side(nft, place, outline, side, &mut entries)?;
        for entry in entries {
            state.table.insert(entry.frontend.key, entry);
        }
    }
    Ok((state, damaged))
}

fn read_side(
    nft: &mut Nft,
    place: &Place,
    outline: &Outline,
    side: &mut Side,
    entries: &mut Vec<Entry>,
) -> io::Result<bool> {
    let layout = side.layout.clone();
    let mut comments = nft.comments(&layout.table)?;
    if comments.is_empty() {
        return Ok(false);
    }
    side.base = true;
    let mut damaged = false;
    let mut sound = |name: &str, rules: Vec<String>| comments.remove(name).is_some_and(|held| held == rules);
    for base in chains(&layout, outline) {
        damaged |= !sound(base.name, base.rules.into_iter().map(|(_, comment)| comment).collect());
    }
    let mut held = Held::new();
    for set in
        sets(&layout).into_iter().map(|set| name(&set.name)).filter(|name| ![AFFINITY, SAME].contains(name))
    {
        for element in nft.elements(&layout.table, set)? {
            held.insert((set, element.key.clone()), Element { count: None, ..element });
        }
    }
    let mut broken = BTreeSet::new();
    for (entry, counter) in decode(&layout, &held) {
        let realized = super::realize::realize(&layout, place, &entry, counter);
        let whole = realized
            .own
            .iter()
            .all(|(set, want)| held.get(&(*set, want.key.clone())).is_some_and(|have| have == want));
        let chain_sound = realized.target.shape().is_none_or(|shape| {
            let rules = || shape.rules(&layout).into_iter().map(|(_, comment)| comment).collect();
            side.chains.contains_key(&shape)
                || (!broken.contains(&shape) && sound(&shape.to_string(), rules()))
        });
        if let (false, Some(shape)) = (chain_sound, realized.target.shape()) {
            broken.insert(shape);
            damaged = true;
        }
        if whole {
            for (set, element) in &realized.own {
                held.remove(&(*set, element.key.clone()));
            }
            side.hold(entry.frontend.key, &realized);
            entries.push(entry);
        }
    }
    for (set, key) in side.shared.keys() {
        damaged |= held.remove(&(*set, key.clone())).is_none();
    }
    side.debris = held.into_iter().map(|((set, _), element)| (set, element)).collect();
    side.spare_chains = comments.into_keys().collect();
    Ok(damaged)
}

/// Our constant of that name.
fn name(set: &str) -> &'static str {
    use super::names::{DENIED, IDS, LIMITED, PICKS};
    let all = [
        SERVICES, SLOTS, PICKS, BACKENDS, IDS, AFFINITY, ALLOW, DENIED, LIMITED, IDLE, HAIRPIN, MASQUERADE,
        VIPS, SAME,
    ];
    all.into_iter().find(|name| *name == set).unwrap_or(AFFINITY)
}

/// The frontends with the backends that notes tell of, and their counters.
fn decode(layout: &Layout, held: &Held) -> Vec<(Entry, u16)> {
    let of = |set: &'static str| held.range((set, Vec::new())..).take_while(move |((s, _), _)| *s == set);
    let base = |key: &[u8]| key.get(..layout.key_bytes()).map(<[u8]>::to_vec);
    let mut backends: BTreeMap<Vec<u8>, Vec<Backend>> = BTreeMap::new();
    for ((_, key), element) in [SLOTS, BACKENDS, IDLE].into_iter().flat_map(of) {
        if let (Some(base), Some(backend)) = (base(key), note::backend(&element.note)) {
            backends.entry(base).or_default().push(backend);
        }
    }
    let mut allow: BTreeMap<Vec<u8>, Vec<(u16, IpNetwork)>> = BTreeMap::new();
    for ((_, key), element) in of(ALLOW) {
        if let (Some(base), Some(allowed)) = (base(key), read_allowed(&element.note)) {
            allow.entry(base).or_default().push(allowed);
        }
    }
    let mut entries = Vec::new();
    for ((_, key), element) in of(SERVICES).filter(|(_, element)| !element.note.is_empty()) {
        let mut allow = allow.remove(key).unwrap_or_default();
        allow.sort_unstable_by_key(|(at, _)| *at);
        let allow = allow.into_iter().map(|(_, network)| network).collect();
        let Some(frontend) =
            layout.read_key(key).and_then(|at| note::frontend(&element.note, at, layout.family, allow))
        else {
            continue;
        };
        let mut backends = backends.remove(key).unwrap_or_default();
        backends.sort_by(|a, b| a.id.cmp(&b.id));
        backends.dedup_by(|a, b| a.id == b.id);
        let target = match &element.data {
            Some(Data::Goto(chain)) => Target::parse(chain),
            _ => None,
        };
        let counter = match target.and_then(Target::shape).map(|shape| shape.pick) {
            Some(super::chain::Pick::Next(counter)) => counter,
            _ => 0,
        };
        entries.push((Entry { frontend: Arc::new(frontend), backends: backends.into() }, counter));
    }
    entries
}
