//! The program at XDP: which devices have it in their drivers, and what it is told of them and of the overlay.

use super::{maps::Maps, realize::wide};
use crate::sys::{
    netdev::{Features, Netdev},
    netns::Netns,
    rtnl::{Kind, Link, Rtnl},
};
use mesh_control::model::Family;
use mesh_ebpf::{
    Kernel, Map,
    common::xdp::{Device, Vtep, VtepKey, bit},
    place,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::Path,
};

/// Which devices have it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Xdp {
    /// None.
    #[default]
    Off,
    /// Those of the machine whose drivers run programs.
    Auto,
    /// All whose drivers do, pairs of veth(4) among them.
    Native,
}

impl Xdp {
    /// Whether a device's packets, or those that go by it, are for the program.
    fn wants(self, link: &Link) -> bool {
        match self {
            Xdp::Off => false,
            Xdp::Auto => link.kind == Kind::Hardware,
            Xdp::Native => !matches!(link.kind, Kind::Bridge | Kind::Vxlan(_)),
        }
    }
}

/// What was done about it.
#[derive(Debug, Default)]
pub(super) struct Drivers {
    netdev: Option<Netdev>,
    /// Whether the kernel does not say what devices can.
    silent: bool,
    /// What is written.
    devices: BTreeMap<u32, Device>,
    vteps: BTreeMap<VtepKey, Vtep>,
    /// Devices that have it; absent until that was looked at.
    have: Option<BTreeSet<u32>>,
    /// Devices that refused it. They are not asked again: that may interrupt their traffic.
    refused: BTreeSet<u32>,
}

impl Drivers {
    /// Reads what is written.
    pub(super) fn begin(maps: &Maps) -> io::Result<Drivers> {
        Ok(Drivers {
            devices: maps.xdp_devices.entries()?.into_iter().collect(),
            vteps: maps.xdp_vteps.entries()?.into_iter().collect(),
            ..Drivers::default()
        })
    }

    /// Follows what has changed; whether what was cached is stale. `links` are those whose packets are this host's to
    /// forward, `tunnel` is the overlay's VXLAN device.
    pub(super) fn look(
        &mut self,
        choice: Xdp,
        (kernel, maps): (&Kernel, &Maps),
        (netns, rtnl): (&Netns, &mut Rtnl),
        links: &[&Link],
        tunnel: Option<&Link>,
    ) -> io::Result<bool> {
        let links: Vec<&Link> = links.iter().copied().filter(|link| choice.wants(link)).collect();
        let mut features = self.features(netns, &links)?;
        let runs = links.iter().map(|link| link.index).filter(|i| features.get(i).is_some_and(|f| f.runs()));
        let runs: BTreeSet<u32> = runs.collect();
        self.refused.retain(|index| runs.contains(index));
        let wanted: BTreeSet<u32> = runs.difference(&self.refused).copied().collect();
        if self.have.as_ref() != Some(&wanted) {
            self.attach(kernel, netns, wanted)?;
            // An end of veth takes frames once the other has a program.
            features = self.features(netns, &links)?;
        }
        let have = self.have.iter().flatten().copied().collect::<BTreeSet<_>>();
        let devices = links
            .iter()
            .filter_map(|link| {
                let (has, features) = (have.contains(&link.index), features.get(&link.index)?);
                // What veth sends back waits at the other end, unless that has a program, until something else comes.
                let returns = has && link.kind != Kind::Veth;
                let bits =
                    if features.takes() { bit::SENDS } else { 0 } | if returns { bit::RETURNS } else { 0 };
                Some((link.index, Device { mac: link.mac?.0, bits }))
            })
            .collect();
        let vteps = match tunnel {
            Some(link) if !have.is_empty() => vteps(rtnl, link)?,
            _ => BTreeMap::new(),
        };
        // Both, whatever the first says.
        Ok(follow(&maps.xdp_devices, &mut self.devices, devices)?
            | follow(&maps.xdp_vteps, &mut self.vteps, vteps)?)
    }

    fn features(&mut self, netns: &Netns, links: &[&Link]) -> io::Result<BTreeMap<u32, Features>> {
        if links.is_empty() || self.silent {
            return Ok(BTreeMap::new());
        }
        if self.netdev.is_none() {
            match netns.run(Netdev::open)? {
                Ok(netdev) => self.netdev = Some(netdev),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.silent = true;
                    tracing::warn!(plane = super::NAME, %error, "no XDP: Linux 6.3 and later say which devices can");
                }
                Err(error) => return Err(error),
            }
        }
        self.netdev.as_mut().map_or(Ok(BTreeMap::new()), Netdev::features)
    }

    fn attach(&mut self, kernel: &Kernel, netns: &Netns, mut have: BTreeSet<u32>) -> io::Result<()> {
        let old = self.have.take().unwrap_or_default();
        let new: Vec<u32> = have.difference(&old).copied().collect();
        // A device is known by its number in the namespace of the thread that asks.
        netns.run(|| {
            for index in new {
                match kernel.attach_driver(index) {
                    Ok(()) => tracing::info!(plane = super::NAME, device = index, "packets are taken at XDP"),
                    Err(error) => {
                        tracing::warn!(plane = super::NAME, device = index, %error, "no XDP: packets are taken behind the driver");
                        have.remove(&index);
                        self.refused.insert(index);
                    }
                }
            }
        })?;
        kernel.only_drivers(&have.iter().copied().collect::<Vec<_>>())?;
        self.have = Some(have);
        Ok(())
    }
}

/// The devices of the calling thread's network namespace that have the program, by index; nothing is mounted for it.
///
/// # Errors
/// The system's.
pub fn drivers(bpffs: Option<&Path>) -> io::Result<Vec<u32>> {
    let Some(bpffs) = place::mounted_bpffs(bpffs) else { return Ok(Vec::new()) };
    match mesh_ebpf::drivers(&mesh_ebpf::folder(&bpffs, place::netns_cookie()?)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other,
    }
}

/// Where the other ends of a VXLAN device are.
fn vteps(rtnl: &mut Rtnl, link: &Link) -> io::Result<BTreeMap<VtepKey, Vtep>> {
    let Kind::Vxlan(vxlan) = link.kind else { return Ok(BTreeMap::new()) };
    let known = rtnl.fdb(link.index)?.into_iter().filter(|entry| {
        !vxlan.local.is_unspecified() && Family::of(&entry.remote) == Family::of(&vxlan.local)
    });
    let vtep = |remote| Vtep {
        remote: wide(remote),
        local: wide(vxlan.local),
        vni: vxlan.vni,
        port: vxlan.port.to_be(),
        family: if vxlan.local.is_ipv4() { 4 } else { 6 },
    };
    Ok(known
        .map(|entry| (VtepKey { device: link.index, mac: entry.mac.0, pad: 0 }, vtep(entry.remote)))
        .collect())
}

/// Writes what is new and deletes what is not there any more; whether there was any.
fn follow<K, V>(map: &Map<K, V>, held: &mut BTreeMap<K, V>, wanted: BTreeMap<K, V>) -> io::Result<bool>
where
    K: mesh_ebpf::Plain + Ord,
    V: mesh_ebpf::Plain + PartialEq,
{
    if *held == wanted {
        return Ok(false);
    }
    let new: Vec<(K, V)> =
        wanted.iter().filter(|(key, value)| held.get(key) != Some(value)).map(|(k, v)| (*k, *v)).collect();
    let old: Vec<K> = held.keys().filter(|key| !wanted.contains_key(key)).copied().collect();
    map.delete(&old)?;
    map.put(&new)?;
    *held = wanted;
    Ok(true)
}
