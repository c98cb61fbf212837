//! WireGuard devices (uapi `linux/wireguard.h`): keys, ports and peers. The links themselves are made through
//! [`super::rtnl`].
//!
//! The private key is the kernel's: this program makes one, hands it over and keeps nothing. The kernel tells the public
//! key that belongs to it.

mod message;
#[cfg(test)]
mod tests;

use super::{
    genl::Family,
    nfnetlink::{ACK, DUMP},
};
use ipnetwork::IpNetwork;
use std::{fmt, io, net::SocketAddr};

/// A public key (Curve25519).
pub type Key = [u8; 32];

/// A private key. Never shown.
pub struct PrivateKey(Key);

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(…)")
    }
}

impl PrivateKey {
    /// One of random bytes, in the form that Curve25519 wants (RFC 7748 section 5); the kernel would bring it there
    /// itself.
    #[must_use]
    pub fn of(mut random: Key) -> PrivateKey {
        random[0] &= 0xf8;
        random[31] = random[31] & 0x7f | 0x40;
        PrivateKey(random)
    }
}

/// A device as the kernel has it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Device {
    /// Its public key; absent until it was given a private one.
    pub key: Option<Key>,
    /// UDP port; 0 until one is set or the device comes up.
    pub port: u16,
    /// Whom it talks to.
    pub peers: Vec<Peer>,
}

/// A peer of a device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    /// Its public key.
    pub key: Key,
    /// Where it was heard last, or was said to be.
    pub endpoint: Option<SocketAddr>,
    /// What it may send from, and what is sent to it.
    pub allowed: Vec<IpNetwork>,
    /// So often something is sent to it at least, seconds; 0 is never.
    pub keepalive: u16,
    /// When the two agreed on the keys of a session last, Unix seconds.
    pub handshake: Option<u64>,
}

/// What a peer should be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewPeer {
    /// Its public key.
    pub key: Key,
    /// Where it is; absent leaves it.
    pub endpoint: Option<SocketAddr>,
    /// What it may send from, and what is sent to it: taken from whatever peer of the device has it.
    pub allowed: Vec<IpNetwork>,
    /// Whether it loses what is not in `allowed`. For a moment it has nothing then.
    pub only: bool,
    /// So often something is sent to it at least, seconds. The first goes out at once, which opens a session.
    pub keepalive: u16,
}

/// The WireGuard devices of one network namespace.
pub struct Wireguard(Family);

impl fmt::Debug for Wireguard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wireguard").finish_non_exhaustive()
    }
}

impl Wireguard {
    /// Opens a socket in the calling thread's namespace.
    ///
    /// # Errors
    /// What the kernel says: `ENOENT` when it has no WireGuard (Linux 5.6).
    pub fn open() -> io::Result<Wireguard> {
        Family::open(message::NAME, message::VERSION).map(Wireguard)
    }

    /// The device of a link.
    ///
    /// # Errors
    /// What the kernel says: `ENODEV` when there is no such link, `EOPNOTSUPP` when it is of another kind.
    pub fn device(&mut self, link: u32) -> io::Result<Device> {
        let request = message::to_device(self.0.id.request(message::GET, DUMP), link);
        let mut device = Device::default();
        self.0.ask(request, |attributes| message::read(&mut device, attributes))?;
        Ok(device)
    }

    fn set(&mut self, link: u32, fill: impl FnOnce(&mut super::nfnetlink::Request)) -> io::Result<()> {
        let mut request = message::to_device(self.0.id.request(message::SET, ACK), link);
        fill(&mut request);
        self.0.ask(request, |_| {})
    }

    /// Gives a device its private key.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_key(&mut self, link: u32, key: &PrivateKey) -> io::Result<()> {
        self.set(link, |request| message::put_key(request, &key.0))
    }

    /// Gives a device its UDP port.
    ///
    /// # Errors
    /// What the kernel says: `EADDRINUSE` of a device that is up when somebody else has the port.
    pub fn set_port(&mut self, link: u32, port: u16) -> io::Result<()> {
        self.set(link, |request| message::put_port(request, port))
    }

    /// Adds a peer, or changes the one that has its key.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn put_peer(&mut self, link: u32, peer: &NewPeer) -> io::Result<()> {
        self.set(link, |request| message::put_peer(request, peer))
    }

    /// Removes a peer; one that is not there is no error.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn remove_peer(&mut self, link: u32, key: &Key) -> io::Result<()> {
        self.set(link, |request| message::remove_peer(request, key))
    }
}
