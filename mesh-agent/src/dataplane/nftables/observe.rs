//! Reading back what the kernel holds, and comparing it with what it should be.

use super::{
    ids::{self, ALWAYS, SetId},
    realize::{picked, realize},
    sets::chains,
    shape::Target,
    state::{Side, State},
    write::way,
};
use crate::{
    dataplane::netfilter::{
        base::Outline,
        elements::{Place, read_allowed},
        layout::Layout,
        note,
        sets::Common,
    },
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
type Held = BTreeMap<(SetId, Vec<u8>), Element>;

/// Reads both families. With whether something that every frontend depends on is damaged, or another version's: then the
/// tables have to be laid anew.
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
    let mut names: BTreeSet<String> = nft.sets(&layout.table)?.into_iter().collect();
    let mut held = Held::new();
    for id in names.iter().filter_map(|name| SetId::parse(name)) {
        // Packets fill these.
        if matches!(id, SetId::Affinity | SetId::Common(Common::SameDevice) | SetId::Most(_)) {
            continue;
        }
        for element in nft.elements(&layout.table, &id.to_string())? {
            held.insert((id, element.key.clone()), Element { count: None, ..element });
        }
    }
    let lacks = |held: &mut Held, at: (SetId, Vec<u8>)| held.remove(&at).is_none();
    let leads = |target, local| (SetId::Shapes { local }, way(target).key);
    let decoded = decode(&layout, &held);
    for (target, local) in [Target::Reject, Target::Drop].into_iter().flat_map(|t| [(t, false), (t, true)]) {
        damaged |= lacks(&mut held, leads(target, local));
    }
    for id in ALWAYS {
        damaged |= !names.remove(&id.to_string());
    }
    for (entry, number) in &decoded {
        let realized = realize(&layout, place, entry, &picked(&layout, entry), *number);
        let whole = realized.own.iter().all(|(set, want)| {
            let want = Element { count: None, ..want.clone() };
            held.get(&(*set, want.key.clone())).is_some_and(|have| *have == want)
        });
        if !whole {
            continue;
        }
        for (set, element) in &realized.own {
            held.remove(&(*set, element.key.clone()));
        }
        side.hold(entry.frontend.key, &realized);
        entries.push(entry.clone());
    }
    for shape in side.chains.keys() {
        let rules = shape.rules(&layout).into_iter().map(|(_, comment)| comment).collect();
        damaged |= !sound(&shape.to_string(), rules);
        damaged |= lacks(&mut held, leads(Target::Pick(*shape), shape.local));
        for id in ids::of(*shape).into_iter().chain(shape.most.map(SetId::Most)) {
            names.remove(&id.to_string());
        }
    }
    for (set, key) in side.shared.keys() {
        damaged |= lacks(&mut held, (*set, key.clone()));
    }
    if damaged {
        // Also those whose elements are others in another version.
        *entries = decoded.into_iter().map(|(entry, _)| entry).collect();
    }
    side.debris = held.into_iter().map(|((set, _), element)| (set, element)).collect();
    side.spare.chains = comments.into_keys().collect();
    side.spare.sets = names.into_iter().collect();
    Ok(damaged)
}

/// The frontends with the backends that notes tell of, and their numbers.
fn decode(layout: &Layout, held: &Held) -> Vec<(Entry, u16)> {
    let of = |set: SetId| held.range((set, Vec::new())..).take_while(move |((s, _), _)| *s == set);
    // The elements of a frontend in a set: their keys begin with its own.
    let within = |set: SetId, key: &[u8]| {
        let key = key.to_vec();
        let from = held.range((set, key.clone())..);
        from.take_while(move |((s, k), _)| *s == set && k.starts_with(&key)).map(|(_, element)| element)
    };
    let chains: BTreeMap<&[u8], Target> = [false, true]
        .into_iter()
        .flat_map(|local| of(SetId::Shapes { local }))
        .filter_map(|((_, id), element)| match &element.data {
            Some(Data::Goto(chain)) => Some((id.as_slice(), Target::parse(chain)?)),
            _ => None,
        })
        .collect();
    let mut entries = Vec::new();
    for ((_, key), element) in of(SetId::Services).filter(|(_, element)| !element.note.is_empty()) {
        let mut allow: Vec<(u16, IpNetwork)> = within(SetId::Common(Common::Allow), key)
            .filter_map(|element| read_allowed(&element.note))
            .collect();
        allow.sort_unstable_by_key(|(at, _)| *at);
        let allow = allow.into_iter().map(|(_, network)| network).collect();
        let Some(frontend) =
            layout.read_key(key).and_then(|at| note::frontend(&element.note, at, layout.family, allow))
        else {
            continue;
        };
        let shape = match &element.data {
            Some(Data::Bytes(id)) => chains.get(id.as_slice()).and_then(|target| target.shape()),
            _ => None,
        };
        let former = [SetId::Former(false), SetId::Former(true)];
        let sets = shape.map(ids::of).into_iter().flatten().chain([SetId::Idle]).chain(former);
        let mut backends: Vec<Backend> = sets
            .flat_map(|set| within(set, key))
            .filter_map(|element| {
                let socket = match &element.data {
                    Some(Data::Bytes(bytes)) => layout.read_socket(bytes),
                    _ => None,
                };
                note::backend(&element.note, socket)
            })
            .collect();
        backends.sort_by(|a, b| a.id.cmp(&b.id));
        backends.dedup_by(|a, b| a.id == b.id);
        let number = shape.map_or(0, |shape| shape.number);
        entries.push((Entry { frontend: Arc::new(frontend), backends: backends.into() }, number));
    }
    entries
}
