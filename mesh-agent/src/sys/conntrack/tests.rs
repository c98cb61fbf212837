//! Against the kernel of this machine, each in a network namespace of its own; and against garbage.

use super::{entry::CTA_ID, *};
use crate::sys::{
    link::set_up,
    netns::Netns,
    nfnetlink::{Answer, messages},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::{Command, Stdio},
    time::Duration,
};

const TCP: u8 = 6;
const UDP: u8 = 17;
/// What clients dial instead of the port that is listened on.
const DIALLED: u16 = 8053;

/// `None` where namespaces cannot be made; in CI they must be.
fn netns(test: &str) -> Option<Netns> {
    match Netns::new() {
        Ok(netns) => {
            set_up(&netns, "lo", true).unwrap();
            Some(netns)
        }
        Err(error) => {
            assert!(std::env::var_os("CI").is_none(), "{test} needs root, and CI skips nothing: {error}");
            eprintln!("SKIPPED: {test} needs root for network namespaces: {error}");
            None
        }
    }
}

/// The first two numbers of this kernel's release.
fn kernel() -> (u32, u32) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split('.').map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap(), numbers.next().unwrap())
}

/// Tracks every flow of the calling thread's namespace, and sends what is dialled at [`DIALLED`] to these ports.
fn track(tcp: u16, udp: u16) {
    let rules = format!(
        "table inet test {{
           chain out {{
             type nat hook output priority -100
             ip daddr 127.0.0.1 tcp dport {DIALLED} dnat ip to 127.0.0.1:{tcp}
             ip6 daddr ::1 tcp dport {DIALLED} dnat ip6 to [::1]:{tcp}
             ip daddr 127.0.0.1 udp dport {DIALLED} dnat ip to 127.0.0.1:{udp}
             ip6 daddr ::1 udp dport {DIALLED} dnat ip6 to [::1]:{udp}
           }}
         }}"
    );
    nft(&rules);
    // There once a rule has had the kernel load its connection tracking.
    std::fs::write("/proc/sys/net/netfilter/nf_conntrack_acct", "1").unwrap();
}

/// From now on sends UDP to another server.
fn divert(server: SocketAddr) {
    let ip = if server.is_ipv4() { "ip" } else { "ip6" };
    nft(&format!(
        "insert rule inet test out {ip} daddr {} udp dport {DIALLED} dnat {ip} to {server}\n",
        server.ip()
    ));
}

fn nft(rules: &str) {
    let mut nft =
        Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().expect("nft (Debian: nftables)");
    nft.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
    assert!(nft.wait().unwrap().success());
}

/// Listeners and a client of each protocol, all of one family, that have talked.
struct Flows {
    address: IpAddr,
    udp: (UdpSocket, UdpSocket),
    tcp: (TcpStream, TcpStream),
}

impl Flows {
    fn start(udp: UdpSocket, tcp: &TcpListener) -> Flows {
        let address = udp.local_addr().unwrap().ip();
        let client = UdpSocket::bind((address, 0)).unwrap();
        client.connect((address, DIALLED)).unwrap();
        let stream = TcpStream::connect((address, DIALLED)).unwrap();
        let flows = Flows { address, udp: (client, udp), tcp: (stream, tcp.accept().unwrap().0) };
        for timed in [&flows.udp.0, &flows.udp.1] {
            timed.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        }
        flows.udp_echo();
        flows
    }

    fn udp_echo(&self) {
        let mut bytes = [0; 16];
        self.udp.0.send(b"ping").unwrap();
        let (length, from) = self.udp.1.recv_from(&mut bytes).unwrap();
        assert_eq!((&bytes[..length], from), (&b"ping"[..], self.udp.0.local_addr().unwrap()));
        self.udp.1.send_to(b"pong", from).unwrap();
        assert_eq!(self.udp.0.recv(&mut bytes).unwrap(), 4);
    }

    fn tcp_echo(&mut self) {
        let mut bytes = [0; 4];
        self.tcp.0.write_all(b"ping").unwrap();
        self.tcp.1.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"ping");
    }

    /// The filter that a plane would use: flows through a frontend to one backend.
    fn filter(&self, proto: u8, server: SocketAddr) -> Filter {
        Filter {
            proto: Some(proto),
            original: Side { dst: Some(self.address), dport: Some(DIALLED), ..Side::default() },
            reply: Side { src: Some(server.ip()), sport: Some(server.port()), ..Side::default() },
            status: Some(Masked::all(status::DST_NAT)),
            ..Filter::default()
        }
    }

    fn udp_filter(&self) -> Filter {
        self.filter(UDP, self.udp.1.local_addr().unwrap())
    }

    fn tcp_filter(&self) -> Filter {
        self.filter(TCP, self.tcp.1.local_addr().unwrap())
    }
}

/// A namespace with a UDP and a TCP flow of both families, and a socket to its conntrack.
fn with_flows(test: &str, work: impl FnOnce(Flows, Flows, Conntrack) + Send) {
    let Some(netns) = netns(test) else { return };
    netns
        .run(|| {
            // One number for both families, so that the rules stay short.
            let (tcp6, udp6) = (TcpListener::bind("[::1]:0").unwrap(), UdpSocket::bind("[::1]:0").unwrap());
            let (tcp, udp) = (tcp6.local_addr().unwrap().port(), udp6.local_addr().unwrap().port());
            let (tcp4, udp4) = (
                TcpListener::bind(("127.0.0.1", tcp)).unwrap(),
                UdpSocket::bind(("127.0.0.1", udp)).unwrap(),
            );
            track(tcp, udp);
            work(Flows::start(udp4, &tcp4), Flows::start(udp6, &tcp6), Conntrack::open().unwrap());
        })
        .unwrap();
}

#[test]
fn a_flow_is_told_with_all_its_parts() {
    with_flows("a flow is told", |v4, v6, mut conntrack| {
        for flows in [&v4, &v6] {
            let (client, server) = (flows.udp.0.local_addr().unwrap(), flows.udp.1.local_addr().unwrap());
            let [flow] = &conntrack.flows(&flows.udp_filter()).unwrap()[..] else { panic!("one flow") };
            let address = flows.address;
            assert_eq!(
                flow.original,
                Tuple { src: address, dst: address, proto: UDP, sport: client.port(), dport: DIALLED }
            );
            assert_eq!(
                flow.reply,
                Tuple { src: address, dst: address, proto: UDP, sport: server.port(), dport: client.port() }
            );
            assert_eq!(
                flow.status & (status::SEEN_REPLY | status::DST_NAT),
                status::SEEN_REPLY | status::DST_NAT
            );
            assert_eq!((flow.tcp, flow.mark, flow.zones), (None, 0, [0; 2]));
            assert!(flow.timeout.is_some_and(|s| s > 0 && s <= 180), "{:?}", flow.timeout);
            // IP header, UDP header and four bytes, each way.
            let bytes = if address.is_ipv4() { 32 } else { 52 };
            assert_eq!(flow.counters, Some([Counters { packets: 1, bytes }; 2]));

            let [flow] = &conntrack.flows(&flows.tcp_filter()).unwrap()[..] else { panic!("one flow") };
            assert_eq!(flow.tcp, Some(TcpState::Established));
            assert_ne!(flow.status & status::ASSURED, 0);
        }
        let all = conntrack.flows(&Filter::default()).unwrap();
        assert_eq!(all.len(), 4);
        assert_eq!(conntrack.usage().unwrap().entries, 4);
    });
}

#[test]
fn the_kernel_leaves_out_what_is_not_meant() {
    with_flows("a filter", |v4, v6, mut conntrack| {
        let udp4 = conntrack.flows(&v4.udp_filter()).unwrap().remove(0);
        assert!(conntrack.set_mark(&udp4, 0x10, 0xf0).unwrap());
        let v6_only = Filter { family: Some(Family::V6), ..Filter::default() };
        let marked = Filter { mark: Some(Masked { value: 0x10, mask: 0xf0 }), ..Filter::default() };
        let source =
            Side { src: Some(udp4.original.src), sport: Some(udp4.original.sport), ..Side::default() };
        // Without a family the kernel takes no tuple.
        let udp = Filter { proto: Some(UDP), ..Filter::default() };
        assert_eq!(conntrack.flows(&udp).unwrap().len(), 2);
        let client = Filter { proto: Some(UDP), original: source, ..Filter::default() };
        let address = Side { dst: Some(v6.address), ..Side::default() };
        let dialled = Filter { original: address, ..Filter::default() };
        let elsewhere = Side { dst: Some([127, 0, 0, 9].into()), ..Side::default() };
        let nowhere = Filter { original: elsewhere, ..Filter::default() };
        let tcp = Filter { family: Some(Family::V4), proto: Some(TCP), ..Filter::default() };
        let answered = Filter { reply: address, ..Filter::default() };
        let translated = Filter { status: Some(Masked::all(status::SRC_NAT)), ..Filter::default() };
        for (name, filter, count) in [
            ("family", v6_only, 2),
            ("mark", marked, 1),
            ("client", client, 1),
            ("destination", dialled, 2),
            ("another destination", nowhere, 0),
            ("protocol", tcp, 1),
            ("reply", answered, 2),
            ("status", translated, 0),
            ("frontend and backend", v6.tcp_filter(), 1),
        ] {
            // Told by the kernel before we look at it ourselves.
            let mut request = Request::new(SUBSYSTEM, GET, REQUEST | DUMP, filter.family().unwrap());
            filter.write(&mut request);
            let mut told = 0;
            conntrack.channel.ask(request, |_, _| told += 1).unwrap();
            assert_eq!(conntrack.flows(&filter).unwrap().len(), count, "{name}");
            if name == "status" && kernel() < (5, 15) {
                eprintln!(
                    "SKIPPED: the kernel leaves nothing out by status before 5.15, and this is {:?}",
                    kernel()
                );
                continue;
            }
            assert_eq!(told, count, "{name}");
        }
        let mixed = Filter { family: Some(Family::V4), ..v6.tcp_filter() };
        assert_eq!(conntrack.flows(&mixed).unwrap(), []);
    });
}

#[test]
fn exactly_one_entry_is_deleted_and_an_old_one_does_not_name_a_new_one() {
    with_flows("deleting", |v4, v6, mut conntrack| {
        for flows in [&v4, &v6] {
            let old = conntrack.flows(&flows.udp_filter()).unwrap().remove(0);
            assert!(conntrack.delete(&old).unwrap());
            assert!(!conntrack.delete(&old).unwrap(), "gone already");
            assert_eq!(conntrack.flows(&flows.udp_filter()).unwrap(), []);
            // The same tuple again, now to another backend; the kernel may give it the old id.
            let other = UdpSocket::bind((flows.address, 0)).unwrap();
            divert(other.local_addr().unwrap());
            flows.udp.0.send(b"ping").unwrap();
            other.recv_from(&mut [0; 4]).unwrap();
            let to_other = flows.filter(UDP, other.local_addr().unwrap());
            let new = conntrack.flows(&to_other).unwrap().remove(0);
            assert_eq!(new.original, old.original);
            assert!(!conntrack.delete(&old).unwrap(), "another's entry");
            assert!(!conntrack.set_mark(&old, 1, 1).unwrap());
            assert!(!conntrack.set_timeout(&old, 1).unwrap());
            let left = conntrack.flows(&to_other).unwrap();
            assert_eq!(left.iter().map(|f| (f.id, f.mark)).collect::<Vec<_>>(), [(new.id, 0)]);
            assert_eq!(conntrack.delete_all(&flows.tcp_filter()).unwrap(), 1);
        }
        assert_eq!(conntrack.flows(&Filter { proto: Some(TCP), ..Filter::default() }).unwrap(), []);
        assert_eq!(conntrack.flows(&Filter { proto: Some(UDP), ..Filter::default() }).unwrap().len(), 2);
    });
}

#[test]
fn marks_change_under_their_mask_and_the_time_left_is_set() {
    with_flows("marking", |mut v4, mut v6, mut conntrack| {
        for flows in [&mut v4, &mut v6] {
            let tcp = flows.tcp_filter();
            let flow = conntrack.flows(&tcp).unwrap().remove(0);
            for (mark, mask, after) in [(0xab00, 0xff00, 0xab00), (0x1, 0xf, 0xab01), (0x0, 0xf000, 0x0b01)] {
                assert!(conntrack.set_mark(&flow, mark, mask).unwrap());
                assert_eq!(conntrack.flows(&tcp).unwrap().remove(0).mark, after);
            }
            let wide = conntrack.set_mark(&flow, 0x10, 0xf).unwrap_err();
            assert_eq!(wide.to_string(), "mark 0x10 is wider than its mask 0xf");
            assert!(conntrack.set_timeout(&flow, 77).unwrap());
            let left = conntrack.flows(&tcp).unwrap().remove(0).timeout.unwrap();
            assert!(left <= 77, "{left}");
            flows.tcp_echo();
        }
    });
}

#[test]
fn icmp_is_named_exactly() {
    let Some(netns) = netns("ICMP") else { return };
    netns
        .run(|| {
            track(1, 1);
            let mut conntrack = Conntrack::open().unwrap();
            for address in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
                let address = address.to_string();
                let ping = Command::new("ping").args(["-c1", "-W5", &address]).stdout(Stdio::null()).status();
                let Ok(ping) = ping else {
                    assert!(std::env::var_os("CI").is_none(), "ping is missing (Debian: iputils-ping)");
                    return eprintln!("SKIPPED: ping is missing (Debian: iputils-ping)");
                };
                assert!(ping.success());
                let icmp = Filter { proto: Some(if address == "::1" { 58 } else { 1 }), ..Filter::default() };
                let flows = conntrack.flows(&icmp).unwrap();
                let [flow] = &flows[..] else { panic!("{flows:?}") };
                assert_eq!(flow.original.dport, if address == "::1" { 128 << 8 } else { 8 << 8 });
                assert!(conntrack.delete(flow).unwrap());
                assert_eq!(conntrack.flows(&icmp).unwrap(), []);
            }
        })
        .unwrap();
}

#[test]
fn more_flows_than_a_datagram_holds() {
    with_flows("many flows", |v4, _, mut conntrack| {
        let server = v4.udp.1.local_addr().unwrap();
        let before = conntrack.usage().unwrap().entries;
        for _ in 0..1_000 {
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            client.send_to(b"x", (v4.address, DIALLED)).unwrap();
            v4.udp.1.recv_from(&mut [0; 4]).unwrap();
        }
        let filter = v4.udp_filter();
        let mut ids: Vec<u32> = conntrack.flows(&filter).unwrap().iter().map(|f| f.id).collect();
        ids.sort_unstable();
        ids.dedup();
        // Ports are used again, so there may be a few less.
        let entries = usize::try_from(conntrack.usage().unwrap().entries - before).unwrap();
        assert!(entries > 900, "{entries}");
        assert_eq!(ids.len(), entries + 1, "to {server}");
        assert_eq!(conntrack.delete_all(&filter).unwrap(), entries + 1);
    });
}

/// A datagram of a real dump, IPv4 and IPv6, TCP and UDP, translated.
fn dumped() -> Option<Vec<u8>> {
    let mut datagram = None;
    with_flows("fuzzing of real dumps", |_v4, _v6, mut conntrack| {
        conntrack.flows(&Filter::default()).unwrap();
        // The last datagram is the end of the dump alone; so the request is made once more by hand.
        let mut request = Request::new(SUBSYSTEM, GET, REQUEST | DUMP, 0);
        conntrack.channel.socket.send(request.finish(u32::MAX), 0).unwrap();
        datagram = Some(conntrack.channel.socket.recv_from_full().unwrap().0);
    });
    datagram
}

#[test]
fn garbage_is_bounded_and_never_panics() {
    let Some(real) = dumped() else { return };
    assert_eq!(read_all(&real), 4);
    let seed = 0x0063_7466_u64;
    eprintln!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..50_000 {
        let mut bytes = real.clone();
        for _ in 0..random.random_range(1..8) {
            let at = random.random_range(0..bytes.len());
            match random.random_range(0..4) {
                0 => bytes[at] = random.random(),
                1 => bytes[at] ^= 1 << random.random_range(0..8),
                2 => bytes.truncate(at.max(1)),
                _ => drop(
                    bytes.splice(at..at, std::iter::repeat_n(random.random(), random.random_range(1..9))),
                ),
            }
        }
        read_all(&bytes);
    }
}

/// How many flows a datagram tells. Every message takes at least its header, every attribute its own.
fn read_all(bytes: &[u8]) -> usize {
    let mut flows = 0;
    for (count, message) in messages(bytes).enumerate() {
        assert!(count <= bytes.len() / 16, "more messages than fit");
        if let Ok((_, Answer::Data(_, attributes))) = message {
            assert!(attributes.count() <= bytes.len() / 4, "more attributes than fit");
            flows += usize::from(FlowEntry::read(attributes).is_some());
        }
    }
    flows
}

#[test]
fn a_request_always_names_its_flow() {
    let tuple = Tuple { src: [10, 0, 0, 1].into(), dst: [10, 0, 0, 2].into(), proto: 47, sport: 0, dport: 0 };
    let flow = FlowEntry {
        original: tuple,
        reply: tuple,
        status: 0,
        mark: 0,
        timeout: None,
        tcp: None,
        counters: None,
        id: 7,
        zones: [3, 3],
    };
    let mut request = Request::new(SUBSYSTEM, DELETE, REQUEST | ACK, flow.family());
    flow.write_key(&mut request);
    request.put_u32(CTA_ID, flow.id);
    let bytes = request.finish(9).to_vec();
    let read: Vec<_> = messages(&bytes).collect();
    let [Ok((9, Answer::Data(_, attributes)))] = read[..] else { panic!("{read:?}") };
    let kinds: Vec<u16> = attributes.map(|(kind, _)| kind).collect();
    // CTA_TUPLE_REPLY, CTA_ZONE, CTA_ID
    assert_eq!(kinds, [2, 18, 12]);
}
