//! What the mesh is told of this node's ends of the encrypted overlay.

use super::parts;
use crate::{
    config::Config,
    overlay::{OverlayStatus, tunnel},
    source::StateWriter,
};
use mesh_control::model::Tunnel;
use std::sync::Arc;
use tokio::sync::watch;

/// The ends that this node starts with: a node that said nothing of them, be it for a moment, would be sent nothing.
pub(super) fn at_start(config: &Config) -> Vec<Tunnel> {
    let prepared = parts::overlay(config).map_or(Ok(Vec::new()), |overlay| tunnel::apply::prepare(&overlay));
    // The overlay tries again and tells what is wrong.
    prepared
        .inspect_err(|error| tracing::warn!(%error, "the overlay cannot be encrypted yet"))
        .unwrap_or_default()
}

/// Tells the mesh of every change, for as long as the overlay runs.
pub(super) async fn announce(
    mut told: Vec<Tunnel>,
    mut overlay: watch::Receiver<Arc<OverlayStatus>>,
    writer: StateWriter,
) {
    while overlay.changed().await.is_ok() {
        let tunnels = overlay.borrow_and_update().tunnels.clone();
        if let Some(tunnels) = tunnels.filter(|tunnels| *tunnels != told) {
            told.clone_from(&tunnels);
            if let Err(error) = writer.announce_tunnels(tunnels).await {
                tracing::warn!(%error, "the new keys of the overlay are not told yet");
            }
        }
    }
}
