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
use mesh_control::model::{Family, Protocol};
use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

/// A fixture whose plane runs on a host of its own.
pub trait Hosted: PlaneUnderTest<Flow = SocketFlow> {
    /// The host.
    fn node(&self) -> &Host;

    /// Where the clients are.
    fn clients(&self) -> &Host;

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
        front.frontend.key.ports = mesh_control::model::PortRange::single(instance.port).expect("a port");
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

/// Backends come, go and drain; whoever dials meanwhile is answered.
pub async fn no_connection_fails_while_backends_change<P: Hosted>() {
    let mut w = World::<P>::start().await;
    let mut front = w.serving(Protocol::Tcp, &["a", "b"]).await;
    front.backends.push(w.put.serve("c", 1).await);
    let all = front.backends.clone();
    let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let (host, client, to) = (w.put.clients().clone(), w.put.client(7), front.address());
    let load = tokio::spawn({
        let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
        async move {
            while !stop.load(Ordering::Relaxed) {
                let socket = host.inside(|| talk::client(client, Protocol::Tcp)).flatten().expect("a socket");
                let dialed = talk::dial(socket, to, Protocol::Tcp, PATIENCE).await;
                assert!(dialed.answered(), "{}", dialed.word());
                answered.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    for change in 0..60_usize {
        front.backends = all.clone();
        // What leaves in one step is what drained in the step before, so that no flow is cut.
        front.backends[change % 3].state = BackendState::Draining { deadline: None };
        w.set(&front).await;
        let so_far = answered.load(Ordering::Relaxed);
        // The one flow that was under way has ended once two more were answered.
        w.until("clients go on", |_| load.is_finished() || answered.load(Ordering::Relaxed) > so_far + 1)
            .await;
        front.backends.remove(change % 3);
        w.set(&front).await;
    }
    stop.store(true, Ordering::Relaxed);
    load.await.expect("every connection is answered");
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
