//! Packets at XDP: those of known flows leave, all else passes as it is.

use crate::{
    bed::{Bed, Device, Outcome, REDIRECT, Way, arriving},
    packet::{ACK, Body, FIN, Packet, RST, SYN, echo, long, pseudo, sum, tcp, udp},
    plan::{Plan, ip, port},
    tables::Tables as _,
    xdp_bed::{FAST, PASS, TX, leaving, wrapped},
};
use mesh_ebpf::common::{
    Backend, state,
    xdp::{Vtep, VtepKey, bit},
};
use std::net::IpAddr;

type End = (IpAddr, u16);
/// Makes a packet of that flow; the flags are TCP's.
type Make = fn(End, End, u8) -> Packet;
const KINDS: [Make; 2] = [tcp, |from, to, _| udp(from, to)];

/// The packet passes as it is, however often it comes.
#[track_caller]
fn passes(bed: &Bed, device: Device, packet: &Packet) {
    let bytes = arriving(Way::In, device, packet).bytes();
    for _ in 0..3 {
        let out = bed.xdp_bytes(device, &bytes);
        assert_eq!(out, Outcome { verdict: PASS, bytes: bytes.clone() }, "{packet:?}");
    }
}

/// The packet leaves as `want`; one of its flow, for which the way was found, passed before.
#[track_caller]
fn leaves(bed: &Bed, device: Device, packet: &Packet, verdict: i32, want: &[u8]) {
    for _ in 0..2 {
        bed.xdp(device, packet);
    }
    let out = bed.xdp(device, packet);
    assert_eq!(out, Outcome { verdict, bytes: want.to_vec() }, "{packet:?}");
}

/// A flow from outside that tcx has begun: the client's end, the first packet's key and what becomes of its source.
fn begun(bed: &Bed, make: Make, client: End, dialled: End) -> u16 {
    let first = make(client, dialled, SYN);
    bed.begin(Device::Nic, &first);
    bed.source(&first).unwrap()
}

#[test]
fn flows_between_devices_leave_by_the_other_one() {
    let Some(bed) = Bed::fast() else { return };
    for plan in Plan::both() {
        for make in KINDS {
            for dialled in [(plan.vip, port::CONTAINER), (plan.node, port::PUBLISHED)] {
                let (client, backend) = ((plan.client, bed.port()), (plan.container, port::BACKEND));
                begun(&bed, make, client, dialled);
                let packet = make(client, dialled, ACK);
                let want = leaving(Device::Mesh, &packet.between(client, backend).hop());
                leaves(&bed, Device::Nic, &packet, FAST, &want.bytes());
                let answer = make(backend, client, ACK);
                let want = leaving(Device::Nic, &answer.between(dialled, client).hop());
                leaves(&bed, Device::Mesh, &answer, FAST, &want.bytes());
            }
        }
    }
}

#[test]
fn flows_to_neighbours_of_the_device_go_back_by_it() {
    let Some(bed) = Bed::fast() else { return };
    for plan in Plan::both() {
        for make in KINDS {
            for (number, backend) in [(port::OUTSIDE, plan.outside), (port::BESIDE, plan.beside)] {
                let (client, dialled) = ((plan.client, bed.port()), (plan.vip, number));
                let source = (plan.node, begun(&bed, make, client, dialled));
                let packet = make(client, dialled, ACK);
                let want = packet.between(source, (backend, port::BACKEND)).hop();
                leaves(&bed, Device::Nic, &packet, TX, &leaving(Device::Nic, &want).bytes());
                let answer = make((backend, port::BACKEND), source, ACK);
                let want = answer.between(dialled, client).hop();
                leaves(&bed, Device::Nic, &answer, TX, &leaving(Device::Nic, &want).bytes());
            }
        }
    }
}

#[test]
fn flows_to_other_nodes_are_wrapped_up() {
    let Some(bed) = Bed::fast() else { return };
    for plan in Plan::both() {
        for make in KINDS {
            for dialled in [(plan.vip, port::REMOTE), (plan.node, port::PUBLISHED_REMOTE)] {
                let client = (plan.client, bed.port());
                begun(&bed, make, client, dialled);
                let packet = make(client, dialled, ACK);
                let inner = leaving(Device::Vx, &packet.between(client, (plan.remote, port::BACKEND)).hop());
                for _ in 0..2 {
                    bed.xdp(Device::Nic, &packet);
                }
                let out = bed.xdp(Device::Nic, &packet);
                let half = |at: usize| u16::from_be_bytes([out.bytes[at], out.bytes[at + 1]]);
                let (id, source) = (half(18), half(34));
                assert!(source >= 0xc000, "a port of those that are nobody's: {source}");
                assert_eq!(out.bytes, wrapped(&inner.bytes(), id, source), "{packet:?}");
                assert_eq!(out.verdict, TX);
                // Another packet, another identification; the same flow, the same port.
                let mut other = packet.clone();
                if let Body::Tcp { data, .. } | Body::Udp { data, .. } = &mut other.body {
                    data.push(b'!');
                }
                let out = bed.xdp(Device::Nic, &other);
                let half = |at: usize| u16::from_be_bytes([out.bytes[at], out.bytes[at + 1]]);
                assert!(half(18) != id && half(34) == source);
                let inner = leaving(Device::Vx, &other.between(client, (plan.remote, port::BACKEND)).hop());
                assert_eq!(out.bytes, wrapped(&inner.bytes(), half(18), source));
            }
        }
    }
}

#[test]
fn what_is_no_known_flow_is_for_tcx() {
    let Some(bed) = Bed::fast() else { return };
    for plan in Plan::both() {
        for make in KINDS {
            let client = (plan.client, bed.port());
            for flags in [SYN, ACK] {
                let packet = make(client, (plan.vip, port::CONTAINER), flags);
                passes(&bed, Device::Nic, &packet);
                assert_eq!(bed.source(&packet), None, "XDP begins no flows");
            }
            passes(&bed, Device::Nic, &make(client, (plan.outside, 443), ACK));
            // A backend of this host.
            begun(&bed, make, client, (plan.vip, port::HERE));
            passes(&bed, Device::Nic, &make(client, (plan.vip, port::HERE), ACK));
        }
        passes(&bed, Device::Nic, &echo(plan.client, plan.vip, true));
        passes(&bed, Device::Nic, &Packet::new(plan.client, plan.vip, Body::Other(132, vec![0; 40])));
    }
    for kind in [[0x81, 0x00], [0x88, 0xa8], [0x08, 0x06], [0, 46]] {
        let plan = Plan::both()[0];
        let mut bytes = arriving(Way::In, Device::Nic, &udp((plan.client, 7), (plan.vip, 80))).bytes();
        bytes[12..14].copy_from_slice(&kind);
        assert_eq!(bed.xdp_bytes(Device::Nic, &bytes), Outcome { verdict: PASS, bytes });
    }
}

#[test]
fn what_needs_more_than_a_translation_is_for_tcx() {
    let Some(bed) = Bed::fast() else { return };
    for plan in Plan::both() {
        for (number, longest) in [(port::CONTAINER, 1450), (port::OUTSIDE, 1500), (port::REMOTE, 1450)] {
            let (client, dialled) = ((plan.client, bed.port()), (plan.vip, number));
            for make in KINDS {
                begun(&bed, make, client, dialled);
                // Its way is known.
                let packet = make(client, dialled, ACK);
                for _ in 0..2 {
                    bed.xdp(Device::Nic, &packet);
                }
                assert_ne!(bed.xdp(Device::Nic, &packet).verdict, PASS);
                for flags in [SYN, FIN | ACK, RST, SYN | ACK] {
                    let packet = tcp(client, dialled, flags);
                    passes(&bed, Device::Nic, &packet);
                }
                passes(&bed, Device::Nic, &Packet { ttl: 1, ..packet.clone() });
                passes(&bed, Device::Nic, &Packet { ttl: 0, ..packet.clone() });
                if plan.vip.is_ipv4() {
                    passes(&bed, Device::Nic, &Packet { options: vec![1; 4], ..packet.clone() });
                } else {
                    let padding = vec![0, 0, 1, 4, 0, 0, 0, 0];
                    passes(&bed, Device::Nic, &Packet { headers: vec![(60, padding)], ..packet.clone() });
                }
                // For somebody else on the link.
                let mut bytes = arriving(Way::In, Device::Nic, &packet).bytes();
                bytes[5] ^= 0x40;
                let out = bed.xdp_bytes(Device::Nic, &bytes);
                assert_eq!(out, Outcome { verdict: PASS, bytes });
                // A checksum that is left to the device: the sum of the pseudo header.
                let mut bytes = arriving(Way::In, Device::Nic, &packet).bytes();
                let l4 = if plan.vip.is_ipv4() { 34 } else { 54 };
                let (at, len) = (l4 + if packet.protocol() == 17 { 6 } else { 16 }, bytes.len() - l4);
                let partial = sum(&[&pseudo(packet.from, packet.to, packet.protocol(), len)]);
                bytes[at..at + 2].copy_from_slice(&partial.to_be_bytes());
                let out = bed.xdp_bytes(Device::Nic, &bytes);
                assert_eq!(out, Outcome { verdict: PASS, bytes });
            }
            let head = if plan.vip.is_ipv4() { 28 } else { 48 };
            passes(&bed, Device::Nic, &long(client, dialled, longest - head + 1));
            let fits = long(client, dialled, longest - head);
            assert_ne!(bed.xdp(Device::Nic, &fits).verdict, PASS, "{number}");
            for part in [(0, 800, true), (800, 1208, false)] {
                passes(&bed, Device::Nic, &Packet { part: Some(part), id: 5, ..long(client, dialled, 1200) });
            }
        }
    }
}

#[test]
fn datagrams_without_a_checksum() {
    let Some(bed) = Bed::fast() else { return };
    for plan in Plan::both() {
        let (client, dialled) = ((plan.client, bed.port()), (plan.vip, port::CONTAINER));
        begun(&bed, KINDS[1], client, dialled);
        let mut packet = udp(client, dialled);
        if let Body::Udp { sum, .. } = &mut packet.body {
            *sum = false;
        }
        if plan.vip.is_ipv4() {
            let want = packet.between(client, (plan.container, port::BACKEND)).hop();
            leaves(&bed, Device::Nic, &packet, FAST, &leaving(Device::Mesh, &want).bytes());
        } else {
            passes(&bed, Device::Nic, &packet);
        }
    }
}

#[test]
fn frames_that_are_cut_short_pass() {
    let Some(bed) = Bed::fast() else { return };
    for plan in Plan::both() {
        for make in KINDS {
            let (client, dialled) = ((plan.client, bed.port()), (plan.vip, port::REMOTE));
            begun(&bed, make, client, dialled);
            let whole = arriving(Way::In, Device::Nic, &make(client, dialled, ACK)).bytes();
            for _ in 0..2 {
                bed.xdp_bytes(Device::Nic, &whole);
            }
            assert_eq!(bed.xdp_bytes(Device::Nic, &whole).verdict, TX);
            for len in 14..whole.len() {
                let out = bed.xdp_bytes(Device::Nic, &whole[..len]);
                assert_eq!(out, Outcome { verdict: PASS, bytes: whole[..len].to_vec() }, "{len}");
            }
            // Padding of short frames is no part of the packet.
            let padded = [&whole[..], &[0; 9]].concat();
            let out = bed.xdp_bytes(Device::Nic, &padded);
            assert_eq!((out.verdict, out.bytes.len()), (TX, padded.len() + 50));
        }
    }
}

/// Devices that do not take frames, other nodes that are not known or only over IPv6, backends that are gone.
#[test]
fn without_a_way_everything_passes() {
    let Some(mut bed) = Bed::fast() else { return };
    for plan in Plan::both() {
        for make in KINDS {
            for number in [port::CONTAINER, port::OUTSIDE, port::REMOTE] {
                let (client, dialled) = ((plan.client, bed.port()), (plan.vip, number));
                begun(&bed, make, client, dialled);
                let packet = make(client, dialled, ACK);
                let sent = |bed: &mut Bed| {
                    // What was found is not used any more.
                    bed.configure(|config| config.epoch += 1);
                    bed.xdp(Device::Nic, &packet);
                    bed.xdp(Device::Nic, &packet).verdict != PASS
                };
                assert!(sent(&mut bed));
                for (device, bits) in [(Device::Nic, 0), (Device::Mesh, bit::RETURNS), (Device::Mesh, 0)] {
                    bed.takes(device, bits);
                    let concerned = (number == port::CONTAINER) == (device == Device::Mesh);
                    assert_eq!(sent(&mut bed), !concerned, "{number} {device:?} {bits}");
                    bed.takes(device, bit::SENDS | bit::RETURNS);
                }
                // A device that only takes frames takes those back, too, that came by it.
                bed.takes(Device::Nic, bit::SENDS);
                assert!(sent(&mut bed));
                assert_eq!(bed.xdp(Device::Nic, &packet).verdict, FAST);
                bed.takes(Device::Nic, bit::SENDS | bit::RETURNS);
                if number == port::REMOTE {
                    let key = VtepKey { device: Device::Vx.index(), mac: crate::bed::NEIGHBOUR, pad: 0 };
                    let vtep: Vtep = bed.look("xdp_vteps", key).unwrap();
                    bed.put("xdp_vteps", key, Vtep { family: 6, ..vtep });
                    assert!(!sent(&mut bed));
                    bed.take::<_, Vtep>("xdp_vteps", key);
                    assert!(!sent(&mut bed));
                    bed.put("xdp_vteps", key, vtep);
                }
                let index = bed.served(&plan, number, packet.protocol());
                let before: Backend = bed.get("backends", index);
                bed.change(index, |backend| backend.state = state::RESET);
                passes(&bed, Device::Nic, &packet);
                bed.set("backends", index, before);
            }
        }
    }
}

/// Every packet that is sent is counted, once, and those that pass are left for tcx to count.
#[test]
fn bytes_are_counted_where_packets_leave() {
    let Some(mut bed) = Bed::fast() else { return };
    for plan in Plan::both() {
        for make in KINDS {
            let (client, dialled) = ((plan.client, bed.port()), (plan.vip, port::CONTAINER));
            begun(&bed, make, client, dialled);
            let packet = make(client, dialled, ACK);
            let index = bed.served(&plan, port::CONTAINER, packet.protocol());
            let len = u64::try_from(packet.ip().len()).unwrap();
            bed.configure(|config| config.epoch += 1);
            let mut expected = bed.counts(index).0.bytes_in;
            for number in 0..5 {
                let out = bed.xdp(Device::Nic, &packet);
                assert_eq!(out.verdict, if number == 0 { PASS } else { FAST });
                expected += if number == 0 { 0 } else { len };
                assert_eq!(bed.counts(index).0.bytes_in, expected);
            }
            // tcx uses what XDP found, and the other way round.
            assert_eq!(bed.run(Way::In, Device::Nic, &packet).verdict, REDIRECT);
            assert_eq!(bed.counts(index).0.bytes_in, expected + len);
        }
    }
}

/// Next hops of which several have the same first place among the ways of a CPU.
#[test]
fn many_next_hops_do_not_take_turns() {
    let Some(bed) = Bed::fast() else { return };
    bed.netns.ip("addr add 172.31.0.1/16 dev nic");
    for plan in Plan::both() {
        let (dialled, backend) = ((plan.vip, port::CONTAINER), (plan.container, port::BACKEND));
        // As addresses are given out by chance.
        let clients = (1..=96_u32).map(|number| {
            let [a, b] =
                [24, 16].map(|shift| number.wrapping_mul(0x6c07_8965).wrapping_add(12345) >> shift & 0xff);
            let host =
                if plan.vip.is_ipv4() { format!("172.31.{a}.{b}") } else { format!("2001:db8::{a:x}:{b:x}") };
            (ip(&host), 1024)
        });
        let clients: Vec<End> = clients.collect();
        for client in &clients {
            let (address, mac) = (client.0, "02:00:00:00:00:ee");
            bed.netns.ip(&format!("neigh replace {address} lladdr {mac} nud permanent dev nic"));
            begun(&bed, tcp, *client, dialled);
        }
        for round in 0..3 {
            for client in &clients {
                let answer = tcp(backend, *client, ACK);
                let out = bed.xdp(Device::Mesh, &answer);
                let want = leaving(Device::Nic, &answer.between(dialled, *client).hop()).bytes();
                // The first packet of each hop finds the way.
                assert!(round == 0 || out == Outcome { verdict: FAST, bytes: want }, "{client:?}: {out:?}");
            }
        }
    }
}

/// A second later a way is found anew, and the packet for which it is passes.
#[test]
fn ways_grow_old() {
    let Some(mut bed) = Bed::fast() else { return };
    let plan = Plan::both()[0];
    let (client, dialled) = ((plan.client, bed.port()), (plan.vip, port::CONTAINER));
    begun(&bed, tcp, client, dialled);
    let packet = tcp(client, dialled, ACK);
    bed.xdp(Device::Nic, &packet);
    assert_eq!(bed.xdp(Device::Nic, &packet).verdict, FAST);
    // As if a second were no time at all.
    bed.configure(|config| config.hz = 0);
    passes(&bed, Device::Nic, &packet);
}
