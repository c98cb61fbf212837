//! The reference plane: flows are those it models.

use super::fixture::{Dialed, PlaneUnderTest, Said, backend};
use mesh_agent::{
    dataplane::fake::{FakePlane, FlowId, FlowState, Opening},
    plan::Backend,
};
use mesh_control::model::Protocol;
use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

/// The fixture of [`FakePlane`].
#[derive(Debug)]
pub struct FakeFixture {
    plane: FakePlane,
    next: u16,
}

/// A modelled flow.
#[derive(Debug)]
pub struct FakeFlow {
    client: SocketAddr,
    to: SocketAddr,
    protocol: Protocol,
    id: FlowId,
}

impl FakeFixture {
    fn number(&mut self) -> u16 {
        self.next += 1;
        self.next
    }
}

impl PlaneUnderTest for FakeFixture {
    type Plane = FakePlane;
    type Flow = FakeFlow;

    async fn start() -> Self {
        FakeFixture { plane: FakePlane::new(), next: 0 }
    }

    fn plane(&mut self) -> &mut FakePlane {
        &mut self.plane
    }

    async fn restart(&mut self) {
        let next_run = self.plane.clone();
        self.plane = next_run;
    }

    fn shards(&self) -> u32 {
        1
    }

    fn vip(&mut self, _ports: u16) -> SocketAddr {
        let [high, low] = self.number().to_be_bytes();
        SocketAddr::from(([10, 96, high, low], 80))
    }

    fn published(&mut self) -> SocketAddr {
        let number = self.number();
        SocketAddr::from(([192, 0, 2, 1], 20_000 + number))
    }

    async fn serve(&mut self, instance: &str, _ports: u16) -> Backend {
        let [high, low] = self.number().to_be_bytes();
        backend(instance, [10, 0, high, low].into(), 8080)
    }

    fn client(&self, n: u16) -> IpAddr {
        let [high, low] = n.to_be_bytes();
        [192, 168, high, low].into()
    }

    async fn dial(
        &mut self,
        client: IpAddr,
        to: SocketAddr,
        protocol: Protocol,
        _patience: Duration,
    ) -> Dialed<FakeFlow> {
        let client = SocketAddr::new(client, 1024 + self.number());
        let flow = |id| FakeFlow { client, to, protocol, id };
        match self.plane.open(client, to, protocol) {
            Opening::Open(id, by) | Opening::Continued(id, by) => {
                Dialed::Answered(flow(id), by.instance.to_string())
            }
            Opening::Held(id) => Dialed::Waiting(flow(id)),
            Opening::Dropped => Dialed::Silent,
            Opening::Refused | Opening::Denied | Opening::Limited | Opening::NoListener => Dialed::Refused,
        }
    }

    async fn say(&mut self, flow: &mut FakeFlow, _patience: Duration) -> Said {
        if flow.protocol == Protocol::Udp {
            return match self.plane.open(flow.client, flow.to, flow.protocol) {
                Opening::Open(id, by) | Opening::Continued(id, by) => {
                    flow.id = id;
                    Said::Answer(by.instance.to_string())
                }
                _ => Said::Silent,
            };
        }
        match self.plane.flow(flow.id) {
            Some(FlowState::Open(by)) => Said::Answer(by.instance.to_string()),
            Some(FlowState::Held) => Said::Silent,
            Some(FlowState::Reset) => Said::Reset,
            None => Said::Closed,
        }
    }

    async fn half_close(&mut self, flow: &mut FakeFlow, _patience: Duration) -> Said {
        self.plane.close(flow.id);
        Said::Closed
    }

    async fn hang_up(&mut self, flow: FakeFlow) {
        self.plane.close(flow.id);
    }

    fn now(&self) -> u64 {
        self.plane.now()
    }

    async fn tick(&mut self) {
        self.plane.advance(Duration::from_millis(10));
    }
}
