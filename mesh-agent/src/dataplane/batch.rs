//! A batch of operations for planes that bring whole frontends to what they should be. Pure.

use super::plane::{ApplyError, ApplyReport};
use crate::plan::{Entry, Frontend, FrontendKey, Op, Table, apply_ops};
use std::{collections::BTreeSet, io};

/// A batch, sifted.
pub(super) struct Batch<'a> {
    ops: &'a [Op],
    /// Places of the operations that are not refused.
    good: Vec<usize>,
    failed: Vec<(usize, ApplyError)>,
    /// What the plane should hold.
    pub(super) work: Table,
    /// The frontends that may differ from what it holds.
    pub(super) touched: BTreeSet<FrontendKey>,
}

impl<'a> Batch<'a> {
    /// What `ops` make of `held`. The functions say why a frontend, and why one with its backends, cannot be had.
    pub(super) fn new(
        held: &Table,
        ops: &'a [Op],
        unsupported: impl Fn(&Frontend) -> Option<String>,
        too_large: impl Fn(&Entry) -> Option<String>,
    ) -> Batch<'a> {
        let (mut good, mut failed, mut taken) = (Vec::new(), Vec::new(), Vec::new());
        for (index, op) in ops.iter().enumerate() {
            let reason = if let Op::PutFrontend(frontend) = op { unsupported(frontend) } else { None };
            match reason {
                Some(reason) => {
                    failed.push((index, ApplyError::Unsupported { frontend: op.frontend(), reason }));
                }
                None => {
                    good.push(index);
                    taken.push(op.clone());
                }
            }
        }
        let mut work = held.clone();
        for index in apply_ops(&mut work, &taken) {
            failed.push((good[index], ApplyError::NoSuchFrontend(taken[index].frontend())));
        }
        let touched = taken.iter().map(Op::frontend).collect();
        let mut batch = Batch { ops, good, failed, work, touched };
        let large: Vec<(FrontendKey, String)> =
            batch.touched.iter().filter_map(|key| Some((*key, too_large(batch.work.get(key)?)?))).collect();
        for (key, reason) in large {
            batch.touched.remove(&key);
            match held.get(&key) {
                Some(held) => drop(batch.work.insert(key, held.clone())),
                None => drop(batch.work.remove(&key)),
            }
            batch.fail(key, || ApplyError::Unsupported { frontend: key, reason: reason.clone() });
        }
        batch
    }

    /// Every operation on a frontend failed.
    fn fail(&mut self, key: FrontendKey, why: impl Fn() -> ApplyError) {
        let theirs = self.good.iter().filter(|index| self.ops[**index].frontend() == key);
        self.failed.extend(theirs.map(|index| (*index, why())));
    }

    /// What came of it, when the kernel refused these frontends.
    pub(super) fn report(mut self, refused: &[(FrontendKey, io::Error)]) -> ApplyReport {
        for (key, error) in refused {
            self.fail(*key, || {
                let source = io::Error::new(error.kind(), error.to_string());
                ApplyError::System { frontend: *key, action: "program", source }
            });
        }
        let mut failed = self.failed;
        failed.sort_by_key(|(index, _)| *index);
        failed.dedup_by_key(|(index, _)| *index);
        ApplyReport { applied: self.ops.len() - failed.len(), failed }
    }
}
