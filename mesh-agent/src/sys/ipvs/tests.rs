//! The messages are what the kernel's header says, and damaged answers harm nobody.

use super::{
    message::{self, read_destination, read_service, read_timeouts},
    *,
};
use crate::sys::{
    genl::Id,
    nfnetlink::{Answer, messages},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::net::SocketAddr;

const FAMILY: Id = Id { number: 0x22, version: 1 };

fn service() -> Service {
    Service { scheduler: "wlc".into(), flags: flags::PERSISTENT | flags::FALLBACK, timeout: 300, prefix: 32 }
}

fn destination() -> Destination {
    Destination { forward: Destination::MASQUERADE, weight: 7, upper: 9, lower: 8 }
}

fn v4() -> Virtual {
    Virtual::Address { at: "10.96.0.1:80".parse().unwrap(), protocol: 6 }
}

fn v6() -> Virtual {
    Virtual::Address { at: "[fd96::1]:53".parse().unwrap(), protocol: 17 }
}

/// The attributes of a message, as they would be read.
fn read<T>(bytes: &[u8], take: impl FnOnce(Attributes<'_>) -> T) -> T {
    let mut all = messages(bytes);
    let Some(Ok((7, Answer::Data(_, attributes)))) = all.next() else { panic!("{bytes:02x?}") };
    take(attributes)
}

/// A message as the kernel would send it: what commands carry, and what is counted.
fn answer(command: &Command, extra: impl FnOnce(&mut Request)) -> Vec<u8> {
    let mut request = command.request(FAMILY);
    extra(&mut request);
    request.finish(7).to_vec()
}

#[test]
fn services_read_back_as_they_were_written() {
    let marked = |v6| Virtual::Mark { mark: 0x4e00_0050, v6 };
    for (of, prefix) in
        [(v4(), 32), (v4(), 24), (v6(), 128), (v6(), 64), (marked(false), 32), (marked(true), 128)]
    {
        let wanted = Service { prefix, ..service() };
        for command in [Command::NewService(of, wanted.clone()), Command::SetService(of, wanted.clone())] {
            let bytes = answer(&command, |_| {});
            let (read_of, seen) = read(&bytes, read_service).unwrap();
            assert_eq!((read_of, seen.what), (of, wanted.clone()));
        }
        assert!(
            read(&answer(&Command::DelService(of), |_| {}), read_service).is_none(),
            "a bare name is no service"
        );
    }
}

#[test]
fn destinations_are_named_by_their_service_and_address() {
    let bytes = answer(&Command::NewDest(v4(), "10.44.0.2:8000".parse().unwrap(), destination()), |_| {});
    // IPVS_CMD_NEW_DEST, version 1, in a message of the family.
    assert_eq!((bytes[4..6].to_vec(), bytes[16], bytes[17]), (FAMILY.number.to_ne_bytes().to_vec(), 5, 1));
    let kinds: Vec<u16> = read(&bytes, |attributes| attributes.map(|(kind, _)| kind).collect());
    assert_eq!(kinds, [1, 2], "service and destination");
    // Of a kernel that does not tell how many connections there are, nothing is taken for none.
    assert!(read(&bytes, |attributes| read_destination(attributes, false)).is_none());
}

#[test]
fn counted_destinations_are_read() {
    let at: SocketAddr = "[fd44::2]:8000".parse().unwrap();
    let (_, seen) = read(&dumped_destination(at), |attributes| read_destination(attributes, true)).unwrap();
    assert_eq!((seen.what, seen.active, seen.inactive), (destination(), 3, 4));
    assert_eq!(seen.stats, Stats { connections: 5, bytes_in: 6, bytes_out: 7 });
}

/// As the kernel tells a destination: `IPVS_DEST_ATTR_*`.
fn dumped_destination(at: SocketAddr) -> Vec<u8> {
    let mut request = FAMILY.request(5, 0);
    request.nest(2, |request| {
        let mut address = [0; 16];
        match at.ip() {
            std::net::IpAddr::V4(a) => address[..4].copy_from_slice(&a.octets()),
            std::net::IpAddr::V6(a) => address = a.octets(),
        }
        request.put(1, &address);
        request.put(2, &at.port().to_be_bytes());
        for (kind, number) in [(3, 0_u32), (4, 7), (5, 9), (6, 8), (7, 3), (8, 4), (9, 0)] {
            request.put(kind, &number.to_ne_bytes());
        }
        let af = if at.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET };
        request.put(11, &u16::try_from(af).unwrap().to_ne_bytes());
        request.nest(12, |stats| {
            for (kind, number) in [(1, 5_u64), (4, 6), (5, 7)] {
                stats.put(kind, &number.to_ne_bytes());
            }
        });
    });
    request.finish(7).to_vec()
}

#[test]
fn timeouts_read_back() {
    let wanted = Timeouts { tcp: 432_000, tcp_fin: 120, udp: 120 };
    let bytes = answer(&Command::SetTimeouts(wanted), |_| {});
    assert_eq!(read(&bytes, read_timeouts), Some(wanted));
}

#[test]
fn refusals_are_told_in_words() {
    for (errno, words) in [
        (libc::EPERM, "CAP_NET_ADMIN"),
        (libc::EEXIST, "already"),
        (libc::ESRCH, "no such virtual service"),
        (libc::ENOENT, "no such destination"),
        (libc::EINVAL, "takes no such"),
    ] {
        let error = IpvsError::from(io::Error::from_raw_os_error(errno));
        assert!(error.to_string().contains(words), "{error}");
    }
    assert!(IpvsError::Missing.to_string().contains("modprobe ip_vs"));
}

/// Fuzz target: whatever comes for an answer, reading it ends, in bounds and without panic. `FUZZ_SEED` and `FUZZ_ROUNDS`
/// run others or more.
#[test]
fn garbage_is_bounded_and_never_panics() {
    let number = |name, default: u64| {
        std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|e| panic!("{name}: {e}")))
    };
    let (seed, rounds) = (number("FUZZ_SEED", 0x6970_7673), number("FUZZ_ROUNDS", 30_000));
    println!("sys::ipvs: FUZZ_SEED={seed} FUZZ_ROUNDS={rounds}");
    let corpus = [
        answer(&Command::NewService(v4(), service()), |_| {}),
        answer(&Command::NewService(v6(), Service { prefix: 128, ..service() }), |_| {}),
        answer(&Command::NewService(Virtual::Mark { mark: 9, v6: true }, service()), |_| {}),
        dumped_destination("10.44.0.2:8000".parse().unwrap()),
        dumped_destination("[fd44::2]:8000".parse().unwrap()),
        answer(&Command::SetTimeouts(Timeouts { tcp: 1, tcp_fin: 2, udp: 3 }), |_| {}),
    ];
    let (mut taken, mut refused) = (0_u64, 0_u64);
    for round in 0..rounds {
        let mut random = StdRng::seed_from_u64(seed ^ round.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut bytes: Vec<u8> = corpus[random.random_range(0..corpus.len())].clone();
        for _ in 0..random.random_range(0..6) {
            if bytes.is_empty() {
                break;
            }
            let at = random.random_range(0..bytes.len());
            match random.random_range(0..5) {
                0 => bytes[at] = random.random(),
                1 => bytes[at] ^= 1 << random.random_range(0..8),
                2 => bytes.truncate(at),
                3 => drop(
                    bytes.splice(at..at, std::iter::repeat_n(random.random(), random.random_range(1..9))),
                ),
                _ => {
                    let part = bytes[at..].to_vec();
                    bytes.extend(part);
                }
            }
        }
        let mut good = false;
        for (count, message) in messages(&bytes).enumerate() {
            assert!(count <= bytes.len() / 16, "more messages than fit: round {round}");
            let Ok((_, Answer::Data(_, attributes))) = message else { continue };
            let known = message::read_service(attributes).is_some();
            let reached = [false, true].map(|v6| message::read_destination(attributes, v6).is_some());
            good |= known || reached[0] || reached[1] || message::read_timeouts(attributes).is_some();
        }
        if good { taken += 1 } else { refused += 1 }
    }
    assert!(taken >= rounds / 1000 && refused > 0, "{taken} taken, {refused} refused");
}
