//! The userspace plane keeps the contract, with real packets on loopback addresses. No root needed.

use mesh_agent::dataplane::userspace::{UserspaceConfig, UserspacePlane};
use mesh_integration::{
    contract::loopback::{Loopback, LoopbackPlane},
    contract_suite, contract_suite_bytes,
};

/// Two workers whatever the machine, so that what they must share is shared in every run.
struct Userspace;

const WORKERS: u32 = 2;

impl LoopbackPlane for Userspace {
    type Plane = UserspacePlane;

    fn make() -> UserspacePlane {
        let workers = usize::try_from(WORKERS).expect("two fit");
        let config = UserspaceConfig { workers, ..UserspaceConfig::default() };
        UserspacePlane::start(config).expect("threads and event loops")
    }

    fn shards() -> u32 {
        WORKERS
    }

    fn rejects_udp_beside_old_flows() -> bool {
        false
    }
}

contract_suite!(Loopback<Userspace>);
contract_suite_bytes!(Loopback<Userspace>);
