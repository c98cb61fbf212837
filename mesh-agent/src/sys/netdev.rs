//! What devices do with frames that are no packets yet (generic netlink `netdev`, uapi `linux/netdev.h`; Linux 6.3).

use super::{genl::Family, nfnetlink::DUMP};
use std::{collections::BTreeMap, fmt, io};

/// `NETDEV_CMD_DEV_GET`
const GET: u8 = 1;
// `NETDEV_A_DEV_*`
const INDEX: u16 = 1;
const FEATURES: u16 = 3;

/// `NETDEV_XDP_ACT_*`: what a device's driver can.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Features(u64);

impl Features {
    /// It runs programs, which drop frames, pass them on or send them back, or to another device.
    #[must_use]
    pub fn runs(self) -> bool {
        // BASIC and REDIRECT.
        self.0 & 3 == 3
    }

    /// It takes frames that came by other devices (NDO_XMIT).
    #[must_use]
    pub fn takes(self) -> bool {
        self.0 & 4 != 0
    }
}

/// Asks for the devices of one network namespace.
pub struct Netdev(Family);

impl fmt::Debug for Netdev {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Netdev")
    }
}

impl Netdev {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// What the kernel says: `ENOENT` before Linux 6.3.
    pub fn open() -> io::Result<Netdev> {
        Family::open("netdev", 1).map(Netdev)
    }

    /// What each device can, by its index.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn features(&mut self) -> io::Result<BTreeMap<u32, Features>> {
        let mut all = BTreeMap::new();
        self.0.ask(self.0.id.request(GET, DUMP), |attributes| {
            let (mut index, mut features) = (None, Features::default());
            for (kind, value) in attributes {
                match kind {
                    INDEX => index = value.bytes().map(u32::from_ne_bytes),
                    FEATURES => features = Features(value.bytes().map_or(0, u64::from_ne_bytes)),
                    _ => {}
                }
            }
            all.extend(index.map(|index| (index, features)));
        })?;
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{netns::Netns, rtnl::Rtnl};

    #[test]
    fn devices_are_told_with_what_they_can() {
        let netns = match Netns::new() {
            Ok(netns) => netns,
            Err(error) => {
                assert!(std::env::var_os("CI").is_none(), "CI skips nothing: {error}");
                eprintln!("SKIPPED: needs root: {error}");
                return;
            }
        };
        let (links, netdev) = netns.run(|| (Rtnl::open().unwrap().links().unwrap(), Netdev::open())).unwrap();
        let mut netdev = match netdev {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return eprintln!("SKIPPED: this kernel has no family netdev (Linux 6.3)");
            }
            netdev => netdev.unwrap(),
        };
        let (loopback, told) = (links[0].index, netdev.features().unwrap());
        // The loopback device's driver runs nothing.
        assert_eq!(told.get(&loopback), Some(&Features(0)));
        assert!(!Features(1).runs() && Features(3).runs() && !Features(3).takes() && Features(7).takes());
    }
}
