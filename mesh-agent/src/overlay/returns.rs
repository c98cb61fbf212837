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
//! are told of by a mark (eBPF's programs, [`CLASH_MARK`]).
//!
//! IPVS knows no zones: it takes the answer of such a flow for one of its own when the client, its port and the backend
//! are the same. So where IPVS is this node's data plane, the client's port of such a flow has its first bit turned between
//! the two ends of the overlay's device on this node: ports that systems give connections (32,768 and above) become others.
//!
//! One client's address cannot be kept: that of the backend's own node, dialling a port of another. Its answers would
//! be at home before they were translated, so flows of nodes get the ingress node's address on the overlay.
//!
//! The number of rules does not grow with the nodes: two maps do. The mark has to be cleared on the way out, or the
//! outer packet would take the same route again. Routes and the rule are the overlay's own ([`super::plan`]).

use super::plan::{CLASH_MARK, OverlayPlan, Peer, RETURN_MARK, RETURN_MASK};
use crate::sys::{
    nft::{Data, Element, Expr, Family, Holds, Hook, HookKind, Kind, Nft, Set, Table, Transaction, reg},
    rtnl::Mac,
    ruleset::has_egress,
};
use ipnetwork::IpNetwork;
use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    io,
    net::IpAddr,
};

/// The name of our tables.
pub const TABLE: &str = "mesh-agent-overlay";
/// VTEP → mark, in the inet table.
const VTEPS: &str = "vteps";
/// Addresses of the other nodes, by family, in the inet table.
const NODES: [&str; 2] = ["nodes4", "nodes6"];
/// Mark → VTEP, in the netdev table.
const MACS: &str = "macs";
/// Source ports for flows that have to get another: those that systems do not give their own connections.
const PORTS: [u16; 2] = [1024, 32_767];
/// Changes with the rules: those of another version are laid anew.
const VERSION: &str = "3";

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

type Rules = Vec<(&'static str, Vec<Expr>)>;

/// Goes on only when the register's mark is one of ours; leaves the mark in `reg`, uses the one after it.
fn ours(word: u32) -> [Expr; 2] {
    let mask = RETURN_MASK.to_ne_bytes();
    [Expr::mask(reg(word), reg(word + 1), &mask), Expr::cmp(reg(word + 1), true, &RETURN_MARK.to_ne_bytes())]
}

/// What came by the overlay from outside of it, a rule for each family of the overlay; the number of its VTEP's mark
/// is in register 2.
fn foreign(device: &str, networks: &[IpNetwork], text: &'static str, only: &[Expr], then: &[Expr]) -> Rules {
    let rule = |network: &IpNetwork| {
        let (proto, offset, len) = match network {
            IpNetwork::V4(_) => (2_u8, 12, 4),
            IpNetwork::V6(_) => (10, 8, 16),
        };
        let (base, mask) = match network {
            IpNetwork::V4(n) => (n.network().octets().to_vec(), n.mask().octets().to_vec()),
            IpNetwork::V6(n) => (n.network().octets().to_vec(), n.mask().octets().to_vec()),
        };
        let mut rule = Expr::came_by(device, true).to_vec();
        rule.extend([
            Expr::meta(reg(0), libc::NFT_META_NFPROTO),
            Expr::cmp(reg(0), true, &[proto]),
            Expr::network(reg(0), offset, len),
            Expr::mask(reg(0), reg(0), &mask),
            Expr::cmp(reg(0), false, &base),
        ]);
        rule.extend_from_slice(only);
        rule.extend([Expr::link(reg(0), 6, 6), Expr::map(reg(0), reg(2), VTEPS)]);
        rule.extend_from_slice(then);
        (text, rule)
    };
    networks.iter().map(rule).collect()
}

/// Keeps the flows of each VTEP apart, before conntrack sees them.
fn zones(device: &str, networks: &[IpNetwork]) -> Rules {
    foreign(device, networks, "apart from other nodes' flows", &[], &[Expr::set_zone(reg(2))])
}

/// The protocols with ports, and where their checksum is.
const PORTED: [(u8, u32); 2] = [(6, 16), (17, 6)];

/// Goes on with packets of a protocol, their checksum if any, and turns the first bit of the port at `offset`. Uses
/// registers 4 and 5.
fn turned((protocol, sum): (u8, u32), offset: u32) -> Vec<Expr> {
    let mut all = vec![Expr::meta(reg(4), libc::NFT_META_L4PROTO), Expr::cmp(reg(4), true, &[protocol])];
    if protocol == 17 {
        // Datagrams need have no sum (RFC 768).
        all.extend([Expr::transport(reg(4), sum, 2), Expr::cmp(reg(4), false, &[0; 2])]);
    }
    all.extend([
        Expr::transport(reg(4), offset, 2),
        Expr::flip(reg(4), &[0x80, 0]),
        Expr::set_transport(reg(4), offset, 2, sum),
    ]);
    all
}

/// Gives clients of each VTEP's flows ports that IPVS does not know them by.
fn shifts(device: &str, networks: &[IpNetwork]) -> Rules {
    let shift = |of| foreign(device, networks, "apart from those of IPVS", &[], &turned(of, 0));
    PORTED.into_iter().flat_map(shift).collect()
}

/// Notes by which VTEP a foreign flow came in.
fn arrivals(device: &str, networks: &[IpNetwork]) -> Rules {
    // NF_CT_STATE_BIT(IP_CT_NEW).
    let new = 8_u32.to_ne_bytes();
    let only = [
        Expr::ct(reg(0), libc::NFT_CT_STATE),
        Expr::mask(reg(0), reg(0), &new),
        Expr::cmp(reg(0), false, &[0; 4]),
    ];
    let note = [Expr::set_ct(reg(2), libc::NFT_CT_MARK)];
    foreign(device, networks, "came in at another node", &only, &note)
}

/// Marks answers of such flows.
fn answers(device: Option<&str>) -> Rules {
    let mut rule = Vec::new();
    if let Some(device) = device {
        rule.extend(Expr::came_by(device, false));
    }
    rule.push(Expr::ct(reg(0), libc::NFT_CT_MARK));
    rule.extend(ours(0));
    // IP_CT_DIR_REPLY.
    rule.extend([Expr::ct(reg(1), libc::NFT_CT_DIRECTION), Expr::cmp(reg(1), true, &[1])]);
    rule.push(Expr::set_meta(reg(0), libc::NFT_META_MARK));
    vec![("goes back there", rule)]
}

/// Gives translated flows of other nodes this node's address, where they go on to yet another node, and flows of
/// containers, where they leave the overlay: nobody outside knows the way back to those.
fn departing(bridge: &str, device: &str) -> Rules {
    let mut out = Expr::came_by(bridge, true).to_vec();
    out.extend(Expr::leaves_by(bridge, false));
    out.extend(Expr::leaves_by(device, false));
    out.push(Expr::masquerade());
    // What IPVS sends to a backend nf_tables does not take for translated.
    let ways = [Expr::translated(), crate::dataplane::ipvs::ours()];
    let rule = |((set, proto, offset, len), way): ((&str, u8, u32, u32), &[Expr; 3])| {
        let mut rule = Expr::leaves_by(device, true).to_vec();
        rule.extend([Expr::meta(reg(0), libc::NFT_META_NFPROTO), Expr::cmp(reg(0), true, &[proto])]);
        rule.extend_from_slice(way);
        rule.extend([Expr::network(reg(0), offset, len), Expr::lookup(reg(0), set), Expr::masquerade()]);
        ("a node that dials another", rule)
    };
    let of = [(NODES[0], 2, 12, 4), (NODES[1], 10, 8, 16)];
    let mut rules: Rules = ways.iter().flat_map(|way| of.map(|of| rule((of, way)))).collect();
    rules.push(("a container that leaves the overlay", out));
    for (proto, offset, len) in [(libc::NFPROTO_IPV4, 12, 4), (libc::NFPROTO_IPV6, 8, 16)] {
        let rule = vec![
            Expr::meta(reg(0), libc::NFT_META_MARK),
            Expr::cmp(reg(0), true, &CLASH_MARK.to_ne_bytes()),
            Expr::meta(reg(0), libc::NFT_META_NFPROTO),
            Expr::cmp(reg(0), true, &[u8::try_from(proto).unwrap_or_default()]),
            Expr::network(reg(0), offset, len),
            Expr::immediate(reg(4), &PORTS[0].to_be_bytes()),
            Expr::immediate(reg(5), &PORTS[1].to_be_bytes()),
            Expr::snat(proto, reg(0), [reg(4), reg(5)]),
        ];
        rules.push(("its answers have another's place", rule));
    }
    rules
}

/// Sends marked packets to the VTEP they belong to.
fn departures(ipvs: bool) -> Rules {
    let back = |of| {
        let mut rule = vec![Expr::meta(reg(0), libc::NFT_META_MARK)];
        rule.extend(ours(0));
        rule.extend(turned(of, 2));
        ("as the client knows it", rule)
    };
    let mut rules: Rules = PORTED.into_iter().filter(|_| ipvs).map(back).collect();
    let mut known = vec![Expr::meta(reg(0), libc::NFT_META_MARK)];
    known.extend(ours(0));
    known.extend([Expr::map(reg(0), reg(2), MACS), Expr::set_link(reg(2), 0, 6)]);
    let mut marked = vec![Expr::meta(reg(0), libc::NFT_META_MARK)];
    marked.extend(ours(0));
    marked.extend([Expr::immediate(reg(0), &[0; 4]), Expr::set_meta(reg(0), libc::NFT_META_MARK)]);
    rules.push(("to the node it came from", known));
    rules.push(("the outer packet takes the usual way", marked));
    rules
}

struct Chain {
    name: &'static str,
    hook: Hook,
    rules: Rules,
}

/// The tables, each with its map and its chains; without the egress hook only what departs is seen to.
fn tables(
    bridge: &str,
    device: &str,
    networks: &[IpNetwork],
    (leads, ipvs): (bool, bool),
) -> Vec<(Table, Vec<Set>, Vec<Chain>)> {
    let hook = |kind, number, device: Option<&str>| {
        // The priority of mangle tables: after conntrack, before NAT.
        Hook { kind, number, priority: -150, device: device.map(str::to_owned) }
    };
    let early = Hook { priority: -300, ..hook(HookKind::Filter, libc::NF_INET_PRE_ROUTING, None) };
    let mut prerouting = arrivals(device, networks);
    prerouting.extend(answers(Some(device)));
    let mut raw = zones(device, networks);
    if ipvs {
        raw.extend(shifts(device, networks));
    }
    let mut inet = vec![
        Chain { name: "raw", hook: early, rules: raw },
        Chain {
            name: "prerouting",
            hook: hook(HookKind::Filter, libc::NF_INET_PRE_ROUTING, None),
            rules: prerouting,
        },
        Chain {
            name: "output",
            hook: hook(HookKind::Route, libc::NF_INET_LOCAL_OUT, None),
            rules: answers(None),
        },
        Chain {
            name: "postrouting",
            hook: Hook {
                kind: HookKind::Nat,
                number: libc::NF_INET_POST_ROUTING,
                priority: 90,
                device: None,
            },
            rules: departing(bridge, device),
        },
    ];
    // NF_NETDEV_EGRESS, since 5.16.
    let egress = vec![Chain {
        name: "egress",
        hook: hook(HookKind::Filter, 1, Some(device)),
        rules: departures(ipvs),
    }];
    let vteps = Set::new(VTEPS, &[Kind::Ether], Holds::Data(&[Kind::Mark]));
    let macs = Set::new(MACS, &[Kind::Mark], Holds::Data(&[Kind::Ether]));
    let nodes4 = Set::new(NODES[0], &[Kind::Ipv4], Holds::Keys);
    let nodes6 = Set::new(NODES[1], &[Kind::Ipv6], Holds::Keys);
    inet.retain(|chain| leads || matches!(chain.hook.kind, HookKind::Nat));
    let mut all = vec![(Table::new(Family::Inet, TABLE), vec![vteps, nodes4, nodes6], inet)];
    if leads {
        all.push((Table::new(Family::Netdev, TABLE), vec![macs], egress));
    }
    all
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
        let tables = tables(&plan.bridge.name, &plan.vxlan.name, &self.networks, (self.leads, self.ipvs));
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
        batch.add_chain(table, chain.name, Some(&chain.hook));
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
