//! What is decided, without a kernel. What the kernel makes of it: `tests/overlay/sealed.rs`.

use super::{
    address,
    end::{End, NAMES, Stamp, Turn, turn},
    plan::{Move, Observed, Scene, Tunnels},
};
use crate::{
    overlay::{
        config::{Encryption, OverlayConfig},
        plan::{OverlayPlan, plan},
        step::{Change, Step},
        thing::Thing,
    },
    sys::{
        rtnl::{Address, Kind, Link, Route},
        wireguard::{Device, NewPeer, Peer as Heard},
    },
};
use ipnetwork::IpNetwork;
use mesh_control::model::{Name, NodeInfo, NodeName, NodeState, NodeView, Snapshot, Tunnel, TunnelKey};
use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

const NOW: u64 = 1_800_000_000;

fn tunnel(key: u8, port: u16) -> Tunnel {
    Tunnel { key: TunnelKey([key; 32]), port }
}

fn name(text: &str) -> NodeName {
    Name::new(text).unwrap()
}

fn put_node(snapshot: &mut Snapshot, text: &str, at: u8, tunnels: &[Tunnel]) {
    let addresses = IpAddr::from([192, 0, 2, at]).into();
    let view = NodeView {
        name: name(text),
        info: NodeInfo { addresses, tunnels: tunnels.to_vec(), ..NodeInfo::default() },
        gossip: None,
        state: NodeState::Alive,
        subnets: vec![format!("10.128.{at}.0/24").parse().unwrap()],
    };
    snapshot.set_node(name(text), Some(Arc::new(view)));
}

fn config(encryption: Option<Encryption>) -> OverlayConfig {
    OverlayConfig {
        networks: vec!["10.128.0.0/14".parse().unwrap()],
        underlay: IpAddr::from([192, 0, 2, 1]).into(),
        encryption,
        ipvs: false,
        ..OverlayConfig::of_links("mesh0", "mesh-vx")
    }
}

/// The plan of node `a`, whose peer is `b` with these ends.
fn planned(tunnels: &[Tunnel], encryption: Option<Encryption>) -> OverlayPlan {
    let mut snapshot = Snapshot::empty(name("a"));
    put_node(&mut snapshot, "a", 1, &[]);
    put_node(&mut snapshot, "b", 2, tunnels);
    snapshot.set_own_subnets(vec!["10.128.1.0/24".parse().unwrap()]);
    plan(&snapshot, &config(encryption), IpAddr::from([192, 0, 2, 1]), 1500)
}

fn end(slot: usize, key: u8, since: u64, retired: Option<u64>) -> End {
    let stamp = Stamp { since, retired };
    let link = Link {
        index: 10 + u32::try_from(slot).unwrap(),
        name: NAMES[slot].into(),
        kind: Kind::Wireguard,
        mac: None,
        mtu: 1440,
        up: true,
        master: None,
        alias: Some(stamp.alias()),
    };
    let port = 7948 + u16::try_from(slot).unwrap();
    End { slot, link, device: Device { key: Some([key; 32]), port, peers: Vec::new() }, stamp }
}

struct Test {
    observed: Observed,
    up: bool,
}

impl Test {
    fn of(ends: Vec<End>) -> Test {
        Test { observed: Observed { ends, ..Observed::default() }, up: true }
    }

    fn steps(&self, plan: &OverlayPlan, now: u64) -> (Vec<Move>, Tunnels) {
        let (me, is_up, encryption) = (name("a"), |_: &NodeName| self.up, Encryption::default());
        Scene { plan, me: &me, is_up: &is_up, encryption: &encryption, now }.steps(self.observed.clone())
    }

    /// Does the steps as a kernel would; returns what they are.
    fn run(&mut self, plan: &OverlayPlan, now: u64) -> (Vec<String>, Tunnels) {
        let (moves, tunnels) = self.steps(plan, now);
        let texts = moves.iter().map(ToString::to_string).collect();
        for step in moves {
            self.act(step, now);
        }
        (texts, tunnels)
    }

    fn act(&mut self, step: Move, now: u64) {
        let Observed { ends, things, .. } = &mut self.observed;
        let at = |ends: &[End], link: u32| ends.iter().position(|end| end.link.index == link).unwrap();
        match step {
            Move::Make { slot, .. } => ends.push(end(slot, 100 + u8::try_from(slot).unwrap(), now, None)),
            Move::Put(link, _, new) => {
                let at = at(ends, link);
                let peers = &mut ends[at].device.peers;
                peers.iter_mut().for_each(|peer| peer.allowed.retain(|n| !new.allowed.contains(n)));
                let old = peers.iter().position(|peer| peer.key == new.key).map(|at| peers.remove(at));
                let old = old.unwrap_or(heard(&new));
                let kept = if new.only { Vec::new() } else { old.allowed };
                let allowed: BTreeSet<IpNetwork> = kept.into_iter().chain(new.allowed).collect();
                let endpoint = new.endpoint.or(old.endpoint);
                let allowed = allowed.into_iter().collect();
                peers.push(Heard { endpoint, allowed, keepalive: new.keepalive, ..old });
            }
            Move::Drop(link, key) => {
                let at = at(ends, link);
                ends[at].device.peers.retain(|peer| peer.key != key);
            }
            Move::Step(Step::Add(thing) | Step::Replace(thing)) => {
                things.retain(|held| held.key() != thing.key());
                things.insert(thing);
            }
            Move::Step(Step::Remove(thing)) => assert!(things.remove(&thing)),
            Move::Step(Step::RemoveLink { index, .. }) => {
                ends.retain(|end| end.link.index != index);
                things.retain(|thing| thing.link() != Some(index));
            }
            Move::Step(Step::ChangeLink { index, change: Change::Alias(alias), .. }) => {
                let at = at(ends, index);
                ends[at].stamp = Stamp::read(&alias).unwrap();
                ends[at].link.alias = Some(alias);
            }
            other => panic!("{other}"),
        }
    }

    /// Has `key` answer at an end.
    fn answer(&mut self, slot: usize, key: u8, at: u64) {
        let end = self.observed.ends.iter_mut().find(|end| end.slot == slot).unwrap();
        end.device.peers.iter_mut().find(|peer| peer.key == [key; 32]).unwrap().handshake = Some(at);
    }

    /// The device that leads to `b`.
    fn way(&self) -> u32 {
        let to = IpNetwork::from(IpAddr::from(address::of_node(&name("b"))));
        let mut routes = self.observed.things.iter().filter_map(|thing| match thing {
            Thing::Route(Route { destination, link, .. }) if *destination == to => Some(*link),
            _ => None,
        });
        let link = routes.next().unwrap();
        assert_eq!(routes.next(), None);
        link
    }

    /// The keys that `b`'s address belongs to, by device.
    fn owners(&self) -> Vec<u8> {
        let to = IpNetwork::from(IpAddr::from(address::of_node(&name("b"))));
        let owner = |end: &End| {
            let mut owners = end.device.peers.iter().filter(|peer| peer.allowed.contains(&to));
            let owner = owners.next().unwrap().key[0];
            assert!(owners.next().is_none());
            owner
        };
        self.observed.ends.iter().map(owner).collect()
    }
}

fn heard(new: &NewPeer) -> Heard {
    Heard { key: new.key, endpoint: new.endpoint, allowed: Vec::new(), keepalive: 0, handshake: None }
}

const ON: Option<Encryption> =
    Some(Encryption { port: 7948, key_lifetime: std::time::Duration::MAX, hold: std::time::Duration::ZERO });

#[test]
fn the_overlay_runs_inside_and_is_as_much_smaller() {
    let plain = planned(&[], None);
    let sealed = planned(&[tunnel(9, 7948)], ON);
    assert_eq!((plain.vxlan.mtu, sealed.vxlan.mtu, sealed.full), (1450, 1370, 1500));
    let to_b = Some(IpAddr::from(address::of_node(&name("b"))));
    assert_eq!((plain.peers[0].remote, sealed.peers[0].remote), (Some(plain.peers[0].underlay), to_b));
    assert_ne!(address::of_node(&name("b")), address::of_node(&name("a")));
    let Kind::Vxlan(vxlan) = &sealed.vxlan.kind else { panic!() };
    assert_eq!(vxlan.local.to_string(), "::");
}

#[test]
fn nothing_is_sent_in_plain_where_only_one_of_two_encrypts() {
    for (tunnels, encryption, word) in [
        (
            vec![],
            ON,
            "this node encrypts and b does not: nothing is sent to b; write overlay.encryption: wireguard there",
        ),
        (
            vec![tunnel(9, 1)],
            None,
            "b encrypts and this node does not: nothing is sent to b; write overlay.encryption: wireguard here",
        ),
    ] {
        let plan = planned(&tunnels, encryption);
        assert_eq!((plan.problems, plan.peers[0].remote), (vec![word.to_owned()], None));
        let plan = planned(&tunnels, encryption);
        let things = plan.things(1, 2);
        assert!(!things.iter().any(|thing| matches!(thing, Thing::Fdb(_))), "{things:?}");
        let subnet = "10.128.2.0/24".parse().unwrap();
        let leads =
            |thing: &Thing| matches!(thing, Thing::Route(r) if r.destination == subnet && r.link == 2);
        assert!(things.iter().any(leads), "a default router must not get it either");
    }
}

#[test]
fn of_two_nodes_with_one_key_the_first_stays() {
    let mut snapshot = Snapshot::empty(name("b"));
    for (node, at, key) in [("a", 1, 5), ("b", 2, 6), ("c", 3, 5), ("d", 4, 6)] {
        put_node(&mut snapshot, node, at, &[tunnel(key, 7948)]);
    }
    let plan = plan(&snapshot, &config(ON), IpAddr::from([192, 0, 2, 2]), 1500);
    let known: Vec<(&str, bool)> = plan.peers.iter().map(|p| (p.node.as_str(), p.remote.is_some())).collect();
    assert_eq!(known, [("a", true), ("c", false), ("d", false)]);
    assert!(plan.problems[0].starts_with("c and a have the same WireGuard key"), "{:?}", plan.problems);
    assert!(plan.problems[1].starts_with("d and b have the same"), "{:?}", plan.problems);
}

#[test]
fn a_node_comes_up_and_then_nothing_is_to_be_done() {
    let plan = planned(&[tunnel(9, 7948)], ON);
    let mut test = Test::of(vec![]);
    let (first, said) = test.run(&plan, NOW);
    assert_eq!(
        first,
        ["make link mesh-wg with a new key (mtu 1440)", "add unreachable route fd6d:6573:6877::/48"]
    );
    assert_eq!(said.announce, []);
    let (second, said) = test.run(&plan, NOW);
    assert_eq!(second.len(), 4, "{second:?}");
    assert_eq!(said, Tunnels { announce: vec![tunnel(100, 7948)], ..Tunnels::default() });
    assert_eq!(test.run(&plan, NOW).0, Vec::<String>::new());
    assert_eq!((test.way(), test.owners()), (10, vec![9]));
    let sources = [address::of_node(&name("a")), address::of_key(&TunnelKey([100; 32]))];
    for source in sources {
        let network = IpAddr::from(source).into();
        assert!(test.observed.things.contains(&Thing::Address(Address { link: 10, network })));
    }
    let gone = planned(&[], ON);
    assert_eq!(test.run(&gone, NOW).0.len(), 2, "the peer and its route");
}

#[test]
fn a_new_key_is_used_by_each_pair_when_it_has_answered() {
    let plan = planned(&[tunnel(9, 7948)], ON);
    let mut test = Test::of(vec![end(0, 1, NOW, None)]);
    test.run(&plan, NOW);
    test.answer(0, 9, NOW);
    let old = NOW + Encryption::default().key_lifetime.as_secs();
    assert_eq!(
        test.run(&plan, old - 1),
        (vec![], Tunnels { announce: vec![tunnel(1, 7948)], ..Tunnels::default() })
    );
    assert_eq!(test.run(&plan, old).0, ["make link mesh-wg2 with a new key (mtu 1440)"]);
    // Both are told, the old one is used.
    let (_, said) = test.run(&plan, old);
    let both = vec![tunnel(1, 7948), tunnel(101, 7949)];
    assert_eq!(said, Tunnels { announce: both.clone(), turning: true, problems: vec![] });
    assert_eq!((test.way(), test.owners()), (10, vec![9, 9]));
    let (idle, said) = test.run(&plan, old + 61);
    assert_eq!((idle, &said.announce), (vec![], &both));
    assert!(said.problems[0].contains("let UDP port 7949 through"), "{said:?}");
    // The other answers at the new one: its way leads there, and the old one is told no more.
    test.answer(1, 9, old + 62);
    let (_, said) = test.run(&plan, old + 62);
    assert_eq!((test.way(), said.announce, said.problems.len()), (11, both.clone(), 0));
    // Others take what is on its way, then they hear of it no more, and what they had on their way arrives, too.
    let (none, said) = test.run(&plan, old + 62 + 29);
    assert_eq!((none, said.announce), (vec![], both));
    let (none, said) = test.run(&plan, old + 62 + 30);
    assert_eq!((none, said.announce), (vec![], vec![tunnel(101, 7949)]));
    assert_eq!(test.run(&plan, old + 62 + 59).0, Vec::<String>::new());
    let (last, _) = test.run(&plan, old + 62 + 60);
    assert_eq!(last, ["remove link mesh-wg"]);
    let (none, said) = test.run(&plan, old + 62 + 60);
    assert_eq!((none, said.turning, test.way()), (vec![], false, 11));
}

#[test]
fn a_nodes_address_moves_to_its_new_key_when_that_has_answered() {
    let mut test = Test::of(vec![end(0, 1, NOW, None)]);
    test.run(&planned(&[tunnel(9, 7948)], ON), NOW);
    test.answer(0, 9, NOW);
    let both = planned(&[tunnel(9, 7948), tunnel(8, 7949)], ON);
    let (added, said) = test.run(&both, NOW);
    assert!(added.len() == 1 && added[0].starts_with("seal for b"), "{added:?}");
    assert!(said.turning && test.owners() == [9]);
    test.answer(0, 8, NOW + 1);
    test.run(&both, NOW + 1);
    assert_eq!(test.owners(), [8]);
    assert_eq!(test.run(&both, NOW + 1).0, Vec::<String>::new());
    let (left, said) = test.run(&planned(&[tunnel(8, 7949)], ON), NOW + 2);
    assert!(left.len() == 1 && left[0].starts_with("forget the key"), "{left:?}");
    assert!(!said.turning && test.owners() == [8]);
}

#[test]
fn what_moves_goes_before_what_is_removed() {
    let mut test = Test::of(vec![end(0, 1, NOW, None)]);
    test.run(&planned(&[tunnel(9, 7948)], ON), NOW);
    let (moves, _) = test.steps(&planned(&[tunnel(8, 7948)], ON), NOW);
    assert!(matches!(moves[..], [Move::Put(..), Move::Drop(..)]), "{moves:?}");
}

#[test]
fn only_nodes_that_are_there_are_waited_for() {
    let plan = planned(&[tunnel(9, 7948)], ON);
    let ends = || vec![end(0, 1, NOW - 100, None), end(1, 2, NOW, None)];
    let live = |up, heard: Option<u64>| {
        let mut test = Test { up: true, ..Test::of(ends()) };
        test.run(&plan, NOW);
        if let Some(at) = heard {
            test.answer(0, 9, at);
        }
        test.up = up;
        test.run(&plan, NOW);
        test.observed.ends.iter().filter(|end| end.is_live()).count()
    };
    assert_eq!(live(true, None), 2, "it is up");
    assert_eq!(live(false, Some(NOW - 100)), 2, "it was heard");
    assert_eq!(live(false, Some(NOW - 500)), 1);
    assert_eq!(live(false, None), 1);
}

#[test]
fn what_others_changed_is_put_right_and_who_talks_is_where_it_talks_from() {
    let plan = planned(&[tunnel(9, 7948)], ON);
    let mut test = Test::of(vec![end(0, 1, NOW, None)]);
    test.run(&plan, NOW);
    let held = test.observed.clone();
    let mut change = |what: &dyn Fn(&mut Heard), steps: usize| {
        test.observed = held.clone();
        what(&mut test.observed.ends[0].device.peers[0]);
        assert_eq!(test.run(&plan, NOW).0.len(), steps);
        assert_eq!(test.run(&plan, NOW).0, Vec::<String>::new());
    };
    let elsewhere = Some("198.51.100.1:9".parse().unwrap());
    change(&|peer| peer.endpoint = elsewhere, 1);
    change(&|peer| (peer.endpoint, peer.handshake) = (elsewhere, Some(NOW - 179)), 0);
    change(&|peer| (peer.endpoint, peer.handshake) = (elsewhere, Some(NOW - 181)), 1);
    change(&|peer| peer.keepalive = 0, 1);
    change(&|peer| peer.allowed.truncate(1), 1);
    change(&|peer| peer.allowed.push("10.0.0.0/8".parse().unwrap()), 1);
}

#[test]
fn turns_go_on_from_wherever_they_stand() {
    let encryption = Encryption::default();
    let due = |ends: &[End], now, all| turn(ends, &encryption, now, all);
    assert_eq!(due(&[], NOW, true), Some(Turn::Make(0)));
    assert_eq!(due(&[end(1, 1, NOW, None)], NOW, true), None);
    assert_eq!(due(&[end(1, 1, NOW + 9999, None)], NOW, true), None, "the clock was put back");
    assert_eq!(due(&[end(1, 1, NOW, Some(NOW))], NOW, true), Some(Turn::Make(0)), "the new one was removed");
    let two = |retired| vec![end(1, 1, NOW - 5, retired), end(0, 2, NOW, None)];
    assert_eq!(due(&two(None), NOW, false), None);
    assert_eq!(due(&two(None), NOW, true), Some(Turn::Retire(1)));
    assert_eq!(due(&two(Some(NOW)), NOW + 59, true), None);
    assert_eq!(due(&two(Some(NOW)), NOW + 60, false), Some(Turn::Remove(1)));
    let back = [end(0, 1, NOW, Some(NOW)), end(1, 2, NOW - 50, None)];
    assert_eq!(due(&back, NOW + 60, true), Some(Turn::Remove(0)), "what is retired goes, however new");
}

#[test]
fn stamps_are_read_as_written_and_links_of_others_left_alone() {
    for stamp in [Stamp { since: 7, retired: None }, Stamp { since: 7, retired: Some(9) }] {
        assert_eq!(Stamp::read(&stamp.alias()), Some(stamp));
    }
    assert_eq!(Stamp::read("mine since=7"), None);
    let of = |alias: Option<&str>, device: Device| {
        let link = Link { alias: alias.map(str::to_owned), ..end(0, 1, NOW, None).link };
        End::of(0, link, Some(device), NOW)
    };
    let keyed = || end(0, 1, NOW, None).device;
    assert!(of(None, Device::default()).is_ok(), "the agent died before it could mark it");
    assert!(of(None, keyed()).unwrap_err().contains("the link mesh-wg is not this program's"));
    assert!(of(Some("lab"), Device::default()).is_err());
    assert!(of(Some("mesh-agent since=1"), keyed()).is_ok());
}
