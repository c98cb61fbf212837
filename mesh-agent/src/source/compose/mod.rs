//! Services in Compose-shaped YAML (compose-spec.io), pure: a text becomes services or every problem with file, line,
//! key, value and fix. `docs/services.md` shows what is read.
//!
//! Keys that Compose has and a mesh does not need (image, environment, volumes, …) are accepted, so that one file can
//! serve both; keys that neither knows are errors.

mod clash;
mod declared;
mod document;
mod health;
mod mesh;
mod ports;
mod service;
#[cfg(test)]
mod tests;

pub use clash::clashes;
pub use declared::{Context, Declared, PublishedAt};
pub use document::parse;
