//! With eBPF at XDP: what the drivers of nodes send, and which have the program.

use crate::setup::{Plane, findings, ip, one_in_each, start};
use anyhow::ensure;
use mesh_integration::{BOUND, echo, lab::Capture, until};
use std::net::UdpSocket;

/// Datagrams of an outside client, IPv4 and IPv6, through the node without a container: the kernel sums its VXLAN up, the
/// program at XDP does not.
pub(crate) async fn what_goes_to_another_node_is_wrapped_up_in_the_driver(plane: &Plane) {
    let (mut mesh, containers) = start(plane).await;
    let service = one_in_each(&mut mesh, &containers, "udp", "7070:7000", 7000);
    mesh.write_service_file("echo.yaml", &format!("services:\n{service}")).unwrap();
    let drivers = "udp port 4789 and udp[6:2] = 0 and src host ".to_owned();
    let drivers = Capture::start(mesh.lab.hub(), &(drivers + &mesh.lab.address(3)[0].to_string())).unwrap();
    for (family, address) in mesh.lab.address(3).into_iter().enumerate() {
        let own = mesh.lab.client_address(family.try_into().unwrap())[family];
        let socket = mesh.lab.client.inside(|| UdpSocket::bind((own, 0))).flatten().unwrap();
        socket.set_nonblocking(true).unwrap();
        let socket = tokio::net::UdpSocket::from_std(socket).unwrap();
        let before = drivers.lines().len();
        until("the instances' answers come by it", BOUND, || async {
            for _ in 0..10 {
                let by = echo(&socket, (address, 7070).into(), "word").await?;
                ensure!(by.starts_with("echo-"), "{by}");
            }
            let seen = drivers.lines().len() - before;
            ensure!(seen >= 20, "{seen} frames");
            anyhow::Ok(())
        })
        .await;
    }
}

/// A device that comes has the program soon, also when the agent starts anew in between; `doctor` says which have it.
pub(crate) async fn drivers_have_the_program_as_devices_come_and_go(plane: &Plane) {
    let (mut mesh, _containers) = start(plane).await;
    let host = mesh.lab.node(3).clone();
    for (change, restart, wanted) in [
        ("link set lo up", false, "eth0"),
        ("link add late type veth peer name later", false, "eth0, late, later"),
        ("link set later down", true, "eth0, late, later"),
        ("link del late", true, "eth0"),
    ] {
        ip(&host, change);
        if restart {
            mesh.crash(3).await.unwrap();
            mesh.start_agent(3).unwrap();
        }
        until(&format!("after ip {change} the program is on {wanted}"), BOUND, || async {
            let told = findings(&mesh, 3, "xdp")?;
            let found = told.first().and_then(|finding| finding["found"].as_str()).unwrap_or("nothing");
            let mut names: Vec<&str> = found.rsplit(" on ").next().unwrap_or("").split(", ").collect();
            names.sort_unstable();
            ensure!(names.join(", ") == wanted, "{found}");
            anyhow::Ok(())
        })
        .await;
    }
}
