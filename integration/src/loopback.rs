//! A /16 of the loopback network for one test, so that tests run side by side.

use anyhow::{Context, Result, bail};
use std::{
    fs::{File, OpenOptions},
    path::PathBuf,
};

/// Exclusive use of `127.X.0.0/16` until dropped, across all test processes of this machine.
#[derive(Debug)]
pub struct LoopbackNet {
    x: u8,
    /// Holds the lock; the system frees it when the process ends, however it ends.
    _lock: File,
}

impl LoopbackNet {
    /// Takes a network nobody holds, out of 127.80.0.0/16 to 127.199.0.0/16.
    ///
    /// # Errors
    /// When the lock folder cannot be written or all networks are held.
    pub fn take() -> Result<LoopbackNet> {
        let folder: PathBuf = std::env::temp_dir().join("mesh-agent-test-networks");
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        for x in 80..200u8 {
            let path = folder.join(x.to_string());
            let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&path)?;
            if lock.try_lock().is_ok() {
                return Ok(LoopbackNet { x, _lock: lock });
            }
        }
        bail!("all loopback networks in {} are held by running tests", folder.display())
    }

    /// The network as `--network` and [`mesh_agent::demo::layout::Options`] take it.
    #[must_use]
    pub fn cidr(&self) -> String {
        format!("127.{}.0.0/16", self.x)
    }

    /// The address `127.X.c.d`.
    #[must_use]
    pub fn address(&self, c: u8, d: u8) -> std::net::Ipv4Addr {
        std::net::Ipv4Addr::new(127, self.x, c, d)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_holders_never_share_a_network() {
        let (a, b) = (LoopbackNet::take().unwrap(), LoopbackNet::take().unwrap());
        assert_ne!(a.cidr(), b.cidr());
    }
}
