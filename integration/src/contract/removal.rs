//! What ends, and what must not.

use super::{
    fixture::{Dialed, PlaneUnderTest, Said},
    world::{BRIEF, PATIENCE, World},
};
use mesh_control::model::Protocol;

/// Its flows are reset; those of others go on.
pub async fn a_removed_tcp_backend_resets_its_flows<P: PlaneUnderTest>() {
    let mut w = World::<P>::start().await;
    let mut front = w.serving(Protocol::Tcp, &["a", "b"]).await;
    let mut flows = Vec::new();
    for _ in 0..8 {
        flows.push(w.reach(1, &front).await);
    }
    assert!(flows.iter().any(|(_, by)| by == "a") && flows.iter().any(|(_, by)| by == "b"));
    front.remove("a");
    w.set(&front).await;
    for (flow, by) in &mut flows {
        match by.as_str() {
            "a" => w.until_said(flow, &Said::Reset).await,
            other => w.still(flow, other).await,
        }
    }
    let hits = w.hits(&front, 1..6).await;
    assert_eq!(hits.keys().collect::<Vec<_>>(), ["b"]);
}

/// The client's next datagram reaches another backend: no datagram is sent to the one that is gone.
pub async fn a_removed_udp_backend_loses_its_flows_at_once<P: PlaneUnderTest>() {
    let mut w = World::<P>::start().await;
    let mut front = w.serving(Protocol::Udp, &["a", "b"]).await;
    let mut flows = Vec::new();
    for _ in 0..8 {
        flows.push(w.reach(1, &front).await.0);
    }
    front.remove("a");
    w.set(&front).await;
    for flow in &mut flows {
        w.still(flow, "b").await;
    }
}

/// Flows are reset and nobody listens any more; the address can be taken again.
pub async fn a_removed_frontend_is_gone<P: PlaneUnderTest>() {
    let mut w = World::<P>::start().await;
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let front = w.serving(protocol, &["a"]).await;
        let (mut flow, _) = w.reach(1, &front).await;
        w.unset(&front).await;
        if protocol == Protocol::Tcp {
            w.until_said(&mut flow, &Said::Reset).await;
        }
        let dialed = w.try_reach(1, &front, BRIEF).await;
        assert!(matches!(dialed, Dialed::Refused), "{protocol}: {}", dialed.word());
        w.set(&front).await;
        assert_eq!(w.reach(1, &front).await.1, "a", "{protocol}");
    }
}

/// A backend dials its own service and reaches itself, when it is the only one.
pub async fn hairpin_works<P: PlaneUnderTest>() {
    let mut w = World::<P>::start().await;
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let front = w.serving(protocol, &["a"]).await;
        let own = front.backends[0].address;
        let dialed = w.put.dial(own, front.address(), protocol, PATIENCE).await;
        assert!(matches!(&dialed, Dialed::Answered(_, by) if by == "a"), "{protocol}: {}", dialed.word());
    }
}

/// The end of one direction is passed on and the other goes on.
pub async fn half_close_is_passed_on<P: PlaneUnderTest>() {
    let mut w = World::<P>::start().await;
    let front = w.serving(Protocol::Tcp, &["a"]).await;
    let (mut flow, _) = w.reach(1, &front).await;
    assert_eq!(
        w.put.half_close(&mut flow, PATIENCE).await,
        Said::Answer("a".into()),
        "answered after our end"
    );
    assert_eq!(w.put.say(&mut flow, PATIENCE).await, Said::Closed);
}
