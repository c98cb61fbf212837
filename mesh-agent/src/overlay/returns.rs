//! The way back of flows that came in at another node with their client's own address: through that node, where the
//! flow was translated. Shared by every data plane that keeps the client's address.
//!
//! ```text
//! ingress node:  client → node:8080 ─ dnat ─▶ 10.244.2.5:80 ─ mesh-vx ─▶ backend's node
//! backend's node: in by mesh-vx, source not of the overlay: zone and ct mark = number of the VTEP it came from
//!                 answer of such a flow: mark = ct mark ─ ip rule ─▶ table 77 ─▶ mesh-vx
//!                 egress of mesh-vx: destination MAC = that VTEP's, mark = 0 ─▶ VXLAN ─▶ ingress node
//! ```
//!
//! A client may use one port of its own for connections to several nodes, which this one backend would take for the same.
//! So each ingress node's flows have a conntrack zone of their own in the client's direction, and none in the answers':
//! there conntrack finds that they clash, and gives the later flow another source port. Flows that conntrack does not see
//! are told of by a mark (eBPF's programs, [`CLASH_MARK`](super::plan::CLASH_MARK)).
//!
//! IPVS knows no zones: it takes the answer of such a flow for one of its own when the client, its port and the backend
//! are the same. So where IPVS is this node's data plane, the client's port of such a flow has its first bit turned between
//! the two ends of the overlay's device on this node: ports that systems give connections (32,768 and above) become others.
//!
//! What comes to a VIP was sent on as it was (IPVS with `forward: direct`): its answers leave from here, by this node's own
//! routes.
//!
//! One client's address cannot be kept: that of the backend's own node, dialling a port of another. Its answers would
//! be at home before they were translated, so flows of nodes get the ingress node's address on the overlay.
//!
//! The number of rules does not grow with the nodes: two maps do. The mark has to be cleared on the way out, or the
//! outer packet would take the same route again. Routes and the rule are the overlay's own ([`super::plan`]).

mod rules;

pub use rules::TABLE;

use super::plan::{OverlayPlan, Peer, RETURN_MARK, RETURN_MASK};
use crate::sys::{
    nft::{Data, Element, Family, Nft, Set, Table, Transaction},
    rtnl::Mac,
    ruleset::has_egress,
};
use ipnetwork::IpNetwork;
use rules::{Chain, Ground, VTEPS, tables};
use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    io,
    net::IpAddr,
};

/// Changes with the rules: those of another version are laid anew.
const VERSION: &str = "5";

/// The marks of peers by link-layer address.
pub type Marks = BTreeMap<Mac, u32>;

/// The mark of every peer: the one it has, else the first free from a number of its own on. Pure.
#[must_use]
pub fn marks(held: &Marks, peers: &[Peer]) -> Marks {
    let macs: BTreeSet<Mac> = peers.iter().map(|peer| peer.mac).collect();
    let mut marks: Marks =
        held.iter().filter(|(mac, _)| macs.contains(*mac)).map(|(m, v)| (*m, *v)).collect();
    let mut used: BTreeSet<u32> = marks.values().copied().collect();
    for mac in macs {
        let Entry::Vacant(place) = marks.entry(mac) else { continue };
        let Mac([.., a, b, c]) = mac;
        let own = u32::from_be_bytes([0, a, b, c]);
        let mut numbers = (0..=!RETURN_MASK).map(|n| RETURN_MARK | (own.wrapping_add(n) & !RETURN_MASK));
        // Zone 0 is that of all other flows.
        if let Some(mark) = numbers.find(|mark| mark & 0xffff != 0 && !used.contains(mark)) {
            used.insert(mark);
            place.insert(mark);
        }
    }
    marks
}

/// Elements of the sets, in the order of [`tables`].
fn elements(marks: &Marks, peers: &[Peer]) -> [Vec<Vec<Element>>; 2] {
    let of = |key: &[u8], data: &[u8]| Element {
        key: key.to_vec(),
        data: Some(Data::Bytes(data.to_vec())),
        ..Element::default()
    };
    let there = marks.iter().map(|(mac, mark)| of(&mac.0, &mark.to_ne_bytes()));
    let back = marks.iter().map(|(mac, mark)| of(&mark.to_ne_bytes(), &mac.0));
    let addresses: BTreeSet<IpAddr> = peers.iter().flat_map(|peer| peer.addresses.iter().copied()).collect();
    let bare = |key: Vec<u8>| Element { key, ..Element::default() };
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for address in addresses {
        match address {
            IpAddr::V4(a) => v4.push(bare(a.octets().to_vec())),
            IpAddr::V6(a) => v6.push(bare(a.octets().to_vec())),
        }
    }
    [vec![there.collect(), v4, v6], vec![back.collect()]]
}

/// What the maps hold.
fn held(nft: &mut Nft) -> io::Result<Marks> {
    let read = |element: Element| {
        let mac = element.key.first_chunk::<6>().copied().map(Mac)?;
        let Some(Data::Bytes(data)) = element.data else { return None };
        Some((mac, u32::from_ne_bytes(*data.first_chunk()?)))
    };
    let elements = nft.elements(&Table::new(Family::Inet, TABLE), VTEPS)?;
    Ok(elements.into_iter().filter_map(read).collect())
}

/// The return path of one network namespace.
#[derive(Debug)]
pub struct Returns {
    nft: Nft,
    networks: Vec<IpNetwork>,
    /// Whether the kernel has the egress hook.
    leads: bool,
    ipvs: bool,
    /// For which plan all was found in order, and the number of the last change of any table then.
    stands: Option<(u32, OverlayPlan)>,
}

impl Returns {
    /// Opens its socket in the calling thread's namespace; `networks` are the overlay's, `ipvs` says whether that is this
    /// node's data plane.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn open(networks: Vec<IpNetwork>, ipvs: bool) -> io::Result<Returns> {
        Ok(Returns { nft: Nft::open()?, networks, leads: has_egress(), ipvs, stands: None })
    }

    /// Whether answers find their way back: the kernel has the egress hook (Linux 5.16). Else all that is done is to give
    /// departing flows this node's address.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.leads
    }

    /// Brings the kernel to what `plan` needs; whether anything had to change. Nothing is written when nothing did.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn ensure(&mut self, plan: &OverlayPlan) -> io::Result<bool> {
        let generation = self.nft.generation()?;
        // A chain goes with its device, which is no change of tables by anybody.
        if self.stands.as_ref().is_some_and(|(at, stood)| *at == generation && stood == plan)
            && !(self.leads && self.nft.chains(&Table::new(Family::Netdev, TABLE))?.is_empty())
        {
            return Ok(false);
        }
        let held = held(&mut self.nft)?;
        let marks = marks(&held, &plan.peers);
        let wanted = elements(&marks, &plan.peers);
        let ground = Ground {
            networks: &self.networks,
            vips: &plan.vips,
            gateways: &plan.gateways,
            leads: self.leads,
            ipvs: self.ipvs,
        };
        let tables = tables(&plan.bridge.name, &plan.vxlan, &ground);
        let mut batch = Transaction::new();
        let mut changed = false;
        for ((table, sets, chains), wanted) in tables.iter().zip(&wanted) {
            let sound = self.sound(table, chains)?;
            if !sound {
                lay(&mut batch, table, sets, chains);
                changed = true;
            }
            for (set, wanted) in sets.iter().zip(wanted) {
                let have = if sound { self.nft.elements(table, &set.name)? } else { Vec::new() };
                let out: Vec<&Element> = have.iter().filter(|e| !wanted.contains(e)).collect();
                let into: Vec<&Element> = wanted.iter().filter(|e| !have.contains(e)).collect();
                changed |= !(out.is_empty() && into.is_empty());
                batch.delete_elements(table, &set.name, out.into_iter());
                batch.add_elements(table, &set.name, into.into_iter());
            }
        }
        if changed {
            self.nft.commit(batch)?;
        }
        self.stands = (!changed).then(|| (generation, plan.clone()));
        Ok(changed)
    }

    /// Whether chains and rules are there and ours.
    fn sound(&mut self, table: &Table, chains: &[Chain]) -> io::Result<bool> {
        let rules = self.nft.comments(table)?;
        let comments =
            |chain: &Chain| chain.rules.iter().map(|(text, _)| comment(text)).collect::<Vec<String>>();
        Ok(rules.len() == chains.len()
            && chains.iter().all(|chain| rules.get(chain.name) == Some(&comments(chain))))
    }

    /// Removes it.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn teardown(&mut self) -> io::Result<()> {
        self.stands = None;
        let mut batch = Transaction::new();
        for family in [Family::Inet, Family::Netdev] {
            batch.delete_table(&Table::new(family, TABLE));
        }
        self.nft.commit(batch)
    }
}

fn comment(text: &str) -> String {
    format!("{text} (mesh-agent {VERSION})")
}

fn lay(batch: &mut Transaction, table: &Table, sets: &[Set], chains: &[Chain]) {
    batch.delete_table(table);
    batch.add_table(table);
    for set in sets {
        batch.add_set(table, set);
    }
    for chain in chains {
        batch.add_chain(table, chain.name, chain.hook.as_ref());
        for (text, expressions) in &chain.rules {
            batch.add_rule(table, chain.name, expressions, &comment(text));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::overlay::vtep;
    use mesh_control::model::Name;

    fn peers(count: u32) -> Vec<Peer> {
        let peer = |n: u32| {
            let node = Name::new(&format!("node-{n}")).unwrap();
            let [_, a, b, c] = n.to_be_bytes();
            Peer {
                mac: vtep::vtep(&node),
                node,
                underlay: [192, a, b, c].into(),
                remote: None,
                tunnels: Vec::new(),
                addresses: Vec::new(),
                subnets: Vec::new(),
            }
        };
        (0..count).map(peer).collect()
    }

    #[test]
    fn every_peer_has_a_mark_of_its_own_and_keeps_it() {
        let (few, many) = (peers(3), peers(5000));
        let first = marks(&Marks::new(), &few);
        let all = marks(&first, &many);
        assert_eq!(all.len(), 5000);
        assert_eq!(all.values().collect::<BTreeSet<_>>().len(), 5000);
        assert!(all.values().all(|mark| mark & RETURN_MASK == RETURN_MARK));
        assert!(first.iter().all(|(mac, mark)| all[mac] == *mark));
        assert_eq!(marks(&all, &few), first, "who is gone has none");
        let mut twin = few[0].clone();
        twin.mac.0[1] ^= 1;
        let both = marks(&first, &[few[0].clone(), twin.clone()]);
        assert_ne!(both[&few[0].mac], both[&twin.mac]);
    }
}
