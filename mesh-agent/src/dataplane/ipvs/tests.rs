//! What stands for frontends, and how it changes.

use super::{
    realize::{Program, realize},
    rules::{ANCHORS, EMPTY, layouts, mark},
    state::State,
    write::Change,
};
use crate::{
    dataplane::netfilter::{elements::Place, sets::Common},
    plan::{Backend, BackendId, BackendState, Entry, Frontend, FrontendKey, Listen, Table},
    sys::ipvs::{Command, Virtual, flags},
};
use mesh_control::model::{Affinity, Family, Name, PortRange, Protocol, Scheduler};
use std::{collections::BTreeSet, sync::Arc, time::Duration};

const NOW: u64 = 1_000_000;

fn place() -> Place {
    Place { node: Name::new("n1").unwrap(), overlay: Vec::new() }
}

/// A frontend without backends.
pub(super) fn entry(key: FrontendKey) -> Entry {
    Entry { frontend: Arc::new(Frontend::plain(key)), backends: [].into() }
}

fn vip(protocol: Protocol) -> FrontendKey {
    let listen = Listen::Vip([10, 96, 0, 1].into());
    FrontendKey { listen, ports: PortRange::single(80).unwrap(), protocol }
}

fn backend(name: &str, last: u8, weight: u16, state: BackendState) -> Backend {
    let id = BackendId { instance: Name::new(name).unwrap(), node: Name::new("n2").unwrap() };
    Backend { id, address: [10, 44, 0, last].into(), port: 8000, weight, state }
}

fn with(entry: &Entry, backends: &[Backend]) -> Entry {
    Entry { frontend: Arc::clone(&entry.frontend), backends: backends.to_vec().into() }
}

fn only(entry: &Entry, now: u64) -> (Virtual, Program) {
    let [v4, _] = layouts();
    let realized = realize(&v4, &place(), entry, 0, now);
    assert_eq!(realized.programs.len(), 1);
    realized.programs.into_iter().next().unwrap()
}

#[test]
fn backends_become_destinations_as_long_as_they_keep_flows() {
    let ending = BackendState::Draining { deadline: Some(NOW) };
    let draining = BackendState::Draining { deadline: Some(NOW + 1) };
    let backends = [
        backend("a", 1, 100, BackendState::Active),
        backend("b", 2, 100, BackendState::Down),
        backend("c", 3, 100, draining),
        backend("d", 4, 100, ending),
        backend("e", 5, 0, BackendState::Active),
    ];
    for (protocol, wanted) in [
        (Protocol::Tcp, vec![(1, 100), (2, 0), (3, 0), (5, 0)]),
        (Protocol::Udp, vec![(1, 100), (3, 0), (5, 0)]),
    ] {
        let (_, program) = only(&with(&entry(vip(protocol)), &backends), NOW);
        let held: Vec<(u8, u32)> = program
            .destinations
            .iter()
            .map(|(at, d)| (at.ip().to_string().rsplit('.').next().unwrap().parse().unwrap(), d.weight))
            .collect();
        assert_eq!(held, wanted, "{protocol}");
    }
}

#[test]
fn an_address_of_two_instances_is_one_destination() {
    let old = backend("old", 1, 100, BackendState::Draining { deadline: None });
    let new = backend("new", 1, 70, BackendState::Active);
    let (_, program) = only(&with(&entry(vip(Protocol::Tcp)), &[new, old]), NOW);
    let weights: Vec<u32> = program.destinations.values().map(|d| d.weight).collect();
    assert_eq!(weights, [70]);
}

#[test]
fn policies_become_flags() {
    let mut sticky = Frontend::plain(vip(Protocol::Tcp));
    sticky.affinity = Some(Affinity { timeout: Duration::from_millis(1500) });
    sticky.scheduler = Scheduler::Maglev;
    sticky.max_connections = Some(7);
    let backends = [backend("a", 1, 1, BackendState::Active)].into();
    let (_, program) = only(&Entry { frontend: Arc::new(sticky), backends }, NOW);
    let service = &program.service;
    assert_eq!((service.scheduler.as_str(), service.timeout, service.prefix), ("mh", 2, 32));
    assert_eq!(service.flags, flags::PERSISTENT | flags::FALLBACK);
    assert!(program.destinations.values().all(|d| (d.upper, d.lower) == (7, 7)));
}

#[test]
fn a_range_published_everywhere_is_one_mark_a_port() {
    let ports = PortRange::new(8000, 8002).unwrap();
    let key = FrontendKey { listen: Listen::AnyLocal(Family::V6), ports, protocol: Protocol::Udp };
    let [_, v6] = layouts();
    let realized = realize(&v6, &place(), &entry(key), 0, NOW);
    let all: Vec<Virtual> = realized.programs.into_keys().collect();
    let wanted: Vec<Virtual> =
        (8000..=8002).map(|port| Virtual::Mark { mark: mark(0, Protocol::Udp, port), v6: true }).collect();
    assert_eq!(all, wanted);
    assert_eq!(realized.own.iter().filter(|(set, _)| *set == EMPTY).count(), 3, "nobody serves them");
    assert!(!realized.shared.iter().any(|(set, _)| *set == Common::Vips.name()));
}

#[test]
fn published_ports_with_affinity_are_sent_to_an_address_of_their_own() {
    let ports = PortRange::single(8080).unwrap();
    let mut sticky =
        Frontend::plain(FrontendKey { listen: Listen::AnyLocal(Family::V4), ports, protocol: Protocol::Tcp });
    sticky.affinity = Some(Affinity { timeout: Duration::from_secs(60) });
    let backends = [backend("a", 1, 1, BackendState::Active)].into();
    let [v4, _] = layouts();
    let realized = realize(&v4, &place(), &Entry { frontend: Arc::new(sticky), backends }, 0, NOW);
    let at = Virtual::Address { at: "169.254.78.1:8080".parse().unwrap(), protocol: 6 };
    assert_eq!(realized.programs.keys().collect::<Vec<_>>(), [&at]);
    assert!(realized.own.iter().any(|(set, _)| *set == ANCHORS));
    assert!(realized.shared.iter().any(|(set, e)| *set == Common::Vips.name() && e.key == [169, 254, 78, 1]));
}

/// Brings a state from one table to another and returns the commands.
fn change(state: &mut State, work: &Table) -> Vec<Command> {
    let touched: BTreeSet<FrontendKey> = state.table.keys().chain(work.keys()).copied().collect();
    let change = Change::plan(state, &place(), work, &touched, NOW);
    let commands = change.commands.clone();
    change.done(state, work);
    commands
}

#[test]
fn nothing_that_stays_is_deleted() {
    let mut state = State::empty();
    let (key, empty) = (vip(Protocol::Tcp), entry(vip(Protocol::Tcp)));
    let (a, b) = (backend("a", 1, 100, BackendState::Active), backend("b", 2, 100, BackendState::Active));
    let table = |entry: Entry| Table::unit(key, entry);
    let made = change(&mut state, &table(with(&empty, &[a.clone(), b.clone()])));
    assert!(
        matches!(made[..], [Command::NewService(..), Command::NewDest(..), Command::NewDest(..)]),
        "{made:?}"
    );
    assert_eq!(change(&mut state, &table(with(&empty, &[a.clone(), b.clone()]))), []);

    let mut other = Frontend::plain(key);
    other.scheduler = Scheduler::Lc;
    other.affinity = Some(Affinity { timeout: Duration::from_secs(60) });
    let heavier = Backend { weight: 300, ..a.clone() };
    let backends = [heavier.clone(), b.clone()].into();
    let changed = change(&mut state, &table(Entry { frontend: Arc::new(other.clone()), backends }));
    assert!(matches!(changed[..], [Command::SetService(..), Command::SetDest(..)]), "{changed:?}");

    // What comes is there before anything leaves.
    let c = backend("c", 3, 100, BackendState::Active);
    let backends = [c.clone(), Backend { weight: 1, ..b.clone() }].into();
    let moved = change(&mut state, &table(Entry { frontend: Arc::new(other), backends }));
    assert!(
        matches!(moved[..], [Command::SetDest(..), Command::NewDest(..), Command::DelDest(..)]),
        "{moved:?}"
    );
    let gone = change(&mut state, &Table::new());
    assert!(matches!(gone[..], [Command::DelService(_)]), "{gone:?}");
    assert!(state.programs.is_empty() && state.sides.iter().all(|side| side.shared.is_empty()));
}

#[test]
fn vips_come_with_their_first_port_and_go_with_the_last() {
    let mut state = State::empty();
    let (tcp, udp) = (vip(Protocol::Tcp), vip(Protocol::Udp));
    let step = |state: &mut State, keys: &[FrontendKey]| {
        let work: Table = keys.iter().map(|key| (*key, entry(*key))).collect();
        let touched: BTreeSet<FrontendKey> = state.table.keys().chain(work.keys()).copied().collect();
        let change = Change::plan(state, &place(), &work, &touched, NOW);
        let moved = (change.vips.0.len(), change.vips.1.len());
        change.done(state, &work);
        moved
    };
    assert_eq!(step(&mut state, &[tcp]), (1, 0));
    assert_eq!(step(&mut state, &[tcp, udp]), (0, 0));
    assert_eq!(step(&mut state, &[udp]), (0, 0));
    assert_eq!(state.wanted_vips().len(), 1);
    assert_eq!(step(&mut state, &[]), (0, 1));
    assert!(state.wanted_vips().is_empty());
}
