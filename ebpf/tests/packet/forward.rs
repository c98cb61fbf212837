//! Packets of clients to backends and back.

use crate::plan::{Plan, port};
use crate::{
    bed::{Bed, Device, NEXT, REDIRECT, Way, arriving},
    packet::{ACK, Packet, SYN, tcp, udp},
};
use std::net::IpAddr;

/// A case: how a client's packet and its answer are translated.
struct Case {
    name: &'static str,
    client: IpAddr,
    dialled: (IpAddr, u16),
    /// What the backend sees.
    source: IpAddr,
    backend: (IpAddr, u16),
    /// Where packets of the client and of the backend come in.
    devices: (Device, Device),
    /// Whether the backend is a program of this host.
    here: bool,
}

fn cases(plan: &Plan) -> Vec<Case> {
    let backend = port::BACKEND;
    let case = |name, client, dialled, source, backend, devices| Case {
        name,
        client,
        dialled,
        source,
        backend,
        devices,
        here: false,
    };
    let p = *plan;
    let (nic, mesh, vx) = (Device::Nic, Device::Mesh, Device::Vx);
    vec![
        case(
            "a container",
            p.client,
            (p.vip, port::CONTAINER),
            p.client,
            (p.container, backend),
            (nic, mesh),
        ),
        case("another node's", p.client, (p.vip, port::REMOTE), p.client, (p.remote, backend), (nic, vx)),
        case("outside", p.client, (p.vip, port::OUTSIDE), p.node, (p.outside, backend), (nic, nic)),
        case("by hash", p.client, (p.vip, port::HASHED), p.client, (p.container, backend), (nic, mesh)),
        case("a range", p.client, (p.vip, port::SECOND), p.client, (p.container, backend + 1), (nic, mesh)),
        case("allowed", p.client, (p.vip, port::ALLOWED), p.client, (p.container, backend), (nic, mesh)),
        case(
            "out where it came in",
            p.client,
            (p.vip, port::BESIDE),
            p.node,
            (p.beside, backend),
            (nic, nic),
        ),
        case(
            "container to container",
            p.other,
            (p.vip, port::CONTAINER),
            p.other,
            (p.container, backend),
            (mesh, mesh),
        ),
        case(
            "hairpin",
            p.container,
            (p.vip, port::CONTAINER),
            p.gateway,
            (p.container, backend),
            (mesh, mesh),
        ),
        case(
            "container to another node",
            p.other,
            (p.vip, port::REMOTE),
            p.other,
            (p.remote, backend),
            (mesh, vx),
        ),
        case("a node's own", p.peer, (p.vip, port::REMOTE), p.gateway, (p.remote, backend), (nic, vx)),
        case(
            "overlay to overlay",
            p.remote,
            (p.node, port::PUBLISHED_REMOTE),
            p.gateway,
            (p.remote, backend),
            (vx, vx),
        ),
        case("published", p.client, (p.node, port::PUBLISHED), p.client, (p.container, backend), (nic, mesh)),
        case(
            "published on the gateway",
            p.other,
            (p.gateway, port::PUBLISHED),
            p.other,
            (p.container, backend),
            (mesh, mesh),
        ),
        case(
            "published, another node's",
            p.client,
            (p.node, port::PUBLISHED_REMOTE),
            p.client,
            (p.remote, backend),
            (nic, vx),
        ),
        Case {
            here: true,
            ..case("here", p.client, (p.vip, port::HERE), p.client, (p.node, backend), (nic, nic))
        },
        Case {
            here: true,
            ..case(
                "published here",
                p.client,
                (p.node, port::PUBLISHED_HERE),
                p.client,
                (p.node, backend),
                (nic, nic),
            )
        },
        Case {
            here: true,
            ..case(
                "here for a container",
                p.other,
                (p.vip, port::HERE),
                p.other,
                (p.node, backend),
                (mesh, mesh),
            )
        },
    ]
}

/// Three packets each way: the first is decided, the second may be at hand, the third ends in another length.
fn talk(bed: &Bed, case: &Case, make: fn((IpAddr, u16), (IpAddr, u16), u8) -> Packet) {
    let (client, source) = ((case.client, bed.port()), case.source);
    let first = make(client, case.dialled, SYN);
    for (number, packet) in
        [first.clone(), make(client, case.dialled, ACK), make(client, case.dialled, ACK)].iter().enumerate()
    {
        let context = format!("{} {packet:?} number {number}", case.name);
        let out = bed.run(Way::In, case.devices.0, packet);
        let port = bed.source(packet).unwrap_or_else(|| panic!("no flow: {context}"));
        assert_eq!(port, client.1, "keeps its port: {context}");
        let mut want = arriving(Way::In, case.devices.0, &packet.between((source, port), case.backend));
        if !case.here {
            want = want.hop();
            // What begins a connection is not kept at hand, or a flood of them would leave no room for others.
            let begins = number == 0 && packet.protocol() == 6;
            let at_hand = (!begins).then_some(case.devices.1.index());
            assert_eq!(bed.leaves_by(packet).first().copied(), at_hand, "{context}");
        }
        assert_eq!(out.verdict, if case.here { NEXT } else { REDIRECT }, "{context}");
        assert_eq!(out.bytes, want.bytes(), "{context}");
        let answer = make(case.backend, (source, port), if number == 0 { SYN | ACK } else { ACK });
        let way = if case.here { Way::Out } else { Way::In };
        let out = bed.run(way, case.devices.1, &answer);
        let mut want = arriving(way, case.devices.1, &answer.between(case.dialled, client));
        if !case.here {
            want = want.hop();
        }
        assert_eq!(out.verdict, if case.here { NEXT } else { REDIRECT }, "answer: {context}");
        assert_eq!(out.bytes, want.bytes(), "answer: {context}");
    }
}

#[test]
fn packets_reach_backends_and_answers_come_from_what_was_dialled() {
    let Some(bed) = Bed::new() else { return };
    let mut count = 0;
    for plan in Plan::both() {
        for case in cases(&plan) {
            talk(&bed, &case, tcp);
            talk(&bed, &case, |from, to, _| udp(from, to));
            count += 2;
        }
    }
    assert_eq!(count, 72);
}
