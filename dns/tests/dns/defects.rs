//! Defects: a panic while a query is answered costs that query its answer, and it is told so.

use crate::{
    client::{Server, own_address, query, tcp, udp},
    mesh,
    upstreams::{Upstream, good},
};
use hickory_proto::{op::ResponseCode, rr::RecordType};
use mesh_dns::{DnsConfig, Limits, Upstreams};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use tokio::net::TcpStream;
use tracing_subscriber::{Layer, layer::SubscriberExt as _};

/// Panics, when it is told to, where the server logs with this target.
struct Defect(&'static str, Arc<AtomicBool>);

impl<S: tracing::Subscriber> Layer<S> for Defect {
    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        let due = event.metadata().target() == self.0 && self.1.load(Ordering::Relaxed);
        assert!(!due, "as a defect would");
    }
}

/// Runs `test`, which is given the switch of such a defect.
fn with_defect(target: &'static str, test: impl AsyncFnOnce(&AtomicBool)) {
    let armed = Arc::new(AtomicBool::new(false));
    let subscriber = tracing_subscriber::registry().with(Defect(target, Arc::clone(&armed)));
    // One thread, so that all of the server's tasks log here; its threads for UDP do as the one that starts them.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tracing::subscriber::with_default(subscriber, || runtime.block_on(test(&armed)));
}

/// Where the query log is written: on the fast way, on the common one, and after an upstream was asked.
#[test]
fn a_panic_is_answered_servfail_and_counted_and_the_service_goes_on() {
    with_defect("mesh_dns::query", answers_and_counts);
}

async fn answers_and_counts(armed: &AtomicBool) {
    let upstream = Upstream::start(good).await;
    let upstreams = Upstreams::List(vec![upstream.at.into()]);
    let config = DnsConfig { upstreams, query_log: 1, ..DnsConfig::default() };
    let server = Server::with(mesh::example(), config).await;
    let mut stream = TcpStream::connect(server.at()).await.unwrap();
    let panics = || server.metric("mesh_dns_panics_total", &[]);
    let questions = [
        ("web.cluster", RecordType::A, Some(1232)),
        ("web.cluster", RecordType::TXT, Some(1232)),
        ("www.example.org", RecordType::A, None),
        ("www.example.net", RecordType::AAAA, None),
    ];
    for (at, (name, kind, payload)) in (0..).zip(questions) {
        let packet = query(name, kind, payload);
        assert_eq!(panics(), 2 * at);
        armed.store(true, Ordering::Relaxed);
        let (over_udp, over_tcp) = (udp(server.at(), &packet).await, tcp(&mut stream, &packet).await);
        armed.store(false, Ordering::Relaxed);
        for reply in [over_udp.unwrap(), over_tcp.unwrap()] {
            let found = (reply.metadata.response_code, reply.metadata.id, reply.queries.len());
            assert_eq!(found, (ResponseCode::ServFail, 4711, 1), "{name}");
            assert_eq!(reply.edns.is_some(), payload.is_some(), "{name}");
        }
        assert_eq!(panics(), 2 * (at + 1), "{name}");
        for reply in [udp(server.at(), &packet).await, tcp(&mut stream, &packet).await] {
            assert_eq!(reply.unwrap().metadata.response_code, ResponseCode::NoError, "{name}");
        }
    }
    assert_eq!(server.metric("mesh_dns_responses_total", &[("rcode", "SERVFAIL")]), panics());
    assert_eq!(server.metric("mesh_dns_dropped_total", &[]), 0, "every query had a reply");
    assert!(server.handle.is_serving());
}

/// In the task that asks an upstream, where it finds the upstream dead.
#[test]
fn a_panic_while_an_upstream_is_asked_is_counted_and_the_service_goes_on() {
    with_defect("mesh_dns::forward::upstream", async |armed: &AtomicBool| {
        // Nobody is there, and the kernel says so.
        let server = Server::start(mesh::example(), &[own_address()], Limits::default()).await;
        armed.store(true, Ordering::Relaxed);
        let reply = server.ask("example.org", RecordType::A).await;
        armed.store(false, Ordering::Relaxed);
        assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
        let panics = server.metric("mesh_dns_panics_total", &[]);
        assert!(panics >= 1);
        assert_eq!(server.ask("web.cluster", RecordType::A).await.answers.len(), 1);
        let again = server.ask("example.net", RecordType::A).await;
        assert_eq!(again.metadata.response_code, ResponseCode::ServFail, "still nobody is there");
        assert_eq!(server.metric("mesh_dns_panics_total", &[]), panics);
        assert!(server.handle.is_serving());
    });
}
