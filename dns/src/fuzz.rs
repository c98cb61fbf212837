//! Every decoder of the DNS server against damaged input; those of `forward/` ask [`fuzz`] from their own tests.
//!
//! A failure prints target, seed, round and the input. `FUZZ_SEED=… FUZZ_ROUNDS=…` run others or more of them.

use crate::{
    Zone,
    encode::{Screened, advertised, question, screen, truncated, unread},
    packet::{HEADER, edns, question_octets},
    reverse::Reverse,
};
use hickory_proto::{op::ResponseCode, rr::Name};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Runs `check` over mutants of `corpus`; it says whether it took the input. At least one in a thousand must be taken,
/// and one refused, or the target has lost its point.
pub(crate) fn fuzz(target: &str, corpus: &[Vec<u8>], mut check: impl FnMut(&[u8]) -> bool) {
    let number = |name, default: u64| {
        std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|e| panic!("{name}: {e}")))
    };
    let (seed, rounds) = (number("FUZZ_SEED", 7), number("FUZZ_ROUNDS", 20_000));
    println!("{target}: seed {seed}, {rounds} rounds");
    let (mut taken, mut refused) = (0, 0);
    for round in 0..rounds {
        let mut rng = StdRng::seed_from_u64(seed ^ round.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let input = mutant(corpus, &mut rng);
        match catch_unwind(AssertUnwindSafe(|| check(&input))) {
            Ok(true) => taken += 1,
            Ok(false) => refused += 1,
            Err(panic) => {
                eprintln!("{target}: FUZZ_SEED={seed}, round {round}, input {input:02x?}");
                resume_unwind(panic);
            }
        }
    }
    assert!(taken >= rounds / 1000 && refused > 0, "{target}: {taken} taken, {refused} refused");
}

/// A member of the corpus with up to five changes.
fn mutant(corpus: &[Vec<u8>], rng: &mut StdRng) -> Vec<u8> {
    let mut bytes = corpus[rng.random_range(0..corpus.len())].clone();
    for _ in 0..rng.random_range(0..=5) {
        let at = rng.random_range(0..=bytes.len());
        let end = (at + rng.random_range(1..=16)).min(bytes.len());
        match rng.random_range(0..8) {
            0 if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
            1 if at < bytes.len() => bytes[at] = rng.random(),
            // Lengths of labels, pointers and counts.
            2 if at < bytes.len() => bytes[at] = [0, 1, 63, 64, 0xc0, 0xff][rng.random_range(0..6)],
            3 => bytes.insert(at, rng.random()),
            4 => drop(bytes.drain(at..end)),
            5 => {
                let other = &corpus[rng.random_range(0..corpus.len())];
                bytes.truncate(at);
                bytes.extend_from_slice(&other[rng.random_range(0..=other.len())..]);
            }
            6 => {
                let part = bytes[at..end].to_vec();
                let times = rng.random_range(1..=100);
                bytes.splice(at..at, part.repeat(times));
            }
            _ if rng.random_range(0..3) == 0 => bytes.truncate(at),
            _ => {}
        }
        bytes.truncate(8 << 10);
    }
    bytes
}

/// Queries of every shape: plain, with EDNS, a reverse one, the root, and replies.
pub(crate) fn packets() -> Vec<Vec<u8>> {
    let packet = |flags: u8, counts: [u8; 8], rest: &[u8]| [&[0, 7, flags, 0], &counts[..], rest].concat();
    let edns = [0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0];
    let web = b"\x03web\x07cluster\x00\x00\x01\x00\x01";
    let answer = [&web[..], b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x05\x00\x04\x0a\x60\x00\x01"].concat();
    vec![
        packet(1, [0, 1, 0, 0, 0, 0, 0, 0], web),
        packet(1, [0, 1, 0, 0, 0, 0, 0, 1], &[&web[..], &edns].concat()),
        packet(1, [0, 1, 0, 0, 0, 0, 0, 0], b"\x011\x010\x0296\x0210\x07in-addr\x04arpa\x00\x00\x0c\x00\x01"),
        packet(0, [0, 1, 0, 0, 0, 0, 0, 0], b"\x00\x00\x02\x00\x01"),
        packet(0x81, [0, 1, 0, 1, 0, 0, 0, 0], &answer),
        packet(0x83, [0, 1, 0, 0, 0, 0, 0, 0], web),
    ]
}

#[test]
fn queries() {
    let client = ([127, 0, 0, 1], 5353).into();
    fuzz("queries", &packets(), |input| match screen(input, client) {
        Screened::Drop => {
            assert!(input.len() < HEADER || input[2] & 0x80 != 0, "only what is no query is not answered");
            false
        }
        Screened::Reply(reply, _) => {
            assert!(reply.len() <= input.len() && reply[..2] == input[..2] && reply[2] & 0x80 != 0);
            false
        }
        Screened::Query(request) => {
            assert!(question(&request).is_some_and(|q| q.name.len() <= 255));
            assert!((512..=65_535).contains(&advertised(&request)));
            true
        }
    });
}

#[test]
fn questions_and_truncation() {
    fuzz("questions", &packets(), |input| {
        let octets = question_octets(input);
        assert!(octets.is_none_or(|octets| (5..=259).contains(&octets.len())));
        let Some(short) = truncated(input, None) else { return false };
        assert!(short.len() <= input.len() && short[2] & 0x02 != 0);
        assert_eq!(question_octets(&short), octets);
        true
    });
}

#[test]
fn refusals() {
    fuzz("refusals", &packets(), |input| {
        let Some(reply) = unread(input, ResponseCode::Refused) else {
            assert!(input.len() < HEADER || input[2] & 0x80 != 0, "only what is no query is not refused");
            return false;
        };
        assert!(reply.len() <= input.len() && reply[..2] == input[..2] && reply[2] & 0x80 != 0);
        assert_eq!((reply[3], question_octets(&reply)), (5, question_octets(input)));
        assert_eq!(edns(&reply), edns(input), "OPT comes back, and DO");
        true
    });
}

#[test]
fn names_of_addresses() {
    let names = [
        "1.0.96.10.in-addr.arpa.",
        "96.10.in-addr.arpa.",
        "x.1.ip6.arpa.",
        &format!("{}ip6.arpa.", "a.".repeat(32)),
    ]
    .map(|name| name.as_bytes().to_vec());
    fuzz("names of addresses", &names, |input| {
        let Ok(name) = Name::from_ascii(String::from_utf8_lossy(input)) else { return false };
        let Some(read) = Reverse::read(&name.to_lowercase()) else { return false };
        assert!(read.is_in(read.network) && read.address().is_none_or(|a| read.network.contains(a)));
        true
    });
}

#[test]
fn domains() {
    let domains = ["cluster", "mesh.example.org.", "a-b_c.d"].map(|name| name.as_bytes().to_vec());
    fuzz("domains", &domains, |input| {
        let text = String::from_utf8_lossy(input);
        let Ok(zone) = Zone::new(&text) else { return false };
        assert!(
            zone.origin().is_fqdn()
                && zone.origin().len() <= 60
                && *zone.origin() == zone.origin().to_lowercase()
        );
        assert_eq!(
            Zone::new(&zone.origin().to_string()).map(|z| z.origin().clone()).ok(),
            Some(zone.origin().clone())
        );
        true
    });
}
