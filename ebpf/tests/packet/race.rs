//! What two CPUs do at the same moment.

use crate::{
    bed::{Bed, Device, Outcome, SHOT, Way, arriving},
    packet::{ACK, Packet, SYN, tcp},
    plan::{Plan, port},
};
use mesh_ebpf::common::{Drop, direction};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::{
    hint,
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
    thread,
    time::{Duration, Instant},
};

/// How many flows two CPUs begin, for each way that flows are written down.
const FLOWS: usize = 300;
/// The other CPU is there by then, or never.
const BOUND: Duration = Duration::from_secs(30);

/// Begins flows on a CPU, each when another CPU does. A barrier that sleeps would have one of the two be late.
fn begin(bed: &Bed, cpu: usize, requests: &[Packet], arrived: &AtomicUsize) -> Vec<Outcome> {
    let run = |(number, request): (usize, &Packet)| {
        let bytes = request.bytes();
        let start = Instant::now();
        arrived.fetch_add(1, SeqCst);
        while arrived.load(SeqCst) < 2 * (number + 1) {
            assert!(start.elapsed() < BOUND, "the other CPU does not come");
            hint::spin_loop();
        }
        bed.run_here(Way::In, Device::Nic, &bytes, 0, (0, 0)).0
    };
    let all = || {
        let mut one = CpuSet::new();
        one.set(cpu);
        sched_setaffinity(None, &one).unwrap();
        requests.iter().enumerate().map(run).collect()
    };
    bed.netns.run(all)
}

#[test]
fn a_flow_that_two_cpus_begin_at_once_is_one() {
    let Some(mut bed) = Bed::with(1 << 15) else { return };
    let may = sched_getaffinity(None).unwrap();
    let cpus: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| may.is_set(*cpu)).take(2).collect();
    let [first, second] = cpus[..] else {
        eprintln!("SKIPPED: one processor begins no two flows at once");
        return;
    };
    let mut met = 0;
    for plan in Plan::both() {
        // Both directions are in one set; in two, for answers come to the node; the two CPUs choose different backends.
        for (number, turns) in [(port::CONTAINER, false), (port::OUTSIDE, false), (port::CONTAINER, true)] {
            let own = if number == port::OUTSIDE { plan.node } else { plan.client };
            let at = if number == port::OUTSIDE { plan.outside } else { plan.container };
            let backends = [number, port::REMOTE].map(|number| bed.served(&plan, number, 6));
            if turns {
                bed.takes_turns(&plan, number, backends);
            }
            let counts = |bed: &Bed| {
                let all = backends.map(|backend| bed.counts(backend).1);
                (all[0].active + all[1].active, all[0].begun + all[1].begun)
            };
            let ((mut active, mut begun), mut lost) = (counts(&bed), bed.dropped(Drop::Full));
            let requests: Vec<Packet> = (0..FLOWS)
                .map(|_| tcp((plan.client, bed.port()), (plan.vip, number), SYN))
                .map(|packet| arriving(Way::In, Device::Nic, &packet))
                .collect();
            let arrived = AtomicUsize::new(0);
            let [one, other] = thread::scope(|scope| {
                let (bed, requests, arrived) = (&bed, &requests, &arrived);
                let both = [first, second].map(|cpu| scope.spawn(move || begin(bed, cpu, requests, arrived)));
                both.map(|thread| thread.join().unwrap())
            });
            for (request, outcomes) in requests.iter().zip(one.iter().zip(&other).map(<[_; 2]>::from)) {
                // Who has the lock may be interrupted for longer than the other asks for it.
                lost += outcomes.map(|outcome| u64::from(outcome.verdict == SHOT)).iter().sum::<u64>();
                let mut through = outcomes.into_iter().filter(|outcome| outcome.verdict != SHOT);
                let Some(out) = through.next() else { continue };
                assert!(through.all(|other| other == out), "two ways: {outcomes:?}");
                (active, begun) = (active + 1, begun + 1);
                let client = (own, bed.source(request).unwrap());
                assert_eq!(client.1, request.clone().ports().unwrap().0, "its own port was free");
                let mut ways = 0;
                for backend in [at, plan.remote] {
                    let backend = (backend, port::BACKEND);
                    let way = out.bytes == request.between(client, backend).hop().bytes();
                    let answer = arriving(Way::In, Device::Mesh, &tcp(backend, client, SYN | ACK));
                    assert_eq!(bed.bits(&answer), way.then_some(direction::REPLY), "answers of {backend:?}");
                    ways += u32::from(way);
                }
                assert_eq!((bed.bits(request), ways), (Some(0), 1));
            }
            let now = counts(&bed);
            assert_eq!((now.0, bed.dropped(Drop::Full)), (active, lost));
            // Who came second had chosen a backend, too.
            met += now.1 - begun;
        }
    }
    println!("{met} of {} flows were begun twice", 6 * FLOWS);
    assert!(met > 0, "the CPUs never met");
}
