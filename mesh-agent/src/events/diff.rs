//! What happened between two snapshots of one run of one node. Pure.

use super::{
    change::{info, port, spec},
    endpoints::{endpoints, list},
    event::{Kind, News},
};
use mesh_control::model::{
    Changes, NodeState, NodeView, Origin, PublishedView, ServiceKey, ServiceView, Snapshot,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// What happened from `old` to `new`: nodes by name first, then services by key. Costs what changed, plus a look at
/// each node when any did.
#[must_use]
pub fn diff(old: &Snapshot, new: &Snapshot) -> Vec<News> {
    let mut news = Vec::new();
    if !old.nodes.ptr_eq(&new.nodes) {
        let names: BTreeSet<_> = old.nodes.keys().chain(new.nodes.keys()).collect();
        for name in names {
            let (was, is) = (old.nodes.get(name), new.nodes.get(name));
            if !same(was, is) {
                node(was.map(Arc::as_ref), is.map(Arc::as_ref), &mut news);
            }
        }
    }
    let keys: BTreeSet<ServiceKey> = match new.changed_since(old.revision) {
        Changes::Services(keys) => keys,
        Changes::All => old.services.keys().chain(new.services.keys()).cloned().collect(),
    };
    for key in &keys {
        let (was, is) = (old.services.get(key), new.services.get(key));
        if !same(was, is) {
            service((old, was.map(Arc::as_ref)), (new, is.map(Arc::as_ref)), &mut news);
        }
    }
    news
}

fn same<T>(a: Option<&Arc<T>>, b: Option<&Arc<T>>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (a, b) => a.is_none() && b.is_none(),
    }
}

fn node(old: Option<&NodeView>, new: Option<&NodeView>, news: &mut Vec<News>) {
    let Some(new) = new else {
        news.extend(old.map(|o| News::new(Kind::NodeForgotten, o.name.to_string(), "no longer known")));
        return;
    };
    let mut tell = |kind, text: String| news.push(News::new(kind, new.name.to_string(), text));
    let (kind, text) = match (old.map(|o| o.state), new.state) {
        (None, NodeState::Alive) => (Kind::NodeUp, "first seen"),
        (None, NodeState::Suspect) => (Kind::NodeSuspect, "first heard of, and it does not answer"),
        (None, NodeState::Down) => (Kind::NodeDown, "first heard of, and it is down"),
        (None, NodeState::Left) => (Kind::NodeLeft, "first heard of, and it has left"),
        (Some(NodeState::Suspect), NodeState::Alive) => (Kind::NodeUp, "answers again"),
        (Some(NodeState::Down), state) if state.is_up() => (Kind::NodeReturned, "was down"),
        (Some(NodeState::Left), state) if state.is_up() => (Kind::NodeReturned, "had left"),
        (Some(_), NodeState::Suspect) => (Kind::NodeSuspect, "missed a probe"),
        (Some(_), NodeState::Down) => (Kind::NodeDown, "does not answer; its endpoints are hidden"),
        (Some(_), NodeState::Left) => (Kind::NodeLeft, "said good-bye; its endpoints are hidden"),
        (Some(_), NodeState::Alive) => (Kind::NodeUp, ""),
    };
    if old.is_none_or(|o| o.state != new.state) {
        let text = match new.gossip.filter(|_| new.state.is_up()) {
            Some(address) => format!("{text}, at {address}"),
            None => text.to_owned(),
        };
        tell(kind, text);
    }
    let Some(old) = old else {
        if new.info.draining {
            tell(Kind::NodeDrained, "takes no new flow".to_owned());
        }
        return;
    };
    match (old.info.draining, new.info.draining) {
        (false, true) => tell(Kind::NodeDrained, "takes no new flow".to_owned()),
        (true, false) => tell(Kind::NodeUndrained, "takes new flows again".to_owned()),
        _ => {}
    }
    // Who is known by gossip before its record came says nothing of itself yet.
    let said = info(&old.info, &new.info);
    if !said.is_empty() && !old.info.version.is_empty() {
        tell(Kind::NodeChanged, said);
    }
}

fn service(
    (old, was): (&Snapshot, Option<&ServiceView>),
    (new, is): (&Snapshot, Option<&ServiceView>),
    news: &mut Vec<News>,
) {
    let Some(view) = is else {
        if let Some(was) = was {
            let text = format!("had {} endpoints, {} hidden", was.endpoints.len(), was.hidden_endpoints);
            news.push(News::new(Kind::ServiceWithdrawn, was.key.to_string(), text));
        }
        return;
    };
    let mut tell = |kind, text: String| news.push(News::new(kind, view.key.to_string(), text));
    match was {
        None => {
            let ports: Vec<String> = view.spec.ports.iter().map(port).collect();
            let ports = if ports.is_empty() { "no ports".to_owned() } else { list(&ports) };
            tell(Kind::ServiceDeclared, format!("by {}: {ports}", by(&view.origins)));
        }
        Some(was) if was.spec != view.spec => {
            tell(Kind::ServiceChanged, format!("by {}: {}", by(&view.origins), spec(&was.spec, &view.spec)));
        }
        Some(_) => {}
    }
    conflict(was, view, &mut tell);
    vips(was, view, &mut tell);
    ports(was, view, &mut tell);
    news.extend(endpoints((old, was), (new, view)));
}

/// Whose declaration is in force.
fn by(origins: &[Origin]) -> String {
    origins.first().map_or_else(|| "nobody".to_owned(), origin)
}

fn origin(origin: &Origin) -> String {
    match origin {
        Origin::Cluster => "cluster".to_owned(),
        Origin::Node(name) => format!("node:{name}"),
    }
}

fn conflict(was: Option<&ServiceView>, view: &ServiceView, tell: &mut impl FnMut(Kind, String)) {
    let before = was.and_then(|w| w.conflict.as_ref());
    match &view.conflict {
        now @ Some(conflict) if before != now.as_ref() => {
            let others: Vec<String> = conflict.overruled.iter().map(origin).collect();
            let text = format!("{} is in force, {} differs", origin(&conflict.in_force), list(&others));
            tell(Kind::ServiceConflict, text);
        }
        None if before.is_some() => tell(Kind::ServiceConflictOver, "all declarations agree".to_owned()),
        _ => {}
    }
}

fn vips(was: Option<&ServiceView>, view: &ServiceView, tell: &mut impl FnMut(Kind, String)) {
    let before = was.map(|w| w.vips).unwrap_or_default();
    let families = [
        (before.v4.map(|a| a.to_string()), view.vips.v4.map(|a| a.to_string())),
        (before.v6.map(|a| a.to_string()), view.vips.v6.map(|a| a.to_string())),
    ];
    for pair in families {
        match pair {
            (None, Some(vip)) => tell(Kind::VipClaimed, vip),
            (Some(vip), None) => tell(Kind::VipLost, vip),
            (Some(from), Some(to)) if from != to => tell(Kind::VipChanged, format!("{from} -> {to}")),
            _ => {}
        }
    }
}

fn ports(was: Option<&ServiceView>, view: &ServiceView, tell: &mut impl FnMut(Kind, String)) {
    // By what clients dial, as the place in the list moves when a port above it goes.
    let by_port = |v: &ServiceView| -> BTreeMap<String, PublishedView> {
        let named = v.published.iter().filter_map(|p| {
            let spec = v.spec.ports.get(p.index)?;
            let at = spec.publish.as_ref().and_then(|p| p.address).map(|a| format!(" at {a}"));
            Some((format!("{}{}", port(spec), at.unwrap_or_default()), p.clone()))
        });
        named.collect()
    };
    let (before, now) = (was.map(by_port).unwrap_or_default(), by_port(view));
    for (name, p) in &now {
        let old = before.get(name);
        let chosen =
            view.spec.ports.get(p.index).and_then(|s| s.publish.as_ref()).is_some_and(|p| p.port.is_none());
        if let Some(got) = p.port.filter(|got| chosen && old.and_then(|o| o.port) != Some(*got)) {
            tell(Kind::PortClaimed, format!("{name} on {got}/{}", p.protocol));
        }
        let (held, holder) = (old.and_then(|o| o.conflict.as_ref()), p.conflict.as_ref());
        let which = p.port.map_or_else(|| "its port".to_owned(), |p| p.to_string());
        match (held, holder) {
            (before, Some(holder)) if before != Some(holder) => {
                tell(Kind::PortConflict, format!("{which}/{} is held by {holder}", p.protocol));
            }
            (Some(holder), None) => {
                let text = format!("{which}/{} is its own, no longer held by {holder}", p.protocol);
                tell(Kind::PortConflictOver, text);
            }
            _ => {}
        }
    }
    for (name, p) in before.iter().filter(|(name, _)| !now.contains_key(*name)) {
        if let Some(holder) = &p.conflict {
            tell(Kind::PortConflictOver, format!("{name}, held by {holder}, is no longer wanted"));
        }
    }
}
