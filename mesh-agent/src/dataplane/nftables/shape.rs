//! Shapes: how frontends pick a backend. One chain, with maps of its own, serves every frontend of its shape. Its name
//! says the shape, so that it can be read back. Pure.

use crate::{
    dataplane::netfilter::names::{DROP, REJECT},
    plan::maglev,
};
use std::fmt;

/// How a slot is picked.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) enum Pick {
    /// One after the other.
    Next,
    /// At random.
    Random,
    /// By hash of the client's address, alike on every node.
    Hash,
}

impl Pick {
    fn word(self) -> &'static str {
        match self {
            Pick::Next => "next",
            Pick::Random => "random",
            Pick::Hash => "hash",
        }
    }
}

/// The shape of a chain.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct Shape {
    pub(super) pick: Pick,
    pub(super) slots: u32,
    /// Tells chains apart that are otherwise alike: frontends that share a round-robin counter would move each other on,
    /// and maps that few frontends share stay small, which the kernel lists faster.
    pub(super) number: u16,
    /// Whether frontends are on every local address.
    pub(super) local: bool,
    /// Affinity timeout in milliseconds.
    pub(super) sticky: Option<u64>,
    /// Most flows to one backend.
    pub(super) most: Option<u32>,
    /// Whether only allowed sources may connect.
    pub(super) allow: bool,
    /// Seconds after which an idle flow is forgotten.
    pub(super) idle: Option<u32>,
}

/// Where a frontend's new flows go.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) enum Target {
    Pick(Shape),
    Reject,
    Drop,
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}.{}", self.pick.word(), self.slots, self.number)?;
        if self.local {
            f.write_str("-local")?;
        }
        if let Some(ms) = self.sticky {
            write!(f, "-sticky{ms}")?;
        }
        if let Some(most) = self.most {
            write!(f, "-max{most}")?;
        }
        if let Some(seconds) = self.idle {
            write!(f, "-idle{seconds}")?;
        }
        if self.allow { f.write_str("-allow") } else { Ok(()) }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Pick(shape) => shape.fmt(f),
            Target::Reject => f.write_str(REJECT),
            Target::Drop => f.write_str(DROP),
        }
    }
}

impl Target {
    /// The reverse of its name.
    pub(super) fn parse(name: &str) -> Option<Target> {
        match name {
            REJECT => return Some(Target::Reject),
            DROP => return Some(Target::Drop),
            _ => {}
        }
        let mut parts = name.split('-');
        let head = parts.next()?;
        let picks = [Pick::Next, Pick::Random, Pick::Hash];
        let (pick, head) =
            picks.into_iter().find_map(|pick| Some((pick, head.strip_prefix(pick.word())?)))?;
        let (slots, number) = head.split_once('.')?;
        let (slots, number) = (slots.parse().ok()?, number.parse().ok()?);
        let mut shape =
            Shape { pick, slots, number, local: false, sticky: None, most: None, allow: false, idle: None };
        for part in parts {
            match part {
                "local" => shape.local = true,
                "allow" => shape.allow = true,
                other => {
                    let figure = |word| other.strip_prefix(word);
                    match (figure("sticky"), figure("max"), figure("idle")) {
                        (Some(ms), ..) => shape.sticky = Some(ms.parse().ok()?),
                        (_, Some(most), _) => shape.most = Some(most.parse().ok()?),
                        (.., Some(seconds)) => shape.idle = Some(seconds.parse().ok()?),
                        _ => return None,
                    }
                }
            }
        }
        // Exactly the name that it would have.
        (shape.to_string() == name).then_some(Target::Pick(shape))
    }

    /// What frontends carry that lead there: a hash of its name.
    pub(super) fn id(self) -> [u8; 4] {
        let [a, b, c, d, ..] = hashed(self.to_string().bytes());
        [a, b, c, d]
    }

    /// Its shape, when it picks.
    pub(super) fn shape(self) -> Option<Shape> {
        match self {
            Target::Pick(shape) => Some(shape),
            Target::Reject | Target::Drop => None,
        }
    }
}

/// A number of 64 bits for a name, spread evenly (FNV-1a, then mixed).
pub(super) fn hashed(name: impl Iterator<Item = u8>) -> [u8; 8] {
    let fnv = name.fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    maglev::mix(fnv).to_ne_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_the_shape() {
        let plain = Shape {
            pick: Pick::Random,
            slots: 7,
            number: 0,
            local: false,
            sticky: None,
            most: None,
            allow: false,
            idle: None,
        };
        let full = Shape {
            pick: Pick::Next,
            number: 3,
            local: true,
            sticky: Some(150),
            most: Some(5),
            allow: true,
            idle: Some(77),
            ..plain
        };
        for (shape, name) in [
            (plain, "random7.0"),
            (Shape { pick: Pick::Hash, slots: 1021, ..plain }, "hash1021.0"),
            (full, "next7.3-local-sticky150-max5-idle77-allow"),
        ] {
            assert_eq!(shape.to_string(), name);
            assert_eq!(Target::parse(name), Some(Target::Pick(shape)));
        }
        for (target, name) in [(Target::Reject, "reject"), (Target::Drop, "drop")] {
            assert_eq!((target.to_string().as_str(), Target::parse(name)), (name, Some(target)));
        }
        for bad in [
            "",
            "prerouting",
            "next7",
            "next7.x",
            "random",
            "random7.0-max",
            "hash1.0-local-local",
            "hash01.0",
        ] {
            assert_eq!(Target::parse(bad), None, "{bad}");
        }
    }
}
