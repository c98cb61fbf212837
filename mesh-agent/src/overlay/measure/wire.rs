//! The probe's packets: a question padded to the size that is tried, and a short answer.
//!
//! The question says where the answer goes: to that port of the asker's address on the underlay, also when the question
//! came through the overlay. So each node tests its own way of sending only.

/// `meshprb` and the version.
const MAGIC: [u8; 8] = *b"meshprb1";
const ASK: u8 = 1;
const ANSWER: u8 = 2;
/// Bytes of an answer, and the fewest of a question: whoever answers sends no more than he got.
pub(super) const LEAST: usize = 19;

fn packet(kind: u8, nonce: u64, port: u16, size: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(size.max(LEAST));
    bytes.extend(MAGIC);
    bytes.push(kind);
    bytes.extend(nonce.to_be_bytes());
    bytes.extend(port.to_be_bytes());
    bytes.resize(size.max(LEAST), 0);
    bytes
}

fn read(bytes: &[u8], kind: u8) -> Option<(u64, u16)> {
    let rest = bytes.strip_prefix(&MAGIC)?.strip_prefix(&[kind])?;
    let (nonce, rest) = rest.split_first_chunk()?;
    Some((u64::from_be_bytes(*nonce), u16::from_be_bytes(*rest.first_chunk()?)))
}

/// A question of `size` bytes, to be answered to `port`.
pub(super) fn ask(nonce: u64, port: u16, size: usize) -> Vec<u8> {
    packet(ASK, nonce, port, size)
}

/// The answer to a question and the port that it goes to; absent when it is none.
pub(super) fn answer(question: &[u8]) -> Option<(Vec<u8>, u16)> {
    let (nonce, port) = read(question, ASK).filter(|(_, port)| *port != 0)?;
    Some((packet(ANSWER, nonce, port, LEAST), port))
}

/// Whether `bytes` answer the question with this nonce.
pub(super) fn answers(bytes: &[u8], nonce: u64) -> bool {
    read(bytes, ANSWER).is_some_and(|(answered, _)| answered == nonce)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng, rngs::StdRng};

    #[test]
    fn an_answer_is_never_larger_and_fits_its_question_only() {
        let question = ask(7, 4711, 1472);
        assert_eq!(question.len(), 1472);
        let (reply, port) = answer(&question).unwrap();
        assert!(answers(&reply, 7) && !answers(&reply, 8) && !answers(&question, 7));
        assert!(answer(&reply).is_none(), "two nodes never answer each other for ever");
        assert!(answer(&question[..LEAST - 1]).is_none() && answer(&ask(7, 0, 99)).is_none());
        assert_eq!((reply.len(), port), (LEAST, 4711));
    }

    #[test]
    fn garbage_gets_no_answer() {
        let seed = 0x9a11;
        println!("seed {seed:#x}");
        let mut random = StdRng::seed_from_u64(seed);
        for _ in 0..20_000 {
            let mut bytes = ask(random.random(), random.random(), random.random_range(0..64));
            let at = random.random_range(0..9);
            bytes[at] ^= random.random_range(1..=255u8);
            bytes.truncate(random.random_range(0..=bytes.len()));
            assert!(answer(&bytes).is_none(), "{bytes:?}");
        }
    }
}
