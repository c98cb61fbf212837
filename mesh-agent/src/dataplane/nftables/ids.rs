//! Which set: what each of ours is for, and its name. Pure.

use super::shape::{Shape, Target};
use crate::dataplane::netfilter::{layout::Layout, sets::Common};
use mesh_control::model::Family;
use std::fmt;

/// The name of our tables.
pub const TABLE: &str = "mesh-agent";

/// The layouts of both families' tables.
pub(super) fn layouts() -> [Layout; 2] {
    [Layout::of(Family::V4, TABLE), Layout::of(Family::V6, TABLE)]
}

/// A set or map of a table. Those of a [`Shape`] are named by its chain alone and go with it: the kernel checks an
/// element that is added against every rule that names its map, and every element of a map against a rule that is
/// added, so a map that all chains shared would make a change cost time in services.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) enum SetId {
    /// Frontends: address, protocol, port → [`Target::id`]. Not the chain itself: with each such change the kernel
    /// walks through the chains of all elements.
    Services,
    /// [`Target::id`] → chain, for frontends on one address, or (`local`) on every local address.
    Shapes {
        /// Whether frontends are on every local address.
        local: bool,
    },
    /// Slots: frontend, number → address, port.
    Slots(Shape),
    /// Slots of frontends with affinity: frontend, number → backend's id.
    Picks(Shape),
    /// Backends of frontends with affinity: frontend, backend's id → address, port.
    Backends(Shape),
    /// Frontends with affinity → their service's id.
    Ids(Shape),
    /// What clients are remembered by: service's id, client → backend's id.
    Affinity,
    /// Frontends with a limit; they count whom they turn away.
    Limited,
    /// Backends that take no new flows, with no data: only so that they can be read back.
    Idle,
    /// What other planes have, too. VIPs in it answer ping.
    Common(Common),
    /// The flows of backends limited to so many, counted.
    Most(u32),
    /// What another version kept backends in, for all shapes: `slots` and `backends`.
    Former(bool),
}

/// The sets that are always there.
pub(super) const ALWAYS: [SetId; 12] = [
    SetId::Services,
    SetId::Shapes { local: false },
    SetId::Shapes { local: true },
    SetId::Affinity,
    SetId::Limited,
    SetId::Idle,
    SetId::Common(Common::Allow),
    SetId::Common(Common::Denied),
    SetId::Common(Common::Hairpin),
    SetId::Common(Common::Masquerade),
    SetId::Common(Common::SameDevice),
    SetId::Common(Common::Vips),
];

/// The sets that only the chain of a shape names.
pub(super) fn of(shape: Shape) -> Vec<SetId> {
    match shape.sticky {
        None => vec![SetId::Slots(shape)],
        Some(_) => vec![SetId::Picks(shape), SetId::Backends(shape), SetId::Ids(shape)],
    }
}

impl SetId {
    /// The reverse of its name.
    pub(super) fn parse(name: &str) -> Option<SetId> {
        let former = [SetId::Former(false), SetId::Former(true)];
        if let Some(id) = ALWAYS.into_iter().chain(former).find(|id| id.to_string() == name) {
            return Some(id);
        }
        if let Some(most) = name.strip_prefix("max") {
            return most.parse().ok().map(SetId::Most);
        }
        let (_, shape) = name.split_once('-')?;
        of(Target::parse(shape)?.shape()?).into_iter().find(|id| id.to_string() == name)
    }

    /// Whether elements count the flows that meet them.
    pub(super) fn counts(self) -> bool {
        use SetId::{Backends, Limited, Services, Slots};
        matches!(self, Services | Slots(_) | Backends(_) | Limited | SetId::Common(Common::Denied))
    }
}

impl fmt::Display for SetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SetId::Services => "services",
            SetId::Shapes { local: false } => "shapes",
            SetId::Shapes { local: true } => "shapes-local",
            SetId::Slots(shape) => return write!(f, "slots-{shape}"),
            SetId::Picks(shape) => return write!(f, "picks-{shape}"),
            SetId::Backends(shape) => return write!(f, "backends-{shape}"),
            SetId::Ids(shape) => return write!(f, "ids-{shape}"),
            SetId::Affinity => "affinity",
            SetId::Limited => "limited",
            SetId::Idle => "idle",
            SetId::Common(common) => common.name(),
            SetId::Most(most) => return write!(f, "max{most}"),
            SetId::Former(false) => "slots",
            SetId::Former(true) => "backends",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        let shapes = ["next3.7", "random2.0-local-sticky150-max5-idle9-allow"];
        let shapes = shapes.map(|name| Target::parse(name).and_then(Target::shape).unwrap());
        let all = ALWAYS.into_iter().chain(shapes.into_iter().flat_map(of)).chain([SetId::Most(5)]);
        for id in all.chain([SetId::Former(false), SetId::Former(true)]) {
            assert_eq!(SetId::parse(&id.to_string()), Some(id), "{id}");
        }
        for bad in ["", "slots-", "slots-reject", "picks-next3.7", "slots-next3", "maxi", "others"] {
            assert_eq!(SetId::parse(bad), None, "{bad}");
        }
    }
}
