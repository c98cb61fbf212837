//! The programs that people ask with: dig, delv, drill and kdig, over UDP and TCP, IPv4 and IPv6, of the mesh's names
//! and of others.
//!
//! One that is missing is skipped loudly; with CI=true that is a failure (`scripts/setup` installs them).

use crate::{
    client::Server,
    mesh,
    upstreams::{Upstream, code, found},
};
use hickory_proto::{op::ResponseCode, rr::Name};
use mesh_control::model::Snapshot;
use mesh_dns::{DnsConfig, Upstreams};
use std::process::Stdio;
use tokio::process::Command;

/// The example, and a service whose answer no datagram holds.
fn snapshot() -> Snapshot {
    let mut snapshot = mesh::example();
    let mut text = String::from("service big ports=80/tcp>80 vip=10.96.7.7\n");
    for i in 0..120 {
        text += &format!("endpoint big i-{i} n1 10.1.0.{i} ready\n");
    }
    mesh::change(&mut snapshot, &text);
    snapshot
}

/// Name, type, and what must stand in the output.
const QUESTIONS: [(&str, &str, &str); 12] = [
    ("web.cluster", "A", "10.96.0.1"),
    ("WEB.cluster", "AAAA", "fd96::1"),
    ("db.cluster", "A", "10.0.2.2"),
    ("_http._tcp.web.cluster", "SRV", "0 0 80 web.cluster."),
    ("1.0.96.10.in-addr.arpa", "PTR", "web.cluster."),
    ("web.cluster", "TXT", "service=web"),
    ("cluster", "SOA", "hostmaster.cluster."),
    ("nothing.cluster", "A", "NXDOMAIN"),
    ("api.shop.cluster", "AAAA", "ANSWER: 0"),
    // Cut over UDP, and so fetched over TCP.
    ("tasks.big.cluster", "A", "10.1.0.119"),
    // Of the upstream, the second time from the cache.
    ("www.example.org", "A", "192.0.2.1"),
    ("nothing.example.org", "A", "NXDOMAIN"),
];

fn arguments(program: &str, at: std::net::SocketAddr, tcp: bool, name: &str, kind: &str) -> Vec<String> {
    let (server, port) = (format!("@{}", at.ip()), at.port().to_string());
    let words: Vec<&str> = match program {
        "drill" if tcp => vec!["-t", "-p", &port, name, &server, kind],
        "drill" => vec!["-p", &port, name, &server, kind],
        "delv" if tcp => vec!["-i", "+tcp", &server, "-p", &port, name, kind],
        "delv" => vec!["-i", &server, "-p", &port, name, kind],
        _ if tcp => vec!["+tcp", &server, "-p", &port, name, kind],
        _ => vec![&server, "-p", &port, name, kind],
    };
    words.into_iter().map(str::to_owned).collect()
}

/// What a program prints where others print the code.
fn expected<'e>(program: &str, expected: &'e str) -> &'e str {
    match (program, expected) {
        ("delv", "NXDOMAIN") => "ncache nxdomain",
        ("delv", "ANSWER: 0") => "ncache nxrrset",
        _ => expected,
    }
}

async fn reads(program: &str) {
    let upstream = Upstream::start(|asked| {
        let is_there =
            asked.queries[0].name().to_lowercase() != Name::from_ascii("nothing.example.org.").unwrap();
        vec![if is_there { found(asked, [192, 0, 2, 1]) } else { code(asked, ResponseCode::NXDomain) }]
    })
    .await;
    let config = DnsConfig {
        listen: vec!["127.0.0.1:0".parse().unwrap(), "[::1]:0".parse().unwrap()],
        upstreams: Upstreams::List(vec![upstream.at.into()]),
        ..DnsConfig::default()
    };
    let server = Server::with(snapshot(), config).await;
    for at in server.handle.addresses() {
        for (name, kind, wanted) in QUESTIONS {
            for tcp in [false, true] {
                // drill does not ask again over TCP by itself.
                if program == "drill" && !tcp && name.contains("big") {
                    continue;
                }
                let output = Command::new(program)
                    .args(arguments(program, *at, tcp, name, kind))
                    .stdin(Stdio::null())
                    .kill_on_drop(true)
                    .output()
                    .await;
                let output = match output {
                    Ok(output) => output,
                    Err(error) => {
                        assert!(
                            std::env::var("CI").is_err(),
                            "{program} is missing: scripts/setup ({error})"
                        );
                        eprintln!("SKIPPED: {program} is missing: scripts/setup ({error})");
                        return;
                    }
                };
                let text = [output.stdout, output.stderr].concat();
                let text = String::from_utf8_lossy(&text);
                let wanted = expected(program, wanted);
                assert!(
                    text.contains(wanted),
                    "{program} {name} {kind} at {at}, TCP {tcp}: no {wanted} in\n{text}"
                );
            }
        }
    }
}

#[tokio::test]
async fn dig_reads_every_kind_of_answer() {
    reads("dig").await;
}

#[tokio::test]
async fn delv_reads_every_kind_of_answer() {
    reads("delv").await;
}

#[tokio::test]
async fn drill_reads_every_kind_of_answer() {
    reads("drill").await;
}

#[tokio::test]
async fn kdig_reads_every_kind_of_answer() {
    reads("kdig").await;
}
