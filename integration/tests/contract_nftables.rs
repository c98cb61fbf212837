//! The nftables plane keeps the contract, with real packets between network namespaces: clients of other hosts and of
//! the node itself, IPv4 and IPv6. Needs root.

use mesh_agent::dataplane::{NetfilterConfig, nftables::NftablesPlane};
use mesh_control::model::Name;
use mesh_integration::contract::kernel::KernelPlane;

struct Nftables;

impl KernelPlane for Nftables {
    type Plane = NftablesPlane;
    type Ground = ();

    fn ground() {}

    fn make((): &()) -> NftablesPlane {
        NftablesPlane::start(NetfilterConfig {
            // Where the fixture's instances are.
            node: Name::new("n2").expect("a good name"),
            vip_cidrs: ["10.96.0.0/16", "fd96::/64"].map(|n| n.parse().expect("a network")).into(),
            overlay: Vec::new(),
            bridge: None,
        })
        .expect("a kernel with nf_tables")
    }
}

mod routed4 {
    use super::Nftables;
    use mesh_integration::{
        contract::kernel::Routed4, contract_suite, contract_suite_bytes, contract_suite_conntrack,
        contract_suite_hosted,
    };
    contract_suite!(Routed4<Nftables>);
    contract_suite_bytes!(Routed4<Nftables>);
    contract_suite_hosted!(Routed4<Nftables>);
    contract_suite_conntrack!(Routed4<Nftables>);
}

mod routed6 {
    use super::Nftables;
    use mesh_integration::{
        contract::kernel::Routed6, contract_suite, contract_suite_bytes, contract_suite_conntrack,
        contract_suite_hosted,
    };
    contract_suite!(Routed6<Nftables>);
    contract_suite_bytes!(Routed6<Nftables>);
    contract_suite_hosted!(Routed6<Nftables>);
    contract_suite_conntrack!(Routed6<Nftables>);
}

mod on_node4 {
    use super::Nftables;
    use mesh_integration::{
        contract::kernel::OnNode4, contract_suite, contract_suite_bytes, contract_suite_conntrack,
        contract_suite_hosted,
    };
    contract_suite!(OnNode4<Nftables>);
    contract_suite_bytes!(OnNode4<Nftables>);
    contract_suite_hosted!(OnNode4<Nftables>);
    contract_suite_conntrack!(OnNode4<Nftables>);
}

mod on_node6 {
    use super::Nftables;
    use mesh_integration::{
        contract::kernel::OnNode6, contract_suite, contract_suite_bytes, contract_suite_conntrack,
        contract_suite_hosted,
    };
    contract_suite!(OnNode6<Nftables>);
    contract_suite_bytes!(OnNode6<Nftables>);
    contract_suite_hosted!(OnNode6<Nftables>);
    contract_suite_conntrack!(OnNode6<Nftables>);
}
