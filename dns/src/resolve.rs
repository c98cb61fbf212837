//! From the labels of a name to what it stands for.

use crate::{
    index::{AddressList, Entry},
    scope::Seen,
    zone::{Label, NAME_SERVER},
};
use mesh_control::model::{EndpointView, Protocol, ServicePort};
use std::{net::IpAddr, sync::Arc};

/// What a name below the zone stands for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target<'v> {
    /// The zone itself.
    Apex,
    /// The name server's own name.
    NameServer,
    /// What `dns-version` tells.
    Version,
    /// A service, by its name or an alias; not one that another domain name stands for.
    Service(&'v Arc<Entry>),
    /// A service that another domain name stands for.
    External(&'v Arc<Entry>),
    /// All instances of a service.
    Tasks(&'v Arc<Entry>),
    /// One instance of a service: the endpoints of that name, never none, ready or not.
    Instance(&'v Arc<Entry>, &'v [EndpointView]),
    /// One address of a ready endpoint of the service.
    Address(&'v Arc<Entry>, IpAddr),
    /// A port of a service; with `tasks` of each instance.
    Port { entry: &'v Arc<Entry>, vip_port: u16, target_port: u16, tasks: bool },
    /// A name that exists only because there are names below it (RFC 8020 section 2).
    Empty,
    /// Nothing, and nothing below.
    Absent,
}

impl<'v> Target<'v> {
    /// The A and AAAA records of a service or its tasks, one list after the other, each rotated; empty for the type
    /// asked: NODATA. Other targets have none of this kind.
    pub(crate) fn lists(&self) -> [&'v AddressList; 2] {
        const NONE: &AddressList = &AddressList::NONE;
        match *self {
            Target::Service(entry) => [&entry.near, &entry.far],
            Target::Tasks(entry) => [&entry.tasks, NONE],
            _ => [NONE, NONE],
        }
    }

    /// The service that the name belongs to.
    pub(crate) fn entry(&self) -> Option<&'v Arc<Entry>> {
        match *self {
            Target::Service(entry)
            | Target::External(entry)
            | Target::Tasks(entry)
            | Target::Instance(entry, _)
            | Target::Address(entry, _)
            | Target::Port { entry, .. } => Some(entry),
            Target::Apex | Target::NameServer | Target::Version | Target::Empty | Target::Absent => None,
        }
    }
}

/// What a name's leading underscore labels ask for.
#[derive(Clone, Copy)]
enum Prefix<'n> {
    None,
    Protocol(Protocol),
    Port(Label<'n>, Protocol),
}

/// Resolves `labels`, the lower-case labels left of the zone, leftmost first; allocates nothing. The crate's
/// documentation has the table of names and the rule for those that can be read in two ways.
pub(crate) fn resolve<'v>(seen: Seen<'v>, labels: &[Label<'_>]) -> Target<'v> {
    let (prefix, rest) = match labels {
        [] => return Target::Apex,
        [port, proto, rest @ ..] if port.starts_with(b"_") && protocol(proto).is_some() => {
            match protocol(proto) {
                Some(protocol) => (Prefix::Port(&port[1..], protocol), rest),
                None => return Target::Absent,
            }
        }
        [proto, rest @ ..] if proto.starts_with(b"_") => match protocol(proto) {
            Some(protocol) => (Prefix::Protocol(protocol), rest),
            None => return Target::Absent,
        },
        rest => (Prefix::None, rest),
    };
    let (tasks, base) = match rest {
        [b"tasks", base @ ..] if !base.is_empty() => (true, base),
        base => (false, base),
    };
    if !tasks && matches!(prefix, Prefix::None) {
        return plain(seen, base);
    }
    // `web.tasks` and the like: only a service's own name follows.
    let entry = match base {
        [name] => seen.service(None, name),
        [name, namespace] => seen.service(Some(namespace), name),
        _ => None,
    };
    let Some(entry) = entry else { return Target::Absent };
    match prefix {
        Prefix::None => Target::Tasks(entry),
        Prefix::Protocol(protocol) => {
            let any = entry.view.spec.ports.iter().any(|p| p.protocol == protocol);
            if any { Target::Empty } else { Target::Absent }
        }
        Prefix::Port(text, protocol) => match port(entry, text, protocol) {
            Some((vip_port, target_port)) => Target::Port { entry, vip_port, target_port, tasks },
            None => Target::Absent,
        },
    }
}

/// Names without underscore and without `tasks`.
fn plain<'v>(seen: Seen<'v>, labels: &[Label<'_>]) -> Target<'v> {
    match *labels {
        [name] => match seen.service(None, name) {
            Some(entry) => service(entry),
            None if seen.has_namespace(name) || name == NAME_SERVER[1].as_bytes() => Target::Empty,
            None => Target::Absent,
        },
        [name, namespace] => {
            if let Some(entry) = seen.service(Some(namespace), name) {
                return service(entry);
            }
            match instance(seen, name, namespace, None) {
                Target::Absent if [name, namespace] == NAME_SERVER.map(str::as_bytes) => Target::NameServer,
                target => target,
            }
        }
        [name, service, namespace] => instance(seen, name, service, Some(namespace)),
        _ => Target::Absent,
    }
}

fn service(entry: &Arc<Entry>) -> Target<'_> {
    if entry.external { Target::External(entry) } else { Target::Service(entry) }
}

fn instance<'v>(
    seen: Seen<'v>,
    name: Label<'_>,
    service: Label<'_>,
    namespace: Option<Label<'_>>,
) -> Target<'v> {
    let Some(entry) = seen.service(namespace, service) else { return Target::Absent };
    match entry.instances(name) {
        [] => Target::Absent,
        found => Target::Instance(entry, found),
    }
}

pub(crate) fn protocol(label: Label<'_>) -> Option<Protocol> {
    match label {
        b"_tcp" => Some(Protocol::Tcp),
        b"_udp" => Some(Protocol::Udp),
        _ => None,
    }
}

/// The port that `text` names, by name first and else by number, as (VIP's, endpoint's).
fn port(entry: &Entry, text: Label<'_>, protocol: Protocol) -> Option<(u16, u16)> {
    if let Some(found) = named_port(entry, text, protocol) {
        return Some(found);
    }
    // `080` parses as a number but is not how one is written.
    if text.starts_with(b"0") || text.starts_with(b"+") {
        return None;
    }
    let number: u16 = std::str::from_utf8(text).ok()?.parse().ok()?;
    let port = entry.view.spec.ports.iter().find(|p| p.protocol == protocol && p.port.contains(number))?;
    Some((number, port.target.checked_add(number - port.port.first())?))
}

/// The port of this name, of a range the lowest, as (VIP's, endpoint's).
pub(crate) fn named_port(entry: &Entry, text: Label<'_>, protocol: Protocol) -> Option<(u16, u16)> {
    let named = |p: &&ServicePort| {
        p.protocol == protocol && p.name.as_ref().is_some_and(|n| n.as_str().as_bytes() == text)
    };
    entry.view.spec.ports.iter().find(named).map(|p| (p.port.first(), p.target))
}
