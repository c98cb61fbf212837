//! Flows that another node began: their answers keep their place, and what would meet another's is marked.

use crate::{
    bed::{Bed, Device, NEXT, REDIRECT, Way, arriving},
    packet::{ACK, FIN, Packet, RST, SYN, tcp, udp},
    plan::{Plan, port},
};
use mesh_ebpf::common::{CLASH_MARK, GUEST_MARK, direction};

/// Lets a packet come in; the mark that it has then. It is not changed.
#[track_caller]
fn passes(bed: &Bed, device: Device, packet: &Packet) -> u32 {
    let bytes = arriving(Way::In, device, packet).bytes();
    let (out, mark) = bed.run_marked(Way::In, device, &bytes, 0, 0);
    assert_eq!((out.verdict, out.bytes), (NEXT, bytes));
    mark
}

const GUEST: u32 = direction::GUEST | direction::REPLY;

#[test]
fn a_guest_holds_the_place_of_its_answers() {
    let Some(bed) = Bed::new() else { return };
    for plan in Plan::both() {
        let (client, backend) = ((plan.client, bed.port()), (plan.container, port::BACKEND));
        let request = |flags| tcp(client, backend, flags);
        let answer = |flags| tcp(backend, client, flags);
        assert_eq!(passes(&bed, Device::Vx, &request(SYN)), 0);
        assert_eq!(bed.bits(&answer(0)), Some(GUEST));
        assert_eq!(bed.bits(&request(0)), None);
        for flags in [SYN | ACK, ACK] {
            assert_eq!(passes(&bed, Device::Mesh, &answer(flags)), 0);
        }
        assert_eq!(bed.bits(&answer(0)), Some(GUEST | direction::ANSWERED));
        // The same client dials this node from the same port: its flow gets another.
        let out = bed.run(Way::In, Device::Nic, &tcp(client, (plan.vip, port::CONTAINER), SYN));
        let came = tcp(client, backend, SYN).hop();
        assert_eq!(out.verdict, REDIRECT);
        assert_ne!(out.bytes, arriving(Way::In, Device::Nic, &came).bytes());
        assert_eq!(passes(&bed, Device::Vx, &request(ACK)), 0);
        assert_eq!(passes(&bed, Device::Mesh, &answer(FIN | ACK)), 0);
        assert_eq!(passes(&bed, Device::Vx, &request(FIN | ACK)), 0);
        let over = direction::ANSWERED | direction::FIN_BACKEND | direction::FIN_CLIENT;
        assert_eq!(bed.bits(&answer(0)), Some(GUEST | over));
        // Once more from that port.
        assert_eq!(passes(&bed, Device::Vx, &request(SYN)), 0);
        assert_eq!(bed.bits(&answer(0)), Some(GUEST));
        // Through a third node.
        let mut other = arriving(Way::In, Device::Vx, &request(SYN));
        other.link.1[5] ^= 1;
        let (out, mark) = bed.run_marked(Way::In, Device::Vx, &other.bytes(), 0, 0);
        assert_eq!((out.verdict, out.bytes, mark), (NEXT, other.bytes(), CLASH_MARK));
        assert_eq!(passes(&bed, Device::Vx, &request(RST)), 0);
        assert_eq!(bed.bits(&answer(0)), Some(GUEST | direction::CLOSED));
    }
}

#[test]
fn a_guest_whose_answers_have_anothers_place_is_marked() {
    let Some(bed) = Bed::new() else { return };
    let syn = |from, to| tcp(from, to, SYN);
    for plan in Plan::both() {
        for kind in [syn, udp] {
            let (client, backend) = ((plan.client, bed.port()), (plan.container, port::BACKEND));
            let vip = (plan.vip, port::CONTAINER);
            assert_eq!(bed.run(Way::In, Device::Nic, &kind(client, vip)).verdict, REDIRECT);
            for _ in 0..2 {
                assert_eq!(passes(&bed, Device::Vx, &kind(client, backend)), CLASH_MARK);
            }
            // By another way than the overlay nobody could send its answers back.
            assert_eq!(passes(&bed, Device::Nic, &kind(client, backend)), 0);
            // Its answer, which the host has given the client's port back and marked already.
            let bytes = arriving(Way::In, Device::Mesh, &kind(backend, client)).bytes();
            let (out, mark) = bed.run_marked(Way::In, Device::Mesh, &bytes, 0, GUEST_MARK[0] | 7);
            assert_eq!((out.verdict, out.bytes, mark), (NEXT, bytes, GUEST_MARK[0] | 7));
            // That of this node's flow.
            let answer = if kind(client, vip).protocol() == 6 {
                tcp(backend, client, ACK)
            } else {
                udp(backend, client)
            };
            assert_eq!(bed.run(Way::In, Device::Mesh, &answer).verdict, REDIRECT);
        }
    }
}
