//! A client that dials one node and is served by a container of another: the overlay's rule, table and neighbour take
//! the answers back through the node that was dialled, so that the container sees the client's own address. The rules
//! here are the least that a data plane has to add.

use crate::{
    talk::{tcp, tcp_through, udp},
    world::{Underlay, World, permitted},
};
use mesh_agent::{
    overlay::{
        plan::{RETURN_MARK, RETURN_MASK},
        returns::Returns,
    },
    sys::{
        conntrack::{Conntrack, Filter, Side},
        netns::Netns,
    },
};
use std::{
    io::Write,
    net::{IpAddr, UdpSocket},
    process::{Command, Stdio},
};

/// Loads rules; false, loudly, when there is no `nft` to do it.
fn load(netns: &Netns, rules: &str) -> bool {
    let run = || {
        let mut nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn()?;
        nft.stdin.take().unwrap().write_all(rules.as_bytes())?;
        nft.wait()
    };
    match netns.run(run).unwrap() {
        Ok(status) => {
            assert!(status.success(), "{rules}");
            true
        }
        Err(error) => {
            assert!(std::env::var_os("CI").is_none(), "nft is needed here: {error}");
            eprintln!("SKIPPED: nft: {error}");
            false
        }
    }
}

#[test]
fn answers_return_through_the_node_that_was_dialled() {
    if !permitted() {
        return;
    }
    for (underlay, ip, overlay) in
        [(Underlay::V4, "ip", "10.128.0.0/14"), (Underlay::V6, "ip6", "fd00:4d::/48")]
    {
        let world = World::new(3, underlay);
        // The third is a client outside of the mesh.
        let (door, host, client) = (&world.nodes[0], &world.nodes[1], &world.nodes[2]);
        // As strict as hosts are set up.
        for node in [door, host] {
            node.netns.run(|| std::fs::write("/proc/sys/net/ipv4/conf/all/rp_filter", "1")).unwrap().unwrap();
        }
        world.apply(0, 2);
        let plan = world.apply(1, 2).plan;
        let (container, attached) = world.container(1);
        let backend = attached.lease.addresses[usize::from(underlay == Underlay::V6)];
        let (peer, mark) = (plan.peers[0].mac, RETURN_MARK | 1);
        let at_door = format!(
            "table {ip} t {{ chain pre {{ type nat hook prerouting priority -105;\n\
             fib daddr type local tcp dport 1024-65535 dnat to {backend}\n }}\n}}"
        );
        let at_host = format!(
            "table inet t {{\n map marks {{ type ether_addr : mark; elements = {{ {peer} : {mark} }};\n}}\n\
             chain pre {{ type filter hook prerouting priority mangle;\n\
             iifname \"mesh-vx\" {ip} saddr != {overlay} ct state new ct mark set ether saddr map @marks\n\
             iifname != \"mesh-vx\" ct direction reply ct mark and {RETURN_MASK} == {RETURN_MARK} meta mark set ct mark\n\
             }}\n}}\n\
             table netdev t {{\n map macs {{ type mark : ether_addr; elements = {{ {mark} : {peer} }};\n}}\n\
             chain out {{ type filter hook egress device \"mesh-vx\" priority 0;\n\
             meta mark and {RETURN_MASK} == {RETURN_MARK} ether daddr set meta mark map @macs meta mark set 0\n }}\n}}"
        );
        if !load(&door.netns, &at_door) || !load(&host.netns, &at_host) {
            return;
        }
        let addresses = |i: usize| -> IpAddr { world.nodes[i].config.underlay.first().unwrap() };
        for _ in 0..3 {
            let seen = tcp_through(addresses(0), &client.netns, &container, backend, 200_000).unwrap();
            assert_eq!(seen, addresses(2), "{underlay:?}: the client's own address");
        }
        // What needs no such way goes as before.
        let (other, near) = world.container(0);
        let from = near.lease.addresses[usize::from(underlay == Underlay::V6)];
        assert_eq!(udp(&other, &container, backend, 100).unwrap(), from);
    }
}

#[test]
fn conntrack_keeps_nothing_of_the_overlays_own_packets() {
    if !permitted() {
        return;
    }
    for underlay in [Underlay::V4, Underlay::V6] {
        let world = World::new(2, underlay);
        world.apply_all();
        for (me, node) in world.nodes.iter().enumerate() {
            let plan = world.plan(me);
            let ensure = || Returns::open(node.config.networks.clone(), false)?.ensure(&plan);
            assert!(node.netns.run(ensure).unwrap().unwrap(), "they were not there");
            assert!(!node.netns.run(ensure).unwrap().unwrap(), "they are as they should be");
        }
        let ((client, from), (server, to)) = (world.container(0), world.container(1));
        for (mine, other) in from.lease.addresses.iter().zip(&to.lease.addresses) {
            tcp(&client, &server, *other, 100_000).unwrap();
            udp(&server, &client, *mine, 100).unwrap();
            // What a container sends may look like them, and is tracked as all else it sends.
            let config = &world.nodes[0].config;
            let [_, a, b, c] = config.vni.to_be_bytes();
            let send =
                || UdpSocket::bind((*mine, 0))?.send_to(&[8, 0, 0, 0, a, b, c, 0], (*other, config.port));
            client.run(send).unwrap().unwrap();
        }
        let port = Side { dport: Some(world.nodes[0].config.port), ..Side::default() };
        for (me, node) in world.nodes.iter().enumerate() {
            let flows =
                |filter: Filter| node.netns.run(|| Conntrack::open()?.flows(&filter)).unwrap().unwrap();
            let mut lookalikes: Vec<IpAddr> = flows(Filter { original: port, ..Filter::default() })
                .iter()
                .map(|flow| flow.original.src)
                .collect();
            lookalikes.sort();
            assert_eq!(lookalikes, from.lease.addresses, "{underlay:?}, node {me}: of containers alone");
            for address in &to.lease.addresses {
                let dialled = Side { dst: Some(*address), ..Side::default() };
                let inside = flows(Filter { proto: Some(6), original: dialled, ..Filter::default() });
                assert_eq!(inside.len(), 1, "{underlay:?}, node {me}: the flow in the overlay is tracked");
            }
        }
    }
}
