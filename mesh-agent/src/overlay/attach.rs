//! Puts namespaces on the bridge and takes them off.
//!
//! A container gets its address alone (/32, /128) and a default route through the gateway: even two containers of one
//! node talk through the host's network stack, so that what the host translates on the way there it sees on the way back.

use super::{
    leases::{Lease, allocate, check, misfits, port, usable},
    plan::OverlayPlan,
    step::is_mark,
};
use crate::sys::{
    netns::Netns,
    rtnl::{Address, Link, LinkChange, NewVeth, Route, Rtnl, errno},
    sysctl,
};
use ipnetwork::IpNetwork;
use mesh_control::model::Snapshot;
use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
};

/// What an operator asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AttachRequest {
    /// The namespace's file, as the agent sees it.
    pub netns: PathBuf,
    /// What its link is called there.
    pub name: String,
    /// An address of this node's subnet to have, instead of the next free one.
    pub address: Option<IpAddr>,
}

/// A namespace that is on the bridge.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attachment {
    /// The namespace, its link and the addresses.
    pub lease: Lease,
    /// The link's other end, on the bridge.
    pub port: String,
    /// The gateways, one for each address.
    pub gateways: Vec<IpAddr>,
    /// The link's MTU, bytes.
    pub mtu: u32,
}

/// Why a namespace was not put on the bridge, or not taken off.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// A value is wrong.
    #[error("{field}: {problem}")]
    Invalid {
        /// Of the request.
        field: &'static str,
        /// The value, the rule and the fix.
        problem: String,
    },
    /// The address is somebody's, or there is none left.
    #[error("{0}")]
    Taken(String),
    /// There is no overlay (yet).
    #[error("{0}")]
    Unavailable(String),
    /// The kernel refuses.
    #[error("{0}")]
    Kernel(#[from] io::Error),
}

fn invalid(field: &'static str, problem: String) -> AttachError {
    AttachError::Invalid { field, problem }
}

/// The containers' side of the overlay on this node.
#[derive(Debug, Default)]
pub struct Containers {
    /// The address of each family that was given last.
    last: Vec<IpAddr>,
}

/// The overlay as containers need it.
#[derive(Clone, Copy, Debug)]
pub struct Ground<'a> {
    /// What stands.
    pub plan: &'a OverlayPlan,
    /// The whole overlay and the VIPs: what a container with a default route of its own reaches through the gateway.
    pub networks: &'a [IpNetwork],
    /// Where it says which addresses others have: those of endpoints are given to nobody.
    pub snapshot: &'a Snapshot,
}

/// The ports that carry a lease.
///
/// # Errors
/// What the kernel says.
pub fn ports(rtnl: &mut Rtnl) -> io::Result<Vec<(Link, Lease)>> {
    let read = |link: Link| {
        let lease = Lease::read(link.alias.as_deref()?)?;
        Some((link, lease))
    };
    Ok(rtnl.veths()?.into_iter().filter_map(read).collect())
}

impl Containers {
    /// Puts a namespace on the bridge; one that is there already stays as it is.
    ///
    /// # Errors
    /// [`AttachError`]; nothing is left behind then.
    pub fn attach(
        &mut self,
        rtnl: &mut Rtnl,
        ground: Ground<'_>,
        request: &AttachRequest,
    ) -> Result<Attachment, AttachError> {
        check(&request.netns, &request.name).map_err(|(field, problem)| invalid(field, problem))?;
        let plan = ground.plan;
        let open = |error| invalid("netns", format!("{}: {error}", request.netns.display()));
        let netns = Netns::open(&request.netns).map_err(open)?;
        let identity = netns.identity().map_err(open)?;
        let (Some(bridge), false) = (rtnl.link(&plan.bridge.name)?, plan.gateways.is_empty()) else {
            return Err(AttachError::Unavailable(
                "this node has no subnet yet: try again in a moment".into(),
            ));
        };
        let there = ports(rtnl)?;
        let port = port(identity, &request.name);
        if let Some((_, lease)) = there.iter().find(|(link, _)| link.name == port) {
            if request.address.is_some_and(|address| !lease.addresses.contains(&address)) {
                let has: Vec<String> = lease.addresses.iter().map(ToString::to_string).collect();
                let problem = format!("the namespace is attached with {}: detach it first", has.join(", "));
                return Err(AttachError::Taken(problem));
            }
            return Ok(attachment(plan, lease.clone()));
        }
        let addresses = self.choose(ground, &there, request.address)?;
        let (netns_path, name) = (request.netns.clone(), request.name.clone());
        let lease = Lease { netns: netns_path, identity, name, addresses };
        let veth = NewVeth {
            name: &port,
            bridge: bridge.index,
            alias: &lease.alias(),
            peer: &lease.name,
            netns: &netns,
            mtu: plan.bridge.mtu,
        };
        rtnl.create_veth(&veth).map_err(|error| match errno(&error) {
            Some(libc::EEXIST) => {
                invalid("name", format!("the namespace has a link {} already: give another", lease.name))
            }
            _ => AttachError::Kernel(io::Error::new(error.kind(), format!("veth pair: {error}"))),
        })?;
        if let Err(error) = inside(&netns, &lease.name, &lease.addresses, ground) {
            // The error that led here is the one to tell.
            let _ = remove(rtnl, &port);
            return Err(error.into());
        }
        Ok(attachment(plan, lease))
    }

    /// Addresses for a new container, one for each family of this node: `wanted` in its own.
    fn choose(
        &mut self,
        ground: Ground<'_>,
        there: &[(Link, Lease)],
        wanted: Option<IpAddr>,
    ) -> Result<Vec<IpAddr>, AttachError> {
        let subnets = &ground.plan.gateways;
        let held: BTreeSet<IpAddr> = there.iter().flat_map(|(_, lease)| lease.addresses.clone()).collect();
        if let Some(wanted) = wanted {
            if !subnets.iter().any(|subnet| usable(*subnet, wanted)) {
                let own: Vec<String> =
                    subnets.iter().map(|s| format!("{}/{}", s.network(), s.prefix())).collect();
                let problem = format!("{wanted} is none for containers of {}: choose one", own.join(", "));
                return Err(invalid("address", problem));
            }
            if held.contains(&wanted) {
                return Err(AttachError::Taken(format!(
                    "{wanted} belongs to another container of this node"
                )));
            }
        }
        let announced = ground.snapshot.services.values().flat_map(|service| service.endpoints.iter());
        let announced = announced.flat_map(|view| view.endpoint.addresses.iter());
        let taken = held.into_iter().chain(announced).collect();
        let mut chosen = Vec::new();
        for subnet in subnets {
            let same = |address: &IpAddr| address.is_ipv4() == subnet.is_ipv4();
            let last = self.last.iter().copied().find(same);
            let address = match wanted.filter(same) {
                Some(wanted) => wanted,
                None => allocate(*subnet, &taken, last)
                    .ok_or_else(|| AttachError::Taken(format!("no address of {subnet} is free")))?,
            };
            self.last.retain(|address| !same(address));
            self.last.push(address);
            chosen.push(address);
        }
        Ok(chosen)
    }

    /// Gives new addresses to containers whose addresses cannot stay, and the overlay's MTU to all. Returns what was
    /// done and what could not be.
    ///
    /// # Errors
    /// What the kernel says when it cannot be asked.
    pub fn repair(&mut self, rtnl: &mut Rtnl, ground: Ground<'_>) -> io::Result<(Vec<String>, Vec<String>)> {
        let plan = ground.plan;
        let there = ports(rtnl)?;
        let (mut done, mut failed) = (Vec::new(), Vec::new());
        for (link, lease) in misfits(&there, &plan.gateways) {
            let result = self.choose(ground, &there, None).and_then(|addresses| {
                let renewed = Lease { addresses, ..lease.clone() };
                let netns = reopen(lease)?;
                inside(&netns, &lease.name, &renewed.addresses, ground)?;
                rtnl.change_link(link.index, LinkChange::Alias(&renewed.alias()))?;
                Ok(renewed)
            });
            let (name, netns) = (&lease.name, lease.netns.display());
            match result {
                Ok(new) => {
                    done.push(format!("{name} in {netns} got {:?} for {:?}", new.addresses, lease.addresses));
                }
                Err(error) => failed.push(format!(
                    "the addresses {:?} of {name} in {netns} cannot stay, and it gets no others: {error}",
                    lease.addresses
                )),
            }
        }
        let bridge = rtnl.link(&plan.bridge.name)?.map(|bridge| bridge.index);
        for (link, _) in there.iter().filter(|(link, _)| link.master != bridge || !link.up) {
            let Some(bridge) = bridge else { break };
            match rtnl.make_port(link.index, bridge) {
                Ok(()) => done.push(format!("{} is a port of {} again", link.name, plan.bridge.name)),
                Err(error) => failed.push(format!("{}: {error}", link.name)),
            }
        }
        for (link, lease) in there.iter().filter(|(link, _)| link.mtu != plan.bridge.mtu) {
            rtnl.change_link(link.index, LinkChange::Mtu(plan.bridge.mtu))?;
            // The other end is the container's: what it sends too large is answered with what fits.
            let set = reopen(lease).and_then(|netns| set_mtu(&netns, &lease.name, plan.bridge.mtu));
            done.push(format!("{} got the mtu {}: {set:?}", link.name, plan.bridge.mtu));
        }
        Ok((done, failed))
    }
}

/// Takes a namespace off the bridge, also one whose file is gone; whether it was on it.
///
/// # Errors
/// What the kernel says.
pub fn detach(rtnl: &mut Rtnl, netns: &Path, name: &str) -> io::Result<bool> {
    let identity = Netns::open(netns).and_then(|netns| netns.identity()).ok();
    let this = |lease: &Lease| match identity {
        Some(identity) => lease.identity == identity,
        None => lease.netns == netns,
    };
    let there = ports(rtnl)?;
    let found = there.iter().find(|(_, lease)| lease.name == name && this(lease));
    found.map_or(Ok(false), |(link, _)| remove(rtnl, &link.name))
}

fn remove(rtnl: &mut Rtnl, port: &str) -> io::Result<bool> {
    match rtnl.link(port)? {
        Some(link) if link.alias.as_deref().is_some_and(is_mark) => {
            rtnl.remove_link(link.index).map(|()| true)
        }
        _ => Ok(false),
    }
}

/// The attachment that a lease stands for.
#[must_use]
pub fn attachment(plan: &OverlayPlan, lease: Lease) -> Attachment {
    let gateway = |a: &IpAddr| plan.gateways.iter().find(|g| g.is_ipv4() == a.is_ipv4()).map(IpNetwork::ip);
    let gateways = lease.addresses.iter().filter_map(gateway).collect();
    Attachment { port: lease.port(), gateways, mtu: plan.bridge.mtu, lease }
}

/// The namespace of a lease, if its path still leads to it.
fn reopen(lease: &Lease) -> io::Result<Netns> {
    let netns = Netns::open(&lease.netns)?;
    if netns.identity()? == lease.identity {
        return Ok(netns);
    }
    Err(io::Error::new(io::ErrorKind::NotFound, "the path leads to another namespace now"))
}

fn set_mtu(netns: &Netns, name: &str, mtu: u32) -> io::Result<()> {
    netns.run(|| {
        let mut rtnl = Rtnl::open()?;
        let link = rtnl.link(name)?.ok_or(io::ErrorKind::NotFound)?;
        rtnl.change_link(link.index, LinkChange::Mtu(mtu))
    })?
}

/// Sets a container's link up with `new` addresses instead of those of the overlay that it has.
fn inside(netns: &Netns, name: &str, new: &[IpAddr], ground: Ground<'_>) -> io::Result<()> {
    netns.run(|| {
        let mut rtnl = Rtnl::open()?;
        let link = rtnl.link(name)?.ok_or(io::ErrorKind::NotFound)?.index;
        let old = rtnl.addresses()?.into_iter().filter(|address| {
            let ip = address.network.ip();
            address.link == link && !new.contains(&ip) && ground.networks.iter().any(|n| n.contains(ip))
        });
        for address in old {
            rtnl.remove_address(&address)?;
        }
        // Ready at once: nobody else has the address, and no router speaks there. Without IPv6 there are no such keys.
        for (key, value) in [("disable_ipv6", "0"), ("accept_dad", "0"), ("accept_ra", "0")] {
            let key = format!("ipv6/conf/{name}/{key}");
            if sysctl::read(&key)?.is_some_and(|now| now != value) {
                sysctl::write(&key, value)?;
            }
        }
        if let Some(lo) = rtnl.link("lo")?.filter(|lo| !lo.up) {
            rtnl.change_link(lo.index, LinkChange::Up(true))?;
        }
        rtnl.change_link(link, LinkChange::Up(true))?;
        for address in new {
            rtnl.add_address(&Address { link, network: IpNetwork::from(*address) })?;
            let gateway = ground.plan.gateways.iter().find(|g| g.is_ipv4() == address.is_ipv4());
            if let Some(gateway) = gateway {
                routes(&mut rtnl, link, gateway.ip(), ground.networks)?;
            }
        }
        Ok(())
    })?
}

/// The default route, or where the container has one already, routes to the overlay and the VIPs.
fn routes(rtnl: &mut Rtnl, link: u32, gateway: IpAddr, networks: &[IpNetwork]) -> io::Result<()> {
    let ours = rtnl.routes()?;
    let mut add = |destination: IpNetwork| {
        let route = Route { table: Route::MAIN, destination, via: Some(gateway), link, source: None };
        let same = |r: &&Route| (r.table, r.destination, r.link) == (route.table, route.destination, link);
        match ours.iter().find(same) {
            Some(there) if *there == route => Ok(()),
            Some(_) => rtnl.replace_route(&route),
            None => rtnl.add_route(&route),
        }
    };
    let any: IpAddr =
        if gateway.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let default = IpNetwork::new(any, 0).map_err(|_| io::ErrorKind::InvalidInput)?;
    match add(default) {
        Err(error) if errno(&error) == Some(libc::EEXIST) => {
            networks.iter().filter(|n| n.is_ipv4() == gateway.is_ipv4()).try_for_each(|n| add(*n))
        }
        result => result,
    }
}

/// Of all leases on the bridge.
///
/// # Errors
/// What the kernel says.
pub fn attachments(rtnl: &mut Rtnl, plan: &OverlayPlan) -> io::Result<Vec<Attachment>> {
    let there = ports(rtnl)?;
    Ok(there.into_iter().map(|(_, lease)| attachment(plan, lease)).collect())
}
