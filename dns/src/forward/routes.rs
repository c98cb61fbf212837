//! Which upstreams are asked for which name.

use super::upstream::Upstream;
use crate::config::DnsError;
use hickory_proto::rr::Name;
use std::{collections::HashMap, net::SocketAddr, sync::Arc};

/// Upstreams, in the order in which they are asked while all are well.
pub(super) type Group = Arc<[Arc<Upstream>]>;

/// A domain, as on the wire and in lower case.
pub(super) type Domain = Box<[u8]>;

#[derive(Debug)]
pub(super) struct Routes {
    /// For names of no domain below.
    pub(super) others: Group,
    pub(super) domains: HashMap<Domain, Group>,
}

impl Routes {
    /// The upstreams for a question (name, type and class on the wire): those of the longest domain it is in.
    pub(super) fn of(&self, question: &[u8]) -> &Group {
        self.route(question).1
    }

    /// The same, and that domain.
    pub(super) fn route(&self, question: &[u8]) -> (Option<&[u8]>, &Group) {
        if self.domains.is_empty() {
            return (None, &self.others);
        }
        let name = question[..question.len().saturating_sub(4)].to_ascii_lowercase();
        let mut at = 0;
        while let Some(length) = name.get(at) {
            if let Some((domain, group)) = self.domains.get_key_value(&name[at..]) {
                return (Some(domain), group);
            }
            at += 1 + usize::from(*length);
        }
        (None, &self.others)
    }

    /// Every upstream once.
    pub(super) fn all(&self) -> Vec<Arc<Upstream>> {
        let mut all: Vec<Arc<Upstream>> = Vec::new();
        for upstream in self.domains.values().chain([&self.others]).flat_map(|g| g.iter()) {
            if !all.iter().any(|known| Arc::ptr_eq(known, upstream)) {
                all.push(Arc::clone(upstream));
            }
        }
        all
    }
}

/// A domain as [`Routes`] has it; `corp.example` and `corp.example.` are the same.
pub(super) fn domain(text: &str) -> Result<Domain, DnsError> {
    let fail = || DnsError::UpstreamDomain { domain: text.chars().take(80).collect() };
    let name = Name::from_ascii(text).map_err(|_| fail())?.to_lowercase();
    if name.is_root() {
        return Err(fail());
    }
    let mut wire = Vec::with_capacity(name.len());
    for label in &name {
        wire.push(u8::try_from(label.len()).map_err(|_| fail())?);
        wire.extend_from_slice(label);
    }
    wire.push(0);
    Ok(wire.into())
}

/// `address` as it is asked, if it can be: a server, and not this one, which listens on `own`.
pub(super) fn plain(address: SocketAddr, own: &[SocketAddr]) -> Result<SocketAddr, DnsError> {
    // `::ffff:127.0.0.1` is 127.0.0.1 to the kernel, and a wildcard is this very host.
    let canonical = SocketAddr::new(address.ip().to_canonical(), address.port());
    if canonical.ip().is_unspecified() {
        return Err(DnsError::Upstream { address, rule: "is a wildcard: name the server's own address" });
    }
    if canonical.port() == 0 {
        return Err(DnsError::Upstream { address, rule: "has port 0: use 53, or the server's own port" });
    }
    if own.contains(&address) || own.contains(&canonical) {
        return Err(DnsError::Loop(address));
    }
    // The scope of a link-local address is only in the one given.
    Ok(if address.ip() == canonical.ip() { address } else { canonical })
}
