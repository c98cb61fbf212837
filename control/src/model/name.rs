//! Names: one DNS label each, kept in lower case so that every node compares them alike.

use serde::{Deserialize, Serialize};
use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

/// The namespace of a service that names none.
pub const DEFAULT_NAMESPACE: &str = "default";

/// One label of a DNS name (RFC 1035 section 2.3.1 as relaxed by RFC 1123 section 2.1): 1 to 63 of
/// `a-z 0-9 - _`, beginning and ending with a letter or a digit. Upper case is folded on entry.
///
/// Underscores are allowed inside because Compose service names have them; a leading one is reserved for SRV.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(Arc<str>);

/// The name of a node, unique in its mesh.
pub type NodeName = Name;

/// Why a text is no [`Name`]; the message carries the text and the rule it breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no name: {rule}")]
pub struct NameError {
    text: String,
    rule: &'static str,
}

impl Name {
    /// Checks `text` and folds it to lower case.
    ///
    /// # Errors
    /// [`NameError`] when it is not one DNS label.
    pub fn new(text: &str) -> Result<Self, NameError> {
        let fail = |rule| Err(NameError { text: text.chars().take(80).collect(), rule });
        if text.is_empty() || text.len() > 63 {
            return fail("it must have 1 to 63 characters");
        }
        if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
            return fail("only letters, digits, `-` and `_` are allowed");
        }
        let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
        if !edge(text.bytes().next()) || !edge(text.bytes().last()) {
            return fail("it must begin and end with a letter or a digit");
        }
        Ok(Name(text.to_ascii_lowercase().into()))
    }

    /// The label, in lower case.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl FromStr for Name {
    type Err = NameError;
    fn from_str(s: &str) -> Result<Self, NameError> {
        Name::new(s)
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;
    fn try_from(s: String) -> Result<Self, NameError> {
        Name::new(&s)
    }
}

impl From<Name> for String {
    fn from(n: Name) -> String {
        n.0.as_ref().to_owned()
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// How a service is known: its namespace and its name.
///
/// Written `web` in the default namespace and `web.shop` otherwise, the order DNS has.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct ServiceKey {
    /// The scope: a Compose project or stack, a Kubernetes namespace; `default` when unnamed.
    pub namespace: Name,
    /// The service's name; never `tasks`, which DNS gives a meaning of its own.
    pub name: Name,
}

impl ServiceKey {
    /// A key from its two texts.
    ///
    /// # Errors
    /// [`NameError`] when either is no label or the name is the reserved `tasks`.
    pub fn new(namespace: &str, name: &str) -> Result<Self, NameError> {
        let key = ServiceKey { namespace: Name::new(namespace)?, name: Name::new(name)? };
        if key.name.as_str() == "tasks" {
            return Err(NameError {
                text: name.to_owned(),
                rule: "`tasks` is reserved for the list of endpoints",
            });
        }
        Ok(key)
    }

    /// A key in the default namespace.
    ///
    /// # Errors
    /// As [`ServiceKey::new`].
    pub fn in_default(name: &str) -> Result<Self, NameError> {
        ServiceKey::new(DEFAULT_NAMESPACE, name)
    }

    /// Whether the namespace is `default`, which names leave out.
    #[must_use]
    pub fn is_default_namespace(&self) -> bool {
        self.namespace.as_str() == DEFAULT_NAMESPACE
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_default_namespace() {
            f.pad(self.name.as_str())
        } else {
            f.pad(&format!("{}.{}", self.name, self.namespace))
        }
    }
}

impl FromStr for ServiceKey {
    type Err = NameError;
    fn from_str(s: &str) -> Result<Self, NameError> {
        match s.split_once('.') {
            None => ServiceKey::in_default(s),
            Some((name, namespace)) => ServiceKey::new(namespace, name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_labels_in_lower_case() {
        assert_eq!(Name::new("Web-1").unwrap().as_str(), "web-1");
        assert!(Name::new("my_app").is_ok());
        for bad in ["", "-a", "a-", "_a", "a.b", "ä", "a b", &"x".repeat(64)] {
            assert!(Name::new(bad).is_err(), "{bad:?} must be refused");
        }
    }

    #[test]
    fn keys_read_and_write_in_dns_order() {
        for text in ["web", "web.shop"] {
            assert_eq!(text.parse::<ServiceKey>().unwrap().to_string(), text);
        }
        assert!("tasks".parse::<ServiceKey>().unwrap_err().to_string().contains("reserved"));
    }

    #[test]
    fn a_name_from_the_wire_is_checked() {
        assert!(serde_probe("\u{4}a.b").is_err());
    }

    fn serde_probe(text: &str) -> Result<Name, postcard::Error> {
        postcard::from_bytes(&postcard::to_stdvec(text).unwrap())
    }
}
