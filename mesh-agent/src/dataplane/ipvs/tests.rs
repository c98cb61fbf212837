//! What stands for frontends, and how it changes.

use super::{
    direct::Direct,
    numbers::{self, Numbers},
    realize::{Program, realize},
    rules::{ANCHORS, ARRIVING, EMPTY, layouts, mark},
    site::Site,
    state::State,
    write::Change,
};
use crate::{
    dataplane::netfilter::{base::Outline, elements::Place, sets::Common},
    plan::{Backend, BackendId, BackendState, Entry, Frontend, FrontendKey, Listen, Table},
    sys::ipvs::{Command, Destination, Virtual, flags},
};
use mesh_control::model::{Affinity, Family, Name, PortRange, Protocol, Scheduler};
use std::{collections::BTreeSet, sync::Arc, time::Duration};

const NOW: u64 = 1_000_000;

fn site() -> Site {
    let place = Place { node: Name::new("n1").unwrap(), overlay: Vec::new() };
    Site { place, outline: Outline { vip_cidrs: Vec::new(), bridge: None }, direct: None }
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
    let realized = realize(&v4, &site(), entry, &Numbers::default(), now);
    assert_eq!(realized.programs.len(), 1);
    realized.programs.into_iter().next().map(|(of, (_, program))| (of, program)).unwrap()
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
    let realized = realize(&v6, &site(), &entry(key), &Numbers::default(), NOW);
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
    let realized =
        realize(&v4, &site(), &Entry { frontend: Arc::new(sticky), backends }, &Numbers::default(), NOW);
    let at = Virtual::Address { at: "169.254.78.1:8080".parse().unwrap(), protocol: 6 };
    assert_eq!(realized.programs.keys().collect::<Vec<_>>(), [&at]);
    assert!(realized.own.iter().any(|(set, _)| *set == ANCHORS));
    assert!(realized.shared.iter().any(|(set, e)| *set == Common::Vips.name() && e.key == [169, 254, 78, 1]));
}

/// Of a node that sends packets on as they are.
fn direct_site() -> Site {
    let networks = vec![("10.44.0.0/16".parse().unwrap(), 24)];
    Site { direct: Some(Direct { device: "mesh-vx".into(), networks }), ..site() }
}

fn on(node: &str, address: [u8; 4], weight: u16, state: BackendState) -> Backend {
    let id = BackendId { instance: Name::new("i").unwrap(), node: Name::new(node).unwrap() };
    Backend { id, address: address.into(), port: 8000, weight, state }
}

/// How a program leads where: address, port, how, weight.
fn ways(program: &Program) -> Vec<(String, u32, u32)> {
    let way = |(at, d): (&std::net::SocketAddr, &Destination)| (at.to_string(), d.forward, d.weight);
    program.destinations.iter().map(way).collect()
}

#[test]
fn packets_go_to_nodes_as_they_are_and_there_to_backends() {
    let active = BackendState::Active;
    let draining = BackendState::Draining { deadline: None };
    let backends = [
        on("n1", [10, 44, 1, 5], 100, active),
        on("n2", [10, 44, 2, 5], 100, active),
        on("n2", [10, 44, 2, 6], 50, active),
        on("n2", [10, 44, 2, 7], 70, draining),
        on("n3", [192, 0, 2, 9], 30, active),
    ];
    let of = |scheduler, backends: &[Backend], site: &Site| {
        let frontend = Frontend { scheduler, ..Frontend::plain(vip(Protocol::Tcp)) };
        let mut numbers = Numbers::default();
        assert!(numbers::number(&mut numbers, &frontend));
        let entry = Entry { frontend: Arc::new(frontend), backends: backends.into() };
        let realized = realize(&layouts()[0], site, &entry, &numbers, NOW);
        let marked = realized.own.iter().filter(|(set, _)| *set == ARRIVING).count();
        (realized.programs.into_values().map(|(_, program)| program).collect::<Vec<_>>(), marked)
    };
    let (masq, route) = (Destination::MASQUERADE, Destination::ROUTE);
    let to = |at: &str, how, weight| (at.to_owned(), how, weight);

    let (programs, marked) = of(Scheduler::Wrr, &backends, &direct_site());
    let [sent, received] = &programs[..] else { panic!("{programs:?}") };
    assert_eq!(marked, 1);
    let dialled =
        [to("10.44.1.5:8000", masq, 100), to("10.44.2.1:80", route, 150), to("192.0.2.9:8000", masq, 30)];
    assert_eq!(ways(sent), dialled, "a node counts for its backends");
    let others = ["10.44.2.5", "10.44.2.6", "10.44.2.7", "192.0.2.9"];
    let none = others.map(|at| to(&format!("{at}:8000"), masq, 0));
    assert_eq!(ways(received), [&[to("10.44.1.5:8000", masq, 100)], &none[..]].concat());

    // Who has none here sends on what others sent, lest it come back.
    let (programs, _) = of(Scheduler::Wrr, &backends[1..], &direct_site());
    let all = [("10.44.2.5", 100), ("10.44.2.6", 50), ("10.44.2.7", 0), ("192.0.2.9", 30)];
    assert_eq!(ways(&programs[1]), all.map(|(at, weight)| to(&format!("{at}:8000"), masq, weight)));
    // A node stays as long as one of its backends may keep its flows.
    let (programs, _) = of(Scheduler::Wrr, &backends[3..4], &direct_site());
    assert_eq!(ways(&programs[0]), [to("10.44.2.1:80", route, 0)]);

    let (programs, _) = of(Scheduler::Rr, &backends, &direct_site());
    let schedulers: Vec<&str> = programs.iter().map(|p| p.service.scheduler.as_str()).collect();
    assert_eq!(schedulers, ["wrr", "rr"]);
    let weights: Vec<u32> = programs[0].destinations.values().map(|d| d.weight).collect();
    assert_eq!(weights, [1, 2, 1], "each backend counts for one");

    for (programs, marked) in
        [of(Scheduler::Maglev, &backends, &direct_site()), of(Scheduler::Wrr, &backends, &site())]
    {
        assert_eq!((programs.len(), marked), (1, 0));
        assert!(programs[0].destinations.values().all(|d| d.forward == masq));
    }
}

/// Brings a state from one table to another and returns the commands.
fn change(state: &mut State, work: &Table) -> Vec<Command> {
    let touched: BTreeSet<FrontendKey> = state.table.keys().chain(work.keys()).copied().collect();
    let change = Change::plan(state, &site(), work, &touched, NOW);
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
fn a_range_that_is_cut_anew_keeps_its_services() {
    let range = |first, last| FrontendKey {
        listen: Listen::AnyLocal(Family::V4),
        ports: PortRange::new(first, last).unwrap(),
        protocol: Protocol::Tcp,
    };
    let table = |keys: &[FrontendKey]| {
        let backends = [backend("a", 1, 100, BackendState::Active)];
        keys.iter().map(|key| (*key, with(&entry(*key), &backends))).collect::<Table>()
    };
    let mut state = State::empty();
    let (whole, parts) = (table(&[range(80, 83)]), table(&[range(80, 81), range(82, 82), range(83, 83)]));
    assert_eq!(change(&mut state, &whole).len(), 8);
    // Destinations differ, as each part begins with the backend's port.
    let moved = change(&mut state, &parts);
    let gone = |command: &Command| matches!(command, Command::DelService(_));
    assert!(!moved.iter().any(gone), "{moved:?}");
    assert_eq!(state.programs.len(), 4);
    assert!(!change(&mut state, &whole).iter().any(gone));
    assert_eq!(state.programs.len(), 4);
}

#[test]
fn vips_come_with_their_first_port_and_go_with_the_last() {
    let mut state = State::empty();
    let (tcp, udp) = (vip(Protocol::Tcp), vip(Protocol::Udp));
    let step = |state: &mut State, keys: &[FrontendKey]| {
        let work: Table = keys.iter().map(|key| (*key, entry(*key))).collect();
        let touched: BTreeSet<FrontendKey> = state.table.keys().chain(work.keys()).copied().collect();
        let change = Change::plan(state, &site(), &work, &touched, NOW);
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
