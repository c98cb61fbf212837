//! Frontends that no backend takes flows of.

use super::{
    fixture::{Dialed, PlaneUnderTest, Said},
    world::{BRIEF, Front, PATIENCE, World},
};
use mesh_agent::{dataplane::DataPlane, plan::BackendState};
use mesh_control::model::{NoBackend, Protocol};

/// Frontends that have no backend at all, only a draining one, only a down one, only one of weight 0.
async fn empties<P: PlaneUnderTest>(w: &mut World<P>, protocol: Protocol, policy: NoBackend) -> Vec<Front> {
    let mut fronts = Vec::new();
    let states = [
        None,
        Some((BackendState::Draining { deadline: None }, 100)),
        Some((BackendState::Down, 100)),
        Some((BackendState::Active, 0)),
    ];
    for state in states {
        let mut front = w.front(protocol);
        front.frontend.no_backend = policy;
        if let Some((state, weight)) = state {
            let mut backend = w.put.serve("a", 1).await;
            (backend.state, backend.weight) = (state, weight);
            front.backends.push(backend);
        }
        w.set(&front).await;
        fronts.push(front);
    }
    fronts
}

/// TCP reset, ICMP port unreachable; see [`PlaneUnderTest::rejects_udp_beside_old_flows`] for the one exception.
pub async fn reject_refuses_at_once<P: PlaneUnderTest>() {
    let mut w = World::<P>::start().await;
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        for front in empties(&mut w, protocol, NoBackend::Reject).await {
            let old_flows = front.backends.iter().any(|b| b.state != BackendState::Down);
            if protocol == Protocol::Udp && old_flows && !w.put.rejects_udp_beside_old_flows() {
                let dialed = w.try_reach(1, &front, BRIEF).await;
                assert!(matches!(dialed, Dialed::Silent), "{:?}: {}", front.backends, dialed.word());
                continue;
            }
            let dialed = w.try_reach(1, &front, PATIENCE).await;
            assert!(matches!(dialed, Dialed::Refused), "{protocol} {:?}: {}", front.backends, dialed.word());
        }
    }
}

/// Silence.
pub async fn drop_is_silent<P: PlaneUnderTest>() {
    let mut w = World::<P>::start().await;
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        for front in empties(&mut w, protocol, NoBackend::Drop).await {
            let dialed = w.try_reach(1, &front, BRIEF).await;
            assert!(matches!(dialed, Dialed::Silent), "{protocol} {:?}: {}", front.backends, dialed.word());
        }
    }
}

/// The connection waits and is served by the backend that comes; a plane that cannot hold refuses.
pub async fn hold_waits_for_a_backend<P: PlaneUnderTest>() {
    let mut w = World::<P>::start().await;
    let holds = w.put.plane().capabilities().hold;
    for mut front in empties(&mut w, Protocol::Tcp, NoBackend::Hold).await {
        let dialed = w.try_reach(1, &front, BRIEF).await;
        if !holds {
            assert!(matches!(dialed, Dialed::Refused), "{}", dialed.word());
            continue;
        }
        let Dialed::Waiting(mut flow) = dialed else { panic!("{}", dialed.word()) };
        front.backends.push(w.put.serve("late", 1).await);
        w.set(&front).await;
        w.until_said(&mut flow, &Said::Answer("late".into())).await;
    }
}

/// Empty and not empty follow each other at once, whatever the policy in between.
pub async fn a_backend_that_comes_back_serves<P: PlaneUnderTest>() {
    let mut w = World::<P>::start().await;
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let mut front = w.serving(protocol, &["a"]).await;
        for (policy, state) in [
            (NoBackend::Reject, BackendState::Down),
            (NoBackend::Drop, BackendState::Down),
            (NoBackend::Reject, BackendState::Draining { deadline: None }),
        ] {
            front.frontend.no_backend = policy;
            front.set_state("a", state);
            w.set(&front).await;
            let dialed = w.try_reach(1, &front, BRIEF).await;
            assert!(!dialed.answered(), "{protocol} {policy:?}: {}", dialed.word());
            front.set_state("a", BackendState::Active);
            w.set(&front).await;
            assert_eq!(w.reach(1, &front).await.1, "a", "{protocol} {policy:?}");
        }
    }
}
