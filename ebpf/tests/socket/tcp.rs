//! connect() of TCP.

use crate::{
    netns::Netns,
    tables::Tables as _,
    world::{Front, TCP, World, accept},
};
use mesh_ebpf::common::{SETS, Service, WAYS, flag};
use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
};

fn vip() -> SocketAddr {
    "10.96.0.1:80".parse().unwrap()
}

#[test]
fn a_vip_leads_to_its_backends_in_turn_and_getpeername_says_the_vip() {
    let Some(mut w) = World::new() else { return };
    let (a, b) = (w.listen("127.0.0.2"), w.listen("127.0.0.3"));
    let made = w.serve(Front::new(vip(), TCP, &[a.local_addr().unwrap(), b.local_addr().unwrap()]));
    let mut open = Vec::new();
    for turn in 0..6 {
        let mut client = w.connect(vip()).unwrap();
        let (at, mut server) = accept(&[&a, &b]);
        assert_eq!(at, turn % 2);
        assert_eq!(client.peer_addr().unwrap(), vip());
        assert_eq!(
            server.peer_addr().unwrap(),
            client.local_addr().unwrap(),
            "nothing is translated between"
        );
        client.write_all(b"ping").unwrap();
        let mut said = [0; 4];
        server.read_exact(&mut said).unwrap();
        open.push((client, server));
    }
    assert_eq!((w.flows(made.backends), w.flows(made.backends + 1)), ((3, 3), (3, 3)));
    open.truncate(1);
    assert_eq!((w.flows(made.backends), w.flows(made.backends + 1)), ((1, 3), (0, 3)));
}

#[test]
fn ipv6_and_ipv4_in_ipv6_are_served() {
    let Some(mut w) = World::new() else { return };
    let (four, six) = (w.listen("127.0.0.2"), w.listen("::1"));
    let vip6: SocketAddr = "[fd00:96::1]:80".parse().unwrap();
    w.serve(Front::new(vip(), TCP, &[four.local_addr().unwrap()]));
    let made = w.serve(Front::new(vip6, TCP, &[six.local_addr().unwrap()]));
    for (dialled, at) in [(vip6, 1), ("[::ffff:10.96.0.1]:80".parse().unwrap(), 0), (vip6, 1)] {
        let client = w.connect(dialled).unwrap();
        assert_eq!(client.peer_addr().unwrap(), dialled);
        assert_eq!(accept(&[&four, &six]).0, at, "{dialled}");
    }
    assert_eq!(w.flows(made.backends), (0, 2));
}

#[test]
fn what_nobody_serves_is_refused() {
    let Some(mut w) = World::new() else { return };
    let made = w.serve(Front::new(vip(), TCP, &[]));
    let silent: SocketAddr = "10.96.0.2:80".parse().unwrap();
    w.serve(Front { flags: flag::SILENT, ..Front::new(silent, TCP, &[]) });
    let kind = |to: &str| w.connect(to.parse().unwrap()).unwrap_err().kind();
    for to in ["10.96.0.1:80", "10.96.0.1:81", "10.96.200.9:80", "[fd00:96::7]:80", "[::ffff:10.96.0.9]:80"] {
        assert_eq!(kind(to), ErrorKind::ConnectionRefused, "{to}");
    }
    // Left to the packets, for which there is no route here.
    for to in ["10.96.0.2:80", "10.97.0.1:80", "[fd00:97::1]:80"] {
        assert_eq!(kind(to), ErrorKind::NetworkUnreachable, "{to}");
    }
    assert_eq!(w.turned_away(made).no_backend, 1);
}

#[test]
fn a_published_port_is_open_on_every_local_address() {
    let Some(mut w) = World::new() else { return };
    let (a, six) = (w.listen("127.0.0.2"), w.listen("::1"));
    w.serve(Front::new("0.0.0.0:8080".parse().unwrap(), TCP, &[a.local_addr().unwrap()]));
    w.serve(Front::new("[::]:8080".parse().unwrap(), TCP, &[six.local_addr().unwrap()]));
    w.put("locals4", [192_u8, 0, 2, 7], 1_u8);
    w.put("locals6", "2001:db8::7".parse::<std::net::Ipv6Addr>().unwrap().octets(), 1_u8);
    for (to, at) in [
        ("127.0.0.1:8080", 0),
        ("127.200.0.9:8080", 0),
        ("192.0.2.7:8080", 0),
        ("[::1]:8080", 1),
        ("[2001:db8::7]:8080", 1),
        ("[::ffff:192.0.2.7]:8080", 0),
    ] {
        let client = w.connect(to.parse().unwrap()).unwrap();
        assert_eq!(client.peer_addr().unwrap().to_string(), to);
        assert_eq!(accept(&[&a, &six]).0, at, "{to}");
    }
    assert_eq!(
        w.connect("192.0.2.8:8080".parse().unwrap()).unwrap_err().kind(),
        ErrorKind::NetworkUnreachable
    );
    assert_eq!(
        w.connect("127.0.0.1:8081".parse().unwrap()).unwrap_err().kind(),
        ErrorKind::ConnectionRefused
    );
}

#[test]
fn the_ports_of_a_range_lead_to_ports_alike() {
    let Some(mut w) = World::new() else { return };
    let listener = w.listen("127.0.0.2");
    let mut first = listener.local_addr().unwrap();
    first.set_port(first.port() - 5);
    let made = w.serve(Front::new("10.96.0.1:7000".parse().unwrap(), TCP, &[first]));
    let service = Service { frontend: made.frontend, slots: 1, offset: 5, ..Service::default() };
    let dialled: SocketAddr = "10.96.0.1:7005".parse().unwrap();
    w.lead(dialled, TCP, service);
    assert_eq!(w.connect(dialled).unwrap().peer_addr().unwrap(), dialled);
    accept(&[&listener]);
}

#[test]
fn a_socket_that_failed_may_dial_again() {
    let Some(mut w) = World::new() else { return };
    let listener = w.listen("127.0.0.2");
    let gone = w.listen("127.0.0.3").local_addr().unwrap();
    let made = w.serve(Front::new(vip(), TCP, &[gone, listener.local_addr().unwrap()]));
    let socket =
        w.netns.run(|| socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap());
    assert_eq!(socket.connect(&vip().into()).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    socket.connect(&vip().into()).unwrap();
    let (_, _server) = accept(&[&listener]);
    assert_eq!(TcpStream::from(socket).peer_addr().unwrap(), vip());
    assert_eq!((w.flows(made.backends), w.flows(made.backends + 1)), ((0, 1), (0, 1)));
}

#[test]
fn sockets_of_another_namespace_are_left_alone() {
    let Some(mut w) = World::new() else { return };
    let listener = w.listen("127.0.0.2");
    let made = w.serve(Front::new(vip(), TCP, &[listener.local_addr().unwrap()]));
    let other = Netns::new().unwrap();
    let error = other.run(|| TcpStream::connect(vip())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NetworkUnreachable);
    assert_eq!(w.flows(made.backends), (0, 0));
    w.connect(vip()).unwrap();
    assert_eq!(w.flows(made.backends), (0, 1));
}

#[test]
fn a_flow_of_an_entry_that_became_another_backend_is_not_taken_off_it() {
    let Some(mut w) = World::new() else { return };
    let listener = w.listen("127.0.0.2");
    let made = w.serve(Front::new(vip(), TCP, &[listener.local_addr().unwrap()]));
    let client = w.connect(vip()).unwrap();
    w.change(made.backends, |backend| backend.generation += 1);
    w.change(made.backends, |backend| backend.active = 7);
    drop(client);
    assert_eq!(w.flows(made.backends), (7, 1));
}

#[test]
fn a_closed_socket_leaves_its_place_and_one_without_a_place_is_remembered_all_the_same() {
    let Some(mut w) = World::new() else { return };
    let listener = w.listen("127.0.0.2");
    let made = w.serve(Front::new(vip(), TCP, &[listener.local_addr().unwrap()]));
    let taken = |w: &World| {
        let sets = (0..SETS).map(|set| w.get::<[u64; WAYS as usize]>("cookies", set));
        sets.flatten().filter(|cookie| *cookie != 0).count()
    };
    let open: Vec<_> = (0..3).map(|_| w.connect(vip()).unwrap()).collect();
    assert_eq!(taken(&w), 3);
    drop(open);
    assert_eq!(taken(&w), 0);
    for set in 0..SETS {
        w.set("cookies", set, [u64::MAX; WAYS as usize]);
    }
    let client = w.connect(vip()).unwrap();
    assert_eq!(client.peer_addr().unwrap(), vip());
    assert_eq!(w.flows(made.backends), (1, 4));
    drop(client);
    assert_eq!(w.flows(made.backends), (0, 4));
    assert_eq!(taken(&w), usize::try_from(SETS * WAYS).unwrap(), "nobody's place was given away");
}
