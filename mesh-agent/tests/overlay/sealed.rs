//! The encrypted overlay, where the kernel has WireGuard: elsewhere its refusal.

use crate::{
    talk::{ping, tcp, udp},
    world::{Underlay, World, permitted, same, steady},
};
use mesh_agent::{
    overlay::{
        Encryption,
        tunnel::{apply::rotate, end::NAMES, guard},
    },
    sys::{netns::Netns, wireguard::Wireguard},
};
use mesh_control::model::TunnelKey;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::{
    collections::BTreeSet,
    io::Read,
    net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread::{self, JoinHandle, park_timeout},
    time::{Duration, Instant},
};

const BOUND: Duration = Duration::from_secs(120);

/// Whether this kernel has WireGuard; otherwise the test is skipped, loudly: guests of `make test-vm` have it.
pub(crate) fn has_wireguard() -> bool {
    let Err(error) = Wireguard::open() else { return true };
    eprintln!("SKIPPED: this kernel has no WireGuard ({error}); `make test-vm` boots one that has");
    false
}

/// Everything that passes the switch between the nodes.
struct Capture {
    frames: Arc<Mutex<Vec<Vec<u8>>>>,
    end: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

impl Capture {
    fn of(hub: &Netns) -> Capture {
        // ETH_P_ALL of linux/if_ether.h, in network order.
        let all = Protocol::from(i32::from(3_u16.to_be()));
        let socket = hub.run(|| Socket::new(Domain::PACKET, Type::RAW, Some(all))).unwrap().unwrap();
        socket.set_recv_buffer_size(16 << 20).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let (frames, end) = (Arc::<Mutex<Vec<Vec<u8>>>>::default(), Arc::<AtomicBool>::default());
        let (kept, ended) = (Arc::clone(&frames), Arc::clone(&end));
        let reader = thread::spawn(move || {
            let mut buffer = vec![0; 70_000];
            loop {
                // Read to the end even when it is over: what passed before is there.
                match (&socket).read(&mut buffer) {
                    Ok(length) => kept.lock().unwrap().push(buffer[..length].to_vec()),
                    Err(_) if ended.load(SeqCst) => break,
                    Err(_) => {}
                }
            }
        });
        Capture { frames, end, reader: Some(reader) }
    }

    /// Ends; all frames, and those of them with `text` in them.
    fn end(mut self, text: &[u8]) -> (usize, usize) {
        self.end.store(true, SeqCst);
        self.reader.take().unwrap().join().unwrap();
        let frames = self.frames.lock().unwrap();
        let with = frames.iter().filter(|f| f.windows(text.len()).any(|part| part == text)).count();
        (frames.len(), with)
    }
}

/// Part of what [`tcp`] sends.
fn marker() -> Vec<u8> {
    (100..140).collect()
}

fn sealed(nodes: usize, underlay: Underlay) -> World {
    let mut world = World::new(nodes, underlay);
    let encryption = Encryption { hold: Duration::from_secs(2), ..Encryption::default() };
    world.nodes.iter_mut().for_each(|node| node.config.encryption = Some(encryption));
    exchange(&mut world);
    exchange(&mut world);
    world
}

/// Brings all nodes to where they should be, and tells each the others' keys as gossip would.
fn exchange(world: &mut World) {
    for me in 0..world.nodes.len() {
        world.nodes[me].tunnels = world.apply(me, world.nodes.len()).tunnels.announce;
    }
}

fn keys(world: &World, i: usize) -> Vec<TunnelKey> {
    world.nodes[i].tunnels.iter().map(|tunnel| tunnel.key).collect()
}

#[test]
fn what_containers_say_is_not_readable_between_nodes() {
    if !permitted() || !has_wireguard() {
        return;
    }
    for underlay in [Underlay::V4, Underlay::V6] {
        let mut plain = World::new(2, underlay);
        let mut world = sealed(3, underlay);
        for world in [&mut plain, &mut world] {
            let encrypted = world.nodes[0].config.encryption.is_some();
            exchange(world);
            let capture = Capture::of(&world.hub);
            let containers: Vec<_> = (0..world.nodes.len()).map(|i| world.container(i)).collect();
            for (i, (client, from)) in containers.iter().enumerate() {
                for (j, (server, to)) in containers.iter().enumerate().filter(|(j, _)| *j != i) {
                    for (mine, other) in from.lease.addresses.iter().zip(&to.lease.addresses) {
                        let path = format!("{underlay:?}: {i} to {j}, {mine} to {other}");
                        ping(client, *other).unwrap_or_else(|e| panic!("{path}: {e}"));
                        let seen =
                            tcp(client, server, *other, 100_000).unwrap_or_else(|e| panic!("{path}: {e}"));
                        assert_eq!(seen, *mine, "{path}");
                        let mtu = usize::try_from(to.mtu).unwrap();
                        for bytes in [1, mtu - 48, 3 * mtu] {
                            let seen =
                                udp(client, server, *other, bytes).unwrap_or_else(|e| panic!("{path}: {e}"));
                            assert_eq!(seen, *mine, "{path}, {bytes} bytes");
                        }
                    }
                }
            }
            let (all, readable) = capture.end(&marker());
            assert!(all > 100, "{all} frames");
            assert_eq!(readable == 0, encrypted, "{underlay:?}: {readable} of {all} frames can be read");
        }
    }
}

/// Datagrams that go to an echo without pause; which of them did not come back is known at the end.
struct Traffic {
    end: Arc<AtomicBool>,
    sender: JoinHandle<u32>,
    receiver: JoinHandle<BTreeSet<u32>>,
}

impl Traffic {
    fn between(client: &Netns, server: &Netns, address: IpAddr) -> Traffic {
        let there = server.run(|| UdpSocket::bind((address, 0))).unwrap().unwrap();
        let any = if address.is_ipv4() { IpAddr::from([0; 4]) } else { Ipv6Addr::UNSPECIFIED.into() };
        let here = client.run(|| UdpSocket::bind((any, 0))).unwrap().unwrap();
        for socket in [&here, &there] {
            // Nothing gets lost at the ends.
            SockRef::from(socket).set_recv_buffer_size(4 << 20).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        }
        here.connect(there.local_addr().unwrap()).unwrap();
        let end = Arc::<AtomicBool>::default();
        let echo_end = Arc::clone(&end);
        thread::spawn(move || {
            let mut buffer = [0; 64];
            loop {
                match there.recv_from(&mut buffer) {
                    Ok((length, from)) => drop(there.send_to(&buffer[..length], from)),
                    Err(_) if echo_end.load(SeqCst) => break,
                    Err(_) => {}
                }
            }
        });
        let (to, sent) = (here.try_clone().unwrap(), Arc::clone(&end));
        let sender = thread::spawn(move || {
            let mut next = 0_u32;
            while !sent.load(SeqCst) {
                to.send(&next.to_be_bytes()).unwrap();
                next += 1;
                park_timeout(Duration::from_millis(3));
            }
            next
        });
        let ended = Arc::clone(&end);
        let receiver = thread::spawn(move || {
            let (mut back, mut buffer) = (BTreeSet::new(), [0; 64]);
            loop {
                match here.recv(&mut buffer) {
                    Ok(4) => drop(back.insert(u32::from_be_bytes(*buffer.first_chunk().unwrap()))),
                    Ok(_) => {}
                    Err(_) if ended.load(SeqCst) => break,
                    Err(_) => {}
                }
            }
            back
        });
        Traffic { end, sender, receiver }
    }

    /// How many were sent, and which are lost.
    fn end(self) -> (u32, Vec<u32>) {
        self.end.store(true, SeqCst);
        let sent = self.sender.join().unwrap();
        let back = self.receiver.join().unwrap();
        (sent, (0..sent).filter(|number| !back.contains(number)).collect())
    }
}

#[test]
fn keys_change_under_traffic_and_nothing_is_lost() {
    if !permitted() || !has_wireguard() {
        return;
    }
    let mut world = sealed(3, Underlay::V4);
    let containers: Vec<_> = (0..3).map(|i| world.container(i)).collect();
    let address = |i: usize| containers[i].1.lease.addresses[0];
    for (i, (client, _)) in containers.iter().enumerate() {
        (0..3).filter(|j| *j != i).for_each(|j| ping(client, address(j)).unwrap());
    }
    let pairs = [(0, 1), (1, 2), (2, 0)];
    let traffic = pairs.map(|(i, j)| Traffic::between(&containers[i].0, &containers[j].0, address(j)));
    // One alone, then two at once, back on the first device for one of them.
    for changing in [&[0][..], &[0, 1][..]] {
        let before: Vec<_> = (0..3).map(|i| keys(&world, i)).collect();
        for i in changing {
            let node = &world.nodes[*i];
            node.rtnl(|rtnl| rotate(rtnl, &node.config)).unwrap();
        }
        let until = Instant::now() + BOUND;
        loop {
            exchange(&mut world);
            let changed = |i: &usize| {
                let (now, links) =
                    (keys(&world, *i), world.nodes[*i].run("ip", "-br link show type wireguard"));
                now.len() == 1 && now != before[*i] && links.lines().count() == 1
            };
            if changing.iter().all(changed) {
                break;
            }
            assert!(Instant::now() < until, "keys of {changing:?}: {before:?}, now {:?}", keys(&world, 0));
            park_timeout(Duration::from_millis(200));
        }
        for i in (0..3).filter(|i| !changing.contains(i)) {
            assert_eq!(keys(&world, i), before[i]);
        }
    }
    for (pair, traffic) in pairs.iter().zip(traffic) {
        let (sent, lost) = traffic.end();
        println!("{pair:?}: {sent} sent, {} lost", lost.len());
        assert!(sent > 100 && lost.is_empty(), "{pair:?}: of {sent} are lost {lost:?}");
    }
    exchange(&mut world);
    let again = world.apply(0, 3);
    assert_eq!((again.done, again.tunnels.turning), (vec![], false));
}

#[test]
fn nothing_goes_in_plain_where_one_of_two_does_not_encrypt() {
    if !permitted() || !has_wireguard() {
        return;
    }
    let mut world = sealed(2, Underlay::V4);
    world.nodes[1].config.encryption = None;
    exchange(&mut world);
    exchange(&mut world);
    let told = |i: usize| world.apply(i, 2).plan.problems.join("; ");
    assert!(told(0).contains("this node encrypts and n1 does not"), "{}", told(0));
    assert!(told(1).contains("n0 encrypts and this node does not"), "{}", told(1));
    let ((one, from), (two, to)) = (world.container(0), world.container(1));
    let capture = Capture::of(&world.hub);
    say(&one, to.lease.addresses[0]);
    say(&two, from.lease.addresses[0]);
    let (_, readable) = capture.end(&marker());
    assert_eq!(readable, 0);
}

/// Says the marker a few times.
fn say(client: &Netns, to: IpAddr) {
    let any = if to.is_ipv4() { IpAddr::from([0; 4]) } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = client.run(|| UdpSocket::bind((any, 0))).unwrap().unwrap();
    for _ in 0..5 {
        // That there is no way may be known here already.
        let _refused = socket.send_to(&marker(), (to, 4000));
    }
}

#[test]
fn without_its_devices_nothing_goes_by_another_way() {
    if !permitted() || !has_wireguard() {
        return;
    }
    let world = sealed(2, Underlay::V6);
    let ((one, _), (two, to)) = (world.container(0), world.container(1));
    udp(&one, &two, to.lease.addresses[0], 10).unwrap();
    let node = &world.nodes[0];
    node.run("ip", "-6 route add default via 2001:db8::2");
    node.run("ip", "link set mesh-wg down");
    let capture = Capture::of(&world.hub);
    say(&one, to.lease.addresses[0]);
    let (_, readable) = capture.end(&marker());
    assert_eq!(readable, 0);
    let done = world.apply(0, 2).done;
    assert!(done.contains(&"set link mesh-wg up".to_owned()), "{done:?}");
    udp(&one, &two, to.lease.addresses[0], 10).unwrap();
}

/// Packets that the VXLAN device took.
fn taken(world: &World, i: usize) -> u64 {
    let text = world.nodes[i].run("ip", "-s link show mesh-vx");
    let line = text.lines().skip_while(|line| !line.contains("RX:")).nth(1).unwrap();
    line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn what_comes_in_unsealed_is_refused() {
    if !permitted() || !has_wireguard() {
        return;
    }
    let world = sealed(2, Underlay::V6);
    let socket = world.nodes[1].netns.run(|| UdpSocket::bind("[::]:0")).unwrap().unwrap();
    let at: SocketAddr = "[2001:db8::1]:4789".parse().unwrap();
    // RFC 7348 section 5: the flag of a valid identifier, and 77.
    let mut packet = vec![8, 0, 0, 0, 0, 0, 77, 0];
    let config = &world.nodes[0].config;
    let plan = world.plan(0);
    packet.extend(plan.vxlan.mac.0);
    packet.extend([2, 9, 9, 9, 9, 9, 8, 0]);
    packet.extend([0; 46]);
    let before = taken(&world, 0);
    (0..5).for_each(|_| assert_eq!(socket.send_to(&packet, at).unwrap(), packet.len()));
    // The sixth comes behind them: what the rule counted, the device did not get.
    let refused = || world.nodes[0].run("nft", &format!("list table ip6 {}", guard::TABLE));
    let until = Instant::now() + BOUND;
    while !refused().contains("packets 5 ") {
        assert!(Instant::now() < until, "{}", refused());
        park_timeout(Duration::from_millis(20));
    }
    assert_eq!(taken(&world, 0), before);
    assert!(!world.nodes[0].netns.run(|| guard::ensure(config.vni, config.port)).unwrap().unwrap());
    world.nodes[0].run("nft", &format!("delete table ip6 {}", guard::TABLE));
    (0..5).for_each(|_| assert_eq!(socket.send_to(&packet, at).unwrap(), packet.len()));
    while taken(&world, 0) < before + 5 {
        assert!(Instant::now() < until, "without the rule they are taken: else this test proves nothing");
        park_timeout(Duration::from_millis(20));
    }
}

#[test]
fn devices_of_others_stay_and_ours_go_without_a_trace() {
    if !permitted() || !has_wireguard() {
        return;
    }
    let look = |world: &World| {
        let of = |words: &str| steady(&world.nodes[0].run("ip", words));
        let mut all = [of("link show"), of("-6 route show table all"), of("address show")].concat();
        // Those of links come when duplicate address detection is over.
        all.retain(|line| !line.contains("fe80::"));
        all
    };
    let mut world = World::new(1, Underlay::V4);
    world.nodes[0].run("ip", "link add wg0 type wireguard");
    world.nodes[0].run("ip", "link add mesh-wg2 type dummy");
    let before = look(&world);
    world.nodes[0].config.encryption = Some(Encryption::default());
    let error = world.nodes[0].apply(&world.snapshot(0, 1)).unwrap_err().to_string();
    assert!(error.contains("the link mesh-wg2 is not this program's"), "{error}");
    same(&look(&world), &before);
    world.nodes[0].run("ip", "link delete mesh-wg2");
    let before = look(&world);
    let made = world.apply(0, 1);
    assert!(made.tunnels.announce.len() == 1 && world.apply(0, 1).done.is_empty());
    let done = world.nodes[0].teardown();
    assert!(done.contains(&format!("remove link {}", NAMES[0])), "{done:?}");
    same(&look(&world), &before);
    // The same when it is switched off instead.
    world.apply(0, 1);
    assert!(world.nodes[0].run("nft", "list tables").contains(guard::TABLE));
    world.nodes[0].config.encryption = None;
    world.apply(0, 1);
    assert!(!world.nodes[0].run("nft", "list tables").contains(guard::TABLE));
    world.nodes[0].teardown();
    same(&look(&world), &before);
}

#[test]
fn a_kernel_without_wireguard_builds_nothing_in_plain() {
    if !permitted() {
        return;
    }
    if Wireguard::open().is_ok() {
        return eprintln!("SKIPPED: this kernel has WireGuard");
    }
    let mut world = World::new(1, Underlay::V4);
    world.apply(0, 1);
    world.nodes[0].config.encryption = Some(Encryption::default());
    let error = world.nodes[0].apply(&world.snapshot(0, 1)).unwrap_err().to_string();
    assert!(error.contains("modprobe wireguard") && error.contains("Nothing is sent in plain"), "{error}");
    let links = world.nodes[0].run("ip", "-br link show");
    assert!(!links.contains("mesh-vx"), "what was there in plain is gone: {links}");
}
