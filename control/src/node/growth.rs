//! How the cost of the mesh grows up to ten thousand nodes, which no machine here holds whole.
//!
//! The stand-ins spread one record with the real [`Spread`], [`Store`], [`Bucket`] and record codec. They share one
//! list of members, detect no failures and seal nothing. At a thousand nodes their figures are those of whole nodes
//! (docs/control-plane.md). To see them: `cargo test --release -p mesh-control growth -- --nocapture`.

use super::{
    core::{Node, NodeConfig},
    io::Input,
};
use crate::{
    gossip::{Bucket, FANOUT, PERIOD, PROMPT, Spread},
    hlc::{Hlc, Now},
    key::Key,
    member::Identity,
    model::{Name, NodeInfo, PortRange},
    packet,
    record::{Record, Writer},
    store::{Merge, Store},
};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::index};
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

/// Longest delay of a datagram, in milliseconds: a local network.
const DELAY: u64 = 2;
/// Until when an update is given time, in milliseconds.
const LIMIT: u64 = 10_000;

#[derive(Default)]
struct StandIn {
    store: Store,
    spread: Spread,
    bucket: Bucket,
    last_round: u64,
    gossip_at: Option<u64>,
    heard: Option<u64>,
}

enum Event {
    Round,
    Datagram(Arc<[u8]>),
}

/// What one update cost.
struct Cost {
    median: u64,
    last: u64,
    missed: usize,
    bytes: f64,
}

/// Spreads one record from one of `nodes` nodes, `loss` of the datagrams being lost.
fn update(seed: u64, nodes: usize, loss: f64) -> Cost {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut all: Vec<StandIn> = (0..nodes).map(|_| StandIn::default()).collect();
    let mut events: BTreeMap<(u64, u64), (usize, Event)> = BTreeMap::new();
    let (mut sequence, mut bytes) = (0, 0);
    let mut add = |events: &mut BTreeMap<_, _>, at: u64, to: usize, event: Event| {
        sequence += 1;
        events.insert((at, sequence), (to, event));
    };
    // Nobody has had anything to say for a while.
    let start = 1_000;
    let writer = rng.random_range(0..nodes);
    let record = crate::record::tests::plain("k", start << 16, "n1", false, &"v".repeat(120));
    let first = &mut all[writer];
    first.spread.push(record.id.clone());
    first.store.merge(record, start);
    first.heard = Some(start);
    first.gossip_at = Some((first.last_round + 2 * PROMPT).max(start + PROMPT));
    add(&mut events, first.gossip_at.unwrap_or(start), writer, Event::Round);
    while let Some(((now, _), (i, event))) = events.pop_first() {
        if now > start + LIMIT {
            break;
        }
        match event {
            Event::Round if all[i].gossip_at == Some(now) => {
                let node = &mut all[i];
                let ready = node.bucket.ready(now);
                assert_eq!(ready, now, "one record is not much");
                node.last_round = now;
                for body in node.spread.round(&node.store, FANOUT, nodes) {
                    node.bucket.spend(FANOUT);
                    let body: Arc<[u8]> = body.into();
                    for peer in index::sample(&mut rng, nodes - 1, FANOUT) {
                        bytes += body.len() + packet::OVERHEAD + 1;
                        if !rng.random_bool(loss) {
                            let to = if peer >= i { peer + 1 } else { peer };
                            let at = now + rng.random_range(0..=DELAY);
                            add(&mut events, at, to, Event::Datagram(Arc::clone(&body)));
                        }
                    }
                }
                node.gossip_at = (!node.spread.is_empty()).then_some(now + PERIOD);
            }
            Event::Round => continue,
            Event::Datagram(body) => {
                for record in Record::decode_all(&body).expect("good") {
                    let (node, id) = (&mut all[i], record.id.clone());
                    if let Merge::Applied(_) = node.store.merge(record, now) {
                        node.heard = Some(now);
                        node.spread.pass_on(id);
                    }
                }
                let node = &mut all[i];
                if node.gossip_at.is_none() && !node.spread.is_empty() {
                    node.gossip_at = Some(node.last_round.max(now.saturating_sub(PERIOD)) + PERIOD);
                } else {
                    continue;
                }
            }
        }
        if let Some(at) = all[i].gossip_at {
            add(&mut events, at, i, Event::Round);
        }
    }
    let mut times: Vec<u64> = all.iter().filter_map(|node| Some(node.heard? - start)).collect();
    times.sort_unstable();
    Cost {
        median: times[times.len() / 2],
        last: times[times.len() - 1],
        missed: nodes - times.len(),
        bytes: bytes as f64 / nodes as f64,
    }
}

#[test]
fn an_update_takes_logarithmic_time_and_constant_bytes_a_node() {
    for loss in [0.0, 0.1] {
        for nodes in [100, 1_000, 10_000] {
            let costs: Vec<Cost> = (0..5).map(|seed| update(seed, nodes, loss)).collect();
            let worst = costs.iter().map(|c| c.last).max().unwrap_or(0);
            let median = costs.iter().map(|c| c.median).max().unwrap_or(0);
            let bytes = costs.iter().map(|c| c.bytes).sum::<f64>() / costs.len() as f64;
            let missed: usize = costs.iter().map(|c| c.missed).sum();
            println!(
                "{nodes} nodes, loss {loss}: median {median} ms, last {worst} ms, {bytes:.0} B a node, \
                 {missed} of {} left to anti-entropy",
                5 * nodes
            );
            // Of eight sends or more all are lost or go to others sometimes; the digests of probes tell then.
            assert!(missed * 200 <= 5 * nodes, "{missed} of {nodes} nodes, five times");
            // A round for each doubling would be much: rounds reach three times as many.
            assert!(worst <= PERIOD * u64::from(nodes.ilog2()), "{worst} ms");
        }
    }
}

/// Resident bytes of this process.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: usize = statm.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number");
    pages * 4_096
}

/// One whole node that knows `nodes` others: what it takes in memory, and how long a probe and a tick take it.
fn whole(nodes: u32) -> (usize, Duration) {
    let name = |i: u32| Name::new(&format!("n{i}")).expect("a name");
    let address = |i: u32| (std::net::Ipv4Addr::from_bits(0x0a00_0000 | i), 7946).into();
    let boot = 1_790_000_000_000;
    let now = |mono: u64| Now { mono, wall: boot + mono };
    let config = NodeConfig {
        name: name(0),
        addr: address(0),
        info: NodeInfo::default(),
        boot,
        seeds: Vec::new(),
        vip_cidrs: Vec::new(),
        overlay: Vec::new(),
        dynamic_ports: "30000-30063".parse::<PortRange>().expect("a range"),
        seed: 1,
        sender: [7; 16],
    };
    let before = resident();
    let mut node =
        Node::new(config, &[crate::generate_key().expect("random numbers")], now(0)).expect("good keys");
    let said: Vec<u8> = postcard::to_stdvec(&NodeInfo::default()).expect("small");
    let mut members = Vec::new();
    for i in 1..=nodes {
        let id = Identity { name: name(i), addr: address(i), epoch: boot };
        members.push(foca::Member::new(id, foca::Incarnation::default(), foca::State::Alive));
        let writer = Arc::new(Writer { node: name(i), boot });
        let version = Hlc::from_millis(boot);
        node.absorb(
            Record::new(Key::Node(name(i)).id(), version, writer, false, said.clone().into()),
            now(0),
            false,
        );
    }
    node.membership.apply(members, 0);
    node.settle(now(0));
    assert_eq!(node.snapshot().nodes.len(), nodes as usize + 1);
    let size = resident().saturating_sub(before);
    let begun = Instant::now();
    // Two seconds of a node's life: its probes and its housekeeping.
    for at in (0..2_000).step_by(10) {
        node.handle(Input::Tick, now(at));
    }
    (size, begun.elapsed() / 2)
}

#[test]
fn one_whole_node_of_ten_thousand() {
    for nodes in [1_000, 10_000] {
        let (size, second) = whole(nodes);
        println!(
            "{nodes} members: {:.1} MB, {} B a member; idle {second:.1?} of a second",
            size as f64 / 1e6,
            size / nodes as usize
        );
        // Memory grows with the members and no faster: the rest is for the allocator.
        assert!(size < 8_192 * nodes as usize, "{size} bytes");
    }
}
