//! Records: the unit that nodes store, merge and spread.
//!
//! On the wire a record is a kind, opaque key bytes and opaque value bytes, so that a node stores and forwards kinds
//! it does not know. [`crate::key`] gives known keys their meaning.

use crate::{
    claim::ClaimRank,
    hash::hash64,
    hlc::Hlc,
    key::{self, Key, RecordId},
    model::{Name, NodeName},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Visitor};
use std::{cmp::Ordering, fmt, sync::Arc};

/// Longest key in bytes; the longest known one is below 300.
pub(crate) const MAX_KEY: usize = 512;
/// Longest value in bytes: some 4,000 endpoints of one service on one node.
pub(crate) const MAX_VALUE: usize = 256 * 1024;

/// One run of one node.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub(crate) struct Writer {
    /// The node's name.
    pub(crate) node: NodeName,
    /// Its boot: Unix milliseconds of its start, so that a later run has the greater one.
    pub(crate) boot: u64,
}

/// A versioned value.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) id: RecordId,
    pub(crate) version: Hlc,
    pub(crate) writer: Arc<Writer>,
    /// A tombstone; it may keep a value (a claim keeps its address, a node what it said).
    pub(crate) deleted: bool,
    pub(crate) value: Arc<[u8]>,
    /// Hash of all the above.
    pub(crate) digest: u64,
}

/// Without the value, which may be a cluster key.
impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("id", &self.id)
            .field("version", &self.version)
            .field("writer", &self.writer)
            .field("deleted", &self.deleted)
            .field("digest", &self.digest)
            .finish_non_exhaustive()
    }
}

/// Why bytes are no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RecordError {
    #[error("cut short or not in the wire format")]
    Malformed,
    #[error("key, value or version beyond its limit")]
    TooLarge,
    #[error("key not in its one valid form, or written by a node that may not write it")]
    Key,
}

/// Bytes that serde takes as a block.
struct Block<'a>(&'a [u8]);

impl Serialize for Block<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Block<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Borrowed;
        impl<'de> Visitor<'de> for Borrowed {
            type Value = Block<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }
            fn visit_borrowed_bytes<E>(self, bytes: &'de [u8]) -> Result<Block<'de>, E> {
                Ok(Block(bytes))
            }
        }
        deserializer.deserialize_bytes(Borrowed)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
struct Wire<'a> {
    kind: u8,
    key: Block<'a>,
    version: u64,
    node: &'a str,
    boot: u64,
    deleted: bool,
    value: Block<'a>,
}

impl Record {
    /// A record; computes its digest.
    pub(crate) fn new(
        id: RecordId,
        version: Hlc,
        writer: Arc<Writer>,
        deleted: bool,
        value: Arc<[u8]>,
    ) -> Record {
        let digest = hash64(&[
            &[id.kind, u8::from(deleted)],
            &id.key,
            &version.0.to_be_bytes(),
            writer.node.as_str().as_bytes(),
            &writer.boot.to_be_bytes(),
            &value,
        ]);
        Record { id, version, writer, deleted, value, digest }
    }

    /// Which of two records with one id stays: the greater (version, writer). Claims first ask their rank, so that an
    /// old claim is not displaced by a node that did not know it.
    ///
    /// A total order over everything a record holds, so merging by its maximum is commutative, associative and
    /// idempotent.
    pub(crate) fn order(&self, other: &Record) -> Ordering {
        self.rank()
            .cmp(&other.rank())
            .then_with(|| self.version.cmp(&other.version))
            .then_with(|| self.writer.cmp(&other.writer))
            .then_with(|| self.deleted.cmp(&other.deleted))
            .then_with(|| self.value.cmp(&other.value))
    }

    fn rank(&self) -> ClaimRank {
        if self.id.kind == key::CLAIM {
            ClaimRank::of(self.deleted, &self.value)
        } else {
            ClaimRank::NO_CLAIM
        }
    }

    /// Appends the wire form.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let wire = Wire {
            kind: self.id.kind,
            key: Block(&self.id.key),
            version: self.version.0,
            node: self.writer.node.as_str(),
            boot: self.writer.boot,
            deleted: self.deleted,
            value: Block(&self.value),
        };
        // Writing to a vector of a plain struct cannot fail; should it, the reader refuses the rest.
        if let Ok(bytes) = postcard::to_stdvec(&wire) {
            out.extend_from_slice(&bytes);
        }
    }

    /// Reads one record and what follows it.
    ///
    /// # Errors
    /// [`RecordError`] when the bytes break a limit or the format, or the writer may not write this key.
    pub(crate) fn decode(bytes: &[u8]) -> Result<(Record, &[u8]), RecordError> {
        let (wire, rest) =
            postcard::take_from_bytes::<Wire<'_>>(bytes).map_err(|_| RecordError::Malformed)?;
        if wire.key.0.len() > MAX_KEY || wire.value.0.len() > MAX_VALUE || wire.version >= Hlc::LIMIT.0 {
            return Err(RecordError::TooLarge);
        }
        let node = Name::new(wire.node).map_err(|_| RecordError::Malformed)?;
        let id = RecordId { kind: wire.kind, key: wire.key.0.into() };
        if !Key::fits(&id, &node, wire.deleted) {
            return Err(RecordError::Key);
        }
        let writer = Arc::new(Writer { node, boot: wire.boot });
        Ok((Record::new(id, Hlc(wire.version), writer, wire.deleted, wire.value.0.into()), rest))
    }

    /// Reads records to the end of `bytes`.
    ///
    /// # Errors
    /// As [`Record::decode`]; one bad record refuses them all.
    pub(crate) fn decode_all(mut bytes: &[u8]) -> Result<Vec<Record>, RecordError> {
        let mut records = Vec::new();
        while !bytes.is_empty() {
            let (record, rest) = Record::decode(bytes)?;
            records.push(record);
            bytes = rest;
        }
        Ok(records)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::key;

    /// A record of an unknown kind.
    pub(crate) fn plain(key: &str, version: u64, node: &str, deleted: bool, value: &str) -> Record {
        let writer = Arc::new(Writer { node: Name::new(node).unwrap(), boot: 1 });
        let id = RecordId { kind: 200, key: key.as_bytes().into() };
        Record::new(id, Hlc(version), writer, deleted, value.as_bytes().into())
    }

    #[test]
    fn what_is_written_is_read() {
        let a = plain("k", 7 << 16, "n1", false, "value");
        let b = plain("", 0, "n2", true, "");
        let mut bytes = Vec::new();
        a.encode(&mut bytes);
        b.encode(&mut bytes);
        assert_eq!(Record::decode_all(&bytes).unwrap(), [a, b]);
    }

    #[test]
    fn limits_and_foreign_keys_are_refused() {
        let mut bytes = Vec::new();
        plain(&"k".repeat(MAX_KEY + 1), 1, "n1", false, "").encode(&mut bytes);
        assert_eq!(Record::decode(&bytes).unwrap_err(), RecordError::TooLarge);
        bytes.clear();
        plain("k", u64::MAX, "n1", false, "").encode(&mut bytes);
        assert_eq!(Record::decode(&bytes).unwrap_err(), RecordError::TooLarge);
        bytes.clear();
        // n2 writes the node record of n1.
        let mut forged = plain("", 1, "n2", false, "");
        forged.id = key::Key::Node(Name::new("n1").unwrap()).id();
        forged.encode(&mut bytes);
        assert_eq!(Record::decode(&bytes).unwrap_err(), RecordError::Key);
    }
}
