//! Forgetting a node that is gone for good: see docs/adr/0008-forget.md.

use super::{core::Node, io::Output};
use crate::{
    api::ControlError,
    hlc::Now,
    key::{CLAIM, Key, NODE, RecordId},
    model::NodeName,
};
use std::sync::Arc;

impl Node {
    /// Deletes all that a node wrote which is down for good: its own record, its endpoints, its declarations and its
    /// subnet claims. Should it come back, it says anew what its sources say.
    ///
    /// # Errors
    /// [`ControlError::Forget`] when it is up or unknown, or this node keeps silent; then nothing was written.
    pub fn forget(&mut self, node: &NodeName, now: Now) -> Result<Vec<Output>, ControlError> {
        if self.gone {
            return Err(ControlError::Stopped);
        }
        let refuse = |problem: String, fix: &str| Err(ControlError::Forget { problem, fix: fix.to_owned() });
        if let Some(why) = self.names.silenced() {
            return refuse(format!("this node keeps silent: {why}"), "ask another node");
        }
        match self.snapshot().nodes.get(node) {
            None => {
                return refuse(
                    format!("there is no node {node}"),
                    "`mesh-agent nodes` lists those there are",
                );
            }
            Some(known) if known.state.is_up() => {
                return refuse(
                    format!("{node} is up"),
                    "stop its agent first: it would only say all that again",
                );
            }
            Some(_) => {}
        }
        let is_its = |id: &RecordId| Key::of(id).is_some_and(|key| key.owner() == Some(node));
        let its = self.store.iter().filter(|record| !record.deleted && is_its(&record.id));
        let its: Vec<_> = its.map(|record| (record.id.clone(), Arc::clone(&record.value))).collect();
        tracing::info!(%node, records = its.len(), "a node is forgotten");
        for (id, value) in its {
            // As when it does so itself: the place to come back to is kept.
            let value = if [NODE, CLAIM].contains(&id.kind) { value } else { Arc::default() };
            self.write(id, true, value, now);
        }
        self.refresh(now);
        self.settle(now);
        Ok(std::mem::take(&mut self.out))
    }
}
