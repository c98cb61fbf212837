//! `dns …`.

use clap::{Args, Subcommand};

/// `dns …`.
#[derive(Subcommand, Debug)]
pub enum DnsCommand {
    /// Ask for a name, and say where the answer comes from
    #[command(after_help = EXAMPLES)]
    Query(DnsArgs),
}

const EXAMPLES: &str = "\
Exits 2 when the name does not exist. With --explain nothing is asked of others that the query itself would not ask.

Examples:
  mesh-agent dns query web.cluster
  mesh-agent dns query web.cluster AAAA
  mesh-agent dns query _http._tcp.web.cluster --type SRV
  mesh-agent dns query tasks.web.cluster --explain
  mesh-agent dns query web --listen 172.17.0.1 --explain";

/// `dns query`.
#[derive(Args, Debug)]
pub struct DnsArgs {
    /// The name
    pub name: String,
    /// Record type
    #[arg(value_name = "TYPE", default_value = "A", conflicts_with = "record_type")]
    pub kind: String,
    /// Record type
    #[arg(long = "type", value_name = "TYPE")]
    pub record_type: Option<String>,
    /// Also say which zone, service and endpoints the answer comes from, why others are not in it, and who is asked
    #[arg(long)]
    pub explain: bool,
    /// As a client of this address of dns.listen sees it; otherwise as the host, which sees every namespace
    #[arg(long, value_name = "IP[:PORT]")]
    pub listen: Option<String>,
}
