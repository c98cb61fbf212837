//! Packets with random changes: never a wrong checksum, never a forward without a flow, and what is not ours stays as
//! it is.

use crate::{
    bed::{Bed, Device, NEXT, Outcome, REDIRECT, SHOT, Way, arriving},
    direct::{handed, unspecified},
    packet::{ACK, Body, Packet, SYN, TCP, UDP, echo, error, long, pseudo, sum, tcp, udp},
    plan::{Plan, port},
    xdp_bed::{FAST, PASS, TX},
};
use std::net::IpAddr;

/// Packets of a run.
const PACKETS: u32 = 12_000;

/// xorshift64*.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(number).unwrap() % most.max(1)
    }
}

/// A packet's addresses, protocol, place of its body, and whether that is whole; read independently of the programs.
#[derive(Debug)]
struct Read {
    from: IpAddr,
    to: IpAddr,
    protocol: u8,
    body: (usize, usize),
    whole: bool,
}

fn read(bytes: &[u8]) -> Option<Read> {
    let ip = bytes.get(14..)?;
    let word = |at: usize| Some(usize::from(u16::from_be_bytes([*ip.get(at)?, *ip.get(at + 1)?])));
    if bytes[12..14] == [0x08, 0x00] {
        let four = |at: usize| Some(IpAddr::from(<[u8; 4]>::try_from(ip.get(at..at + 4)?).ok()?));
        let start = usize::from(ip.first()? & 15) * 4;
        let whole = word(6)? & 0x3fff == 0;
        let end = if word(2)? == 0 { ip.len() } else { word(2)? };
        return Some(Read {
            from: four(12)?,
            to: four(16)?,
            protocol: ip[9],
            body: (14 + start, 14 + end),
            whole,
        });
    }
    let six = |at: usize| Some(IpAddr::from(<[u8; 16]>::try_from(ip.get(at..at + 16)?).ok()?));
    let end = if word(4)? == 0 { ip.len() } else { 40 + word(4)? };
    let (mut next, mut at, mut whole) = (*ip.get(6)?, 40, true);
    loop {
        match next {
            0 | 43 | 60 => {
                next = *ip.get(at)?;
                at += (usize::from(*ip.get(at + 1)?) + 1) * 8;
            }
            44 => {
                next = *ip.get(at)?;
                whole = whole && word(at + 2)? & 0xfff9 == 0;
                at += 8;
            }
            _ => break,
        }
    }
    Some(Read { from: six(8)?, to: six(24)?, protocol: next, body: (14 + at, 14 + end), whole })
}

/// How far the checksums are from right: that of IPv4's header, and that of the body where it is whole. A translation
/// changes neither, whatever they are.
fn defects(bytes: &[u8]) -> Option<Vec<u16>> {
    let read = read(bytes)?;
    let mut defects = Vec::new();
    if read.from.is_ipv4() {
        defects.push(sum(&[bytes.get(14..read.body.0)?]) % 0xffff);
    }
    let body = bytes.get(read.body.0..read.body.1)?;
    let none = read.protocol == UDP && body.get(6..8)? == [0, 0];
    if read.whole && !none && matches!(read.protocol, TCP | UDP | 1 | 58) {
        let before = match read.protocol {
            1 => Vec::new(),
            protocol => pseudo(read.from, read.to, protocol, body.len()),
        };
        defects.push(sum(&[&before, body]) % 0xffff);
    }
    Some(defects)
}

/// Packets of all kinds, and those that begin the flows they are of.
fn seeds(bed: &Bed) -> Vec<(Way, Device, Vec<u8>)> {
    let mut seeds = Vec::new();
    for plan in Plan::both() {
        let ports = [
            port::CONTAINER,
            port::REMOTE,
            port::HERE,
            port::OUTSIDE,
            port::NOBODY,
            port::SILENT,
            port::HASHED,
            port::PUBLISHED,
            port::PUBLISHED_REMOTE,
            port::LOST,
        ];
        for number in ports {
            let local = matches!(number, port::PUBLISHED | port::PUBLISHED_REMOTE);
            let to = (if local { plan.node } else { plan.vip }, number);
            let from = (plan.client, bed.port());
            let mut more = vec![
                tcp(from, to, SYN),
                tcp(from, to, ACK),
                udp(from, to),
                long(from, to, 900),
                Packet { part: Some((0, 800, true)), id: 5, ..long(from, to, 1200) },
                Packet { part: Some((800, 1208, false)), id: 5, ..long(from, to, 1200) },
                error(
                    plan.router,
                    plan.vip,
                    if plan.vip.is_ipv4() { 3 } else { 1 },
                    1,
                    [0; 4],
                    &tcp(to, from, ACK).ip(),
                ),
                Packet { ttl: 1, ..udp(from, to) },
                echo(plan.client, plan.vip, true),
            ];
            if plan.vip.is_ipv4() {
                more.push(Packet { options: vec![1; 12], ..tcp(from, to, ACK) });
            } else {
                let mut options = vec![0; 8];
                options[2..4].copy_from_slice(&[1, 4]);
                more.push(Packet {
                    headers: vec![(0, options.clone()), (60, options)],
                    ..tcp(from, to, ACK)
                });
            }
            if let Body::Udp { sum, .. } = &mut more[2].body {
                *sum = number != port::HASHED;
            }
            for packet in more {
                let packet = arriving(Way::In, Device::Nic, &packet);
                bed.run(Way::In, Device::Nic, &packet);
                seeds.push((Way::In, Device::Nic, packet.bytes()));
            }
            // On this node's port, and handed on by another.
            if number == port::PUBLISHED {
                let index = |protocol| bed.served_at(unspecified(&plan), number, protocol);
                for (packet, protocol) in [
                    (tcp(from, (plan.peer, number), SYN), TCP),
                    (tcp(from, (plan.peer, number), ACK), TCP),
                    (udp(from, (plan.peer, number)), UDP),
                ] {
                    let packet = handed(&packet, index(protocol));
                    bed.run_bytes(Way::In, Device::Vx, &packet.bytes(), 0);
                    seeds.push((Way::In, Device::Vx, packet.bytes()));
                }
            }
            let backend = if number == port::REMOTE { plan.remote } else { plan.container };
            for (way, device, backend) in [
                (Way::In, Device::Mesh, backend),
                (Way::Out, Device::Nic, plan.node),
                (Way::In, Device::Vx, backend),
            ] {
                for packet in [tcp((backend, port::BACKEND), from, ACK), udp((backend, port::BACKEND), from)]
                {
                    seeds.push((way, device, arriving(way, device, &packet).bytes()));
                }
            }
        }
    }
    seeds
}

/// A packet with up to six bytes changed, at times cut or made longer.
fn changed(dice: &mut Dice, seed: &[u8]) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..dice.below(7) {
        // Headers more often than data; the link-layer header stays.
        let reach = if dice.below(4) == 0 { bytes.len() } else { bytes.len().min(80) };
        let at = 14 + dice.below(reach - 14);
        bytes[at] = match dice.below(3) {
            0 => u8::try_from(dice.below(256)).unwrap(),
            1 => bytes[at] ^ 1 << dice.below(8),
            _ => [0, 1, 0xff, 0x7f, 0x80, 6, 17, 44][dice.below(8)],
        };
    }
    // The kernel runs programs over nothing shorter.
    let least = if bytes[12] == 0x08 { 34 } else { 54 };
    match dice.below(8) {
        0 => bytes.truncate(least + dice.below(bytes.len() - least)),
        1 => bytes.extend(vec![0; dice.below(40)]),
        _ => {}
    }
    bytes
}

/// Whether a packet became an answer to who sent it; else its link-layer header is that of before.
fn went_back(bytes: &[u8], out: &Outcome) -> bool {
    out.bytes[..6] == bytes[6..12] && out.bytes[6..12] == bytes[..6]
}

/// What must be true of any packet and what comes of it.
fn judge(bytes: &[u8], out: &Outcome) {
    match out.verdict {
        SHOT => {}
        NEXT if out.bytes == bytes => {}
        REDIRECT if went_back(bytes, out) => {
            // An answer of ours: to who sent it, and right in itself.
            let (asked, answer) = (read(bytes).unwrap(), read(&out.bytes).unwrap());
            assert_eq!((answer.from, answer.to), (asked.to, asked.from));
            let right = defects(&out.bytes).unwrap();
            let pong = matches!(answer.protocol, 1 | 58) && out.bytes.len() == bytes.len();
            assert!(pong || right.iter().all(|defect| *defect == 0), "{right:?}");
        }
        REDIRECT | NEXT => {
            assert_eq!(out.bytes.len(), bytes.len());
            assert_eq!(out.bytes[..14], bytes[..14]);
            let (before, after) = (read(bytes).unwrap(), read(&out.bytes).unwrap());
            assert_eq!((before.protocol, before.body), (after.protocol, after.body));
            assert_eq!(defects(bytes), defects(&out.bytes), "checksums");
            let ttl = if before.from.is_ipv4() { 14 + 8 } else { 14 + 7 };
            let hops = bytes[ttl] - out.bytes[ttl];
            assert_eq!(hops, u8::from(out.verdict == REDIRECT), "hops");
        }
        verdict => panic!("verdict {verdict}"),
    }
}

fn dice() -> Dice {
    let seed = std::env::var("MESH_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0x006d_6573_6821);
    println!("seed {seed} (MESH_SEED)");
    Dice(seed)
}

/// At XDP a packet passes as it is, or leaves with as many defects as it had, whole or within another.
#[test]
fn no_packet_leaves_a_driver_half_changed() {
    let Some(bed) = Bed::fast() else { return };
    let mut dice = dice();
    let seeds = seeds(&bed).into_iter().filter(|(way, device, _)| *way == Way::In && *device != Device::Vx);
    let leaves = |device: Device, bytes: &[u8]| (0..3).any(|_| bed.xdp_bytes(device, bytes).verdict != PASS);
    let (leave, stay): (Vec<_>, Vec<_>) = seeds.partition(|(_, device, bytes)| leaves(*device, bytes));
    let (mut sent, mut wrapped, mut passed) = (0, 0, 0);
    for number in 0..PACKETS {
        let seeds = if dice.below(4) == 0 { &stay } else { &leave };
        let (_, device, seed) = &seeds[dice.below(seeds.len())];
        let mut bytes = changed(&mut dice, seed);
        if dice.below(50) == 0 {
            bytes[dice.below(14)] ^= 1;
        }
        let out = bed.xdp_bytes(*device, &bytes);
        let context = || format!("packet {number} {device:?}\n{bytes:02x?}\n{out:02x?}");
        if out.verdict == PASS {
            assert_eq!(out.bytes, bytes, "{}", context());
            passed += 1;
            continue;
        }
        assert!(matches!(out.verdict, TX | FAST), "{}", context());
        let inner = &out.bytes[out.bytes.len() - bytes.len()..];
        match out.bytes.len() - bytes.len() {
            0 => sent += 1,
            50 => {
                let outer = read(&out.bytes).unwrap();
                assert_eq!((outer.protocol, outer.body.0), (UDP, 34), "{}", context());
                assert_eq!(sum(&[&out.bytes[14..34]]), 0xffff, "{}", context());
                wrapped += 1;
            }
            _ => panic!("{}", context()),
        }
        assert_eq!(defects(&bytes), defects(inner), "{}", context());
        let ttl = if bytes[12] == 0x08 { 22 } else { 21 };
        assert_eq!(bytes[ttl] - inner[ttl], 1, "{}", context());
        has_flow(&bed, &bytes, number);
    }
    println!("{sent} sent, {wrapped} wrapped up, {passed} passed");
    assert!(sent > PACKETS / 50 && wrapped > PACKETS / 100 && passed > PACKETS / 10);
}

#[test]
fn no_packet_gets_a_wrong_checksum_or_a_way_without_a_flow() {
    // Room for every flow that may come of them: one that had to give way would go on from the cache for a while.
    let Some(mut bed) = Bed::with(1 << 16) else { return };
    bed.go_direct();
    let mut dice = dice();
    let seeds = seeds(&bed);
    let (mut forwarded, mut back, mut passed, mut dropped) = (0, 0, 0, 0);
    for number in 0..PACKETS {
        let (way, device, seed) = &seeds[dice.below(seeds.len())];
        let bytes = changed(&mut dice, seed);
        let out = bed.run_bytes(*way, *device, &bytes, 0);
        let judged = std::panic::catch_unwind(|| judge(&bytes, &out));
        assert!(judged.is_ok(), "packet {number} {way:?} {device:?}\n{bytes:02x?}\n{out:02x?}");
        match out.verdict {
            SHOT => dropped += 1,
            NEXT if out.bytes == bytes => passed += 1,
            REDIRECT if went_back(&bytes, &out) => back += 1,
            _ => {
                forwarded += 1;
                has_flow(&bed, &bytes, number);
            }
        }
    }
    println!("{forwarded} forwarded, {back} answered, {passed} passed, {dropped} dropped");
    assert!(
        forwarded > PACKETS / 10 && back > PACKETS / 50 && passed > PACKETS / 10 && dropped > PACKETS / 100
    );
}

/// What was forwarded is of a flow: itself, or what it quotes, or the first fragment of it.
fn has_flow(bed: &Bed, bytes: &[u8], number: u32) {
    let read = read(bytes).unwrap();
    let error = matches!(read.protocol, 1 | 58);
    if error || !read.whole {
        return;
    }
    let at = read.body.0;
    let ports = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let (from, to) = ((read.from, ports(at)), (read.to, ports(at + 2)));
    let packet = if read.protocol == TCP { tcp(from, to, ACK) } else { udp(from, to) };
    assert!(bed.bits(&packet).is_some(), "packet {number} has no flow: {packet:?}");
}
