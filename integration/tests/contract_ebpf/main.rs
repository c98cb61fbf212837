//! The eBPF plane keeps the contract, with real packets between network namespaces: clients of other hosts, whose packets
//! are translated, and of the node itself, whose sockets are; IPv4 and IPv6. Needs root.

mod clsact;
mod drops;
mod evicted;
mod hitless;

use mesh_agent::dataplane::ebpf::{Apart, EbpfConfig, EbpfPlane, Hook, Sizes, Xdp};
use mesh_control::model::{Addresses, Name};
use mesh_integration::{
    contract::{
        hosted::Hosted as _,
        kernel::{KernelPlane, Routed4},
    },
    lab,
};
use std::path::PathBuf;

/// With room for so many directions of flows; its programs at tcx, where there is that, or in `clsact` wherever it is.
struct Ebpf<const FLOWS: u32 = 4096, const CLSACT: bool = false>;

impl<const FLOWS: u32, const CLSACT: bool> KernelPlane for Ebpf<FLOWS, CLSACT> {
    type Plane = EbpfPlane;
    type Ground = Apart;

    fn ground() -> Apart {
        Apart::new().expect("a BPF file system and a cgroup")
    }

    fn make(ground: &Apart) -> EbpfPlane {
        let networks = |all: [&str; 2]| all.map(|n| n.parse().expect("a network")).into();
        let mut addresses = Addresses::default();
        for address in ["10.10.0.1", "fd10::1"] {
            addresses.set(address.parse().expect("an address"));
        }
        EbpfPlane::start(EbpfConfig {
            // Where the fixture's instances are.
            node: Name::new("n2").expect("a good name"),
            addresses,
            vip_cidrs: networks(["10.96.0.0/16", "fd96::/64"]),
            overlay: Vec::new(),
            bridge: None,
            tunnel: None,
            direct: false,
            hook: if CLSACT { Hook::Clsact } else { Hook::Auto },
            xdp: Xdp::Off,
            snapshots: None,
            bpffs: Some(ground.bpffs()),
            cgroup: Some(ground.cgroup().to_owned()),
            sizes: Sizes { flows: FLOWS, ..Sizes::default() },
            new_flows: 0,
        })
        .expect("a kernel with eBPF")
    }

    fn leads_sockets() -> bool {
        true
    }

    fn possible() -> bool {
        lab::runs_ebpf()
    }
}

/// Where the pins of a fixture's node are.
fn pins_of<const FLOWS: u32, const CLSACT: bool>(put: &Routed4<Ebpf<FLOWS, CLSACT>>) -> PathBuf {
    let cookie = put.node().inside(mesh_ebpf::place::netns_cookie).flatten().expect("a cookie");
    mesh_ebpf::folder(&put.ground().bpffs(), cookie)
}

mod routed4 {
    use super::Ebpf;
    use mesh_integration::{
        contract::kernel::Routed4, contract_suite, contract_suite_bytes, contract_suite_hosted,
    };
    contract_suite!(Routed4<Ebpf>);
    contract_suite_bytes!(Routed4<Ebpf>);
    contract_suite_hosted!(Routed4<Ebpf>);
}

mod routed6 {
    use super::Ebpf;
    use mesh_integration::{
        contract::kernel::Routed6, contract_suite, contract_suite_bytes, contract_suite_hosted,
    };
    contract_suite!(Routed6<Ebpf>);
    contract_suite_bytes!(Routed6<Ebpf>);
    contract_suite_hosted!(Routed6<Ebpf>);
}

mod on_node4 {
    use super::Ebpf;
    use mesh_integration::{
        contract::kernel::OnNode4, contract_suite, contract_suite_bytes, contract_suite_hosted,
    };
    contract_suite!(OnNode4<Ebpf>);
    contract_suite_bytes!(OnNode4<Ebpf>);
    contract_suite_hosted!(OnNode4<Ebpf>);
}

mod on_node6 {
    use super::Ebpf;
    use mesh_integration::{
        contract::kernel::OnNode6, contract_suite, contract_suite_bytes, contract_suite_hosted,
    };
    contract_suite!(OnNode6<Ebpf>);
    contract_suite_bytes!(OnNode6<Ebpf>);
    contract_suite_hosted!(OnNode6<Ebpf>);
}

/// Without tcx, also where the kernel has it.
mod filters4 {
    use super::Ebpf;
    use mesh_integration::{
        contract::kernel::Routed4, contract_suite, contract_suite_bytes, contract_suite_hosted,
    };
    contract_suite!(Routed4<Ebpf<4096, true>>);
    contract_suite_bytes!(Routed4<Ebpf<4096, true>>);
    contract_suite_hosted!(Routed4<Ebpf<4096, true>>);
}
