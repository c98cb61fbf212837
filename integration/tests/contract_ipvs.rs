//! The IPVS plane keeps the contract, with real packets between network namespaces: clients of other hosts and of
//! the node itself, IPv4 and IPv6. Needs root and a kernel with IPVS:
//! `make test-vm` boots one.

use mesh_agent::dataplane::ipvs::{IpvsConfig, IpvsPlane};
use mesh_control::model::Name;
use mesh_integration::contract::kernel::KernelPlane;

struct Ipvs;

impl KernelPlane for Ipvs {
    type Plane = IpvsPlane;

    fn make() -> IpvsPlane {
        IpvsPlane::start(IpvsConfig {
            // Where the fixture's instances are.
            node: Name::new("n2").expect("a good name"),
            vip_cidrs: ["10.96.0.0/16", "fd96::/64"].map(|n| n.parse().expect("a network")).into(),
            overlay: Vec::new(),
            bridge: None,
        })
        .expect("a kernel with IPVS")
    }
}

mod routed4 {
    use super::Ipvs;
    use mesh_integration::{
        contract::kernel::Routed4, contract_suite, contract_suite_bytes, contract_suite_hosted,
    };
    contract_suite!(Routed4<Ipvs>);
    contract_suite_bytes!(Routed4<Ipvs>);
    contract_suite_hosted!(Routed4<Ipvs>);
}

mod routed6 {
    use super::Ipvs;
    use mesh_integration::{
        contract::kernel::Routed6, contract_suite, contract_suite_bytes, contract_suite_hosted,
    };
    contract_suite!(Routed6<Ipvs>);
    contract_suite_bytes!(Routed6<Ipvs>);
    contract_suite_hosted!(Routed6<Ipvs>);
}

mod on_node4 {
    use super::Ipvs;
    use mesh_integration::{
        contract::kernel::OnNode4, contract_suite, contract_suite_bytes, contract_suite_hosted,
    };
    contract_suite!(OnNode4<Ipvs>);
    contract_suite_bytes!(OnNode4<Ipvs>);
    contract_suite_hosted!(OnNode4<Ipvs>);
}

mod on_node6 {
    use super::Ipvs;
    use mesh_integration::{
        contract::kernel::OnNode6, contract_suite, contract_suite_bytes, contract_suite_hosted,
    };
    contract_suite!(OnNode6<Ipvs>);
    contract_suite_bytes!(OnNode6<Ipvs>);
    contract_suite_hosted!(OnNode6<Ipvs>);
}
