//! What two nodes say to each other over TCP.
//!
//! ```text
//! initiator: Hello(members, root) ── Listing(buckets) ──── Records* Listing … ── Done
//! responder:        Welcome(members, bucket hashes) ── Records* Want ── …
//! ```
//! One exchange serves membership push/pull, the last try before a suspect is declared down, and anti-entropy.

use crate::{
    member::Identity,
    membership::{MAX_MEMBERS, Member},
    model::NodeName,
    record::{MAX_KEY, Record, RecordId},
    store::{BUCKETS, Store, bucket_of},
};
use serde::{Deserialize, Serialize};

/// Buckets that one listing covers, at most.
pub(crate) const GROUP: usize = 16;
/// Records are cut into frames of about this many bytes.
const BATCH: usize = 64 * 1024;

/// The opening of an exchange.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) from: Identity,
    /// Whom the sender means to reach; absent when it knows only an address.
    pub(crate) to: Option<NodeName>,
    pub(crate) members: Vec<Member>,
    /// A message for the failure detector, or nothing.
    pub(crate) message: Vec<u8>,
    pub(crate) root: u64,
}

/// Its answer.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Welcome {
    pub(crate) from: Identity,
    pub(crate) members: Vec<Member>,
    pub(crate) message: Vec<u8>,
    /// The hash of each bucket, unless the roots are equal.
    pub(crate) buckets: Option<Vec<u64>>,
}

/// One record as a listing names it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) kind: u8,
    pub(crate) key: Vec<u8>,
    pub(crate) version: u64,
    pub(crate) digest: u64,
}

/// All of one bucket's records.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct BucketList {
    pub(crate) bucket: u8,
    pub(crate) entries: Vec<Entry>,
}

/// A frame.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Frame {
    Hello(Box<Hello>),
    Welcome(Box<Welcome>),
    Listing(Vec<BucketList>),
    /// The keys that the responder lacks or has older; ends its answer to a listing.
    Want(Vec<(u8, Vec<u8>)>),
    Records(Vec<Record>),
    Done,
}

/// Why a frame is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a frame, or one beyond its limits")]
pub(crate) struct FrameError;

impl Frame {
    /// The wire form: a tag and the body.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let (tag, body) = match self {
            Frame::Hello(hello) => (1, postcard::to_stdvec(hello)),
            Frame::Welcome(welcome) => (2, postcard::to_stdvec(welcome)),
            Frame::Listing(list) => (3, postcard::to_stdvec(list)),
            Frame::Want(keys) => (4, postcard::to_stdvec(keys)),
            Frame::Records(records) => {
                let mut body = Vec::new();
                records.iter().for_each(|r| r.encode(&mut body));
                (5, Ok(body))
            }
            Frame::Done => (6, Ok(Vec::new())),
        };
        // Plain structs always encode; an empty body would be refused by the peer.
        [vec![tag], body.unwrap_or_default()].concat()
    }

    /// Reads a frame; its length was bounded by [`crate::session::MAX_FRAME`].
    ///
    /// # Errors
    /// [`FrameError`]; nothing of a bad frame is used.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Frame, FrameError> {
        let (tag, body) = bytes.split_first().ok_or(FrameError)?;
        let frame = match tag {
            1 => Frame::Hello(Box::new(read(body)?)),
            2 => Frame::Welcome(Box::new(read(body)?)),
            3 => Frame::Listing(read(body)?),
            4 => Frame::Want(read(body)?),
            5 => Frame::Records(Record::decode_all(body).map_err(|_| FrameError)?),
            6 if body.is_empty() => Frame::Done,
            _ => return Err(FrameError),
        };
        let fits = match &frame {
            Frame::Hello(hello) => hello.members.len() <= MAX_MEMBERS,
            Frame::Welcome(welcome) => {
                welcome.members.len() <= MAX_MEMBERS
                    && welcome.buckets.as_ref().is_none_or(|b| b.len() == BUCKETS)
            }
            Frame::Listing(list) => {
                list.len() <= GROUP && list.iter().flat_map(|b| &b.entries).all(|e| e.key.len() <= MAX_KEY)
            }
            Frame::Want(keys) => keys.iter().all(|(_, key)| key.len() <= MAX_KEY),
            Frame::Records(_) | Frame::Done => true,
        };
        fits.then_some(frame).ok_or(FrameError)
    }
}

fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, FrameError> {
    let (value, rest) = postcard::take_from_bytes(body).map_err(|_| FrameError)?;
    rest.is_empty().then_some(value).ok_or(FrameError)
}

/// The listing of some buckets.
pub(crate) fn list(store: &Store, buckets: &[u8]) -> Vec<BucketList> {
    let entry = |r: &Record| Entry {
        kind: r.id.kind,
        key: r.id.key.to_vec(),
        version: r.version.0,
        digest: r.digest,
    };
    let lists = buckets.iter().map(|bucket| BucketList {
        bucket: *bucket,
        entries: store.bucket(usize::from(*bucket)).map(entry).collect(),
    });
    lists.collect()
}

/// What a node that got `list` has to send, and what it wants in return. Where versions cannot tell which record is
/// better (claims have a rank of their own), both go.
pub(crate) fn compare(store: &Store, list: Vec<BucketList>) -> (Vec<Record>, Vec<(u8, Vec<u8>)>) {
    let (mut give, mut want) = (Vec::new(), Vec::new());
    for BucketList { bucket, entries } in list {
        let mut theirs: std::collections::BTreeMap<RecordId, (u64, u64)> = entries
            .into_iter()
            .map(|e| (RecordId { kind: e.kind, key: e.key.into() }, (e.version, e.digest)))
            .filter(|(id, _)| bucket_of(id) == usize::from(bucket))
            .collect();
        for record in store.bucket(usize::from(bucket)) {
            let Some((version, digest)) = theirs.remove(&record.id) else {
                give.push(record.clone());
                continue;
            };
            if digest == record.digest {
                continue;
            }
            let unclear = record.id.kind == crate::key::CLAIM || version == record.version.0;
            if unclear || record.version.0 > version {
                give.push(record.clone());
            }
            if unclear || record.version.0 < version {
                want.push((record.id.kind, record.id.key.to_vec()));
            }
        }
        want.extend(theirs.into_keys().map(|id| (id.kind, id.key.to_vec())));
    }
    (give, want)
}

/// Cuts records into frames of bounded size.
pub(crate) fn batches(records: Vec<Record>) -> Vec<Frame> {
    let (mut frames, mut batch, mut size) = (Vec::new(), Vec::new(), 0);
    for record in records {
        size += record.value.len() + record.id.key.len() + 100;
        batch.push(record);
        if size >= BATCH {
            frames.push(Frame::Records(std::mem::take(&mut batch)));
            size = 0;
        }
    }
    if !batch.is_empty() {
        frames.push(Frame::Records(batch));
    }
    frames
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{model::Name, record::tests::plain};
    use rand::{RngExt, SeedableRng, rngs::StdRng};

    fn samples() -> Vec<Frame> {
        let from = Identity { name: Name::new("n1").unwrap(), addr: ([127, 0, 0, 1], 7946).into(), epoch: 9 };
        let members = vec![Member::alive(from.clone())];
        vec![
            Frame::Hello(Box::new(Hello {
                from: from.clone(),
                to: Some(from.name.clone()),
                members: members.clone(),
                message: vec![1, 2],
                root: 7,
            })),
            Frame::Welcome(Box::new(Welcome {
                from,
                members,
                message: vec![],
                buckets: Some(vec![3; BUCKETS]),
            })),
            Frame::Listing(vec![BucketList {
                bucket: 4,
                entries: vec![Entry { kind: 1, key: vec![1, 2], version: 3, digest: 4 }],
            }]),
            Frame::Want(vec![(1, vec![2, 3])]),
            Frame::Records(vec![plain("k", 1, "n1", false, "v")]),
            Frame::Done,
        ]
    }

    #[test]
    fn frames_survive_the_wire() {
        for frame in samples() {
            assert_eq!(Frame::decode(&frame.encode()), Ok(frame));
        }
    }

    #[test]
    fn limits_hold_and_no_bytes_make_the_decoder_panic() {
        assert_eq!(Frame::decode(&Frame::Want(vec![(1, vec![0; MAX_KEY + 1])]).encode()), Err(FrameError));
        let mut rng = StdRng::seed_from_u64(23);
        let good: Vec<_> = samples().iter().map(Frame::encode).collect();
        for round in 0..20_000 {
            let mut bytes = good[round % good.len()].clone();
            for _ in 0..rng.random_range(0..6) {
                let at = rng.random_range(0..bytes.len());
                bytes[at] = rng.random();
            }
            bytes.truncate(rng.random_range(0..=bytes.len()));
            let _ = Frame::decode(&bytes);
        }
    }

    #[test]
    fn comparing_two_stores_makes_them_equal() {
        for seed in 0..20 {
            let mut rng = StdRng::seed_from_u64(seed);
            let (mut a, mut b) = (Store::default(), Store::default());
            for i in 0..300u64 {
                for store in [&mut a, &mut b] {
                    if rng.random_range(0..3) > 0 {
                        let version = rng.random_range(1..4) << 16;
                        let node = format!("n{}", rng.random_range(0..2));
                        store.merge(plain(&format!("k{i}"), version, &node, false, ""), 0);
                    }
                }
            }
            for bucket in 0..=255 {
                let (give, want) = compare(&b, list(&a, &[bucket]));
                let back: Vec<_> = want
                    .into_iter()
                    .filter_map(|(kind, key)| a.get(&RecordId { kind, key: key.into() }).cloned())
                    .collect();
                give.into_iter().for_each(|r| {
                    a.merge(r, 0);
                });
                back.into_iter().for_each(|r| {
                    b.merge(r, 0);
                });
            }
            assert_eq!(a.root(), b.root(), "seed {seed}");
        }
    }
}
