//! The overlay: every node has a subnet of its own, and packets between them travel in VXLAN over the underlay.
//!
//! [`plan`] says what should be, [`step`] what has to change for it (both pure), [`apply`] looks and does, `task` does
//! so whenever the mesh or the kernel changes. [`tunnel`] seals what goes between nodes, where that is asked for. `docs/overlay.md` has the picture.

pub mod apply;
pub mod attach;
pub mod config;
mod handle;
pub mod host;
pub mod leases;
mod measure;
pub mod plan;
#[cfg(feature = "nftables")]
pub mod returns;
pub mod step;
pub mod sysctls;
mod task;
#[cfg(test)]
mod tests;
pub mod thing;
pub mod tunnel;
pub mod vtep;
mod worker;

pub use attach::{AttachError, AttachRequest, Attachment};
pub use config::{Encryption, OverlayConfig};
pub use handle::{OverlayHandle, OverlayStatus};
pub use plan::{OverlayPlan, Peer};
pub use task::spawn;
