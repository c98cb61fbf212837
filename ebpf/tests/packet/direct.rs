//! Direct return: what the ingress node hands on, and what the backend's node makes of it and of the answers.

use crate::{
    bed::{Bed, Device, NEIGHBOUR, NEXT, Outcome, REDIRECT, SHOT, Way, arriving},
    packet::{ACK, FIN, Packet, RST, SYN, complaint, error, long, reset, tcp, udp},
    plan::{Plan, ip, port},
    xdp_bed::PASS,
};
use mesh_ebpf::common::{
    Drop,
    direct::{LINK, MARK, token},
    direction, flag, state,
};
use std::net::IpAddr;

type End = (IpAddr, u16);
/// Makes a packet of that flow; the flags are TCP's.
type Make = fn(End, End, u8) -> Packet;
const KINDS: [Make; 2] = [tcp, |from, to, _| udp(from, to)];

fn bed() -> Option<Bed> {
    let mut bed = Bed::new()?;
    bed.go_direct();
    Some(bed)
}

/// The frontend of a published port, which is its backend, too.
fn published(bed: &Bed, plan: &Plan, number: u16, make: Make) -> u32 {
    let any = unspecified(plan);
    bed.served_at(any, number, make((any, 1), (any, 1), 0).protocol())
}

/// What a frontend on every local address has for one.
pub(crate) fn unspecified(plan: &Plan) -> IpAddr {
    if plan.vip.is_ipv4() { ip("0.0.0.0") } else { ip("::") }
}

/// A packet as it comes from the node that handed it on.
pub(crate) fn handed(packet: &Packet, backend: u32) -> Packet {
    let [a, b, c, d] = token(backend.into()).to_ne_bytes();
    Packet { link: (Device::Vx.mac(), [LINK[0], LINK[1], a, b, c, d]), ..packet.clone() }
}

/// The packet is handed on to the backend.
#[track_caller]
fn hands_on(bed: &Bed, packet: &Packet, backend: u32) {
    let comes = arriving(Way::In, Device::Nic, packet);
    let (out, mark) = bed.run_marked(Way::In, Device::Nic, &comes.bytes(), 0, 0);
    assert_eq!(out, Outcome { verdict: REDIRECT, bytes: comes.hop().bytes() }, "{packet:?}");
    assert_eq!(mark, MARK[0] | backend);
    // The device of the overlay; the kernel has written its own address.
    let leaves = Packet { link: (NEIGHBOUR, Device::Vx.mac()), ..comes.hop() };
    let from = (mark, Device::Nic.index());
    let (out, mark) = bed.run_from(Way::Out, Device::Vx, &leaves.bytes(), 0, from);
    let stamped = Packet { link: (NEIGHBOUR, handed(packet, backend).link.1), ..leaves };
    assert_eq!((out, mark), (Outcome { verdict: NEXT, bytes: stamped.bytes() }, 0));
}

/// The packet that was handed on becomes `want`.
#[track_caller]
fn takes(bed: &Bed, packet: &Packet, backend: u32, want: &Packet, verdict: i32) {
    let comes = handed(packet, backend);
    for _ in 0..2 {
        let out = bed.run_bytes(Way::In, Device::Vx, &comes.bytes(), 0);
        let want = Packet { link: comes.link, ..want.clone() };
        assert_eq!(out, Outcome { verdict, bytes: want.bytes() }, "{packet:?}");
    }
}

/// The packet that was handed on goes nowhere.
#[track_caller]
fn sinks(bed: &Bed, packet: &Packet, backend: u32) {
    let out = bed.run_bytes(Way::In, Device::Vx, &handed(packet, backend).bytes(), 0);
    assert_eq!(out.verdict, SHOT, "{packet:?}");
}

#[test]
fn packets_are_handed_on_as_they_are() {
    let Some(mut bed) = bed() else { return };
    for plan in Plan::both() {
        for make in KINDS {
            let backend = published(&bed, &plan, port::PUBLISHED_REMOTE, make);
            let (client, dialled) = ((plan.client, bed.port()), (plan.node, port::PUBLISHED_REMOTE));
            let packet = |flags| make(client, dialled, flags);
            hands_on(&bed, &packet(SYN), backend);
            assert_eq!(bed.bits(&packet(0)), Some(direction::HANDED));
            let made = make((plan.remote, port::BACKEND), client, 0);
            assert_eq!(bed.bits(&made), None, "answers do not come by");
            let tcp = packet(0).protocol() == 6;
            for _ in 0..2 {
                hands_on(&bed, &packet(ACK), backend);
            }
            let open = direction::HANDED | if tcp { direction::ANSWERED } else { 0 };
            assert_eq!(bed.bits(&packet(0)), Some(open));
            let (counts, held) = bed.counts(backend);
            assert_eq!((held.active, held.begun, counts.bytes_out), (1, 1, 0));
            assert!(counts.bytes_in > 0);
            if tcp {
                hands_on(&bed, &packet(FIN | ACK), backend);
                let over = open | direction::FIN_CLIENT | direction::CLOSED;
                assert_eq!(bed.bits(&packet(0)), Some(over));
                assert_eq!(bed.counts(backend).1.active, 0);
                // What acknowledges the rest still goes there.
                hands_on(&bed, &packet(ACK), backend);
                hands_on(&bed, &packet(SYN), backend);
                assert_eq!(bed.bits(&packet(0)), Some(direction::HANDED), "a new one");
                assert_eq!((bed.counts(backend).1.active, bed.counts(backend).1.begun), (1, 2));
            }
            // A backend that goes: the client is told, or another is chosen.
            bed.change(backend, |backend| backend.state = state::RESET | state::REMOTE);
            let out = bed.run(Way::In, Device::Nic, &packet(ACK));
            let comes = arriving(Way::In, Device::Nic, &packet(ACK));
            let told = if tcp { reset(&comes) } else { complaint(&comes, (3, 3), (1, 4), 0) };
            assert_eq!(out, Outcome { verdict: REDIRECT, bytes: told.bytes() });
            assert_eq!(bed.counts(backend).1.active, 0);
        }
    }
}

#[test]
fn what_others_could_not_answer_is_not_handed_on() {
    let Some(mut bed) = bed() else { return };
    for plan in Plan::both() {
        let backend = published(&bed, &plan, port::PUBLISHED_REMOTE, tcp);
        let dialled = (plan.node, port::PUBLISHED_REMOTE);
        let own = |bed: &Bed, device, client| {
            let packet = tcp((client, bed.port()), dialled, SYN);
            let (out, mark) =
                bed.run_marked(Way::In, device, &arriving(Way::In, device, &packet).bytes(), 0, 0);
            assert_eq!((out.verdict, mark), (REDIRECT, 0));
            assert_eq!(bed.bits(&packet), Some(0));
        };
        // Behind this node, or one of the nodes.
        own(&bed, Device::Mesh, plan.container);
        own(&bed, Device::Mesh, plan.client);
        own(&bed, Device::Nic, plan.peer);
        // Where it has to be known when connections end.
        for flags in [flag::PUBLISHED | flag::LIMIT, flag::PUBLISHED | flag::PICK_LEAST, 0] {
            bed.flags(plan.vip.is_ipv4(), port::PUBLISHED_REMOTE, flags);
            own(&bed, Device::Nic, plan.client);
        }
        bed.flags(plan.vip.is_ipv4(), port::PUBLISHED_REMOTE, flag::PUBLISHED);
        hands_on(&bed, &tcp((plan.client, bed.port()), dialled, SYN), backend);
        // The VIP, which is dialled within the mesh.
        let packet = tcp((plan.client, bed.port()), (plan.vip, port::REMOTE), SYN);
        bed.run(Way::In, Device::Nic, &packet);
        assert_eq!(bed.bits(&packet), Some(0));
        // Too long for the overlay, although it may be cut: this host would take it for its own.
        let packet = long((plan.client, bed.port()), dialled, 1440);
        let comes = arriving(Way::In, Device::Nic, &Packet { dont_fragment: false, ..packet });
        let out = bed.run(Way::In, Device::Nic, &comes);
        let told = complaint(&comes, (3, 4), (2, 0), 1450);
        assert_eq!(out, Outcome { verdict: REDIRECT, bytes: told.bytes() });
    }
    bed.configure(|config| config.underlay = 0);
    for plan in Plan::both() {
        let packet = tcp((plan.client, bed.port()), (plan.node, port::PUBLISHED_REMOTE), SYN);
        bed.run(Way::In, Device::Nic, &packet);
        assert_eq!(bed.bits(&packet), Some(0));
    }
}

#[test]
fn what_was_handed_on_is_translated_and_answered_from_here() {
    let Some(bed) = bed() else { return };
    for plan in Plan::both() {
        for make in KINDS {
            let backend = published(&bed, &plan, port::PUBLISHED, make);
            let (client, dialled) = ((plan.client, bed.port()), (plan.peer, port::PUBLISHED));
            let (inside, packet) = ((plan.container, port::BACKEND), |flags| make(client, dialled, flags));
            let answer = |flags| make(inside, client, flags);
            for flags in [SYN, ACK] {
                takes(&bed, &packet(flags), backend, &packet(flags).between(client, inside).hop(), REDIRECT);
                let comes = arriving(Way::In, Device::Mesh, &answer(flags | ACK));
                let out = bed.run(Way::In, Device::Mesh, &comes);
                let want = comes.between(dialled, client).hop();
                assert_eq!(out, Outcome { verdict: REDIRECT, bytes: want.bytes() });
            }
            assert_eq!(bed.bits(&packet(0)), Some(direction::TAKEN | direction::ANSWERED));
            let (counts, held) = bed.counts(backend);
            assert_eq!((held.active, held.begun, counts.bytes_in), (0, 0, 0), "counted where it came in");
            assert!(counts.bytes_out > 0);
            assert_eq!(bed.leaves_by(&answer(0)).first(), Some(&Device::Nic.index()));
        }
        // A program of this host.
        for make in KINDS {
            let backend = published(&bed, &plan, port::PUBLISHED_HERE, make);
            let (client, dialled) = ((plan.client, bed.port()), (plan.peer, port::PUBLISHED_HERE));
            let inside = (plan.node, port::BACKEND);
            let packet = make(client, dialled, SYN);
            takes(&bed, &packet, backend, &packet.between(client, inside), NEXT);
            let answer = arriving(Way::Out, Device::Nic, &make(inside, client, SYN | ACK));
            let out = bed.run(Way::Out, Device::Nic, &answer);
            let want = answer.between(dialled, client);
            assert_eq!(out, Outcome { verdict: NEXT, bytes: want.bytes() });
        }
    }
}

#[test]
fn a_flow_that_was_forgotten_goes_where_it_went() {
    let Some(mut bed) = bed() else { return };
    for plan in Plan::both() {
        let backend = published(&bed, &plan, port::PUBLISHED, tcp);
        let (client, dialled) = ((plan.client, bed.port()), (plan.peer, port::PUBLISHED));
        let inside = (plan.container, port::BACKEND);
        let packet = |flags| tcp(client, dialled, flags);
        sinks(&bed, &packet(RST), backend);
        for _ in 0..2 {
            let want = packet(ACK).between(client, inside).hop();
            takes(&bed, &packet(ACK), backend, &want, REDIRECT);
            bed.evict(&tcp(inside, client, 0));
            bed.evict(&packet(0));
        }
        takes(&bed, &packet(SYN), backend, &packet(SYN).between(client, inside).hop(), REDIRECT);
        takes(&bed, &packet(RST), backend, &packet(RST).between(client, inside).hop(), REDIRECT);
        assert_eq!(bed.bits(&packet(0)), Some(direction::TAKEN | direction::CLOSED));
        // Once more from that port.
        takes(&bed, &packet(SYN), backend, &packet(SYN).between(client, inside).hop(), REDIRECT);
        assert_eq!(bed.bits(&packet(0)), Some(direction::TAKEN));
        assert_eq!(bed.counts(backend).1.active, 0);
    }
}

#[test]
fn what_means_nothing_here_goes_no_further() {
    let Some(mut bed) = bed() else { return };
    for plan in Plan::both() {
        for make in KINDS {
            let [backend, other, remote] = [port::PUBLISHED, port::PUBLISHED_HERE, port::PUBLISHED_REMOTE]
                .map(|number| published(&bed, &plan, number, make));
            let packet = |bed: &Bed, number| make((plan.client, bed.port()), (plan.peer, number), SYN);
            let before = bed.dropped(Drop::NoBackend);
            sinks(&bed, &packet(&bed, port::PUBLISHED), other + 100);
            sinks(&bed, &packet(&bed, port::PUBLISHED_REMOTE), remote);
            sinks(&bed, &packet(&bed, 9), backend);
            bed.change(backend, |backend| backend.state = state::RESET);
            sinks(&bed, &packet(&bed, port::PUBLISHED), backend);
            assert_eq!(bed.dropped(Drop::NoBackend), before + 4);
            // One that drains keeps what it has.
            bed.change(backend, |backend| backend.state = state::KEEPS);
            let ack = make((plan.client, bed.port()), (plan.peer, port::PUBLISHED), ACK);
            let inside = (plan.container, port::BACKEND);
            let client = (ack.from, ack.clone().ports().unwrap().0);
            takes(&bed, &ack, backend, &ack.between(client, inside).hop(), REDIRECT);
            // It goes: the client hears of it where it dials, the backend's side here.
            bed.change(backend, |backend| backend.state = state::RESET);
            sinks(&bed, &ack, backend);
            let answer = arriving(Way::In, Device::Mesh, &make(inside, client, ACK));
            let out = bed.run(Way::In, Device::Mesh, &answer);
            if ack.protocol() == 6 {
                assert_eq!(out, Outcome { verdict: REDIRECT, bytes: reset(&answer).bytes() });
            }
            bed.change(backend, |backend| backend.state = state::ACTIVE | state::KEEPS);
        }
        // Fragments whose first one was not seen, and other protocols, are not sent back to the node they are for.
        let whole = long((plan.client, bed.port()), (plan.peer, port::PUBLISHED), 1000);
        sinks(&bed, &Packet { part: Some((504, 1008, false)), id: 7, ..whole.clone() }, 1);
        // From another device such an address means nothing.
        let backend = published(&bed, &plan, port::PUBLISHED, tcp);
        let packet = tcp((plan.client, bed.port()), (plan.outside, port::PUBLISHED), SYN);
        let comes = Packet { link: (Device::Nic.mac(), handed(&packet, backend).link.1), ..packet };
        let out = bed.run_bytes(Way::In, Device::Nic, &comes.bytes(), 0);
        assert_eq!(out, Outcome { verdict: NEXT, bytes: comes.bytes() });
    }
}

#[test]
fn one_port_of_a_client_is_several_flows() {
    let Some(bed) = bed() else { return };
    for plan in Plan::both() {
        for make in KINDS {
            let backend = published(&bed, &plan, port::PUBLISHED, make);
            let (client, inside) = ((plan.client, bed.port()), (plan.container, port::BACKEND));
            // Through this node, through the other one, and through a third.
            let own = make(client, (plan.node, port::PUBLISHED), SYN);
            let out = bed.run(Way::In, Device::Nic, &own);
            let want = arriving(Way::In, Device::Nic, &own.between(client, inside).hop());
            assert_eq!(out, Outcome { verdict: REDIRECT, bytes: want.bytes() });
            let mut seen = vec![client.1];
            for through in [plan.peer, plan.beside] {
                let dialled = (through, port::PUBLISHED);
                let packet = make(client, dialled, SYN);
                bed.run_bytes(Way::In, Device::Vx, &handed(&packet, backend).bytes(), 0);
                let source = (client.0, bed.source(&packet).unwrap());
                assert!(!seen.contains(&source.1), "{seen:?}");
                takes(&bed, &packet, backend, &packet.between(source, inside).hop(), REDIRECT);
                let answer = arriving(Way::In, Device::Mesh, &make(inside, source, SYN | ACK));
                let out = bed.run(Way::In, Device::Mesh, &answer);
                let want = answer.between(dialled, client).hop();
                assert_eq!(out, Outcome { verdict: REDIRECT, bytes: want.bytes() });
                seen.push(source.1);
            }
        }
    }
}

#[test]
fn what_was_handed_on_is_not_handed_back() {
    let Some(bed) = bed() else { return };
    for plan in Plan::both() {
        for make in KINDS {
            // An address of both nodes: the client's packets came here, and come by the other one now.
            let (client, dialled) = ((plan.client, bed.port()), (plan.node, port::PUBLISHED_REMOTE));
            let remote = published(&bed, &plan, port::PUBLISHED_REMOTE, make);
            let packet = make(client, dialled, ACK);
            hands_on(&bed, &make(client, dialled, SYN), remote);
            hands_on(&bed, &packet, remote);
            let kind = if plan.vip.is_ipv4() { (3, 4) } else { (2, 0) };
            let about = make(dialled, client, ACK).ip();
            sinks(&bed, &error(plan.router, dialled.0, kind.0, kind.1, [0, 0, 5, 20], &about), remote);
            sinks(&bed, &packet, remote);
            assert_eq!(bed.bits(&packet), None);
        }
    }
}

#[test]
fn errors_about_answers_are_handed_on_and_translated() {
    let Some(bed) = bed() else { return };
    for plan in Plan::both() {
        for make in KINDS {
            let kind = if plan.vip.is_ipv4() { (3, 4) } else { (2, 0) };
            let rest = [0, 0, 5, 20];
            let client = (plan.client, bed.port());
            // At the node that was dialled.
            let (dialled, backend) =
                ((plan.node, port::PUBLISHED_REMOTE), published(&bed, &plan, port::PUBLISHED_REMOTE, make));
            hands_on(&bed, &make(client, dialled, SYN), backend);
            let about = make(dialled, client, ACK).ip();
            hands_on(&bed, &error(plan.router, dialled.0, kind.0, kind.1, rest, &about), backend);
            // At that of the backend.
            let (dialled, backend) =
                ((plan.peer, port::PUBLISHED), published(&bed, &plan, port::PUBLISHED, make));
            let packet = make(client, dialled, SYN);
            let inside = (plan.container, port::BACKEND);
            takes(&bed, &packet, backend, &packet.between(client, inside).hop(), REDIRECT);
            let about = make(dialled, client, ACK);
            let comes = error(plan.router, dialled.0, kind.0, kind.1, rest, &about.ip());
            let said = make(inside, client, ACK).ip();
            let want = error(plan.router, inside.0, kind.0, kind.1, rest, &said).hop();
            takes(&bed, &comes, backend, &want, REDIRECT);
            // The backend's own, about a packet of the client's.
            let about = make(client, inside, ACK).ip();
            let comes = error(inside.0, client.0, kind.0, kind.1, rest, &about);
            let comes = arriving(Way::In, Device::Mesh, &comes);
            let out = bed.run(Way::In, Device::Mesh, &comes);
            let want = error(dialled.0, client.0, kind.0, kind.1, rest, &make(client, dialled, ACK).ip());
            let want = Packet { link: comes.link, ..want.hop() };
            assert_eq!(out, Outcome { verdict: REDIRECT, bytes: want.bytes() });
        }
    }
}

#[test]
fn fragments_are_handed_on_and_taken() {
    let Some(bed) = bed() else { return };
    for plan in Plan::both() {
        let client = (plan.client, bed.port());
        let parts = |dialled| {
            let whole = long(client, dialled, 1000);
            [(0, 504, true), (504, 1008, false)].map(|part| Packet {
                part: Some(part),
                id: 99,
                ..whole.clone()
            })
        };
        let backend = published(&bed, &plan, port::PUBLISHED_REMOTE, KINDS[1]);
        for part in parts((plan.node, port::PUBLISHED_REMOTE)) {
            hands_on(&bed, &part, backend);
        }
        let backend = published(&bed, &plan, port::PUBLISHED, KINDS[1]);
        let inside = (plan.container, port::BACKEND);
        for part in parts((plan.peer, port::PUBLISHED)) {
            takes(&bed, &part, backend, &part.between(client, inside).hop(), REDIRECT);
        }
    }
}

#[test]
fn at_xdp_it_passes() {
    let Some(mut bed) = Bed::fast() else { return };
    bed.go_direct();
    for plan in Plan::both() {
        for make in KINDS {
            let (client, dialled) = ((plan.client, bed.port()), (plan.node, port::PUBLISHED_REMOTE));
            bed.begin(Device::Nic, &make(client, dialled, SYN));
            let bytes = arriving(Way::In, Device::Nic, &make(client, dialled, ACK)).bytes();
            for _ in 0..3 {
                let out = bed.xdp_bytes(Device::Nic, &bytes);
                assert_eq!(out, Outcome { verdict: PASS, bytes: bytes.clone() });
            }
        }
    }
}
