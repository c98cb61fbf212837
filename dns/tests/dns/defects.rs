//! Defects: a panic while a query is answered costs that query its answer, and it is told so.

use crate::{
    client::{Server, query, tcp, udp},
    mesh,
    upstreams::{Upstream, good},
};
use hickory_proto::{op::ResponseCode, rr::RecordType};
use mesh_dns::{DnsConfig, Upstreams};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use tokio::net::TcpStream;
use tracing_subscriber::{Layer, layer::SubscriberExt as _};

/// Panics, when it is told to, where the server writes its query log: on the fast way, the common one, and after an
/// upstream was asked.
struct Defect(Arc<AtomicBool>);

impl<S: tracing::Subscriber> Layer<S> for Defect {
    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        let due = event.metadata().target() == "mesh_dns::query" && self.0.load(Ordering::Relaxed);
        assert!(!due, "as a defect would");
    }
}

#[test]
fn a_panic_is_answered_servfail_and_counted_and_the_service_goes_on() {
    let armed = Arc::new(AtomicBool::new(false));
    let subscriber = tracing_subscriber::registry().with(Defect(Arc::clone(&armed)));
    // One thread, so that all of the server's tasks log here.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tracing::subscriber::with_default(subscriber, || runtime.block_on(survives(&armed)));
}

async fn survives(armed: &AtomicBool) {
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
