//! Words for values of the model.

use mesh_control::model::Origin;
use serde::Serialize;

/// `cluster`, or `node:NAME`.
pub(crate) fn origin_text(origin: &Origin) -> String {
    match origin {
        Origin::Cluster => "cluster".to_owned(),
        Origin::Node(name) => format!("node:{name}"),
    }
}

/// The word serde writes for a unit variant, as `prefer-local`.
pub(crate) fn word<T: Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}
