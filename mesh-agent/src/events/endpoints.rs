//! What happened to the endpoints of one service, one event for each way. Pure.

use super::event::{Kind, News};
use mesh_control::model::{Endpoint, EndpointView, NodeName, ServiceView, Snapshot};
use std::collections::BTreeMap;

/// Names listed before the rest is only counted.
const NAMED: usize = 5;

type Named<'a> = BTreeMap<(&'a str, &'a NodeName), &'a Endpoint>;

fn by_name(view: Option<&ServiceView>) -> Named<'_> {
    let list: &[EndpointView] = view.map_or(&[], |v| &v.endpoints);
    list.iter().map(|e| ((e.endpoint.instance.as_str(), &e.node), &e.endpoint)).collect()
}

fn is_up(snapshot: &Snapshot, node: &NodeName) -> bool {
    snapshot.nodes.get(node).is_some_and(|n| n.state.is_up())
}

/// Compares the endpoints of one service. The drain of a whole node is an event of the node, not of each service.
pub(super) fn endpoints(
    (old, before): (&Snapshot, Option<&ServiceView>),
    (new, after): (&Snapshot, &ServiceView),
) -> Vec<News> {
    if before.is_some_and(|b| std::sync::Arc::ptr_eq(&b.endpoints, &after.endpoints)) {
        return Vec::new();
    }
    let (had, has) = (by_name(before), by_name(Some(after)));
    let mut ways: BTreeMap<Kind, Vec<String>> = BTreeMap::new();
    for (id @ (instance, node), now) in &has {
        let kind = match had.get(id) {
            // A node that was down brings back what was hidden with it.
            None if before.is_some_and(|b| b.hidden_endpoints > after.hidden_endpoints)
                && old.nodes.contains_key(*node)
                && !is_up(old, node) =>
            {
                Some(Kind::EndpointsShown)
            }
            None => Some(Kind::EndpointsAdded),
            Some(was) => change(was, now),
        };
        if let Some(kind) = kind {
            let note = if kind == Kind::EndpointsAdded && !now.ready { " (not ready)" } else { "" };
            ways.entry(kind).or_default().push(format!("{instance}@{node}{note}"));
        }
    }
    for (instance, node) in had.keys().filter(|id| !has.contains_key(id)) {
        let kind = if is_up(new, node) { Kind::EndpointsRemoved } else { Kind::EndpointsHidden };
        ways.entry(kind).or_default().push(format!("{instance}@{node}"));
    }
    let ready = after.endpoints.iter().filter(|e| e.endpoint.ready).count();
    let news = |(kind, names): (Kind, Vec<String>)| {
        let text = format!("{}; {ready} of {} ready", list(&names), after.endpoints.len());
        News::new(kind, after.key.to_string(), text)
    };
    ways.into_iter().map(news).collect()
}

/// The one way that matters most.
fn change(was: &Endpoint, now: &Endpoint) -> Option<Kind> {
    if now.terminating && !was.terminating {
        return Some(Kind::EndpointsDraining);
    }
    if now.ready != was.ready {
        return Some(if now.ready { Kind::EndpointsReady } else { Kind::EndpointsUnready });
    }
    let place = |e: &Endpoint| (e.addresses, e.weight);
    (place(was) != place(now) || was.ports != now.ports).then_some(Kind::EndpointsChanged)
}

/// `a, b and 3 more`.
pub(super) fn list(names: &[String]) -> String {
    let shown = names.get(..NAMED).unwrap_or(names).join(", ");
    match names.len().saturating_sub(NAMED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
