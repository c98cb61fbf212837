//! Real hosts on real links: what the kernel makes of redirections, of checksums left to devices, and of large pieces.

use crate::tables::Tables as _;
use crate::{
    bed::{Bed, Device, Way},
    netns::Netns,
    plan::{Plan, port},
    xdp_bed::{GRO, TX_CHECKSUM, offload},
};
use aya::sys::{Stats, enable_stats};
use mesh_ebpf::common::{Backend, Config, state, xdp::bit};
use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

/// Longest wait for what must happen.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of a transfer: many times what a link takes at once.
const BYTES: usize = 3 << 20;

/// The node with its programs at work, a client and a container.
fn world() -> Option<(Bed, Netns, Netns)> {
    let mut bed = Bed::new()?;
    for device in [Device::Nic, Device::Mesh] {
        bed.attach(Way::In, device);
        bed.attach(Way::Out, device);
    }
    let [four, six] = Plan::both();
    let client = bed.host(Device::Nic, [four.client, six.client]);
    let container = bed.host(Device::Mesh, [four.container, six.container]);
    Some((bed, client, container))
}

fn connect(from: &Netns, to: (IpAddr, u16)) -> std::io::Result<TcpStream> {
    let stream = from.run(|| TcpStream::connect_timeout(&SocketAddr::from(to), PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn pattern() -> Vec<u8> {
    (0..BYTES).map(|n| u8::try_from(n * 7 % 253).unwrap()).collect()
}

/// Sends a lot both ways at once and compares it.
fn exchange(client: &TcpStream, server: &TcpStream) {
    thread::scope(|scope| {
        for stream in [client, server] {
            scope.spawn(move || {
                let mut to: &TcpStream = stream;
                to.write_all(&pattern()).unwrap();
                to.shutdown(std::net::Shutdown::Write).unwrap();
            });
            scope.spawn(move || {
                let mut got = Vec::new();
                let mut from: &TcpStream = stream;
                from.read_to_end(&mut got).unwrap();
                assert!(got == pattern(), "what arrives is what was sent");
            });
        }
    });
}

#[test]
fn connections_reach_containers_and_programs_of_the_host() {
    let Some((bed, client, container)) = world() else { return };
    for plan in Plan::both() {
        for (netns, at, dialled) in [
            (&container, plan.container, (plan.vip, port::CONTAINER)),
            (&container, plan.container, (plan.node, port::PUBLISHED)),
            (&bed.netns, plan.node, (plan.vip, port::HERE)),
            (&bed.netns, plan.node, (plan.node, port::PUBLISHED_HERE)),
        ] {
            let listener = netns.run(|| TcpListener::bind((at, port::BACKEND)).unwrap());
            let stream = connect(&client, dialled).unwrap_or_else(|error| panic!("{dialled:?}: {error}"));
            let (server, peer) = listener.accept().unwrap();
            server.set_read_timeout(Some(PATIENCE)).unwrap();
            assert_eq!(peer.ip(), plan.client, "the client keeps its address");
            exchange(&stream, &server);
        }
        // A container dials the frontend of which it is the backend.
        let listener = container.run(|| TcpListener::bind((plan.container, port::BACKEND)).unwrap());
        let stream = connect(&container, (plan.vip, port::CONTAINER)).unwrap();
        let (server, peer) = listener.accept().unwrap();
        assert_eq!(peer.ip(), plan.gateway);
        exchange(&stream, &server);
    }
}

#[test]
fn datagrams_reach_backends_and_answers_come_back() {
    let Some((bed, client, container)) = world() else { return };
    for plan in Plan::both() {
        for (netns, at, dialled) in [
            (&container, plan.container, (plan.vip, port::CONTAINER)),
            (&bed.netns, plan.node, (plan.vip, port::HERE)),
        ] {
            let server = netns.run(|| UdpSocket::bind((at, port::BACKEND)).unwrap());
            let socket = client.run(|| UdpSocket::bind((plan.client, 0)).unwrap());
            // The longest is sent in fragments, again until it is known how long they may be.
            for len in [0, 1, 1000, 1400, 4000] {
                let data = &pattern()[..len];
                let at = deliver(&socket, dialled.into(), &server, data);
                assert_eq!(at.ip(), plan.client);
                let from = deliver(&server, at, &socket, data);
                assert_eq!(from, SocketAddr::from(dialled), "{len}");
            }
        }
    }
}

/// Sends a datagram until it arrives; gives whom it comes from.
fn deliver(from: &UdpSocket, to: SocketAddr, at: &UdpSocket, data: &[u8]) -> SocketAddr {
    at.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let mut buffer = vec![0; data.len() + 1];
    for _ in 0..30 {
        // What was told of the last one is told now.
        let _ = from.send_to(data, to);
        if let Ok((got, sender)) = at.recv_from(&mut buffer) {
            assert_eq!(&buffer[..got], data);
            return sender;
        }
    }
    panic!("{} bytes never arrive at {to}", data.len());
}

#[test]
fn refusals_are_believed() {
    let Some((_bed, client, _container)) = world() else { return };
    for plan in Plan::both() {
        for number in [port::NOBODY, 7777] {
            let refused = connect(&client, (plan.vip, number)).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
            let socket = client.run(|| UdpSocket::bind((plan.client, 0)).unwrap());
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.connect((plan.vip, number)).unwrap();
            socket.send(b"hello").unwrap();
            assert_eq!(socket.recv(&mut [0; 9]).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        }
    }
}

#[test]
fn both_sides_of_a_flow_are_reset() {
    let Some((mut bed, client, container)) = world() else { return };
    for plan in Plan::both() {
        let here = bed.netns.run(|| TcpListener::bind((plan.node, port::BACKEND)).unwrap());
        let there = container.run(|| TcpListener::bind((plan.container, port::BACKEND)).unwrap());
        for (listener, number) in [(there, port::CONTAINER), (here, port::HERE)] {
            let mut stream = connect(&client, (plan.vip, number)).unwrap();
            let (mut server, _) = listener.accept().unwrap();
            server.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(b"hello").unwrap();
            server.read_exact(&mut [0; 5]).unwrap();
            server.write_all(b"hello").unwrap();
            stream.read_exact(&mut [0; 5]).unwrap();
            let index = bed.served(&plan, number, 6);
            let before: Backend = bed.get("backends", index);
            bed.change(index, |backend| backend.state = state::RESET);
            for side in [&mut stream, &mut server] {
                side.write_all(b"more").unwrap();
                let error = side.read(&mut [0; 5]).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{number}");
            }
            bed.set("backends", index, before);
            bed.configure(|config: &mut Config| config.epoch += 1);
        }
    }
}

/// Through drivers: pairs of veth(4) whose ends behind the node take frames, and hosts that sum up what they send.
#[test]
fn what_is_sent_on_in_drivers_arrives() {
    let Some(mut bed) = Bed::fast() else { return };
    for device in [Device::Nic, Device::Mesh] {
        bed.attach(Way::In, device);
        // As an agent says it of such pairs.
        bed.takes(device, bit::SENDS);
    }
    let _counted = enable_stats(Stats::RunTime).unwrap();
    let [four, six] = Plan::both();
    let client = bed.host(Device::Nic, [four.client, six.client]);
    let container = bed.host(Device::Mesh, [four.container, six.container]);
    for (host, link) in [(&client, "nicp"), (&container, "mesh0p")] {
        host.run(|| {
            offload(link, TX_CHECKSUM, false);
            offload(link, GRO, true);
        });
    }
    for plan in Plan::both() {
        let before = bed.runs();
        let listener = container.run(|| TcpListener::bind((plan.container, port::BACKEND)).unwrap());
        for dialled in [(plan.vip, port::CONTAINER), (plan.node, port::PUBLISHED)] {
            let stream = connect(&client, dialled).unwrap_or_else(|error| panic!("{dialled:?}: {error}"));
            let (server, peer) = listener.accept().unwrap();
            server.set_read_timeout(Some(PATIENCE)).unwrap();
            assert_eq!(peer.ip(), plan.client, "the client keeps its address");
            exchange(&stream, &server);
        }
        let server = container.run(|| UdpSocket::bind((plan.container, port::BACKEND)).unwrap());
        let socket = client.run(|| UdpSocket::bind((plan.client, 0)).unwrap());
        let dialled = (plan.vip, port::CONTAINER);
        let all = pattern();
        for number in 0..200 {
            let data = &all[..number * 7];
            let at = deliver(&socket, dialled.into(), &server, data);
            assert_eq!(at.ip(), plan.client);
            assert_eq!(deliver(&server, at, &socket, data), SocketAddr::from(dialled));
        }
        let index = bed.served(&plan, port::CONTAINER, 6);
        let bytes = u64::try_from(BYTES).unwrap();
        let counts = bed.counts(index).0;
        assert!(counts.bytes_in > bytes && counts.bytes_out > bytes, "{counts:?}");
        // At tcx is what passes: first packets and last ones, and one for each way and second.
        let [driver, tcx] = [0, 1].map(|n| bed.runs()[n] - before[n]);
        println!("{driver} packets at XDP, {tcx} of them at tcx, too");
        assert!(driver > 1000 && tcx * 4 < driver, "{driver} {tcx}");
    }
}
