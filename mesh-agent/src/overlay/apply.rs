//! Between the plan and the kernel: looks, does the steps, looks again.

use super::{
    attach::ports,
    config::OverlayConfig,
    host::{OverlayError, execute, underlay},
    plan::{OverlayPlan, RETURN_TABLE, plan},
    step::{Observed, Step, Underlay, is_ours, removal, steps},
    sysctls,
    thing::Thing,
    tunnel::{self, plan::Tunnels},
};
use crate::sys::{
    rtnl::{Link, Rtnl},
    sysctl,
};
use mesh_control::model::{Family, Snapshot};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

/// Rounds of looking and doing: new links need a second, and a removed address takes routes along.
const ROUNDS: usize = 4;

/// What came of it.
#[derive(Clone, Debug)]
pub struct Applied {
    /// What the overlay should be.
    pub plan: OverlayPlan,
    /// Through what.
    pub underlay: Underlay,
    /// How the tunnels stand.
    pub tunnels: Tunnels,
    /// The steps that were done, for people.
    pub done: Vec<String>,
    /// The steps that failed, each with the kernel's reason.
    pub failed: Vec<String>,
}

/// What the kernel holds under the names that `config` gives. `parameters` are looked up, too.
fn observe(rtnl: &mut Rtnl, config: &OverlayConfig, parameters: &[String]) -> io::Result<Observed> {
    let bridge = rtnl.link(&config.bridge)?;
    let vxlan = rtnl.link(&config.device)?;
    let indexes: Vec<u32> = [&bridge, &vxlan].into_iter().flatten().map(|link| link.index).collect();
    let here = |link: u32| indexes.contains(&link);
    let mut things = BTreeSet::new();
    things.extend(rtnl.addresses()?.into_iter().filter(|a| here(a.link)).map(Thing::Address));
    things.extend(rtnl.routes()?.into_iter().filter(|r| here(r.link)).map(Thing::Route));
    if let Some(vxlan) = &vxlan {
        things.extend(rtnl.neighbours(vxlan.index)?.into_iter().map(Thing::Neighbour));
        things.extend(rtnl.fdb(vxlan.index)?.into_iter().map(Thing::Fdb));
    }
    let rules = rtnl.rules()?.into_iter().filter(|rule| rule.table == RETURN_TABLE);
    things.extend(rules.map(Thing::Rule));
    Ok(Observed { bridge, vxlan, things, sysctls: read(parameters)? })
}

fn read(parameters: &[String]) -> io::Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for key in parameters {
        if let Some(value) = sysctl::read(key)? {
            found.insert(key.clone(), value);
        }
    }
    Ok(found)
}

/// The steps that would bring the kernel to `plan`.
///
/// # Errors
/// [`OverlayError`].
pub fn pending(
    rtnl: &mut Rtnl,
    config: &OverlayConfig,
    plan: &OverlayPlan,
    underlay: &Underlay,
    settled: &BTreeSet<Family>,
) -> Result<Vec<Step>, OverlayError> {
    let of_links = sysctls::of_links(plan, &BTreeMap::new());
    let wanted = of_links.into_iter().chain(sysctls::of_host(plan, &underlay.name)).map(|(key, _)| key);
    let parameters: Vec<String> = wanted.chain(sysctls::FACTS.map(str::to_owned)).collect();
    let observed = observe(rtnl, config, &parameters)?;
    steps(&observed, plan, underlay, settled).map_err(OverlayError::Conflict)
}

/// Brings the kernel to what `snapshot` asks for, in the families that are `settled`; writes nothing where nothing
/// differs.
///
/// # Errors
/// [`OverlayError`] when nothing could be done; a single step that fails is told in [`Applied::failed`].
pub fn apply(
    rtnl: &mut Rtnl,
    config: &OverlayConfig,
    snapshot: &Snapshot,
    settled: &BTreeSet<Family>,
) -> Result<Applied, OverlayError> {
    let local = config.local().ok_or(OverlayError::NoUnderlay)?;
    let underlay = underlay(rtnl, config)?;
    let plan = plan(snapshot, config, local, underlay.mtu);
    let (mut done, mut failed) = (Vec::new(), Vec::new());
    let tunnels = match tunnel::apply::apply(rtnl, config, &plan, snapshot, &mut done, &mut failed) {
        Ok(tunnels) => tunnels,
        Err(error) => {
            silence(rtnl, &plan)?;
            return Err(error);
        }
    };
    let half = failed;
    let mut applied = Applied { plan, underlay, tunnels, done, failed: Vec::new() };
    for _ in 0..ROUNDS {
        let steps = pending(rtnl, config, &applied.plan, &applied.underlay, settled)?;
        if steps.is_empty() || !run(rtnl, &steps, &mut applied.done, &mut applied.failed) {
            break;
        }
    }
    applied.failed.extend(half);
    if let Some(reason) = applied.failed.first()
        && (rtnl.link(&config.bridge)?.is_none() || rtnl.link(&config.device)?.is_none())
    {
        return Err(OverlayError::Refused(reason.clone()));
    }
    Ok(applied)
}

/// Without tunnels nothing goes on in plain through a device that an earlier configuration left.
fn silence(rtnl: &mut Rtnl, plan: &OverlayPlan) -> io::Result<()> {
    let left = rtnl.link(&plan.vxlan.name)?.filter(|link| is_ours(link, &plan.vxlan));
    match left.filter(|link| link.kind != plan.vxlan.kind) {
        Some(link) => rtnl.remove_link(link.index),
        None => Ok(()),
    }
}

/// Removes everything that is this program's and puts back the parameters of the host that it changed. Returns what was
/// done and what failed.
///
/// # Errors
/// What the kernel says when it cannot be asked.
pub fn teardown(rtnl: &mut Rtnl, config: &OverlayConfig) -> io::Result<(Vec<String>, Vec<String>)> {
    let steps = leftovers(rtnl, config)?;
    let (mut done, mut failed) = (Vec::new(), Vec::new());
    run(rtnl, &steps, &mut done, &mut failed);
    Ok((done, failed))
}

/// The steps that [`teardown`] would do.
///
/// # Errors
/// What the kernel says.
pub fn leftovers(rtnl: &mut Rtnl, config: &OverlayConfig) -> io::Result<Vec<Step>> {
    let observed = observe(rtnl, config, &[])?;
    let alias = observed.bridge.as_ref().and_then(|bridge| bridge.alias.as_deref());
    let parameters: Vec<String> = sysctls::remembered(alias).into_keys().collect();
    let ports: Vec<Link> = ports(rtnl)?.into_iter().map(|(link, _)| link).collect();
    let mut steps = removal(&observed, &ports, &read(&parameters)?);
    steps.extend(tunnel::apply::removal(rtnl)?);
    Ok(steps)
}

/// Does the steps; whether any succeeded. After a link was made or removed the rest waits for another look.
fn run(rtnl: &mut Rtnl, steps: &[Step], done: &mut Vec<String>, failed: &mut Vec<String>) -> bool {
    failed.clear();
    let before = done.len();
    let creates = steps.iter().any(|step| matches!(step, Step::CreateLink(_)));
    for step in steps {
        if creates && !matches!(step, Step::CreateLink(_) | Step::RemoveLink { .. }) {
            continue;
        }
        match execute(rtnl, step) {
            Ok(()) => done.push(step.to_string()),
            Err(error) => failed.push(format!("{step}: {error}")),
        }
    }
    done.len() > before
}
