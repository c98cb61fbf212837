//! With IPVS and packets to VIPs that go to the backends' nodes as they are: who answers, and what becomes of connections.

use crate::direct::{exchange, is_reset};
use crate::setup::{Container, Plane, ip, one_in_each, shell, start};
use anyhow::{Context, ensure};
use mesh_agent::sys::conntrack::{Conntrack, Filter, Side, TcpState};
use mesh_integration::{
    BOUND, HostMesh, echo,
    lab::{Capture, Host},
    until, whoami_from, within,
};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    io::ErrorKind,
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
};

/// The networks of VIPs, as the planes of `setup` have them.
const VIPS: [&str; 2] = ["10.96.0.0/16", "fd96::/112"];

/// The VIPs of a service with so many ready instances, IPv4 first, once a node has laid them.
async fn vips(mesh: &HostMesh, node: usize, service: &str, ready: u64) -> [IpAddr; 2] {
    until(&format!("node {node} serves {service}"), BOUND, || async {
        let (_, list) = mesh.node(node).admin("/v1/services").await?;
        let (_, plan) = mesh.node(node).admin("/v1/plan").await?;
        ensure!(plan["operations"].as_array().is_some_and(Vec::is_empty), "{plan}");
        let all = list["services"].as_array().context("services")?;
        let found = all.iter().find(|s| s["name"] == service).with_context(|| list.to_string())?;
        ensure!(found["endpoints_ready"] == ready, "{found}");
        let vips = found["vips"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let mut vips = vips.map(str::parse).collect::<Result<Vec<IpAddr>, _>>()?;
        vips.sort();
        vips.try_into().map_err(|vips| anyhow::anyhow!("{vips:?}"))
    })
    .await
}

/// Leads the outside client to VIPs through a node.
fn lead(mesh: &HostMesh, node: u8) {
    for (network, gateway) in VIPS.iter().zip(mesh.lab.address(node)) {
        ip(&mesh.lab.client, &format!("route replace {network} via {gateway}"));
    }
}

/// A service of both protocols on nodes 1 and 2, and a client led to it through node 3.
async fn served(plane: &Plane) -> (HostMesh, Vec<Container>, [[IpAddr; 2]; 2]) {
    let (mut mesh, containers) = start(plane).await;
    let text = String::from("services:\n")
        + &one_in_each(&mut mesh, &containers, "tcp", "8080:8000", 8000)
        + &one_in_each(&mut mesh, &containers, "udp", "7070:7000", 7000);
    mesh.write_service_file("both.yaml", &text).unwrap();
    let mut all = Vec::new();
    for node in 1..=3 {
        all.push([vips(&mesh, node, "whoami", 2).await, vips(&mesh, node, "echo", 2).await]);
    }
    assert!(all[0] == all[1] && all[1] == all[2], "the same on every node");
    lead(&mesh, 3);
    (mesh, containers, all[0])
}

/// A socket of the client, which goes to nobody yet.
fn datagrams(mesh: &HostMesh, own: IpAddr) -> tokio::net::UdpSocket {
    let socket = mesh.lab.client.inside(|| UdpSocket::bind((own, 0))).flatten().unwrap();
    socket.set_nonblocking(true).unwrap();
    tokio::net::UdpSocket::from_std(socket).unwrap()
}

/// An outside client dials VIPs through node 3, which has no instance: backends know it by address and port, their nodes
/// answer it, and node 3 sees no answer.
pub(crate) async fn vips_are_answered_by_the_backends_node(plane: &Plane) {
    let (mesh, _containers, all) = served(plane).await;
    for family in 0..2 {
        let own = mesh.lab.client_address(0)[family];
        let [tcp, udp] = all.map(|vips| vips[family]);
        let packets = [1, 2, 3].map(|node| {
            let filter = format!("(tcp or udp) and host {own} and (host {tcp} or host {udp})");
            Capture::start(mesh.lab.node(node), &filter).unwrap()
        });
        // Each flow: its client's port, its instance.
        let mut flows = Vec::new();
        for _ in 0..8 {
            let at = (tcp, 8000).into();
            let met = mesh.lab.client.within(whoami_from(own, at)).await.unwrap().unwrap();
            assert_eq!(met.client, met.asked_from, "the backend sees its client");
            flows.push((met.asked_from.port(), met.instance));
        }
        for _ in 0..8 {
            let socket = datagrams(&mesh, own);
            let mut met = BTreeSet::new();
            for word in ["first", "second", "third"] {
                met.insert(echo(&socket, (udp, 7000).into(), word).await.unwrap());
            }
            assert_eq!(met.len(), 1, "a flow stays");
            flows.push((socket.local_addr().unwrap().port(), met.pop_first().unwrap()));
        }
        let names: BTreeSet<&str> = flows.iter().map(|(_, instance)| instance.as_str()).collect();
        assert_eq!(names, BTreeSet::from(["echo-1", "echo-2", "whoami-1", "whoami-2"]), "all were asked");
        // What was captured is told a little later.
        until("answers were seen on the nodes of the backends", BOUND, || async {
            for (port, instance) in &flows {
                let node = if instance.ends_with("-2") { 2 } else { 1 };
                let lines = packets[node - 1].lines();
                let answer = format!(" > {own}.{port}: ");
                ensure!(lines.iter().any(|line| line.contains(&answer)), "{instance} to {port}: {lines:?}");
                let lines = packets[2].lines();
                let question = format!(" {own}.{port} > ");
                ensure!(lines.iter().any(|line| line.contains(&question)), "{port} not dialled: {lines:?}");
            }
            anyhow::Ok(())
        })
        .await;
        let through = packets[2].lines().into_iter().filter(|line| line.contains(&format!(" > {own}.")));
        assert_eq!(through.collect::<Vec<_>>(), Vec::<String>::new(), "through the node that was dialled");
    }
}

/// Waits until the client has a connection to one of the listeners, and gives both ends.
async fn connected(mesh: &HostMesh, at: SocketAddr, listener: &TcpListener) -> (TcpStream, TcpStream) {
    listener.set_nonblocking(true).unwrap();
    until(&format!("{at} leads to {}", listener.local_addr().unwrap()), BOUND, || async {
        let client = mesh.lab.client.inside(|| TcpStream::connect_timeout(&at, BOUND)).flatten()?;
        // Another instance may have been chosen; and what is accepted first may be of the try before.
        let own = client.local_addr()?.port();
        let server = within(BOUND / 30, || async {
            let (server, from) = listener.accept()?;
            ensure!(from.port() == own, "{from} is not {own}");
            anyhow::Ok(server)
        });
        let server = server.await?;
        server.set_nonblocking(false)?;
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(BOUND))?;
        }
        anyhow::Ok((client, server))
    })
    .await
}

/// Connections through node 3 to two instances on node 2 stay while others come and go and agents die; the end of one
/// instance is that of its own connection alone, on both sides.
pub(crate) async fn a_connection_to_a_vip_ends_with_its_own_backend(plane: &Plane) {
    let (mut mesh, containers) = start(plane).await;
    let listen = |port: u16| {
        containers[1].host.inside(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))).flatten().unwrap()
    };
    let (first, second) = (listen(8100), listen(8101));
    let on_2 = |instance: &str, port: u16| {
        format!("{}, ports: {{8100: {port}}}}}", containers[1].endpoint(instance))
    };
    let other =
        |round: u16| format!("{}, ports: {{8100: {}}}}}", containers[0].endpoint("other"), 8200 + round);
    let file = |endpoints: &[String]| {
        let endpoints = endpoints.join(", ");
        format!("services: {{kept: {{expose: [8100], x-mesh: {{drain: 0s, endpoints: [{endpoints}]}}}}}}\n")
    };
    let both = [on_2("first", 8100), on_2("second", 8101)];
    lead(&mesh, 3);
    for family in 0..2 {
        mesh.write_service_file("kept.yaml", &file(&both)).unwrap();
        for node in 1..=3 {
            vips(&mesh, node, "kept", 2).await;
        }
        let at = SocketAddr::new(vips(&mesh, 3, "kept", 2).await[family], 8100);
        let mut one = connected(&mesh, at, &first).await;
        let mut two = connected(&mesh, at, &second).await;
        for round in 0..3 {
            let more = [both[0].clone(), both[1].clone(), other(round)];
            for (endpoints, count) in [(&more[..], 3), (&both[..], 2)] {
                mesh.write_service_file("kept.yaml", &file(endpoints)).unwrap();
                for node in 1..=3 {
                    vips(&mesh, node, "kept", count).await;
                }
                for (client, server) in [&mut one, &mut two] {
                    exchange(client, server, b"changed");
                }
            }
        }
        if family == 0 {
            for i in [2, 3] {
                mesh.crash(i).await.unwrap();
                for (client, server) in [&mut one, &mut two] {
                    exchange(client, server, b"nobody at home");
                }
                mesh.start_agent(i).unwrap();
            }
            mesh.until_ready().await;
            for node in 1..=3 {
                vips(&mesh, node, "kept", 2).await;
            }
            for (client, server) in [&mut one, &mut two] {
                exchange(client, server, b"home again");
            }
        }
        mesh.write_service_file("kept.yaml", &file(&both[1..])).unwrap();
        for node in 1..=3 {
            vips(&mesh, node, "kept", 1).await;
        }
        exchange(&mut two.0, &mut two.1, b"the other one");
        for stream in [&mut one.0, &mut one.1] {
            stream.set_read_timeout(Some(BOUND / 20)).unwrap();
            assert!(is_reset(stream), "that of the first");
        }
        exchange(&mut two.0, &mut two.1, b"still");
        mesh.write_service_file("kept.yaml", "services: {}\n").unwrap();
        for stream in [&mut two.0, &mut two.1] {
            stream.set_read_timeout(Some(BOUND / 20)).unwrap();
            assert!(is_reset(stream), "that of the second");
        }
    }
}

/// When a node is gone, new flows through another go to who is left, datagrams of old ones too, and who has a connection to
/// it is told.
pub(crate) async fn a_dead_node_is_sent_nothing_more(plane: &Plane) {
    let (mesh, containers, all) = served(plane).await;
    let own = mesh.lab.client_address(0)[0];
    let [tcp, udp] = all.map(|vips| vips[0]);
    let listener =
        containers[1].host.inside(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, 8100))).flatten().unwrap();
    let endpoint = containers[1].endpoint("mine");
    let text = format!("services: {{kept: {{expose: [8100], x-mesh: {{endpoints: [{endpoint}}}]}}}}}}\n");
    mesh.write_service_file("kept.yaml", &text).unwrap();
    let at = SocketAddr::new(vips(&mesh, 3, "kept", 1).await[0], 8100);
    let (mut client, mut server) = connected(&mesh, at, &listener).await;
    exchange(&mut client, &mut server, b"first");
    let orphan = until("a flow to node 2", BOUND, || async {
        let socket = datagrams(&mesh, own);
        let by = echo(&socket, (udp, 7000).into(), "first").await?;
        ensure!(by == "echo-2", "{by}");
        anyhow::Ok(socket)
    })
    .await;
    mesh.lab.plug(2, false).unwrap();
    until("only the one that is left is met", BOUND, || async {
        for _ in 0..6 {
            let met = mesh.lab.client.within(whoami_from(own, (tcp, 8000).into())).await??;
            ensure!(met.instance == "whoami-1", "{met:?}");
        }
        let by = echo(&orphan, (udp, 7000).into(), "again").await?;
        ensure!(by == "echo-1", "{by}");
        anyhow::Ok(())
    })
    .await;
    client.set_read_timeout(Some(BOUND / 20)).unwrap();
    assert!(is_reset(&mut client), "its node is gone");
    mesh.lab.plug(2, true).unwrap();
    until("both are met again", BOUND, || async {
        let mut met = BTreeSet::new();
        for _ in 0..6 {
            met.insert(mesh.lab.client.within(whoami_from(own, (tcp, 8000).into())).await??.instance);
        }
        ensure!(met.len() == 2, "{met:?}");
        anyhow::Ok(())
    })
    .await;
}

/// What conntrack of a node says of the client's connection from a port to a VIP.
fn tracked(host: &Host, vip: SocketAddr, port: u16) -> anyhow::Result<Option<TcpState>> {
    let filter = Filter { original: Side { dst: Some(vip.ip()), ..Side::default() }, ..Filter::default() };
    let flows = host.inside(|| Conntrack::open()?.flows(&filter)).flatten()?;
    let flow =
        flows.into_iter().find(|flow| (flow.original.sport, flow.original.dport) == (port, vip.port()));
    Ok(flow.and_then(|flow| flow.tcp))
}

/// The only backend drains: nobody new is taken, and who is led to it stays, also when conntrack of the dialled node, which
/// sees no answers, has long forgotten how it began.
pub(crate) async fn who_is_led_to_a_draining_backend_stays(plane: &Plane) {
    let (mesh, containers) = start(plane).await;
    // Two minutes otherwise.
    shell(mesh.lab.node(3), "echo 1 > /proc/sys/net/netfilter/nf_conntrack_tcp_timeout_syn_sent");
    let listener =
        containers[1].host.inside(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, 8100))).flatten().unwrap();
    let file = |endpoint: &str| {
        format!("services: {{kept: {{expose: [8100], x-mesh: {{drain: 10m, endpoints: [{endpoint}]}}}}}}\n")
    };
    let endpoint = containers[1].endpoint("mine") + "}";
    mesh.write_service_file("kept.yaml", &file(&endpoint)).unwrap();
    lead(&mesh, 3);
    for family in 0..2 {
        let at = SocketAddr::new(vips(&mesh, 3, "kept", 1).await[family], 8100);
        let (mut client, mut server) = connected(&mesh, at, &listener).await;
        let port = client.local_addr().unwrap().port();
        until("conntrack takes it for one that it missed the beginning of", BOUND, || {
            exchange(&mut client, &mut server, b"first");
            let state = tracked(mesh.lab.node(3), at, port);
            async move {
                let state = state?;
                ensure!(state.is_some_and(|state| state != TcpState::SynSent), "{state:?}");
                anyhow::Ok(())
            }
        })
        .await;
        mesh.write_service_file("kept.yaml", &file("")).unwrap();
        until("nobody new is taken", BOUND, || async {
            let new = mesh.lab.client.inside(|| TcpStream::connect_timeout(&at, BOUND)).flatten();
            ensure!(new.is_err(), "a connection is");
            anyhow::Ok(())
        })
        .await;
        for _ in 0..3 {
            exchange(&mut client, &mut server, b"old");
        }
        mesh.write_service_file("kept.yaml", &file(&endpoint)).unwrap();
    }
}

/// The same of datagrams, whose instances drain when somebody says so.
pub(crate) async fn whose_datagrams_are_led_to_a_draining_backend_stays(plane: &Plane) {
    let (mut mesh, containers) = start(plane).await;
    containers[1].serve(&mut mesh, "echo", "mine", "udp", 7000);
    let endpoint = containers[1].endpoint("mine");
    let text = format!("services: {{echo: {{expose: [7000/udp], x-mesh: {{endpoints: [{endpoint}}}]}}}}}}\n");
    mesh.write_service_file("echo.yaml", &text).unwrap();
    lead(&mesh, 3);
    let own = mesh.lab.client_address(0);
    let to = vips(&mesh, 3, "echo", 1).await.map(|vip| SocketAddr::new(vip, 7000));
    let old = own.map(|own| datagrams(&mesh, own));
    for (old, to) in old.iter().zip(to) {
        until("datagrams are answered", BOUND, || echo(old, to, "first")).await;
    }
    let drained = mesh.cli(2, &["endpoint", "drain", "echo", "mine", "--deadline", "10m"]).await.unwrap();
    assert_eq!(drained.code, Some(0), "{drained:?}");
    for ((own, to), old) in own.into_iter().zip(to).zip(&old) {
        until("nobody new is taken", BOUND, || async {
            // A flow of few datagrams is forgotten after half a minute.
            echo(old, to, "meanwhile").await?;
            let new = mesh.lab.client.inside(|| UdpSocket::bind((own, 0))).flatten()?;
            new.set_read_timeout(Some(BOUND / 10))?;
            new.connect(to)?;
            new.send(b"new")?;
            let told = new.recv(&mut [0; 64]).map_err(|error| error.kind());
            ensure!(told == Err(ErrorKind::ConnectionRefused), "{told:?}");
            anyhow::Ok(())
        })
        .await;
        for _ in 0..3 {
            assert_eq!(echo(old, to, "old").await.unwrap(), "mine");
        }
    }
}
