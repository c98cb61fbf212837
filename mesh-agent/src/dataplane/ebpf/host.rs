//! What the programs have to know of the host: its addresses, devices and those of the mesh.

use super::{
    config::EbpfConfig,
    hook::Devices,
    maps::Maps,
    realize::{first, wide},
    xdp::Drivers,
};
use crate::{
    overlay::plan::gateway,
    sys::{
        clock,
        netns::Netns,
        rtnl::{Address, Link, Rtnl},
    },
};
use mesh_control::model::{Family, Snapshot};
use mesh_ebpf::{
    Kernel, Map,
    common::{CLASH_MARK, Config, GUEST_MARK, V4, V6, direct::node, mode},
};
use std::{collections::BTreeSet, io, net::IpAddr, path::Path};

// What the programs say the overlay's tables hear.
const _: () = {
    use crate::overlay::plan;
    assert!(CLASH_MARK == plan::CLASH_MARK);
    assert!(GUEST_MARK[0] == plan::RETURN_MARK && GUEST_MARK[1] == plan::RETURN_MASK);
};

#[derive(Debug)]
pub(super) struct Host {
    rtnl: Rtnl,
    netns: Netns,
    /// What is written in the map.
    config: Config,
    locals: BTreeSet<(IpAddr, u8)>,
    nodes: BTreeSet<(IpAddr, u8)>,
    /// Devices that have the programs.
    devices: Devices,
    /// Those that have one in their drivers.
    drivers: Drivers,
}

/// A network and its mask.
fn network(cidr: &ipnetwork::IpNetwork) -> [V6; 2] {
    [wide(cidr.network()), wide(cidr.mask())]
}

/// Writes what is new in a set of addresses, each with its value, and deletes what is not there any more.
fn follow(
    held: &mut BTreeSet<(IpAddr, u8)>,
    wanted: BTreeSet<(IpAddr, u8)>,
    four: &Map<V4, u8>,
    six: &Map<V6, u8>,
) -> io::Result<()> {
    let (mut new, mut old) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
    for (address, value) in wanted.difference(held) {
        match address {
            IpAddr::V4(address) => new.0.push((address.octets(), *value)),
            IpAddr::V6(address) => new.1.push((address.octets(), *value)),
        }
    }
    let stays: BTreeSet<IpAddr> = wanted.iter().map(|(address, _)| *address).collect();
    for (address, _) in held.iter().filter(|(address, _)| !stays.contains(address)) {
        match address {
            IpAddr::V4(address) => old.0.push(address.octets()),
            IpAddr::V6(address) => old.1.push(address.octets()),
        }
    }
    four.put(&new.0)?;
    six.put(&new.1)?;
    four.delete(&old.0)?;
    six.delete(&old.1)?;
    *held = wanted;
    Ok(())
}

fn held(four: &Map<V4, u8>, six: &Map<V6, u8>) -> io::Result<BTreeSet<(IpAddr, u8)>> {
    let four = four.entries()?.into_iter().map(|(address, value)| (IpAddr::from(address), value));
    let six = six.entries()?.into_iter().map(|(address, value)| (IpAddr::from(address), value));
    Ok(four.chain(six).collect())
}

/// The addresses of the mesh's nodes, and where on the overlay those are that answer clients themselves.
fn nodes(snapshot: &Snapshot, direct: bool) -> BTreeSet<(IpAddr, u8)> {
    let all = snapshot.nodes.values().flat_map(|node| node.info.addresses.iter());
    let others =
        snapshot.nodes.values().filter(|node| node.name != snapshot.local && node.info.direct && direct);
    let hops = others.flat_map(|node| node.subnets.iter().map(|subnet| gateway(*subnet)));
    all.map(|address| (address, node::UNDERLAY)).chain(hops.map(|hop| (hop, node::DIRECT))).collect()
}

/// The device of this node's address.
fn underlay(addresses: &[Address], config: &EbpfConfig) -> u32 {
    let own = config.addresses.iter().find_map(|own| addresses.iter().find(|a| a.network.ip() == own));
    own.map_or(0, |address| address.link)
}

/// Whether packets that come by a device are this host's to forward: not those of a bridge's port, which the bridge has
/// once more, not its own, and none without Ethernet.
fn forwards(link: &Link) -> bool {
    link.master.is_none() && link.name != "lo" && link.mac.is_some()
}

impl Host {
    /// Opens what it needs in the calling thread's network namespace. Programs hang at devices as
    /// `filters`, or at tcx.
    pub(super) fn open(filters: bool) -> io::Result<Host> {
        Ok(Host {
            rtnl: Rtnl::open()?,
            netns: Netns::open(Path::new("/proc/thread-self/ns/net"))?,
            config: Config::default(),
            locals: BTreeSet::new(),
            nodes: BTreeSet::new(),
            devices: Devices::new(filters),
            drivers: Drivers::default(),
        })
    }

    /// Reads what is written, and writes what does not change while the agent runs.
    pub(super) fn begin(&mut self, maps: &Maps, config: &EbpfConfig, netns: u64) -> io::Result<()> {
        self.locals = held(&maps.locals4, &maps.locals6)?;
        self.nodes = held(&maps.nodes4, &maps.nodes6)?;
        self.drivers = Drivers::begin(maps)?;
        self.config = maps.config.get(&0)?.unwrap_or_default();
        let mut wanted = Config {
            netns,
            new_flows: config.new_flows,
            hz: u32::try_from(1_000_000_000 / clock::coarse().1).unwrap_or(1000),
            cached: maps.cached.saturating_sub(1),
            sets: maps.flows4.sets().min(maps.flows6.sets()),
            seed: if self.config.seed == 0 { rand::random::<u32>() | 1 } else { self.config.seed },
            node4: config.addresses.v4.map_or([0; 4], |address| address.octets()),
            node6: config.addresses.v6.map_or([0; 16], |address| address.octets()),
            vips4: Default::default(),
            vips6: Default::default(),
            ..self.config
        };
        let of = |family| {
            config.vip_cidrs.iter().filter(move |cidr| Family::of(&cidr.ip()) == family).map(network)
        };
        wanted.vips4.iter_mut().zip(of(Family::V4)).for_each(|(to, cidr)| *to = cidr.map(first));
        wanted.vips6.iter_mut().zip(of(Family::V6)).for_each(|(to, cidr)| *to = cidr);
        self.write(maps, wanted)
    }

    fn write(&mut self, maps: &Maps, wanted: Config) -> io::Result<()> {
        if wanted != self.config {
            maps.config.put(&[(0, wanted)])?;
            self.config = wanted;
        }
        Ok(())
    }

    /// Makes every cached flow stale.
    pub(super) fn bump(&mut self, maps: &Maps) -> io::Result<()> {
        let epoch = self.config.epoch.wrapping_add(1);
        self.write(maps, Config { epoch, ..self.config })
    }

    /// For a teardown: takes the programs off the devices, as far as that is not a matter of pins.
    pub(super) fn forget(&mut self) -> io::Result<()> {
        self.drivers = Drivers::default();
        self.config = Config::default();
        self.devices.forget(&mut self.rtnl)
    }

    /// Follows what has changed; gives this host's addresses.
    pub(super) fn look(
        &mut self,
        kernel: &Kernel,
        maps: &Maps,
        config: &EbpfConfig,
    ) -> io::Result<BTreeSet<IpAddr>> {
        let addresses = self.rtnl.addresses()?;
        let links = self.rtnl.links()?;
        let locals: BTreeSet<IpAddr> = addresses.iter().map(|address| address.network.ip()).collect();
        let marked = locals.iter().map(|address| (*address, 1)).collect();
        if marked != self.locals {
            follow(&mut self.locals, marked, &maps.locals4, &maps.locals6)?;
        }
        if let Some(snapshots) = &config.snapshots {
            let snapshot = snapshots.borrow().clone();
            let nodes = nodes(&snapshot, config.direct);
            if nodes != self.nodes {
                follow(&mut self.nodes, nodes, &maps.nodes4, &maps.nodes6)?;
            }
        }
        let link = |name: &Option<String>| {
            name.as_ref().and_then(|name| links.iter().find(|link| link.name == *name))
        };
        let (bridge, device) = (link(&config.bridge), link(&config.tunnel));
        let on_bridge = |family| {
            let ours = addresses.iter().filter(|a| bridge.is_some_and(|bridge| a.link == bridge.index));
            ours.map(|a| a.network.ip())
                .find(|ip| Family::of(ip) == family && config.overlay.iter().any(|n| n.contains(*ip)))
                .map_or([0; 16], wide)
        };
        let wanted = Config {
            underlay: if config.direct { underlay(&addresses, config) } else { 0 },
            overlay: bridge.map_or(0, |bridge| bridge.index),
            tunnel: device.map_or(0, |device| device.index),
            overlay4: first(on_bridge(Family::V4)),
            overlay6: on_bridge(Family::V6),
            mode: mode::EGRESS | mesh_ebpf::ORDERED,
            ..self.config
        };
        self.write(maps, wanted)?;
        let forwarding: Vec<&Link> = links.iter().filter(|link| forwards(link)).collect();
        let devices: BTreeSet<u32> = forwarding.iter().map(|link| link.index).collect();
        self.devices.look(kernel, (&self.netns, &mut self.rtnl), devices)?;
        let tunnel = config.tunnel.as_ref().and_then(|name| links.iter().find(|link| link.name == *name));
        let (ours, host) = ((kernel, maps), (&self.netns, &mut self.rtnl));
        if self.drivers.look(config.xdp, ours, host, &forwarding, tunnel)? {
            self.bump(maps)?;
        }
        Ok(locals)
    }
}
