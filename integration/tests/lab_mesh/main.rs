//! Agents on hosts of their own, containers behind them, a client outside: what a mesh does for that client.
//! Scenarios run on every data plane.
#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test fails the test by panicking, as the test itself does"
)]

mod direct;
mod docker;
mod drivers;
mod ports;
mod publish;
mod reach;
mod routed;
mod setup;

use anyhow::{Context, ensure};
use direct::{
    a_connection_outlives_changes_and_is_reset_on_both_sides,
    answers_of_others_come_back_through_the_ingress_node, answers_pass_the_ingress_node_by,
    the_setting_changes_and_parts_no_connection,
};
use docker::what_docker_drops_is_let_through_by_the_commands_of_doctor;
use drivers::{
    drivers_have_the_program_as_devices_come_and_go, what_goes_to_another_node_is_wrapped_up_in_the_driver,
};
use mesh_integration::{BOUND, HostMesh, Load, at_most_now, echo, until, whoami};
use ports::one_port_of_a_client_goes_through_every_node;
use publish::ports_follow_the_addresses_of_a_link;
use reach::{
    an_outside_client_reaches_containers_through_every_node_and_is_known_to_them,
    between_nodes_nothing_is_in_plain, everybody_reaches_everything,
    megabytes_arrive_whole_through_every_node,
};
use routed::{
    a_connection_to_a_vip_ends_with_its_own_backend, a_dead_node_is_sent_nothing_more,
    vips_are_answered_by_the_backends_node, who_is_led_to_a_draining_backend_stays,
    whose_datagrams_are_led_to_a_draining_backend_stays,
};
use serde_json::Value;
use setup::{
    EBPF, EBPF_AND_NFTABLES, EBPF_DIRECT, EBPF_DIRECT_AND_NFTABLES, EBPF_DIRECT_NATIVE, EBPF_DIRECT_SEALED,
    EBPF_NATIVE, EBPF_SEALED, IPVS, IPVS_DIRECT, IPVS_DIRECT_AND_EBPF, IPVS_DIRECT_AND_NFTABLES,
    IPVS_DIRECT_SEALED, IPVS_SEALED, NFTABLES, NFTABLES_SEALED, Plane, USERSPACE, USERSPACE_OVERLAY, mirror,
    mirrored, one_in_each, pinned, start, until_met,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream, UdpSocket},
};
use tokio::task::AbortHandle;

/// One test a scenario.
macro_rules! on {
    ($plane:ident, $name:ident: $($scenario:ident,)+) => {
        mod $name { $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $scenario() {
                if super::$plane.possible() {
                    super::$scenario(&super::$plane).await;
                }
            }
        )+ }
    };
}

on! { USERSPACE, userspace:
    ports_follow_the_addresses_of_a_link,
    an_outside_client_reaches_containers_through_every_node_and_is_known_to_them,
    a_dead_nodes_instances_get_nothing_more,
    megabytes_arrive_whole_through_every_node,
    a_rolling_update_of_32_instances_fails_nobody,
    three_hundred_services_answer_on_their_vips,
}

on! { USERSPACE_OVERLAY, userspace_overlay:
    an_outside_client_reaches_containers_through_every_node_and_is_known_to_them,
    a_dead_nodes_instances_get_nothing_more,
    megabytes_arrive_whole_through_every_node,
    a_rolling_update_of_32_instances_fails_nobody,
}

on! { NFTABLES, nftables:
    ports_follow_the_addresses_of_a_link,
    what_docker_drops_is_let_through_by_the_commands_of_doctor,
    everybody_reaches_everything,
    one_port_of_a_client_goes_through_every_node,
    an_outside_client_reaches_containers_through_every_node_and_is_known_to_them,
    a_dead_nodes_instances_get_nothing_more,
    a_killed_agent_moves_no_packet,
    a_rolling_update_of_32_instances_fails_nobody,
    megabytes_arrive_whole_through_every_node,
    three_hundred_services_answer_on_their_vips,
}

on! { NFTABLES_SEALED, nftables_sealed:
    everybody_reaches_everything,
    one_port_of_a_client_goes_through_every_node,
    an_outside_client_reaches_containers_through_every_node_and_is_known_to_them,
    megabytes_arrive_whole_through_every_node,
    between_nodes_nothing_is_in_plain,
}

on! { EBPF_SEALED, ebpf_sealed:
    everybody_reaches_everything,
    between_nodes_nothing_is_in_plain,
}

on! { EBPF_DIRECT_SEALED, ebpf_direct_sealed:
    answers_pass_the_ingress_node_by,
    a_connection_outlives_changes_and_is_reset_on_both_sides,
    between_nodes_nothing_is_in_plain,
}

on! { IPVS_SEALED, ipvs_sealed:
    everybody_reaches_everything,
    between_nodes_nothing_is_in_plain,
}

on! { EBPF, ebpf:
    ports_follow_the_addresses_of_a_link,
    the_setting_changes_and_parts_no_connection,
    everybody_reaches_everything,
    one_port_of_a_client_goes_through_every_node,
    an_outside_client_reaches_containers_through_every_node_and_is_known_to_them,
    a_dead_nodes_instances_get_nothing_more,
    a_killed_agent_moves_no_packet,
    a_rolling_update_of_32_instances_fails_nobody,
    megabytes_arrive_whole_through_every_node,
    three_hundred_services_answer_on_their_vips,
}

on! { EBPF_NATIVE, ebpf_native:
    everybody_reaches_everything,
    an_outside_client_reaches_containers_through_every_node_and_is_known_to_them,
    a_dead_nodes_instances_get_nothing_more,
    a_killed_agent_moves_no_packet,
    megabytes_arrive_whole_through_every_node,
    what_goes_to_another_node_is_wrapped_up_in_the_driver,
    drivers_have_the_program_as_devices_come_and_go,
}

on! { EBPF_DIRECT, ebpf_direct:
    answers_pass_the_ingress_node_by,
    a_connection_outlives_changes_and_is_reset_on_both_sides,
    everybody_reaches_everything,
    one_port_of_a_client_goes_through_every_node,
    an_outside_client_reaches_containers_through_every_node_and_is_known_to_them,
    a_dead_nodes_instances_get_nothing_more,
    a_killed_agent_moves_no_packet,
    a_rolling_update_of_32_instances_fails_nobody,
    megabytes_arrive_whole_through_every_node,
}

on! { EBPF_DIRECT_NATIVE, ebpf_direct_native:
    answers_pass_the_ingress_node_by,
}

on! { EBPF_DIRECT_AND_NFTABLES, ebpf_direct_and_nftables:
    answers_of_others_come_back_through_the_ingress_node,
    one_port_of_a_client_goes_through_every_node,
    megabytes_arrive_whole_through_every_node,
}

on! { IPVS, ipvs:
    ports_follow_the_addresses_of_a_link,
    everybody_reaches_everything,
    one_port_of_a_client_goes_through_every_node,
    an_outside_client_reaches_containers_through_every_node_and_is_known_to_them,
    a_dead_nodes_instances_get_nothing_more,
    a_killed_agent_moves_no_packet,
    a_rolling_update_of_32_instances_fails_nobody,
    megabytes_arrive_whole_through_every_node,
    three_hundred_services_answer_on_their_vips,
}

on! { IPVS_DIRECT, ipvs_direct:
    vips_are_answered_by_the_backends_node,
    a_connection_to_a_vip_ends_with_its_own_backend,
    a_dead_node_is_sent_nothing_more,
    who_is_led_to_a_draining_backend_stays,
    whose_datagrams_are_led_to_a_draining_backend_stays,
    everybody_reaches_everything,
    one_port_of_a_client_goes_through_every_node,
    an_outside_client_reaches_containers_through_every_node_and_is_known_to_them,
    a_killed_agent_moves_no_packet,
    a_rolling_update_of_32_instances_fails_nobody,
    three_hundred_services_answer_on_their_vips,
}

on! { IPVS_DIRECT_SEALED, ipvs_direct_sealed:
    vips_are_answered_by_the_backends_node,
    everybody_reaches_everything,
    between_nodes_nothing_is_in_plain,
}

on! { IPVS_DIRECT_AND_EBPF, ipvs_direct_and_ebpf:
    everybody_reaches_everything,
}

on! { IPVS_DIRECT_AND_NFTABLES, ipvs_direct_and_nftables:
    everybody_reaches_everything,
}

on! { EBPF_AND_NFTABLES, ebpf_and_nftables:
    everybody_reaches_everything,
    one_port_of_a_client_goes_through_every_node,
    an_outside_client_reaches_containers_through_every_node_and_is_known_to_them,
    a_killed_agent_moves_no_packet,
    megabytes_arrive_whole_through_every_node,
}

async fn a_dead_nodes_instances_get_nothing_more(plane: &Plane) {
    let (mut mesh, containers) = start(plane).await;
    let text = String::from("services:\n")
        + &one_in_each(&mut mesh, &containers, "tcp", "8080:8000", 8000)
        + &one_in_each(&mut mesh, &containers, "udp", "7070:7000", 7000);
    mesh.write_service_file("both.yaml", &text).unwrap();
    let places = [1, 3].map(|i| mesh.node(i).place.address);
    for place in places {
        until_met(&mesh, (place, 8080).into(), &["whoami-1", "whoami-2"]).await;
    }
    until("node-3 knows both echoes", BOUND, || async {
        let found = mesh.node(3).lookup("tasks.echo.cluster").await?;
        ensure!(found.len() == 2, "{found:?}");
        anyhow::Ok(())
    })
    .await;
    // UDP flows through node 3, one with each instance.
    let at: SocketAddr = (places[1], 7070).into();
    let mut flows = BTreeMap::new();
    while flows.len() < 2 {
        let socket = mesh.lab.client.inside(|| UdpSocket::bind("0.0.0.0:0")).flatten().unwrap();
        socket.set_nonblocking(true).unwrap();
        let socket = tokio::net::UdpSocket::from_std(socket).unwrap();
        flows.insert(echo(&socket, at, "first").await.unwrap(), socket);
    }

    mesh.lab.plug(2, false).unwrap();
    let own = mesh.lab.client_address(1)[0];
    for place in places {
        until_met(&mesh, (place, 8080).into(), &["whoami-1"]).await;
        let load = Load::from(&mesh.lab.client, own, (place, 8080).into());
        load.answers(40).await;
        assert_eq!(load.stop().failed, Vec::<String>::new(), "through {place}");
    }
    let orphan = &flows["echo-2"];
    until("the flow of the dead instance goes to the other", BOUND, || async {
        let by = echo(orphan, at, "again").await?;
        ensure!(by == "echo-1", "{by}");
        anyhow::Ok(())
    })
    .await;

    mesh.lab.plug(2, true).unwrap();
    for place in places {
        until_met(&mesh, (place, 8080).into(), &["whoami-1", "whoami-2"]).await;
    }
}

/// The agents of all nodes die and come back, one after the other, while clients come (of another host, and of the node
/// itself) and one stays. Of what is pinned nothing is made anew.
async fn a_killed_agent_moves_no_packet(plane: &Plane) {
    let (mut mesh, containers) = start(plane).await;
    let service = one_in_each(&mut mesh, &containers, "tcp", "8080:8000", 8000);
    // For the one that stays: whoami waits for requests for half a minute only.
    mirror(&containers[1], 8100);
    let mirror = containers[1].endpoint("mirror");
    let text = format!(
        "services:\n{service}  mirror:\n    ports: [\"8100:8100\"]\n    x-mesh: {{endpoints: [{mirror}}}]}}\n"
    );
    mesh.write_service_file("both.yaml", &text).unwrap();
    let own = mesh.lab.client_address(3)[0];
    let mut loads = Vec::new();
    for node in mesh.nodes() {
        let at: SocketAddr = (node.place.address, 8080).into();
        until_met(&mesh, at, &["whoami-1", "whoami-2"]).await;
        let host = node.host.as_ref().unwrap();
        loads.push(([Load::from(&mesh.lab.client, own, at), Load::from(host, at.ip(), at)], node));
    }
    let pins = pinned(&mesh);
    assert_eq!(!pins.is_empty(), plane.ebpf);
    let at: SocketAddr = (mesh.node(3).place.address, 8100).into();
    until("the mirror answers", BOUND, || async { mirrored(&mesh.lab.client, at, b"first").map(drop) }).await;
    for (i, ([load, own], node)) in (1..).zip(&loads) {
        load.answers(20).await;
        let mut kept = mesh.lab.client.inside(|| TcpStream::connect_timeout(&at, BOUND)).flatten().unwrap();
        mesh.crash(i).await.unwrap();
        // Sooner than the others take the node for dead, and part with its instances.
        load.answers(at_most_now(40)).await;
        own.answers(at_most_now(20)).await;
        mesh.start_agent(i).unwrap();
        until("the agent holds its table again", BOUND, || async {
            let (status, body) = node.metrics("/readyz").await?;
            ensure!(status == 200, "{body}");
            let (_, plan) = node.admin("/v1/plan").await?;
            ensure!(plan["operations"].as_array().is_some_and(Vec::is_empty), "{plan}");
            anyhow::Ok(())
        })
        .await;
        load.answers(100).await;
        own.answers(50).await;
        kept.set_read_timeout(Some(BOUND)).unwrap();
        kept.write_all(b"from before").and_then(|()| kept.shutdown(Shutdown::Write)).unwrap();
        let mut answer = String::new();
        kept.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "from before");
    }
    assert_eq!(pinned(&mesh), pins);
    for load in loads.into_iter().flat_map(|(loads, _)| loads) {
        let seen = load.stop();
        assert_eq!((seen.failed, seen.by_instance.len()), (Vec::new(), 2));
    }
}

async fn a_rolling_update_of_32_instances_fails_nobody(plane: &Plane) {
    let (mut mesh, containers) = start(plane).await;
    let place = |i: usize| &containers[i % 2];
    let file = |ports: &[(String, usize, u16)]| {
        let endpoint = |(name, i, port): &(String, usize, u16)| {
            format!("        - {}, ports: {{8000: {port}}}}}\n", place(*i).endpoint(name))
        };
        let endpoints: String = ports.iter().map(endpoint).collect();
        format!(
            "services:\n  whoami:\n    ports: [\"8080:8000\"]\n    x-mesh:\n      drain: 2s\n      endpoints:\n{endpoints}"
        )
    };
    let mut instances = Vec::new();
    let mut running = BTreeMap::new();
    for i in 0..32 {
        let port = 9000 + u16::try_from(i).unwrap();
        for (name, port) in [(format!("old-{i}"), port), (format!("new-{i}"), port + 100)] {
            running.insert(name.clone(), place(i).serve(&mut mesh, "whoami", &name, "tcp", port));
            if name.starts_with("old") {
                instances.push((name, i, port));
            }
        }
    }
    mesh.write_service_file("whoami.yaml", &file(&instances)).unwrap();
    let ready = |mesh: &HostMesh| {
        let (nodes, wanted) = (mesh.nodes(), instances.len());
        async move {
            for node in nodes {
                until("all instances are there", BOUND, || async {
                    let (_, list) = node.admin("/v1/endpoints?service=whoami").await?;
                    let list = list["endpoints"].as_array().map_or(0, Vec::len);
                    ensure!(list == wanted, "{list}");
                    anyhow::Ok(())
                })
                .await;
            }
        }
    };
    ready(&mesh).await;
    let own = mesh.lab.client_address(2)[0];
    let loads: Vec<Load> = mesh
        .nodes()
        .iter()
        .map(|node| Load::from(&mesh.lab.client, own, (node.place.address, 8080).into()))
        .collect();
    for (i, (name, _, port)) in instances.clone().into_iter().enumerate() {
        instances[i] = (name.replace("old", "new"), i, port + 100);
        mesh.write_service_file("whoami.yaml", &file(&instances)).unwrap();
        // The old one is stopped when nobody sends it anything any more, as whoever updates would do.
        for node in mesh.nodes() {
            until(&format!("{name} drains or is gone"), BOUND, || async {
                let (_, list) = node.admin("/v1/endpoints?service=whoami").await?;
                let all = list["endpoints"].as_array().cloned().unwrap_or_default();
                let ready = |n: &str| all.iter().any(|e| e["instance"] == n && e["state"] == "ready");
                ensure!(!ready(&name) && ready(&name.replace("old", "new")), "{list}");
                let (_, plan) = node.admin("/v1/plan").await?;
                ensure!(plan["operations"].as_array().is_some_and(Vec::is_empty), "{plan}");
                anyhow::Ok(())
            })
            .await;
        }
        for load in &loads {
            load.answers(2).await;
        }
        running[&name].iter().for_each(AbortHandle::abort);
    }
    for load in loads {
        load.answers(64).await;
        let seen = load.stop();
        assert_eq!(seen.failed, Vec::<String>::new());
        let new = seen.by_instance.keys().filter(|name| name.starts_with("new")).count();
        assert_eq!(new, 32, "{:?}", seen.by_instance);
    }
}

async fn three_hundred_services_answer_on_their_vips(plane: &Plane) {
    let (mut mesh, containers) = start(plane).await;
    containers[0].serve(&mut mesh, "whoami", "one", "tcp", 8000);
    let endpoint = format!("endpoints: [{}}}]", containers[0].endpoint("one"));
    let services: String =
        (0..300).map(|i| format!("  s{i}: {{expose: [\"8000\"], x-mesh: {{{endpoint}}}}}\n")).collect();
    mesh.write_service_file("many.yaml", &format!("services:\n{services}")).unwrap();
    let mut views = Vec::new();
    // A node with the instance and one without.
    for n in [1, 3] {
        let node = mesh.node(n);
        let vips: BTreeMap<String, Vec<SocketAddr>> = until("all are laid", BOUND, || async {
            let (_, list) = node.admin("/v1/services").await?;
            let (_, plan) = node.admin("/v1/plan").await?;
            ensure!(plan["operations"].as_array().is_some_and(Vec::is_empty), "{plan}");
            let services = list["services"].as_array().cloned().unwrap_or_default();
            let vips = |s: &Value| {
                let vips = s["vips"].as_array().into_iter().flatten().filter_map(Value::as_str);
                vips.map(|vip| Ok(SocketAddr::new(vip.parse()?, 8000))).collect::<anyhow::Result<Vec<_>>>()
            };
            let all = services.iter().map(|s| Ok((s["name"].to_string(), vips(s)?)));
            let all = all.collect::<anyhow::Result<BTreeMap<_, _>>>()?;
            let ready = services.iter().filter(|s| s["endpoints_ready"] == 1).count();
            ensure!(ready == 300 && all.values().all(|vips| !vips.is_empty()), "{ready} ready: {all:?}");
            Ok(all)
        })
        .await;
        let asked = vips.clone();
        let ask = async move {
            for at in asked.into_values().flatten() {
                let met = whoami(at).await.with_context(|| at.to_string())?;
                ensure!(met.instance == "one", "{met:?}");
            }
            anyhow::Ok(())
        };
        mesh.lab.node(u8::try_from(n).unwrap()).within(ask).await.unwrap().unwrap();
        views.push(vips);
    }
    assert_eq!(views[0], views[1], "the same on every node");
    let all: BTreeSet<&SocketAddr> = views[0].values().flatten().collect();
    assert_eq!(all.len(), views[0].values().map(Vec::len).sum::<usize>(), "no VIP belongs to two");
}
