//! Where the upstreams come from: a resolv.conf that changes, and domains with upstreams of their own.

use crate::{
    client::{PATIENCE, Server, data, own_address, query, udp},
    mesh,
    upstreams::{Upstream, code, found, good},
};
use hickory_proto::{
    op::{Message, ResponseCode},
    rr::RecordType,
};
use mesh_dns::{DnsConfig, Limits, Upstreams};
use std::{net::IpAddr, path::Path, time::Duration};
use tokio::{net::UdpSocket, task::JoinSet, time::timeout};

/// A server at port 53 of a loopback address of its own, if this user may; it answers 192.0.2.`last`.
async fn on_port_53(tasks: &mut JoinSet<()>, last: u8) -> Option<IpAddr> {
    let at = own_address().ip();
    let socket = UdpSocket::bind((at, 53)).await.ok()?;
    tasks.spawn(async move {
        let mut buffer = [0u8; 4096];
        while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
            let Ok(asked) = Message::from_vec(&buffer[..length]) else { continue };
            // Somebody may have had enough already.
            let _ = socket.send_to(&found(&asked, [192, 0, 2, last]), client).await;
        }
    });
    Some(at)
}

fn config(path: &Path) -> DnsConfig {
    DnsConfig {
        upstreams: Upstreams::ResolvConf(path.to_owned()),
        limits: Limits { forward_total: Duration::from_millis(200), ..Limits::default() },
        ..DnsConfig::default()
    }
}

#[tokio::test]
async fn resolv_conf_names_the_upstreams() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("resolv.conf");
    // A nameserver line has no port: this one is asked on 53, where nobody answers, which must not stop the start.
    std::fs::write(&file, "# a note\nnameserver 127.86.75.64\n").unwrap();
    for (path, refused) in [(file, false), (folder.path().join("missing"), true)] {
        let server = Server::with(mesh::example(), config(&path)).await;
        let answer = udp(server.at(), &query("example.org", RecordType::A, None)).await.unwrap();
        let code = answer.metadata.response_code;
        assert_eq!(code == ResponseCode::Refused, refused, "{code:?}");
    }
}

/// Waits until the server has an upstream with this address, and no other.
async fn until_asked(server: &Server, upstream: &str) {
    let only = async {
        loop {
            let families = server.registry.gather();
            let healthy = families.iter().find(|f| f.name() == "mesh_dns_forward_healthy");
            let all: Vec<String> = healthy
                .iter()
                .flat_map(|f| f.get_metric())
                .flat_map(|m| m.get_label().iter().map(|l| l.value().to_owned()))
                .collect();
            if all == [upstream] {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, only).await.unwrap_or_else(|_| panic!("{upstream} becomes the upstream"));
}

#[tokio::test]
async fn a_resolv_conf_is_followed_as_it_is_edited_renamed_and_linked() {
    let folder = tempfile::tempdir().unwrap();
    let [file, target, link] = ["resolv.conf", "target", "link"].map(|name| folder.path().join(name));
    std::fs::write(&file, "nameserver 127.86.75.1\n").unwrap();
    let server = Server::with(mesh::example(), config(&file)).await;
    until_asked(&server, "127.86.75.1:53").await;
    std::fs::write(&file, "nameserver 127.86.75.2\n").unwrap();
    until_asked(&server, "127.86.75.2:53").await;
    // As most programs write it: beside its place, and renamed.
    std::fs::write(&target, "nameserver 127.86.75.3\n").unwrap();
    std::fs::rename(&target, &file).unwrap();
    until_asked(&server, "127.86.75.3:53").await;
    // It becomes a link into another folder, whose file then changes.
    let elsewhere = tempfile::tempdir().unwrap();
    let real = elsewhere.path().join("real");
    std::fs::write(&real, "nameserver 127.86.75.4\n").unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();
    std::fs::rename(&link, &file).unwrap();
    until_asked(&server, "127.86.75.4:53").await;
    std::fs::write(&real, "nameserver 127.86.75.5\n").unwrap();
    until_asked(&server, "127.86.75.5:53").await;
    // Written anew in two steps, or gone: what is known stays, and the next whole one is taken.
    std::fs::write(&real, "").unwrap();
    std::fs::remove_file(&file).unwrap();
    std::fs::write(&file, "nameserver 127.86.75.6\n").unwrap();
    until_asked(&server, "127.86.75.6:53").await;
}

/// What the former upstreams said is not answered any more: with another network, names may mean other things.
#[tokio::test]
async fn the_cache_is_emptied_with_new_upstreams() {
    let mut tasks = JoinSet::new();
    let (Some(one), Some(two)) = (on_port_53(&mut tasks, 1).await, on_port_53(&mut tasks, 2).await) else {
        eprintln!("skipped: this user may not use port 53");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("resolv.conf");
    std::fs::write(&file, format!("nameserver {one}\n")).unwrap();
    let config = DnsConfig { limits: Limits::default(), ..config(&file) };
    let server = Server::with(mesh::example(), config).await;
    assert_eq!(data(&server.ask("example.org", RecordType::A).await), ["192.0.2.1"]);
    std::fs::write(&file, format!("nameserver {two}\n")).unwrap();
    until_asked(&server, &format!("{two}:53")).await;
    let changed = async {
        while data(&server.ask("example.org", RecordType::A).await) != ["192.0.2.2"] {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, changed).await.expect("the new upstream's answer");
}

#[tokio::test]
async fn the_longest_domain_decides_who_is_asked() {
    let answering = |last: u8| Upstream::start(move |m: &Message| vec![found(m, [192, 0, 2, last])]);
    let (others, corp, lab) = (answering(1).await, answering(2).await, answering(3).await);
    let domains = [
        ("corp.example", vec![corp.at.into()]),
        ("Lab.Corp.example.", vec![lab.at.into()]),
        ("secret.corp.example", Vec::new()),
        // Ours goes first, whatever is configured.
        ("cluster", vec![corp.at.into()]),
    ];
    let config = DnsConfig {
        upstreams: Upstreams::List(vec![others.at.into()]),
        domains: domains.map(|(name, list)| (name.to_owned(), list)).into(),
        ..DnsConfig::default()
    };
    let server = Server::with(mesh::example(), config.clone()).await;
    for (name, expected) in [
        ("example", "192.0.2.1"),
        ("xcorp.example", "192.0.2.1"),
        ("corp.example", "192.0.2.2"),
        ("WWW.CORP.Example", "192.0.2.2"),
        ("xlab.corp.example", "192.0.2.2"),
        ("lab.corp.example", "192.0.2.3"),
        ("a.b.lab.corp.example", "192.0.2.3"),
    ] {
        assert_eq!(data(&server.ask(name, RecordType::A).await), [expected], "{name}");
    }
    let refused = server.ask("x.secret.corp.example", RecordType::A).await;
    assert_eq!(refused.metadata.response_code, ResponseCode::Refused);
    let own = server.ask("nobody.cluster", RecordType::A).await;
    assert_eq!(own.metadata.response_code, ResponseCode::NXDomain);
    // Domains alone will do: all other names are refused.
    let server = Server::with(mesh::example(), DnsConfig { upstreams: Upstreams::None, ..config }).await;
    assert_eq!(data(&server.ask("corp.example", RecordType::A).await), ["192.0.2.2"]);
    let refused = server.ask("example.org", RecordType::A).await;
    assert_eq!(refused.metadata.response_code, ResponseCode::Refused);
}

#[tokio::test]
async fn one_upstream_of_two_groups_is_one() {
    let upstream = Upstream::start(good).await;
    let dead = Upstream::start(|m: &Message| vec![code(m, ResponseCode::ServFail)]).await;
    let config = DnsConfig {
        upstreams: Upstreams::List(vec![dead.at.into(), upstream.at.into(), upstream.at.into()]),
        domains: [("corp.example".to_owned(), vec![upstream.at.into()])].into(),
        ..DnsConfig::default()
    };
    let server = Server::with(mesh::example(), config).await;
    for name in ["example.org", "corp.example"] {
        assert_eq!(data(&server.ask(name, RecordType::A).await), ["192.0.2.1"]);
    }
    let label = upstream.at.to_string();
    assert_eq!(server.metric("mesh_dns_forwards_total", &[("upstream", &label)]), 2);
    assert_eq!(server.metric("mesh_dns_forward_healthy", &[]), 2);
}
