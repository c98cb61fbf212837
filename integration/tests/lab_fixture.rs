//! The hosts around a kernel plane, as they are while no plane does anything: what the contract suite builds on.

use mesh_agent::dataplane::fake::FakePlane;
use mesh_control::model::Protocol;
use mesh_integration::contract::{
    Dialed, PlaneUnderTest,
    kernel::{KernelPlane, OnNode4, OnNode6, Routed4, Routed6},
};
use std::{net::SocketAddr, time::Duration};

/// Nothing that touches a packet.
struct Nothing;

impl KernelPlane for Nothing {
    type Plane = FakePlane;

    type Ground = ();

    fn ground() {}

    fn make((): &()) -> FakePlane {
        FakePlane::new()
    }
}

const PATIENCE: Duration = Duration::from_secs(20);

/// Clients with addresses of their own and backends reach backends; where nobody is, everybody is refused aloud.
async fn ways_are_open_and_elsewhere_refuses<P: PlaneUnderTest>() {
    if !P::possible() {
        return;
    }
    let mut put = P::start().await;
    let (a, b) = (put.serve("a", 3).await, put.serve("b", 1).await);
    assert_ne!(a.address, b.address);
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        for client in [put.client(1), put.client(4000), b.address] {
            for port in a.port..a.port + 3 {
                let dialed = put.dial(client, (a.address, port).into(), protocol, PATIENCE).await;
                let answered = matches!(&dialed, Dialed::Answered(_, by) if by == "a");
                assert!(answered, "{client} by {protocol}: {}", dialed.word());
            }
            for nobody in [put.vip(1), put.published(), SocketAddr::new(b.address, 1)] {
                let dialed = put.dial(client, nobody, protocol, PATIENCE).await;
                let refused = matches!(dialed, Dialed::Refused);
                assert!(refused, "{client} to {nobody} by {protocol}: {}", dialed.word());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routed_ipv4() {
    ways_are_open_and_elsewhere_refuses::<Routed4<Nothing>>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routed_ipv6() {
    ways_are_open_and_elsewhere_refuses::<Routed6<Nothing>>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_the_node_ipv4() {
    ways_are_open_and_elsewhere_refuses::<OnNode4<Nothing>>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_the_node_ipv6() {
    ways_are_open_and_elsewhere_refuses::<OnNode6<Nothing>>().await;
}
