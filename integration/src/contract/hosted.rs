//! What a plane of a host's kernel must do besides: addresses are kept, every address serves, others are left alone.

use super::{
    fixture::{Dialed, PlaneUnderTest, Said},
    talk::{self, SocketFlow},
    world::{BRIEF, PATIENCE, World},
};
use crate::lab::Host;
use mesh_agent::{
    dataplane::DataPlane,
    plan::{BackendState, Listen, Table},
};
use mesh_control::model::{Family, PortRange, Protocol};
use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};
use tokio::task::JoinHandle;

/// A fixture whose plane runs on a host of its own.
pub trait Hosted: PlaneUnderTest<Flow = SocketFlow> {
    /// The host.
    fn node(&self) -> &Host;

    /// Where the clients are.
    fn clients(&self) -> &Host;

    /// From now on the containers send even what is for each other through the host, as attached ones do.
    fn part_containers(&self);

    /// The host's own addresses that clients can reach.
    fn addresses(&self) -> Vec<IpAddr>;
}

/// Nothing on the way hides who the client is.
pub async fn the_backend_sees_the_clients_own_address<P: Hosted>() {
    let mut w = World::<P>::start().await;
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let front = w.serving(protocol, &["a"]).await;
        for client in [1, 300] {
            let (mut flow, _) = w.reach(client, &front).await;
            let own = w.put.client(client).to_string();
            assert_eq!(flow.seen(PATIENCE).await, Said::Answer(own), "{protocol}");
        }
    }
}

/// The host's own ports beside it, and the same port of other hosts, lead where they did.
pub async fn a_port_published_everywhere_is_open_on_every_address_and_shadows_no_other<P: Hosted>() {
    let mut w = World::<P>::start().await;
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let open = w.put.published();
        let mut front = w.serving(protocol, &["a"]).await;
        // Another host's port of the same number: the instance itself.
        let instance = front.backends[0].clone();
        front.frontend.key.listen = Listen::AnyLocal(Family::of(&open.ip()));
        front.frontend.key.ports = PortRange::single(instance.port).expect("a port");
        front.backends = vec![w.put.serve("b", 1).await];
        w.set(&front).await;
        let client = w.put.client(1);
        for ip in w.put.addresses() {
            let to = SocketAddr::new(ip, instance.port);
            assert_eq!(w.reach_at(1, &front, to).await.1, "b", "{protocol} {to}");
            let beside = SocketAddr::new(ip, open.port());
            let dialed = w.put.dial(client, beside, protocol, BRIEF).await;
            assert!(matches!(dialed, Dialed::Refused), "{protocol} {beside}: {}", dialed.word());
        }
        let direct = w.reach_at(1, &front, (instance.address, instance.port).into()).await.1;
        assert_eq!(direct, "a", "{protocol}: the port of another host is its own");
        w.unset(&front).await;
    }
}

/// Bound to one address of the host, a port is not there on the others.
pub async fn a_port_published_on_one_address_is_open_there_alone<P: Hosted>() {
    let mut w = World::<P>::start().await;
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let open = w.put.published();
        let mut front = w.serving(protocol, &["a"]).await;
        front.frontend.key.listen = Listen::Address(open.ip());
        front.frontend.key.ports = PortRange::single(open.port()).expect("a port");
        w.set(&front).await;
        assert_eq!(w.reach(1, &front).await.1, "a", "{protocol}");
        let (client, all) = (w.put.client(1), w.put.addresses());
        for other in all.into_iter().filter(|ip| *ip != open.ip()) {
            let dialed = w.put.dial(client, (other, open.port()).into(), protocol, PATIENCE).await;
            assert!(matches!(dialed, Dialed::Refused), "{protocol} {other}: {}", dialed.word());
        }
    }
}

/// Opens a flow of a host's own process and speaks once.
///
/// # Panics
/// When the host has no such address.
pub async fn dial_from(
    host: &Host,
    client: IpAddr,
    to: SocketAddr,
    protocol: Protocol,
) -> Dialed<SocketFlow> {
    let socket = host.inside(|| talk::client(client, protocol)).flatten();
    talk::dial(socket.unwrap_or_else(|e| panic!("{client}: {e}")), to, protocol, PATIENCE).await
}

/// Clients that dial one after the other, and all must be answered.
#[derive(Debug)]
pub struct Dialing {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU32>,
    task: JoinHandle<()>,
}

impl Dialing {
    /// Begins, from an address of a host.
    #[must_use]
    pub fn at(host: &Host, client: IpAddr, to: SocketAddr) -> Dialing {
        let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicU32>::default());
        let host = host.clone();
        let task = tokio::spawn({
            let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
            async move {
                while !stop.load(Ordering::Relaxed) {
                    let dialed = dial_from(&host, client, to, Protocol::Tcp).await;
                    assert!(dialed.answered(), "{} dials {to}: {}", host.name, dialed.word());
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Dialing { stop, answered, task }
    }

    /// Waits until nobody is under way who dialled before.
    ///
    /// # Panics
    /// When nobody is answered any more.
    pub async fn goes_on<P: Hosted>(&self, w: &mut World<P>) {
        let so_far = self.answered.load(Ordering::Relaxed);
        let further = |_: &mut P| self.answered.load(Ordering::Relaxed) > so_far + 1;
        w.until("clients go on", |put| self.task.is_finished() || further(put)).await;
    }

    /// Ends it; how many were answered.
    ///
    /// # Panics
    /// When one was not.
    pub async fn stop(self) -> u32 {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("every connection is answered");
        self.answered.load(Ordering::Relaxed)
    }
}

/// Backends drain, go and come back, also in a new run of the plane; whoever dials meanwhile is answered.
pub async fn no_connection_fails_while_backends_change<P: Hosted>() {
    let mut w = World::<P>::start().await;
    let mut front = w.serving(Protocol::Tcp, &["a", "b", "c"]).await;
    let all = front.backends.clone();
    let dialing = Dialing::at(w.put.clients(), w.put.client(7), front.address());
    for change in 0..30_usize {
        front.backends = all.clone();
        front.backends[change % 3].state = BackendState::Draining { deadline: None };
        w.set(&front).await;
        if change % 10 == 5 {
            w.put.restart().await;
            assert_eq!(w.observed().await, w.table);
        }
        dialing.goes_on(&mut w).await;
        front.backends.remove(change % 3);
        w.set(&front).await;
    }
    dialing.stop().await;
}

/// Every instance of a service is replaced, one after the other: it comes, the old one drains and goes.
pub async fn a_rolling_update_of_32_instances_fails_nobody<P: Hosted>() {
    let mut w = World::<P>::start().await;
    let (old, new): (Vec<_>, Vec<_>) = (0..32).map(|i| (format!("old{i}"), format!("new{i}"))).unzip();
    let names: Vec<&str> = old.iter().map(String::as_str).collect();
    let mut front = w.serving(Protocol::Tcp, &names).await;
    let dialing = Dialing::at(w.put.clients(), w.put.client(7), front.address());
    for (old, new) in old.iter().zip(&new) {
        front.backends.push(w.put.serve(new, 1).await);
        front.set_state(old, BackendState::Draining { deadline: None });
        w.set(&front).await;
        dialing.goes_on(&mut w).await;
        front.remove(old);
        w.set(&front).await;
    }
    dialing.stop().await;
    let hits = w.hits(&front, std::iter::repeat_n(1, 64)).await;
    assert!(hits.len() == 32 && hits.keys().all(|by| by.starts_with("new")), "{hits:?}");
}

/// Whichever of them answers, whether frames that stay on the host's bridge meet its packet filter (which Docker sees
/// to) or not, and whether containers send everything through the host (which `attach` sees to) or not.
pub async fn containers_of_one_bridge_reach_each_other_and_themselves<P: Hosted>() {
    for (filtered, parted) in [("0", false), ("0", true), ("1", false), ("1", true)] {
        let mut w = World::<P>::start().await;
        for which in ["iptables", "ip6tables"] {
            let setting = format!("net/bridge/bridge-nf-call-{which}");
            // A kernel without this filter is one with 0.
            if let Err(e) = w.put.node().sysctl(&setting, filtered) {
                assert_eq!(e.kind(), std::io::ErrorKind::NotFound, "{e}");
            }
        }
        if parted {
            w.put.part_containers();
        }
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let front = w.serving(protocol, &["a", "b"]).await;
            for own in [front.backends[0].address, front.backends[1].address] {
                let mut met = BTreeSet::new();
                for _ in 0..6 {
                    match w.put.dial(own, front.address(), protocol, PATIENCE).await {
                        Dialed::Answered(_, by) => met.insert(by),
                        other => panic!(
                            "{own} by {protocol}, filtered {filtered}, parted {parted}: {}",
                            other.word()
                        ),
                    };
                }
                assert_eq!(met.len(), 2, "{own} by {protocol}, filtered {filtered}, parted {parted}");
            }
        }
    }
}

/// However long it says nothing: the host forgets it as late as any connection of its own. Every timeout that is not
/// for idle connections is made a second here, and two pass.
pub async fn an_idle_connection_is_kept<P: Hosted>() {
    let mut w = World::<P>::start().await;
    let front = w.serving(Protocol::Tcp, &["a"]).await;
    let (mut flow, _) = w.reach(1, &front).await;
    for timeout in ["tcp_timeout_unacknowledged", "tcp_timeout_max_retrans", "udp_timeout", "generic_timeout"]
    {
        w.put.node().sysctl(&format!("net/netfilter/nf_conntrack_{timeout}"), "1").expect("a setting");
    }
    let (client, to) = (spelled(w.put.client(1)), spelled(front.address().ip()));
    let left = |put: &P| -> u64 {
        let flows = put.node().flows().expect("the kernel's flows");
        let ours = format!("src={client} dst={to} ");
        let line =
            flows.iter().find(|line| line.contains(&ours)).unwrap_or_else(|| panic!("{ours}: {flows:?}"));
        line.split_whitespace().nth(4).and_then(|word| word.parse().ok()).expect("seconds")
    };
    w.still(&mut flow, "a").await;
    // It is idle once the client has acknowledged the answer, which it may do a little later.
    w.until("it is forgotten in more than 900 s", |put| left(put) > 900).await;
    let first = left(&w.put);
    w.until("two seconds have passed", |put| left(put) + 2 <= first).await;
    w.still(&mut flow, "a").await;
}

/// As the kernel writes addresses of flows: those of IPv6 in full.
fn spelled(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => ip.segments().map(|s| format!("{s:04x}")).join(":"),
    }
}

/// More than 128 ports in a row, of one frontend.
pub async fn a_range_of_two_hundred_ports_is_open<P: Hosted>() {
    let mut w = World::<P>::start().await;
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let mut front = w.front_of(protocol, 200);
        front.backends.push(w.put.serve("a", 200).await);
        w.set(&front).await;
        for offset in [0, 127, 128, 199] {
            let to = SocketAddr::new(front.address().ip(), front.address().port() + offset);
            assert_eq!(w.reach_at(1, &front, to).await.1, "a", "{protocol} port {offset}");
        }
        let beyond = SocketAddr::new(front.address().ip(), front.address().port() + 200);
        let dialed = w.put.dial(w.put.client(1), beyond, protocol, PATIENCE).await;
        assert!(matches!(dialed, Dialed::Refused), "{protocol}: {}", dialed.word());
    }
}

/// Byte by byte, and after the teardown nothing else is there.
pub async fn tables_of_others_stay_as_they_are<P: Hosted>() {
    const OTHERS: &str = "
        table inet others {
            set s { type ipv4_addr; flags interval; elements = { 198.51.100.0/24 } }
            chain forward { type filter hook forward priority 0; policy accept; ip saddr @s drop; }
        }
        table ip nat {
            chain prerouting { type nat hook prerouting priority -100; tcp dport 4000 dnat to 203.0.113.1; }
        }";
    let mut w = World::<P>::start().await;
    let nft = |host: &Host, arguments: &[&str]| {
        let output = host.output("nft", arguments).expect("nft runs (Debian: nftables)");
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    nft(w.put.node(), &[OTHERS]);
    let own = |host: &Host| ["inet others", "ip nat"].map(|t| nft(host, &["list", "table", t]));
    let (before, all) = (own(w.put.node()), nft(w.put.node(), &["list", "ruleset"]));
    let front = w.serving(Protocol::Tcp, &["a", "b"]).await;
    w.reach(1, &front).await;
    assert_eq!(own(w.put.node()), before);
    w.put.restart().await;
    w.put.plane().teardown().await.expect("teardown leaves nothing");
    w.table = Table::new();
    assert_eq!(nft(w.put.node(), &["list", "ruleset"]), all);
}
