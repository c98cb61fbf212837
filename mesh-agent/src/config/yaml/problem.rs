//! What is wrong with a document.

use std::{fmt, sync::Arc};

/// One thing that is wrong, displayed `mesh.yaml:12: cluster.bind: "x" is no address and port: write IP:PORT`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Problem {
    /// The file, as it was named.
    pub file: Arc<str>,
    /// The line, from 1; 0 when the problem has no place in the text.
    pub line: u32,
    /// The key, as `services.web.ports[1]`; empty for the document itself.
    pub key: String,
    /// The value, the rule it breaks and the fix.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.message)
    }
}

/// Everything that is wrong with a document, in the order of its lines; never empty as an error. Displayed one a line.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    /// One problem without a place in the text, such as a file that cannot be read.
    #[must_use]
    pub fn of_file(file: &str, message: impl Into<String>) -> Self {
        Problems(vec![Problem { file: file.into(), line: 0, key: String::new(), message: message.into() }])
    }

    /// Each as its one line of text.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.0.iter().map(ToString::to_string).collect()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines().join("\n"))
    }
}

impl std::error::Error for Problems {}
