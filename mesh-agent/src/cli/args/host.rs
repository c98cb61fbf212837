//! Arguments of what is about this host.

use clap::Args;
use std::path::PathBuf;

/// `doctor`.
#[derive(Args, Clone, Debug)]
pub struct DoctorArgs {
    /// The configuration to look at the host for; without it, what every agent needs
    #[arg(long, short, value_name = "FILE", env = "MESH_CONFIG")]
    pub config: Option<PathBuf>,
}

/// `cleanup`.
#[derive(Args, Clone, Debug)]
pub struct CleanupArgs {
    /// The configuration of the agent that ran here, where it names the overlay's links otherwise than usual
    #[arg(long, short, value_name = "FILE", env = "MESH_CONFIG")]
    pub config: Option<PathBuf>,
    /// Only say what would be removed
    #[arg(long)]
    pub dry_run: bool,
    /// Even while an agent runs, which makes anew what it misses
    #[arg(long)]
    pub force: bool,
}
