//! The view follows its snapshots: updated step by step it is what it would be indexed anew.

use crate::{
    answers::{options, question},
    mesh,
};
use hickory_proto::{op::ResponseCode, rr::RecordType};
use mesh_control::model::{Name, NodeInfo, NodeState, NodeView, Snapshot};
use mesh_dns::{DnsView, answer};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::sync::Arc;

/// What the names that the random changes below can make answer.
fn everything(view: &DnsView) -> Vec<String> {
    let mut all = Vec::new();
    for s in 0..6 {
        for ns in ["", ".shop", ".default", ".s1"] {
            for name in [
                format!("s{s}{ns}.cluster"),
                format!("tasks.s{s}{ns}.cluster"),
                format!("a{s}{ns}.cluster"),
                format!("i1.s{s}{ns}.cluster"),
            ] {
                all.push(show(view, &name, RecordType::A));
            }
            all.push(show(view, &format!("_80._tcp.tasks.s{s}{ns}.cluster"), RecordType::SRV));
        }
    }
    all.extend((0..8).map(|i| show(view, &format!("{i}.0.0.10.in-addr.arpa"), RecordType::PTR)));
    all.extend(["shop", "default", "s1"].map(|ns| show(view, &format!("{ns}.cluster"), RecordType::A)));
    all
}

fn show(view: &DnsView, name: &str, kind: RecordType) -> String {
    let got = answer(view, &question(name, kind), 0, &options());
    format!("{name} {kind} {got:?}")
}

#[test]
fn step_by_step_is_the_same_as_at_once() {
    for seed in 0..12u64 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut snapshot = mesh::read("");
        let mut view = DnsView::new(&snapshot);
        for step in 0..60 {
            for _ in 0..rng.random_range(1..4) {
                let key =
                    format!("s{}{}", rng.random_range(0..6), ["", ".shop", ".s1"][rng.random_range(0..3)]);
                let line = match rng.random_range(0..4) {
                    0 => format!("remove {key}"),
                    _ => {
                        let mode = if rng.random() { "mode=dnsrr" } else { "vip=10.0.0.7" };
                        let alias = rng.random_range(0..6);
                        let mut text = format!("service {key} {mode} ports=80/tcp>80 alias=a{alias}");
                        for i in 0..rng.random_range(0..3) {
                            let ready = if rng.random() { "ready" } else { "unready" };
                            let address = rng.random_range(0..8);
                            text += &format!("\nendpoint {key} i{i} n{i} 10.0.0.{address} {ready}");
                        }
                        text
                    }
                };
                mesh::change(&mut snapshot, &line);
            }
            view = view.updated(&snapshot);
            let fresh = DnsView::new(&snapshot);
            assert_eq!(view.revision(), snapshot.revision);
            assert_eq!(view.services(), snapshot.services.len());
            assert_eq!(everything(&view), everything(&fresh), "seed {seed}, step {step}");
        }
    }
}

#[test]
fn a_forgotten_log_means_indexing_anew() {
    let mut snapshot = mesh::read("service web vip=10.96.0.1");
    let view = DnsView::new(&snapshot);
    for i in 0..=Snapshot::LOG {
        mesh::change(&mut snapshot, &format!("service s{i} vip=10.96.1.1"));
    }
    mesh::change(&mut snapshot, "remove web");
    let view = view.updated(&snapshot);
    assert_eq!(view.services(), Snapshot::LOG + 1);
    let got = answer(&view, &question("web.cluster", RecordType::A), 0, &options()).unwrap();
    assert_eq!(got.rcode, ResponseCode::NXDomain);
}

#[test]
fn this_nodes_zone_decides_prefer_zone_also_when_only_the_node_changes() {
    let mut snapshot =
        mesh::read("service db mode=dnsrr\nendpoint db a n2 10.0.0.1 ready\nendpoint db b n3 10.0.0.2 ready");
    let key = "db".parse().unwrap();
    let mut service = snapshot.services.get(&key).unwrap().as_ref().clone();
    let mut spec = service.spec.as_ref().clone();
    spec.locality = mesh_control::model::Locality::PreferZone;
    service.spec = Arc::new(spec);
    let mut endpoints = service.endpoints.to_vec();
    endpoints[0].zone = Some(Name::new("east").unwrap());
    endpoints[1].zone = Some(Name::new("west").unwrap());
    service.endpoints = endpoints.into();
    snapshot.set_service(key, Some(Arc::new(service)));
    let mut view = DnsView::new(&snapshot);
    for (zone, first) in [("west", "10.0.0.2"), ("east", "10.0.0.1")] {
        let name = Name::new("n1").unwrap();
        let info = NodeInfo { zone: Some(Name::new(zone).unwrap()), ..NodeInfo::default() };
        let node =
            NodeView { name: name.clone(), info, gossip: None, state: NodeState::Alive, subnets: vec![] };
        snapshot.set_node(name, Some(Arc::new(node)));
        view = view.updated(&snapshot);
        for seed in 0..5 {
            let got = answer(&view, &question("db.cluster", RecordType::A), seed, &options()).unwrap();
            assert_eq!(got.answers[0].data.to_string(), first, "zone {zone}");
        }
    }
}
