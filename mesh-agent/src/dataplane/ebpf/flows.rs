//! What becomes of flows: sockets of backends that went are ended, and flows of packets that say nothing are forgotten.

use super::{
    change::Cut,
    counters::BackendKey,
    leaks::{Leaks, Whose},
    maps::Maps,
    realize::number,
    state::State,
};
use crate::sys::{clock, sockdiag::SockDiag};
use mesh_control::model::Protocol;
use mesh_ebpf::{
    Flows, Tabled,
    common::{Dialled, Flow, FlowKey, WAYS, direction, socket_set},
};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    hash::Hash,
    io,
    net::IpAddr,
};

/// Seconds without a packet after which a flow is forgotten, by protocol and state; conntrack's own for most
/// (`nf_conntrack_*_timeout*`).
mod idle {
    /// Neither end said that it is done. Conntrack keeps it five days; here a full table drops the eldest.
    pub(super) const OPEN: u64 = 432_000;
    /// The backend never answered.
    pub(super) const UNANSWERED: u64 = 60;
    /// One end is done.
    pub(super) const HALF: u64 = 3_600;
    /// Both are, or it was reset: as long as its end remembers it (`TCP_TIMEWAIT_LEN`), which a client's connection
    /// through another node, from the same port, must not meet.
    pub(super) const CLOSED: u64 = 60;
    /// Datagrams both ways.
    pub(super) const DATAGRAMS: u64 = 120;
    /// Datagrams one way.
    pub(super) const ONE_WAY: u64 = 30;
}

/// Where it is written what a socket dialled.
enum Known {
    /// In the table.
    Dialled(Dialled),
    /// Nowhere: it dialled the backend itself.
    Nothing,
    /// Its set of the table is full, so it may be in socket storage.
    Stored,
}

fn known(maps: &Maps, cookie: u64) -> io::Result<Known> {
    let set = socket_set(cookie);
    let cookies = maps.cookies.get(&set)?.unwrap_or_default();
    for (way, at) in (0..WAYS).zip(cookies) {
        if at == cookie {
            return Ok(maps.sockets.get(&(set * WAYS + way))?.map_or(Known::Nothing, Known::Dialled));
        }
    }
    Ok(if cookies.contains(&0) { Known::Nothing } else { Known::Stored })
}

/// Ends the sockets that are connected through what these cuts name; how many of each backend of a service. Of datagram
/// sockets the kernel tells no storage, so of those that may be there all go that are connected to the backend.
pub(super) fn cut(diag: &mut SockDiag, maps: &Maps, cuts: &[Cut]) -> io::Result<BTreeMap<BackendKey, u64>> {
    let mut ended = BTreeMap::new();
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let cuts = || cuts.iter().filter(|cut| cut.protocol == protocol);
        let by_place: HashMap<(u32, u32), &Cut> = cuts().map(|c| ((c.index, c.generation), c)).collect();
        let by_address: HashMap<IpAddr, Vec<&Cut>> = cuts().fold(HashMap::new(), |mut all, cut| {
            all.entry(cut.remote.ip()).or_insert_with(Vec::new).push(cut);
            all
        });
        let Some(some) = cuts().next() else { continue };
        let port = Some(some.remote.port()).filter(|p| cuts().all(|c| c.ports == 1 && c.remote.port() == *p));
        let mut connected = Vec::new();
        diag.connected(number(protocol), port, &maps.dialled, |socket, value| {
            let remote = socket.remote();
            let there = by_address.get(&remote.ip()).and_then(|all| all.iter().find(|cut| cut.is_at(remote)));
            connected.extend(there.map(|cut| (socket, *cut, value.and_then(mesh_ebpf::value::<Dialled>))));
        })?;
        for (socket, there, stored) in connected {
            let through = |dialled: Dialled| by_place.get(&(dialled.backend, dialled.generation)).copied();
            let cut = match (known(maps, socket.cookie())?, protocol) {
                (Known::Dialled(dialled), _) => through(dialled),
                (Known::Nothing, _) => None,
                (Known::Stored, Protocol::Tcp) => stored.and_then(through),
                (Known::Stored, Protocol::Udp) => Some(there),
            };
            let Some(cut) = cut else { continue };
            if diag.destroy(&socket)? {
                *ended.entry((cut.service.clone(), cut.backend.clone(), protocol)).or_default() += 1;
            }
        }
    }
    Ok(ended)
}

/// The key under which the other direction is.
fn turned<A: Copy>(key: &FlowKey<A>, flow: &Flow<A>) -> FlowKey<A> {
    FlowKey {
        source: flow.destination,
        destination: flow.source,
        source_port: flow.destination_port,
        destination_port: flow.source_port,
        ..*key
    }
}

/// How long a flow may say nothing, in milliseconds.
fn patience(protocol: u8, bits: u32, own: Option<u64>) -> u64 {
    let (fins, has) = (direction::FIN_CLIENT | direction::FIN_BACKEND, |bit| bits & bit != 0);
    let (open, seconds) = match protocol {
        // The client's end alone is seen: the backend may have much to say still.
        6 if has(direction::HANDED) && has(direction::FIN_CLIENT) => (false, idle::HALF),
        6 if has(direction::CLOSED) || bits & fins == fins => (false, idle::CLOSED),
        6 if has(fins) => (false, idle::HALF),
        6 if !has(direction::ANSWERED) => (false, idle::UNANSWERED),
        6 => (true, idle::OPEN),
        _ if has(direction::ANSWERED | direction::HANDED) => (true, idle::DATAGRAMS),
        _ => (true, idle::ONE_WAY),
    };
    own.filter(|_| open).unwrap_or(seconds * 1000)
}

/// The flows of one family that have said nothing for too long. `age` is that of a flow in milliseconds.
fn expired<A: Copy + Eq + Hash>(
    all: &HashMap<FlowKey<A>, Flow<A>>,
    age: impl Fn(u32) -> u64,
    own: impl Fn(u32) -> Option<u64>,
) -> Vec<FlowKey<A>> {
    let old = |(key, flow): &(&FlowKey<A>, &Flow<A>)| {
        // What is handed on has one direction here.
        let other = all.get(&turned(key, flow)).filter(|_| flow.bits & direction::HANDED == 0);
        let last = other.map_or(age(flow.seen), |other| age(flow.seen).min(age(other.seen)));
        let bits = flow.bits | other.map_or(0, |other| other.bits);
        last > patience(key.protocol, bits, own(flow.frontend))
    };
    all.iter().filter(old).map(|(key, _)| *key).collect()
}

/// The open flows among these: those of which either direction is left, and neither says that it is closed.
fn open<A: Copy + Eq + Hash>(all: &HashMap<FlowKey<A>, Flow<A>>, count: &mut HashMap<Whose, i64>) {
    for (key, flow) in all {
        // Of two directions the client's counts.
        let counts = flow.bits & direction::REPLY == 0 || !all.contains_key(&turned(key, flow));
        // Another node counts what it began.
        if counts && flow.bits & (direction::CLOSED | direction::GUEST | direction::TAKEN) == 0 {
            *count.entry((flow.backend, flow.generation)).or_default() += 1;
        }
    }
}

/// Forgets the flows that have said nothing for too long, and puts right how many are open.
pub(super) fn collect(maps: &Maps, state: &State, leaks: &mut Leaks) -> io::Result<()> {
    let idle: HashMap<u32, u64> =
        state.held.values().map(|held| (held.index(), held.policy.idle_ms)).collect();
    let own = |frontend: u32| idle.get(&frontend).copied().filter(|ms| *ms > 0);
    let (now, tick) = clock::coarse();
    // The kernel's count begins 300 seconds before it turns over (INITIAL_JIFFIES of linux/jiffies.h).
    let second = 1_000_000_000 / tick;
    #[expect(clippy::cast_possible_truncation, reason = "the low half is what flows have")]
    let jiffies = (now / tick) as u32;
    #[expect(clippy::cast_possible_truncation, reason = "a few hundred thousand")]
    let jiffies = jiffies.wrapping_sub(300 * second as u32);
    let age = |seen: u32| {
        let ticks = jiffies.wrapping_sub(seen);
        // One that is a little ahead of our clock is of just now.
        if ticks > u32::MAX / 2 { 0 } else { u64::from(ticks) * 1000 / second }
    };
    let (before, mut flows) = (leaks.before(maps, state.backends.end()), HashMap::new());
    let four = forget(&maps.flows4, maps, age, own, &mut flows);
    let six = forget(&maps.flows6, maps, age, own, &mut flows);
    let evicted = maps.evicted.at(0)?.iter().sum();
    leaks.after(maps, before, &flows, (four || six, evicted))
}

/// Of one family; counts those that are open, and says whether the table is half full or more.
fn forget<A: Tabled + Eq + Hash>(
    table: &Flows<A>,
    maps: &Maps,
    age: impl Fn(u32) -> u64,
    own: impl Fn(u32) -> Option<u64>,
    flows: &mut HashMap<Whose, i64>,
) -> bool {
    let mut all: HashMap<_, _> = table.iter().map(|(_, key, flow)| (key, flow)).collect();
    let full = all.len() * 2 >= table.capacity();
    let old: HashSet<_> = expired(&all, age, own).into_iter().collect();
    let again = if old.is_empty() { None } else { Some(table.iter()) };
    for (seat, key, _) in again.into_iter().flatten().filter(|(_, key, _)| old.contains(key)) {
        // One that was seen meanwhile stays.
        let removed = all.get(&key).is_some_and(|flow| table.remove(seat, flow));
        if removed
            && let Some(flow) = all.remove(&key)
            // Programs count those whose end they see.
            && flow.bits & (direction::REPLY | direction::CLOSED | direction::TAKEN) == 0
        {
            maps.backends.add(flow.backend, flow.generation, -1);
        }
    }
    open(&all, flows);
    full
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_is_as_young_as_its_younger_direction() {
        let key = |source: [u8; 4], source_port, destination, destination_port| FlowKey {
            source,
            destination,
            source_port,
            destination_port,
            protocol: 17,
            pad: [0; 3],
        };
        let flow = |source, destination, seen, bits| Flow {
            source,
            destination,
            source_port: 1,
            destination_port: 8,
            bits,
            backend: 0,
            generation: 1,
            frontend: 0,
            seen,
        };
        let (client, vip, backend) = ([10, 9, 0, 1], [10, 96, 0, 1], [10, 44, 0, 4]);
        let there = (key(client, 1, vip, 80), flow(client, backend, 100, 0));
        let back = Flow { source_port: 80, destination_port: 1, ..flow(vip, client, 50, direction::REPLY) };
        let mut all = HashMap::from([there, (key(backend, 8, client, 1), back)]);
        assert_eq!(turned(&there.0, &there.1), key(backend, 8, client, 1));
        let ms = |seconds: u64| move |seen: u32| (seconds * 1000).saturating_sub(u64::from(seen));
        assert_eq!(expired(&all, ms(30), |_| None), []);
        assert_eq!(expired(&all, ms(31), |_| None).len(), 2, "both directions go");
        assert_eq!(expired(&all, ms(5), |_| Some(1000)).len(), 2, "the frontend's own time");
        all.values_mut().for_each(|flow| flow.bits |= direction::ANSWERED);
        assert_eq!(expired(&all, ms(100), |_| None), []);

        let count = |all: &HashMap<_, _>| {
            let mut count = HashMap::new();
            open(all, &mut count);
            count.get(&(0, 1)).copied()
        };
        assert_eq!(count(&all), Some(1));
        let mut half = all.clone();
        half.remove(&there.0);
        assert_eq!(count(&half), Some(1), "the other direction was evicted");
        let mut taken = all.clone();
        taken.values_mut().for_each(|flow| flow.bits |= direction::TAKEN);
        assert_eq!(count(&taken), None, "counted where it came in");
        all.values_mut().for_each(|flow| flow.bits |= direction::CLOSED);
        assert_eq!(count(&all), None);
        // What has the key of the other direction of a flow that was handed on is another's.
        let handed = Flow { bits: direction::HANDED, ..there.1 };
        let other = Flow { seen: 1_000_000, bits: direction::GUEST | direction::REPLY, ..back };
        let all = HashMap::from([(there.0, handed), (key(backend, 8, client, 1), other)]);
        assert_eq!(expired(&all, ms(121), |_| None), [there.0]);
        assert_eq!(expired(&all, ms(120), |_| None), []);
        assert_eq!(count(&all), Some(1));
    }

    #[test]
    fn patience_follows_what_was_seen_of_tcp() {
        let fins = direction::FIN_CLIENT | direction::FIN_BACKEND;
        for (bits, own, seconds) in [
            (0, Some(5000), idle::UNANSWERED),
            (direction::ANSWERED, None, idle::OPEN),
            (direction::ANSWERED, Some(5000), 5),
            (direction::ANSWERED | direction::FIN_CLIENT, Some(5000), idle::HALF),
            (direction::ANSWERED | fins, None, idle::CLOSED),
            (direction::CLOSED, None, idle::CLOSED),
            (direction::HANDED | direction::FIN_CLIENT | direction::CLOSED, None, idle::HALF),
            (direction::HANDED | direction::CLOSED, None, idle::CLOSED),
            (direction::HANDED | direction::ANSWERED, None, idle::OPEN),
            (direction::HANDED, None, idle::UNANSWERED),
        ] {
            assert_eq!(patience(6, bits, own), seconds * 1000, "{bits:#x}");
        }
    }
}
