//! The messages, without a kernel that has WireGuard; with one: `tests/wireguard/`.

use super::{message, *};
use crate::sys::nfnetlink::{Attributes, Request};
use rand::{RngExt, SeedableRng, rngs::StdRng};

/// Bytes in front of the attributes: netlink's header and generic netlink's.
const HEADERS: usize = 20;

/// What a kernel that was told this would tell back, but for the public key.
fn told(fill: impl FnOnce(&mut Request)) -> Vec<u8> {
    let mut request = message::to_device(Request::of_type(0x1c, 1, [message::SET, 1, 0, 0]), 7);
    fill(&mut request);
    request.finish(1)[HEADERS..].to_vec()
}

fn read(messages: &[&[u8]]) -> Device {
    let mut device = Device::default();
    messages.iter().for_each(|bytes| message::read(&mut device, Attributes(bytes)));
    device
}

fn new(key: u8, endpoint: &str, allowed: &[&str]) -> NewPeer {
    NewPeer {
        key: [key; 32],
        endpoint: Some(endpoint.parse().unwrap()),
        allowed: allowed.iter().map(|n| n.parse().unwrap()).collect(),
        only: true,
        keepalive: 25,
    }
}

fn as_read(new: &NewPeer) -> Peer {
    let NewPeer { key, endpoint, allowed, keepalive, .. } = new.clone();
    Peer { key, endpoint, allowed, keepalive, handshake: None }
}

#[test]
fn what_is_written_is_read() {
    let four = new(1, "192.0.2.7:7948", &["10.1.0.0/16"]);
    let six = new(2, "[2001:db8::7]:7949", &["fd00::1/128", "fd00:2::/64"]);
    let port = told(|request| message::put_port(request, 7948));
    let messages = [&four, &six].map(|peer| told(|request| message::put_peer(request, peer)));
    let device = read(&[&port, &messages[0], &messages[1]]);
    assert_eq!(device, Device { key: None, port: 7948, peers: vec![as_read(&four), as_read(&six)] });
}

#[test]
fn a_peer_that_comes_in_two_parts_is_one() {
    let first = new(1, "192.0.2.7:7948", &["fd00::1/128"]);
    let rest = NewPeer { endpoint: None, ..new(1, "192.0.2.7:1", &["fd00::2/128"]) };
    let messages = [&first, &rest].map(|peer| told(|request| message::put_peer(request, peer)));
    let device = read(&[&messages[0], &messages[1]]);
    let whole = NewPeer { allowed: [first.allowed.clone(), rest.allowed].concat(), ..first };
    assert_eq!(device.peers, [as_read(&whole)]);
}

/// The layout as `linux/wireguard.h` and the kernel's policy have it, byte by byte.
#[test]
fn a_removal_is_laid_out_as_the_kernel_wants_it() {
    let bytes = told(|request| message::remove_peer(request, &[9; 32]));
    let mut wanted = vec![8, 0, 1, 0, 7, 0, 0, 0, 52, 0, 8, 0x80, 48, 0, 0, 0x80, 36, 0, 1, 0];
    wanted.extend([9; 32]);
    wanted.extend([8, 0, 3, 0, 1, 0, 0, 0]);
    assert!(cfg!(target_endian = "big") || bytes == wanted, "{bytes:?}");
}

#[test]
fn private_keys_have_their_form_and_are_not_shown() {
    for byte in [0, 0xff] {
        let key = PrivateKey::of([byte; 32]);
        assert!(key.0[0] & 7 == 0 && key.0[31] & 0xc0 == 0x40);
        assert_eq!(format!("{key:?}"), "PrivateKey(…)");
    }
}

#[test]
fn garbage_is_read_without_panic() {
    let seed = 0x5747;
    println!("seed {seed:#x}");
    let mut random = StdRng::seed_from_u64(seed);
    let good = told(|request| message::put_peer(request, &new(1, "[2001:db8::7]:7949", &["fd00::1/128"])));
    for _ in 0..30_000 {
        let mut bytes = good.clone();
        for _ in 0..random.random_range(1..6) {
            let at = random.random_range(0..bytes.len());
            bytes[at] = random.random();
        }
        bytes.truncate(random.random_range(0..=bytes.len()));
        let device = read(&[&bytes, &bytes]);
        assert!(device.peers.len() <= bytes.len());
    }
}
