//! Why a demo did not come up.

use std::io;

/// Why the demo did not come up.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// An option is wrong.
    #[error("{0}")]
    Options(String),
    /// Addresses are taken.
    #[error("the demo needs addresses that are taken:\n  {}\nstop what listens there (perhaps another demo), or choose other addresses with --network 127.X.0.0/16", .0.join("\n  "))]
    Taken(Vec<String>),
    /// An agent ended, or the mesh did not become ready.
    #[error("{0}")]
    NotReady(String),
    /// Something did not happen in time.
    #[error("{0}")]
    Story(String),
    /// Network namespaces need privileges.
    #[error("the demo cannot make network namespaces: {0}; run it as root")]
    Privileges(io::Error),
    /// The system refused.
    #[error("{0}: {1}")]
    System(&'static str, io::Error),
}

impl DemoError {
    /// What the kernel says while namespaces are made and linked; `what` could not be done.
    pub(super) fn namespaces(what: &'static str) -> impl FnOnce(io::Error) -> DemoError {
        move |error| match error.kind() {
            io::ErrorKind::PermissionDenied => DemoError::Privileges(error),
            _ => DemoError::System(what, error),
        }
    }
}
