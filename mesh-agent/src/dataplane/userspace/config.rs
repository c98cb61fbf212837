//! What can be set on the userspace plane.

use std::time::Duration;

/// Limits and times of a [`super::UserspacePlane`]. The defaults suit a node of any size.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UserspaceConfig {
    /// Worker threads, each with its own event loop and its own listening sockets; 0 means one per available core.
    pub workers: usize,
    /// Most flows (TCP connections and UDP sessions) at once over all workers; at the limit a worker stops
    /// accepting TCP and drops datagrams of new clients. Lowered at start to a third of the descriptor limit.
    pub max_flows: usize,
    /// Idle time after which a TCP flow is closed, for frontends that name none; absent means never.
    pub tcp_idle: Option<Duration>,
    /// Idle time after which a UDP session is forgotten, for frontends that name none.
    pub udp_idle: Duration,
    /// How long one backend may take to accept a connection.
    pub connect_timeout: Duration,
    /// How many backends one new TCP flow tries before it is reset.
    pub connect_attempts: usize,
    /// How long a TCP flow waits for a backend under `no_backend: hold`.
    pub hold_wait: Duration,
    /// Most TCP flows that wait so at once over all workers.
    pub max_held: usize,
    /// Most clients whose affinity is remembered per service; the longest unused are forgotten first.
    pub affinity_entries: usize,
    /// Accept queue of each listening socket; the kernel caps it at `net.core.somaxconn`.
    pub backlog: i32,
    /// Seed of the `random` scheduler, for repeatable tests; absent means from the system.
    pub seed: Option<u64>,
}

impl Default for UserspaceConfig {
    fn default() -> Self {
        UserspaceConfig {
            workers: 0,
            max_flows: 65_536,
            tcp_idle: None,
            udp_idle: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(3),
            connect_attempts: 3,
            hold_wait: Duration::from_secs(10),
            max_held: 4096,
            affinity_entries: 65_536,
            backlog: 4096,
            seed: None,
        }
    }
}
