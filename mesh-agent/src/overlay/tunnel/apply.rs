//! Between the plan of the tunnels and the kernel.

use super::{
    end::{End, NAMES, Stamp, age, port},
    guard,
    plan::{Move, Observed, Scene, Tunnels, no_ipv6, refused},
};
use crate::{
    overlay::{
        config::{Encryption, OverlayConfig},
        host::{OverlayError, execute, underlay},
        plan::OverlayPlan,
        step::{Step, is_mark},
        thing::Thing,
    },
    sys::{
        rtnl::{Kind, Link, LinkChange, Rtnl, errno},
        ruleset, sysctl,
        wireguard::{PrivateKey, Wireguard},
    },
};
use mesh_control::model::{NodeName, Snapshot, Tunnel};
use ring::rand::{SecureRandom, SystemRandom};
use std::{
    io,
    time::{SystemTime, UNIX_EPOCH},
};

/// Rounds of looking and doing: a new device has to be seen before it can be set up.
const ROUNDS: usize = 4;

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// What the kernel holds.
fn observe(rtnl: &mut Rtnl, wireguard: &mut Wireguard) -> Result<Observed, OverlayError> {
    let mut observed = Observed::default();
    for (slot, name) in NAMES.into_iter().enumerate() {
        let Some(link) = rtnl.link(name)? else { continue };
        let is_one = link.kind == Kind::Wireguard;
        let device = is_one.then(|| wireguard.device(link.index)).transpose()?;
        let end = End::of(slot, link, device, now()).map_err(OverlayError::Conflict)?;
        let (key, _) = no_ipv6(name);
        observed.sysctls.extend(sysctl::read(&key)?.map(|value| (key, value)));
        observed.ends.push(end);
    }
    let here = |link: u32| observed.ends.iter().any(|end| end.link.index == link);
    let (addresses, routes) = (rtnl.addresses()?, rtnl.routes()?);
    let addresses = addresses.into_iter().filter(|a| here(a.link)).map(Thing::Address);
    let routes = routes.into_iter().map(Thing::Route);
    let routes = routes.filter(|route| route.link().is_some_and(here) || *route == refused());
    observed.things = addresses.chain(routes).collect();
    Ok(observed)
}

fn open() -> Result<Wireguard, OverlayError> {
    Wireguard::open().map_err(|error| OverlayError::NoWireguard(error.to_string()))
}

/// The steps that would be done, for people.
///
/// # Errors
/// [`OverlayError`].
pub fn pending(
    rtnl: &mut Rtnl,
    config: &OverlayConfig,
    plan: &OverlayPlan,
    snapshot: &Snapshot,
) -> Result<Vec<String>, OverlayError> {
    let Some(encryption) = &config.encryption else {
        return Ok(removal(rtnl)?.iter().map(ToString::to_string).collect());
    };
    let observed = observe(rtnl, &mut open()?)?;
    let is_up = |node: &NodeName| is_up(snapshot, node);
    let scene = Scene { plan, me: &snapshot.local, is_up: &is_up, encryption, now: now() };
    Ok(scene.steps(observed).0.iter().map(ToString::to_string).collect())
}

fn is_up(snapshot: &Snapshot, node: &NodeName) -> bool {
    snapshot.nodes.get(node).is_some_and(|view| view.state.is_up())
}

/// Brings the tunnels to what `plan` asks for and notes what was done and what failed; removes them where nothing is
/// encrypted.
///
/// # Errors
/// [`OverlayError`] when nothing could be done: above all [`OverlayError::NoWireguard`].
pub fn apply(
    rtnl: &mut Rtnl,
    config: &OverlayConfig,
    plan: &OverlayPlan,
    snapshot: &Snapshot,
    done: &mut Vec<String>,
    failed: &mut Vec<String>,
) -> Result<Tunnels, OverlayError> {
    let Some(encryption) = &config.encryption else {
        let steps = removal(rtnl)?;
        if !steps.is_empty() {
            // First: it would refuse what comes in plain from now on.
            ruleset::delete(&ruleset::tables(guard::TABLE)?)?;
        }
        for step in steps {
            note(execute(rtnl, &step), &step.to_string(), done, failed);
        }
        return Ok(Tunnels::default());
    };
    let mut wireguard = open()?;
    let is_up = |node: &NodeName| is_up(snapshot, node);
    let scene = Scene { plan, me: &snapshot.local, is_up: &is_up, encryption, now: now() };
    let mut tunnels = Tunnels::default();
    let mut turning = false;
    for round in 0.. {
        let observed = observe(rtnl, &mut wireguard)?;
        let moves;
        (moves, tunnels) = scene.steps(observed);
        turning |= tunnels.turning;
        if moves.is_empty() {
            failed.clear();
            break;
        }
        if round == ROUNDS {
            break;
        }
        failed.clear();
        let before = done.len();
        for step in &moves {
            note(step_by(rtnl, &mut wireguard, encryption, step), &step.to_string(), done, failed);
        }
        if let Some(reason) = failed.first().filter(|_| tunnels.announce.is_empty() && done.len() == before) {
            return Err(OverlayError::NoWireguard(reason.clone()));
        }
    }
    match guard::ensure(config.vni, config.port) {
        Ok(true) => done.push("refuse packets of the overlay that come in unsealed".into()),
        Ok(false) => {}
        Err(error) => tunnels.problems.push(format!(
            "packets of the overlay that come in unsealed are not refused: {error} (needs nf_tables); \
             let nobody but the nodes send to UDP port {}",
            config.port
        )),
    }
    Ok(Tunnels { turning, ..tunnels })
}

fn note(result: io::Result<()>, step: &str, done: &mut Vec<String>, failed: &mut Vec<String>) {
    match result {
        Ok(()) => done.push(step.to_owned()),
        Err(error) if errno(&error) == Some(libc::EADDRINUSE) => {
            failed.push(format!("{step}: {error}: write another port in overlay.encryption_port"));
        }
        Err(error) => failed.push(format!("{step}: {error}")),
    }
}

fn step_by(
    rtnl: &mut Rtnl,
    wireguard: &mut Wireguard,
    encryption: &Encryption,
    step: &Move,
) -> io::Result<()> {
    match step {
        Move::Make { slot, mtu } => make(rtnl, wireguard, encryption, *slot, *mtu),
        Move::Key(link, _) => wireguard.set_key(*link, &new_key()?),
        Move::Port(link, _, port) => wireguard.set_port(*link, *port),
        Move::Put(link, _, peer) => wireguard.put_peer(*link, peer),
        Move::Drop(link, key) => wireguard.remove_peer(*link, key),
        Move::Step(step) => execute(rtnl, step),
    }
}

fn new_key() -> io::Result<PrivateKey> {
    let mut random = [0; 32];
    SystemRandom::new().fill(&mut random).map_err(|_| io::Error::other("the system has no random bytes"))?;
    Ok(PrivateKey::of(random))
}

/// Makes a device with a key and a port, down. Whatever fails half way is made good by the next look.
fn make(
    rtnl: &mut Rtnl,
    wireguard: &mut Wireguard,
    encryption: &Encryption,
    slot: usize,
    mtu: u32,
) -> io::Result<()> {
    let name = NAMES[slot.min(1)];
    rtnl.create_wireguard(name, mtu)?;
    let link = rtnl.link(name)?.ok_or(io::ErrorKind::NotFound)?.index;
    let stamp = Stamp { since: now(), retired: None };
    rtnl.change_link(link, LinkChange::Alias(&stamp.alias()))?;
    wireguard.set_key(link, &new_key()?)?;
    wireguard.set_port(link, port(encryption, slot))
}

/// This node's ends for the others to know, before anything else is known: those that an earlier run left, or a new
/// one. What stands is not touched. Empty where nothing is encrypted.
///
/// # Errors
/// [`OverlayError`].
pub fn prepare(config: &OverlayConfig) -> Result<Vec<Tunnel>, OverlayError> {
    let Some(encryption) = &config.encryption else { return Ok(Vec::new()) };
    let mut rtnl = Rtnl::open()?;
    let through = underlay(&mut rtnl, config)?;
    let local = config.local().ok_or(OverlayError::NoUnderlay)?;
    let mut wireguard = open()?;
    for _ in 0..2 {
        let mut ends = observe(&mut rtnl, &mut wireguard)?.ends;
        ends.sort_by_key(age);
        if ends.iter().any(End::is_live) {
            return Ok(ends.iter().filter_map(|end| end.announced(encryption, now())).collect());
        }
        if rtnl.link(NAMES[0])?.is_none() {
            let mtu = through.mtu.saturating_sub(super::overhead(local));
            let made = make(&mut rtnl, &mut wireguard, encryption, 0, mtu);
            made.map_err(|error| OverlayError::NoWireguard(error.to_string()))?;
        }
    }
    Ok(Vec::new())
}

/// Begins to change the key, unless that goes on already; the next looks do the rest.
///
/// # Errors
/// [`OverlayError`].
pub fn rotate(rtnl: &mut Rtnl, config: &OverlayConfig) -> Result<(), OverlayError> {
    let Some(encryption) = &config.encryption else {
        return Err(OverlayError::Conflict(
            "nothing is encrypted: write overlay.encryption: wireguard".into(),
        ));
    };
    let mut wireguard = open()?;
    match &observe(rtnl, &mut wireguard)?.ends[..] {
        [only] => make(rtnl, &mut wireguard, encryption, 1 - only.slot.min(1), only.link.mtu)
            .map_err(OverlayError::Kernel),
        _ => Ok(()),
    }
}

/// The steps that remove all that is of this program.
///
/// # Errors
/// What the kernel says.
pub fn removal(rtnl: &mut Rtnl) -> io::Result<Vec<Step>> {
    let mut steps = Vec::new();
    let ours = |link: &Link| link.kind == Kind::Wireguard && link.alias.as_deref().is_some_and(is_mark);
    for name in NAMES {
        if let Some(link) = rtnl.link(name)?.filter(ours) {
            steps.push(Step::RemoveLink { index: link.index, name: link.name });
        }
    }
    let routes = rtnl.routes()?.into_iter().map(Thing::Route);
    steps.extend(routes.filter(|route| *route == refused()).map(Step::Remove));
    Ok(steps)
}
