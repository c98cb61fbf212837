//! What a name stands for, and why it answers what it answers, in words.

use super::types::Outcome;
use crate::{
    answer::AnswerOptions,
    index::{Entry, Here},
    naming::{Naming, Style},
    resolve::Target,
    reverse::Pointer,
    scope::Scope,
    view::DnsView,
    zone::Label,
};
use hickory_proto::rr::RecordType;
use mesh_control::model::{EndpointMode, Locality};

/// Most services that are named for claiming the same name.
const MOST_RIVALS: usize = 3;

/// A label as text.
pub(super) fn text(label: Label<'_>) -> String {
    String::from_utf8_lossy(label).into_owned()
}

/// Whether the answer to a question of `kind` depends on the addresses of the target's service.
pub(super) fn has_candidates(target: &Target<'_>, kind: RecordType) -> bool {
    match target {
        Target::Service(_) => matches!(kind, RecordType::A | RecordType::AAAA | RecordType::SRV),
        Target::Port { .. } => kind == RecordType::SRV,
        Target::Tasks(_) | Target::Instance(..) | Target::Address(..) => {
            matches!(kind, RecordType::A | RecordType::AAAA)
        }
        _ => false,
    }
}

/// The label that led to the service: its name or an alias.
pub(super) fn label<'n>(target: &Target<'_>, style: Style, left: &[Label<'n>]) -> Option<Label<'n>> {
    match (style, left) {
        (Style::Kubernetes, [.., name, _, b"svc"]) => Some(name),
        (Style::Kubernetes, _) => None,
        (Style::Mesh, _) => {
            let prefixes = left.iter().take_while(|l| l.starts_with(b"_")).count();
            let rest = left.get(prefixes..)?;
            let skipped = match (target, rest) {
                (Target::Port { .. }, [b"tasks", _, ..]) | (Target::Tasks(_) | Target::Instance(..), _) => 1,
                _ => 0,
            };
            rest.get(skipped).copied()
        }
    }
}

/// Which other services claim the name, when it is an alias or one has it as an alias.
pub(super) fn rivals(view: &DnsView, target: &Target<'_>, label: Label<'_>) -> Option<String> {
    let key = target.entry()?.key();
    let rivals = view.with_alias(key.namespace.as_str().as_bytes(), label).map(|entry| entry.key());
    let mut rivals: Vec<String> =
        rivals.filter(|rival| *rival != key).map(|rival| format!("`{rival}`")).collect();
    let more = if rivals.len() > MOST_RIVALS { " and others" } else { "" };
    rivals.truncate(MOST_RIVALS);
    let rule = if label == key.name.as_str().as_bytes() {
        "a service's own name goes first"
    } else {
        "the one whose name sorts first has it"
    };
    (!rivals.is_empty())
        .then(|| format!("{}{more} have `{}` as alias too: {rule}", rivals.join(", "), text(label)))
}

/// What the name stands for.
pub(super) fn meaning(target: &Target<'_>, label: Option<Label<'_>>) -> String {
    let service = || {
        let Some(key) = target.entry().map(|entry| entry.key()) else { return String::new() };
        let alias = label.filter(|label| *label != key.name.as_str().as_bytes());
        let alias = alias.map_or_else(String::new, |alias| format!(", by its alias `{}`", text(alias)));
        format!("service `{}` in namespace `{}`{alias}", key.name, key.namespace)
    };
    match target {
        Target::Apex => "the zone itself".to_owned(),
        Target::NameServer => "this name server".to_owned(),
        Target::Version => "the version of the Kubernetes DNS specification".to_owned(),
        Target::Service(_) | Target::External(_) => service(),
        Target::Tasks(_) => format!("every instance of {}", service()),
        Target::Instance(_, endpoints) => {
            let name = endpoints.first().map_or("", |e| e.endpoint.instance.as_str());
            format!("instance `{name}` of {}", service())
        }
        Target::Address(_, address) => format!("address {address} of {}", service()),
        Target::Port { vip_port, target_port, tasks, .. } => {
            let whose = if *tasks { "the instances' " } else { "" };
            format!("port {vip_port} ({whose}target {target_port}) of {}", service())
        }
        Target::Empty => "nothing itself: there are only names below it".to_owned(),
        Target::Absent => "nothing".to_owned(),
    }
}

/// Why a name that exists answers what it answers.
pub(super) fn why(target: &Target<'_>, kind: RecordType, outcome: Outcome, here: &Here) -> Vec<String> {
    let no_such = || format!("the name exists and has no {kind}");
    let one = |text: &str| vec![text.to_owned()];
    match (outcome, target) {
        (Outcome::NoData, Target::Empty) => {
            one("the name exists because names below it do (RFC 8020), and has no records of its own")
        }
        (Outcome::NoData, target) if has_candidates(target, kind) => {
            let mut all = vec![no_such()];
            all.extend(target.entry().map(|entry| nobody(target, entry)));
            all
        }
        (Outcome::NoData, _) => vec![no_such()],
        (Outcome::Failed, Target::External(_)) => one("its external_name is no domain name"),
        (Outcome::Alias | Outcome::Answer | Outcome::Forwarded, Target::External(entry)) => {
            let name = entry.view.spec.external_name.as_deref().unwrap_or_default();
            vec![format!("its external_name `{name}` stands for it (CNAME)")]
        }
        _ if kind == RecordType::ANY => one("ANY is answered minimally (RFC 8482)"),
        (_, Target::Service(entry) | Target::Port { entry, tasks: false, .. })
            if has_candidates(target, kind) =>
        {
            balanced(entry, kind, here)
        }
        (_, Target::Tasks(_) | Target::Port { tasks: true, .. }) => {
            one("every ready endpoint is answered, rotated, whatever its weight and the service's locality")
        }
        (_, Target::Instance(..)) => one("a ready instance is answered by its name"),
        (_, Target::Address(..)) => one("a ready endpoint has the address"),
        (_, Target::Service(_)) => one("the record describes the service"),
        (_, Target::NameServer) => one("the addresses that this server listens on"),
        (_, Target::Apex) => one("every zone has an SOA and an NS record"),
        (_, Target::Version) => one("the specification asks for it"),
        _ => Vec::new(),
    }
}

/// How a service's own name is answered.
fn balanced(entry: &Entry, kind: RecordType, here: &Here) -> Vec<String> {
    let spec = &entry.view.spec;
    if spec.endpoint_mode == EndpointMode::Vip {
        let what =
            if kind == RecordType::SRV { "the service's own name, and beside it its VIP" } else { "its VIP" };
        return vec![format!(
            "endpoint_mode is vip: the answer is {what}; which endpoint a connection goes to, `mesh-agent why` tells"
        )];
    }
    if kind == RecordType::SRV {
        return vec!["endpoint_mode is dnsrr: the answer is every ready endpoint, rotated".to_owned()];
    }
    let mut all = vec![
        "endpoint_mode is dnsrr: the answer is every ready endpoint of weight above 0, rotated".to_owned(),
    ];
    let node = &here.node;
    let zone = here.zone.as_ref().map_or_else(String::new, |zone| format!(" and of its zone {zone}"));
    all.extend(match spec.locality {
        Locality::Any => None,
        Locality::PreferLocal => {
            Some(format!("locality is prefer-local: those of this node {node} come first"))
        }
        Locality::PreferZone => {
            Some(format!("locality is prefer-zone: those of this node {node}{zone} come first"))
        }
        Locality::LocalOnly => Some(format!("locality is local-only: none but those of this node {node}")),
    });
    all
}

/// Why a service has no address of the family asked.
fn nobody(target: &Target<'_>, entry: &Entry) -> String {
    let spec = &entry.view.spec;
    let by_name = matches!(target, Target::Service(_));
    if by_name && spec.endpoint_mode == EndpointMode::Vip {
        return if entry.view.vips.is_empty() {
            "no VIP is claimed for the service yet".to_owned()
        } else {
            "the service has no VIP of that family".to_owned()
        };
    }
    let ready = entry.view.endpoints.iter().any(|e| e.endpoint.ready);
    match (ready, target) {
        (_, Target::Instance(..)) => "the instance is not ready, or has no address of that family".to_owned(),
        (false, _) => "none of its endpoints is ready".to_owned(),
        (true, _) => "no endpoint that may be answered has an address of that family".to_owned(),
    }
}

/// What else the name could have meant: `a.b` is service `a` of namespace `b` before it is instance `a` of service `b`.
pub(super) fn other_reading(naming: Naming<'_>, target: &Target<'_>, left: &[Label<'_>]) -> Option<String> {
    let (Style::Mesh, Target::Service(_) | Target::External(_), [name, service]) =
        (naming.style, target, left)
    else {
        return None;
    };
    let entry = naming.seen.service(None, service)?;
    let instance = &entry.instances(name).first()?.endpoint.instance;
    let other = naming.instance(entry.key(), instance.as_str());
    Some(format!("instance `{instance}` of service `{}` is {other}", entry.key().name))
}

/// What a reverse name stands for, and why it answers what it answers.
pub(super) fn of_pointer(pointer: &Pointer<'_>, kind: RecordType, outcome: Outcome) -> (String, String) {
    let spelled = &pointer.spelled;
    let meaning = match spelled.address() {
        Some(address) => format!("address {address}"),
        None if spelled.rest => format!("nothing: no address below network {}", spelled.network),
        None => format!("network {}", spelled.network),
    };
    let of_range = pointer.network.map_or_else(String::new, |network| {
        format!("; all names of {network}, a range of VIPs, are answered here and not forwarded")
    });
    let why = match outcome {
        Outcome::Answer if kind == RecordType::PTR => "services in sight have the address".to_owned(),
        Outcome::Answer if kind == RecordType::ANY => "ANY is answered minimally (RFC 8482)".to_owned(),
        Outcome::Answer => "every zone has an SOA and an NS record".to_owned(),
        Outcome::NoSuchName => format!("no VIP and no ready endpoint in sight has the address{of_range}"),
        _ => format!("the name exists and has no {kind}{of_range}"),
    };
    (meaning, why)
}

/// Why a name is forwarded.
pub(super) fn not_ours(options: &AnswerOptions, scope: &Scope, labels: &[Label<'_>]) -> Vec<String> {
    let mut zones = vec![format!("`{}`", options.zone.origin())];
    zones.extend(options.kubernetes.iter().map(|zone| format!("`{}`", zone.origin())));
    let mut all = vec![format!("it is neither below {} nor of an address of the mesh", zones.join(" or "))];
    if scope.bare_names && matches!(labels, [_] | [b"tasks", _]) {
        let namespace = scope.default_namespace();
        all.push(format!(
            "without the zone only services of namespace `{namespace}` are answered: none is called so"
        ));
    }
    if options.kubernetes.is_none() && matches!(labels, [.., _, b"svc" | b"pod", _, _]) {
        all.push("names as Kubernetes writes them are answered with dns.kubernetes only".to_owned());
    }
    all
}
