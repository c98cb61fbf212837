//! Finding frontends. Pure.

use super::layout::Layout;
use crate::{
    plan::{Entry, FrontendKey, Listen, Table},
    sys::conntrack::FlowEntry,
};
use mesh_control::model::Protocol;
use std::{collections::HashMap, net::IpAddr};

/// Which frontend an address and a port belong to.
pub(in crate::dataplane) struct Places {
    exact: HashMap<(Option<IpAddr>, Protocol, u16), FrontendKey>,
}

impl Places {
    pub(in crate::dataplane) fn new<'a>(
        keys: impl Iterator<Item = &'a FrontendKey>,
        layout: &Layout,
    ) -> Places {
        let mut exact = HashMap::new();
        for key in keys.filter(|key| key.listen.family() == layout.family) {
            let address = match key.listen {
                Listen::Vip(a) | Listen::Address(a) => Some(a),
                Listen::AnyLocal(_) => None,
            };
            exact.extend(key.ports.iter().map(|port| ((address, key.protocol, port), *key)));
        }
        Places { exact }
    }

    /// With which of its ports that is.
    pub(in crate::dataplane) fn find(&self, layout: &Layout, key: &[u8]) -> Option<(FrontendKey, u16)> {
        let at = layout.read_key(key)?;
        let key = *self.exact.get(&at)?;
        Some((key, at.2.saturating_sub(key.ports.first())))
    }

    /// The frontend that a flow was dialled at.
    pub(in crate::dataplane) fn dialled<'t>(&self, table: &'t Table, flow: &FlowEntry) -> Option<&'t Entry> {
        let protocol = match flow.original.proto {
            6 => Protocol::Tcp,
            17 => Protocol::Udp,
            _ => return None,
        };
        let at = |address| self.exact.get(&(address, protocol, flow.original.dport));
        table.get(at(Some(flow.original.dst)).or_else(|| at(None))?)
    }
}
