//! A full table of flows forgets some; who counts open flows learns of it.

use super::{Ebpf, pins_of};
use mesh_agent::dataplane::DataPlane as _;
use mesh_control::model::Protocol;
use mesh_ebpf::{
    Flows,
    common::{V4, direction},
};
use mesh_integration::contract::{PlaneUnderTest, World, hosted::Hosted as _, kernel::Routed4};
use std::{collections::BTreeSet, net::UdpSocket, time::Duration};

/// Many more than the fixture's table has places for.
const FLOWS: u32 = 10_000;
/// Counts are put right every few seconds, and only when several looks agree.
const SEVERAL_LOOKS: Duration = Duration::from_secs(60);

/// The flows of datagrams that a table has, by the client's port. Of some only one direction is left.
fn held(table: &Flows<V4>) -> u64 {
    let datagrams = table.iter().filter(|(_, key, _)| key.protocol == 17);
    let clients = datagrams.map(|(_, key, flow)| match flow.bits & direction::REPLY {
        0 => key.source_port,
        _ => key.destination_port,
    });
    u64::try_from(clients.collect::<BTreeSet<u16>>().len()).unwrap_or(u64::MAX)
}

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
    let table = Flows::open(&pins_of(&w.put).join("flows4")).expect("the table of flows");
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
    let (most, there) = (open(&mut w.put, Protocol::Udp), held(&table));
    assert!(most > there, "{most}: the table holds all {there}");
    let (mut flow, _) = w.reach(1, &kept).await;
    let counted = |put: &mut Fixture| open(put, Protocol::Udp) == held(&table);
    w.until_within(SEVERAL_LOOKS, "only flows of the table are counted", counted).await;
    assert!(held(&table) > 0, "some are left to be counted");
    w.still(&mut flow, "b").await;
    assert_eq!(open(&mut w.put, Protocol::Tcp), 1);
}
