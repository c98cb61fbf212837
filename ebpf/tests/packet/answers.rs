//! What the programs answer themselves, and what they say nothing to.

use crate::{
    bed::{Bed, Device, NEXT, REDIRECT, SHOT, Way, arriving},
    packet::{ACK, Body, FIN, Packet, RST, SYN, complaint, echo, long, reset, tcp, udp},
    plan::{Plan, port},
    tables::wide,
};
use mesh_ebpf::common::{Drop, Event};

/// Type and code of ICMP in both families.
const REFUSED: ((u8, u8), (u8, u8)) = ((3, 3), (1, 4));
const EXPIRED: ((u8, u8), (u8, u8)) = ((11, 0), (3, 0));
const TOO_BIG: ((u8, u8), (u8, u8)) = ((3, 4), (2, 0));

/// The packet goes back as `want`, and no flow is begun.
#[track_caller]
fn goes_back(bed: &Bed, packet: &Packet, want: impl Fn(&Packet) -> Packet) {
    let packet = arriving(Way::In, Device::Nic, packet);
    let out = bed.run(Way::In, Device::Nic, &packet);
    assert_eq!(out.verdict, REDIRECT, "{packet:?}");
    assert_eq!(out.bytes, want(&packet).bytes(), "{packet:?}");
}

/// The packet is dropped and counted.
#[track_caller]
fn vanishes(bed: &Bed, packet: &Packet, reason: Drop) {
    let before = bed.dropped(reason);
    let out = bed.run(Way::In, Device::Nic, packet);
    assert_eq!(out.verdict, SHOT, "{packet:?}");
    assert_eq!(bed.dropped(reason), before + 1, "{packet:?}");
    assert_eq!(bed.bits(packet), None, "{packet:?}");
}

/// The packet passes as it is.
#[track_caller]
fn passes(bed: &Bed, way: Way, packet: &Packet) {
    let out = bed.run(way, Device::Nic, packet);
    assert_eq!(out.verdict, NEXT, "{packet:?}");
    assert_eq!(out.bytes, arriving(way, Device::Nic, packet).bytes(), "{packet:?}");
}

#[test]
fn what_nobody_serves_is_refused_or_dropped() {
    let Some(mut bed) = Bed::new() else { return };
    for plan in Plan::both() {
        let stranger = (plan.outside, bed.port());
        let client = (plan.client, bed.port());
        for (from, number, reason) in [
            (client, port::NOBODY, Drop::NoBackend),
            (client, 7777, Drop::NoBackend),
            (stranger, port::ALLOWED, Drop::Denied),
        ] {
            let before = bed.dropped(reason);
            for flags in [SYN, SYN | FIN] {
                goes_back(&bed, &tcp(from, (plan.vip, number), flags), reset);
            }
            let refused = |packet: &Packet| complaint(packet, REFUSED.0, REFUSED.1, 0);
            goes_back(&bed, &udp(from, (plan.vip, number)), refused);
            goes_back(&bed, &long(from, (plan.vip, number), 0), refused);
            goes_back(&bed, &long(from, (plan.vip, number), 1400), refused);
            assert_eq!(bed.dropped(reason), before + 5);
        }
        vanishes(&bed, &tcp(client, (plan.vip, port::SILENT), SYN), Drop::NoBackend);
        vanishes(&bed, &udp(client, (plan.vip, port::SILENT)), Drop::NoBackend);
        vanishes(&bed, &tcp(client, (plan.vip, 7777), RST), Drop::NoBackend);
        // One flow is there, a second is refused; the first goes on.
        for (make, protocol) in [
            ((|from, to| tcp(from, to, SYN)) as fn(_, _) -> Packet, 6),
            ((|from, to| udp(from, to)) as fn(_, _) -> Packet, 17),
        ] {
            let (one, other) = ((plan.client, bed.port()), (plan.client, bed.port()));
            let limited = (plan.vip, port::LIMITED);
            assert_eq!(bed.run(Way::In, Device::Nic, &make(one, limited)).verdict, REDIRECT);
            assert!(bed.bits(&make(one, limited)).is_some());
            goes_back(&bed, &make(other, limited), |packet| match protocol {
                6 => reset(packet),
                _ => complaint(packet, REFUSED.0, REFUSED.1, 0),
            });
            assert_eq!(bed.run(Way::In, Device::Nic, &make(one, limited)).verdict, REDIRECT);
            assert!(bed.bits(&make(one, limited)).is_some());
            assert_eq!(bed.counts(bed.served(&plan, port::LIMITED, protocol)).1.active, 1);
        }
        // Without a route nothing is begun, and nothing stays counted.
        for packet in [tcp(client, (plan.vip, port::LOST), SYN), udp(client, (plan.vip, port::LOST))] {
            vanishes(&bed, &packet, Drop::NoRoute);
            assert_eq!(bed.counts(bed.served(&plan, port::LOST, packet.protocol())).1.active, 0);
        }
    }
    bed.configure(|config| (config.node4, config.node6) = ([0; 4], [0; 16]));
    for plan in Plan::both() {
        let packet = tcp((plan.client, bed.port()), (plan.vip, port::OUTSIDE), SYN);
        vanishes(&bed, &packet, Drop::NoRoute);
    }
}

#[test]
fn the_middle_of_an_unknown_flow_is_reset_or_left_to_the_host() {
    let Some(bed) = Bed::new() else { return };
    for plan in Plan::both() {
        let client = (plan.client, bed.port());
        for flags in [ACK, ACK | FIN, SYN | ACK] {
            goes_back(&bed, &tcp(client, (plan.vip, port::CONTAINER), flags), reset);
            passes(&bed, Way::In, &tcp(client, (plan.node, port::PUBLISHED), flags));
        }
        goes_back(&bed, &tcp(client, (plan.vip, port::CONTAINER), 0), reset);
        vanishes(&bed, &tcp(client, (plan.vip, port::CONTAINER), RST), Drop::Gone);
        passes(&bed, Way::In, &tcp(client, (plan.node, port::PUBLISHED), RST));
        // By hash another node may have begun it, and chose the same.
        let packet = tcp(client, (plan.vip, port::HASHED), ACK);
        let out = bed.run(Way::In, Device::Nic, &packet);
        let want = packet.between(client, (plan.container, port::BACKEND)).hop();
        assert_eq!((out.verdict, out.bytes), (REDIRECT, arriving(Way::In, Device::Nic, &want).bytes()));
    }
}

#[test]
fn vips_answer_pings_and_nobody_else() {
    let Some(bed) = Bed::new() else { return };
    for plan in Plan::both() {
        for (way, device) in [(Way::In, Device::Nic), (Way::In, Device::Mesh), (Way::Out, Device::Mesh)] {
            for ttl in [64, 1, 255] {
                let packet = arriving(way, device, &Packet { ttl, ..echo(plan.client, plan.vip, true) });
                let out = bed.run(way, device, &packet);
                let link = (packet.link.1, packet.link.0);
                let want = Packet { link, ..echo(plan.vip, plan.client, false) };
                assert_eq!((out.verdict, out.bytes), (REDIRECT, want.bytes()), "{packet:?}");
            }
        }
        passes(&bed, Way::In, &echo(plan.client, plan.node, true));
        passes(&bed, Way::In, &echo(plan.client, plan.container, true));
        passes(&bed, Way::In, &echo(plan.client, plan.vip, false));
        passes(&bed, Way::Out, &echo(plan.node, plan.client, true));
    }
}

#[test]
fn packets_at_the_end_of_their_time_go_back() {
    let Some(bed) = Bed::new() else { return };
    for plan in Plan::both() {
        let client = (plan.client, bed.port());
        for ttl in [0, 1] {
            let expired = |packet: &Packet| complaint(packet, EXPIRED.0, EXPIRED.1, 0);
            goes_back(&bed, &Packet { ttl, ..tcp(client, (plan.vip, port::CONTAINER), SYN) }, expired);
            goes_back(&bed, &Packet { ttl, ..udp(client, (plan.vip, port::REMOTE)) }, expired);
        }
        let packet = Packet { ttl: 2, ..tcp(client, (plan.vip, port::CONTAINER), ACK) };
        let out = bed.run(Way::In, Device::Nic, &packet);
        let want = packet.between(client, (plan.container, port::BACKEND)).hop();
        assert_eq!(out.bytes, arriving(Way::In, Device::Nic, &want).bytes());
        // To a program of this host it is no hop.
        let packet = Packet { ttl: 1, ..udp(client, (plan.vip, port::HERE)) };
        let out = bed.run(Way::In, Device::Nic, &packet);
        let want = packet.between(client, (plan.node, port::BACKEND));
        assert_eq!((out.verdict, out.bytes), (NEXT, arriving(Way::In, Device::Nic, &want).bytes()));
    }
}

#[test]
fn packets_longer_than_the_path_go_back() {
    let Some(bed) = Bed::new() else { return };
    for plan in Plan::both() {
        let client = (plan.client, bed.port());
        let most = 1450 - if plan.vip.is_ipv4() { 28 } else { 48 };
        let vip = (plan.vip, port::CONTAINER);
        let too_big = |packet: &Packet| complaint(packet, TOO_BIG.0, TOO_BIG.1, 1450);
        let too_big_of = |packet: &Packet| complaint(packet, TOO_BIG.0, TOO_BIG.1, 1500);
        // Decided, and at hand.
        for _ in 0..3 {
            let out = bed.run(Way::In, Device::Nic, &long(client, vip, most));
            assert_eq!(out.verdict, REDIRECT);
            let want = long(client, (plan.container, port::BACKEND), most).hop();
            assert_eq!(out.bytes, arriving(Way::In, Device::Nic, &want).bytes());
            goes_back(&bed, &long(client, vip, most + 1), too_big);
            // What may be cut the host cuts, where it would believe the source.
            let packet = Packet { dont_fragment: false, ..long(client, vip, most + 1) };
            if plan.vip.is_ipv4() {
                let out = bed.run(Way::In, Device::Nic, &packet);
                let want = packet.between(client, (plan.container, port::BACKEND));
                assert_eq!((out.verdict, out.bytes), (NEXT, arriving(Way::In, Device::Nic, &want).bytes()));
                let answer = packet.between((plan.container, port::BACKEND), client);
                let answer = Packet { body: long(client, vip, 1480).body, ..answer };
                let answer = answer.between((plan.container, port::BACKEND), client);
                let out = bed.run(Way::In, Device::Mesh, &answer);
                assert_eq!(out.bytes, too_big_of(&arriving(Way::In, Device::Mesh, &answer)).bytes());
            } else {
                goes_back(&bed, &packet, too_big);
            }
        }
        // What the device will cut counts by its pieces.
        let mut packet = tcp(client, vip, SYN);
        bed.run(Way::In, Device::Nic, &packet);
        packet = tcp(client, vip, ACK);
        if let Body::Tcp { data, options, .. } = &mut packet.body {
            *data = vec![7; 2500];
            *options = vec![1; 12];
        }
        let packet = arriving(Way::In, Device::Nic, &packet);
        let header = if plan.vip.is_ipv4() { 20 + 32 } else { 40 + 32 };
        let out = bed.run_bytes(Way::In, Device::Nic, &packet.bytes(), 1450 - header);
        let want = packet.between(client, (plan.container, port::BACKEND)).hop();
        assert_eq!((out.verdict, out.bytes), (REDIRECT, want.bytes()));
        let out = bed.run_bytes(Way::In, Device::Nic, &packet.bytes(), 1450 - header + 1);
        assert_eq!((out.verdict, out.bytes), (REDIRECT, too_big(&packet).bytes()));
    }
}

#[test]
fn the_log_is_told_who_was_dropped_and_why_until_too_much_is_told() {
    let Some(mut bed) = Bed::new() else { return };
    let mut events = bed.events();
    for (plan, family) in Plan::both().into_iter().zip([4, 6]) {
        let client = (plan.client, bed.port());
        vanishes(&bed, &tcp(client, (plan.vip, port::SILENT), SYN), Drop::NoBackend);
        let want = Event {
            source: wide(plan.client),
            destination: wide(plan.vip),
            source_port: client.1.to_be(),
            destination_port: port::SILENT.to_be(),
            family,
            protocol: 6,
            reason: Drop::NoBackend as u16,
        };
        assert_eq!((events.next_event(), events.next_event()), (Some(want), None));
    }
    let [plan, _] = Plan::both();
    for _ in 0..5000 {
        bed.run(Way::In, Device::Nic, &udp((plan.client, bed.port()), (plan.vip, port::SILENT)));
    }
    let told = std::iter::from_fn(|| events.next_event()).count();
    assert!((1..5000).contains(&told), "the ring is full or they come too fast: {told}");
}
