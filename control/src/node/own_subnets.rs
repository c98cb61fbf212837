//! When this node claimed its subnets; [`super::subnets`] claims them.

use crate::model::Family;
use std::collections::BTreeMap;

/// When this run claimed; absent where an earlier run did.
#[derive(Debug, Default)]
pub(super) struct OwnSubnets {
    pub(super) claimed: BTreeMap<Family, u64>,
    pub(super) next_try: BTreeMap<Family, u64>,
}
