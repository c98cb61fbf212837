//! Where the programs for packets hang at devices: at tcx, or, before Linux 6.6, as filters of the queueing discipline
//! `clsact`. Both stay when the agent goes.
//!
//! A filter of ours is known by its name, which also says whether the `clsact` it is in was made for it: so a later run
//! removes what an earlier one made, and nothing else.

use super::NAME;
use crate::sys::{
    netns::Netns,
    rtnl::{Classifier, Classifiers, Direction, Rtnl, errno},
};
use mesh_ebpf::{DeviceProgram, Kernel, place};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

/// How programs hang at devices.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Hook {
    /// At tcx where the kernel has it, else in `clsact`.
    #[default]
    Auto,
    /// At tcx (Linux 6.6).
    Tcx,
    /// In `clsact`.
    Clsact,
}

impl Hook {
    /// Whether it comes to filters on a kernel of that release (as `uname -r` says it).
    pub(super) fn filters(self, release: &str) -> io::Result<bool> {
        match (self, place::has_tcx(release)) {
            (Hook::Clsact, _) | (Hook::Auto, false) => Ok(true),
            (_, true) => Ok(false),
            (Hook::Tcx, false) => {
                let why = format!("Linux {release} has no tcx, which Linux 6.6 brought: set ebpf.hook: auto");
                Err(io::Error::new(io::ErrorKind::Unsupported, why))
            }
        }
    }
}

/// What filters of ours begin with.
const OURS: &str = "mesh-agent/";
/// What the name of a filter ends with whose `clsact` we made.
const MADE: &str = " in clsact of mesh-agent";
/// The place of our filters at a device, "me" in two bytes: behind those to which their makers gave a low number.
const PRIORITY: u16 = 0x6d65;
/// The number of our filter there.
const HANDLE: u32 = 1;

/// The name of a filter of ours.
fn name(direction: Direction, made: bool) -> String {
    let program = match direction {
        Direction::Ingress => "tc_ingress",
        Direction::Egress => "tc_egress",
    };
    format!("{OURS}{program}{}", if made { MADE } else { "" })
}

/// A change at a device.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Step {
    /// Gives it `clsact`.
    Make,
    /// Puts our program where nothing is.
    Add(Classifier),
    /// Puts it where another of ours is.
    Replace(Classifier),
    /// Takes a filter of ours off.
    Remove(Classifier),
    /// Takes `clsact` away.
    Unmake,
}

impl Step {
    /// What is wrong when it fails.
    fn failure(&self) -> &'static str {
        match self {
            Step::Make | Step::Add(_) => "its packets are not balanced",
            Step::Replace(_) => "its packets are balanced by another version's program",
            Step::Remove(_) | Step::Unmake => "its filters stay",
        }
    }
}

fn is_ours(classifier: &&Classifier) -> bool {
    classifier.name.starts_with(OURS)
}

/// What is to be done at a device, of which nothing is `there` without `clsact`, so that our programs, by their numbers,
/// are at it.
fn hooking(link: u32, there: Option<&Classifiers>, programs: &[(Direction, u32)]) -> Vec<Step> {
    let ours: Vec<&Classifier> = there.iter().flat_map(|t| t.programs.iter().filter(is_ours)).collect();
    let made = there.is_none() || ours.iter().any(|ours| ours.name.ends_with(MADE));
    let mut steps: Vec<Step> = there.is_none().then_some(Step::Make).into_iter().collect();
    let mut kept = Vec::new();
    for (direction, program) in programs {
        let wanted = Classifier {
            link,
            direction: *direction,
            priority: PRIORITY,
            handle: HANDLE,
            name: name(*direction, made),
            program: *program,
        };
        let place = |c: &Classifier| (c.direction, c.priority, c.handle);
        match ours.iter().find(|ours| place(ours) == place(&wanted)) {
            Some(there) => {
                kept.push(*there);
                if **there != wanted {
                    steps.push(Step::Replace(wanted));
                }
            }
            None => steps.push(Step::Add(wanted)),
        }
    }
    // Of a version with another place.
    let strays = ours.into_iter().filter(|ours| !kept.contains(ours));
    steps.extend(strays.cloned().map(Step::Remove));
    steps
}

/// What is to be done at a device that has `clsact`, so that nothing of ours is at it.
fn unhooking(there: &Classifiers) -> Vec<Step> {
    let ours: Vec<&Classifier> = there.programs.iter().filter(is_ours).collect();
    let alone = there.others == 0 && ours.len() == there.programs.len();
    let made = ours.iter().any(|ours| ours.name.ends_with(MADE));
    let removes = ours.into_iter().cloned().map(Step::Remove);
    removes.chain((alone && made).then_some(Step::Unmake)).collect()
}

/// The filters of all devices of the namespace that have `clsact`.
fn found(rtnl: &mut Rtnl) -> io::Result<BTreeMap<u32, Classifiers>> {
    rtnl.clsacts()?.into_iter().map(|link| Ok((link, rtnl.classifiers(link)?))).collect()
}

/// What was taken off devices, or would be, and what could not.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Unhooked {
    /// In words: `remove eBPF filters of eth0`.
    pub removed: Vec<String>,
    /// With the reason.
    pub failed: Vec<String>,
}

/// Takes our filters off all devices of the namespace, or only says what it would.
///
/// # Errors
/// When the kernel does not tell what there is.
pub fn unhook(rtnl: &mut Rtnl, dry_run: bool) -> io::Result<Unhooked> {
    let mut done = Unhooked::default();
    let steps: Vec<(u32, Vec<Step>)> =
        found(rtnl)?.iter().map(|(link, there)| (*link, unhooking(there))).collect();
    if steps.iter().all(|(_, steps)| steps.is_empty()) {
        return Ok(done);
    }
    let links = rtnl.links()?;
    for (index, steps) in steps {
        // One that is gone has nothing any more.
        let Some(link) = links.iter().find(|link| link.index == index) else { continue };
        let words = steps.iter().map(|step| match step {
            Step::Unmake => format!("remove clsact of {}", link.name),
            _ => format!("remove eBPF filters of {}", link.name),
        });
        let mut words: Vec<String> = words.collect();
        words.dedup();
        let took = if dry_run { Ok(()) } else { take_all(rtnl, index, &steps, &[]) };
        match took {
            Ok(()) => done.removed.extend(words),
            Err((_, error)) => done.failed.push(format!("{}: {error}", words.join(", "))),
        }
    }
    Ok(done)
}

/// Does what is to be done at a device, up to the first that fails: what would follow relies on it. `programs` are those
/// to put.
fn take_all<'a>(
    rtnl: &mut Rtnl,
    link: u32,
    steps: &'a [Step],
    programs: &[DeviceProgram<'_>],
) -> Result<(), (&'a Step, io::Error)> {
    let mut made = false;
    for step in steps {
        if let Err(error) = take(rtnl, link, step, programs) {
            // No filter says yet that it is ours.
            if made && matches!(step, Step::Add(ours) if ours.direction == Direction::Ingress) {
                drop(rtnl.remove_clsact(link));
            }
            return Err((step, error));
        }
        made |= *step == Step::Make;
    }
    Ok(())
}

fn take(rtnl: &mut Rtnl, link: u32, step: &Step, programs: &[DeviceProgram<'_>]) -> io::Result<()> {
    let program = |ours: &Classifier| {
        let program = programs.iter().find(|program| program.number == ours.program);
        program.map(|program| program.descriptor).ok_or(io::ErrorKind::NotFound)
    };
    match step {
        Step::Make => rtnl.add_clsact(link),
        // Somebody may have put something into it since it was looked at.
        Step::Unmake if rtnl.classifiers(link)? != Classifiers::default() => Ok(()),
        Step::Unmake => rtnl.remove_clsact(link),
        Step::Remove(ours) => rtnl.remove_classifier(ours),
        Step::Add(ours) => rtnl.add_classifier(ours, program(ours)?),
        Step::Replace(ours) => rtnl.replace_classifier(ours, program(ours)?),
    }
}

/// The devices that have the programs.
#[derive(Debug)]
pub(super) struct Devices {
    /// Whether as filters, not at tcx.
    filters: bool,
    have: BTreeSet<u32>,
    /// Whether a device had them, so that this kernel can.
    began: bool,
    /// Whether nothing of an earlier run hangs at the other hook.
    settled: bool,
    /// Devices whose failure was told, until it is over.
    told: BTreeSet<u32>,
}

impl Devices {
    /// Those of no device yet; as filters, or at tcx.
    pub(super) fn new(filters: bool) -> Devices {
        Devices { filters, have: BTreeSet::new(), began: false, settled: false, told: BTreeSet::new() }
    }

    /// Brings the programs to the devices `wanted`, and takes them off all others.
    pub(super) fn look(
        &mut self,
        kernel: &Kernel,
        (netns, rtnl): (&Netns, &mut Rtnl),
        wanted: BTreeSet<u32>,
    ) -> io::Result<()> {
        if self.filters {
            self.filter(kernel, rtnl, &wanted)?;
        } else if wanted != self.have {
            self.link(kernel, netns, &wanted)?;
        }
        if !self.settled {
            // A device that refuses filters keeps what it has.
            let refuse: Vec<u32> = self.told.iter().copied().collect();
            let other = if self.filters { kernel.only_devices(&refuse) } else { away(rtnl) };
            match other {
                Ok(()) => self.settled = refuse.is_empty(),
                Err(error) => tracing::warn!(plane = NAME, %error, "programs of the other hook stay"),
            }
        }
        self.have = wanted;
        Ok(())
    }

    /// Takes the programs off all devices.
    pub(super) fn forget(&mut self, rtnl: &mut Rtnl) -> io::Result<()> {
        *self = Devices::new(self.filters);
        away(rtnl)
    }

    /// At tcx.
    fn link(&mut self, kernel: &Kernel, netns: &Netns, wanted: &BTreeSet<u32>) -> io::Result<()> {
        let new: Vec<u32> = wanted.difference(&self.have).copied().collect();
        // A device is known by its number in the namespace of the thread that asks.
        netns.run(|| {
            for index in new {
                if let Err(error) = kernel.attach_device(index) {
                    tracing::warn!(plane = NAME, device = index, %error, "its packets are not balanced");
                }
            }
        })?;
        kernel.only_devices(&wanted.iter().copied().collect::<Vec<_>>())
    }

    /// In `clsact`. Looked at each time: `tc qdisc del` of somebody else takes our filters, too. It is an error when the
    /// kernel has no `clsact` or no programs as filters.
    fn filter(&mut self, kernel: &Kernel, rtnl: &mut Rtnl, wanted: &BTreeSet<u32>) -> io::Result<()> {
        let programs = kernel.device_programs()?;
        let [ingress, egress] = programs.map(|program| program.number);
        let numbers = [(Direction::Ingress, ingress), (Direction::Egress, egress)];
        let found = found(rtnl)?;
        let strangers = found.iter().filter(|(link, _)| !wanted.contains(link));
        let strangers = strangers.map(|(link, there)| (*link, unhooking(there)));
        let ours = wanted.iter().map(|link| (*link, hooking(*link, found.get(link), &numbers)));
        let (mut failed, mut lacking) = (BTreeSet::new(), Vec::new());
        for (link, steps) in strangers.chain(ours) {
            let Err((step, error)) = take_all(rtnl, link, &steps, &programs) else { continue };
            if !self.told.contains(&link) {
                let what = step.failure();
                tracing::warn!(plane = NAME, device = link, %error, "{what}");
            }
            failed.insert(link);
            // What the kernel says of a kind that it does not know.
            let lacks = matches!(errno(&error), Some(libc::ENOENT | libc::EOPNOTSUPP));
            lacking.extend(Some(error).filter(|_| lacks && matches!(step, Step::Make | Step::Add(_))));
        }
        self.told = failed;
        self.began |= lacking.len() < wanted.len();
        match lacking.pop() {
            Some(error) if !self.began => Err(error),
            _ => Ok(()),
        }
    }
}

/// Takes all filters of ours off.
fn away(rtnl: &mut Rtnl) -> io::Result<()> {
    let failed = unhook(rtnl, false)?.failed;
    if failed.is_empty() { Ok(()) } else { Err(io::Error::other(failed.join("; "))) }
}

#[cfg(test)]
mod tests;
