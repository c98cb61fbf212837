//! A client that dials one node and is served by a container of another: the overlay's rule, table and neighbour take
//! the answers back through the node that was dialled, so that the container sees the client's own address. The rules
//! here are the least that a data plane has to add.

use crate::{
    talk::{tcp_through, udp},
    world::{Underlay, World, permitted},
};
use mesh_agent::{
    overlay::plan::{RETURN_MARK, RETURN_MASK},
    sys::netns::Netns,
};
use std::{
    io::Write,
    net::IpAddr,
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
