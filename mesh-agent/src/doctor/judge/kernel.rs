//! The kernel, its features and its clock.

use crate::config::{HookChoice, XdpChoice};
use crate::doctor::{
    facts::{Facts, Need, Probed},
    finding::{Finding, Level},
};

/// The netdev egress hook, which gives replies of the routing mesh back to the node they came in on.
const EGRESS: (u32, u32) = (5, 16);
/// The first kernel that the eBPF data plane's programs are tried on.
const PROGRAMS: (u32, u32) = (6, 1);
/// Where they hang at devices, before which they are filters of `clsact`.
const TCX: (u32, u32) = (6, 6);
/// What the data planes are written for.
const OLDEST: (u32, u32) = (5, 4);
/// No clock that is right shows less: 2026-01-01.
const EARLIEST: u64 = 1_767_225_600;

/// Seconds by which nodes may differ.
const SKEW: u64 = 60;

pub(super) fn judge(facts: &Facts, findings: &mut Vec<Finding>) {
    findings.push(version(&facts.kernel));
    features(facts, findings);
    findings.push(ebpf(facts));
    findings.extend(xdp(facts));
    findings.push(match (facts.ipvs, facts.wanted.ipvs) {
        (true, _) => Finding::ok("ipvs", "there"),
        (false, false) => Finding::ok("ipvs", "not loaded; only the ipvs data plane needs it"),
        (false, true) => Finding::with_fix(
            "ipvs",
            Level::Fail,
            "this kernel has no IPVS, or has not loaded it",
            "modprobe ip_vs, or set data_plane: auto",
        ),
    });
    findings.push(clock(facts));
}

/// Whether the kernel is of that version or a later one.
fn since(facts: &Facts, first: (u32, u32)) -> bool {
    numbers(&facts.kernel).is_some_and(|version| version >= first)
}

/// What the eBPF data plane needs.
fn ebpf(facts: &Facts) -> Finding {
    let bpf = facts.bpf;
    let needs = [
        (bpf.syscall, "bpf(2)"),
        (bpf.btf, "BTF"),
        (bpf.cgroup2, "a mounted cgroup2"),
        (since(facts, PROGRAMS), "Linux 6.1"),
        (
            since(facts, TCX) || facts.wanted.hook != HookChoice::Tcx,
            "tcx (Linux 6.6), which ebpf.hook asks for",
        ),
    ];
    let lacking: Vec<&str> = needs.into_iter().filter_map(|(there, what)| (!there).then_some(what)).collect();
    if lacking.is_empty() {
        let tcx = since(facts, TCX) && facts.wanted.hook != HookChoice::Clsact;
        let hook = if tcx { "tcx" } else { "clsact" };
        return Finding::ok("ebpf", format!("bpf(2), BTF and cgroup2 are there; at devices by {hook}"));
    }
    let found = format!("not there: {}; only the ebpf data plane needs it", lacking.join(", "));
    match facts.wanted.ebpf.missing() {
        Level::Ok => Finding::ok("ebpf", found),
        level => {
            let fix = "boot Linux 6.1 (for ebpf.hook: tcx, 6.6) or later with BPF, BTF and cgroup2, or set data_plane: nftables";
            Finding::with_fix("ebpf", level, found, fix)
        }
    }
}

/// Which devices have the eBPF data plane's program in their drivers. Said where it is asked for, or there.
fn xdp(facts: &Facts) -> Option<Finding> {
    let asked = facts.wanted.xdp != XdpChoice::Off;
    if !facts.drivers.is_empty() {
        return Some(Finding::ok("xdp", format!("packets are taken at XDP on {}", facts.drivers.join(", "))));
    }
    match (asked, facts.agent) {
        (false, _) => None,
        (true, false) => Some(Finding::ok("xdp", "asked for; no agent runs that would use it")),
        (true, true) => Some(Finding::with_fix(
            "xdp",
            Level::Warn,
            "on no device: packets are taken behind the driver",
            if since(facts, (6, 3)) {
                "see the agent's log for the devices whose drivers refused it, or set ebpf.xdp: off"
            } else {
                "boot Linux 6.3 or later, which says which devices can, or set ebpf.xdp: off"
            },
        )),
    }
}

/// The first two numbers of a release, as `uname -r` says it.
fn numbers(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn version(release: &str) -> Finding {
    let Some(version) = numbers(release) else {
        let found = format!("`{release}` is no kernel version");
        return Finding::with_fix("kernel", Level::Warn, found, "uname -r");
    };
    match version {
        old if old < OLDEST => {
            let found = format!("Linux {release} is older than {}.{}", OLDEST.0, OLDEST.1);
            Finding::with_fix(
                "kernel",
                Level::Warn,
                found,
                "boot a newer kernel, or set data_plane: userspace",
            )
        }
        old if old < EGRESS => {
            let found = format!("Linux {release} has no netdev egress hook");
            let fix = format!(
                "boot Linux {}.{} or later to keep the client's address between nodes",
                EGRESS.0, EGRESS.1
            );
            Finding::with_fix("kernel", Level::Warn, found, fix)
        }
        _ => Finding::ok("kernel", format!("Linux {release}")),
    }
}

fn features(facts: &Facts, findings: &mut Vec<Finding>) {
    let overlay = if facts.wanted.overlay.is_empty() { Need::No } else { Need::Required };
    let probes = match &facts.probes {
        Ok(probes) => probes,
        Err(why) => {
            let level = facts.wanted.kernel_plane.missing().max(overlay.missing());
            let found = format!("the kernel's features cannot be tried: {why}");
            return findings.push(Finding::with_fix(
                "features",
                level.min(Level::Warn),
                found,
                "sudo mesh-agent doctor",
            ));
        }
    };
    for (check, of_overlay, need) in
        [("nftables", false, facts.wanted.kernel_plane), ("overlay-links", true, overlay)]
    {
        let mine: Vec<&Probed> = probes.iter().filter(|p| p.overlay == of_overlay).collect();
        for probe in &mine {
            let Some(why) = &probe.missing else { continue };
            let fix = match probe.module {
                Some(module) => format!("modprobe {module}"),
                None => format!("boot Linux {}.{} or later with CONFIG_NETFILTER_EGRESS", EGRESS.0, EGRESS.1),
            };
            // Without the hook the rest still works.
            let level = if probe.module.is_some() { need.missing() } else { need.missing().min(Level::Warn) };
            findings.push(Finding::with_fix(check, level, format!("no {}: {why}", probe.name), fix));
        }
        if mine.iter().all(|probe| probe.missing.is_none()) {
            let names: Vec<&str> = mine.iter().map(|probe| probe.name).collect();
            findings.push(Finding::ok(check, names.join(", ")));
        }
    }
}

fn clock(facts: &Facts) -> Finding {
    let fix = "timedatectl set-ntp true";
    match facts.clock {
        clock if clock.unix < EARLIEST => {
            let found = "the clock is years behind: other nodes' changes look like the future, and this node's are old";
            Finding::with_fix("clock", Level::Fail, found, fix)
        }
        clock if clock.last_written.is_some_and(|last| last > clock.unix + SKEW) => {
            let found =
                "the clock is before the time at which the agent last wrote its state: it was set back";
            Finding::with_fix("clock", Level::Warn, found, fix)
        }
        clock if clock.synchronised == Some(false) => {
            let found = "nothing keeps the clock right (adjtimex); nodes may differ by 60 s at most";
            Finding::with_fix("clock", Level::Warn, found, fix)
        }
        _ => Finding::ok("clock", "in step"),
    }
}
