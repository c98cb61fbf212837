//! What flows remember: TCP's end, backends that go, limits, and what was evicted.

use crate::tables::Tables as _;
use crate::{
    bed::{Bed, Device, NEXT, Outcome, REDIRECT, SHOT, Way, arriving},
    packet::{ACK, FIN, Packet, RST, SYN, reset, tcp, udp},
    plan::{Plan, port},
};
use mesh_ebpf::common::{Drop, direction, mode, state, table};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::net::IpAddr;

/// A client of a port of the VIP, and the backend's answers.
struct Talk<'a> {
    bed: &'a Bed,
    client: (IpAddr, u16),
    vip: (IpAddr, u16),
    backend: (IpAddr, u16),
}

impl Talk<'_> {
    fn new<'a>(bed: &'a Bed, plan: &Plan, number: u16) -> Talk<'a> {
        Talk {
            bed,
            client: (plan.client, bed.port()),
            vip: (plan.vip, number),
            backend: (plan.container, port::BACKEND),
        }
    }

    fn request(&self, flags: u8) -> Packet {
        arriving(Way::In, Device::Nic, &tcp(self.client, self.vip, flags))
    }

    fn answer(&self, flags: u8) -> Packet {
        arriving(Way::In, Device::Mesh, &tcp(self.backend, self.client, flags))
    }

    /// The client sends, and the backend gets it.
    #[track_caller]
    fn there(&self, flags: u8) {
        let out = self.bed.run(Way::In, Device::Nic, &self.request(flags));
        let want = self.request(flags).between(self.client, self.backend).hop();
        assert_eq!(out, Outcome { verdict: REDIRECT, bytes: want.bytes() });
    }

    /// The backend answers, and the client gets it.
    #[track_caller]
    fn back(&self, flags: u8) {
        let out = self.bed.run(Way::In, Device::Mesh, &self.answer(flags));
        let want = self.answer(flags).between(self.vip, self.client).hop();
        assert_eq!(out, Outcome { verdict: REDIRECT, bytes: want.bytes() });
    }

    /// Both directions have these bits.
    #[track_caller]
    fn is(&self, bits: u32) {
        assert_eq!(self.bed.bits(&self.request(0)), Some(bits));
        assert_eq!(self.bed.bits(&self.answer(0)), Some(bits | direction::REPLY));
    }

    /// Whether the client has acknowledged an answer.
    #[track_caller]
    fn is_open(&self, open: bool) {
        assert_eq!([self.request(0), self.answer(0)].map(|packet| self.bed.open(&packet)), [open; 2]);
    }
}

/// Does it on each CPU that this thread may have, and says how many these are.
fn on_each_cpu(run: impl Fn()) -> usize {
    let may = sched_getaffinity(None).unwrap();
    for cpu in (0..CpuSet::MAX_CPU).filter(|cpu| may.is_set(*cpu)) {
        let mut one = CpuSet::new();
        one.set(cpu);
        sched_setaffinity(None, &one).unwrap();
        run();
    }
    sched_setaffinity(None, &may).unwrap();
    may.count().try_into().unwrap()
}

#[test]
fn tcp_ends_by_fins_and_by_resets() {
    let Some(mut bed) = Bed::new() else { return };
    for plan in Plan::both() {
        let backend = bed.served(&plan, port::CONTAINER, 6);
        let talk = Talk::new(&bed, &plan, port::CONTAINER);
        talk.there(SYN);
        talk.is(0);
        talk.back(SYN | ACK);
        talk.is(direction::ANSWERED);
        // The same again, as a flood sends it, acknowledges nothing.
        talk.there(SYN);
        talk.is_open(false);
        talk.there(ACK);
        talk.is_open(true);
        assert_eq!(bed.counts(backend).1.active, 1);
        talk.there(FIN | ACK);
        talk.is(direction::ANSWERED | direction::FIN_CLIENT);
        talk.back(ACK);
        talk.back(FIN | ACK);
        let over = direction::ANSWERED | direction::FIN_CLIENT | direction::FIN_BACKEND | direction::CLOSED;
        talk.is(over);
        // The last acknowledgement, and what is sent again, still goes through.
        talk.there(ACK);
        talk.back(FIN | ACK);
        talk.is(over);
        let held = bed.counts(backend).1;
        assert_eq!((held.begun, held.active), (1, 0));
        // The same ports again are a new flow.
        talk.there(SYN);
        talk.is(0);
        talk.is_open(false);
        talk.back(SYN | ACK);
        talk.back(RST);
        talk.is(direction::ANSWERED | direction::CLOSED);
        talk.there(SYN);
        talk.there(RST | ACK);
        talk.is(direction::CLOSED);
        let (counts, held) = bed.counts(backend);
        assert_eq!((held.begun, held.active, counts.reset), (3, 0, 0));
    }
    // A closed flow's ports lead to another backend at once, on whatever CPU.
    for plan in Plan::both() {
        let (container, remote) = (bed.served(&plan, port::CONTAINER, 6), bed.served(&plan, port::REMOTE, 6));
        let talk = Talk::new(&bed, &plan, port::CONTAINER);
        let (client, again, more) = (talk.client, talk.request(SYN), talk.request(ACK));
        talk.there(SYN);
        let cpus = on_each_cpu(|| talk.there(ACK));
        assert_eq!(bed.leaves_by(&more), vec![Device::Mesh.index(); cpus], "each CPU has its own");
        talk.there(RST);
        bed.set("slots", container, remote);
        let elsewhere = |packet: &Packet| {
            let out = bed.run(Way::In, Device::Nic, packet);
            assert_eq!(out.bytes, packet.between(client, (plan.remote, port::BACKEND)).hop().bytes());
        };
        elsewhere(&again);
        on_each_cpu(|| elsewhere(&more));
        bed.set("slots", container, container);
    }
}

#[test]
fn bytes_are_counted_by_direction() {
    let Some(bed) = Bed::new() else { return };
    for plan in Plan::both() {
        let talk = Talk::new(&bed, &plan, port::CONTAINER);
        let (mut sent, mut answered) = (0, 0);
        for flags in [SYN, ACK, ACK, ACK] {
            talk.there(flags);
            sent += talk.request(flags).ip().len() as u64;
        }
        for flags in [SYN | ACK, ACK, ACK] {
            talk.back(flags);
            answered += talk.answer(flags).ip().len() as u64;
        }
        let counts = bed.counts(bed.served(&plan, port::CONTAINER, 6)).0;
        assert_eq!((counts.bytes_in, counts.bytes_out), (sent, answered));
    }
}

#[test]
fn flows_of_a_backend_that_is_reset_are_reset_on_both_sides() {
    let Some(mut bed) = Bed::new() else { return };
    let changes: [fn(&mut mesh_ebpf::common::Backend); 3] = [
        |backend| backend.state = state::RESET,
        |backend| backend.state = 0,
        |backend| backend.generation += 1,
    ];
    for plan in Plan::both() {
        let index = bed.served(&plan, port::CONTAINER, 6);
        for change in changes {
            let talk = Talk::new(&bed, &plan, port::CONTAINER);
            for flags in [SYN, ACK] {
                talk.there(flags);
            }
            talk.back(SYN | ACK);
            let (request, answer, rst) = (talk.request(ACK), talk.answer(ACK), talk.request(RST));
            let (client, container) = (talk.client, talk.backend);
            let (before, held) = bed.counts(index);
            bed.change(index, change);
            for packet in [&request, &request] {
                let out = bed.run(Way::In, Device::Nic, packet);
                assert_eq!(out, Outcome { verdict: REDIRECT, bytes: reset(packet).bytes() });
            }
            let out = bed.run(Way::In, Device::Mesh, &answer);
            assert_eq!(out, Outcome { verdict: REDIRECT, bytes: reset(&answer).bytes() });
            assert_eq!(bed.bits(&request).unwrap() & direction::CLOSED, direction::CLOSED);
            assert_eq!(bed.run(Way::In, Device::Nic, &rst).verdict, SHOT);
            let (counts, now) = bed.counts(index);
            if now.generation == 1 {
                assert_eq!((counts.reset, now.active), (before.reset + 1, held.active - 1));
            }
            bed.change(index, |backend| {
                backend.state = state::ACTIVE | state::KEEPS;
            });
            // A new flow of the same ports finds whoever is there now.
            let syn = arriving(Way::In, Device::Nic, &tcp(client, (plan.vip, port::CONTAINER), SYN));
            let out = bed.run(Way::In, Device::Nic, &syn);
            assert_eq!(out.bytes, syn.between(client, container).hop().bytes());
            bed.change(index, |backend| backend.generation = 1);
        }
    }
}

#[test]
fn draining_backends_keep_their_flows_and_get_no_new_ones() {
    let Some(mut bed) = Bed::new() else { return };
    for plan in Plan::both() {
        let index = bed.served(&plan, port::CONTAINER, 6);
        let talk = Talk::new(&bed, &plan, port::CONTAINER);
        talk.there(SYN);
        let (client, request) = (talk.client, talk.request(ACK));
        bed.change(index, |backend| backend.state = state::KEEPS);
        let out = bed.run(Way::In, Device::Nic, &request);
        assert_eq!(out.bytes, request.between(client, (plan.container, port::BACKEND)).hop().bytes());
        let syn =
            arriving(Way::In, Device::Nic, &tcp((plan.client, bed.port()), (plan.vip, port::CONTAINER), SYN));
        let out = bed.run(Way::In, Device::Nic, &syn);
        assert_eq!(out, Outcome { verdict: REDIRECT, bytes: reset(&syn).bytes() });
    }
}

#[test]
fn datagrams_leave_a_backend_that_is_gone_at_once() {
    let Some(mut bed) = Bed::new() else { return };
    for plan in Plan::both() {
        let index = bed.served(&plan, port::CONTAINER, 17);
        let (client, vip) = ((plan.client, bed.port()), (plan.vip, port::CONTAINER));
        let packet = arriving(Way::In, Device::Nic, &udp(client, vip));
        for _ in 0..2 {
            let out = bed.run(Way::In, Device::Nic, &packet);
            assert_eq!(out.bytes, packet.between(client, (plan.container, port::BACKEND)).hop().bytes());
        }
        bed.change(index, |backend| {
            backend.generation += 1;
            backend.port += 1;
        });
        // An answer of the old one belongs to nobody.
        let late = udp((plan.container, port::BACKEND), client);
        let before = bed.dropped(Drop::Gone);
        assert_eq!(bed.run(Way::In, Device::Mesh, &late).verdict, SHOT);
        assert_eq!(bed.dropped(Drop::Gone), before + 1);
        let out = bed.run(Way::In, Device::Nic, &packet);
        assert_eq!(out.bytes, packet.between(client, (plan.container, port::BACKEND + 1)).hop().bytes());
        assert_eq!(bed.bits(&late), None);
        let out = bed.run(Way::In, Device::Mesh, &udp((plan.container, port::BACKEND + 1), client));
        let want = arriving(Way::In, Device::Mesh, &udp(vip, client)).hop();
        assert_eq!(out, Outcome { verdict: REDIRECT, bytes: want.bytes() });
    }
}

#[test]
fn a_direction_that_was_evicted_comes_back() {
    let Some(mut bed) = Bed::new() else { return };
    // Every packet notes that its flow lives.
    bed.configure(|config| config.hz = 0);
    for plan in Plan::both() {
        let talk = Talk::new(&bed, &plan, port::CONTAINER);
        talk.there(SYN);
        talk.back(SYN | ACK);
        let (request, answer) = (talk.request(ACK), talk.answer(ACK));
        let (client, vip, backend) = (talk.client, talk.vip, talk.backend);
        bed.evict(&answer);
        let there = bed.run(Way::In, Device::Nic, &request);
        assert_eq!(there.bytes, request.between(client, backend).hop().bytes());
        let back = bed.run(Way::In, Device::Mesh, &answer);
        assert_eq!(back.bytes, answer.between(vip, client).hop().bytes());
        bed.evict(&request);
        assert_eq!(bed.run(Way::In, Device::Mesh, &answer), back);
        assert_eq!(bed.run(Way::In, Device::Nic, &request), there);
    }
}

#[test]
fn one_port_of_a_client_to_two_frontends_of_one_backend_stays_two_flows() {
    let Some(bed) = Bed::new() else { return };
    for plan in Plan::both() {
        for protocol in [6, 17] {
            let make = |from, to| if protocol == 6 { tcp(from, to, SYN) } else { udp(from, to) };
            let (client, backend) = ((plan.client, bed.port()), (plan.container, port::BACKEND));
            let frontends = [port::CONTAINER, port::HASHED, port::ALLOWED];
            let mut ports = Vec::new();
            for number in frontends {
                let packet = make(client, (plan.vip, number));
                let out = bed.run(Way::In, Device::Nic, &packet);
                let source = bed.source(&packet).unwrap();
                let want = arriving(Way::In, Device::Nic, &packet.between((client.0, source), backend)).hop();
                assert_eq!(out, Outcome { verdict: REDIRECT, bytes: want.bytes() });
                ports.push(source);
            }
            assert_eq!(ports[0], client.1);
            assert!(ports[1..].iter().all(|port| (32_768..61_000).contains(port)), "{ports:?}");
            for (number, source) in frontends.into_iter().zip(ports) {
                let out = bed.run(Way::In, Device::Mesh, &make(backend, (client.0, source)));
                let want = arriving(Way::In, Device::Mesh, &make((plan.vip, number), client)).hop();
                assert_eq!(out, Outcome { verdict: REDIRECT, bytes: want.bytes() });
            }
        }
    }
}

#[test]
fn a_full_table_forgets_the_oldest_and_takes_the_newest() {
    let Some(bed) = Bed::with(512) else { return };
    for plan in Plan::both() {
        for _ in 0..1500 {
            let talk = Talk::new(&bed, &plan, port::CONTAINER);
            talk.there(SYN);
            talk.back(SYN | ACK);
        }
    }
}

#[test]
fn a_flood_of_beginnings_leaves_what_is_open() {
    let Some(bed) = Bed::with(512) else { return };
    for plan in Plan::both() {
        let talks: Vec<Talk<'_>> = (0..60).map(|_| Talk::new(&bed, &plan, port::CONTAINER)).collect();
        for talk in &talks {
            talk.there(SYN);
            talk.back(SYN | ACK);
            talk.there(ACK);
        }
        // Ten times as many as there are places for; the backend answers, and nobody hears it.
        for number in 0..10_000 {
            let talk = Talk::new(&bed, &plan, port::CONTAINER);
            talk.there(SYN);
            if number % 2 == 0 {
                talk.back(SYN | ACK);
            }
        }
        let there = |packet: &Packet| bed.bits(packet).is_some_and(|bits| bits & direction::ANSWERED != 0);
        let left = talks.iter().filter(|talk| there(&talk.request(0)) && there(&talk.answer(0))).count();
        assert_eq!(left, talks.len());
        talks.iter().for_each(|talk| talk.back(ACK));
    }
}

#[test]
fn a_set_that_another_cpu_has_takes_no_new_flow_and_keeps_those_it_has() {
    let Some(mut bed) = Bed::with(512) else { return };
    let heads = |bed: &mut Bed, lock: u32| {
        for set in 0..table::sets(512) {
            let mut head: [u32; 16] = bed.get("flows4", set * table::LINES);
            head[0] = lock;
            bed.set("flows4", set * table::LINES, head);
        }
    };
    let [plan, _] = Plan::both();
    let (known, new) = [(); 2].map(|()| bed.port()).into();
    let syn = |client| {
        arriving(Way::In, Device::Nic, &tcp((plan.client, client), (plan.vip, port::CONTAINER), SYN))
    };
    assert_eq!(bed.run(Way::In, Device::Nic, &syn(known)).verdict, REDIRECT);
    heads(&mut bed, 1);
    let before = bed.dropped(Drop::Full);
    assert_eq!(bed.run(Way::In, Device::Nic, &syn(new)).verdict, SHOT);
    assert_eq!((bed.dropped(Drop::Full), bed.bits(&syn(new))), (before + 1, None));
    assert_eq!(bed.run(Way::In, Device::Nic, &syn(known)).verdict, REDIRECT);
    heads(&mut bed, 0);
    assert_eq!(bed.run(Way::In, Device::Nic, &syn(new)).verdict, REDIRECT);
    let held = bed.counts(bed.served(&plan, port::CONTAINER, 6)).1;
    assert_eq!(held.active, 2, "what was not begun is not counted");
}

#[test]
fn processors_that_reorder_what_they_write_are_told_not_to() {
    let Some(mut bed) = Bed::new() else { return };
    bed.configure(|config| config.mode &= !mode::ORDERED);
    for plan in Plan::both() {
        let talk = Talk::new(&bed, &plan, port::CONTAINER);
        talk.there(SYN);
        talk.back(SYN | ACK);
        talk.is(direction::ANSWERED);
    }
}

#[test]
fn a_cpu_begins_only_so_many_flows_in_a_jiffy() {
    let Some(mut bed) = Bed::new() else { return };
    bed.configure(|config| config.new_flows = 1);
    let [plan, _] = Plan::both();
    let known = udp((plan.client, bed.port()), (plan.vip, port::CONTAINER));
    while bed.bits(&known).is_none() {
        bed.run(Way::In, Device::Nic, &known);
    }
    let before = bed.dropped(Drop::Flood);
    for _ in 0..10_000 {
        let packet = udp((plan.client, bed.port()), (plan.vip, port::CONTAINER));
        let out = bed.run(Way::In, Device::Nic, &packet);
        assert_eq!(bed.run(Way::In, Device::Nic, &known).verdict, REDIRECT, "flows that are known go on");
        if out.verdict == SHOT {
            assert_eq!(bed.dropped(Drop::Flood), before + 1);
            assert_eq!(bed.bits(&packet), None);
            return;
        }
    }
    panic!("never two in a jiffy");
}

#[test]
fn on_the_way_out_only_answers_are_ours() {
    let Some(bed) = Bed::new() else { return };
    for plan in Plan::both() {
        let client = (plan.client, bed.port());
        for number in [port::CONTAINER, port::HERE, port::NOBODY] {
            let packet = arriving(Way::Out, Device::Nic, &tcp(client, (plan.vip, number), SYN));
            for _ in 0..2 {
                let out = bed.run(Way::Out, Device::Nic, &packet);
                assert_eq!(out, Outcome { verdict: NEXT, bytes: packet.bytes() });
                bed.run(Way::In, Device::Nic, &tcp(client, (plan.vip, number), SYN));
            }
        }
    }
}
