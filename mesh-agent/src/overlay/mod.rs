//! The overlay: every node has a subnet of its own, and packets between them travel in VXLAN over the underlay.
//!
//! [`plan`] says what should be, [`step`] what has to change for it (both pure), [`apply`] looks and does, [`task`] does
//! so whenever the mesh or the kernel changes. `docs/overlay.md` has the picture.

pub mod apply;
pub mod config;
pub mod plan;
pub mod step;
pub mod sysctls;
pub mod thing;
pub mod vtep;

pub use config::OverlayConfig;
pub use plan::{OverlayPlan, Peer};
