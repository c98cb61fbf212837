//! Arguments of `attach` and `detach`.

use clap::Args;
use std::{net::IpAddr, path::PathBuf};

/// `attach`.
#[derive(Args, Debug)]
pub struct AttachArgs {
    /// The namespace: its file, or the number of a process in it
    #[arg(long, value_name = "PATH|PID", value_parser = netns)]
    pub netns: PathBuf,
    /// What the link is called in the namespace
    #[arg(long, value_name = "LINK", default_value = "eth0")]
    pub name: String,
    /// An address of this node's subnet; the next free one when absent
    #[arg(long)]
    pub address: Option<IpAddr>,
}

/// `detach`.
#[derive(Args, Debug)]
pub struct DetachArgs {
    /// The namespace: its file, or the number of a process in it
    #[arg(long, value_name = "PATH|PID", value_parser = netns)]
    pub netns: PathBuf,
    /// What the link is called in the namespace
    #[arg(long, value_name = "LINK", default_value = "eth0")]
    pub name: String,
}

/// The file of a namespace, as another process finds it.
fn netns(text: &str) -> Result<PathBuf, String> {
    if text.parse::<u32>().is_ok() {
        return Ok(PathBuf::from(format!("/proc/{text}/ns/net")));
    }
    std::path::absolute(text)
        .map_err(|e| format!("write a path, as /run/netns/web, or a process number: {e}"))
}
