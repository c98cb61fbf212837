//! Arguments of `service`.

use clap::{Args, Subcommand};
use std::{path::PathBuf, str::FromStr};

/// `service …`.
#[derive(Subcommand, Debug)]
pub enum ServiceCommand {
    /// List the services
    #[command(after_help = "Example:\n  mesh-agent service ls")]
    Ls,
    /// Show one service with its endpoints
    #[command(after_help = "Example:\n  mesh-agent service inspect web.shop")]
    Inspect {
        /// `web`, or `web.shop` outside the default namespace
        name: String,
    },
    /// Declare the services of a Compose-shaped file, all or none
    #[command(
        after_help = "Examples:\n  mesh-agent service apply -f shop.yaml\n  mesh-agent service apply -f - --dry-run < shop.yaml"
    )]
    Apply(ApplyArgs),
    /// Withdraw a service that was declared through the API
    #[command(after_help = "Example:\n  mesh-agent service rm web")]
    Rm {
        /// `web`, or `web.shop` outside the default namespace
        name: String,
    },
    /// Open a port of a service on nodes
    #[command(
        after_help = "Examples:\n  mesh-agent service publish web 8080:80\n  mesh-agent service publish dns 5353:53/udp --mode host\n  mesh-agent service publish web auto:80"
    )]
    Publish(PublishArgs),
    /// Close a published port
    #[command(
        after_help = "Examples:\n  mesh-agent service unpublish web 8080\n  mesh-agent service unpublish dns 5353/udp"
    )]
    Unpublish(UnpublishArgs),
}

/// `service apply`.
#[derive(Args, Debug)]
pub struct ApplyArgs {
    /// The file; `-` reads stdin
    #[arg(long, short, value_name = "FILE")]
    pub file: PathBuf,
    /// Check only, change nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// `service publish`.
#[derive(Args, Debug)]
pub struct PublishArgs {
    /// The service
    pub name: String,
    /// The nodes' port (or `auto`), the service's port when it has several, `/udp` for UDP
    #[arg(value_name = "PORT[:TARGET][/udp]")]
    pub port: Published,
    /// On which nodes: every one, or only those that run an endpoint
    #[arg(long, default_value = "ingress", value_parser = ["ingress", "host"])]
    pub mode: String,
}

/// `service unpublish`.
#[derive(Args, Debug)]
pub struct UnpublishArgs {
    /// The service
    pub name: String,
    /// The nodes' port, `/udp` for UDP
    #[arg(value_name = "PORT[/udp]")]
    pub port: Published,
}

/// `PORT[:TARGET][/udp]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Published {
    /// The nodes' port or range; absent for `auto`.
    pub published: Option<String>,
    /// The service's port.
    pub target: Option<u16>,
    /// `tcp` or `udp`.
    pub protocol: String,
}

impl FromStr for Published {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        if protocol != "tcp" && protocol != "udp" {
            return Err(format!("`{protocol}` is no protocol: write 8080:80/udp"));
        }
        let (published, target) = match ports.split_once(':') {
            Some((published, target)) => (published, Some(target)),
            None => (ports, None),
        };
        let wrong = || "write 8080, 8080:80, 6000-6010, auto:80 or 5353:53/udp".to_owned();
        let target =
            target.map(|t| t.parse::<u16>().ok().filter(|t| *t > 0).ok_or_else(wrong)).transpose()?;
        let range = || published.parse::<mesh_control::model::PortRange>().map_err(|e| e.to_string());
        let published = if published == "auto" { None } else { Some(range()?.to_string()) };
        Ok(Published { published, target, protocol: protocol.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_as_compose_writes_them() {
        let read = |t: &str| t.parse::<Published>().map(|p| (p.published, p.target, p.protocol));
        let some = |p: &str| Some(p.to_owned());
        assert_eq!(read("8080").unwrap(), (some("8080"), None, "tcp".into()));
        assert_eq!(read("8080:80/udp").unwrap(), (some("8080"), Some(80), "udp".into()));
        assert_eq!(read("auto:80").unwrap(), (None, Some(80), "tcp".into()));
        assert_eq!(read("6000-6010").unwrap().0, some("6000-6010"));
        for bad in ["", "0", "80/sctp", "80:", "80:0", "80:x", "x:80", "70000"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
