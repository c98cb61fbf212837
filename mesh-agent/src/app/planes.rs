//! Which data plane this node gets.

use super::parts;
use crate::{
    config::{Config, PlaneChoice},
    dataplane::{AnyDataPlane, PlaneError, userspace::UserspacePlane},
};
use mesh_control::model::Snapshot;
use std::sync::Arc;
use tokio::sync::watch;

type Snapshots = watch::Receiver<Arc<Snapshot>>;

/// How a plane is started.
type Start = fn(&Config, &Snapshots) -> Result<AnyDataPlane, PlaneError>;

/// The planes of the kernel, the best first.
const KERNEL: [(&str, Start); 3] =
    [("ebpf", ebpf), ("nftables", |config, _| nftables(config)), ("ipvs", |config, _| ipvs(config))];

/// Starts the one that is configured; `auto` takes the best that works here, and says which and why not the others.
pub(super) fn start(config: &Config, snapshots: &Snapshots) -> Result<AnyDataPlane, PlaneError> {
    match config.data_plane {
        PlaneChoice::Userspace => userspace(config),
        PlaneChoice::Ebpf => ebpf(config, snapshots),
        PlaneChoice::Nftables => nftables(config),
        PlaneChoice::Ipvs => ipvs(config),
        PlaneChoice::Auto => auto(config, snapshots),
    }
}

fn auto(config: &Config, snapshots: &Snapshots) -> Result<AnyDataPlane, PlaneError> {
    let mut why: Vec<String> = unsuited(config).map(str::to_owned).into_iter().collect();
    let candidates = if why.is_empty() { &KERNEL[..] } else { &[] };
    for (name, start) in candidates {
        match start(config, snapshots) {
            Ok(plane) if why.is_empty() => {
                tracing::info!("data_plane auto: {name}");
                return Ok(plane);
            }
            Ok(plane) => {
                tracing::info!(why = why.join("; "), "data_plane auto: {name}");
                return Ok(plane);
            }
            Err(error) => why.push(error.to_string()),
        }
    }
    tracing::info!(why = why.join("; "), "data_plane auto: userspace");
    userspace(config)
}

fn userspace(config: &Config) -> Result<AnyDataPlane, PlaneError> {
    UserspacePlane::start(parts::userspace(config)).map(AnyDataPlane::from)
}

/// Why the kernel's planes are not what this configuration means.
fn unsuited(config: &Config) -> Option<&'static str> {
    let loopback = config.vip_cidr.iter().any(|network| network.network().is_loopback());
    loopback.then_some("vip_cidr is of loopback, which no other host can dial")
}

#[cfg(feature = "ebpf")]
fn ebpf(config: &Config, snapshots: &Snapshots) -> Result<AnyDataPlane, PlaneError> {
    crate::dataplane::ebpf::EbpfPlane::start(parts::ebpf(config, snapshots.clone())).map(AnyDataPlane::from)
}

#[cfg(not(feature = "ebpf"))]
fn ebpf(_: &Config, _: &Snapshots) -> Result<AnyDataPlane, PlaneError> {
    Err(absent("ebpf"))
}

#[cfg(feature = "nftables")]
fn nftables(config: &Config) -> Result<AnyDataPlane, PlaneError> {
    crate::dataplane::nftables::NftablesPlane::start(parts::netfilter(config)).map(AnyDataPlane::from)
}

#[cfg(feature = "nftables")]
fn ipvs(config: &Config) -> Result<AnyDataPlane, PlaneError> {
    let direct = parts::routed(config);
    crate::dataplane::ipvs::IpvsPlane::start(parts::netfilter(config), direct).map(AnyDataPlane::from)
}

#[cfg(not(feature = "nftables"))]
fn nftables(_: &Config) -> Result<AnyDataPlane, PlaneError> {
    Err(absent("nftables"))
}

#[cfg(not(feature = "nftables"))]
fn ipvs(_: &Config) -> Result<AnyDataPlane, PlaneError> {
    Err(absent("ipvs"))
}

#[cfg(not(all(feature = "ebpf", feature = "nftables")))]
fn absent(plane: &'static str) -> PlaneError {
    let source = std::io::Error::new(std::io::ErrorKind::Unsupported, "not in this build");
    PlaneError { plane, action: "start", source }
}
