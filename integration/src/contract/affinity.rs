//! One client, one backend, for a while.

use super::{
    fixture::PlaneUnderTest,
    world::{World, explain},
};
use mesh_agent::plan::BackendState;
use mesh_control::model::{Affinity, Protocol};
use std::{collections::BTreeSet, time::Duration};

const HOUR: Option<Affinity> = Some(Affinity { timeout: Duration::from_secs(3600) });

/// Affinity is the service's: all its frontends share it, and clients do not share with each other.
pub async fn a_client_stays_with_its_backend_whatever_the_port<P: PlaneUnderTest>() {
    let mut w = World::<P>::start().await;
    let mut front = w.serving(Protocol::Tcp, &["a", "b", "c"]).await;
    front.frontend.affinity = HOUR;
    w.set(&front).await;
    let mut other = w.front(Protocol::Tcp);
    other.frontend.service = front.frontend.service.clone();
    other.frontend.affinity = HOUR;
    other.backends = front.backends.clone();
    w.set(&other).await;
    let mut seen = BTreeSet::new();
    for client in 1..=24 {
        let (_flow, by) = w.reach(client, &front).await;
        for again in [&front, &other, &front] {
            assert_eq!(w.reach(client, again).await.1, by, "client {client}");
        }
        let remembered = w.explain(client, &other).affinity;
        assert_eq!(remembered.map(|id| id.instance.to_string()), Some(by.clone()));
        seen.insert(by);
    }
    assert_eq!(seen.len(), 3, "clients are spread: {seen:?}");
}

/// Counted from the last new flow; then the scheduler chooses anew.
pub async fn affinity_is_forgotten_after_its_timeout<P: PlaneUnderTest>() {
    let mut w = World::<P>::start().await;
    if !w.put.affinity_ends_with_its_timeout() {
        // Its own tests say when it ends.
        return;
    }
    let mut front = w.serving(Protocol::Tcp, &["a", "b"]).await;
    front.frontend.affinity = Some(Affinity { timeout: Duration::from_millis(150) });
    w.set(&front).await;
    let mut seen = BTreeSet::new();
    // Round robin gives the other backend as soon as it is asked; several shards may agree by chance for a while.
    for _ in 0..20 {
        let (flow, by) = w.reach(1, &front).await;
        w.put.hang_up(flow).await;
        seen.insert(by);
        if seen.len() == 2 {
            return;
        }
        w.until("affinity is forgotten", |put| explain(put, 1, &front).affinity.is_none()).await;
    }
    panic!("never another backend than {seen:?}");
}

/// A backend that drains, is down or has weight 0 keeps no client to itself.
pub async fn affinity_yields_when_its_backend_takes_no_new_flow<P: PlaneUnderTest>() {
    for state in [BackendState::Draining { deadline: None }, BackendState::Down] {
        let mut w = World::<P>::start().await;
        let mut front = w.serving(Protocol::Tcp, &["a", "b"]).await;
        front.frontend.affinity = HOUR;
        w.set(&front).await;
        let (mut flow, by) = w.reach(1, &front).await;
        front.set_state(&by, state);
        w.set(&front).await;
        let (_next, other) = w.reach(1, &front).await;
        assert_ne!(other, by, "{state:?}");
        w.still(&mut flow, &by).await;
        front.set_state(&by, BackendState::Active);
        w.set(&front).await;
        assert_eq!(w.reach(1, &front).await.1, other, "the newer choice is the one remembered");
    }
}
