//! What the programs have to know of the host: its addresses, devices and those of the mesh.

use super::{
    EbpfConfig,
    core::SetUp,
    maps::Maps,
    realize::{first, wide},
};
use crate::sys::{
    clock,
    netns::Netns,
    rtnl::{Link, Rtnl},
};
use mesh_control::model::Family;
use mesh_ebpf::{
    Map,
    common::{CLASH_MARK, Config, GUEST_MARK, V4, V6, mode},
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
    locals: BTreeSet<IpAddr>,
    nodes: BTreeSet<IpAddr>,
    /// Devices that have the programs.
    devices: BTreeSet<u32>,
}

/// A network and its mask.
fn network(cidr: &ipnetwork::IpNetwork) -> [V6; 2] {
    [wide(cidr.network()), wide(cidr.mask())]
}

/// Writes what is new in a set of addresses, and deletes what is not there any more.
fn follow(
    held: &mut BTreeSet<IpAddr>,
    wanted: BTreeSet<IpAddr>,
    four: &Map<V4, u8>,
    six: &Map<V6, u8>,
) -> io::Result<()> {
    let split = |addresses: Vec<IpAddr>| -> (Vec<V4>, Vec<V6>) {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for address in addresses {
            match address {
                IpAddr::V4(address) => v4.push(address.octets()),
                IpAddr::V6(address) => v6.push(address.octets()),
            }
        }
        (v4, v6)
    };
    let (new4, new6) = split(wanted.difference(held).copied().collect());
    let (old4, old6) = split(held.difference(&wanted).copied().collect());
    four.put(&new4.into_iter().map(|address| (address, 1)).collect::<Vec<_>>())?;
    six.put(&new6.into_iter().map(|address| (address, 1)).collect::<Vec<_>>())?;
    four.delete(&old4)?;
    six.delete(&old6)?;
    *held = wanted;
    Ok(())
}

fn held(four: &Map<V4, u8>, six: &Map<V6, u8>) -> io::Result<BTreeSet<IpAddr>> {
    let four = four.entries()?.into_iter().map(|(address, _)| IpAddr::from(address));
    let six = six.entries()?.into_iter().map(|(address, _)| IpAddr::from(address));
    Ok(four.chain(six).collect())
}

/// Whether packets that come by a device are this host's to forward: not those of a bridge's port, which the bridge has
/// once more, not its own, and none without Ethernet.
fn forwards(link: &Link) -> bool {
    link.master.is_none() && link.name != "lo" && link.mac.is_some()
}

impl Host {
    /// Opens what it needs in the calling thread's network namespace.
    pub(super) fn open() -> io::Result<Host> {
        Ok(Host {
            rtnl: Rtnl::open()?,
            netns: Netns::open(Path::new("/proc/thread-self/ns/net"))?,
            config: Config::default(),
            locals: BTreeSet::new(),
            nodes: BTreeSet::new(),
            devices: BTreeSet::new(),
        })
    }

    /// Reads what is written, and writes what does not change while the agent runs.
    pub(super) fn begin(&mut self, maps: &Maps, config: &EbpfConfig, netns: u64) -> io::Result<()> {
        self.locals = held(&maps.locals4, &maps.locals6)?;
        self.nodes = held(&maps.nodes4, &maps.nodes6)?;
        self.config = maps.config.get(&0)?.unwrap_or_default();
        let mut wanted = Config {
            netns,
            new_flows: config.new_flows,
            hz: u32::try_from(1_000_000_000 / clock::coarse().1).unwrap_or(1000),
            cached: maps.cached.saturating_sub(1),
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

    /// After a teardown.
    pub(super) fn forget(&mut self) {
        self.devices.clear();
        self.config = Config::default();
    }

    /// Follows what has changed; gives this host's addresses.
    pub(super) fn look(&mut self, set_up: &SetUp, config: &EbpfConfig) -> io::Result<BTreeSet<IpAddr>> {
        let SetUp { kernel, maps } = set_up;
        let addresses = self.rtnl.addresses()?;
        let links = self.rtnl.links()?;
        let locals: BTreeSet<IpAddr> = addresses.iter().map(|address| address.network.ip()).collect();
        if locals != self.locals {
            follow(&mut self.locals, locals.clone(), &maps.locals4, &maps.locals6)?;
        }
        if let Some(snapshots) = &config.snapshots {
            let snapshot = snapshots.borrow().clone();
            let nodes: BTreeSet<IpAddr> =
                snapshot.nodes.values().flat_map(|node| node.info.addresses.iter()).collect();
            if nodes != self.nodes {
                follow(&mut self.nodes, nodes, &maps.nodes4, &maps.nodes6)?;
            }
        }
        let link = |name: &Option<String>| {
            name.as_ref().and_then(|name| links.iter().find(|link| link.name == *name))
        };
        let (bridge, device) = (link(&config.bridge), link(&config.device));
        let on_bridge = |family| {
            let ours = addresses.iter().filter(|a| bridge.is_some_and(|bridge| a.link == bridge.index));
            ours.map(|a| a.network.ip())
                .find(|ip| Family::of(ip) == family && config.overlay.iter().any(|n| n.contains(*ip)))
                .map_or([0; 16], wide)
        };
        let wanted = Config {
            overlay: bridge.map_or(0, |bridge| bridge.index),
            tunnel: device.map_or(0, |device| device.index),
            overlay4: first(on_bridge(Family::V4)),
            overlay6: on_bridge(Family::V6),
            mode: mode::EGRESS,
            ..self.config
        };
        self.write(maps, wanted)?;
        let devices: BTreeSet<u32> =
            links.iter().filter(|link| forwards(link)).map(|link| link.index).collect();
        if devices != self.devices {
            // A device is known by its number in the namespace of the thread that asks.
            let new: Vec<u32> = devices.difference(&self.devices).copied().collect();
            self.netns.run(|| {
                for index in new {
                    if let Err(error) = kernel.attach_device(index) {
                        tracing::warn!(plane = super::NAME, device = index, %error, "its packets are not balanced");
                    }
                }
            })?;
            kernel.only_devices(&devices.iter().copied().collect::<Vec<_>>())?;
            self.devices = devices;
        }
        Ok(locals)
    }
}
