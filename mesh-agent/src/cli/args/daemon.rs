//! Arguments of what runs here rather than asks an agent.

use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;

/// `run`.
#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    /// The configuration file
    #[arg(long, short, value_name = "FILE", env = "MESH_CONFIG")]
    pub config: PathBuf,
    /// Stop when standard input, a pipe, closes: how `demo` keeps its agents from outliving it
    #[arg(long, hide = true)]
    pub until_stdin_closes: bool,
    /// Logs.
    #[command(flatten)]
    pub log: LogArgs,
}

/// `demo`.
#[derive(Args, Clone, Debug)]
pub struct DemoArgs {
    /// How many nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=9))]
    pub nodes: u8,
    /// The part of the loopback network to use, 127.77.0.0/16 when absent; several demos run side by side in different
    /// ones
    #[arg(long, value_name = "127.X.0.0/16")]
    pub network: Option<ipnetwork::Ipv4Network>,
    /// What moves the packets; nftables has each node in a network namespace of its own and containers on an overlay,
    /// and needs root
    #[arg(long, value_name = "PLANE", default_value = "userspace", conflicts_with = "partition")]
    pub data_plane: DemoPlane,
    /// Split the mesh and let it heal, each node in a network namespace of its own, then end; needs root
    #[arg(long, conflicts_with = "network")]
    pub partition: bool,
    /// Logs.
    #[command(flatten)]
    pub log: LogArgs,
    /// Whether `--json` was given, which is a flag of every command.
    #[arg(skip)]
    pub json: bool,
}

/// Data planes of the demo.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum DemoPlane {
    /// A proxy, which needs no privileges
    Userspace,
    /// Programs of our own in the kernel
    Ebpf,
    /// The kernel's nf_tables
    Nftables,
}

/// `config …`.
#[derive(Subcommand, Debug)]
pub enum ConfigCommand {
    /// Check a configuration file without starting anything
    #[command(
        after_help = "Exits 64 naming file, line, key and fix when it is wrong.\n\nExample:\n  mesh-agent config check /etc/mesh-agent/config.yaml"
    )]
    Check {
        /// The file
        file: PathBuf,
    },
}

/// How the agent logs.
#[derive(Args, Clone, Debug, Default)]
pub struct LogArgs {
    /// Form of the logs on stderr; text on a terminal and logfmt elsewhere when absent
    #[arg(long, value_name = "FORMAT", env = "MESH_LOG_FORMAT")]
    pub log_format: Option<LogFormat>,
    /// What is logged, as `info` or `info,mesh_control=debug`
    #[arg(long, value_name = "FILTER", env = "MESH_LOG")]
    pub log: Option<String>,
}

/// Forms of logs.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFormat {
    /// For people
    Text,
    /// key=value pairs
    Logfmt,
    /// One JSON object a line
    Json,
}
