//! What a data plane brings to the suite.

use mesh_agent::{
    dataplane::DataPlane,
    plan::{Backend, BackendId, BackendState},
};
use mesh_control::model::{Name, Protocol};
use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// What a client meets when it opens a flow and speaks once.
#[derive(Debug)]
pub enum Dialed<F> {
    /// This instance answered.
    Answered(F, String),
    /// Connected, and no answer yet.
    Waiting(F),
    /// Refused or reset before an answer.
    Refused,
    /// Nothing came back in the time given.
    Silent,
}

impl<F> Dialed<F> {
    /// Whether an instance answered.
    pub fn answered(&self) -> bool {
        matches!(self, Dialed::Answered(..))
    }

    /// The outcome without the flow, for messages.
    pub fn word(&self) -> String {
        match self {
            Dialed::Answered(_, by) => format!("answered by {by}"),
            Dialed::Waiting(_) => "waiting".into(),
            Dialed::Refused => "refused".into(),
            Dialed::Silent => "silent".into(),
        }
    }
}

/// What a client meets when it speaks on a flow it has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Said {
    /// This instance answered.
    Answer(String),
    /// The flow was reset.
    Reset,
    /// The other side ended it in good order.
    Closed,
    /// Nothing came back in the time given.
    Silent,
}

/// A data plane, the backends behind it and the clients before it.
#[expect(async_fn_in_trait, reason = "fixtures are named by type, never used as trait objects")]
pub trait PlaneUnderTest: Sized {
    /// The plane.
    type Plane: DataPlane;
    /// A client's end of a flow; dropping it hangs up.
    type Flow;

    /// Whether it can run here; what it lacks is printed, and `CI` skips nothing.
    fn possible() -> bool {
        true
    }

    /// An empty plane, nothing behind it.
    async fn start() -> Self;

    /// The plane.
    fn plane(&mut self) -> &mut Self::Plane;

    /// Ends this run of the plane without teardown and starts another over the same state.
    async fn restart(&mut self);

    /// How many schedulers decide independently of each other, as worker threads or processors; 1 is one queue.
    /// Round robin is even to within that many flows.
    fn shards(&self) -> u32;

    /// Whether a new UDP flow is rejected aloud even while old flows of the frontend may be left (on a draining
    /// backend, or one of weight 0). A plane whose old and new flows share one socket cannot, and is silent.
    fn rejects_udp_beside_old_flows(&self) -> bool {
        true
    }

    /// Whether `maglev` is this program's own table, the same on every node and plane, rather than one of the kernel's.
    fn maglev_is_ours(&self) -> bool {
        true
    }

    /// Whether affinity is counted from the last new flow, rather than from the moment that the plane has forgotten the
    /// last flow.
    fn affinity_ends_with_its_timeout(&self) -> bool {
        true
    }

    /// An address and port that nobody uses, for a frontend; the next `ports - 1` ports are free too.
    fn vip(&mut self, ports: u16) -> SocketAddr;

    /// An address of the node itself on which clients dial published ports, and a port that nobody uses.
    fn published(&mut self) -> SocketAddr;

    /// Starts an instance that answers its name on a TCP and a UDP port of the same number, and on as many after it.
    /// Returns it as a backend: active, weight 100.
    async fn serve(&mut self, instance: &str, ports: u16) -> Backend;

    /// The `n`th client's address.
    fn client(&self, n: u16) -> IpAddr;

    /// Opens a flow from `client` and speaks once. A negative outcome takes `patience`.
    async fn dial(
        &mut self,
        client: IpAddr,
        to: SocketAddr,
        protocol: Protocol,
        patience: Duration,
    ) -> Dialed<Self::Flow>;

    /// Speaks on a flow and waits for the answer.
    async fn say(&mut self, flow: &mut Self::Flow, patience: Duration) -> Said;

    /// Ends the client's direction of a TCP flow; the instance then answers once more and closes.
    async fn half_close(&mut self, flow: &mut Self::Flow, patience: Duration) -> Said;

    /// Hangs up.
    async fn hang_up(&mut self, flow: Self::Flow);

    /// The plane's clock: Unix time in milliseconds; the system's unless the plane has its own.
    fn now(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    /// Lets a little of that time pass between two looks at a condition.
    async fn tick(&mut self) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// An instance on another node as a backend: active, weight 100.
///
/// # Panics
/// When `instance` is no name.
pub(super) fn backend(instance: &str, address: IpAddr, port: u16) -> Backend {
    let name = |text| Name::new(text).expect("scenarios use good names");
    Backend {
        id: BackendId { instance: name(instance), node: name("n2") },
        address,
        port,
        weight: 100,
        state: BackendState::Active,
    }
}
