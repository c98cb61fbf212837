//! What the event log asks of the running parts.

use super::operations::Running;
use crate::events::Observed;

/// One look at everything that may be wrong.
pub(super) fn observe(running: &Running) -> Observed {
    let status = running.reconcile.status();
    let whole = status.plane_error.map(|error| (status.plane.to_owned(), error));
    let single = status.errors.into_iter().map(|e| (e.frontend.to_string(), e.error));
    let sources = running.writer.statuses();
    Observed {
        control: running.control.stats(),
        peers: running.control.peers(),
        plane: whole.into_iter().chain(single).collect(),
        sources: sources.iter().map(|s| (s.id.to_string(), s.errors.clone())).collect(),
    }
}
