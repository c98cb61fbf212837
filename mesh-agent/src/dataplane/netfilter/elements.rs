//! Elements of the sets that the tables of every plane have. Pure.

use super::{
    layout::{Layout, octets},
    sets::Common,
};
use crate::{
    plan::{Backend, Entry, Listen, maglev},
    sys::nft::{Element, concat},
};
use ipnetwork::IpNetwork;
use mesh_control::model::{Family, NodeName};
use std::net::IpAddr;

/// What elements depend on besides the frontend.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::dataplane) struct Place {
    /// This node.
    pub(in crate::dataplane) node: NodeName,
    /// Networks of addresses whose answers come back through us wherever the endpoint is.
    pub(in crate::dataplane) overlay: Vec<IpNetwork>,
}

/// The id of a backend, in keys.
pub(in crate::dataplane) fn backend_id(backend: &Backend) -> [u8; 8] {
    maglev::backend_hash(&backend.id).to_ne_bytes()
}

/// One element for each network of the family, with its place in the list.
pub(in crate::dataplane) fn allowed<'a>(
    layout: &'a Layout,
    base: &'a [u8],
    allow: &'a [IpNetwork],
) -> impl Iterator<Item = Element> + 'a {
    let ours = |(_, network): &(u16, &IpNetwork)| Family::of(&network.ip()) == layout.family;
    (0_u16..).zip(allow).filter(ours).map(move |(at, network)| Element {
        key: concat(&[base, &octets(network.network())]),
        key_end: Some(concat(&[base, &octets(network.broadcast())])),
        note: concat(&[&at.to_be_bytes(), &[network.prefix()], &octets(network.ip())]),
        ..Element::default()
    })
}

/// The place and the network of an element of [`Common::Allow`].
pub(in crate::dataplane) fn read_allowed(note: &[u8]) -> Option<(u16, IpNetwork)> {
    let at = u16::from_be_bytes(note.get(..2)?.try_into().ok()?);
    let prefix = *note.get(4)?;
    let address: IpAddr = match note.get(8..)? {
        v4 if v4.len() == 4 => <[u8; 4]>::try_from(v4).ok()?.into(),
        v6 => <[u8; 16]>::try_from(v6).ok()?.into(),
    };
    Some((at, IpNetwork::new(address, prefix).ok()?))
}

/// What several frontends may need alike; `picked` are the backends that get flows.
pub(in crate::dataplane) fn shared(
    layout: &Layout,
    place: &Place,
    entry: &Entry,
    picked: &[usize],
) -> Vec<(Common, Element)> {
    let bare = |set, key| (set, Element { key, ..Element::default() });
    let mut shared = Vec::new();
    if let Listen::Vip(vip) = entry.frontend.key.listen {
        shared.push(bare(Common::Vips, octets(vip)));
    }
    let mut backends: Vec<&Backend> = picked.iter().map(|i| &entry.backends[*i]).collect();
    backends.sort_unstable_by_key(|b| (b.address, &b.id));
    backends.dedup_by_key(|b| b.address);
    for backend in backends.into_iter().filter(|b| Family::of(&b.address) == layout.family) {
        let bytes = octets(backend.address);
        if backend.id.node == place.node {
            shared.push(bare(Common::Hairpin, concat(&[&bytes, &bytes])));
        } else if !place.overlay.iter().any(|network| network.contains(backend.address)) {
            shared.push(bare(Common::Masquerade, bytes));
        }
    }
    shared
}
