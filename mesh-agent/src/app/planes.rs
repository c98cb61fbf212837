//! Which data plane this node gets.

use super::parts;
use crate::{
    config::{Config, PlaneChoice},
    dataplane::{AnyDataPlane, PlaneError, userspace::UserspacePlane},
};

/// Starts the one that is configured; `auto` takes the best that works here, and says which and why.
pub(super) fn start(config: &Config) -> Result<AnyDataPlane, PlaneError> {
    match config.data_plane {
        PlaneChoice::Userspace => userspace(config),
        PlaneChoice::Nftables => nftables(config),
        PlaneChoice::Auto => {
            let why = match unsuited(config) {
                Some(why) => why.to_owned(),
                None => match nftables(config) {
                    Ok(plane) => {
                        tracing::info!("data_plane auto: nftables");
                        return Ok(plane);
                    }
                    Err(error) => error.to_string(),
                },
            };
            tracing::info!(why, "data_plane auto: userspace");
            userspace(config)
        }
    }
}

fn userspace(config: &Config) -> Result<AnyDataPlane, PlaneError> {
    UserspacePlane::start(parts::userspace(config)).map(AnyDataPlane::from)
}

/// Why the kernel's planes are not what this configuration means.
fn unsuited(config: &Config) -> Option<&'static str> {
    let loopback = config.vip_cidr.iter().any(|network| network.network().is_loopback());
    loopback.then_some("vip_cidr is of loopback, which no other host can dial")
}

#[cfg(feature = "nftables")]
fn nftables(config: &Config) -> Result<AnyDataPlane, PlaneError> {
    crate::dataplane::nftables::NftablesPlane::start(parts::nftables(config)).map(AnyDataPlane::from)
}

#[cfg(not(feature = "nftables"))]
fn nftables(_: &Config) -> Result<AnyDataPlane, PlaneError> {
    let source = std::io::Error::new(std::io::ErrorKind::Unsupported, "not in this build");
    Err(PlaneError { plane: "nftables", action: "start", source })
}
