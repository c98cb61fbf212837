//! Why a name below a zone of ours does not exist, and which was perhaps meant.

use super::words::text;
use crate::{
    index::Entry,
    naming::{Naming, Style},
    resolve::protocol,
    zone::Label,
};
use mesh_control::model::{EndpointMode, Protocol};

/// Most names, ports and instances that are suggested.
const MOST: usize = 5;

/// Why a name does not exist.
pub(super) struct Absent {
    pub(super) why: String,
    pub(super) nearest: Vec<String>,
}

impl Absent {
    fn new(why: impl Into<String>) -> Self {
        Absent { why: why.into(), nearest: Vec::new() }
    }
}

/// Why the name of `left`, the labels left of the zone, is absent.
pub(super) fn why(naming: Naming<'_>, left: &[Label<'_>]) -> Absent {
    match naming.style {
        Style::Mesh => mesh(naming, left),
        Style::Kubernetes => kubernetes(naming, left),
    }
}

fn mesh(naming: Naming<'_>, left: &[Label<'_>]) -> Absent {
    let seen = naming.seen;
    let prefixes = left.iter().take_while(|label| label.starts_with(b"_")).count();
    let (prefix, rest) = left.split_at(prefixes);
    if let Some(bad) = bad_prefix(prefix) {
        return bad;
    }
    let (tasks, base) = match rest {
        [b"tasks", base @ ..] if !base.is_empty() => (true, base),
        base => (false, base),
    };
    let at_service = tasks || !prefix.is_empty();
    match *base {
        [name] => match seen.service(None, name).filter(|_| at_service) {
            Some(entry) => no_port(entry, prefix),
            None => no_service(naming, None, name),
        },
        [name, second] if at_service => match seen.service(Some(second), name) {
            Some(entry) => no_port(entry, prefix),
            None => no_service(naming, Some(second), name),
        },
        [name, second] => match seen.service(None, second) {
            Some(entry) => no_instance(entry, name),
            None => no_service(naming, Some(second), name),
        },
        [name, service, namespace] if !at_service => match seen.service(Some(namespace), service) {
            Some(entry) => no_instance(entry, name),
            None => no_service(naming, Some(namespace), service),
        },
        _ if at_service => {
            Absent::new("after `tasks` or a port comes NAME or NAME.NAMESPACE and nothing else")
        }
        _ => Absent::new("it has too many labels: the longest is INSTANCE.NAME.NAMESPACE"),
    }
}

fn kubernetes(naming: Naming<'_>, left: &[Label<'_>]) -> Absent {
    match *left {
        [ref host @ .., name, namespace, b"svc"] => match naming.seen.service(Some(namespace), name) {
            Some(entry) => below_kubernetes_service(entry, host),
            None => no_service(naming, Some(namespace), name),
        },
        [address, namespace, b"pod"] => Absent::new(format!(
            "no ready endpoint in namespace `{}` has the address `{}`",
            text(namespace),
            text(address)
        )),
        [namespace, b"svc" | b"pod"] => no_namespace(naming, namespace),
        _ => Absent::new(format!(
            "below `{}` there are NAME.NAMESPACE.svc, A-B-C-D.NAMESPACE.pod, dns-version and what belongs to them",
            naming.zone.origin()
        )),
    }
}

fn below_kubernetes_service(entry: &Entry, host: &[Label<'_>]) -> Absent {
    let headless = entry.view.spec.endpoint_mode == EndpointMode::Dnsrr;
    if entry.external {
        return Absent::new("below a service with an external_name there is nothing");
    }
    if headless && entry.near.is_empty() && entry.far.is_empty() {
        return Absent::new(
            "the service is headless (dnsrr) and no endpoint may be answered: then it has no name (Kubernetes DNS specification 2.4.1)",
        );
    }
    match host {
        prefix if prefix.first().is_some_and(|label| label.starts_with(b"_")) => bad_prefix(prefix)
            .unwrap_or_else(|| {
                let absent = no_port(entry, prefix);
                Absent { why: format!("{}; only a port's name names it here", absent.why), ..absent }
            }),
        [instance] if !entry.instances(instance).is_empty() => {
            Absent::new(format!("instance `{}` is there and not ready", text(instance)))
        }
        [instance] => no_instance(entry, instance),
        _ => Absent::new("it has too many labels"),
    }
}

/// What is wrong with the labels with an underscore, when they are not PORT and PROTOCOL or PROTOCOL.
fn bad_prefix(prefix: &[Label<'_>]) -> Option<Absent> {
    let (last, before) = prefix.split_last()?;
    if protocol(last).is_none() {
        return Some(Absent::new(format!("`{}` is no protocol: `_tcp` and `_udp` are", text(last))));
    }
    (before.len() > 1)
        .then(|| Absent::new("it has too many labels with an underscore: _PORT._PROTOCOL is all"))
}

fn no_port(entry: &Entry, prefix: &[Label<'_>]) -> Absent {
    let Some(protocol) = prefix.last().and_then(|label| protocol(label)) else {
        return Absent::new("there is no such name");
    };
    let word = |p: Protocol| if p == Protocol::Tcp { "tcp" } else { "udp" };
    let ports = entry.view.spec.ports.iter();
    let mut known: Vec<String> = ports
        .map(|p| match &p.name {
            Some(name) => format!("{name} ({}/{})", p.port, word(p.protocol)),
            None => format!("{}/{}", p.port, word(p.protocol)),
        })
        .collect();
    known.dedup();
    let more = if known.len() > MOST { ", …" } else { "" };
    known.truncate(MOST);
    let has = if known.is_empty() { "no port".to_owned() } else { format!("{}{more}", known.join(", ")) };
    let wanted = match prefix {
        [port, _] => format!("port `{}` of {}", text(port.get(1..).unwrap_or_default()), word(protocol)),
        _ => format!("port of {}", word(protocol)),
    };
    Absent::new(format!("service `{}` has no {wanted}; it has {has}", entry.key()))
}

fn no_instance(entry: &Entry, instance: Label<'_>) -> Absent {
    let why = format!("service `{}` has no instance `{}`", entry.key(), text(instance));
    let names = entry.view.endpoints.iter().map(|e| e.endpoint.instance.as_str());
    let nearest = nearest(&text(instance), names.map(|name| (name, ())));
    Absent { why, nearest: nearest.into_iter().map(|(name, ())| name.to_owned()).collect() }
}

fn no_namespace(naming: Naming<'_>, namespace: Label<'_>) -> Absent {
    let (seen, name) = (naming.seen, text(namespace));
    if seen.is_hidden(namespace) {
        return Absent::new(format!("namespace `{name}` is out of sight for who asks at this address"));
    }
    let all = seen.namespaces().map(|n| (n.as_str(), ()));
    let nearest = nearest(&name, all).into_iter().map(|(name, ())| name.to_owned()).collect();
    Absent { why: format!("there is no namespace `{name}`"), nearest }
}

/// There is no such service; those of like names in the namespace, and of the same name in others.
fn no_service(naming: Naming<'_>, namespace: Option<Label<'_>>, name: Label<'_>) -> Absent {
    let seen = naming.seen;
    let default = seen.scope.default_namespace().as_bytes();
    let of = namespace.unwrap_or(default);
    let (wanted, of_text) = (text(name), text(of));
    let known = seen.has_namespace(of);
    let mut why = if known || of == default {
        format!("namespace `{of_text}` has no service, and no alias of one, called `{wanted}`")
    } else if seen.is_hidden(of) {
        format!("namespace `{of_text}` is out of sight for who asks at this address")
    } else {
        format!("there is no namespace `{of_text}`")
    };
    if naming.style == Style::Mesh && namespace.is_some() && !known {
        why += &format!(", and no service `{of_text}` with an instance `{wanted}`");
    }
    let others = seen.names().filter(|(other, within)| *within == of || *other == name || !known);
    let as_text = |label| std::str::from_utf8(label).ok();
    let others = others.filter_map(|(other, within)| Some((as_text(other)?, as_text(within)?)));
    let full = |(other, within): (&str, &str)| {
        let in_full = naming.style == Style::Kubernetes || within.as_bytes() != default;
        let labels = [Some(other), in_full.then_some(within)];
        let svc = (naming.style == Style::Kubernetes).then_some("svc");
        naming.zone.below(labels.into_iter().flatten().chain(svc)).to_string()
    };
    Absent { why, nearest: nearest(&wanted, others).into_iter().map(full).collect() }
}

/// The names, each with something of its own, that are nearest to `wanted`, if near enough to be a slip of the finger.
fn nearest<'a, T: Ord>(wanted: &str, known: impl Iterator<Item = (&'a str, T)>) -> Vec<(&'a str, T)> {
    let most = (wanted.len() / 3).clamp(1, 3);
    let near = known.filter(|(name, _)| name.len().abs_diff(wanted.len()) <= most);
    let near = near.map(|(name, with)| (strsim::osa_distance(wanted, name), name, with));
    let mut near: Vec<_> = near.filter(|(distance, ..)| *distance <= most).collect();
    near.sort();
    near.truncate(MOST);
    near.into_iter().map(|(_, name, with)| (name, with)).collect()
}
