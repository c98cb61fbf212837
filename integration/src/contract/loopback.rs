//! Real clients and real instances on loopback addresses, for planes that move packets there without privileges.

use super::{
    fixture::{Dialed, PlaneUnderTest, Said, backend},
    talk::{self, Opened, SocketFlow},
};
use mesh_agent::{dataplane::DataPlane, plan::Backend};
use mesh_control::model::Protocol;
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};
use tokio::task::JoinSet;

/// How to make a plane that serves loopback addresses.
pub trait LoopbackPlane {
    /// The plane.
    type Plane: DataPlane;

    /// A new run of it.
    fn make() -> Self::Plane;

    /// See [`PlaneUnderTest::shards`].
    fn shards() -> u32;

    /// See [`PlaneUnderTest::rejects_udp_beside_old_flows`].
    fn rejects_udp_beside_old_flows() -> bool {
        true
    }
}

/// The fixture of a [`LoopbackPlane`].
#[derive(Debug)]
pub struct Loopback<L: LoopbackPlane> {
    plane: Option<L::Plane>,
    instances: JoinSet<()>,
}

/// VIP ports handed out so far in this process; its id makes the address its own.
static PORTS: AtomicU16 = AtomicU16::new(0);

impl<L: LoopbackPlane> PlaneUnderTest for Loopback<L> {
    type Plane = L::Plane;
    type Flow = SocketFlow;

    async fn start() -> Self {
        Loopback { plane: Some(L::make()), instances: JoinSet::new() }
    }

    fn plane(&mut self) -> &mut L::Plane {
        self.plane.get_or_insert_with(L::make)
    }

    async fn restart(&mut self) {
        // The old run ends before the next begins, as with a process.
        self.plane = None;
        self.plane = Some(L::make());
    }

    fn shards(&self) -> u32 {
        L::shards()
    }

    fn rejects_udp_beside_old_flows(&self) -> bool {
        L::rejects_udp_beside_old_flows()
    }

    fn vip(&mut self, ports: u16) -> SocketAddr {
        let [_, high, middle, low] = std::process::id().to_be_bytes();
        let ip = Ipv4Addr::new(127, 128 | (high & 0x3f), middle, low);
        SocketAddr::from((ip, 10_000 + PORTS.fetch_add(ports, Ordering::Relaxed)))
    }

    fn published(&mut self) -> SocketAddr {
        self.vip(1)
    }

    async fn serve(&mut self, instance: &str, ports: u16) -> Backend {
        let ip = IpAddr::from([127, 0, 2, 1]);
        let mut opened = Opened::at(ip, ports);
        for _ in 0..50 {
            if opened.is_ok() {
                break;
            }
            opened = Opened::at(ip, ports);
        }
        let opened = opened.expect("free ports in a row");
        let port = opened.serve(instance, &mut self.instances).expect("sockets that were just opened");
        backend(instance, ip, port)
    }

    fn client(&self, n: u16) -> IpAddr {
        let [high, low] = n.to_be_bytes();
        [127, 3, high, low].into()
    }

    async fn dial(
        &mut self,
        client: IpAddr,
        to: SocketAddr,
        protocol: Protocol,
        patience: Duration,
    ) -> Dialed<SocketFlow> {
        let socket = talk::client(client, protocol).unwrap_or_else(|e| panic!("{client}: {e}"));
        talk::dial(socket, to, protocol, patience).await
    }

    async fn say(&mut self, flow: &mut SocketFlow, patience: Duration) -> Said {
        flow.say(patience).await
    }

    async fn half_close(&mut self, flow: &mut SocketFlow, patience: Duration) -> Said {
        flow.half_close(patience).await
    }

    async fn hang_up(&mut self, flow: SocketFlow) {
        drop(flow);
    }
}
