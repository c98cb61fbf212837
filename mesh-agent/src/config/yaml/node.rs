//! The tree.

/// A value and the line it stands on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// Line, from 1.
    pub line: u32,
    /// What stands there.
    pub value: Value,
}

/// What a node holds. Scalars stay text: what they mean is decided by who asks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// A scalar; `plain` when it was not quoted, so that `true` and `"true"` differ.
    Scalar {
        /// The text.
        text: String,
        /// Whether it stood without quotes.
        plain: bool,
    },
    /// A sequence.
    List(Vec<Node>),
    /// A mapping, in the order of the file, without duplicate keys, merge keys (`<<`) already merged in.
    Map(Vec<Entry>),
}

/// A key of a mapping.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// The line of the key.
    pub line: u32,
    /// Its value.
    pub value: Node,
}

impl Value {
    /// Whether it is this single value.
    #[must_use]
    pub fn is_text(&self, wanted: &str) -> bool {
        matches!(self, Value::Scalar { text, .. } if text == wanted)
    }

    /// What it is, for messages.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Null => "nothing",
            Value::Scalar { .. } => "a single value",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }
}
