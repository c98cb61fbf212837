//! What an earlier run left: of another version, or of a change that was cut short. In namespaces, with real flows.

use super::{
    NftablesPlane,
    ids::{SetId, TABLE},
    realize::socket,
    sets::{chains, set},
};
use crate::{
    dataplane::{
        netfilter::{
            NetfilterConfig,
            base::Outline,
            elements::backend_id,
            flows::{Cut, is_back},
            layout::Layout,
            names::{DROP, REJECT},
            note,
        },
        plane::DataPlane,
    },
    plan::{Backend, BackendId, BackendState, Entry, Frontend, FrontendKey, Listen, Op, Table},
    sys::{
        conntrack::{Conntrack, Filter, Masked, status},
        link::set_up,
        netns::Netns,
        nft::{Data, Element, Expr, Holds, Kind, Nft, Set, Transaction, concat, reg},
    },
};
use mesh_control::model::{Affinity, Family, Name, PortRange, Protocol, Scheduler};
use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::Arc,
};

const VIP: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(127, 96, 0, 1)), 80);

fn namespace() -> Option<Netns> {
    match Netns::new() {
        Ok(netns) => {
            set_up(&netns, "lo", true).unwrap();
            Some(netns)
        }
        Err(error) => {
            assert!(std::env::var_os("CI").is_none(), "this needs root, and CI skips nothing: {error}");
            eprintln!("SKIPPED: planes of the kernel need root for network namespaces");
            None
        }
    }
}

fn plane() -> NftablesPlane {
    let config = NetfilterConfig {
        node: Name::new("here").unwrap(),
        vip_cidrs: vec!["127.96.0.0/16".parse().unwrap()],
        overlay: Vec::new(),
        bridge: None,
    };
    NftablesPlane::start(config).unwrap()
}

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
}

fn entry(protocol: Protocol, to: SocketAddr) -> Entry {
    let name = |text| Name::new(text).unwrap();
    let key = FrontendKey {
        listen: Listen::Vip(VIP.ip()),
        ports: PortRange::single(VIP.port()).unwrap(),
        protocol,
    };
    let frontend = Frontend::plain(key);
    let backend = |instance, state, port| Backend {
        id: BackendId { instance: name(instance), node: name("here") },
        address: to.ip(),
        port,
        weight: 100,
        state,
    };
    let backends = [backend("a", BackendState::Active, to.port()), backend("b", BackendState::Down, 9)];
    Entry { frontend: Arc::new(frontend), backends: Arc::from(backends) }
}

/// The tables of version 1, as far as these entries need them: services named their chains themselves, and all chains
/// shared one map of slots.
fn lay_version_1(nft: &mut Nft, table: &Table) {
    let layout = Layout::of(Family::V4, TABLE);
    let key: &[Kind] = &[Kind::Ipv4, Kind::Protocol, Kind::Port];
    let numbered: &[Kind] = &[Kind::Ipv4, Kind::Protocol, Kind::Port, Kind::Mark];
    let mut batch = Transaction::new();
    batch.add_table(&layout.table);
    let (to, idle) = (Holds::Data(&[Kind::Ipv4, Kind::Port]), set(&layout, SetId::Idle));
    for set in [Set::new("services", key, Holds::Verdicts), Set::new("slots", numbered, to), idle] {
        batch.add_set(&layout.table, &set);
    }
    let outline = Outline { vip_cidrs: Vec::new(), bridge: None };
    let output = chains(&layout, &outline).into_iter().find(|base| base.name == "output").unwrap();
    batch.add_chain(&layout.table, output.name, output.hook.as_ref());
    let mut pick = layout.load_key(false).to_vec();
    pick.extend([Expr::immediate(reg(3), &[0; 4]), Expr::map(reg(0), reg(5), "slots")]);
    pick.push(Expr::dnat(libc::NFPROTO_IPV4, reg(5), reg(6)));
    for (name, rule) in [("next1.0", pick), (REJECT, Vec::new()), (DROP, Vec::new())] {
        batch.add_chain(&layout.table, name, None);
        if !rule.is_empty() {
            batch.add_rule(&layout.table, name, &rule, "pick (mesh-agent 1)");
        }
    }
    let mut lead = layout.load_key(false).to_vec();
    lead.push(Expr::map(reg(0), 0, "services"));
    batch.add_rule(&layout.table, "output", &lead, "VIPs (mesh-agent 1)");
    for (key, entry) in table {
        let (active, down) = (&entry.backends[0], &entry.backends[1]);
        let base = layout.key(Some(VIP.ip()), key.protocol, VIP.port());
        let plain = |key, data, note| Element { key, data, note, ..Element::default() };
        let service = Some(Data::Goto("next1.0".into()));
        let elements = [
            ("services", plain(base.clone(), service, note::of_frontend(&entry.frontend))),
            (
                "slots",
                plain(
                    concat(&[&base, &[0; 4]]),
                    Some(Data::Bytes(socket(active, 0))),
                    note::of_backend(active),
                ),
            ),
            ("idle", plain(concat(&[&base, &backend_id(down)]), None, note::of_backend(down))),
        ];
        for (set, element) in &elements {
            batch.add_elements(&layout.table, set, std::iter::once(element));
        }
    }
    nft.commit(batch).unwrap();
}

fn echo(stream: &mut TcpStream, other: &mut TcpStream) {
    stream.write_all(b"x").unwrap();
    other.read_exact(&mut [0]).unwrap();
}

#[test]
fn another_versions_tables_are_laid_anew_and_flows_go_on() {
    let Some(netns) = namespace() else { return };
    netns
        .run(|| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let echoer = UdpSocket::bind("127.0.0.1:0").unwrap();
            let entries = [
                entry(Protocol::Tcp, listener.local_addr().unwrap()),
                entry(Protocol::Udp, echoer.local_addr().unwrap()),
            ];
            let table: Table = entries.into_iter().map(|entry| (entry.frontend.key, entry)).collect();
            let mut nft = Nft::open().unwrap();
            lay_version_1(&mut nft, &table);
            let mut stream = TcpStream::connect(VIP).unwrap();
            let mut accepted = listener.accept().unwrap().0;
            echo(&mut stream, &mut accepted);
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            client.send_to(b"x", VIP).unwrap();
            echoer.recv(&mut [0]).unwrap();
            let translated = Filter { status: Some(Masked::all(status::DST_NAT)), ..Filter::default() };
            let flows = || {
                let flows = Conntrack::open().unwrap().flows(&translated).unwrap();
                flows.into_iter().map(|flow| flow.id).collect::<std::collections::BTreeSet<_>>()
            };
            let before = flows();
            assert_eq!(before.len(), 2);

            let mut plane = plane();
            assert_eq!(run(plane.observe()).unwrap(), table, "frontends and backends of version 1");
            let layout = Layout::of(Family::V4, TABLE);
            let sets = nft.sets(&layout.table).unwrap();
            assert!(sets.contains(&"shapes".into()) && !sets.contains(&"slots".into()), "{sets:?}");
            assert_eq!(flows(), before, "no flow was ended");
            echo(&mut stream, &mut accepted);
            let mut another = TcpStream::connect(VIP).unwrap();
            echo(&mut another, &mut listener.accept().unwrap().0);
            let mut again = self::plane();
            assert_eq!(run(again.observe()).unwrap(), table);
            assert_eq!(nft.sets(&layout.table).unwrap(), sets, "and nothing had to be done any more");
        })
        .unwrap();
}

#[test]
fn what_a_change_left_half_way_goes_with_the_next() {
    let Some(netns) = namespace() else { return };
    netns
        .run(|| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let held = entry(Protocol::Tcp, listener.local_addr().unwrap());
            let key = held.frontend.key;
            let mut ops = vec![Op::PutFrontend(Arc::clone(&held.frontend))];
            let put = |backend: &Backend| Op::PutBackend { frontend: key, backend: backend.clone() };
            ops.extend(held.backends.iter().map(put));
            let mut plane = plane();
            assert!(run(plane.apply(&ops)).failed.is_empty());
            let layout = Layout::of(Family::V4, TABLE);
            let mut nft = Nft::open().unwrap();
            let look =
                |nft: &mut Nft| (nft.sets(&layout.table).unwrap(), nft.comments(&layout.table).unwrap());
            let clean = look(&mut nft);

            // As after a change from 9 slots to 1, without its second transaction.
            let shape = super::shape::Target::parse("next9.3").unwrap();
            let slots = SetId::Slots(shape.shape().unwrap());
            let mut batch = Transaction::new();
            batch.add_set(&layout.table, &set(&layout, slots));
            batch.add_chain(&layout.table, "next9.3", None);
            let ways = [super::write::way(shape)];
            batch.add_elements(&layout.table, "shapes", ways.iter());
            let old = &held.backends[1];
            let element = Element {
                key: concat(&[&layout.key(Some(VIP.ip()), Protocol::Tcp, VIP.port()), &[0; 4]]),
                data: Some(Data::Bytes(socket(old, 0))),
                note: note::of_active(old),
                ..Element::default()
            };
            batch.add_elements(&layout.table, &slots.to_string(), [&element].into_iter());
            nft.commit(batch).unwrap();
            assert_ne!(look(&mut nft), clean);

            let mut next = self::plane();
            let table = run(next.observe()).unwrap();
            assert_eq!(table.values().collect::<Vec<_>>(), [&held], "what is left means nothing");
            let mut moved = held.backends[1].clone();
            moved.port += 1;
            assert!(run(next.apply(&[put(&moved)])).failed.is_empty());
            assert_eq!(look(&mut nft), clean);
            TcpStream::connect(VIP).unwrap();
        })
        .unwrap();
}

fn put(plane: &mut NftablesPlane, entry: &Entry) {
    let mut ops = vec![Op::PutFrontend(Arc::clone(&entry.frontend))];
    let frontend = entry.frontend.key;
    ops.extend(entry.backends.iter().map(|backend| Op::PutBackend { frontend, backend: backend.clone() }));
    let report = run(plane.apply(&ops));
    assert!(report.failed.is_empty(), "{:?}", report.failed);
}

#[test]
fn an_idle_flow_is_forgotten_after_its_services_timeout() {
    let Some(netns) = namespace() else { return };
    netns
        .run(|| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let echoer = UdpSocket::bind("127.0.0.1:0").unwrap();
            let mut tcp = entry(Protocol::Tcp, listener.local_addr().unwrap());
            let mut udp = entry(Protocol::Udp, echoer.local_addr().unwrap());
            let mut plane = plane();
            let left = |proto: u8| {
                let filter = Filter { proto: Some(proto), ..Filter::default() };
                let flows = Conntrack::open().unwrap().flows(&filter).unwrap();
                let newest = flows.iter().filter(|flow| flow.original.dport == VIP.port());
                newest.filter_map(|flow| flow.timeout).max().expect("a flow")
            };
            let with = |entry: &mut Entry, ms: Option<u64>| {
                let idle_timeout = ms.map(std::time::Duration::from_millis);
                entry.frontend = Arc::new(Frontend { idle_timeout, ..(*entry.frontend).clone() });
            };
            for (ms, seconds) in [(76_001, 77), (900_000, 900)] {
                with(&mut tcp, Some(ms));
                with(&mut udp, Some(ms));
                put(&mut plane, &tcp);
                put(&mut plane, &udp);
                let mut stream = TcpStream::connect(VIP).unwrap();
                let mut accepted = listener.accept().unwrap().0;
                echo(&mut stream, &mut accepted);
                // The answer is acknowledged, and the kernel knows of nothing that could be under way.
                echo(&mut accepted, &mut stream);
                let client = UdpSocket::bind("127.0.0.1:0").unwrap();
                client.send_to(b"x", VIP).unwrap();
                let (_, from) = echoer.recv_from(&mut [0]).unwrap();
                assert!((seconds - 20..=seconds).contains(&left(17)), "{} unanswered", left(17));
                echoer.send_to(b"x", from).unwrap();
                assert!((seconds - 20..=seconds).contains(&left(17)), "{} answered", left(17));
                let patient = std::time::Instant::now() + std::time::Duration::from_secs(20);
                while !(seconds - 20..=seconds).contains(&left(6)) {
                    assert!(std::time::Instant::now() < patient, "{} of TCP, not {seconds}", left(6));
                    std::thread::yield_now();
                }
                for flow in Conntrack::open().unwrap().flows(&Filter::default()).unwrap() {
                    Conntrack::open().unwrap().delete(&flow).unwrap();
                }
            }
            let table: Table = [&tcp, &udp].map(|e| (e.frontend.key, e.clone())).into_iter().collect();
            assert_eq!(run(self::plane().observe()).unwrap(), table);
            with(&mut tcp, None);
            with(&mut udp, None);
            put(&mut plane, &tcp);
            put(&mut plane, &udp);
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            client.send_to(b"x", VIP).unwrap();
            echoer.recv(&mut [0]).unwrap();
            assert!(left(17) <= 30, "the kernel's own: {}", left(17));
        })
        .unwrap();
}

#[test]
fn a_client_that_the_kernel_has_no_room_to_remember_is_served() {
    let Some(netns) = namespace() else { return };
    netns
        .run(|| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let mut sticky = entry(Protocol::Tcp, listener.local_addr().unwrap());
            let affinity = Some(Affinity { timeout: std::time::Duration::from_secs(600) });
            sticky.frontend = Arc::new(Frontend { affinity, ..(*sticky.frontend).clone() });
            let mut plane = plane();
            put(&mut plane, &sticky);
            let of = |n: u32| Element {
                key: concat(&[&[9; 8], &n.to_be_bytes()]),
                data: Some(Data::Bytes(vec![9; 8])),
                ..Element::default()
            };
            let (layout, clients) = (Layout::of(Family::V4, TABLE), (0..65_535).map(of).collect::<Vec<_>>());
            let mut nft = Nft::open().unwrap();
            let mut fill = |clients: &[Element]| {
                let mut batch = Transaction::new();
                batch.add_elements(&layout.table, "affinity", clients.iter());
                nft.commit(batch)
            };
            fill(&clients).unwrap();
            fill(&[of(65_535)]).expect_err("the set is full");
            let mut stream = TcpStream::connect(VIP).unwrap();
            echo(&mut stream, &mut listener.accept().unwrap().0);
        })
        .unwrap();
}

#[test]
fn a_backend_that_is_back_at_its_place_keeps_its_flows() {
    let held = entry(Protocol::Tcp, VIP);
    let cut = |backend: &Backend| Cut {
        frontend: held.frontend.key,
        service: held.frontend.service.clone(),
        backend: Some(backend.clone()),
    };
    let table: Table = [(held.frontend.key, held.clone())].into_iter().collect();
    let there = &held.backends[0];
    assert!(is_back(&table, &cut(there)));
    assert!(!is_back(&table, &cut(&Backend { port: 1, ..there.clone() })), "it moved");
    assert!(!is_back(&Table::new(), &cut(there)), "all is gone");
}

/// What people look at must be printable: `nft` knows fewer rules than the kernel. Chains with affinity or a limit are not: see
/// docs/dataplane.md.
#[test]
fn nft_lists_plain_chains() {
    let Some(netns) = namespace() else { return };
    netns
        .run(|| {
            let mut plane = plane();
            let to = SocketAddr::new(VIP.ip(), 7000);
            let mut port = 1000;
            let mut ops = Vec::new();
            for scheduler in [Scheduler::Rr, Scheduler::Random, Scheduler::Maglev] {
                for listen in [Listen::Vip(VIP.ip()), Listen::AnyLocal(Family::V4)] {
                    let Entry { frontend, backends } = entry(Protocol::Tcp, to);
                    let mut frontend = Frontend::clone(&frontend);
                    port += 1;
                    frontend.key.ports = PortRange::single(port).unwrap();
                    (frontend.key.listen, frontend.scheduler) = (listen, scheduler);
                    frontend.allow = vec!["127.0.0.0/8".parse().unwrap()];
                    let key = frontend.key;
                    ops.push(Op::PutFrontend(Arc::new(frontend)));
                    ops.extend(backends.iter().map(|b| Op::PutBackend { frontend: key, backend: b.clone() }));
                }
            }
            let report = run(plane.apply(&ops));
            assert!(report.failed.is_empty(), "{:?}", report.failed);
            let listed = match std::process::Command::new("nft").args(["list", "ruleset"]).output() {
                Ok(listed) => listed,
                Err(error) => {
                    assert!(std::env::var_os("CI").is_none(), "nft is needed here: {error}");
                    return eprintln!("SKIPPED: no nft: {error}");
                }
            };
            let text = String::from_utf8_lossy(&listed.stdout);
            assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
            assert!(text.contains("chain next1") && text.contains("vmap @shapes-local"), "{text}");
        })
        .unwrap();
}
