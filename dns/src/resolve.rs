//! From the labels of a name to what it stands for.

use crate::{index::Entry, view::DnsView, zone::NAME_SERVER};
use mesh_control::model::{DEFAULT_NAMESPACE, Protocol, ServicePort};

/// What a name below the zone stands for.
#[derive(Debug)]
pub(crate) enum Target<'v, 'n> {
    /// The zone itself.
    Apex,
    /// The name server's own name.
    NameServer,
    /// A service, by its name or an alias.
    Service(&'v Entry),
    /// All instances of a service.
    Tasks(&'v Entry),
    /// One instance of a service.
    Instance(&'v Entry, &'n str),
    /// A port of a service; with `tasks` of each instance.
    Port { entry: &'v Entry, vip_port: u16, target_port: u16, tasks: bool },
    /// A name that exists only because there are names below it (RFC 8020 section 2).
    Empty,
    /// Nothing, and nothing below.
    Absent,
}

/// What a name's leading underscore labels ask for.
#[derive(Clone, Copy)]
enum Prefix<'n> {
    None,
    Protocol(Protocol),
    Port(&'n str, Protocol),
}

/// Resolves `labels`, the lower-case labels left of the zone, leftmost first. The crate's documentation has the
/// table of names and the rule for those that can be read in two ways.
pub(crate) fn resolve<'v, 'n>(view: &'v DnsView, labels: &[&'n str]) -> Target<'v, 'n> {
    let (prefix, rest) = match labels {
        [] => return Target::Apex,
        [port, proto, rest @ ..] if port.starts_with('_') && protocol(proto).is_some() => {
            match protocol(proto) {
                Some(protocol) => (Prefix::Port(&port[1..], protocol), rest),
                None => return Target::Absent,
            }
        }
        [proto, rest @ ..] if proto.starts_with('_') => match protocol(proto) {
            Some(protocol) => (Prefix::Protocol(protocol), rest),
            None => return Target::Absent,
        },
        rest => (Prefix::None, rest),
    };
    let (tasks, base) = match rest {
        ["tasks", base @ ..] if !base.is_empty() => (true, base),
        base => (false, base),
    };
    if !tasks && matches!(prefix, Prefix::None) {
        return plain(view, base);
    }
    // `web.tasks` and the like: only a service's own name follows.
    let entry = match base {
        [name] => view.service(DEFAULT_NAMESPACE, name),
        [name, namespace] => view.service(namespace, name),
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
fn plain<'v, 'n>(view: &'v DnsView, labels: &[&'n str]) -> Target<'v, 'n> {
    match labels {
        [name] => match view.service(DEFAULT_NAMESPACE, name) {
            Some(entry) => Target::Service(entry),
            None if view.has_namespace(name) || *name == NAME_SERVER[1] => Target::Empty,
            None => Target::Absent,
        },
        [name, namespace] => {
            if let Some(entry) = view.service(namespace, name) {
                return Target::Service(entry);
            }
            match instance(view, name, namespace, DEFAULT_NAMESPACE) {
                Target::Absent if labels == NAME_SERVER => Target::NameServer,
                target => target,
            }
        }
        [name, service, namespace] => instance(view, name, service, namespace),
        _ => Target::Absent,
    }
}

fn instance<'v, 'n>(view: &'v DnsView, name: &'n str, service: &str, namespace: &str) -> Target<'v, 'n> {
    match view.service(namespace, service) {
        Some(entry) if !entry.instances(name).is_empty() => Target::Instance(entry, name),
        _ => Target::Absent,
    }
}

fn protocol(label: &str) -> Option<Protocol> {
    match label {
        "_tcp" => Some(Protocol::Tcp),
        "_udp" => Some(Protocol::Udp),
        _ => None,
    }
}

/// The port that `text` names, by name first (then a range's lowest port) and else by number, as (VIP's, endpoint's).
fn port(entry: &Entry, text: &str, protocol: Protocol) -> Option<(u16, u16)> {
    let ports = || entry.view.spec.ports.iter().filter(|p| p.protocol == protocol);
    let at = |p: &ServicePort, port: u16| {
        let target = p.target.checked_add(port - p.port.first())?;
        Some((port, target))
    };
    if let Some(p) = ports().find(|p| p.name.as_ref().is_some_and(|n| n.as_str() == text)) {
        return at(p, p.port.first());
    }
    let number: u16 = text.parse().ok().filter(|n: &u16| n.to_string() == text)?;
    at(ports().find(|p| p.port.contains(number))?, number)
}
