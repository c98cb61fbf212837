//! Which backend is chosen. The packet programs choose by the same code.

use crate::{
    tables::{Tables as _, wide},
    world::{Front, TCP, World, accept},
};
use mesh_ebpf::common::{Frontend, Sticky, StickyKey, flag, hash, state};
use socket2::{Domain, Socket, Type};
use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    time::Instant,
};

use crate::world::PATIENCE;

fn vip() -> SocketAddr {
    "10.96.0.1:80".parse().unwrap()
}

/// The address of a client.
fn client(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 9, 1, n)
}

/// A world where clients have addresses, and as many backends.
fn world(backends: u8) -> Option<(World, Vec<TcpListener>, Vec<SocketAddr>)> {
    let w = World::new()?;
    w.netns.ip("route add local 10.9.0.0/16 dev lo");
    let listeners: Vec<_> = (0..backends).map(|n| w.listen(&format!("10.9.2.{n}"))).collect();
    let addresses = listeners.iter().map(|l| l.local_addr().unwrap()).collect();
    Some((w, listeners, addresses))
}

/// Dials as a client.
fn dial(w: &World, client: Ipv4Addr, to: SocketAddr) -> io::Result<TcpStream> {
    w.netns.run(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((client, 0)).into())?;
        socket.connect(&to.into())?;
        Ok(socket.into())
    })
}

/// Dials, and gives which backend it came to.
fn reach(w: &World, from: Ipv4Addr, to: SocketAddr, listeners: &[TcpListener]) -> usize {
    let _client = dial(w, from, to).unwrap();
    accept(&listeners.iter().collect::<Vec<_>>()).0
}

#[test]
fn a_hash_of_the_client_is_the_same_everywhere() {
    let Some((mut w, listeners, addresses)) = world(3) else { return };
    let slots: Vec<u32> = (0..1021).map(|n| n * 7 % 3).collect();
    w.serve_by(Front { flags: flag::PICK_HASH, ..Front::new(vip(), TCP, &addresses) }, &slots);
    let expected = |ip: Ipv4Addr| {
        let slot = hash::scale(hash::client4(ip.octets()), 1021);
        usize::try_from(slots[usize::try_from(slot).unwrap()]).unwrap()
    };
    for n in 1..=12 {
        for _ in 0..2 {
            assert_eq!(reach(&w, client(n), vip(), &listeners), expected(client(n)));
        }
    }
    // Who is bound to nothing is this node.
    w.connect(vip()).unwrap();
    assert_eq!(accept(&listeners.iter().collect::<Vec<_>>()).0, expected(Ipv4Addr::new(10, 9, 0, 1)));
}

#[test]
fn random_reaches_all_and_passes_over_what_is_not_active() {
    let Some((mut w, listeners, addresses)) = world(4) else { return };
    let made = w.serve(Front { flags: flag::PICK_RANDOM, ..Front::new(vip(), TCP, &addresses) });
    w.change(made.backends + 3, |backend| backend.state = state::KEEPS);
    let mut hits = [0; 4];
    for _ in 0..90 {
        // Four picks in a row of the one that is not active fail.
        if let Ok(_client) = dial(&w, client(1), vip()) {
            hits[accept(&listeners.iter().collect::<Vec<_>>()).0] += 1;
        }
    }
    assert!(hits[..3].iter().all(|n| *n > 5) && hits[3] == 0, "{hits:?}");
    assert!(hits.iter().sum::<i32>() > 80, "{hits:?}");
}

#[test]
fn least_goes_by_open_flows_and_weight() {
    let Some((mut w, listeners, addresses)) = world(3) else { return };
    let made = w.serve(Front { flags: flag::PICK_LEAST, ..Front::new(vip(), TCP, &addresses) });
    w.change(made.backends, |backend| backend.weight = 3);
    w.change(made.backends + 2, |backend| backend.state = 0);
    let open: Vec<_> = (0..8).map(|_| dial(&w, client(1), vip()).unwrap()).collect();
    assert_eq!([0, 1, 2].map(|n| w.flows(made.backends + n).0), [6, 2, 0]);
    drop(open);
    assert_eq!([0, 1, 2].map(|n| w.flows(made.backends + n).0), [0; 3]);
    drop(listeners);
}

#[test]
fn of_many_slots_least_takes_the_better_of_two() {
    let Some((mut w, _listeners, addresses)) = world(2) else { return };
    let slots: Vec<u32> = (0..100).map(|n| n % 2).collect();
    let made = w.serve_by(Front { flags: flag::PICK_LEAST, ..Front::new(vip(), TCP, &addresses) }, &slots);
    let _open: Vec<_> = (0..60).map(|_| dial(&w, client(1), vip()).unwrap()).collect();
    let (a, b) = (w.flows(made.backends).0, w.flows(made.backends + 1).0);
    // By chance alone the difference would be above 8 in nearly every third run.
    assert!(a + b == 60 && (a - b).abs() <= 8, "{a} and {b}");
}

#[test]
fn clients_stay_with_their_backend_and_services_do_not_share() {
    let Some((mut w, listeners, addresses)) = world(3) else { return };
    let policy = Frontend { service: 5, sticky_ms: 3_600_000, ..Frontend::default() };
    let sticky = Front { flags: flag::STICKY, policy, ..Front::new(vip(), TCP, &addresses) };
    let made = w.serve(sticky);
    // Another frontend of the same service, and one of another service.
    let (same, other) = ("10.96.0.1:81".parse().unwrap(), "10.96.0.2:80".parse().unwrap());
    w.serve(Front { dialled: same, ..sticky });
    w.serve(Front { dialled: other, policy: Frontend { service: 6, ..policy }, ..sticky });
    for n in 0..6 {
        let first = reach(&w, client(n), vip(), &listeners);
        assert_eq!(first, usize::from(n) % 3, "new clients are balanced");
        for to in [vip(), same, vip(), same] {
            assert_eq!(reach(&w, client(n), to, &listeners), first);
        }
    }
    assert_eq!(w.len::<StickyKey, Sticky>("affinity"), 6);
    assert_eq!(reach(&w, client(4), other, &listeners), 0, "its own turn");
    // It yields where no new flow may go, and the newer choice is remembered.
    w.change(made.backends + 1, |backend| backend.state = state::KEEPS);
    let moved = reach(&w, client(4), vip(), &listeners);
    assert_ne!(moved, 1);
    w.change(made.backends + 1, |backend| backend.state = state::ACTIVE);
    assert_eq!(reach(&w, client(4), vip(), &listeners), moved);
}

#[test]
fn affinity_is_forgotten_after_its_time() {
    let Some((mut w, listeners, addresses)) = world(2) else { return };
    let policy = Frontend { service: 5, sticky_ms: 50, ..Frontend::default() };
    w.serve(Front { flags: flag::STICKY, policy, ..Front::new(vip(), TCP, &addresses) });
    let first = reach(&w, client(1), vip(), &listeners);
    let end = Instant::now() + PATIENCE;
    loop {
        // Whoever waits does not dial: a flow would prolong it.
        let key = StickyKey { service: 5, client: wide(client(1).into()) };
        while w.remembers(key) {
            assert!(Instant::now() < end, "remembered for ever");
            std::thread::yield_now();
        }
        if reach(&w, client(1), vip(), &listeners) != first {
            return;
        }
    }
}

#[test]
fn only_who_is_allowed_is_served() {
    let Some((mut w, listeners, addresses)) = world(1) else { return };
    let made = w.serve(Front { flags: flag::ALLOW, ..Front::new(vip(), TCP, &addresses) });
    w.allow(made.frontend, [10, 9, 1, 0], 30);
    w.allow(made.frontend + 1, [10, 9, 1, 4], 32);
    assert_eq!(reach(&w, client(3), vip(), &listeners), 0);
    assert_eq!(dial(&w, client(4), vip()).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    assert_eq!((w.turned_away(made).denied, w.flows(made.backends).1), (1, 1));
}

#[test]
fn no_backend_has_more_flows_than_it_may() {
    for pick in [flag::PICK_NEXT, flag::PICK_LEAST, flag::PICK_HASH] {
        let Some((mut w, _listeners, addresses)) = world(2) else { return };
        let policy = Frontend { max_flows: 2, ..Frontend::default() };
        let made = w.serve(Front { flags: flag::LIMIT | pick, policy, ..Front::new(vip(), TCP, &addresses) });
        let mut open: Vec<TcpStream> = Vec::new();
        // By hash a client may find only one of the two in its four picks.
        for n in 0..30 {
            open.extend(dial(&w, client(n), vip()));
        }
        assert_eq!(open.len(), 4);
        assert_eq!([0, 1].map(|n| w.flows(made.backends + n).0), [2, 2], "pick {pick}");
        assert_eq!(w.turned_away(made).limited, 26);
        open.truncate(3);
        let again = (0..30).find_map(|n| dial(&w, client(n), vip()).ok());
        assert!(again.is_some(), "room again");
    }
}
