//! What a node leaves for its next run, and how that begins with it. The shell does the same with a file.

use super::core::{Node, NodeConfig};
use crate::{
    api::ControlError,
    hlc::Now,
    keys::Keys,
    state_file::{self, Kept},
};

impl Node {
    /// The bytes of a state file with all that this node holds; see docs/control-plane.md for its form.
    #[must_use]
    pub fn kept(&self, now: Now) -> Vec<u8> {
        state_file::encode(&self.config.name, self.records(), now)
    }

    /// A node that knows nobody yet and holds what an earlier run of it kept, unless that is too old; `keys` as in
    /// [`crate::ControlConfig`].
    ///
    /// # Errors
    /// [`ControlError::Key`] naming the key, [`ControlError::Config`] when `bytes` are no state file of this node.
    pub fn restored(
        config: NodeConfig,
        keys: &[String],
        bytes: &[u8],
        now: Now,
    ) -> Result<Node, ControlError> {
        let records = match state_file::decode(bytes, &config.name, now) {
            Ok(Kept::Records(records)) => records,
            Ok(Kept::TooOld(_)) => Vec::new(),
            Err(e) => return Err(ControlError::Config { field: "state", problem: e.to_string() }),
        };
        Ok(Node::with_records(config, Keys::new(keys)?, records, now)?)
    }
}
