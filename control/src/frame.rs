//! What two nodes say to each other over TCP.
//!
//! ```text
//! initiator: Hello(root) ── Members? Listing(buckets) ──── Records* Listing … ── Done
//! responder:       Welcome(members?, bucket hashes?) ── Records* Want ── …
//! or         Who ── IAm
//! ```
//! Lists of members go only when the hashes of who is up differ. What a later release appends to a body, and frames
//! that only it knows, are passed over.
//! One exchange serves membership push/pull, the last try before a suspect is declared down, and anti-entropy.

use crate::key::RecordId;
use crate::{
    member::{Identity, Member},
    membership::MAX_MEMBERS,
    model::NodeName,
    record::{MAX_KEY, Record},
    store::{BUCKETS, Store, bucket_of},
};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Buckets that one listing covers, at most.
pub(crate) const GROUP: usize = 16;
/// Records are cut into frames of about this many bytes.
const BATCH: usize = 64 * 1024;
/// A listing names about this many bytes' worth of entries at most; far below [`crate::session::MAX_FRAME`].
const LISTING: usize = 768 * 1024;
/// Bytes of records that one listing or want is answered with, about; the rest waits for the next exchange. Whoever
/// asks for one record a million times gets no more either.
pub(crate) const ANSWER: usize = 12 * 1024 * 1024;

/// The opening of an exchange.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) from: Identity,
    /// Whom the sender means to reach; absent when it knows only an address.
    pub(crate) to: Option<NodeName>,
    /// The sender and, if it suspects the receiver, that.
    pub(crate) members: Vec<Member>,
    /// A message for the failure detector, or nothing.
    pub(crate) message: Vec<u8>,
    pub(crate) root: u64,
    /// Hash of who is up.
    pub(crate) known: u64,
    /// The sender's wall clock, Unix milliseconds.
    pub(crate) wall: u64,
}

/// Its answer.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Welcome {
    pub(crate) from: Identity,
    /// The members, the sender first; none if both know the same ones to be up.
    pub(crate) members: Vec<Member>,
    pub(crate) message: Vec<u8>,
    /// The hash of each bucket, unless the roots are equal.
    pub(crate) buckets: Option<Vec<u64>>,
    /// The sender's wall clock, Unix milliseconds.
    pub(crate) wall: u64,
}

/// Who answers at an address, and what it knows of a name.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct IAm {
    pub(crate) from: Identity,
    /// A number of this process, unlike every other's.
    pub(crate) run: u64,
    /// It keeps silent itself.
    pub(crate) silent: bool,
    /// Another run of the asker's name that it believes to be up.
    pub(crate) namesake: Option<Identity>,
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
    /// The members that the initiator knows, when the hashes differed.
    Members(Vec<Member>),
    /// Asks who is there; says which run asks and its process's number, and announces nothing.
    Who(Identity, u64),
    IAm(Box<IAm>),
    /// Of a later release.
    Unknown,
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
            Frame::Members(members) => (7, postcard::to_stdvec(members)),
            Frame::Who(id, run) => (8, postcard::to_stdvec(&(id, run))),
            Frame::IAm(answer) => (9, postcard::to_stdvec(answer)),
            Frame::Unknown => (u8::MAX, Ok(Vec::new())),
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
            6 => Frame::Done,
            7 => Frame::Members(read(body)?),
            8 => {
                let (id, run) = read(body)?;
                Frame::Who(id, run)
            }
            9 => Frame::IAm(Box::new(read(body)?)),
            0 => return Err(FrameError),
            _ => Frame::Unknown,
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
            Frame::Members(members) => members.len() <= MAX_MEMBERS,
            _ => true,
        };
        fits.then_some(frame).ok_or(FrameError)
    }
}

fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, FrameError> {
    postcard::take_from_bytes(body).map(|(value, _)| value).map_err(|_| FrameError)
}

/// Takes up to `most` buckets off `todo`, as many as one frame holds, and lists them. Of a bucket that is too large by
/// itself not all is listed; what is not comes back in vain, and does no harm.
pub(crate) fn list(store: &Store, todo: &mut VecDeque<u8>, most: usize) -> Vec<BucketList> {
    let (mut lists, mut size) = (Vec::new(), 0);
    while lists.len() < most.min(GROUP)
        && (lists.is_empty() || size < LISTING)
        && let Some(bucket) = todo.pop_front()
    {
        let mut entries = Vec::new();
        for r in store.bucket(usize::from(bucket)) {
            size += r.id.key.len() + 24;
            if size > 2 * LISTING {
                break;
            }
            let (kind, key) = (r.id.kind, r.id.key.to_vec());
            entries.push(Entry { kind, key, version: r.version.0, digest: r.digest });
        }
        lists.push(BucketList { bucket, entries });
    }
    lists
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

/// Cuts records into frames of bounded size, [`ANSWER`] bytes in all; claims first, because what is claimed is what a
/// node must know before it claims.
pub(crate) fn batches(mut records: Vec<Record>) -> Vec<Frame> {
    records.sort_by_key(|record| record.id.kind != crate::key::CLAIM);
    let (mut frames, mut batch, mut size, mut total) = (Vec::new(), Vec::new(), 0, 0);
    for record in records {
        total += record.value.len() + record.id.key.len() + 100;
        if total > ANSWER {
            break;
        }
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
                known: 8,
                wall: 9,
            })),
            Frame::Welcome(Box::new(Welcome {
                from: from.clone(),
                members: members.clone(),
                message: vec![],
                buckets: Some(vec![3; BUCKETS]),
                wall: 9,
            })),
            Frame::Members(members),
            Frame::Who(from.clone(), 5),
            Frame::IAm(Box::new(IAm { from: from.clone(), run: 1, silent: false, namesake: Some(from) })),
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
    fn what_a_later_release_appends_or_invents_is_passed_over() {
        for frame in samples().into_iter().filter(|frame| !matches!(frame, Frame::Records(_))) {
            assert_eq!(Frame::decode(&[frame.encode(), vec![1, 2, 3]].concat()), Ok(frame));
        }
        assert_eq!(Frame::decode(&[77, 1, 2]), Ok(Frame::Unknown));
    }

    #[test]
    fn limits_hold() {
        assert_eq!(Frame::decode(&Frame::Want(vec![(1, vec![0; MAX_KEY + 1])]).encode()), Err(FrameError));
    }

    /// 16 buckets of many records fit no frame, and a peer may want one large record again and again.
    #[test]
    fn listings_and_answers_stay_within_a_frame_and_an_exchange() {
        let mut store = Store::default();
        for i in 0..6_000u64 {
            store.merge(plain(&format!("{i:0>500}"), 1 << 16, "n1", false, ""), 0);
        }
        let (mut todo, mut listed): (VecDeque<u8>, usize) = ((0..=255).collect(), 0);
        while !todo.is_empty() {
            let lists = list(&store, &mut todo, GROUP);
            listed += lists.iter().map(|l| l.entries.len()).sum::<usize>();
            assert!(Frame::Listing(lists).encode().len() < crate::session::MAX_FRAME / 2);
        }
        assert_eq!(listed, 6_000);
        let large = plain("k", 1 << 16, "n1", false, &"v".repeat(100_000));
        let mut claim = plain("c", 1 << 16, "n1", false, "");
        claim.id.kind = crate::key::CLAIM;
        let mut wanted = vec![large; 10_000];
        wanted.push(claim.clone());
        let frames = batches(wanted);
        let total: usize = frames.iter().map(|f| f.encode().len()).sum();
        assert!(total < ANSWER + crate::session::MAX_FRAME, "{total}");
        assert!(matches!(&frames[0], Frame::Records(r) if r[0] == claim), "claims go first");
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
                let (give, want) = compare(&b, list(&a, &mut [bucket].into(), 1));
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
