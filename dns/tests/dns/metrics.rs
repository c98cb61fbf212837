//! What is counted, against the page that says so.

use crate::{
    client::{Server, query, tcp, udp},
    mesh,
    upstreams::{Upstream, good},
};
use hickory_proto::{op::Message, rr::RecordType};
use mesh_dns::Limits;
use tokio::net::TcpStream;

/// Every metric that there is after some traffic, each with its labels.
#[tokio::test]
async fn the_page_names_every_metric_and_label() {
    let upstream = Upstream::start(good).await;
    let limits = Limits { client_connections: 1, ..Limits::default() };
    let server = Server::start(mesh::example(), &[upstream.at], limits).await;
    for name in ["web.cluster", "example.org"] {
        server.ask(name, RecordType::A).await;
    }
    let mut stream = TcpStream::connect(server.at()).await.unwrap();
    let packet = query("web.cluster", RecordType::A, None);
    tcp(&mut stream, &packet).await.unwrap();
    let mut second = TcpStream::connect(server.at()).await.unwrap();
    assert!(tcp(&mut second, &packet).await.is_err(), "one too many");
    let page = include_str!("../../../docs/dns.md");
    let mut seen = 0;
    for family in server.registry.gather() {
        let name = family.name().strip_prefix("mesh_dns_").unwrap().to_owned();
        let row = page.lines().find(|line| {
            let first = line.strip_prefix('|').and_then(|row| row.split('|').next());
            first.is_some_and(|names| names.contains(&format!("`{name}`")))
        });
        let row = row.unwrap_or_else(|| panic!("docs/dns.md has no row for {name}"));
        for metric in family.get_metric() {
            for label in metric.get_label() {
                let label = format!("`{}`", label.name());
                assert!(row.contains(&label), "{name}: its row does not name the label {label}: {row}");
            }
        }
        seen += 1;
    }
    assert!(seen > 20, "{seen}");
}

/// Whichever way they go: the fast one, the common one, to an upstream.
#[tokio::test]
async fn queries_with_do_are_counted() {
    let upstream = Upstream::start(good).await;
    let server = Server::start(mesh::example(), &[upstream.at], Limits::default()).await;
    let mut stream = TcpStream::connect(server.at()).await.unwrap();
    for (name, kind) in
        [("web.cluster", RecordType::A), ("web.cluster", RecordType::TXT), ("example.org", RecordType::A)]
    {
        for dnssec_ok in [false, true] {
            let mut message = Message::from_vec(&query(name, kind, Some(1232))).unwrap();
            message.edns.as_mut().unwrap().set_dnssec_ok(dnssec_ok);
            let packet = message.to_vec().unwrap();
            for reply in [udp(server.at(), &packet).await, tcp(&mut stream, &packet).await] {
                assert_eq!(reply.unwrap().edns.unwrap().flags().dnssec_ok, dnssec_ok, "{name} {kind}");
            }
        }
    }
    assert_eq!(server.metric("mesh_dns_do_requests_total", &[]), 6);
    assert_eq!(server.metric("mesh_dns_requests_total", &[]), 12);
}
