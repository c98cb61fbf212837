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

/// The fields of a spec that came after the first release, all at its end; unset they are one zero byte each.
const LATER_FIELDS: usize = 2;

/// The bytes of a spec. Earlier releases pass over later fields, which follow what they know; and while none is set
/// the bytes are those that they write too, so that a node's new release changes no record.
pub(crate) fn encode_spec(spec: &ServiceSpec) -> Vec<u8> {
    let mut bytes = postcard::to_stdvec(spec).unwrap_or_default();
    if spec.negative_ttl.is_none() && spec.external_name.is_none() {
        bytes.truncate(bytes.len().saturating_sub(LATER_FIELDS));
    }
    bytes
}

/// The spec of a `service` record, of this release or one before; `None` when it breaks the format or a rule.
pub(crate) fn spec(record: &Record) -> Option<ServiceSpec> {
    let earlier = || {
        let padded = [&record.value[..], &[0; LATER_FIELDS]].concat();
        // Exactly the later fields must be missing: what is cut off elsewhere is damaged.
        match postcard::take_from_bytes(&padded) {
            Ok((spec, [])) => Some(spec),
            _ => None,
        }
    };
    let spec = postcard::from_bytes(&record.value).ok().or_else(earlier);
    spec.filter(|spec: &ServiceSpec| spec.validate().is_ok())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        hlc::Hlc,
        model::{EndpointMode, NodeName, Origin, ServiceKey},
        record::Writer,
    };
    use std::sync::Arc;

    fn read(value: &[u8]) -> Option<ServiceSpec> {
        let key = Key::Service(ServiceKey::in_default("web").unwrap(), Origin::Cluster);
        let writer = Arc::new(Writer { node: NodeName::new("n1").unwrap(), boot: 1 });
        spec(&Record::new(key.id(), Hlc(1), writer, false, value.into()))
    }

    #[test]
    fn specs_are_read_across_releases() {
        let plain = ServiceSpec { ttl: Some(7), ..ServiceSpec::default() };
        let whole = postcard::to_stdvec(&plain).unwrap();
        let earlier = &whole[..whole.len() - LATER_FIELDS];
        assert_eq!(encode_spec(&plain), earlier, "an upgrade changes no bytes");
        assert_eq!((read(earlier), read(&whole)), (Some(plain.clone()), Some(plain)));
        assert_eq!(read(&earlier[..earlier.len() - 1]), None, "cut off");
        assert_eq!(read(&whole[..whole.len() - 1]), None, "cut off");
        for (negative_ttl, external_name) in
            [(Some(60), None), (None, Some("db.example.org".to_owned())), (Some(0), Some("a.b.".to_owned()))]
        {
            let mode = EndpointMode::Dnsrr;
            let spec =
                ServiceSpec { endpoint_mode: mode, negative_ttl, external_name, ..ServiceSpec::default() };
            assert_eq!(read(&encode_spec(&spec)), Some(spec));
        }
    }

    #[test]
    fn an_external_name_is_a_domain_name_and_the_service_has_no_vip() {
        let problem = |name: &str, mode| {
            let external_name = Some(name.to_owned());
            let spec = ServiceSpec { endpoint_mode: mode, external_name, ..ServiceSpec::default() };
            spec.validate().err().map(|e| e.to_string())
        };
        for bad in ["", ".", "a..b", "a b", "ä.org", "192.0.2.1", &"x".repeat(64), &"x.".repeat(128)] {
            let problem = problem(bad, EndpointMode::Dnsrr).unwrap();
            assert!(problem.contains("external_name") && problem.contains("is no domain name"), "{problem}");
        }
        assert_eq!(problem("db_1.Example.org.", EndpointMode::Dnsrr), None);
        assert!(problem("db.example.org", EndpointMode::Vip).unwrap().contains("endpoint_mode dnsrr"));
    }
}
