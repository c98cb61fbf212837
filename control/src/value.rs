//! What the values of known records mean, as far as they make sense.
//!
//! A record is stored and passed on whatever its value says, so that all nodes hold equal states also while they run
//! different releases. What enters a snapshot passed the same checks as what this node's own sources say.

use crate::{
    claim::{Claim, ClaimKey, Held},
    key::{self, Key},
    keyring::MAX_KEYS,
    model::{Endpoint, Family, NodeInfo, ServiceSpec, is_unicast},
    record::Record,
    told::Told,
};
use std::collections::BTreeSet;

/// Most endpoints of one service on one node.
pub(crate) const MAX_ENDPOINTS: usize = 4096;
/// Longest version text of a node, in bytes.
pub(crate) const MAX_VERSION: usize = 256;

/// The spec of a `service` record; `None` when it breaks the format or a rule.
pub(crate) fn spec(record: &Record) -> Option<ServiceSpec> {
    postcard::from_bytes(&record.value).ok().filter(|spec: &ServiceSpec| spec.validate().is_ok())
}

/// The endpoints of an `endpoints` record, without those that break a rule or repeat an instance.
pub(crate) fn endpoints(record: &Record) -> Vec<Endpoint> {
    let mut list: Vec<Endpoint> = postcard::from_bytes(&record.value).unwrap_or_default();
    list.truncate(MAX_ENDPOINTS);
    let mut seen = BTreeSet::new();
    list.retain(|e| e.validate().is_ok() && seen.insert(e.instance.clone()));
    list
}

/// What a `node` record says; what makes no sense says nothing.
pub(crate) fn node(record: &Record) -> NodeInfo {
    let info: Option<NodeInfo> = postcard::from_bytes(&record.value).ok();
    info.filter(|i| i.version.len() <= MAX_VERSION && !i.version.chars().any(char::is_control))
        .filter(|i| i.keys.len() <= MAX_KEYS)
        .unwrap_or_default()
}

/// The claim of a `claim` record of this key; `None` when it is of another sort than the key, of no address that a
/// service can have, or of no whole subnet.
pub(crate) fn claim(key: &ClaimKey, record: &Record) -> Option<Claim> {
    Claim::decode(&record.value).filter(|claim| match (key, claim.held) {
        (ClaimKey::Vip { family, .. }, Held::Address(a)) => Family::of(&a) == *family && is_unicast(a),
        (ClaimKey::Port { .. }, Held::Ports { .. }) => true,
        (ClaimKey::Subnet { family, .. }, Held::Subnet(subnet)) => {
            Family::of(&subnet.ip()) == *family && subnet.ip() == subnet.network()
        }
        _ => false,
    })
}

/// Whether the value of a live record of a known kind makes sense; others are not for this release to judge.
pub(crate) fn makes_sense(record: &Record) -> bool {
    if record.deleted {
        return true;
    }
    match record.id.kind {
        key::SERVICE => spec(record).is_some(),
        key::ENDPOINTS => {
            let said: Option<Vec<Endpoint>> = postcard::from_bytes(&record.value).ok();
            said.is_some_and(|list| list.len() == endpoints(record).len())
        }
        key::CLAIM => match Key::of(&record.id) {
            Some(Key::Claim(key)) => claim(&key, record).is_some(),
            _ => false,
        },
        key::KEY => match Key::of(&record.id) {
            Some(Key::Ring(id)) => Told::of(id, record).is_some(),
            _ => false,
        },
        _ => true,
    }
}
