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
use serde::{Serialize, de::DeserializeOwned};
use std::collections::BTreeSet;

/// Most endpoints of one service on one node.
pub(crate) const MAX_ENDPOINTS: usize = 4096;
/// Longest version text of a node, in bytes.
pub(crate) const MAX_VERSION: usize = 256;

/// Most ends of tunnels of one node: one, and another while the key is changed.
pub(crate) const MAX_TUNNELS: usize = 4;

/// How many fields at the end of a spec its writer may not have known, the most first; unset they are one zero byte each.
const LATER_OF_SPEC: [usize; 1] = [2];
/// The same of a node: none of those after the first release, or all but the last.
const LATER_OF_NODE: [usize; 2] = [2, 1];

/// The bytes of a value without its last `unset` fields. Earlier releases pass over later fields, which follow what they
/// know; and while those are not set the bytes are those that they write too, so that a node's new release changes no
/// record.
fn encode(value: &impl Serialize, unset: usize) -> Vec<u8> {
    let mut bytes = postcard::to_stdvec(value).unwrap_or_default();
    bytes.truncate(bytes.len().saturating_sub(unset));
    bytes
}

/// A value of this release or one before; `None` when it breaks the format.
fn decode<T: DeserializeOwned>(bytes: &[u8], later: &[usize]) -> Option<T> {
    let earlier = |missing: &usize| {
        let padded = [bytes, &vec![0; *missing]].concat();
        // Exactly the later fields must be missing: what is cut off elsewhere is damaged.
        match postcard::take_from_bytes(&padded) {
            Ok((value, [])) => Some(value),
            _ => None,
        }
    };
    postcard::from_bytes(bytes).ok().or_else(|| later.iter().find_map(earlier))
}

/// The bytes of a spec.
pub(crate) fn encode_spec(spec: &ServiceSpec) -> Vec<u8> {
    let plain = spec.negative_ttl.is_none() && spec.external_name.is_none();
    encode(spec, if plain { LATER_OF_SPEC[0] } else { 0 })
}

/// The bytes of what a node says of itself.
pub(crate) fn encode_node(info: &NodeInfo) -> Vec<u8> {
    let unset = match info {
        NodeInfo { direct: true, .. } => 0,
        NodeInfo { tunnels, .. } if !tunnels.is_empty() => LATER_OF_NODE[1],
        _ => LATER_OF_NODE[0],
    };
    encode(info, unset)
}

/// The spec of a `service` record; `None` when it breaks the format or a rule.
pub(crate) fn spec(record: &Record) -> Option<ServiceSpec> {
    decode(&record.value, &LATER_OF_SPEC).filter(|spec: &ServiceSpec| spec.validate().is_ok())
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
    let info: Option<NodeInfo> = decode(&record.value, &LATER_OF_NODE);
    info.filter(|i| i.version.len() <= MAX_VERSION && !i.version.chars().any(char::is_control))
        .filter(|i| i.keys.len() <= MAX_KEYS && i.tunnels.len() <= MAX_TUNNELS)
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
        model::{EndpointMode, NodeName, Origin, ServiceKey, Tunnel, TunnelKey},
        record::Writer,
    };
    use std::sync::Arc;

    fn record(key: &Key, value: &[u8]) -> Record {
        let writer = Arc::new(Writer { node: NodeName::new("n1").unwrap(), boot: 1 });
        Record::new(key.id(), Hlc(1), writer, false, value.into())
    }

    fn read(value: &[u8]) -> Option<ServiceSpec> {
        spec(&record(&Key::Service(ServiceKey::in_default("web").unwrap(), Origin::Cluster), value))
    }

    #[test]
    fn nodes_are_read_across_releases() {
        let read = |value: &[u8]| node(&record(&Key::Node(NodeName::new("n1").unwrap()), value));
        let plain = NodeInfo { version: "1".into(), ..NodeInfo::default() };
        let whole = postcard::to_stdvec(&plain).unwrap();
        let earlier = &whole[..whole.len() - LATER_OF_NODE[0]];
        assert_eq!(encode_node(&plain), earlier, "an upgrade changes no bytes");
        assert_eq!((read(earlier), read(&whole)), (plain.clone(), plain.clone()));
        assert_eq!(read(&earlier[..earlier.len() - 1]), NodeInfo::default(), "cut off");
        let tunnel = |n: u16| Tunnel { key: TunnelKey([u8::try_from(n).unwrap(); 32]), port: 7948 + n };
        let sealed = NodeInfo { tunnels: vec![tunnel(0), tunnel(1)], ..plain.clone() };
        let bytes = encode_node(&sealed);
        assert!(bytes.starts_with(earlier), "what earlier releases know comes first");
        assert_eq!(read(&bytes), sealed);
        assert_eq!(bytes.last(), Some(&(sealed.tunnels[1].port >> 7).to_le_bytes()[0]), "no later field");
        let direct = NodeInfo { direct: true, ..sealed.clone() };
        assert!(encode_node(&direct).starts_with(&bytes), "what releases know comes first");
        for info in [NodeInfo { direct: true, ..plain.clone() }, direct] {
            assert_eq!(read(&encode_node(&info)), info);
        }
        let many = NodeInfo { tunnels: (0..5).map(tunnel).collect(), ..plain };
        assert_eq!(read(&encode_node(&many)), NodeInfo::default());
    }

    #[test]
    fn specs_are_read_across_releases() {
        let plain = ServiceSpec { ttl: Some(7), ..ServiceSpec::default() };
        let whole = postcard::to_stdvec(&plain).unwrap();
        let earlier = &whole[..whole.len() - LATER_OF_SPEC[0]];
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
