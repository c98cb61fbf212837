//! What is wrong with a declaration or an endpoint.

/// A rule that a declaration or an endpoint breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct SpecError {
    /// The field, as `ports[2]`.
    pub field: String,
    /// The value, the rule and the fix.
    pub problem: String,
}
