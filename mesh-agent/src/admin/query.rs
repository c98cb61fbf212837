//! A request's query string, read strictly: unknown and repeated parameters are errors.

use super::{error::ApiError, text::decode};
use std::collections::BTreeMap;

/// Parameters by name.
pub(crate) struct Query(BTreeMap<String, String>);

impl Query {
    /// Reads `a=1&b=2`; only names in `known` may occur, each once.
    pub(crate) fn parse(text: &str, known: &[&str]) -> Result<Query, ApiError> {
        let mut map = BTreeMap::new();
        for pair in text.split('&').filter(|p| !p.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (Some(name), Some(value)) = (decode(name, true), decode(value, true)) else {
                return Err(ApiError::field("query", "the query is not percent-encoded UTF-8"));
            };
            if !known.contains(&name.as_str()) {
                let short: String = name.chars().take(60).collect();
                let names = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                return Err(ApiError::field(&short, format!("`{short}` is no parameter here"))
                    .fix(format!("known parameters: {names}")));
            }
            if map.insert(name.clone(), value).is_some() {
                return Err(ApiError::field(&name, format!("`{name}` is given twice")));
            }
        }
        Ok(Query(map))
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|v| !v.is_empty())
    }

    /// A parameter that must be there.
    pub(crate) fn need(&self, name: &str, example: &str) -> Result<&str, ApiError> {
        self.get(name).ok_or_else(|| {
            ApiError::field(name, format!("the parameter `{name}` is missing"))
                .fix(format!("add {name}={example}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_read_strictly() {
        let q = Query::parse("a=1%3A2&b=", &["a", "b"]).unwrap();
        assert_eq!((q.get("a"), q.get("b")), (Some("1:2"), None));
        assert_eq!(q.need("b", "x").unwrap_err().body.field.as_deref(), Some("b"));
        for bad in ["c=1", "a=1&a=2", "a=%f", "=1"] {
            assert!(Query::parse(bad, &["a"]).is_err(), "{bad}");
        }
    }
}
