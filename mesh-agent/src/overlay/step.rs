//! What has to change in the kernel: a pure function of what is there and what should be.

use super::{
    plan::OverlayPlan,
    sysctls::{self, MARK, Sysctl},
    thing::Thing,
};
use crate::sys::rtnl::{Kind, Link, Mac, NewLink};
use mesh_control::model::Family;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// The link that this node's address on the underlay is on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Underlay {
    /// Its name.
    pub name: String,
    /// Its MTU, bytes.
    pub mtu: u32,
}

/// What the kernel holds of the overlay.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Observed {
    /// The link that has the bridge's name.
    pub bridge: Option<Link>,
    /// The link that has the VXLAN device's name.
    pub vxlan: Option<Link>,
    /// What is on them, and the rules.
    pub things: BTreeSet<Thing>,
    /// The parameters that the overlay needs and that there are.
    pub sysctls: BTreeMap<String, String>,
}

/// One change in the kernel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Make a link.
    CreateLink(NewLink),
    /// Remove a link of ours that cannot be changed into what it should be.
    RemoveLink {
        /// Its index.
        index: u32,
        /// Its name.
        name: String,
    },
    /// Change a link of ours.
    ChangeLink {
        /// Its index.
        index: u32,
        /// Its name.
        name: String,
        /// What.
        change: Change,
    },
    /// Write a parameter.
    Sysctl(Sysctl),
    /// Make what is not there.
    Add(Thing),
    /// Change what is there under the same key.
    Replace(Thing),
    /// Remove what nobody wants.
    Remove(Thing),
}

/// One change of a link.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// Set it up.
    Up,
    /// MTU, bytes.
    Mtu(u32),
    /// Link-layer address.
    Mac(Mac),
    /// The note by which it is known again.
    Alias(String),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::CreateLink(new) => write!(f, "make link {} ({}, mtu {})", new.name, new.mac, new.mtu),
            Step::RemoveLink { name, .. } => write!(f, "remove link {name}"),
            Step::ChangeLink { name, change, .. } => match change {
                Change::Up => write!(f, "set link {name} up"),
                Change::Mtu(mtu) => write!(f, "give link {name} the mtu {mtu}"),
                Change::Mac(mac) => write!(f, "give link {name} the address {mac}"),
                Change::Alias(alias) => write!(f, "give link {name} the alias `{alias}`"),
            },
            Step::Sysctl((key, value)) => write!(f, "write net/{key} = {value}"),
            Step::Add(thing) => write!(f, "add {thing}"),
            Step::Replace(thing) => write!(f, "change to {thing}"),
            Step::Remove(thing) => write!(f, "remove {thing}"),
        }
    }
}

/// Whether a link of the wanted name is this program's: it carries the mark, or, should the agent have died between
/// making it and marking it, the link-layer address that only this node derives.
pub(super) fn is_ours(link: &Link, wanted: &NewLink) -> bool {
    let same_kind = match wanted.kind {
        Kind::Vxlan(_) => matches!(link.kind, Kind::Vxlan(_)),
        _ => link.kind == wanted.kind,
    };
    let marked = link.alias.as_deref().is_some_and(is_mark);
    same_kind && (marked || link.mac == Some(wanted.mac))
}

/// Whether an alias is this program's.
#[must_use]
pub fn is_mark(alias: &str) -> bool {
    alias.split(' ').next() == Some(MARK)
}

/// The steps from `observed` to `plan`, in order; empty when nothing differs. Of families that are not `settled`
/// nothing is touched: what they should have is not known yet.
///
/// # Errors
/// A link of a name that the overlay needs is somebody else's; the text names it and the fix.
pub fn steps(
    observed: &Observed,
    plan: &OverlayPlan,
    underlay: &Underlay,
    settled: &BTreeSet<Family>,
) -> Result<Vec<Step>, String> {
    let of_host = sysctls::changes(&sysctls::of_host(plan, &underlay.name), &observed.sysctls);
    let alias = {
        let bridge = observed.bridge.as_ref();
        let mut before = sysctls::remembered(bridge.and_then(|link| link.alias.as_deref()));
        for (key, _) in &of_host {
            if let Some(value) = observed.sysctls.get(key) {
                before.entry(key.clone()).or_insert_with(|| value.clone());
            }
        }
        sysctls::remember(&before)
    };
    let mut steps = Vec::new();
    let links = [
        (&observed.bridge, &plan.bridge, alias.as_str(), "overlay.bridge"),
        (&observed.vxlan, &plan.vxlan, MARK, "overlay.device"),
    ];
    for (found, wanted, alias, field) in links {
        steps.extend(link_steps(found.as_ref(), wanted, alias, field)?);
    }
    let of_links = sysctls::changes(&sysctls::of_links(plan, &observed.sysctls), &observed.sysctls);
    steps.extend(of_links.into_iter().chain(of_host).map(Step::Sysctl));
    for link in [&observed.bridge, &observed.vxlan].into_iter().flatten().filter(|link| !link.up) {
        let (index, name) = (link.index, link.name.clone());
        steps.push(Step::ChangeLink { index, name, change: Change::Up });
    }
    let index = |link: &Option<Link>| link.as_ref().map_or(0, |link| link.index);
    let wanted = plan.things(index(&observed.bridge), index(&observed.vxlan));
    let known = |thing: &&Thing| thing.family().is_none_or(|family| settled.contains(&family));
    steps.extend(thing_steps(&observed.things, &wanted, known));
    Ok(steps)
}

fn link_steps(found: Option<&Link>, wanted: &NewLink, alias: &str, field: &str) -> Result<Vec<Step>, String> {
    let create = Step::CreateLink(wanted.clone());
    let Some(link) = found else { return Ok(vec![create]) };
    if !is_ours(link, wanted) {
        return Err(format!(
            "the link {} is not this program's: remove it, or write another name in {field}",
            link.name
        ));
    }
    let (index, name) = (link.index, link.name.clone());
    if link.kind != wanted.kind {
        return Ok(vec![Step::RemoveLink { index, name }, create]);
    }
    let changes = [
        (link.alias.as_deref() != Some(alias)).then(|| Change::Alias(alias.to_owned())),
        (link.mac != Some(wanted.mac)).then_some(Change::Mac(wanted.mac)),
        (link.mtu != wanted.mtu).then_some(Change::Mtu(wanted.mtu)),
    ];
    let step = |change| Step::ChangeLink { index, name: name.clone(), change };
    Ok(changes.into_iter().flatten().map(step).collect())
}

/// The steps from the things `observed` to those `wanted`, of those that are `known`.
pub(super) fn thing_steps(
    observed: &BTreeSet<Thing>,
    wanted: &BTreeSet<Thing>,
    known: impl Fn(&&Thing) -> bool,
) -> Vec<Step> {
    let keys = |things: &BTreeSet<Thing>| things.iter().map(Thing::key).collect::<BTreeSet<_>>();
    let (held, kept) = (keys(observed), keys(wanted));
    let gone = observed.iter().filter(|thing| known(thing) && !kept.contains(&thing.key()));
    let new = wanted
        .difference(observed)
        .filter(|thing| known(thing))
        .map(|thing| if held.contains(&thing.key()) { Step::Replace(*thing) } else { Step::Add(*thing) });
    // What leads somewhere goes before what it needs.
    gone.rev().map(|thing| Step::Remove(*thing)).chain(new).collect()
}

/// The steps that remove all of `observed` that is this program's, the `ports` of containers included, and put the
/// parameters of the host back that still stand as it left them.
#[must_use]
pub fn removal(observed: &Observed, ports: &[Link], now: &BTreeMap<String, String>) -> Vec<Step> {
    let ours = |link: &&Link| link.alias.as_deref().is_some_and(is_mark);
    let bridge = observed.bridge.as_ref().filter(ours);
    let vxlan = observed.vxlan.as_ref().filter(ours);
    let on_ours = |link| [bridge, vxlan].into_iter().flatten().any(|l| l.index == link);
    let things = observed.things.iter().filter(|thing| thing.link().is_none_or(on_ours));
    let mut steps: Vec<Step> = things.rev().map(|thing| Step::Remove(*thing)).collect();
    let links = ports.iter().chain(vxlan).chain(bridge);
    steps.extend(links.map(|link| Step::RemoveLink { index: link.index, name: link.name.clone() }));
    let before = sysctls::remembered(bridge.and_then(|link| link.alias.as_deref()));
    let still = |(key, _): &Sysctl| now.get(key).is_some_and(|value| sysctls::written(key) == Some(value));
    let mut back: Vec<Sysctl> = before.into_iter().filter(still).collect();
    // A host that still forwards would drop its own default route.
    back.sort_by_key(|(key, _)| key.ends_with(sysctls::ACCEPT_RA));
    steps.extend(back.into_iter().map(Step::Sysctl));
    steps
}
