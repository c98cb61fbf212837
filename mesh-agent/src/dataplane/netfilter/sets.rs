//! The sets that the tables of every plane have. Pure.

use super::layout::Layout;
use crate::sys::nft::{
    Holds,
    Kind::{Ipv4, Ipv6, Mark, Port, Protocol},
    Set,
};

/// A set.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(in crate::dataplane) enum Common {
    /// Who may connect: frontend, source.
    Allow,
    /// Frontends with such a list; they count whom they turn away.
    Denied,
    /// Backends of this node that may dial themselves: address, the same address.
    Hairpin,
    /// Backends that would answer past us.
    Masquerade,
    /// Devices that packets came in by: device, the same device. Filled by packets; looked up by the devices that a
    /// packet came in by and leaves by, it tells whether they are one, which no expression compares.
    SameDevice,
    /// VIPs in use.
    Vips,
}

impl Common {
    pub(in crate::dataplane) const ALL: [Common; 6] = [
        Common::Allow,
        Common::Denied,
        Common::Hairpin,
        Common::Masquerade,
        Common::SameDevice,
        Common::Vips,
    ];

    pub(in crate::dataplane) const fn name(self) -> &'static str {
        match self {
            Common::Allow => "allow",
            Common::Denied => "denied",
            Common::Hairpin => "hairpin",
            Common::Masquerade => "masquerade",
            Common::SameDevice => "same-device",
            Common::Vips => "vips",
        }
    }

    /// The set as it is made.
    pub(in crate::dataplane) fn set(self, layout: &Layout) -> Set {
        let key = match self {
            Common::Allow => layout.kinds(&[Ipv4, Protocol, Port, Ipv4], &[Ipv6, Protocol, Port, Ipv6]),
            Common::Denied => layout.kinds(&[Ipv4, Protocol, Port], &[Ipv6, Protocol, Port]),
            Common::Hairpin => layout.kinds(&[Ipv4, Ipv4], &[Ipv6, Ipv6]),
            Common::Masquerade | Common::Vips => layout.kinds(&[Ipv4], &[Ipv6]),
            Common::SameDevice => &[Mark, Mark],
        };
        Set {
            ranges: self == Common::Allow,
            counts: self == Common::Denied,
            dynamic: self == Common::SameDevice,
            ..Set::new(self.name(), key, Holds::Keys)
        }
    }
}
