//! Headers of every shape: options, extensions, fragments, what is cut short and what is not ours.

use crate::{
    bed::{Bed, Device, NEIGHBOUR, NEXT, Outcome, REDIRECT, SHOT, Way, arriving},
    packet::{ACK, Body, Packet, SYN, echo, long, tcp, udp},
    plan::{Plan, port},
};
use mesh_ebpf::common::Drop;

fn comes(packet: &Packet) -> Packet {
    arriving(Way::In, Device::Nic, packet)
}

/// The packet is translated to the container, as it is otherwise.
#[track_caller]
fn forwards(bed: &Bed, packet: &Packet, plan: &Plan) {
    let packet = comes(packet);
    let client = (packet.from, packet.clone().ports().unwrap().0);
    for _ in 0..2 {
        let out = bed.run(Way::In, Device::Nic, &packet);
        let want = packet.between(client, (plan.container, port::BACKEND)).hop();
        assert_eq!(out, Outcome { verdict: REDIRECT, bytes: want.bytes() }, "{packet:?}");
    }
}

/// The packet passes as it is.
#[track_caller]
fn passes(bed: &Bed, packet: &Packet) {
    let packet = comes(packet);
    let out = bed.run(Way::In, Device::Nic, &packet);
    assert_eq!(out, Outcome { verdict: NEXT, bytes: packet.bytes() }, "{packet:?}");
}

/// Extension headers: hop-by-hop options, destination options, routing without a stop left.
fn extension(number: u8, len: usize) -> (u8, Vec<u8>) {
    let mut header = vec![0; len];
    header[1] = u8::try_from(len / 8 - 1).unwrap();
    if number != 43 {
        // One option of padding over all of it.
        header[2] = 1;
        header[3] = u8::try_from(len - 4).unwrap();
    }
    (number, header)
}

#[test]
fn options_and_extension_headers_are_passed_over() {
    let Some(bed) = Bed::new() else { return };
    let [four, six] = Plan::both();
    for len in (4..=40).step_by(4) {
        let options = vec![1; len];
        let client = (four.client, bed.port());
        forwards(
            &bed,
            &Packet { options: options.clone(), ..tcp(client, (four.vip, port::CONTAINER), SYN) },
            &four,
        );
        forwards(&bed, &Packet { options, ..udp(client, (four.vip, port::CONTAINER)) }, &four);
    }
    for headers in [
        vec![extension(0, 8)],
        vec![extension(60, 8)],
        vec![extension(43, 8)],
        vec![extension(60, 64)],
        vec![extension(60, 256)],
        vec![extension(0, 8), extension(60, 16), extension(43, 24)],
        vec![extension(0, 8), extension(60, 8), extension(43, 8), extension(60, 8), extension(60, 8)],
    ] {
        let client = (six.client, bed.port());
        let syn = tcp(client, (six.vip, port::CONTAINER), SYN);
        forwards(&bed, &Packet { headers: headers.clone(), ..syn }, &six);
        forwards(&bed, &Packet { headers, ..udp(client, (six.vip, port::CONTAINER)) }, &six);
    }
    // More than anybody sends, a stop left, authentication, no next header: none of ours.
    let mut stop = extension(43, 24);
    stop.1[3] = 1;
    let many: Vec<_> = (0..7).map(|_| extension(60, 8)).collect();
    for headers in
        [many, vec![stop], vec![extension(51, 24)], vec![extension(59, 8)], vec![extension(50, 16)]]
    {
        let syn = tcp((six.client, bed.port()), (six.vip, port::CONTAINER), SYN);
        passes(&bed, &Packet { headers, ..syn });
    }
}

#[test]
fn tcp_and_udp_of_every_shape() {
    let Some(bed) = Bed::new() else { return };
    for plan in Plan::both() {
        let vip = (plan.vip, port::CONTAINER);
        for words in [0, 1, 5, 10] {
            let mut packet = tcp((plan.client, bed.port()), vip, SYN);
            if let Body::Tcp { options, .. } = &mut packet.body {
                *options = vec![1; words * 4];
            }
            forwards(&bed, &packet, &plan);
        }
        for len in [0, 1, 2, 3, 17, 100, 1400] {
            forwards(&bed, &long((plan.client, bed.port()), vip, len), &plan);
        }
        // UDP without a checksum has none afterwards.
        let mut packet = udp((plan.client, bed.port()), vip);
        if let Body::Udp { sum, .. } = &mut packet.body {
            *sum = false;
        }
        forwards(&bed, &packet, &plan);
        // A checksum that comes to 0 is sent as 0xffff: over ever other data it happens.
        for number in 0..300_u16 {
            let mut packet = udp((plan.client, bed.port()), vip);
            if let Body::Udp { data, .. } = &mut packet.body {
                *data = [number.to_be_bytes(), (number ^ 0x5a5a).to_be_bytes()].concat();
            }
            forwards(&bed, &packet, &plan);
        }
        // What Ethernet adds to short frames stays behind the packet.
        let packet = comes(&tcp((plan.client, bed.port()), vip, SYN));
        let client = (packet.from, packet.clone().ports().unwrap().0);
        let padded = [packet.bytes(), vec![0xaa; 6]].concat();
        let want = packet.between(client, (plan.container, port::BACKEND)).hop();
        let out = bed.run_bytes(Way::In, Device::Nic, &padded, 0);
        assert_eq!(out, Outcome { verdict: REDIRECT, bytes: [want.bytes(), vec![0xaa; 6]].concat() });
    }
}

#[test]
fn later_fragments_go_where_the_first_went() {
    let Some(bed) = Bed::new() else { return };
    for (id, plan) in (7..).zip(Plan::both()) {
        let (client, vip) = ((plan.client, bed.port()), (plan.vip, port::CONTAINER));
        let (backend, part) = ((plan.container, port::BACKEND), |a, b, more| Some((a, b, more)));
        let whole = Packet { id, ..long(client, vip, 2000) };
        let answer = Packet { id, ..long(backend, client, 2000) };
        let pieces = [part(0, 800, true), part(800, 1600, true), part(1600, 2008, false)];
        // One that overtakes the first is lost where only frontends are, and passes elsewhere.
        let early = comes(&Packet { part: pieces[1], ..whole.clone() });
        let before = bed.dropped(Drop::Fragment);
        assert_eq!(bed.run(Way::In, Device::Nic, &early), Outcome { verdict: SHOT, bytes: early.bytes() });
        assert_eq!(bed.dropped(Drop::Fragment), before + 1);
        passes(&bed, &Packet { to: plan.node, ..early });
        for part in pieces {
            let piece = comes(&Packet { part, ..whole.clone() });
            let out = bed.run(Way::In, Device::Nic, &piece);
            let want = piece.between(client, backend).hop();
            assert_eq!(out, Outcome { verdict: REDIRECT, bytes: want.bytes() }, "{part:?}");
        }
        for part in pieces {
            let piece = arriving(Way::In, Device::Mesh, &Packet { part, ..answer.clone() });
            let out = bed.run(Way::In, Device::Mesh, &piece);
            let want = piece.between(vip, client).hop();
            assert_eq!(out, Outcome { verdict: REDIRECT, bytes: want.bytes() }, "answer {part:?}");
        }
        // Another packet's are not these.
        let other = comes(&Packet { id: id + 100, part: pieces[1], ..whole.clone() });
        assert_eq!(bed.run(Way::In, Device::Nic, &other).verdict, SHOT);
        // A fragment alone is a whole packet.
        let atomic = Packet { part: part(0, 2008, false), ..long(client, vip, 1392) };
        let atomic = Packet { part: part(0, 1400, false), ..atomic };
        forwards(&bed, &atomic, &plan);
        // Fragments of pings are the host's to put together.
        passes(&bed, &Packet { part: part(0, 16, true), ..echo(plan.client, plan.vip, true) });
        passes(&bed, &Packet { part: part(16, 24, false), ..echo(plan.client, plan.vip, true) });
        // A first fragment without a whole header is nobody's.
        let tiny = comes(&Packet { part: part(0, 8, true), ..tcp(client, vip, SYN) });
        assert_eq!(bed.run(Way::In, Device::Nic, &tiny).verdict, SHOT);
    }
}

#[test]
fn what_is_cut_short_is_not_forwarded() {
    let Some(bed) = Bed::new() else { return };
    for plan in Plan::both() {
        let client = (plan.client, bed.port());
        // The kernel runs programs over nothing shorter.
        let least = 14 + if plan.vip.is_ipv4() { 20 } else { 40 };
        for to in [plan.vip, plan.node] {
            let number = if to == plan.vip { port::CONTAINER } else { port::PUBLISHED };
            for packet in
                [tcp(client, (to, number), SYN), tcp(client, (to, number), ACK), udp(client, (to, number))]
            {
                let bytes = comes(&packet).bytes();
                for len in least..bytes.len() {
                    let out = bed.run_bytes(Way::In, Device::Nic, &bytes[..len], 0);
                    assert!(
                        out.verdict == NEXT || (out.verdict == SHOT && to == plan.vip),
                        "{len} of {packet:?}: {out:?}"
                    );
                    assert_eq!(out.bytes, bytes[..len], "{len} of {packet:?}");
                }
            }
        }
    }
}

#[test]
fn headers_that_lie_are_not_believed() {
    let Some(bed) = Bed::new() else { return };
    let [four, six] = Plan::both();
    let lies = |packet: &Packet, at: usize, value: u8| {
        let mut bytes = comes(packet).bytes();
        bytes[14 + at] = value;
        let out = bed.run_bytes(Way::In, Device::Nic, &bytes, 0);
        assert_ne!(out.verdict, REDIRECT, "{at} = {value:#x}");
        assert_eq!(out.bytes, bytes, "{at} = {value:#x}");
    };
    let packet = udp((four.client, bed.port()), (four.vip, port::CONTAINER));
    // Version; header of 16 bytes, of 60 that are not there; total length below the header and beyond the packet.
    for (at, value) in
        [(0, 0x55), (0, 0x65), (0, 0x44), (0, 0x40), (0, 0x4f), (3, 19), (3, 20), (3, 27), (2, 1)]
    {
        lies(&packet, at, value);
    }
    let packet = udp((six.client, bed.port()), (six.vip, port::CONTAINER));
    // Version; payload beyond the packet; next headers that are not there.
    for (at, value) in [(0, 0x40), (0, 0x50), (4, 1), (6, 0), (6, 60), (6, 43), (6, 44), (6, 51), (6, 59)] {
        lies(&packet, at, value);
    }
}

#[test]
fn what_is_not_ours_passes_untouched() {
    let Some(bed) = Bed::new() else { return };
    for plan in Plan::both() {
        let client = (plan.client, bed.port());
        passes(&bed, &tcp(client, (plan.node, 22), SYN));
        passes(&bed, &tcp(client, (plan.node, 22), ACK));
        passes(&bed, &udp(client, (plan.node, 53)));
        passes(&bed, &tcp(client, (plan.container, 80), SYN));
        passes(&bed, &udp(client, (plan.outside, 80)));
        passes(&bed, &tcp((plan.container, port::BACKEND), (plan.client, 1), SYN | ACK));
        for protocol in [2, 47, 50, 51, 89, 132, 255] {
            passes(&bed, &Packet::new(plan.client, plan.vip, Body::Other(protocol, vec![1; 40])));
        }
        // To another host's link-layer address: seen by a device that listens to all.
        let stray =
            Packet { link: ([2, 9, 9, 9, 9, 9], NEIGHBOUR), ..tcp(client, (plan.vip, port::CONTAINER), SYN) };
        let out = bed.run_bytes(Way::In, Device::Nic, &stray.bytes(), 0);
        assert_eq!(out, Outcome { verdict: NEXT, bytes: stray.bytes() });
        // With a VLAN's tag, and of other protocols.
        let packet = comes(&tcp(client, (plan.vip, port::CONTAINER), SYN)).bytes();
        let tagged = [&packet[..12], &[0x81, 0x00, 0, 5], &packet[12..]].concat();
        let other = [&packet[..12], &[0x08, 0x06], &packet[14..]].concat();
        for bytes in [tagged, other] {
            let out = bed.run_bytes(Way::In, Device::Nic, &bytes, 0);
            assert_eq!(out, Outcome { verdict: NEXT, bytes });
        }
    }
}
