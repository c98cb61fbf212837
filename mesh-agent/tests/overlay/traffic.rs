//! Containers reach each other, whatever the family of either network.

use crate::{
    talk::{ping, tcp, udp},
    world::{Underlay, World, output, permitted},
};

#[test]
fn containers_of_three_nodes_talk_and_see_each_others_addresses() {
    if !permitted() {
        return;
    }
    for underlay in [Underlay::V4, Underlay::V6] {
        let world = World::new(3, underlay);
        world.apply_all();
        let containers: Vec<_> = (0..3).map(|i| world.container(i)).collect();
        for (i, (client, from)) in containers.iter().enumerate() {
            for (j, (server, to)) in containers.iter().enumerate().filter(|(j, _)| *j != i) {
                for (mine, other) in from.lease.addresses.iter().zip(&to.lease.addresses) {
                    let path = format!("{underlay:?}: {i} to {j}, {mine} to {other}");
                    ping(client, *other).unwrap_or_else(|e| panic!("{path}: {e}"));
                    let seen = tcp(client, server, *other, 300_000).unwrap_or_else(|e| panic!("{path}: {e}"));
                    assert_eq!(seen, *mine, "{path}");
                    let mtu = usize::try_from(to.mtu).unwrap();
                    for bytes in [1, mtu - 48, 4 * mtu] {
                        let seen =
                            udp(client, server, *other, bytes).unwrap_or_else(|e| panic!("{path}: {e}"));
                        assert_eq!(seen, *mine, "{path}, {bytes} bytes");
                    }
                }
            }
        }
    }
}

#[test]
fn hosts_reach_containers_from_their_gateways_address() {
    if !permitted() {
        return;
    }
    let world = World::new(2, Underlay::V4);
    world.apply_all();
    let (container, attached) = world.container(1);
    let plan = world.plan(0);
    for (address, gateway) in attached.lease.addresses.iter().zip(&plan.gateways) {
        assert_eq!(tcp(&world.nodes[0].netns, &container, *address, 10).unwrap(), gateway.ip());
    }
}

#[test]
fn two_containers_of_one_node_talk_through_the_gateway() {
    if !permitted() {
        return;
    }
    let world = World::new(1, Underlay::V4);
    world.apply_all();
    let ((one, from), (two, to)) = (world.container(0), world.container(0));
    for _ in 0..3 {
        for (mine, other) in from.lease.addresses.iter().zip(&to.lease.addresses) {
            ping(&one, *other).unwrap();
            assert_eq!(tcp(&one, &two, *other, 100_000).unwrap(), *mine);
        }
    }
    // A container that was told of the shorter way would know the other one, not only the gateway.
    let known = output(&one, "ip", "neigh show dev eth0");
    for address in &to.lease.addresses {
        assert!(!known.lines().any(|line| line.starts_with(&format!("{address} "))), "{known}");
    }
}
