//! The IPVS plane keeps the contract, with real packets between network namespaces: clients of other hosts and of the node
//! itself, IPv4 and IPv6. Needs root and a kernel with IPVS, which `make test-vm` boots.

use mesh_agent::dataplane::{
    NetfilterConfig,
    ipvs::{Direct, IpvsPlane},
};
use mesh_control::model::Name;
use mesh_integration::{contract::kernel::KernelPlane, lab};

/// With `DIRECT`, packets to backends of other nodes, of which the suite has none, would go there as they are.
struct Ipvs<const DIRECT: bool = false>;

impl<const DIRECT: bool> KernelPlane for Ipvs<DIRECT> {
    type Plane = IpvsPlane;
    type Ground = ();

    fn ground() {}

    fn make((): &()) -> IpvsPlane {
        let config = NetfilterConfig {
            // Where the fixture's instances are.
            node: Name::new("n2").expect("a good name"),
            vip_cidrs: ["10.96.0.0/16", "fd96::/64"].map(|n| n.parse().expect("a network")).into(),
            overlay: Vec::new(),
            bridge: None,
        };
        let networks = ["10.44.0.0/16", "fd44::/48"].map(|n| n.parse().expect("a network"));
        let networks = networks.into_iter().zip([24, 64]).collect();
        let direct = DIRECT.then(|| Direct { device: "mesh-vx".into(), networks });
        IpvsPlane::start(config, direct).expect("a kernel with IPVS")
    }

    fn maglev_is_ours() -> bool {
        false
    }

    fn affinity_ends_with_its_timeout() -> bool {
        false
    }

    fn possible() -> bool {
        lab::has_ipvs()
    }
}

mod routed4 {
    use super::Ipvs;
    use mesh_integration::{
        contract::kernel::Routed4, contract_suite, contract_suite_bytes, contract_suite_conntrack,
        contract_suite_hosted,
    };
    contract_suite!(Routed4<Ipvs>);
    contract_suite_bytes!(Routed4<Ipvs>);
    contract_suite_hosted!(Routed4<Ipvs>);
    contract_suite_conntrack!(Routed4<Ipvs>);
}

mod routed6 {
    use super::Ipvs;
    use mesh_integration::{
        contract::kernel::Routed6, contract_suite, contract_suite_bytes, contract_suite_conntrack,
        contract_suite_hosted,
    };
    contract_suite!(Routed6<Ipvs>);
    contract_suite_bytes!(Routed6<Ipvs>);
    contract_suite_hosted!(Routed6<Ipvs>);
    contract_suite_conntrack!(Routed6<Ipvs>);
}

mod on_node4 {
    use super::Ipvs;
    use mesh_integration::{
        contract::kernel::OnNode4, contract_suite, contract_suite_bytes, contract_suite_conntrack,
        contract_suite_hosted,
    };
    contract_suite!(OnNode4<Ipvs>);
    contract_suite_bytes!(OnNode4<Ipvs>);
    contract_suite_hosted!(OnNode4<Ipvs>);
    contract_suite_conntrack!(OnNode4<Ipvs>);
}

mod on_node6 {
    use super::Ipvs;
    use mesh_integration::{
        contract::kernel::OnNode6, contract_suite, contract_suite_bytes, contract_suite_conntrack,
        contract_suite_hosted,
    };
    contract_suite!(OnNode6<Ipvs>);
    contract_suite_bytes!(OnNode6<Ipvs>);
    contract_suite_hosted!(OnNode6<Ipvs>);
    contract_suite_conntrack!(OnNode6<Ipvs>);
}

/// Each port of a VIP has two virtual services then.
mod direct4 {
    use super::Ipvs;
    use mesh_integration::{
        contract::kernel::Routed4, contract_suite, contract_suite_bytes, contract_suite_conntrack,
        contract_suite_hosted,
    };
    type Put = Routed4<Ipvs<true>>;
    contract_suite!(Put);
    contract_suite_bytes!(Put);
    contract_suite_hosted!(Put);
    contract_suite_conntrack!(Put);
}

/// What went wrong in other programs that stand on IPVS, and what is IPVS's own.
mod ipvs {
    use super::Ipvs;
    use mesh_agent::{
        dataplane::DataPlane,
        plan::{BackendState, FrontendKey, Listen, Table},
    };
    use mesh_control::model::{Affinity, Family, PortRange, Protocol, Scheduler};
    use mesh_integration::contract::{PlaneUnderTest, World, hosted::Hosted, kernel::Routed4};
    use std::{collections::BTreeSet, time::Duration};

    type Put = Routed4<Ipvs>;

    /// What a program prints in the node's namespace.
    fn run(put: &Put, program: &str, arguments: &[&str]) -> String {
        let output = put.node().output(program, arguments);
        let output = output.unwrap_or_else(|e| panic!("{program}: {e} (Debian: ipvsadm, iproute2)"));
        assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn ipvsadm(put: &Put, command: &str) -> String {
        run(put, "ipvsadm", &command.split(' ').collect::<Vec<_>>())
    }

    /// Every service and destination, as the command that would make it.
    fn saved(put: &Put) -> BTreeSet<String> {
        ipvsadm(put, "-Sn").lines().map(|line| line.trim().to_owned()).collect()
    }

    /// The same of a table without affinity and limits.
    fn expected(table: &Table) -> BTreeSet<String> {
        let mut all = BTreeSet::new();
        for entry in table.values() {
            let FrontendKey { listen, ports, protocol } = entry.frontend.key;
            for (offset, port) in (0..).zip(ports.iter()) {
                let of = match (listen, protocol) {
                    (Listen::Vip(vip), Protocol::Tcp) => format!("-t {vip}:{port}"),
                    (Listen::Vip(vip), Protocol::Udp) => format!("-u {vip}:{port}"),
                    (_, protocol) => {
                        let udp = u32::from(protocol == Protocol::Udp);
                        format!("-f {}", 0x4e00_0000 | udp << 16 | u32::from(port))
                    }
                };
                all.insert(format!("-A {of} -s {}", entry.frontend.scheduler));
                for backend in entry.backends.iter() {
                    let weight = if backend.takes_new_flows() { backend.weight } else { 0 };
                    all.insert(format!("-a {of} -r {} -m -w {weight}", backend.socket(offset)));
                }
            }
        }
        all
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn ipvsadm_and_what_we_read_agree() {
        if !Put::possible() {
            return;
        }
        let mut w = World::<Put>::start().await;
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let mut front = w.serving(protocol, &["a", "b", "c"]).await;
            front.frontend.scheduler = Scheduler::Wrr;
            front.backend("a").weight = 7;
            front.set_state("b", BackendState::Draining { deadline: None });
            w.set(&front).await;
            let mut front = w.front_of(protocol, 3);
            front.backends.push(w.put.serve("d", 3).await);
            w.set(&front).await;
            let mut front = w.front(protocol);
            front.frontend.key.listen = Listen::AnyLocal(Family::V4);
            front.frontend.key.ports = PortRange::single(8080).expect("a port");
            front.backends.push(w.put.serve("e", 1).await);
            w.set(&front).await;
        }
        let observed = w.observed().await;
        assert_eq!(observed, w.table);
        assert_eq!(saved(&w.put), expected(&observed));
    }

    /// Services of others, also on the node's own addresses and by other marks, are there before, during and after; of
    /// parameters nothing is left.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn services_of_others_stay_as_they_are() {
        if !Put::possible() {
            return;
        }
        const PARAMETERS: &str = "cd /proc/sys/net/ipv4/vs && grep . conntrack expire_nodest_conn expire_quiescent_template conn_reuse_mode";
        let mut w = World::<Put>::start().await;
        let state = |put: &Put| {
            (
                run(put, "sh", &["-c", PARAMETERS]),
                ipvsadm(put, "-Ln --timeout"),
                run(put, "ip", &["-o", "link"]),
            )
        };
        for command in [
            "-A -t 10.10.0.1:8080 -s rr",
            "-a -t 10.10.0.1:8080 -r 10.44.0.2:80 -m -w 3",
            "-A -f 77 -s wlc -p 60",
            "-a -f 77 -r 10.44.0.3:0 -m",
            "-A -u 203.0.113.9:53 -s sh",
        ] {
            ipvsadm(&w.put, command);
        }
        let (theirs, before) = (saved(&w.put), state(&w.put));
        let mut front = w.serving(Protocol::Tcp, &["a", "b"]).await;
        let mut published = front.clone();
        published.frontend.key.listen = Listen::AnyLocal(Family::V4);
        published.frontend.key.ports = PortRange::single(9090).expect("a port");
        w.set(&published).await;
        front.remove("a");
        w.set(&front).await;
        w.put.restart().await;
        assert_eq!(w.observed().await, w.table);
        let all = saved(&w.put);
        assert_eq!(all, &theirs | &expected(&w.table));
        assert_ne!(state(&w.put), before);
        w.put.plane().teardown().await.expect("teardown leaves nothing");
        assert_eq!(saved(&w.put), theirs);
        assert_eq!(state(&w.put), before);
    }

    /// A destination of nobody gets no flows for long: what is read differs from what should be, and bringing that in
    /// order removes it and nothing else (moby#33790: the address of a dead task stays in the pool).
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn moby_33790_a_stale_destination_is_found_and_removed() {
        if !Put::possible() {
            return;
        }
        let mut w = World::<Put>::start().await;
        let front = w.serving(Protocol::Tcp, &["a", "b"]).await;
        let (mut flow, by) = w.reach(1, &front).await;
        let of = format!("-t {}", front.address());
        let a = (front.backends[0].address, front.backends[0].port);
        for command in [
            format!("-a {of} -r 10.44.0.99:80 -m -w 100"),
            format!("-e {of} -r {}:{} -m -w 1", a.0, a.1),
            format!("-d {of} -r {}:{}", a.0, a.1),
            format!("-E {of} -s lc"),
        ] {
            ipvsadm(&w.put, &command);
            let observed = w.observed().await;
            assert_ne!(observed, w.table, "{command}");
            let wanted = std::mem::replace(&mut w.table, observed);
            w.become_table(wanted).await;
            assert_eq!(w.observed().await, w.table, "{command}");
            assert_eq!(saved(&w.put), expected(&w.table), "{command}");
        }
        if by == "b" {
            w.still(&mut flow, "b").await;
        }
        w.hits(&front, 1..9).await;
    }

    /// Whoever flushes all rules takes our names and marks; connections to VIPs live on, and all is as it was after the
    /// next look. Then a run that was killed is cleaned up by a command.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn flushed_rules_come_back_and_cleanup_leaves_nothing() {
        if !Put::possible() {
            return;
        }
        let mut w = World::<Put>::start().await;
        let links = run(&w.put, "ip", &["-o", "link"]);
        let front = w.serving(Protocol::Tcp, &["a", "b"]).await;
        let mut published = front.clone();
        published.frontend.key.listen = Listen::AnyLocal(Family::V4);
        published.frontend.key.ports = PortRange::single(9090).expect("a port");
        w.set(&published).await;
        let (mut flow, by) = w.reach(1, &front).await;
        // Packets fill a set, too.
        let rules = |put: &Put| {
            let all = run(put, "nft", &["list", "ruleset"]);
            all.lines().filter(|line| line.contains("comment")).map(str::to_owned).collect::<Vec<_>>()
        };
        let (before, services) = (rules(&w.put), saved(&w.put));
        run(&w.put, "nft", &["flush", "ruleset"]);
        for again in 0..2 {
            let observed = w.observed().await;
            let wanted = std::mem::replace(&mut w.table, observed);
            w.become_table(wanted).await;
            assert_eq!((w.observed().await, saved(&w.put)), (w.table.clone(), services.clone()), "{again}");
            w.still(&mut flow, &by).await;
            // A rule of ours that is gone is as bad.
            run(&w.put, "nft", &["flush", "chain", "ip", "mesh-agent-ipvs", "prerouting"]);
        }
        assert_eq!(w.observed().await, w.table);
        assert_eq!(rules(&w.put), before);
        w.reach(2, &front).await;

        let links_of = mesh_agent::overlay::OverlayConfig::of_links("mesh0", "mesh-vx");
        let clean = |dry_run| {
            let cleaned = w.put.node().inside(|| mesh_agent::cleanup::clean(&links_of, None, dry_run));
            let cleaned = cleaned.expect("the node's namespace");
            assert_eq!(cleaned.failed, Vec::<String>::new());
            cleaned.removed
        };
        let told = clean(true);
        assert!(told.iter().any(|what| what.starts_with("remove virtual service TCP 10.96.")), "{told:?}");
        assert_eq!(saved(&w.put), services, "only told");
        assert_eq!(clean(false), told);
        assert_eq!(clean(true), Vec::<String>::new());
        assert_eq!((saved(&w.put), run(&w.put, "ip", &["-o", "link"])), (BTreeSet::new(), links));
        assert_eq!(run(&w.put, "nft", &["list", "ruleset"]), "");
    }

    /// 32 instances are replaced at once: none keeps its weight (moby#41896), and none is deleted on the way.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn moby_41896_every_weight_of_a_bulk_update_is_right() {
        if !Put::possible() {
            return;
        }
        let mut w = World::<Put>::start().await;
        let mut front = w.front(Protocol::Tcp);
        for i in 0..32 {
            front.backends.push(w.put.serve(&format!("old{i}"), 1).await);
        }
        w.set(&front).await;
        for backend in &mut front.backends {
            backend.state = BackendState::Draining { deadline: None };
        }
        for i in 0..32 {
            front.backends.push(w.put.serve(&format!("new{i}"), 1).await);
        }
        w.set(&front).await;
        assert_eq!(saved(&w.put), expected(&w.table));
        let hits = w.hits(&front, 1..33).await;
        assert!(hits.len() == 32 && hits.keys().all(|by| by.starts_with("new")), "{hits:?}");
        for backend in &mut front.backends {
            let old = backend.id.instance.as_str().starts_with("old");
            backend.state = if old { BackendState::Active } else { BackendState::Down };
        }
        w.set(&front).await;
        assert_eq!(saved(&w.put), expected(&w.table));
    }

    /// A client that never pauses is moved all the same (moby#36878).
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn moby_36878_a_busy_udp_client_leaves_a_backend_that_went() {
        if !Put::possible() {
            return;
        }
        let mut w = World::<Put>::start().await;
        let mut front = w.serving(Protocol::Udp, &["a"]).await;
        let (mut flow, _) = w.reach(1, &front).await;
        for gone in ["a", "b", "a", "b"] {
            let next = if gone == "a" { "b" } else { "a" };
            w.still(&mut flow, gone).await;
            front.backends.push(w.put.serve(next, 1).await);
            front.remove(gone);
            w.set(&front).await;
            for _ in 0..5 {
                w.still(&mut flow, next).await;
            }
        }
    }

    /// Clients that hash to a server of weight 0 are served by another (kubernetes PR#138688), and those of the other
    /// servers stay.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn kubernetes_138688_mh_with_a_server_of_weight_0() {
        if !Put::possible() {
            return;
        }
        let mut w = World::<Put>::start().await;
        let mut front = w.serving(Protocol::Tcp, &["a", "b", "c"]).await;
        front.frontend.scheduler = Scheduler::Maglev;
        w.set(&front).await;
        let mut before = Vec::new();
        for client in 1..40 {
            before.push((client, w.reach(client, &front).await.1));
        }
        front.backend("a").weight = 0;
        w.set(&front).await;
        for (client, by) in before {
            let now = w.reach(client, &front).await.1;
            assert!(now != "a" && (by == "a" || now == by), "client {client}: {by}, then {now}");
        }
    }

    /// On a published port a client stays with its backend too, whose port is another.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn clients_of_published_ports_stay_with_their_backends() {
        if !Put::possible() {
            return;
        }
        for local in [true, false] {
            let mut w = World::<Put>::start().await;
            let open = w.put.published();
            let mut front = w.serving(Protocol::Tcp, &["a", "b", "c"]).await;
            front.frontend.key.listen =
                if local { Listen::AnyLocal(Family::V4) } else { Listen::Address(open.ip()) };
            front.frontend.key.ports = PortRange::single(open.port()).expect("a port");
            front.frontend.affinity = Some(Affinity { timeout: Duration::from_secs(3600) });
            w.set(&front).await;
            let mut seen = BTreeSet::new();
            for client in 1..=9 {
                let (mut flow, by) = w.reach_at(client, &front, open).await;
                let own = w.put.client(client).to_string();
                assert_eq!(
                    flow.seen(Duration::from_secs(20)).await,
                    mesh_integration::contract::Said::Answer(own)
                );
                for _ in 0..3 {
                    assert_eq!(w.reach_at(client, &front, open).await.1, by, "client {client}");
                }
                seen.insert(by);
            }
            assert_eq!(seen.len(), 3, "clients are spread");
            w.put.restart().await;
            assert_eq!(w.observed().await, w.table);
        }
    }

    /// IPVS remembers a client for the timeout, and as long as it remembers a flow of it: of that it makes sure at the end
    /// of the timeout, then every minute.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn affinity_is_forgotten_after_the_last_flow() {
        if !Put::possible() {
            return;
        }
        let mut w = World::<Put>::start().await;
        // IPVS takes over how long conntrack remembers.
        w.put.node().sysctl("net/netfilter/nf_conntrack_udp_timeout_stream", "1").expect("a setting");
        let mut front = w.serving(Protocol::Udp, &["a", "b"]).await;
        front.frontend.affinity = Some(Affinity { timeout: Duration::from_millis(4_500) });
        w.set(&front).await;
        let (_flow, by) = w.reach(1, &front).await;
        let client = Some(w.put.client(1));
        let ask =
            mesh_agent::dataplane::Flow { client, destination: front.address(), protocol: Protocol::Udp };
        let affinity = |put: &mut Put| put.plane().explain(&ask).affinity;
        assert_eq!(affinity(&mut w.put).map(|id| id.instance.to_string()), Some(by.clone()));
        w.until("affinity is forgotten", |put| affinity(put).is_none()).await;
        assert_ne!(w.reach(1, &front).await.1, by, "round robin goes on");
    }
}
