//! What the tunnels should be, and the steps that lead there: pure.
//!
//! ```text
//! mesh-vx ─ to fd6d:…:b (node b) ─ route ─▶ mesh-wg, from this key's own address ─ allowed: b's key ─▶ UDP ─▶ node b
//! ```
//! Two choices are made for each node: which of its keys its address belongs to, and which of this node's ends leads
//! there. Each is changed in one call of the kernel, and only for one that has answered: so no packet is ever without a
//! way that both sides know.

use super::{
    address,
    end::{End, NAMES, Turn, age, port, turn},
};
use crate::{
    overlay::{
        config::Encryption,
        plan::{OverlayPlan, Peer},
        step::{Change, Step, thing_steps},
        thing::Thing,
    },
    sys::{
        rtnl::{Address, Route},
        wireguard::{Key, NewPeer},
    },
};
use ipnetwork::IpNetwork;
use mesh_control::model::{NodeName, Tunnel};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

/// So often something is sent to each peer: sessions stand before they are needed, and firewalls remember them.
const KEEPALIVE: u16 = 25;
/// A session lives no longer without being renewed (`REJECT_AFTER_TIME` of WireGuard's paper, section 6.1), seconds.
const SESSION: u64 = 180;
/// So long nodes may take to answer at a new key before it is told, seconds.
const PATIENCE: u64 = 60;

/// What the kernel holds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Observed {
    /// This program's devices, at most two.
    pub ends: Vec<End>,
    /// What is on them, and the route that refuses the rest of the network.
    pub things: BTreeSet<Thing>,
    /// The parameters of the devices that are there.
    pub sysctls: BTreeMap<String, String>,
}

/// One change in the kernel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Move {
    /// Make the device of this slot, with a new key.
    Make {
        /// Which of [`NAMES`].
        slot: usize,
        /// Bytes.
        mtu: u32,
    },
    /// Give a device a new key.
    Key(u32, &'static str),
    /// Give a device its UDP port.
    Port(u32, &'static str, u16),
    /// Add a peer, or change it.
    Put(u32, NodeName, NewPeer),
    /// Remove a peer.
    Drop(u32, Key),
    /// What is not WireGuard's.
    Step(Step),
}

impl fmt::Display for Move {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Move::Make { slot, mtu } => write!(f, "make link {} with a new key (mtu {mtu})", NAMES[*slot]),
            Move::Key(_, name) => write!(f, "give {name} a new key"),
            Move::Port(_, name, port) => write!(f, "give {name} the UDP port {port}"),
            Move::Put(_, node, peer) => write!(f, "seal for {node} with {}", short(&peer.key)),
            Move::Drop(_, key) => write!(f, "forget the key {}", short(key)),
            Move::Step(step) => step.fmt(f),
        }
    }
}

/// A key is too long for people; its start tells it.
fn short(key: &Key) -> String {
    mesh_control::model::TunnelKey(*key).to_string().chars().take(8).collect()
}

/// What came of looking.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tunnels {
    /// This node's ends for the others to know, the older first.
    pub announce: Vec<Tunnel>,
    /// Whether a key is being changed here or elsewhere: it goes on when others answer, of which the kernel says nothing.
    pub turning: bool,
    /// For people.
    pub problems: Vec<String>,
}

/// All that is to be said of a mesh.
#[derive(Clone, Copy)]
pub struct Scene<'a> {
    /// The overlay.
    pub plan: &'a OverlayPlan,
    /// This node's name.
    pub me: &'a NodeName,
    /// Whether a node is up.
    pub is_up: &'a dyn Fn(&NodeName) -> bool,
    /// How to seal.
    pub encryption: &'a Encryption,
    /// Unix seconds.
    pub now: u64,
}

impl Scene<'_> {
    /// The steps from `observed` to what should be, in order, and what is to be said. Everything is there already when
    /// there are none.
    #[must_use]
    pub fn steps(&self, mut observed: Observed) -> (Vec<Move>, Tunnels) {
        let mut moves = Vec::new();
        let mut gone = None;
        observed.ends.sort_by_key(age);
        let turning = observed.ends.len() > 1 || self.plan.peers.iter().any(|peer| peer.tunnels.len() > 1);
        match turn(&observed.ends, self.encryption, self.now, self.lagging(&observed.ends).is_empty()) {
            Some(Turn::Make(slot)) => moves.push(Move::Make { slot, mtu: self.mtu() }),
            Some(Turn::Retire(slot)) => {
                let old = observed.ends.iter_mut().find(|end| end.slot == slot);
                if let Some(old) = old {
                    old.stamp.retired = Some(self.now);
                }
            }
            Some(Turn::Remove(slot)) => {
                let at = observed.ends.iter().position(|end| end.slot == slot);
                gone = at.map(|at| observed.ends.remove(at));
            }
            None => {}
        }
        let ends = &observed.ends;
        for end in ends {
            moves.extend(self.link(end, &observed.sysctls));
            moves.extend(self.peers(end));
        }
        let on_gone = |thing: &Thing| gone.as_ref().is_some_and(|end| thing.link() == Some(end.link.index));
        observed.things.retain(|thing| !on_gone(thing));
        moves.extend(thing_steps(&observed.things, &self.things(ends), |_| true).into_iter().map(Move::Step));
        moves.extend(gone.map(|end| {
            let (index, name) = (end.link.index, end.link.name);
            Move::Step(Step::RemoveLink { index, name })
        }));
        (moves, Tunnels { announce: self.announce(ends), turning, problems: self.problems(ends) })
    }

    fn announce(&self, ends: &[End]) -> Vec<Tunnel> {
        ends.iter().filter_map(|end| end.announced(self.encryption, self.now)).collect()
    }

    fn mtu(&self) -> u32 {
        self.plan.vxlan.mtu.saturating_add(super::VXLAN)
    }

    /// Nodes that do not answer at the newest of several ends, though they are there: by what gossip says, or by what
    /// an older end heard.
    fn lagging(&self, ends: &[End]) -> Vec<&NodeName> {
        let Some((newest, older)) = ends.split_last().filter(|(_, older)| !older.is_empty()) else {
            return Vec::new();
        };
        let heard = |peer: &Peer| {
            let sessions = older.iter().flat_map(|end| peer.tunnels.iter().filter_map(|t| end.heard(&t.key)));
            sessions.filter_map(|heard| heard.handshake).any(|at| self.now.saturating_sub(at) < SESSION)
        };
        let peers = self.plan.peers.iter().filter(|peer| !peer.tunnels.is_empty());
        let there = peers.filter(|peer| (self.is_up)(&peer.node) || heard(peer));
        there.filter(|peer| !reaches(newest, peer)).map(|peer| &peer.node).collect()
    }

    fn problems(&self, ends: &[End]) -> Vec<String> {
        let newest = ends.last().filter(|_| ends.iter().filter(|end| end.is_live()).count() > 1);
        let Some(newest) = newest.filter(|end| self.now.saturating_sub(end.stamp.since) > PATIENCE) else {
            return Vec::new();
        };
        let port = port(self.encryption, newest.slot);
        let told = |node: &NodeName| {
            format!(
                "{node} does not answer at this node's new key, so the old one stays: \
                 let UDP port {port} through between nodes"
            )
        };
        self.lagging(ends).into_iter().map(told).collect()
    }

    /// What makes an end whole, its peers aside.
    fn link(&self, end: &End, sysctls: &BTreeMap<String, String>) -> Vec<Move> {
        let (index, name, link) = (end.link.index, NAMES[end.slot.min(1)], &end.link);
        let change = |change| Move::Step(Step::ChangeLink { index, name: name.to_owned(), change });
        let alias = end.stamp.alias();
        let mut moves = Vec::new();
        if link.alias.as_deref() != Some(alias.as_str()) {
            moves.push(change(Change::Alias(alias)));
        }
        if link.mtu != self.mtu() {
            moves.push(change(Change::Mtu(self.mtu())));
        }
        if end.device.key.is_none() {
            moves.push(Move::Key(index, name));
        }
        let port = port(self.encryption, end.slot);
        if end.device.port != port {
            moves.push(Move::Port(index, name, port));
        }
        let (key, value) = no_ipv6(name);
        if sysctls.get(&key).is_some_and(|found| *found != value) {
            moves.push(Move::Step(Step::Sysctl((key, value))));
        }
        if !link.up {
            moves.push(change(Change::Up));
        }
        moves
    }

    /// What the peers of an end lack. What goes, goes last: an address that moves from one key to another is never
    /// nobody's.
    fn peers(&self, end: &End) -> Vec<Move> {
        let wanted: BTreeMap<Key, (&Peer, NewPeer)> =
            self.plan.peers.iter().flat_map(|peer| self.wanted(end, peer)).collect();
        let somebodys = |network: &IpNetwork| wanted.values().any(|(_, peer)| peer.allowed.contains(network));
        let index = end.link.index;
        let mut moves = Vec::new();
        for (peer, new) in wanted.values() {
            let put = |new: NewPeer| Move::Put(index, peer.node.clone(), new);
            let Some(held) = end.device.peers.iter().find(|held| held.key == new.key) else {
                moves.push(put(new.clone()));
                continue;
            };
            // One that talks is where it talks from, whatever it announced.
            let talks = held.handshake.is_some_and(|at| self.now.saturating_sub(at) < SESSION);
            let moved = !talks && held.endpoint != new.endpoint;
            let only =
                held.allowed.iter().any(|network| !new.allowed.contains(network) && !somebodys(network));
            let lacks = new.allowed.iter().any(|network| !held.allowed.contains(network));
            if moved || only || lacks || held.keepalive != new.keepalive {
                let endpoint = new.endpoint.filter(|_| moved);
                moves.push(put(NewPeer { endpoint, only, ..new.clone() }));
            }
        }
        let unknown = end.device.peers.iter().filter(|held| !wanted.contains_key(&held.key));
        moves.extend(unknown.map(|held| Move::Drop(index, held.key)));
        moves
    }

    /// The keys of a node as peers of an end. Its address belongs to the newest that has answered.
    fn wanted<'p>(&self, end: &End, peer: &'p Peer) -> Vec<(Key, (&'p Peer, NewPeer))> {
        let newest = peer.tunnels.iter().rev().find(|tunnel| end.answered(tunnel));
        let chosen = newest.or(peer.tunnels.first());
        let wanted = |tunnel: &Tunnel| {
            let mut allowed = vec![alone(address::of_key(&tunnel.key))];
            if Some(tunnel) == chosen {
                allowed.push(alone(address::of_node(&peer.node)));
            }
            let endpoint = Some(SocketAddr::new(peer.underlay, tunnel.port));
            let key = tunnel.key.0;
            (key, (peer, NewPeer { key, endpoint, allowed, only: false, keepalive: KEEPALIVE }))
        };
        peer.tunnels.iter().map(wanted).collect()
    }

    fn things(&self, ends: &[End]) -> BTreeSet<Thing> {
        let mut things = BTreeSet::from([refused()]);
        for (end, key) in ends.iter().filter_map(|end| Some((end, end.key()?))) {
            for address in [address::of_node(self.me), address::of_key(&key)] {
                things.insert(Thing::Address(Address { link: end.link.index, network: alone(address) }));
            }
        }
        for peer in &self.plan.peers {
            let Some((end, key)) = through(ends, peer).and_then(|end| Some((end, end.key()?))) else {
                continue;
            };
            things.insert(Thing::Route(Route {
                table: Route::MAIN,
                destination: alone(address::of_node(&peer.node)),
                via: None,
                link: end.link.index,
                source: Some(address::of_key(&key).into()),
            }));
        }
        things
    }
}

/// The end that leads to a node: the newest at which it has answered, or the oldest that is announced.
fn through<'e>(ends: &'e [End], peer: &Peer) -> Option<&'e End> {
    if peer.tunnels.is_empty() {
        return None;
    }
    let live = || ends.iter().filter(|end| end.is_live());
    live().rev().find(|end| reaches(end, peer)).or_else(|| live().next()).or(ends.last())
}

/// Whether a node has answered at an end, with whichever key.
fn reaches(end: &End, peer: &Peer) -> bool {
    peer.tunnels.iter().any(|tunnel| end.answered(tunnel))
}

/// A host may have switched IPv6 off for new links.
pub(super) fn no_ipv6(link: &str) -> (String, String) {
    (format!("ipv6/conf/{link}/disable_ipv6"), "0".to_owned())
}

fn alone(address: Ipv6Addr) -> IpNetwork {
    IpAddr::from(address).into()
}

/// What is sent to a node without a way through the tunnels goes nowhere, least of all in plain to a default router.
pub(super) fn refused() -> Thing {
    let (base, prefix) = address::NETWORK;
    let alone = alone(base);
    let destination = IpNetwork::new(base.into(), prefix).unwrap_or(alone);
    Thing::Route(Route { table: Route::MAIN, destination, via: None, link: 0, source: None })
}
