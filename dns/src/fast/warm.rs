//! Fetching what a batch of queries will need, for all of them at once.
//!
//! Of many names most lie in main memory only, and a query waits for three places there, one after the other. The waits
//! of different queries need not come one after the other: here nothing depends on the one before, so the processor
//! has several under way. The answers are written afterwards, from its cache.

use super::{
    query::{NO_LABELS, Query},
    reply::Context,
};
use std::hint::black_box;

/// Looks for the services that `queries` most probably ask for. Changes nothing but how fast they are found.
pub(crate) fn warm<'q>(context: &Context<'_>, queries: impl Iterator<Item = &'q Query<'q>>) {
    let hashes: Vec<u64> = queries.filter_map(|query| hash(context, query)).collect();
    let touched = hashes.iter().fold(0, |sum, hash| sum ^ context.view.touch(*hash));
    black_box(touched);
}

/// The place of the service that a query asks for, when it does so by `NAME` or `NAME.NAMESPACE`.
fn hash(context: &Context<'_>, query: &Query<'_>) -> Option<u64> {
    let mut labels = NO_LABELS;
    match context.options.zone.place(query.labels(&mut labels))? {
        [name] => Some(context.view.hash(context.scope.default_namespace().as_bytes(), name)),
        [name, namespace] => Some(context.view.hash(namespace, name)),
        _ => None,
    }
}
