//! The mutator and its loop.

use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::{
    fmt::Write as _,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
};

const ROUNDS: u64 = 20_000;
const SEED: u64 = 0xf0_22;
/// No mutant is longer; what a decoder makes of it stays within a small multiple.
const LONGEST: usize = 16 * 1024;

fn variable(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| {
        let text = text.replace('_', "");
        let hex = text.strip_prefix("0x").map(|digits| u64::from_str_radix(digits, 16));
        hex.unwrap_or_else(|| text.parse()).unwrap_or_else(|e| panic!("{name}={text}: {e}"))
    })
}

/// Runs `check` over mutants of `corpus`; it says whether it took the input. At least one in a thousand must be taken,
/// and one refused, or the target has lost its point.
pub(super) fn fuzz(target: &str, corpus: &[Vec<u8>], mut check: impl FnMut(&[u8], &mut StdRng) -> bool) {
    assert!(!corpus.is_empty(), "{target}: nothing to begin with");
    let (seed, rounds) = (variable("FUZZ_SEED", SEED), variable("FUZZ_ROUNDS", ROUNDS));
    println!("{target}: seed {seed:#x}, {rounds} rounds over {} inputs", corpus.len());
    let (mut taken, mut refused) = (0, 0);
    for round in 0..rounds {
        let mut rng = StdRng::seed_from_u64(seed ^ round.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let input = mutant(corpus, &mut rng);
        match catch_unwind(AssertUnwindSafe(|| check(&input, &mut rng))) {
            Ok(true) => taken += 1,
            Ok(false) => refused += 1,
            Err(panic) => {
                let hex = input.iter().fold(String::new(), |mut hex, byte| {
                    let _ = write!(hex, "{byte:02x}");
                    hex
                });
                eprintln!("{target}: FUZZ_SEED={seed:#x}, round {round}, input {hex}");
                resume_unwind(panic);
            }
        }
    }
    assert!(taken >= rounds / 1000 && refused > 0, "{target}: {taken} taken, {refused} refused");
}

/// A member of the corpus with up to six changes; now and then unchanged, or noise.
fn mutant(corpus: &[Vec<u8>], rng: &mut StdRng) -> Vec<u8> {
    let mut bytes = corpus[rng.random_range(0..corpus.len())].clone();
    if rng.random_range(0..32) == 0 {
        bytes = (0..rng.random_range(0..100)).map(|_| rng.random()).collect();
    }
    for _ in 0..rng.random_range(0..=6) {
        let at = rng.random_range(0..=bytes.len());
        let end = (at + rng.random_range(1..=16)).min(bytes.len());
        match rng.random_range(0..9) {
            0 if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
            1 if at < bytes.len() => bytes[at] = rng.random(),
            2 if at < bytes.len() => {
                bytes[at] = bytes[at].wrapping_add(rng.random_range(0..3)).wrapping_sub(1);
            }
            3 => bytes.insert(at, [0, 1, 0x7f, 0x80, 0xff][rng.random_range(0..5)]),
            4 => drop(bytes.drain(at..end)),
            5 => {
                // The rest of another one.
                let other = &corpus[rng.random_range(0..corpus.len())];
                bytes.truncate(at);
                bytes.extend_from_slice(&other[rng.random_range(0..=other.len())..]);
            }
            6 => {
                // What was a length or a number becomes huge: a varint of 2, 5, 9 or 10 bytes.
                let huge = [1, 4, 8, 9][rng.random_range(0..4)];
                let number = [vec![0xff; huge], vec![rng.random_range(0..2)]].concat();
                bytes.splice(at..(at + 1).min(bytes.len()), number);
            }
            7 => {
                let part = bytes[at..end].to_vec();
                let times = rng.random_range(1..=200);
                bytes.splice(at..at, part.repeat(times));
            }
            _ if rng.random_range(0..3) == 0 => bytes.truncate(at),
            _ => {}
        }
        bytes.truncate(LONGEST);
    }
    bytes
}

#[test]
fn mutants_differ_and_repeat() {
    let corpus = [b"hello".to_vec()];
    let make = |seed| mutant(&corpus, &mut StdRng::seed_from_u64(seed));
    assert!((0..100).all(|seed| make(seed) == make(seed)));
    assert!((0..100).map(make).collect::<std::collections::BTreeSet<_>>().len() > 50);
}
