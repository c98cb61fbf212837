//! The chains that pick a backend. One serves every frontend of its shape, so their number does not grow with the
//! services; its name says the shape, so that it can be read back. Pure.

use super::{
    layout::Layout,
    names::{
        AFFINITY, ALLOW, BACKENDS, DENIED, DROP, IDS, LIMITED, PICKS, REJECT, Rule, SLOTS, comment, limit_set,
    },
};
use crate::sys::nft::{Expr, reg};
use std::fmt;

/// How often a backend at its limit makes a flow try another.
const RETRIES: usize = 3;

/// How a slot is picked.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) enum Pick {
    /// One after the other. The number tells chains with a counter of their own apart: frontends that share one would
    /// move each other on.
    Next(u16),
    /// At random.
    Random,
    /// By hash of the client's address, alike on every node.
    Hash,
}

/// The shape of a chain.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct Shape {
    pub(super) pick: Pick,
    pub(super) slots: u32,
    /// Whether frontends are on every local address.
    pub(super) local: bool,
    /// Affinity timeout in milliseconds.
    pub(super) sticky: Option<u64>,
    /// Most flows to one backend.
    pub(super) most: Option<u32>,
    /// Whether only allowed sources may connect.
    pub(super) allow: bool,
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
        match self.pick {
            Pick::Next(counter) => write!(f, "next{}.{counter}", self.slots)?,
            Pick::Random => write!(f, "random{}", self.slots)?,
            Pick::Hash => write!(f, "hash{}", self.slots)?,
        }
        if self.local {
            f.write_str("-local")?;
        }
        if let Some(ms) = self.sticky {
            write!(f, "-sticky{ms}")?;
        }
        if let Some(most) = self.most {
            write!(f, "-max{most}")?;
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
        let (pick, slots) = if let Some(rest) = head.strip_prefix("next") {
            let (slots, counter) = rest.split_once('.')?;
            (Pick::Next(counter.parse().ok()?), slots)
        } else if let Some(slots) = head.strip_prefix("random") {
            (Pick::Random, slots)
        } else {
            (Pick::Hash, head.strip_prefix("hash")?)
        };
        let slots = slots.parse().ok()?;
        let mut shape = Shape { pick, slots, local: false, sticky: None, most: None, allow: false };
        for part in parts {
            match part {
                "local" => shape.local = true,
                "allow" => shape.allow = true,
                other => match (other.strip_prefix("sticky"), other.strip_prefix("max")) {
                    (Some(ms), _) => shape.sticky = Some(ms.parse().ok()?),
                    (_, Some(most)) => shape.most = Some(most.parse().ok()?),
                    _ => return None,
                },
            }
        }
        // Exactly the name that it would have.
        (shape.to_string() == name).then_some(Target::Pick(shape))
    }

    /// Its shape, when it picks.
    pub(super) fn shape(self) -> Option<Shape> {
        match self {
            Target::Pick(shape) => Some(shape),
            Target::Reject | Target::Drop => None,
        }
    }
}

impl Shape {
    /// Its rules, tried one after the other until one takes the packet.
    pub(super) fn rules(&self, layout: &Layout) -> Vec<Rule> {
        let mut rules = Vec::new();
        let key = || layout.load_key(self.local).to_vec();
        let words = layout.key_words();
        if self.allow {
            let mut deny = key();
            deny.push(layout.source(words));
            deny.extend([Expr::lookup_not(reg(0), ALLOW), Expr::lookup(reg(0), DENIED), Expr::goto(REJECT)]);
            rules.push((deny, comment("source not allowed")));
        }
        // Where results go: past the key and the two words of a backend's id.
        let (at, id) = (words + 2, words);
        let finish = |rule: &mut Vec<Expr>| {
            if let Some(most) = self.most {
                rule.push(Expr::limit_flows(reg(at), &limit_set(most), most));
            }
            rule.push(Expr::dnat(layout.nfproto(), reg(at), reg(at + layout.words())));
        };
        if let Some(ms) = self.sticky {
            let mut known = key();
            known.push(Expr::map(reg(0), reg(at), IDS));
            known.push(layout.source(at + 2));
            known.push(Expr::map(reg(at), reg(id), AFFINITY));
            known.push(Expr::learn(reg(at), Some(reg(id)), AFFINITY, Some(ms)));
            known.push(Expr::map(reg(0), reg(at), BACKENDS));
            finish(&mut known);
            rules.push((known, comment("affinity")));
        }
        let pick = |pick: Expr| {
            let mut rule = key();
            rule.push(pick);
            if let Some(ms) = self.sticky {
                rule.push(Expr::map(reg(0), reg(id), PICKS));
                rule.push(Expr::map(reg(0), reg(at), IDS));
                rule.push(layout.source(at + 2));
                // Data of an element that is there would stay as it is.
                rule.push(Expr::forget(reg(at), reg(id), AFFINITY));
                rule.push(Expr::learn(reg(at), Some(reg(id)), AFFINITY, Some(ms)));
                rule.push(Expr::map(reg(0), reg(at), BACKENDS));
            } else {
                rule.push(Expr::map(reg(0), reg(at), SLOTS));
            }
            finish(&mut rule);
            rule
        };
        let first = match self.pick {
            Pick::Next(_) => Expr::numgen(reg(id), self.slots, false),
            Pick::Random => Expr::numgen(reg(id), self.slots, true),
            Pick::Hash => {
                Expr::jhash(reg(at), reg(id), layout.bytes(), self.slots, crate::plan::maglev::SEED)
            }
        };
        let mut chosen = pick(first);
        if self.pick == Pick::Hash {
            chosen.insert(0, layout.source(at));
        }
        rules.push((chosen, comment("pick")));
        if self.most.is_some() {
            for _ in 0..RETRIES {
                let again = pick(Expr::numgen(reg(id), self.slots, true));
                rules.push((again, comment("pick another")));
            }
            let mut refuse = key();
            refuse.extend([Expr::lookup(reg(0), LIMITED), Expr::goto(REJECT)]);
            rules.push((refuse, comment("all at their limit")));
        }
        // A change of the number of slots between the two lookups of a packet: the first slot is there in both.
        rules.push((pick(Expr::immediate(reg(id), &0_u32.to_ne_bytes())), comment("pick the first")));
        rules.push((vec![Expr::goto(REJECT)], comment("gone meanwhile")));
        rules
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_the_shape() {
        let plain =
            Shape { pick: Pick::Random, slots: 7, local: false, sticky: None, most: None, allow: false };
        let full = Shape {
            pick: Pick::Next(3),
            local: true,
            sticky: Some(150),
            most: Some(5),
            allow: true,
            ..plain
        };
        for (shape, name) in [
            (plain, "random7"),
            (Shape { pick: Pick::Hash, slots: 1021, ..plain }, "hash1021"),
            (full, "next7.3-local-sticky150-max5-allow"),
        ] {
            assert_eq!(shape.to_string(), name);
            assert_eq!(Target::parse(name), Some(Target::Pick(shape)));
        }
        for (target, name) in [(Target::Reject, "reject"), (Target::Drop, "drop")] {
            assert_eq!((target.to_string().as_str(), Target::parse(name)), (name, Some(target)));
        }
        for bad in
            ["", "prerouting", "next7", "next7.x", "random", "random7-max", "hash1-local-local", "hash01"]
        {
            assert_eq!(Target::parse(bad), None, "{bad}");
        }
    }
}
