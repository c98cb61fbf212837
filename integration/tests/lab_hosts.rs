//! The lab itself: its hosts reach each other as real ones do, and nothing of it outlives a test, however that ends.
#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test fails the test by panicking, as the test itself does"
)]

use mesh_integration::{
    BOUND,
    lab::{self, Host, Lab, Process},
    until,
};
use std::{
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener},
    panic::{AssertUnwindSafe, catch_unwind},
    thread,
    time::Duration,
};

const PORT: u16 = 8000;

/// Tells every client the address that it sees of it, until the lab goes.
fn tell_addresses(host: &Host) {
    let listener = host.inside(|| TcpListener::bind("[::]:8000")).flatten().unwrap();
    thread::spawn(move || {
        while let Ok((mut stream, client)) = listener.accept() {
            drop(stream.write_all(client.ip().to_canonical().to_string().as_bytes()));
        }
    });
}

/// What `to` sees of a client of `host` with the address `from`, which waits so long for the connection.
fn seen_within(patience: Duration, host: &Host, from: IpAddr, to: IpAddr) -> io::Result<IpAddr> {
    let connect = || {
        let from = SocketAddr::new(from, 0);
        let socket = socket2::Socket::new(socket2::Domain::for_address(from), socket2::Type::STREAM, None)?;
        socket.bind(&from.into())?;
        socket.connect_timeout(&SocketAddr::new(to, PORT).into(), patience)?;
        io::Result::Ok(std::net::TcpStream::from(socket))
    };
    let mut answer = String::new();
    host.inside(connect).flatten()?.read_to_string(&mut answer)?;
    answer.parse().map_err(io::Error::other)
}

fn seen(host: &Host, from: IpAddr, to: IpAddr) -> io::Result<IpAddr> {
    seen_within(BOUND, host, from, to)
}

/// Two nodes, a container on each; their networks are routed by hand.
fn routed() -> (Lab, [Host; 2], [[IpAddr; 2]; 2]) {
    let mut lab = Lab::of(2).unwrap();
    let own = |i: u8| [format!("10.244.{i}.5/24"), format!("fd44:{i}::5/64")].map(|a| a.parse().unwrap());
    let containers = [1, 2].map(|i| lab.container(i, &own(i)).unwrap());
    for family in 0..2 {
        for i in [1, 2] {
            let network: ipnetwork::IpNetwork = own(i)[family];
            let network = ipnetwork::IpNetwork::new(network.network(), network.prefix()).unwrap();
            lab.node(3 - i).route(network, lab.address(i)[family]).unwrap();
            lab.client.route(network, lab.address(1)[family]).unwrap();
        }
    }
    let addresses = [1, 2].map(|i| own(i).map(|a: ipnetwork::IpNetwork| a.ip()));
    (lab, containers, addresses)
}

#[test]
fn containers_and_clients_reach_each_other_with_their_own_addresses() {
    if !lab::possible() {
        return;
    }
    let (lab, containers, addresses) = routed();
    containers.iter().for_each(tell_addresses);
    for (family, (one, two)) in std::iter::zip(addresses[0], addresses[1]).enumerate() {
        assert_eq!(seen(&containers[0], one, two).unwrap(), one);
        assert_eq!(seen(&containers[1], two, one).unwrap(), two);
        for i in [0, 9] {
            let own = lab.client_address(i)[family];
            assert_eq!(seen(&lab.client, own, one).unwrap(), own);
            // By way of node 1, which the client takes for the router of all containers.
            assert_eq!(seen(&lab.client, own, two).unwrap(), own);
        }
        assert_eq!(seen(lab.node(2), lab.address(2)[family], one).unwrap(), lab.address(2)[family]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pulled_cable_cuts_a_node_off_and_the_way_back_is_open() {
    if !lab::possible() {
        return;
    }
    let (lab, containers, addresses) = routed();
    tell_addresses(&containers[0]);
    let to = addresses[0][0];
    let reach = || {
        let own = lab.client_address(0)[0];
        let client = lab.client.clone();
        async move { tokio::task::spawn_blocking(move || seen(&client, own, to)).await.unwrap() }
    };
    reach().await.unwrap();
    lab.plug(1, false).unwrap();
    let brief = Duration::from_millis(300);
    assert!(seen_within(brief, &lab.client, lab.client_address(1)[0], to).is_err(), "the cable is pulled");
    lab.plug(1, true).unwrap();
    until("the container is reached again", BOUND, reach).await;
}

/// A host outside of the lab that sees a node go: its cable goes with it.
fn witness(lab: &Lab) -> Host {
    let witness = Host::new("witness").unwrap();
    witness.bridge("seen", &[]).unwrap();
    witness.cable("seen", "node", lab.node(1), "witness").unwrap();
    assert!(witness.has_link("node"));
    witness
}

async fn until_gone(witness: &Host, process: u32) {
    until("namespaces and processes are gone", BOUND, || async {
        let lives = std::path::Path::new(&format!("/proc/{process}")).exists();
        anyhow::ensure!(!lives, "process {process} lives");
        anyhow::ensure!(!witness.has_link("node"), "the node's namespace is there");
        anyhow::Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_outlives_a_lab() {
    if !lab::possible() {
        return;
    }
    let lab = Lab::of(1).unwrap();
    let witness = witness(&lab);
    let process = Process::start(lab.node(1), "sleep", &["600"]).unwrap();
    let id = process.id();
    drop(lab);
    assert!(witness.has_link("node"), "a process keeps its namespace");
    drop(process);
    until_gone(&witness, id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_outlives_a_panic() {
    if !lab::possible() {
        return;
    }
    let mut left = None;
    let ended = catch_unwind(AssertUnwindSafe(|| {
        let mut lab = Lab::of(1).unwrap();
        let node = lab.node(1).clone();
        lab.hosts.capture(&node, "icmp").unwrap();
        let process = Process::start(&node, "sleep", &["600"]).unwrap();
        left = Some((witness(&lab), process.id()));
        panic!("as a test that fails");
    }));
    assert!(ended.is_err());
    let (witness, id) = left.unwrap();
    until_gone(&witness, id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_test_tells_addresses_rules_flows_and_packets() {
    if !lab::possible() {
        return;
    }
    let (mut lab, containers, addresses) = routed();
    tell_addresses(&containers[0]);
    let node = lab.node(1).clone();
    // Connections are tracked where a rule looks at them.
    let rules = "add table ip told; add chain ip told c { type filter hook forward priority 0; ct state new counter; }";
    let set = node.output("nft", &[rules]).unwrap();
    assert!(set.status.success(), "{set:?}");
    lab.hosts.capture(&node, "tcp port 8000").unwrap();
    seen(&lab.client, lab.client_address(3)[0], addresses[0][0]).unwrap();
    until("all is told", BOUND, || async {
        let told = lab.hosts.describe();
        for part in [
            "--- node-1: ip -brief address",
            "192.0.2.1/24",
            "--- node-1-c1: ip -4 route",
            "default via 10.244.1.1",
            "table ip told",
            "--- node-1: conntrack",
            "src=192.0.2.203 dst=10.244.1.5",
            "--- node-1: packets",
            "> 10.244.1.5.8000: Flags [S]",
        ] {
            anyhow::ensure!(told.contains(part), "no {part:?} in {told}");
        }
        anyhow::Ok(())
    })
    .await;
}
