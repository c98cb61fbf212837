//! What the keys of known records mean. The kinds are wire constants: never renumber one.

use std::sync::Arc;

use crate::{
    claim::ClaimKey,
    model::{KeyId, NodeName, Origin, ServiceKey},
};

/// What a node says of itself; value [`crate::model::NodeInfo`].
pub(crate) const NODE: u8 = 1;
/// One node's endpoints of one service; value a list of [`crate::model::Endpoint`].
pub(crate) const ENDPOINTS: u8 = 2;
/// A declaration; value [`crate::model::ServiceSpec`].
pub(crate) const SERVICE: u8 = 3;
/// A claim; value [`crate::claim::Claim`].
pub(crate) const CLAIM: u8 = 4;
/// A cluster key; value [`crate::told::Told`].
pub(crate) const KEY: u8 = 5;

/// A record's kind and key.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) struct RecordId {
    /// One of the kinds above, or an unknown one.
    pub(crate) kind: u8,
    /// The encoded key, at most [`crate::record::MAX_KEY`] bytes.
    pub(crate) key: Arc<[u8]>,
}

/// A known record's key.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Key {
    Node(NodeName),
    Endpoints(NodeName, ServiceKey),
    Service(ServiceKey, Origin),
    Claim(ClaimKey),
    Ring(KeyId),
}

impl Key {
    /// The wire form.
    pub(crate) fn id(&self) -> RecordId {
        let (kind, bytes) = match self {
            Key::Node(node) => (NODE, postcard::to_stdvec(node)),
            Key::Endpoints(node, service) => (ENDPOINTS, postcard::to_stdvec(&(node, service))),
            Key::Service(service, origin) => (SERVICE, postcard::to_stdvec(&(service, origin))),
            Key::Claim(claim) => (CLAIM, postcard::to_stdvec(claim)),
            Key::Ring(id) => (KEY, postcard::to_stdvec(id)),
        };
        // Names are short and vectors grow: encoding a key cannot fail.
        RecordId { kind, key: bytes.unwrap_or_default().into() }
    }

    /// The meaning of an id; `None` for unknown kinds and malformed keys.
    pub(crate) fn of(id: &RecordId) -> Option<Key> {
        let key = match id.kind {
            NODE => Key::Node(postcard::from_bytes(&id.key).ok()?),
            ENDPOINTS => {
                let (node, service) = postcard::from_bytes(&id.key).ok()?;
                Key::Endpoints(node, service)
            }
            SERVICE => {
                let (service, origin) = postcard::from_bytes(&id.key).ok()?;
                Key::Service(service, origin)
            }
            CLAIM => Key::Claim(postcard::from_bytes(&id.key).ok()?),
            KEY => Key::Ring(postcard::from_bytes(&id.key).ok()?),
            _ => return None,
        };
        Some(key)
    }

    /// The node that alone may write this record; `None` when anybody may. Others delete it when the node is gone for
    /// good, and a node that is not writes it again.
    pub(crate) fn owner(&self) -> Option<&NodeName> {
        match self {
            Key::Node(node)
            | Key::Endpoints(node, _)
            | Key::Service(_, Origin::Node(node))
            | Key::Claim(ClaimKey::Subnet { node, .. }) => Some(node),
            Key::Service(_, Origin::Cluster) | Key::Claim(_) | Key::Ring(_) => None,
        }
    }

    /// Whether a known key has its one valid form (two forms would be two records) and `writer` may write it, or
    /// delete it (`deleted`).
    pub(crate) fn fits(id: &RecordId, writer: &NodeName, deleted: bool) -> bool {
        if !(NODE..=KEY).contains(&id.kind) {
            return true;
        }
        let Some(key) = Key::of(id) else { return false };
        let named_well = match &key {
            Key::Endpoints(_, service) | Key::Service(service, _) => service.name.as_str() != "tasks",
            _ => true,
        };
        let allowed = deleted || key.owner().is_none_or(|owner| owner == writer);
        named_well && allowed && key.id() == *id
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Family, Name, Protocol};

    #[test]
    fn keys_survive_the_wire_and_have_one_form() {
        let n = Name::new("n1").unwrap();
        let s = ServiceKey::new("shop", "web").unwrap();
        let fixed = crate::claim::Fixed { first: 5353, address: Some([127, 0, 0, 1].into()) };
        for key in [
            Key::Node(n.clone()),
            Key::Endpoints(n.clone(), s.clone()),
            Key::Service(s.clone(), Origin::Node(n.clone())),
            Key::Service(s.clone(), Origin::Cluster),
            Key::Claim(ClaimKey::Vip { service: s.clone(), family: Family::V6 }),
            Key::Claim(ClaimKey::Port { service: s.clone(), protocol: Protocol::Udp, port: 53, fixed: None }),
            Key::Claim(ClaimKey::Port { service: s, protocol: Protocol::Udp, port: 53, fixed: Some(fixed) }),
            Key::Claim(ClaimKey::Subnet { node: n.clone(), family: Family::V4 }),
            Key::Ring(KeyId([7; 8])),
        ] {
            assert_eq!(Key::of(&key.id()).unwrap(), key);
            assert!(Key::fits(&key.id(), &n, false));
        }
        let shouting = RecordId { kind: NODE, key: postcard::to_stdvec("N1").unwrap().into() };
        assert!(!Key::fits(&shouting, &n, false));
        // What is another's may be deleted, which is for nodes that are gone, and not written.
        let n2 = Name::new("n2").unwrap();
        for key in [Key::Claim(ClaimKey::Subnet { node: n2.clone(), family: Family::V4 }), Key::Node(n2)] {
            assert!(!Key::fits(&key.id(), &n, false) && Key::fits(&key.id(), &n, true));
        }
    }
}
