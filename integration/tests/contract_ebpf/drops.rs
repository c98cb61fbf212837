//! What packets are dropped is counted by reason.

use super::Ebpf;
use mesh_agent::{dataplane::DataPlane as _, plan::BackendState};
use mesh_control::model::{NoBackend, Protocol};
use mesh_integration::contract::{Dialed, PlaneUnderTest, World, kernel::Routed4};
use std::{collections::BTreeMap, time::Duration};

/// Also those that are answered with a refusal, and also by another run of the agent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drops_are_counted_by_reason() {
    type Fixture = Routed4<Ebpf>;
    if !Fixture::possible() {
        return;
    }
    let mut w = World::<Fixture>::start().await;
    let drops = |w: &mut World<Fixture>| BTreeMap::from_iter(w.put.plane().counters().drops);
    let none = drops(&mut w);
    assert!(none.len() == 9 && none.values().all(|n| *n == 0), "{none:?}");
    let mut front = w.serving(Protocol::Udp, &["a"]).await;
    front.set_state("a", BackendState::Down);
    w.set(&front).await;
    assert!(matches!(w.try_reach(1, &front, Duration::from_secs(20)).await, Dialed::Refused));
    let one = drops(&mut w)["no_backend"];
    assert!(one > 0);
    front.frontend.no_backend = NoBackend::Drop;
    w.set(&front).await;
    assert!(matches!(w.try_reach(1, &front, Duration::from_millis(100)).await, Dialed::Silent));
    let two = drops(&mut w)["no_backend"];
    assert!(two > one);
    w.put.restart().await;
    assert_eq!(drops(&mut w)["no_backend"], two);
}
