//! Arguments of `endpoint`.

use super::duration;
use clap::{Args, Subcommand};
use std::{net::IpAddr, time::Duration};

/// `endpoint …`.
#[derive(Subcommand, Debug)]
pub enum EndpointCommand {
    /// List endpoints, of all services or of one
    #[command(after_help = "Examples:\n  mesh-agent endpoint ls\n  mesh-agent endpoint ls web")]
    Ls {
        /// Only of this service
        service: Option<String>,
    },
    /// Announce an endpoint as this node's
    #[command(
        after_help = "Examples:\n  mesh-agent endpoint add web web-9 192.0.2.9\n  mesh-agent endpoint add web web-9 192.0.2.9 --port 80:8080 --weight 50"
    )]
    Add(AddArgs),
    /// Withdraw an endpoint that was announced through the API
    #[command(after_help = "Example:\n  mesh-agent endpoint rm web web-9")]
    Rm(RemoveEndpointArgs),
    /// Let an endpoint of this node take no new flow; old ones may finish
    #[command(
        after_help = "Examples:\n  mesh-agent endpoint drain web web-1 --deadline 30s --wait\n  mesh-agent endpoint drain web web-1 --undo"
    )]
    Drain(DrainArgs),
}

/// `endpoint add`.
#[derive(Args, Debug)]
pub struct AddArgs {
    /// The service
    pub service: String,
    /// The endpoint's name, unique in the service on this node
    pub name: String,
    /// Where it is reached; one of each family
    #[arg(required = true, num_args = 1..=2, value_name = "ADDRESS")]
    pub addresses: Vec<IpAddr>,
    /// Where it differs from the service's target ports: TARGET:PORT
    #[arg(long = "port", value_name = "TARGET:PORT", value_parser = port_pair)]
    pub ports: Vec<(u16, u16)>,
    /// Share of new flows relative to the others'
    #[arg(long)]
    pub weight: Option<u16>,
}

/// `endpoint rm`.
#[derive(Args, Debug)]
pub struct RemoveEndpointArgs {
    /// The service
    pub service: String,
    /// The endpoint
    pub name: String,
}

/// `endpoint drain`.
#[derive(Args, Debug)]
pub struct DrainArgs {
    /// The service
    pub service: String,
    /// The endpoint
    pub name: String,
    /// After this long old flows are reset; the service's drain time when absent
    #[arg(long, value_name = "TIME", value_parser = duration, conflicts_with = "undo")]
    pub deadline: Option<Duration>,
    /// Let it take new flows again
    #[arg(long, conflicts_with = "wait")]
    pub undo: bool,
    /// Wait until no flow through this node is left, at most this long, and show how many are
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true,
        default_missing_value = "10m", value_parser = duration)]
    pub wait: Option<Duration>,
}

fn port_pair(text: &str) -> Result<(u16, u16), String> {
    let port = |t: &str| t.parse::<u16>().ok().filter(|p| *p > 0);
    text.split_once(':')
        .and_then(|(a, b)| port(a).zip(port(b)))
        .ok_or_else(|| "write TARGET:PORT, as 80:8080".to_owned())
}
