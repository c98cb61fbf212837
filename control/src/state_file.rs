//! The form in which a node keeps its records over a restart.
//!
//! ```text
//! "mesh-state" | version 1 | SHA-256 of the rest 32 | saved at, Unix ms 8 | name length 1 | name | records
//! ```

use crate::{hlc::Now, model::NodeName, record::Record, store::TOMBSTONE_LIFE};
use ring::digest::{SHA256, digest};

const MAGIC: &[u8] = b"mesh-state";
const VERSION: u8 = 1;
const HASH: usize = 32;
/// Largest file that is read, in bytes.
pub(crate) const MAX_FILE: u64 = 1 << 30;

/// Why kept state is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StateError {
    #[error("it is not a state file of a mesh agent: move it away")]
    Foreign,
    #[error(
        "it has format {0} and this release reads format 1: start the release that wrote it, or move it away"
    )]
    Version(u8),
    #[error("it is damaged (its checksum differs): move it away; the other nodes have the state")]
    Damaged,
    #[error("it belongs to node {0}: give each node a data_dir of its own")]
    OtherNode(String),
}

/// What a file held.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    Records(Vec<Record>),
    /// Older than tombstones live: it could bring back what was deleted since. Age in milliseconds.
    TooOld(u64),
}

/// The file's bytes.
pub(crate) fn encode<'a>(node: &NodeName, records: impl Iterator<Item = &'a Record>, now: Now) -> Vec<u8> {
    let mut body = now.wall.to_be_bytes().to_vec();
    body.push(u8::try_from(node.as_str().len()).unwrap_or_default());
    body.extend_from_slice(node.as_str().as_bytes());
    records.for_each(|record| record.encode(&mut body));
    [MAGIC, &[VERSION], digest(&SHA256, &body).as_ref(), &body].concat()
}

/// Reads a file's bytes.
///
/// # Errors
/// [`StateError`]; nothing of a bad file is used.
pub(crate) fn decode(bytes: &[u8], node: &NodeName, now: Now) -> Result<Kept, StateError> {
    let rest = bytes.strip_prefix(MAGIC).ok_or(StateError::Foreign)?;
    let (version, rest) = rest.split_first().ok_or(StateError::Damaged)?;
    if *version != VERSION {
        return Err(StateError::Version(*version));
    }
    let (hash, body) = rest.split_first_chunk::<HASH>().ok_or(StateError::Damaged)?;
    if digest(&SHA256, body).as_ref() != hash {
        return Err(StateError::Damaged);
    }
    let (saved, rest) = body.split_first_chunk::<8>().ok_or(StateError::Damaged)?;
    let (length, rest) = rest.split_first().ok_or(StateError::Damaged)?;
    let (name, records) = rest.split_at_checked(usize::from(*length)).ok_or(StateError::Damaged)?;
    if name != node.as_str().as_bytes() {
        return Err(StateError::OtherNode(String::from_utf8_lossy(name).into_owned()));
    }
    let age = now.wall.saturating_sub(u64::from_be_bytes(*saved));
    if age > TOMBSTONE_LIFE {
        return Ok(Kept::TooOld(age));
    }
    Record::decode_all(records).map(Kept::Records).map_err(|_| StateError::Damaged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{model::Name, record::tests::plain};

    const NOW: Now = Now { mono: 0, wall: 1_700_000_000_000 };

    #[test]
    fn what_is_kept_comes_back_and_anything_else_is_refused() {
        let node = Name::new("n1").unwrap();
        let records = vec![plain("a", 1 << 16, "n1", false, "x"), plain("b", 2 << 16, "n2", true, "")];
        let file = encode(&node, records.iter(), NOW);
        assert_eq!(decode(&file, &node, NOW), Ok(Kept::Records(records)));
        let later = Now { wall: NOW.wall + TOMBSTONE_LIFE + 1, ..NOW };
        assert_eq!(decode(&file, &node, later), Ok(Kept::TooOld(TOMBSTONE_LIFE + 1)));
        let other = Name::new("n2").unwrap();
        assert_eq!(decode(&file, &other, NOW), Err(StateError::OtherNode("n1".into())));
        assert_eq!(decode(b"hello", &node, NOW), Err(StateError::Foreign));
        let mut newer = file.clone();
        newer[MAGIC.len()] = 2;
        assert_eq!(decode(&newer, &node, NOW), Err(StateError::Version(2)));
    }
}
