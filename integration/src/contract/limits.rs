//! Who may connect, how many, and that it is counted.

use super::{
    fixture::PlaneUnderTest,
    world::{BRIEF, World},
};
use mesh_agent::dataplane::DataPlane;
use mesh_control::model::Protocol;

/// An empty list lets everybody in, a list only those on it.
pub async fn only_allowed_sources_connect<P: PlaneUnderTest>() {
    let mut w = World::<P>::start().await;
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let mut front = w.serving(protocol, &["a"]).await;
        front.frontend.allow = vec![w.put.client(1).into()];
        w.set(&front).await;
        w.reach(1, &front).await;
        let dialed = w.try_reach(2, &front, BRIEF).await;
        assert!(!dialed.answered(), "{protocol}: {}", dialed.word());
        let key = front.key();
        let denied = |put: &mut P| {
            let counters = put.plane().counters();
            counters.frontends.iter().any(|f| f.frontend == key && f.denied > 0)
        };
        w.until("the denied flow is counted", denied).await;
        front.frontend.allow.push(w.put.client(2).into());
        w.set(&front).await;
        w.reach(2, &front).await;
    }
}

/// A backend at its limit takes no more until a flow ends.
pub async fn the_connection_limit_of_a_backend_holds<P: PlaneUnderTest>() {
    let mut w = World::<P>::start().await;
    let mut front = w.serving(Protocol::Tcp, &["a", "b"]).await;
    front.frontend.max_connections = Some(1);
    w.set(&front).await;
    let (first, one) = w.reach(1, &front).await;
    let (_second, two) = w.reach(1, &front).await;
    assert_ne!(one, two, "the other has room");
    let dialed = w.try_reach(1, &front, BRIEF).await;
    assert!(!dialed.answered(), "{}", dialed.word());
    drop(dialed);
    w.put.hang_up(first).await;
    let end = std::time::Instant::now() + super::world::PATIENCE;
    while !w.try_reach(1, &front, BRIEF).await.answered() {
        assert!(std::time::Instant::now() < end, "never room again");
        w.put.tick().await;
    }
}

/// Every flow is counted once, at the backend that got it, and leaves the gauge when it ends.
pub async fn counters_count<P: PlaneUnderTest>() {
    let mut w = World::<P>::start().await;
    let front = w.serving(Protocol::Tcp, &["a", "b"]).await;
    let (flow, by) = w.reach(1, &front).await;
    let hits = w.hits(&front, 2..8).await;
    let count = |put: &mut P, instance: &str| {
        let counters = put.plane().counters();
        let c = counters.backends.iter().find(|c| c.backend.instance.as_str() == instance);
        c.map_or((0, 0), |c| (c.active, c.established))
    };
    for instance in ["a", "b"] {
        let open = u64::from(by == instance);
        let wanted = (open, u64::from(hits.get(instance).copied().unwrap_or(0)) + open);
        w.until(&format!("{instance} counts {wanted:?}"), |put| count(put, instance) == wanted).await;
    }
    w.put.hang_up(flow).await;
    w.until("no flow is left", |put| count(put, "a").0 + count(put, "b").0 == 0).await;
}
