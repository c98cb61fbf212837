//! ICMP errors about packets of flows reach whom they concern, about the packet as that one sent it.

use crate::{
    bed::{Bed, Device, NEXT, Outcome, REDIRECT, SHOT, Way, arriving},
    packet::{ACK, Body, Packet, SYN, error, long, tcp, udp},
    plan::{Plan, port},
};
use std::net::IpAddr;

/// Errors of both families: unreachable, too big, time exceeded, parameter problem.
fn kinds(plan: &Plan) -> [(u8, u8, [u8; 4]); 4] {
    if plan.vip.is_ipv4() {
        [(3, 1, [0; 4]), (3, 4, [0, 0, 0x05, 0x14]), (11, 0, [0; 4]), (12, 0, [9, 0, 0, 0])]
    } else {
        [(1, 4, [0; 4]), (2, 0, [0, 0, 0x05, 0x14]), (3, 0, [0; 4]), (4, 1, [0, 0, 0, 9])]
    }
}

/// A flow that was begun: what the client sent, what was made of it, and by which devices they go.
struct Flow {
    sent: Packet,
    made: Packet,
    devices: (Device, Device),
    here: bool,
}

/// Flows of all kinds that there are.
fn flows(bed: &Bed, plan: &Plan) -> Vec<Flow> {
    let (nic, mesh, vx) = (Device::Nic, Device::Mesh, Device::Vx);
    let mut flows = Vec::new();
    for (client, to, devices, here) in [
        (plan.client, (plan.vip, port::CONTAINER), (nic, mesh), false),
        (plan.client, (plan.vip, port::REMOTE), (nic, vx), false),
        (plan.client, (plan.vip, port::OUTSIDE), (nic, nic), false),
        (plan.container, (plan.vip, port::CONTAINER), (mesh, mesh), false),
        (plan.client, (plan.node, port::PUBLISHED_HERE), (nic, nic), true),
    ] {
        let from = (client, bed.port());
        let mut bare = udp(from, to);
        if let Body::Udp { sum, .. } = &mut bare.body {
            *sum = false;
        }
        for sent in [tcp(from, to, SYN), tcp(from, to, ACK), udp(from, to), bare, long(from, to, 500)] {
            let out = bed.run(Way::In, devices.0, &sent);
            assert!(out.verdict == REDIRECT || here);
            let source = match to.1 {
                port::OUTSIDE => plan.node,
                _ if client == plan.container => plan.gateway,
                _ => client,
            };
            let backend = match to.1 {
                port::CONTAINER => plan.container,
                port::REMOTE => plan.remote,
                port::OUTSIDE => plan.outside,
                _ => plan.node,
            };
            let made = sent.between((source, from.1), (backend, port::BACKEND));
            flows.push(Flow { sent, made, devices, here });
        }
    }
    flows
}

/// An error about `about`, as it comes from `from`, is made one about `original` from `to.0` to `to.1`.
#[track_caller]
fn concerns(
    bed: &Bed,
    (way, device): (Way, Device),
    (from, about): (IpAddr, &Packet),
    (as_from, original): (IpAddr, &Packet),
    kind: (u8, u8, [u8; 4]),
    up: bool,
) {
    let (least, all) = if from.is_ipv4() { (28, 576) } else { (48, 1200) };
    for len in [least, least + 12, all] {
        let quote = |packet: &Packet| {
            let bytes = packet.ip();
            bytes[..bytes.len().min(len)].to_vec()
        };
        let comes = arriving(way, device, &error(from, about.from, kind.0, kind.1, kind.2, &quote(about)));
        let out = bed.run(way, device, &comes);
        let want = error(as_from, original.from, kind.0, kind.1, kind.2, &quote(original));
        let want = Packet { link: comes.link, ttl: comes.ttl - u8::from(!up), ..want };
        let verdict = if up { NEXT } else { REDIRECT };
        assert_eq!(
            out,
            Outcome { verdict, bytes: want.bytes() },
            "{kind:?} from {from} about {about:?}, {len}"
        );
    }
}

#[test]
fn errors_about_packets_to_backends_reach_clients() {
    let Some(bed) = Bed::new() else { return };
    for plan in Plan::both() {
        for Flow { sent, made, devices, here } in flows(&bed, &plan) {
            for kind in kinds(&plan) {
                let at = if here { (Way::Out, devices.1) } else { (Way::In, devices.1) };
                // From the backend itself, in the name of what was dialled; and from a router on the way.
                concerns(&bed, at, (made.to, &made), (sent.to, &sent), kind, here);
                concerns(&bed, at, (plan.router, &made), (plan.router, &sent), kind, here);
            }
        }
    }
}

#[test]
fn errors_about_answers_reach_backends() {
    let Some(bed) = Bed::new() else { return };
    for plan in Plan::both() {
        for Flow { sent, made, devices, here } in flows(&bed, &plan) {
            let turned = |packet: &Packet| {
                let (from, to) = packet.clone().ports().copied().unwrap();
                packet.between((packet.to, to), (packet.from, from))
            };
            let (answer, seen) = (turned(&made), turned(&sent));
            for kind in kinds(&plan) {
                let at = (Way::In, devices.0);
                concerns(&bed, at, (sent.from, &seen), (made.from, &answer), kind, here);
                concerns(&bed, at, (plan.router, &seen), (plan.router, &answer), kind, here);
            }
        }
    }
}

#[test]
fn errors_about_nothing_of_ours_pass_untouched() {
    let Some(bed) = Bed::new() else { return };
    for plan in Plan::both() {
        let Flow { sent, made, .. } = flows(&bed, &plan).remove(0);
        let strange = tcp((plan.client, 1), (plan.outside, 2), SYN);
        let whole = made.ip();
        for kind in kinds(&plan) {
            let quotes = [
                strange.ip(),
                // Of this flow, but as it was before its translation: not what this node sent on.
                sent.ip(),
                Packet::new(plan.client, plan.outside, Body::Other(47, vec![1; 20])).ip(),
                // Too little to tell.
                whole[..if plan.vip.is_ipv4() { 27 } else { 47 }].to_vec(),
                whole[..10].to_vec(),
                Vec::new(),
                error(plan.client, plan.outside, 3, 1, [0; 4], &whole).ip(),
            ];
            for quoted in quotes {
                let comes = error(plan.router, plan.client, kind.0, kind.1, kind.2, &quoted);
                let comes = arriving(Way::In, Device::Mesh, &comes);
                let out = bed.run(Way::In, Device::Mesh, &comes);
                assert_eq!(out, Outcome { verdict: NEXT, bytes: comes.bytes() }, "{comes:?}");
            }
            // At the end of its time it is not answered: no errors about errors.
            let comes = error(made.to, made.from, kind.0, kind.1, kind.2, &whole);
            let comes = arriving(Way::In, Device::Mesh, &Packet { ttl: 1, ..comes });
            assert_eq!(bed.run(Way::In, Device::Mesh, &comes).verdict, SHOT);
        }
    }
}
