//! Over sockets: each address shows its own network's names, and a CNAME that leads out is followed.

use crate::{
    client::{data, query, tcp, udp},
    mesh,
    upstreams::{Upstream, found, reply},
};
use hickory_proto::{
    op::{Message, ResponseCode},
    rr::RecordType,
};
use mesh_control::model::Name;
use mesh_dns::{AnswerSource, DnsConfig, DnsHandle, DnsServer, Scope, Upstreams};
use std::{net::SocketAddr, sync::Arc};
use tokio::{net::TcpStream, sync::watch};

const MESH: &str = "service web vip=10.96.0.1
service web.shop vip=10.96.0.2
service web.lab vip=10.96.0.3
service mail external=mail.example.org ttl=7
service lost external=lost.example.org
service self external=web.cluster";

type Change = fn(&mut DnsConfig);

async fn start(scopes: Vec<Scope>, upstream: Option<SocketAddr>) -> DnsHandle {
    let (_keep, feed) = watch::channel(Arc::new(mesh::read(MESH)));
    let config = DnsConfig {
        listen: vec!["127.0.0.1:0".parse().unwrap(); 3],
        scopes,
        upstreams: upstream.map_or(Upstreams::None, |at| Upstreams::List(vec![at.into()])),
        local_reverse: vec!["10.96.0.0/16".parse().unwrap()],
        ..DnsConfig::default()
    };
    DnsServer::start(config, feed, &prometheus::Registry::new()).await.unwrap()
}

fn scope(namespace: &str) -> Scope {
    Scope { namespaces: Some(vec![Name::new(namespace).unwrap()]), bare_names: true, ..Scope::default() }
}

/// Both transports give the same.
async fn ask(at: SocketAddr, name: &str, kind: RecordType) -> Message {
    let packet = query(name, kind, None);
    let over_udp = udp(at, &packet).await.unwrap();
    let over_tcp = tcp(&mut TcpStream::connect(at).await.unwrap(), &packet).await.unwrap();
    assert_eq!(data(&over_udp), data(&over_tcp), "{name} {kind}");
    over_udp
}

#[tokio::test]
async fn an_address_shows_its_networks_names_only() {
    let handle = start(vec![scope("shop"), scope("lab")], None).await;
    let [shop, lab, host] = handle.addresses() else { panic!("three addresses") };
    for (at, web) in [(shop, "10.96.0.2"), (lab, "10.96.0.3"), (host, "10.96.0.1")] {
        assert_eq!(data(&ask(*at, "web.cluster", RecordType::A).await), [web]);
    }
    assert_eq!(data(&ask(*shop, "web", RecordType::A).await), ["10.96.0.2"]);
    assert_eq!(ask(*host, "web", RecordType::A).await.metadata.response_code, ResponseCode::Refused);
    let hidden = ask(*lab, "web.shop.cluster", RecordType::A).await;
    assert_eq!(hidden.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(data(&ask(*host, "web.shop.cluster", RecordType::A).await), ["10.96.0.2"]);
    let hidden = ask(*lab, "2.0.96.10.in-addr.arpa", RecordType::PTR).await;
    assert_eq!(hidden.metadata.response_code, ResponseCode::NXDomain);
    handle.shutdown().await;
}

#[tokio::test]
async fn a_cname_that_leads_out_is_followed_by_an_upstream() {
    fn say(asked: &Message) -> Vec<u8> {
        if asked.queries[0].name().to_string().eq_ignore_ascii_case("mail.example.org.") {
            return found(asked, [192, 0, 2, 25]);
        }
        let mut answer = reply(asked);
        answer.metadata.response_code = ResponseCode::NXDomain;
        answer.to_vec().unwrap()
    }
    let upstream = Upstream::answering(|asked| vec![say(asked)], say).await;
    let handle = start(Vec::new(), Some(upstream.at)).await;
    let at = handle.addresses()[0];
    assert_eq!(data(&ask(at, "mail.cluster", RecordType::A).await), ["192.0.2.25", "mail.example.org."]);
    let lost = ask(at, "lost.cluster", RecordType::A).await;
    assert_eq!(
        (lost.metadata.response_code, data(&lost)),
        (ResponseCode::NXDomain, vec!["lost.example.org.".into()])
    );
    assert_eq!(data(&ask(at, "self.cluster", RecordType::A).await), ["10.96.0.1", "web.cluster."]);
    assert_eq!(data(&ask(at, "mail.cluster", RecordType::CNAME).await), ["mail.example.org."]);
    let told = handle.query("mail", "A").await.unwrap();
    assert_eq!((told.source, told.answers.len(), told.answers[0].ttl), (AnswerSource::Mesh, 2, 7));
    handle.shutdown().await;
    // Nobody to ask: what is known is said, and the client may go on.
    let handle = start(Vec::new(), None).await;
    let alone = ask(handle.addresses()[0], "mail.cluster", RecordType::A).await;
    assert_eq!(data(&alone), ["mail.example.org."]);
    handle.shutdown().await;
}

#[tokio::test]
async fn what_makes_no_sense_is_named() {
    let refused = async |change: Change| {
        let (_keep, feed) = watch::channel(Arc::new(mesh::read("")));
        let listen = vec!["127.0.0.1:0".parse().unwrap()];
        let mut config = DnsConfig { listen, upstreams: Upstreams::None, ..DnsConfig::default() };
        change(&mut config);
        DnsServer::start(config, feed, &prometheus::Registry::new()).await.unwrap_err().to_string()
    };
    let mistakes: [(Change, &str); 4] = [
        (|c| c.kubernetes = Some("a b".into()), "kubernetes.domain: `a b` is no domain"),
        (
            |c| c.kubernetes = Some("Cluster.".into()),
            "kubernetes.domain: `Cluster.` is the mesh's own domain",
        ),
        (
            |c| c.scopes = vec![Scope { namespaces: Some(vec![]), ..Scope::default() }],
            "listen: 127.0.0.1:0 shows no namespace",
        ),
        (
            |c| {
                let default_namespace = Some(Name::new("lab").unwrap());
                c.scopes = vec![Scope { default_namespace, ..scope("shop") }];
            },
            "default_namespace `lab` is not among its namespaces",
        ),
    ];
    for (change, expected) in mistakes {
        let error = refused(change).await;
        assert!(error.contains(expected), "{expected}: {error}");
    }
}
