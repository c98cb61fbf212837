//! What the server refuses to start with, each with the field, the value and the fix.

use crate::{
    client::{Server, own_address},
    mesh,
};
use mesh_dns::{DnsConfig, DnsServer, Limits, Upstreams};
use std::{net::SocketAddr, os::fd::AsRawFd as _, sync::Arc, time::Duration};
use tokio::sync::watch;

async fn refused(config: DnsConfig) -> String {
    let (_keep, feed) = watch::channel(Arc::new(mesh::example()));
    DnsServer::start(config, feed, &prometheus::Registry::new()).await.unwrap_err().to_string()
}

fn config(listen: &[&str], upstreams: &[&str]) -> DnsConfig {
    let all = |list: &[&str]| list.iter().map(|a| a.parse().unwrap()).collect::<Vec<SocketAddr>>();
    let upstreams = all(upstreams).into_iter().map(Into::into).collect();
    DnsConfig { listen: all(listen), upstreams: Upstreams::List(upstreams), ..DnsConfig::default() }
}

#[tokio::test]
async fn each_mistake_is_named() {
    let free = "127.0.0.1:0";
    let domain = |domain: &str| DnsConfig { domain: domain.to_owned(), ..config(&[free], &[]) };
    let own = own_address();
    let with_upstreams = |domain: &str, upstream: SocketAddr| DnsConfig {
        domains: [(domain.to_owned(), vec![upstream.into()])].into(),
        ..config(&[&own.to_string()], &[])
    };
    let limits = |limits: Limits| DnsConfig { limits, ..config(&[free], &[]) };
    for (config, expected) in [
        (config(&[], &[]), "listen: no address given"),
        (config(&["[::]:53"], &[]), "listen: `[::]:53` is a wildcard"),
        (config(&["127.0.0.1:15353", "127.0.0.1:15353"], &[]), "listen: 127.0.0.1:15353 stands there twice"),
        (config(&["192.0.2.1:15353"], &[]), "listen: cannot use 192.0.2.1:15353 for UDP (port 15353)"),
        (config(&[free], &["0.0.0.0:53"]), "upstreams: `0.0.0.0:53` is a wildcard"),
        (config(&[free], &["[::ffff:0.0.0.0]:53"]), "is a wildcard"),
        (config(&[free], &["192.0.2.1:0"]), "upstreams: `192.0.2.1:0` has port 0"),
        (domain("a b"), "domain: `a b`"),
        (with_upstreams("corp..example", own), "domains: `corp..example` is no domain"),
        (with_upstreams(".", own), "domains: `.` is no domain"),
        (with_upstreams("corp.example", own), "is an address this server listens on"),
        (limits(Limits { forwards: 0, ..Limits::default() }), "limits: forwards is 0"),
        (limits(Limits { tcp_idle: Duration::ZERO, ..Limits::default() }), "limits: tcp_idle is 0"),
    ] {
        let error = refused(config).await;
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

/// The same server under another spelling is the same loop.
#[tokio::test]
async fn a_mapped_address_of_this_server_is_a_loop() {
    let own = own_address();
    let upstream = format!("[::ffff:{}]:{}", own.ip(), own.port());
    let error = refused(config(&[&own.to_string()], &[&upstream])).await;
    assert!(error.contains(&upstream) && error.contains("circles"), "{error}");
}

/// With the UDP port free and only TCP taken nothing stays bound either.
#[tokio::test]
async fn nothing_is_left_listening() {
    let taken = tokio::net::TcpListener::bind(own_address()).await.unwrap();
    let address = taken.local_addr().unwrap();
    let error = refused(config(&[&address.to_string()], &[])).await;
    let holder = format!("(pid {}) holds it", std::process::id());
    assert!(error.contains(&format!("{address} for TCP")) && error.contains(&holder), "{error}");
    drop(tokio::net::UdpSocket::bind(address).await.expect("the UDP port is free again"));
}

/// A socket on its way from process to process is nobody's that `/proc` could name: the likely holders are.
#[tokio::test]
async fn a_holder_that_cannot_be_seen_is_guessed_at() {
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    let (from, _to) = std::os::unix::net::UnixDatagram::pair().unwrap();
    let holder = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = holder.local_addr().unwrap();
    let (bytes, sockets) = ([std::io::IoSlice::new(b"x")], [holder.as_raw_fd()]);
    let rights = [ControlMessage::ScmRights(&sockets)];
    sendmsg::<()>(from.as_raw_fd(), &bytes, &rights, MsgFlags::empty(), None).unwrap();
    drop(holder);
    let error = refused(config(&[&address.to_string()], &[])).await;
    let guess = "another process (often systemd-resolved or dnsmasq) holds it: stop that, or listen on another address";
    assert!(error.contains(&format!("cannot use {address} for UDP")) && error.contains(guess), "{error}");
}

#[tokio::test]
async fn one_registry_takes_one_server() {
    let server = Server::start(mesh::example(), &[], Limits::default()).await;
    let (_keep, feed) = watch::channel(Arc::new(mesh::example()));
    let again = DnsServer::start(config(&["127.0.0.1:0"], &[]), feed, &server.registry).await;
    let error = again.unwrap_err().to_string();
    assert!(error.contains("one registry for each server"), "{error}");
}
