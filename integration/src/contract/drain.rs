//! Backends that take no new flow.

use super::{
    fixture::{PlaneUnderTest, Said},
    world::{Front, World},
};
use mesh_agent::plan::BackendState;
use mesh_control::model::Protocol;

/// Two instances, `a` draining without end, and a flow that `a` has from before.
async fn draining<P: PlaneUnderTest>(w: &mut World<P>, protocol: Protocol) -> (Front, P::Flow) {
    let mut front = w.serving(protocol, &["a"]).await;
    let (flow, by) = w.reach(1, &front).await;
    assert_eq!(by, "a");
    front.backends.push(w.put.serve("b", 1).await);
    front.set_state("a", BackendState::Draining { deadline: None });
    w.set(&front).await;
    let hits = w.hits(&front, 2..12).await;
    assert_eq!(hits.keys().collect::<Vec<_>>(), ["b"], "no new flow to a draining backend");
    let why: Vec<Option<String>> = w.explain(3, &front).candidates.into_iter().map(|c| c.excluded).collect();
    assert_eq!(why, [Some("draining".to_owned()), None]);
    (front, flow)
}

/// Old flows live until the deadline, then both sides see a reset; others are not touched.
pub async fn draining_tcp_keeps_old_flows_until_the_deadline<P: PlaneUnderTest>() {
    let mut w = World::<P>::start().await;
    let (mut front, mut old) = draining(&mut w, Protocol::Tcp).await;
    let (mut new, _) = w.reach(2, &front).await;
    w.still(&mut old, "a").await;
    let far = w.put.now() + 3_600_000;
    front.set_state("a", BackendState::Draining { deadline: Some(far) });
    w.set(&front).await;
    w.still(&mut old, "a").await;
    let soon = w.put.now() + 50;
    front.set_state("a", BackendState::Draining { deadline: Some(soon) });
    w.set(&front).await;
    w.until_said(&mut old, &Said::Reset).await;
    assert!(w.put.now() >= soon, "not before the deadline");
    w.still(&mut new, "b").await;
}

/// A UDP flow stays too, and after the deadline the client's next datagram begins a new one.
pub async fn draining_udp_keeps_old_flows_until_the_deadline<P: PlaneUnderTest>() {
    let mut w = World::<P>::start().await;
    let (mut front, mut old) = draining(&mut w, Protocol::Udp).await;
    w.still(&mut old, "a").await;
    let soon = w.put.now() + 50;
    front.set_state("a", BackendState::Draining { deadline: Some(soon) });
    w.set(&front).await;
    w.until_said(&mut old, &Said::Answer("b".into())).await;
    assert!(w.put.now() >= soon, "not before the deadline");
}

/// A backend that is not ready keeps its connections, for it may only be slow; datagrams go elsewhere at once.
pub async fn down_keeps_tcp_and_moves_udp<P: PlaneUnderTest>() {
    for (protocol, then) in [(Protocol::Tcp, "a"), (Protocol::Udp, "b")] {
        let mut w = World::<P>::start().await;
        let mut front = w.serving(protocol, &["a"]).await;
        let (mut flow, _) = w.reach(1, &front).await;
        front.backends.push(w.put.serve("b", 1).await);
        front.set_state("a", BackendState::Down);
        w.set(&front).await;
        let hits = w.hits(&front, 2..8).await;
        assert_eq!(hits.keys().collect::<Vec<_>>(), ["b"], "{protocol}");
        w.still(&mut flow, then).await;
    }
}
