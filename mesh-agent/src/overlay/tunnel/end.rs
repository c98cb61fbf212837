//! An end of the tunnels, as the kernel has it, and when the next change of keys is due: pure.
//!
//! ```text
//! one key ─ too old, or asked for ─▶ two, both announced ─ everybody answers at the new ─▶ the old retired: nothing is
//!    ▲                                                                                      sent from it any more
//!    └──── and is removed ◀─ for a while it is no more announced ◀─ for a while it is still announced ─┘
//! ```
//! What was sent before is on its way for a moment, and the others refuse what comes from a key that they do not know.
//! All of it stands in the kernel: a restart of the agent at any point goes on from there.

use crate::{
    overlay::{config::Encryption, step::is_mark, sysctls::MARK},
    sys::{
        rtnl::{Kind, Link},
        wireguard::{Device, Peer as Heard},
    },
};
use mesh_control::model::{Tunnel, TunnelKey};

/// The names of the devices: one, and another while the key is changed.
pub const NAMES: [&str; 2] = ["mesh-wg", "mesh-wg2"];

/// The UDP port of a slot.
#[must_use]
pub fn port(config: &Encryption, slot: usize) -> u16 {
    config.port.saturating_add(u16::from(slot > 0))
}

/// A device of this program.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct End {
    /// Which of [`NAMES`].
    pub slot: usize,
    /// Its link.
    pub link: Link,
    /// Its key and peers.
    pub device: Device,
    /// Its age.
    pub stamp: Stamp,
}

/// When a key was made and when it was retired, Unix seconds; written in the link's alias.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp {
    /// Made.
    pub since: u64,
    /// Nothing is sent from it since.
    pub retired: Option<u64>,
}

impl Stamp {
    /// The alias.
    #[must_use]
    pub fn alias(&self) -> String {
        let retired = self.retired.map(|at| format!(" retired={at}")).unwrap_or_default();
        format!("{MARK} since={}{retired}", self.since)
    }

    /// What an alias says; absent when it is not this program's.
    #[must_use]
    pub fn read(alias: &str) -> Option<Stamp> {
        let number = |name: &str| {
            let mut words = alias.split(' ').filter_map(|word| word.split_once('='));
            words.find(|(key, _)| *key == name).and_then(|(_, value)| value.parse().ok())
        };
        is_mark(alias)
            .then(|| Stamp { since: number("since").unwrap_or_default(), retired: number("retired") })
    }
}

impl End {
    /// A link of one of the names as an end.
    ///
    /// # Errors
    /// It is somebody else's; the text names it and the fix.
    pub fn of(slot: usize, link: Link, device: Option<Device>, now: u64) -> Result<End, String> {
        let stamp = link.alias.as_deref().and_then(Stamp::read);
        // Without a key it is nobody's yet: the agent died before it could mark it.
        let empty = |device: &Device| device.key.is_none() && device.peers.is_empty() && link.alias.is_none();
        let unmarked = device.as_ref().is_some_and(empty).then_some(Stamp { since: now, retired: None });
        match (device, stamp.or(unmarked)) {
            (Some(device), Some(stamp)) if link.kind == Kind::Wireguard => {
                Ok(End { slot, link, device, stamp })
            }
            _ => Err(format!(
                "the link {0} is not this program's: rename it (ip link set {0} name …)",
                link.name
            )),
        }
    }

    /// Whether it may be sent from.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.stamp.retired.is_none()
    }

    /// As the others are told of it, at `now`, Unix seconds; absent when they are told no more, or it has no key yet.
    #[must_use]
    pub fn announced(&self, config: &Encryption, now: u64) -> Option<Tunnel> {
        let told = self.stamp.retired.is_none_or(|at| now.saturating_sub(at) < config.hold.as_secs());
        self.key().filter(|_| told).map(|key| Tunnel { key, port: port(config, self.slot) })
    }

    /// Its public key.
    #[must_use]
    pub fn key(&self) -> Option<TunnelKey> {
        self.device.key.map(TunnelKey)
    }

    /// The peer of this key.
    #[must_use]
    pub fn heard(&self, key: &TunnelKey) -> Option<&Heard> {
        self.device.peers.iter().find(|peer| peer.key == key.0)
    }

    /// Whether a session was opened with that key.
    #[must_use]
    pub fn answered(&self, tunnel: &Tunnel) -> bool {
        self.heard(&tunnel.key).is_some_and(|peer| peer.handshake.is_some())
    }
}

/// Sorts ends: those that are retired before the others, then the older before the newer.
#[must_use]
pub fn age(end: &End) -> (bool, u64, usize) {
    (end.is_live(), end.stamp.since, end.slot)
}

/// What is due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turn {
    /// Make an end in this slot.
    Make(usize),
    /// Send nothing from the end in this slot any more.
    Retire(usize),
    /// Remove the end in this slot.
    Remove(usize),
}

/// The change that is due at `now`, Unix seconds. `ends` are at most two; `all_answer` is whether every node that is up
/// answers at the newest of them.
#[must_use]
pub fn turn(ends: &[End], config: &Encryption, now: u64, all_answer: bool) -> Option<Turn> {
    let passed = |since: u64, time: std::time::Duration| now.saturating_sub(since) >= time.as_secs();
    let mut by_age: Vec<&End> = ends.iter().collect();
    by_age.sort_by_key(|end| age(end));
    match by_age[..] {
        [] => Some(Turn::Make(0)),
        [only] if only.is_live() && !passed(only.stamp.since, config.key_lifetime) => None,
        [only] => Some(Turn::Make(1 - only.slot.min(1))),
        [old, ..] => match old.stamp.retired {
            Some(at) => passed(at, 2 * config.hold).then_some(Turn::Remove(old.slot)),
            None => all_answer.then_some(Turn::Retire(old.slot)),
        },
    }
}
