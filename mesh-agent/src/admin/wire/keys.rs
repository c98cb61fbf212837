//! Cluster keys and join tokens. What holds a secret has no `Debug`.

use mesh_control::KeyView;
use serde::{Deserialize, Serialize};

/// `GET /v1/keys`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct KeysJson {
    /// Nodes that are up, this one too.
    pub nodes: usize,
    /// The one that seals first, then what this node's configuration lists, then the others.
    pub keys: Vec<KeyJson>,
    /// Where this node's configuration differs from what the mesh uses.
    pub warnings: Vec<String>,
}

/// A cluster key.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct KeyJson {
    /// Names it and says nothing of it: 16 hex digits.
    pub id: String,
    /// Whether it seals what this node sends.
    pub in_use: bool,
    /// Whether this node's configuration lists it.
    pub in_config: bool,
    /// Whether it was removed and only the configuration still lists it.
    pub removed: bool,
    /// The nodes that are up and hold it.
    pub held_by: Vec<String>,
    /// Those of them that seal with it.
    pub seals_for: Vec<String>,
}

impl From<&KeyView> for KeyJson {
    fn from(key: &KeyView) -> KeyJson {
        let names = |list: &[mesh_control::model::NodeName]| list.iter().map(ToString::to_string).collect();
        KeyJson {
            id: key.id.to_string(),
            in_use: key.in_use,
            in_config: key.in_config,
            removed: key.removed,
            held_by: names(&key.held_by),
            seals_for: names(&key.seals_for),
        }
    }
}

/// Where the configuration differs from the ring, each with what to do.
pub(crate) fn key_warnings(keys: &[KeyView]) -> Vec<String> {
    let warning = |key: &KeyView| match (key.in_use, key.in_config, key.removed) {
        (_, _, true) => Some(format!("cluster.keys lists key {}, which is removed: take it out", key.id)),
        (true, false, _) => Some(format!(
            "cluster.keys lacks key {}, which is in use: put it first, or a restart may not find back into the mesh",
            key.id
        )),
        _ => None,
    };
    keys.iter().filter_map(warning).collect()
}

/// `POST /v1/keys`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddKey {
    /// Base64 of 32 bytes.
    pub key: String,
}

/// The answer to it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct KeyAdded {
    /// The key's id.
    pub id: String,
    /// What was done, in words.
    pub done: String,
}

/// `POST /v1/keys/{id}/use`; the body may be absent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UseKey {
    /// Also while a node that is up lacks it.
    pub force: bool,
}

/// `POST /v1/tokens`; the body may be absent.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CreateToken {
    /// `host:port` of nodes to join; absent takes this node and up to two others that are up.
    pub seeds: Vec<String>,
    /// How long it is good for; a day when absent.
    pub expires_seconds: Option<u64>,
}

/// The answer to it. It holds the cluster key.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TokenJson {
    /// The token.
    pub token: String,
    /// When it ends.
    pub expires: u64,
    /// Its seeds.
    pub seeds: Vec<String>,
}
