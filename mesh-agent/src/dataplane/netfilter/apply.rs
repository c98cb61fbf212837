//! Applying a batch where the kernel takes a change or refuses it as a whole.

use crate::{
    dataplane::{batch::Batch, plane::ApplyReport},
    plan::{FrontendKey, Table},
};
use std::{collections::BTreeSet, io};

/// A plane that is brought from what it holds to another table.
pub(in crate::dataplane) trait Bring {
    /// Its name in the log.
    const NAME: &'static str;

    /// What it holds.
    fn table(&self) -> &Table;

    /// Brings the kernel to `work`, where it differs in `touched`.
    fn bring(&mut self, work: &Table, touched: &BTreeSet<FrontendKey>) -> io::Result<()>;

    /// Reads what the kernel holds.
    fn read_again(&mut self) -> io::Result<()>;

    /// The kernel refused a single frontend.
    fn refused(&mut self) {}
}

/// Does what a batch asks for.
pub(in crate::dataplane) fn apply<P: Bring>(plane: &mut P, batch: Batch<'_>) -> ApplyReport {
    let refused = match plane.bring(&batch.work, &batch.touched) {
        Ok(()) => Vec::new(),
        Err(error) => {
            tracing::debug!(plane = P::NAME, %error, "a change was refused: again, one frontend at a time");
            one_by_one(plane, &batch.work, &batch.touched)
        }
    };
    batch.report(&refused)
}

/// After the kernel refused a change: reads what it holds, tries again, then each frontend on its own, so that one that
/// the kernel refuses does not stop the others.
fn one_by_one(
    plane: &mut impl Bring,
    work: &Table,
    touched: &BTreeSet<FrontendKey>,
) -> Vec<(FrontendKey, io::Error)> {
    let again = plane.read_again().and_then(|()| plane.bring(work, touched));
    if again.is_ok() {
        return Vec::new();
    }
    let mut refused = Vec::new();
    for key in touched {
        let mut table = plane.table().clone();
        match work.get(key) {
            Some(entry) => drop(table.insert(*key, entry.clone())),
            None => drop(table.remove(key)),
        }
        if let Err(error) = plane.bring(&table, &BTreeSet::from([*key])) {
            refused.push((*key, error));
            plane.refused();
        }
    }
    refused
}
