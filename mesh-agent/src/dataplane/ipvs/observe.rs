//! Reading back what the kernel holds, and comparing it with what it should be.

use super::{
    direct,
    numbers::{Numbers, ports},
    realize::{Program, Realized, is_ours, realize},
    rules::{self, ARRIVING, ARRIVING_MARK, BACKENDS, MARK_BITS, MARKS, address_of, chains, sets},
    site::Site,
    state::{Side, State, hold, ip},
};
use crate::{
    dataplane::netfilter::{elements::read_allowed, note, sets::Common},
    plan::{Backend, Entry, Listen, Table},
    sys::{
        ipvs::{Destination, Ipvs, Virtual},
        nft::{Data, Element, Nft},
    },
};
use ipnetwork::IpNetwork;
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    sync::Arc,
};

/// What is held by set and key, without counts.
type Held = BTreeMap<(&'static str, Vec<u8>), Element>;

/// All that is ours in IPVS: what has a mark of ours, and what is on an address of `vips`.
pub(super) fn programs(ipvs: &mut Ipvs, vips: &BTreeSet<IpAddr>) -> io::Result<BTreeMap<Virtual, Program>> {
    let mut programs = BTreeMap::new();
    for (of, seen) in ipvs.services().map_err(io::Error::from)? {
        if !is_ours(&of, |vip| vips.contains(&vip)) {
            continue;
        }
        let destinations = ipvs.destinations(&of).map_err(io::Error::from)?;
        let destinations = destinations.into_iter().map(|(at, seen)| (at, seen.what)).collect();
        programs.insert(of, Program { service: seen.what, destinations });
    }
    Ok(programs)
}

/// The VIPs that our sets name.
pub(super) fn named_vips(nft: &mut Nft) -> io::Result<BTreeSet<IpAddr>> {
    let mut vips = BTreeSet::new();
    for layout in rules::layouts() {
        vips.extend(
            nft.elements(&layout.table, Common::Vips.name())?.iter().filter_map(|element| ip(&element.key)),
        );
    }
    Ok(vips)
}

/// What was read besides the state.
pub(super) struct Found {
    /// What IPVS holds of the frontends in [`State::table`], which are as our sets name them.
    pub(super) table: Table,
    /// Something that every frontend depends on is damaged: the tables have to be laid anew.
    pub(super) damaged: bool,
}

/// Fills `state`, of which link and VIPs are read, at `now` (Unix ms).
pub(super) fn read(
    nft: &mut Nft,
    ipvs: &mut Ipvs,
    state: &mut State,
    site: &Site,
    now: u64,
) -> io::Result<Found> {
    let mut vips = named_vips(nft)?;
    vips.extend(&state.vips);
    state.programs = programs(ipvs, &vips)?;
    let (mut damaged, mut claimed, mut table) = (false, BTreeSet::new(), Table::new());
    let programs = &state.programs;
    for side in &mut state.sides {
        let layout = side.layout.clone();
        let mut comments = nft.comments(&layout.table)?;
        side.base = !comments.is_empty();
        if !side.base {
            continue;
        }
        for base in chains(&layout, site) {
            let wanted: Vec<String> = base.rules.into_iter().map(|(_, comment)| comment).collect();
            damaged |= comments.remove(base.name) != Some(wanted);
        }
        damaged |= !comments.is_empty();
        let mut held = Held::new();
        for set in sets(&layout, site).iter().filter_map(|set| known(&set.name)) {
            for element in nft.elements(&layout.table, set)? {
                held.insert((set, element.key.clone()), Element { count: None, ..element });
            }
        }
        for entry in decode(side, &held, &mut state.numbers) {
            let realized = realize(&layout, site, &entry, &state.numbers, now);
            let routed = site.direct.is_some() && direct::suits(&entry.frontend);
            let numbered =
                !routed || ports(&entry.frontend.key).all(|at| state.numbers.arriving(&at).is_some());
            let whole =
                numbered && realized.own.iter().all(|(set, e)| held.get(&(*set, e.key.clone())) == Some(e));
            if !whole {
                continue;
            }
            if let Some(entry) = as_held(&entry, &realized, programs) {
                table.insert(entry.frontend.key, entry);
            }
            for (set, element) in &realized.own {
                held.remove(&(*set, element.key.clone()));
            }
            claimed.extend(realized.programs.keys().copied());
            hold(&mut side.shared, &realized);
            state.table.insert(entry.frontend.key, entry);
        }
        for (set, key) in side.shared.keys() {
            damaged |= held.remove(&(*set, key.clone())).is_none();
        }
        side.debris = held.into_iter().map(|((set, _), element)| (set, element)).collect();
    }
    state.strays = programs.keys().filter(|of| !claimed.contains(of)).copied().collect();
    Ok(Found { table, damaged })
}

/// Our constant of that name; not the set that packets fill.
fn known(set: &str) -> Option<&'static str> {
    let common = Common::ALL.into_iter().filter(|common| *common != Common::SameDevice).map(Common::name);
    [MARKS, rules::ANCHORS, ARRIVING, BACKENDS, rules::EMPTY]
        .into_iter()
        .chain(common)
        .find(|name| *name == set)
}

/// The number in an element's data.
fn mark_of(element: &Element) -> u32 {
    match &element.data {
        Some(Data::Bytes(bytes)) => bytes.first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes)),
        _ => 0,
    }
}

/// The frontends with the backends that notes tell of; their numbers go to `numbers`.
fn decode(side: &Side, held: &Held, numbers: &mut Numbers) -> Vec<Entry> {
    let layout = &side.layout;
    let of = |set: &'static str| held.range((set, Vec::new())..).take_while(move |((s, _), _)| *s == set);
    let base = |key: &[u8]| key.get(..layout.key_bytes()).map(<[u8]>::to_vec);
    let mut backends: BTreeMap<Vec<u8>, Vec<Backend>> = BTreeMap::new();
    for ((_, key), element) in of(BACKENDS) {
        if let (Some(base), Some(backend)) = (base(key), note::backend(&element.note, None)) {
            backends.entry(base).or_default().push(backend);
        }
    }
    let mut allow: BTreeMap<Vec<u8>, Vec<(u16, IpNetwork)>> = BTreeMap::new();
    for ((_, key), element) in of(Common::Allow.name()) {
        if let (Some(base), Some(allowed)) = (base(key), read_allowed(&element.note)) {
            allow.entry(base).or_default().push(allowed);
        }
    }
    let mut entries = Vec::new();
    for ((_, key), element) in of(MARKS).filter(|(_, element)| !element.note.is_empty()) {
        let mut allow = allow.remove(key).unwrap_or_default();
        allow.sort_unstable_by_key(|(at, _)| *at);
        let allow = allow.into_iter().map(|(_, network)| network).collect();
        let at = layout.read_key(key);
        let Some(frontend) = at.and_then(|at| note::frontend(&element.note, at, layout.family, allow)) else {
            continue;
        };
        let mut backends = backends.remove(key).unwrap_or_default();
        backends.sort_by(|a, b| a.id.cmp(&b.id));
        if let Listen::Address(address) = frontend.key.listen {
            numbers.addresses.insert(address, address_of(mark_of(element)));
        }
        for at in ports(&frontend.key) {
            let number = held.get(&(ARRIVING, layout.key(Some(at.0), at.1, at.2))).map(mark_of);
            if let Some(number) = number.filter(|mark| mark & !MARK_BITS == ARRIVING_MARK) {
                numbers.arrive(at, number & MARK_BITS);
            }
        }
        entries.push(Entry { frontend: Arc::new(frontend), backends: backends.into() });
    }
    entries
}

/// The entry as IPVS holds it: without backends that have no destination, with the weights that destinations have.
/// `None` when a virtual service is another's, or not there, or has destinations that are nobody's, or leads otherwise to
/// another node.
fn as_held(entry: &Entry, realized: &Realized, programs: &BTreeMap<Virtual, Program>) -> Option<Entry> {
    let mut backends: Vec<Backend> = entry.backends.to_vec();
    let mut same = true;
    for (of, (offset, wanted)) in &realized.programs {
        let offset = *offset;
        let held = programs.get(of).filter(|held| held.service == wanted.service)?;
        // The weights there are not the backends' own.
        let received = matches!(of, Virtual::Mark { mark, .. } if mark & !MARK_BITS == ARRIVING_MARK);
        for (at, destination) in &held.destinations {
            // Of a drain that ended a moment ago.
            let own = || backends.iter().any(|b| b.socket(offset) == *at);
            let ending = || destination.weight == 0 && (destination.forward == Destination::ROUTE || own());
            if !wanted.destinations.contains_key(at) && !ending() {
                return None;
            }
        }
        for (at, wanted) in &wanted.destinations {
            match held.destinations.get(at) {
                Some(held) if held == wanted => continue,
                _ if wanted.forward == Destination::ROUTE || received => return None,
                Some(held) if held.forward == wanted.forward => {
                    let weight = u16::try_from(held.weight).ok().filter(|_| held.weight != wanted.weight)?;
                    backends.iter_mut().filter(|b| b.socket(offset) == *at).for_each(|b| b.weight = weight);
                }
                Some(_) => return None,
                None => backends.retain(|b| b.socket(offset) != *at),
            }
            same = false;
        }
    }
    let backends = if same { Arc::clone(&entry.backends) } else { backends.into() };
    Some(Entry { frontend: Arc::clone(&entry.frontend), backends })
}
