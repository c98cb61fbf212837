//! A full table of flows forgets some; who counts open flows learns of it.

use super::Ebpf;
use mesh_agent::dataplane::DataPlane as _;
use mesh_control::model::Protocol;
use mesh_integration::contract::{PlaneUnderTest, World, hosted::Hosted as _, kernel::Routed4};
use std::{net::UdpSocket, time::Duration};

/// Many more than the fixture's table has places for.
const FLOWS: u32 = 10_000;
/// As many as it has: 547 sets (`table::sets` of 4,096 directions), in each seven with both directions and half of one.
const MOST: u64 = 547 * 8;
/// Counts are put right every few seconds, and only when several looks agree.
const SEVERAL_LOOKS: Duration = Duration::from_secs(60);

/// What is counted comes down to what the table holds, and what it holds stays counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flows_that_a_full_table_forgot_are_open_no_more() {
    type Fixture = Routed4<Ebpf>;
    if !Fixture::possible() {
        return;
    }
    let mut w = World::<Fixture>::start().await;
    let front = w.serving(Protocol::Udp, &["a"]).await;
    let kept = w.serving(Protocol::Tcp, &["b"]).await;
    let (client, to) = (w.put.client(2), front.address());
    let send = || {
        for _ in 0..FLOWS {
            UdpSocket::bind((client, 0))?.send_to(b"who", to)?;
        }
        std::io::Result::Ok(())
    };
    w.put.clients().inside(send).flatten().expect("datagrams can be sent");
    let open = |put: &mut Fixture, protocol| {
        let all = put.plane().counters().backends;
        all.iter().find(|c| c.protocol == protocol).map_or(0, |c| c.active)
    };
    let most = open(&mut w.put, Protocol::Udp);
    assert!(most > MOST, "{most}: the table cannot hold so many");
    let (mut flow, _) = w.reach(1, &kept).await;
    let counted = |put: &mut Fixture| open(put, Protocol::Udp) <= MOST;
    w.until_within(SEVERAL_LOOKS, "only flows of the table are counted", counted).await;
    w.still(&mut flow, "b").await;
    assert_eq!(open(&mut w.put, Protocol::Tcp), 1);
}
