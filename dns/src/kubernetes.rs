//! Names as Kubernetes writes them: "Kubernetes DNS-Based Service Discovery", schema version 1.1.0
//! (github.com/kubernetes/dns, docs/specification.md).

use crate::{
    index::Entry,
    resolve::{Target, named_port, protocol},
    scope::Seen,
    zone::{Label, NAME_SERVER},
};
use mesh_control::model::EndpointMode;
use std::{net::IpAddr, sync::Arc};

/// What `dns-version` says.
pub(crate) const SCHEMA: &str = "1.1.0";

/// Resolves `labels`, the lower-case labels left of the Kubernetes domain, leftmost first; allocates nothing.
pub(crate) fn resolve<'v>(seen: Seen<'v>, labels: &[Label<'_>]) -> Target<'v> {
    match *labels {
        [] => Target::Apex,
        [b"svc" | b"pod" | b"dns"] => Target::Empty,
        [b"dns-version"] => Target::Version,
        [name, zone] if [name, zone] == NAME_SERVER.map(str::as_bytes) => Target::NameServer,
        [namespace, b"svc" | b"pod"] if seen.has_namespace(namespace) => Target::Empty,
        [address, namespace, b"pod"] => pod(seen, address, namespace),
        [ref left @ .., name, namespace, b"svc"] => match seen.service(Some(namespace), name) {
            Some(entry) => service(seen, entry, left),
            None => Target::Absent,
        },
        _ => Target::Absent,
    }
}

/// What is at and below a service's name. One without a VIP and without a ready endpoint is as if it were not there
/// (section 2.4.1).
fn service<'v>(seen: Seen<'v>, entry: &'v Arc<Entry>, left: &[Label<'_>]) -> Target<'v> {
    if entry.external {
        return if left.is_empty() { Target::External(entry) } else { Target::Absent };
    }
    let headless = entry.view.spec.endpoint_mode == EndpointMode::Dnsrr;
    if headless && entry.near.is_empty() && entry.far.is_empty() {
        return Target::Absent;
    }
    match *left {
        [] => Target::Service(entry),
        [proto] if proto.starts_with(b"_") => {
            let any = protocol(proto)
                .is_some_and(|it| entry.view.spec.ports.iter().any(|p| p.protocol == it && p.name.is_some()));
            if any { Target::Empty } else { Target::Absent }
        }
        [host] => endpoint(seen, entry, host),
        [port, proto] if port.starts_with(b"_") => {
            // Only named ports have such a name (section 2.3.2).
            match protocol(proto).and_then(|proto| named_port(entry, &port[1..], proto)) {
                Some((vip_port, target_port)) => {
                    Target::Port { entry, vip_port, target_port, tasks: headless }
                }
                None => Target::Absent,
            }
        }
        _ => Target::Absent,
    }
}

/// An endpoint by its host name, which is the instance's, or by its address, which always names it too.
fn endpoint<'v>(seen: Seen<'v>, entry: &'v Arc<Entry>, host: Label<'_>) -> Target<'v> {
    let found = entry.instances(host);
    if found.iter().any(|e| e.endpoint.ready) {
        return Target::Instance(entry, found);
    }
    let Some(address) = dashed(host) else { return Target::Absent };
    let mut owners = seen.owners(address).filter(|owner| owner.instance().is_some());
    if owners.any(|owner| owner.entry.key() == entry.key()) {
        Target::Address(entry, address)
    } else {
        Target::Absent
    }
}

/// `A-B-C-D.NAMESPACE.pod`: only while a ready endpoint in the namespace has the address, so that nobody can make up
/// names for addresses that are another's.
fn pod<'v>(seen: Seen<'v>, address: Label<'_>, namespace: Label<'_>) -> Target<'v> {
    let Some(address) = dashed(address) else { return Target::Absent };
    let mut owners = seen.owners(address).filter(|owner| owner.instance().is_some());
    match owners.find(|owner| owner.entry.key().namespace.as_str().as_bytes() == namespace) {
        Some(owner) => Target::Address(&owner.entry, address),
        None => Target::Absent,
    }
}

/// The address of `10-0-0-1`, or of `2001-db8--1`.
fn dashed(label: Label<'_>) -> Option<IpAddr> {
    // The longest, with eight groups of four digits, has 39 characters.
    let mut text = [0u8; 39];
    let text = text.get_mut(..label.len())?;
    if label.iter().any(|octet| b".:".contains(octet)) {
        return None;
    }
    let mut read = |separator: u8| -> Option<IpAddr> {
        for (to, from) in text.iter_mut().zip(label) {
            *to = if *from == b'-' { separator } else { *from };
        }
        std::str::from_utf8(text).ok()?.parse().ok()
    };
    read(b'.').or_else(|| read(b':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_off_labels() {
        for (label, address) in [
            ("10-0-0-1", "10.0.0.1"),
            ("2001-db8--1", "2001:db8::1"),
            ("--1", "::1"),
            ("ffff-ffff-ffff-ffff-ffff-ffff-ffff-ffff", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ] {
            assert_eq!(dashed(label.as_bytes()), Some(address.parse().unwrap()), "{label}");
        }
        for bad in ["", "-", "10-0-0", "10-0-0-256", "10-0-0-01", "10.0.0.1", "::1", "web-1", "1-2-3-4-5"] {
            assert_eq!(dashed(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(dashed(&[b'-'; 63]), None);
        assert_eq!(dashed(b"\xff-0-0-1"), None);
    }
}
