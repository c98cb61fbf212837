//! Datagram sockets, with a peer and without.

use crate::{
    netns::Netns,
    tables::Tables as _,
    world::{Front, UDP, World, ready},
};
use mesh_ebpf::common::{Chosen, PeerKey, V4, flag, state};
use std::{
    io::ErrorKind,
    net::{SocketAddr, UdpSocket},
};

fn vip() -> SocketAddr {
    "10.96.0.1:53".parse().unwrap()
}

/// Waits until one of the servers gets a datagram, and answers it.
fn answer(servers: &[&UdpSocket]) -> usize {
    let at = ready(servers);
    let mut said = [0; 16];
    let (len, from) = servers[at].recv_from(&mut said).unwrap();
    servers[at].send_to(&said[..len], from).unwrap();
    at
}

/// Sends to a VIP and gives who answered, and as whom.
fn ask(client: &UdpSocket, to: SocketAddr, servers: &[&UdpSocket]) -> (usize, SocketAddr) {
    client.send_to(b"?", to).unwrap();
    let at = answer(servers);
    (at, client.recv_from(&mut [0; 16]).unwrap().1)
}

#[test]
fn a_socket_with_a_peer_sees_the_vip() {
    let Some(mut w) = World::new() else { return };
    let (a, b) = (w.bind("127.0.0.2"), w.bind("127.0.0.3"));
    let made = w.serve(Front::new(vip(), UDP, &[a.local_addr().unwrap(), b.local_addr().unwrap()]));
    let client = w.bind("0.0.0.0");
    for turn in 0..4 {
        // Each connect() chooses anew and leaves the backend before.
        client.connect(vip()).unwrap();
        assert_eq!(client.peer_addr().unwrap(), vip());
        for _ in 0..2 {
            client.send(b"?").unwrap();
            assert_eq!(answer(&[&a, &b]), turn % 2);
            assert_eq!(client.recv_from(&mut [0; 16]).unwrap().1, vip());
        }
    }
    assert_eq!((w.flows(made.backends), w.flows(made.backends + 1)), ((0, 2), (1, 2)));
    // Dialled directly it is no flow of ours any more, and named as it is.
    client.connect(a.local_addr().unwrap()).unwrap();
    assert_eq!(client.peer_addr().unwrap(), a.local_addr().unwrap());
    assert_eq!(w.flows(made.backends + 1), (0, 2));
}

#[test]
fn a_socket_without_a_peer_keeps_its_backend_and_gets_answers_of_the_vip() {
    let Some(mut w) = World::new() else { return };
    let (a, b) = (w.bind("127.0.0.2"), w.bind("127.0.0.3"));
    let made = w.serve(Front::new(vip(), UDP, &[a.local_addr().unwrap(), b.local_addr().unwrap()]));
    let (one, two) = (w.bind("0.0.0.0"), w.bind("0.0.0.0"));
    for _ in 0..3 {
        assert_eq!(ask(&one, vip(), &[&a, &b]), (0, vip()));
        assert_eq!(ask(&two, vip(), &[&a, &b]), (1, vip()));
    }
    assert_eq!((w.flows(made.backends), w.flows(made.backends + 1)), ((1, 1), (1, 1)));
    // Dialled directly, nobody is renamed.
    let direct = b.local_addr().unwrap();
    assert_eq!(ask(&one, direct, &[&a, &b]), (1, direct));
    drop((one, two));
    assert_eq!((w.flows(made.backends), w.flows(made.backends + 1)), ((0, 1), (0, 1)));
}

#[test]
fn ipv6_and_ipv4_in_ipv6_are_served() {
    let Some(mut w) = World::new() else { return };
    let (four, six) = (w.bind("127.0.0.2"), w.bind("::1"));
    let vip6: SocketAddr = "[fd00:96::1]:53".parse().unwrap();
    let mapped: SocketAddr = "[::ffff:10.96.0.1]:53".parse().unwrap();
    w.serve(Front::new(vip(), UDP, &[four.local_addr().unwrap()]));
    w.serve(Front::new(vip6, UDP, &[six.local_addr().unwrap()]));
    let one = w.bind("::");
    // The second frontend of one socket, and of the other family.
    for (dialled, at) in [(vip6, 1), (mapped, 0), (vip6, 1), (mapped, 0)] {
        assert_eq!(ask(&one, dialled, &[&four, &six]), (at, dialled));
    }
    for (dialled, at) in [(vip6, 1), (mapped, 0)] {
        let client = w.bind("::");
        client.connect(dialled).unwrap();
        assert_eq!(client.peer_addr().unwrap(), dialled);
        client.send(b"?").unwrap();
        assert_eq!(answer(&[&four, &six]), at);
        assert_eq!(client.recv_from(&mut [0; 16]).unwrap().1, dialled);
    }
}

#[test]
fn a_socket_that_sends_to_many_frontends_tells_them_apart() {
    let Some(mut w) = World::new() else { return };
    let servers = [w.bind("127.0.0.2"), w.bind("127.0.0.3"), w.bind("127.0.0.4"), w.bind("127.0.0.5")];
    let all: Vec<&UdpSocket> = servers.iter().collect();
    let vips: Vec<SocketAddr> = (1..=4).map(|n| format!("10.96.0.{n}:53").parse().unwrap()).collect();
    let made: Vec<_> =
        (0..4).map(|n| w.serve(Front::new(vips[n], UDP, &[servers[n].local_addr().unwrap()]))).collect();
    let client = w.bind("0.0.0.0");
    for _ in 0..2 {
        for (n, vip) in vips.iter().enumerate() {
            assert_eq!(ask(&client, *vip, &all), (n, *vip));
        }
    }
    assert_eq!(w.len::<PeerKey<V4>, Chosen>("udp_out4"), 3, "the first is kept with the socket");
    assert_eq!(w.flows(made[0].backends), (1, 1));
    assert_eq!(w.flows(made[3].backends), (0, 1), "nobody would say when it ends");
    // The answers may come in any order.
    for vip in &vips {
        client.send_to(b"?", vip).unwrap();
    }
    for (n, server) in servers.iter().enumerate().rev() {
        answer(&[server]);
        assert_eq!(client.recv_from(&mut [0; 16]).unwrap().1, vips[n]);
    }
}

#[test]
fn datagrams_leave_a_backend_that_does_not_keep_them() {
    let Some(mut w) = World::new() else { return };
    let (a, b) = (w.bind("127.0.0.2"), w.bind("127.0.0.3"));
    let both = [a.local_addr().unwrap(), b.local_addr().unwrap()];
    let made = w.serve(Front::new(vip(), UDP, &both));
    let other: SocketAddr = "10.96.0.2:53".parse().unwrap();
    let beside = w.serve(Front::new(other, UDP, &both));
    let client = w.bind("0.0.0.0");
    // One flow is kept with the socket, one in the map: the same holds for both.
    let now = |_: &World| (ask(&client, vip(), &[&a, &b]).0, ask(&client, other, &[&a, &b]).0);
    let set = |w: &mut World, state| {
        w.change(made.backends, |backend| backend.state = state);
        w.change(beside.backends, |backend| backend.state = state);
    };
    assert_eq!(now(&w), (0, 0));
    // Draining, then past its deadline.
    set(&mut w, state::KEEPS);
    assert_eq!(now(&w), (0, 0));
    set(&mut w, 0);
    assert_eq!(now(&w), (1, 1));
    set(&mut w, state::ACTIVE);
    assert_eq!(now(&w), (1, 1), "flows do not move back");
    // Reset.
    w.change(made.backends + 1, |backend| backend.state = state::RESET | state::KEEPS);
    w.change(beside.backends + 1, |backend| backend.state = state::RESET | state::KEEPS);
    assert_eq!(now(&w), (0, 0));
    // Another backend in the same place.
    w.change(made.backends, |backend| backend.generation += 1);
    w.change(beside.backends, |backend| backend.generation += 1);
    w.change(made.backends + 1, |backend| backend.state = state::ACTIVE);
    w.change(beside.backends + 1, |backend| backend.state = state::ACTIVE);
    w.turn(vip(), 1);
    w.turn(other, 1);
    assert_eq!(now(&w), (1, 1));
}

#[test]
fn what_nobody_serves_is_refused() {
    let Some(mut w) = World::new() else { return };
    w.serve(Front::new(vip(), UDP, &[]));
    let silent: SocketAddr = "10.96.0.2:53".parse().unwrap();
    w.serve(Front { flags: flag::SILENT, ..Front::new(silent, UDP, &[]) });
    let (client, client6) = (w.bind("0.0.0.0"), w.bind("::"));
    let kind = |client: &UdpSocket, to: &str| client.send_to(b"?", to).unwrap_err().kind();
    for to in ["10.96.0.1:53", "10.96.0.1:54"] {
        assert_eq!(kind(&client, to), ErrorKind::ConnectionRefused, "{to}");
    }
    for to in ["[fd00:96::7]:53", "[::ffff:10.96.0.9]:53"] {
        assert_eq!(kind(&client6, to), ErrorKind::ConnectionRefused, "{to}");
    }
    // Left to the packets, for which there is no route here.
    for to in ["10.96.0.2:53", "10.97.0.1:53"] {
        assert_eq!(kind(&client, to), ErrorKind::NetworkUnreachable, "{to}");
    }
    assert_eq!(client.connect(vip()).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    // Who asks for the route to an address of which no port is served is told the route.
    w.netns.ip("route add 10.96.0.0/16 dev lo");
    client.connect("10.96.0.1:1025").unwrap();
    assert_eq!(client.peer_addr().unwrap().to_string(), "10.96.0.1:1025");
}

#[test]
fn sockets_of_another_namespace_are_left_alone() {
    let Some(mut w) = World::new() else { return };
    let a = w.bind("127.0.0.2");
    let made = w.serve(Front::new(vip(), UDP, &[a.local_addr().unwrap()]));
    let other = Netns::new().unwrap();
    let client = other.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    assert_eq!(client.send_to(b"?", vip()).unwrap_err().kind(), ErrorKind::NetworkUnreachable);
    assert_eq!(client.connect(vip()).unwrap_err().kind(), ErrorKind::NetworkUnreachable);
    assert_eq!(w.flows(made.backends), (0, 0));
}
