//! What runs in the guests.

use std::time::Duration;

/// Which test binary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Binary {
    /// The unit tests of a package's library.
    Unit(&'static str),
    /// An integration test, by the name of its target, with the package's binaries beside it.
    Test(&'static str),
}

/// Some tests of one binary, run together and judged by the exit status.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Group {
    /// What it is called here and in the summary.
    pub(crate) name: &'static str,
    /// Where the tests are.
    pub(crate) binary: Binary,
    /// What cargo's test harness is told: filters, `--skip NAME`.
    pub(crate) arguments: &'static [&'static str],
    /// Longest time, several times what it takes: an emulated processor is 10 to 18 times slower than a real one, and may
    /// have to share that.
    pub(crate) limit: Duration,
    /// The first kernel that has what it tests: major and minor version. Older guests leave it out and say so.
    pub(crate) since: (u16, u16),
    /// Part of `make test`; all of those together are to take less than six minutes.
    pub(crate) short: bool,
}

const fn group(
    name: &'static str,
    binary: Binary,
    seconds: u64,
    arguments: &'static [&'static str],
) -> Group {
    Group { name, binary, arguments, limit: Duration::from_secs(seconds), since: (0, 0), short: true }
}

/// The same of tests of the eBPF data plane, whose programs want Linux 6.1.
const fn programs(group: Group) -> Group {
    Group { since: (6, 1), ..group }
}

/// One that runs with `--all` or when it is named.
const fn long(name: &'static str, binary: Binary, seconds: u64, arguments: &'static [&'static str]) -> Group {
    Group { short: false, ..group(name, binary, seconds, arguments) }
}

/// What of the contract suite differs from kernel to kernel: with clients of other hosts in IPv4, with clients of the
/// node itself in IPv6. A test takes 2 to 5 seconds; the whole suite, twelve minutes.
const SHORT_CONTRACT: &[&str] = &[
    "routed4::a_client_stays_with_its_backend",
    "routed4::a_port_published_everywhere",
    "routed4::a_range_leads_port_by_port",
    "routed4::a_removed_tcp_backend",
    "routed4::a_removed_udp_backend",
    "routed4::draining_tcp",
    "routed4::hairpin_works",
    "routed4::least_connections",
    "routed4::observing_gives",
    "routed4::restart_keeps",
    "routed4::the_backend_sees",
    "on_node6::containers_of_one_bridge",
    "on_node6::down_keeps_tcp",
    "on_node6::draining_udp",
    "on_node6::maglev",
    "on_node6::only_allowed_sources",
    "on_node6::reject_refuses",
    "on_node6::teardown_leaves",
    "on_node6::weighted_round_robin",
];

/// Of the same what IPVS does by means of its own, and what went wrong in other programs that stand on it.
const IPVS: &[&str] = &[
    "ipvs::",
    "routed4::a_client_stays_with_its_backend",
    "routed4::a_port_published_everywhere",
    "routed4::a_removed_tcp_backend",
    "routed4::draining_tcp",
    "routed4::observing_gives",
    "routed4::the_backend_sees",
    "on_node6::down_keeps_tcp",
    "on_node6::draining_udp",
    "on_node6::teardown_leaves",
    "on_node6::weighted_round_robin",
];

/// Of the same a little of each program: another kernel's verifier takes them all or none.
const EBPF: &[&str] = &[
    "routed4::draining_tcp",
    "routed4::restart_keeps",
    "routed4::the_backend_sees",
    "on_node6::down_keeps_tcp",
    "on_node6::maglev",
];

/// Of the same where there is no tcx; each test waits for the verifier.
const CLSACT: &[&str] = &["clsact::filters_stay", "on_node6::down_keeps_tcp", "routed4::the_backend_sees"];

/// All of them, in the order they run. A new one is one line here.
pub(crate) const GROUPS: &[Group] = &[
    group("netlink", Binary::Unit("mesh-agent"), 300, &["sys::"]),
    long("lab_fixture", Binary::Test("lab_fixture"), 120, &[]),
    long("lab_hosts", Binary::Test("lab_hosts"), 120, &[]),
    long(
        "mesh",
        Binary::Test("lab_mesh"),
        400,
        &["nftables::an_outside_client", "nftables::everybody", "--skip", "ebpf"],
    ),
    long("sealed_mesh", Binary::Test("lab_mesh"), 1800, &["sealed::"]),
    // The guests have no `iptables` by that name.
    long("lab_mesh", Binary::Test("lab_mesh"), 7200, &["--skip", "what_docker_drops"]),
    long("overlay", Binary::Test("overlay"), 1200, &[]),
    group("nftables", Binary::Test("contract_nftables"), 700, SHORT_CONTRACT),
    group("ipvs", Binary::Test("contract_ipvs"), 700, IPVS),
    group("ipvs_direct", Binary::Test("lab_mesh"), 300, &["ipvs_direct::vips_are_answered"]),
    group("wireguard", Binary::Test("overlay"), 500, &["sealed::"]),
    long("nftables_whole", Binary::Test("contract_nftables"), 3600, &[]),
    long("ipvs_whole", Binary::Test("contract_ipvs"), 3600, &[]),
    programs(group("ebpf", Binary::Test("contract_ebpf"), 700, EBPF)),
    programs(long("clsact", Binary::Test("contract_ebpf"), 700, CLSACT)),
    programs(long("ebpf_whole", Binary::Test("contract_ebpf"), 7200, &[])),
];
