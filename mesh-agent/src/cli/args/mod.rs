//! The arguments, as clap reads them.

mod attach;
mod daemon;
mod dns;
mod endpoint;
mod events;
mod host;
mod key;
mod service;

pub use attach::{AttachArgs, DetachArgs};
pub use daemon::{ConfigCommand, DemoArgs, DemoPlane, LogArgs, LogFormat, RunArgs};
pub use dns::{DnsArgs, DnsCommand};
pub use endpoint::{AddArgs, DrainArgs, EndpointCommand, RemoveEndpointArgs};
pub use events::{EventsArgs, From};
pub use host::{CleanupArgs, DoctorArgs};
pub use key::{AddKeyArgs, CreateTokenArgs, JoinArgs, KeyArgs, KeyCommand, TokenCommand};
pub use service::{ApplyArgs, PublishArgs, Published, ServiceCommand, UnpublishArgs};

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

/// A routing mesh for Linux hosts: one agent per node answers service names, gives every service a virtual IP and
/// balances connections over the mesh.
#[derive(Parser, Debug)]
#[command(name = "mesh-agent", version, max_term_width = 100, after_help = EXIT_CODES,
    subcommand_required = true, arg_required_else_help = false, disable_help_subcommand = true)]
pub struct Cli {
    /// What every command takes.
    #[command(flatten)]
    pub global: Global,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "\
Exit codes:
   0  done
   1  the agent refused or failed; `status`: not ready; `doctor`: a check failed
   2  not found: no such service, endpoint, node, name or frontend
   3  an agent runs here: `cleanup` would pull the ground from under it
  64  wrong usage or configuration
  65  the input was refused, as a malformed service file
  66  an input file cannot be read
  69  no agent answers, or the data plane asked for cannot be had here
  75  timed out, or a part of the agent is not there yet: try again
  77  not allowed: token missing or wrong";

/// What every command takes.
#[derive(Args, Clone, Debug)]
pub struct Global {
    /// Where the agent's admin API is: unix:/PATH or http://HOST:PORT
    #[arg(long, global = true, env = "MESH_ADMIN", default_value = "unix:/run/mesh-agent/admin.sock")]
    pub admin: String,
    /// File with the API's bearer token
    #[arg(long, global = true, env = "MESH_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// JSON on stdout, for programs
    #[arg(long, global = true)]
    pub json: bool,
}

/// The commands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run the agent of this node
    #[command(after_help = "Example:\n  mesh-agent run --config /etc/mesh-agent/config.yaml")]
    Run(RunArgs),
    /// Bring up a mesh of several nodes on this machine, without privileges unless asked for more
    #[command(
        after_help = "Examples:\n  mesh-agent demo\n  mesh-agent demo --nodes 5 --json\n  sudo mesh-agent demo --partition\n  sudo mesh-agent demo --data-plane nftables"
    )]
    Demo(DemoArgs),
    /// Work with configuration files
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Cluster keys: make, list, and rotate them while the mesh runs
    #[command(subcommand)]
    Key(KeyCommand),
    /// Join tokens: let a new node in with one line of text
    #[command(subcommand)]
    Token(TokenCommand),
    /// Show how the agent stands
    #[command(
        after_help = "Exits 1 while the agent is not ready.\n\nExamples:\n  mesh-agent status\n  mesh-agent status --wait=30s\n  mesh-agent status --json | jq .endpoints"
    )]
    Status(StatusArgs),
    /// Services: list, inspect, apply, remove, publish
    #[command(subcommand)]
    Service(ServiceCommand),
    /// Endpoints: list, add, remove, drain
    #[command(subcommand)]
    Endpoint(EndpointCommand),
    /// Show the nodes of the mesh, drain this one, or forget one that is gone
    #[command(
        after_help = "Examples:\n  mesh-agent nodes\n  mesh-agent nodes drain n1\n  mesh-agent nodes undrain n1\n  mesh-agent nodes forget n3"
    )]
    Nodes(NodesArgs),
    /// Show what happened on this node, or watch what happens
    #[command(
        after_help = "Without --since, all that is kept (the last 1,024 events); with --follow, only what comes.\n\nExamples:\n  mesh-agent events\n  mesh-agent events --since=10m\n  mesh-agent events --follow --json | jq 'select(.trouble)'"
    )]
    Events(EventsArgs),
    /// Ask this node's DNS server
    #[command(subcommand)]
    Dns(DnsCommand),
    /// Explain where a new connection would go, and which objects say so
    #[command(
        after_help = "Exits 2 when nothing listens there.\n\nExamples:\n  mesh-agent why 10.96.0.7:80\n  mesh-agent why 192.0.2.1:5353 --protocol udp --from 192.0.2.99"
    )]
    Why(WhyArgs),
    /// Show what the data plane still has to change
    #[command(after_help = "Example:\n  mesh-agent plan")]
    Plan,
    /// Put a network namespace on the overlay's bridge, with an address of this node's subnet
    #[command(
        after_help = "One that is there already stays as it is.\n\nExamples:\n  mesh-agent attach --netns /run/netns/web\n  mesh-agent attach --netns 4711 --name eth1 --address 10.128.7.9"
    )]
    Attach(AttachArgs),
    /// Take a network namespace off the overlay's bridge
    #[command(
        after_help = "One that is gone, or was never there, is no error.\n\nExample:\n  mesh-agent detach --netns /run/netns/web"
    )]
    Detach(DetachArgs),
    /// List the network namespaces on the overlay's bridge
    #[command(after_help = "Example:\n  mesh-agent attachments")]
    Attachments,
    /// Look at this host for what would keep an agent from its work, each with the fix; changes nothing
    #[command(
        after_help = "Exits 1 when a check failed.\n\nExamples:\n  sudo mesh-agent doctor --config /etc/mesh-agent/config.yaml\n  mesh-agent doctor --json | jq '.findings[] | select(.level != \"ok\")'"
    )]
    Doctor(DoctorArgs),
    /// Remove from this network namespace's kernel what an agent made there, and nothing else
    #[command(
        after_help = "Exits 3 while an agent runs.\n\nExamples:\n  sudo mesh-agent cleanup --dry-run\n  sudo mesh-agent cleanup"
    )]
    Cleanup(CleanupArgs),
    /// Print a completion script
    #[command(after_help = "Example:\n  mesh-agent completion bash > /etc/bash_completion.d/mesh-agent")]
    Completion {
        /// For which shell
        shell: Shell,
    },
    /// Print the version
    #[command(after_help = "Example:\n  mesh-agent version --json")]
    Version,
}

/// `status`.
#[derive(Args, Debug)]
pub struct StatusArgs {
    /// Wait until the agent is ready, at most this long
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true,
        default_missing_value = "60s", value_parser = duration)]
    pub wait: Option<Duration>,
}

/// `nodes`.
#[derive(Args, Debug)]
pub struct NodesArgs {
    /// What to do; a list when absent.
    #[command(subcommand)]
    pub command: Option<NodesCommand>,
}

/// `nodes …`.
#[derive(Subcommand, Debug)]
pub enum NodesCommand {
    /// List the nodes
    #[command(after_help = "Example:\n  mesh-agent nodes ls")]
    Ls,
    /// Let this node's endpoints take no new flow
    #[command(after_help = "Example:\n  mesh-agent nodes drain n1")]
    Drain {
        /// The node whose agent is asked
        node: String,
    },
    /// Forget a node that is down for good: its subnet, its declarations and what it said of itself
    #[command(
        after_help = "Refused while the node is up. One that comes back after all says anew what it has.\n\nExample:\n  mesh-agent nodes forget n3"
    )]
    Forget {
        /// The node that is gone
        node: String,
    },
    /// Take a drain back
    #[command(after_help = "Example:\n  mesh-agent nodes undrain n1")]
    Undrain {
        /// The node whose agent is asked
        node: String,
    },
}

/// `why`.
#[derive(Args, Debug)]
pub struct WhyArgs {
    /// What the client dials
    #[arg(value_name = "IP:PORT")]
    pub destination: SocketAddr,
    /// tcp or udp
    #[arg(long, default_value = "tcp", value_parser = ["tcp", "udp"])]
    pub protocol: String,
    /// The client's address; affinity and hashing depend on it
    #[arg(long, value_name = "IP")]
    pub from: Option<IpAddr>,
}

/// Shells with a completion script.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shell {
    /// GNU bash
    Bash,
    /// zsh
    Zsh,
    /// fish
    Fish,
}

/// A duration, as `30s`, `2m` or a plain number of seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let parsed = text.parse::<u32>().map(|s| Duration::from_secs(u64::from(s)));
    let parsed = parsed.or_else(|_| humantime::parse_duration(text));
    match parsed {
        Ok(d) if d <= Duration::from_secs(86_400) => Ok(d),
        Ok(_) => Err("at most 24h".to_owned()),
        Err(_) => Err("write 30s, 2m or 500ms".to_owned()),
    }
}
