//! The case of a question as further random bits (draft-vixie-dnsext-dns0x20): a server that echoes it once must
//! always do so, and who guesses at a reply must guess it too.

use crate::packet::{HEADER, question_octets};
use std::sync::atomic::{AtomicU8, Ordering};

/// Replies awaited in vain, while others came that had all but the case, after which the server is taken to have
/// changed its mind.
const MAX_LOST: u8 = 3;

const UNKNOWN: u8 = 0;
const ECHOES: u8 = 1;
const NOT: u8 = 255;

/// Whether a server echoes the case of questions. Between "echoes" and "not" lie the exchanges lost to its being so.
#[derive(Debug, Default)]
pub(super) struct Case(AtomicU8);

impl Case {
    /// Whether questions to it are mixed.
    pub(super) fn is_mixed(&self) -> bool {
        self.0.load(Ordering::Relaxed) != NOT
    }

    /// Takes note of a reply that is right but for the case, maybe; says whether it is to be believed.
    pub(super) fn believes(&self, exact: bool, has_letters: bool) -> bool {
        match (self.0.load(Ordering::Relaxed), exact) {
            (NOT, _) => true,
            (_, true) => {
                if has_letters {
                    self.0.store(ECHOES, Ordering::Relaxed);
                }
                true
            }
            (UNKNOWN, false) => {
                self.0.store(NOT, Ordering::Relaxed);
                true
            }
            (_, false) => false,
        }
    }

    /// An exchange ended without any reply but disbelieved ones.
    pub(super) fn lost(&self) {
        let next = |lost| match lost {
            UNKNOWN | NOT => None,
            lost if lost >= MAX_LOST => Some(NOT),
            lost => Some(lost + 1),
        };
        // Nothing to do for the others.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    }
}

/// Flips letters of the question's name by the bits of `random`; says whether there are enough letters for an echo to
/// prove anything.
pub(super) fn mix(query: &mut [u8], random: u64) -> bool {
    let Some(name) = question_octets(query).and_then(|q| q.len().checked_sub(4)) else { return false };
    let (mut bits, mut letters, mut upper) = (random, 0, 0);
    for octet in &mut query[HEADER..HEADER + name] {
        if octet.is_ascii_alphabetic() {
            *octet = if bits & 1 == 1 { octet.to_ascii_uppercase() } else { octet.to_ascii_lowercase() };
            upper += bits & 1;
            bits = bits.rotate_right(1);
            letters += 1;
        }
    }
    letters >= 4 && upper > 0 && upper < letters
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_echoes_must_go_on_and_one_that_does_not_is_left_alone() {
        let case = Case::default();
        assert!(case.is_mixed() && case.believes(true, true));
        assert!(!case.believes(false, true), "it has echoed before");
        assert!(case.believes(true, true));
        for _ in 0..MAX_LOST {
            assert!(case.is_mixed());
            case.lost();
        }
        assert!(!case.is_mixed() && case.believes(false, true), "it has changed its mind");

        let case = Case::default();
        assert!(case.believes(true, false), "a name without letters proves nothing");
        assert!(case.believes(false, true), "at first sight");
        assert!(!case.is_mixed());
        case.lost();
        assert!(!case.is_mixed());
    }

    #[test]
    fn only_the_letters_of_the_name_change() {
        let question = b"\x07eXample\x03a-9\x00\x00\x41\x00\x61";
        let query = [&[0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0], &question[..]].concat();
        let mut mixed = query.clone();
        assert!(mix(&mut mixed, 0b1010_0101));
        assert!(mixed.eq_ignore_ascii_case(&query) && mixed[mixed.len() - 4..] == query[query.len() - 4..]);
        assert_eq!(mixed[12..20], *b"\x07ExAmpLe");
        let mut lower = query.clone();
        assert!(!mix(&mut lower, 0), "all in one case proves little: many servers answer in lower case");
        assert!(!mix(&mut [0; 12], 7));
    }
}
