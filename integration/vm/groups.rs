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
    /// Longest time. An emulated processor is 10 to 18 times slower than a real one.
    pub(crate) limit: Duration,
}

const fn group(
    name: &'static str,
    binary: Binary,
    seconds: u64,
    arguments: &'static [&'static str],
) -> Group {
    Group { name, binary, arguments, limit: Duration::from_secs(seconds) }
}

/// All of them, in the order they run. A new one is one line here.
pub(crate) const GROUPS: &[Group] = &[
    group("netlink", Binary::Unit("mesh-agent"), 120, &["sys::"]),
    group("lab_fixture", Binary::Test("lab_fixture"), 60, &[]),
    group("nftables", Binary::Test("contract_nftables"), 240, &[]),
];
