//! With eBPF and answers that go straight to clients: by which way they come, and what becomes of connections.

use crate::setup::{Container, Plane, one_in_each, pinned, start, until_met};
use anyhow::ensure;
use mesh_integration::{BOUND, HostMesh, echo, lab::Capture, until, whoami_from, within};
use std::{
    collections::BTreeSet,
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
};

/// Answers in the name of a node's published ports, on all links of another.
fn answers(mesh: &HostMesh, node: u8, at: IpAddr) -> Capture {
    let filter = format!("src host {at} and (src port 8080 or src port 7070)");
    Capture::start(mesh.lab.node(node), &filter).unwrap()
}

/// A node does as it says a moment after it says it, and flows that begin before go the other way: waits until an outside
/// client's do as `seen` says.
async fn settled(mesh: &HostMesh, at: IpAddr, seen: [u8; 2]) {
    let captures = [1, 2, 3].map(|node| answers(mesh, node, at));
    let own = mesh.lab.client_address(0)[usize::from(at.is_ipv6())];
    until("answers go the way that nodes say", BOUND, || async {
        let mut flows = Vec::new();
        for _ in 0..6 {
            let met = mesh.lab.client.within(whoami_from(own, (at, 8080).into())).await??;
            flows.push((met.asked_from, met.instance));
        }
        // What was captured is told a little later.
        within(BOUND / 30, || async {
            for (client, instance) in &flows {
                let lines = captures[usize::from(place(seen, instance)) - 1].lines();
                let count = lines.iter().filter(|line| goes_to(line, own, client.port())).count();
                ensure!(count >= 2, "not those of {instance} to {client}");
            }
            anyhow::Ok(())
        })
        .await
    })
    .await;
}

/// The node that answers for an instance.
fn place(seen: [u8; 2], instance: &str) -> u8 {
    seen[usize::from(instance.ends_with("-2"))]
}

fn goes_to(line: &str, own: IpAddr, port: u16) -> bool {
    line.contains(&format!(" > {own}.{port}: "))
}

/// An outside client asks both instances through a node, by TCP and UDP. The answers of each are seen on the node that
/// `seen` says for it, those of every flow, and on no other.
async fn asked(mesh: &HostMesh, at: IpAddr, seen: [u8; 2]) {
    settled(mesh, at, seen).await;
    let captures = [1, 2, 3].map(|node| answers(mesh, node, at));
    let own = mesh.lab.client_address(0)[usize::from(at.is_ipv6())];
    // Each flow: its client's port, the instance that answered it, and how many answers the host sends itself. Those of an
    // open flow may leave by the driver, which no capture sees: of a connection the first and the last do not, of datagrams
    // the first.
    let mut flows = Vec::new();
    for _ in 0..6 {
        let met = mesh.lab.client.within(whoami_from(own, (at, 8080).into())).await.unwrap().unwrap();
        assert_eq!(met.client.ip(), own, "the backend sees its client");
        if met.client.port() != met.asked_from.port() {
            println!("{} was seen as {}", met.asked_from, met.client);
        }
        flows.push((met.asked_from.port(), met.instance, 2));
    }
    for _ in 0..6 {
        let socket = mesh.lab.client.inside(|| UdpSocket::bind((own, 0))).flatten().unwrap();
        socket.set_nonblocking(true).unwrap();
        let socket = tokio::net::UdpSocket::from_std(socket).unwrap();
        let mut instance = String::new();
        for word in ["first", "second"] {
            instance = echo(&socket, (at, 7070).into(), word).await.unwrap();
        }
        flows.push((socket.local_addr().unwrap().port(), instance, 1));
    }
    let names: BTreeSet<&str> = flows.iter().map(|(_, instance, _)| instance.as_str()).collect();
    assert_eq!(names, BTreeSet::from(["echo-1", "echo-2", "whoami-1", "whoami-2"]), "all were asked");
    let place = |instance: &str| place(seen, instance);
    // A client may take a port again that the connection before had.
    let wanted: BTreeSet<_> = flows.iter().map(|(port, instance, _)| (*port, place(instance))).collect();
    let told = |node: u8, port: &u16| {
        let lines = captures[usize::from(node) - 1].lines();
        lines.into_iter().filter(|line| goes_to(line, own, *port)).collect::<Vec<_>>()
    };
    // What was captured is told a little later.
    until("answers were seen where they are sent", BOUND, || async {
        for (port, instance, least) in &flows {
            let node = place(instance);
            let all = [1, 2, 3].map(|node| told(node, port));
            let count = all[usize::from(node) - 1].len();
            ensure!(count >= *least, "{instance} to port {port}: {count} answers on node {node}: {all:?}");
        }
        anyhow::Ok(())
    })
    .await;
    for (node, capture) in (1..).zip(&captures).filter(|(node, _)| !seen.contains(node)) {
        assert_eq!(capture.lines(), Vec::<String>::new(), "on node {node}");
    }
    for (port, _, _) in &flows {
        for node in (1..=3).filter(|node| !wanted.contains(&(*port, *node))) {
            assert_eq!(told(node, port), Vec::<String>::new(), "on node {node}, of {flows:?}");
        }
    }
}

async fn serve(mesh: &mut HostMesh, containers: &[Container]) {
    let text = String::from("services:\n")
        + &one_in_each(mesh, containers, "tcp", "8080:8000", 8000)
        + &one_in_each(mesh, containers, "udp", "7070:7000", 7000);
    mesh.write_service_file("both.yaml", &text).unwrap();
    for node in mesh.nodes() {
        until_met(mesh, (node.place.address, 8080).into(), &["whoami-1", "whoami-2"]).await;
        until("both echoes are known", BOUND, || async {
            let found = node.lookup("tasks.echo.cluster").await?;
            ensure!(found.len() == 2, "{found:?}");
            anyhow::Ok(())
        })
        .await;
    }
}

/// Waits until a node has heard of so many others that take flows as they come.
pub(crate) async fn knows_direct(mesh: &HostMesh, node: usize, wanted: &[&str]) {
    until("the nodes say what they take", BOUND, || async {
        let (_, list) = mesh.node(node).admin("/v1/nodes").await?;
        let all = list["nodes"].as_array().cloned().unwrap_or_default();
        let direct = all.iter().filter(|node| node["direct"] == true);
        let direct: BTreeSet<&str> = direct.filter_map(|node| node["name"].as_str()).collect();
        ensure!(direct.iter().eq(wanted), "{list}");
        anyhow::Ok(())
    })
    .await;
}

/// Through node 3, which has no instance, each of the others answers for its own; node 1 asked, it answers for its own
/// and node 2 for the other.
pub(crate) async fn answers_pass_the_ingress_node_by(plane: &Plane) {
    let (mut mesh, containers) = start(plane).await;
    serve(&mut mesh, &containers).await;
    for node in 1..=3 {
        knows_direct(&mesh, node, &["node-1", "node-2", "node-3"]).await;
    }
    for address in mesh.lab.address(3) {
        asked(&mesh, address, [1, 2]).await;
    }
    for address in mesh.lab.address(1) {
        asked(&mesh, address, [1, 2]).await;
    }
}

/// Node 2 has another data plane: its answers go back through whoever asks it, those of the other do not.
pub(crate) async fn answers_of_others_come_back_through_the_ingress_node(plane: &Plane) {
    let (mut mesh, containers) = start(plane).await;
    serve(&mut mesh, &containers).await;
    for node in 1..=3 {
        knows_direct(&mesh, node, &["node-1", "node-3"]).await;
    }
    for address in mesh.lab.address(3) {
        asked(&mesh, address, [1, 3]).await;
    }
    for address in mesh.lab.address(2) {
        asked(&mesh, address, [2, 2]).await;
    }
}

/// Sends a word both ways.
pub(crate) fn exchange(client: &mut TcpStream, server: &mut TcpStream, word: &[u8]) {
    let mut came = vec![0; word.len()];
    client.write_all(word).unwrap();
    server.read_exact(&mut came).unwrap();
    assert_eq!(came, word);
    server.write_all(word).unwrap();
    client.read_exact(&mut came).unwrap();
    assert_eq!(came, word);
}

/// Reads, sending, until the connection is reset.
pub(crate) fn is_reset(stream: &mut TcpStream) -> bool {
    let mut byte = [0];
    for _ in 0..50 {
        match stream.write_all(b"x").and_then(|()| stream.read(&mut byte)) {
            Err(e) if matches!(e.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => return true,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            // What the other side sent before.
            Ok(1..) => {}
            other => panic!("{other:?}"),
        }
    }
    false
}

/// A connection through node 3 to an instance on node 2 stays while others come and go and agents die, and ends on both
/// sides when its instance is withdrawn.
pub(crate) async fn a_connection_outlives_changes_and_is_reset_on_both_sides(plane: &Plane) {
    let (mut mesh, containers) = start(plane).await;
    for node in 1..=3 {
        knows_direct(&mesh, node, &["node-1", "node-2", "node-3"]).await;
    }
    let listener =
        containers[1].host.inside(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, 8100))).flatten().unwrap();
    let own = format!("{}}}", containers[1].endpoint("mine"));
    let file = |endpoints: &str| {
        format!(
            "services: {{kept: {{ports: [\"8100:8100\"], x-mesh: {{drain: 0s, endpoints: [{endpoints}]}}}}}}\n"
        )
    };
    mesh.write_service_file("kept.yaml", &file(&own)).unwrap();
    for (n, address) in mesh.lab.address(3).into_iter().enumerate() {
        let at: SocketAddr = (address, 8100).into();
        let client = until("it is served", BOUND, || async {
            Ok::<_, anyhow::Error>(
                mesh.lab.client.inside(|| TcpStream::connect_timeout(&at, BOUND)).flatten()?,
            )
        });
        let mut client = client.await;
        let (mut server, _) = listener.accept().unwrap();
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(BOUND)).unwrap();
        }
        exchange(&mut client, &mut server, b"first");
        // Others come and take new flows, too.
        for round in 0..5 {
            let other =
                format!("{own}, {}, ports: {{8100: {}}}}}", containers[0].endpoint("other"), 8200 + round);
            for text in [file(&other), file(&own)] {
                mesh.write_service_file("kept.yaml", &text).unwrap();
                let count = if text.contains("other") { 2 } else { 1 };
                let node = mesh.node(3);
                until("the change is there", BOUND, || async {
                    let (_, list) = node.admin("/v1/endpoints?service=kept").await?;
                    let there = list["endpoints"].as_array().map_or(0, Vec::len);
                    ensure!(there == count, "{list}");
                    anyhow::Ok(())
                })
                .await;
                exchange(&mut client, &mut server, b"changed");
            }
        }
        if n == 0 {
            for i in [2, 3] {
                mesh.crash(i).await.unwrap();
                exchange(&mut client, &mut server, b"nobody at home");
                mesh.start_agent(i).unwrap();
            }
            mesh.until_ready().await;
            for node in 1..=3 {
                knows_direct(&mesh, node, &["node-1", "node-2", "node-3"]).await;
            }
            exchange(&mut client, &mut server, b"home again");
        }
        mesh.write_service_file("kept.yaml", "services: {}\n").unwrap();
        for stream in [&mut client, &mut server] {
            stream.set_read_timeout(Some(BOUND / 20)).unwrap();
        }
        assert!(is_reset(&mut client), "the client");
        assert!(is_reset(&mut server), "the backend");
        mesh.write_service_file("kept.yaml", &file(&own)).unwrap();
    }
}

/// The setting is changed on one node after the other and back: a connection that began before stays, and new ones go the
/// new way as soon as both nodes say so. Of what is pinned nothing is made anew.
pub(crate) async fn the_setting_changes_and_parts_no_connection(plane: &Plane) {
    let (mut mesh, containers) = start(plane).await;
    serve(&mut mesh, &containers).await;
    let listener =
        containers[1].host.inside(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, 8100))).flatten().unwrap();
    let own = containers[1].endpoint("mine");
    let text = format!("services: {{kept: {{ports: [\"8100:8100\"], x-mesh: {{endpoints: [{own}}}]}}}}}}\n");
    mesh.write_service_file("kept.yaml", &text).unwrap();
    let pins = pinned(&mesh);
    let mut streams = Vec::new();
    let all = ["node-1", "node-2", "node-3"];
    for (from, to, says) in
        [("ebpf: {", "ebpf: {return: direct, ", true), ("return: direct", "return: ingress", false)]
    {
        for address in mesh.lab.address(3) {
            let at: SocketAddr = (address, 8100).into();
            let client = until("it is served", BOUND, || async {
                let stream = mesh.lab.client.inside(|| TcpStream::connect_timeout(&at, BOUND));
                anyhow::Ok(stream.flatten()?)
            })
            .await;
            let (server, _) = listener.accept().unwrap();
            for stream in [&client, &server] {
                stream.set_read_timeout(Some(BOUND)).unwrap();
            }
            streams.push((client, server));
        }
        let mut told = Vec::new();
        for i in 1..=3 {
            let config = mesh.node(i).place.config.clone();
            let text = std::fs::read_to_string(&config).unwrap();
            assert!(text.contains(from), "{text}");
            std::fs::write(&config, text.replace(from, to)).unwrap();
            mesh.crash(i).await.unwrap();
            mesh.start_agent(i).unwrap();
            mesh.until_ready().await;
            told.push(all[i - 1]);
            let wanted: Vec<&str> = all.iter().copied().filter(|name| told.contains(name) == says).collect();
            for node in 1..=3 {
                knows_direct(&mesh, node, &wanted).await;
            }
            for (client, server) in &mut streams {
                exchange(client, server, b"changed");
            }
        }
        let address = mesh.lab.address(3)[0];
        asked(&mesh, address, if says { [1, 2] } else { [3, 3] }).await;
    }
    assert_eq!(pinned(&mesh), pins);
}
