//! The kernels of the lane, and what their guests load and hold.

/// A kernel of Debian: the newest build of that line which the suite has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kernel {
    /// What it is called here: its version's first two numbers.
    pub(crate) name: &'static str,
    /// The Debian suite, with its security updates.
    pub(crate) suite: &'static str,
    /// The package that depends on the newest image.
    pub(crate) package: &'static str,
}

impl Kernel {
    /// Its version's first two numbers.
    pub(crate) fn version(&self) -> (u16, u16) {
        let number = |part: Option<&str>| part.and_then(|part| part.parse().ok()).unwrap_or(0);
        let mut parts = self.name.split('.');
        (number(parts.next()), number(parts.next()))
    }
}

/// All of them, newest first. 5.10 is the oldest that Debian supports (LTS) and that boots.
pub(crate) const KERNELS: [Kernel; 3] = [
    Kernel { name: "6.12", suite: "bookworm", package: "linux-image-6.12-cloud-amd64" },
    Kernel { name: "6.1", suite: "bookworm", package: "linux-image-cloud-amd64" },
    Kernel { name: "5.10", suite: "bullseye", package: "linux-image-cloud-amd64" },
];

/// What `make test` boots: the newest and the oldest.
pub(crate) const BY_DEFAULT: [&str; 2] = ["6.12", "5.10"];
/// It boots one more, for this group alone (with `--all` for all of them): the oldest for eBPF, which has no tcx.
pub(crate) const BESIDE: (&str, &str) = ("6.1", "clsact");

/// The modules every guest has, with what they depend on; the kernel loads them as it does elsewhere, when they are
/// asked for. One that a kernel has built in is fine; one that it lacks is told of, and the tests that need it fail.
pub(crate) const MODULES: &[&str] = &[
    // Links and tunnels.
    "veth bridge br_netfilter vxlan geneve dummy wireguard tun macvlan 8021q vrf overlay",
    // IPVS and its schedulers.
    "ip_vs ip_vs_rr ip_vs_wrr ip_vs_lc ip_vs_wlc ip_vs_lblc ip_vs_lblcr ip_vs_sh ip_vs_mh ip_vs_dh ip_vs_sed ip_vs_nq",
    "ip_vs_fo ip_vs_ovf",
    // Connection tracking and nftables.
    "nf_conntrack nf_conntrack_netlink nfnetlink_log nf_log_syslog nf_tables nft_chain_nat nft_nat nft_masq nft_redir",
    "nft_ct nft_numgen nft_hash nft_fib_inet nft_fib_netdev nft_reject_inet nft_reject_ipv4 nft_reject_ipv6 nft_limit",
    "nft_log nft_quota nft_connlimit nft_socket nft_tproxy nft_fwd_netdev nft_dup_netdev nft_flow_offload",
    "nf_flow_table_inet nft_counter nft_objref",
    // iptables, legacy and over nftables, as kube-proxy and Docker use it.
    "nft_compat ip_tables ip6_tables iptable_nat iptable_filter iptable_mangle ip6table_nat ip6table_filter ip_set",
    "xt_conntrack xt_MASQUERADE xt_nat xt_mark xt_connmark xt_comment xt_statistic xt_addrtype xt_ipvs xt_tcpudp",
    "xt_multiport xt_REDIRECT xt_recent ipt_REJECT xt_set ip_set_hash_ip ip_set_hash_ipport",
    // Queueing, classifiers and their actions.
    "sch_netem sch_ingress sch_tbf sch_htb cls_bpf cls_u32 cls_flower cls_matchall act_bpf act_mirred act_pedit",
    "act_skbedit act_csum",
    // IPsec and its ciphers.
    "esp4 esp6 xfrm_user gcm seqiv ghash_generic",
    // What `ss` asks.
    "inet_diag tcp_diag udp_diag",
];

/// Debian packages of the lane itself and of what tests call in the guest, and their suite.
pub(crate) const PACKAGES: (&str, &[&str]) = (
    "bookworm",
    &[
        "qemu-system-x86",
        "busybox-static",
        "kmod",
        "nftables",
        "iproute2",
        "iputils-ping",
        "conntrack",
        "ipvsadm",
        "iptables",
        "wireguard-tools",
        "tcpdump",
        "bind9-dnsutils",
    ],
);

/// The programs of those packages that go into the guest.
pub(crate) const TOOLS: &[&str] = &[
    "/bin/ip",
    "/bin/ping",
    "/bin/ss",
    "/sbin/bridge",
    "/sbin/modprobe",
    "/sbin/ipvsadm",
    "/sbin/tc",
    "/usr/bin/dig",
    "/usr/bin/tcpdump",
    "/usr/bin/wg",
    "/usr/sbin/conntrack",
    "/usr/sbin/iptables-legacy",
    "/usr/sbin/iptables-legacy-restore",
    "/usr/sbin/iptables-nft",
    "/usr/sbin/nft",
];

/// Folders of those packages that programs load parts of themselves from.
pub(crate) const PLUGINS: &[&str] = &["/usr/lib/x86_64-linux-gnu/xtables"];

#[cfg(test)]
mod tests {
    use super::KERNELS;

    #[test]
    fn a_kernel_is_called_by_its_version() {
        assert_eq!(KERNELS.map(|kernel| kernel.version()), [(6, 12), (6, 1), (5, 10)]);
    }
}
