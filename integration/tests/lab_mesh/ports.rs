//! A client whose port is the same on the way to several nodes: a backend would see one connection where there are many.

use crate::setup::{Container, Plane, start};
use anyhow::{Context, ensure};
use mesh_integration::{BOUND, HostMesh, echo, until, whoami_from};
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
};

/// Published ports of a service with its one instance in the container of that number, from 0.
const PORTS: [u16; 2] = [8080, 8090];
/// What the client dials from; below the ports that are given to others.
const OWN: u16 = 20_077;

fn file(mesh: &mut HostMesh, containers: &[Container]) -> String {
    let mut services = String::from("services:\n");
    for ((i, container), port) in (1..).zip(containers).zip(PORTS) {
        for (name, protocol) in [("whoami", "tcp"), ("echo", "udp")] {
            let instance = format!("{name}-{i}");
            container.serve(mesh, name, &instance, protocol, 8000);
            services += &format!(
                "  {instance}:\n    ports: [\"{port}:8000/{protocol}\"]\n    x-mesh: {{endpoints: [{}}}]}}\n",
                container.endpoint(&instance)
            );
        }
    }
    services
}

/// One open connection and one flow of datagrams through every node, all from one address and port of the client to one
/// backend.
pub(crate) async fn one_port_of_a_client_goes_through_every_node(plane: &Plane) {
    let (mut mesh, containers) = start(plane).await;
    let text = file(&mut mesh, &containers);
    mesh.write_service_file("ports.yaml", &text).unwrap();
    // Whether bridges let the host's tables see their packets, where they can.
    for (turn, seen) in (0..).zip(["1", "0"]) {
        for i in 1..=3 {
            for family in ["iptables", "ip6tables"] {
                let path = format!("net/bridge/bridge-nf-call-{family}");
                if let Err(error) = mesh.lab.node(i).sysctl(&path, seen) {
                    assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{path}: {error}");
                }
            }
        }
        everywhere(&mesh, containers[0].addresses.len(), OWN + 10 * turn).await;
    }
}

async fn everywhere(mesh: &HostMesh, families: usize, port: u16) {
    for (instance, published) in (1..).zip(PORTS) {
        for family in 0..families {
            let own = mesh.lab.client_address(0)[family];
            // Beginning at every node in its turn, so that the backend's own comes first, in between and last.
            for first in 0..3_u8 {
                let at = |n: u8| (mesh.lab.address((first + n) % 3 + 1)[family], published).into();
                let ways: Vec<SocketAddr> = (0..3).map(at).collect();
                for at in &ways {
                    until(&format!("{at} is served"), BOUND, || async {
                        let met = mesh.lab.client.within(whoami_from(own, *at)).await??;
                        ensure!(met.instance == format!("whoami-{instance}"), "{met:?}");
                        anyhow::Ok(())
                    })
                    .await;
                }
                let from = SocketAddr::new(own, port + u16::from(first));
                connections(mesh, from, &ways);
                datagrams(mesh, from, &ways, &format!("echo-{instance}")).await;
            }
        }
    }
}

fn connections(mesh: &HostMesh, from: SocketAddr, ways: &[SocketAddr]) {
    let connect = |at: &SocketAddr| {
        let socket = socket2::Socket::new(socket2::Domain::for_address(from), socket2::Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&from.into())?;
        socket.connect_timeout(&(*at).into(), BOUND)?;
        socket.set_read_timeout(Some(BOUND))?;
        anyhow::Ok(TcpStream::from(socket))
    };
    let open: Vec<TcpStream> = ways
        .iter()
        .map(|at| {
            mesh.lab
                .client
                .inside(|| connect(at))
                .unwrap()
                .with_context(|| format!("{from} to {at}"))
                .unwrap()
        })
        .collect();
    for (mut stream, at) in open.into_iter().zip(ways) {
        let mut answer = String::new();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: w\r\nConnection: close\r\n\r\n").unwrap();
        stream.read_to_string(&mut answer).unwrap_or_else(|e| panic!("{from} to {at}: {e}"));
        let client = answer.lines().find_map(|line| line.strip_prefix("Client: ")).unwrap_or_default();
        let client: SocketAddr = client.parse().unwrap_or_else(|e| panic!("{e}: {answer}"));
        assert_eq!(client.ip(), from.ip(), "{from} to {at}");
    }
}

async fn datagrams(mesh: &HostMesh, from: SocketAddr, ways: &[SocketAddr], instance: &str) {
    let socket = mesh.lab.client.inside(|| UdpSocket::bind(from)).flatten().unwrap();
    socket.set_nonblocking(true).unwrap();
    let socket = tokio::net::UdpSocket::from_std(socket).unwrap();
    for round in 0..3 {
        for at in ways {
            let text = format!("{round} through {at}");
            let by = echo(&socket, *at, &text).await;
            assert_eq!(by.unwrap_or_else(|e| panic!("{from} to {at}: {e:#}")), instance);
        }
    }
}
