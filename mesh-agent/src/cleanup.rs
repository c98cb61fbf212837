//! `mesh-agent cleanup`: removes from the kernel what an agent made in this network namespace, and nothing else.

use crate::{
    overlay::{
        OverlayConfig,
        apply::{leftovers, teardown},
        tunnel::guard,
    },
    sys::{
        rtnl::Rtnl,
        ruleset::{self, TableName},
    },
};
use std::{io, path::Path};

/// What was removed, or would be, and what could not.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Cleaned {
    /// In words: `remove link mesh0`.
    pub removed: Vec<String>,
    /// With the reason.
    pub failed: Vec<String>,
}

/// Removes everything from the calling thread's network namespace, the links of these names among it. A kind that fails
/// keeps no other from going. `bpffs` is where the eBPF plane pins, if that is not where it usually is.
#[must_use]
pub fn clean(links: &OverlayConfig, bpffs: Option<&Path>, dry_run: bool) -> Cleaned {
    let mut cleaned = Cleaned::default();
    #[cfg(not(feature = "ebpf"))]
    let _ = bpffs;
    // Before the tables, which name what is ours in it.
    #[cfg(feature = "nftables")]
    match crate::dataplane::ipvs::clean(dry_run) {
        Ok(removed) => cleaned.removed.extend(removed),
        Err(error) => cleaned.failed.push(format!("ipvs: {error}")),
    }
    match tables(dry_run) {
        Ok(removed) => cleaned.removed.extend(removed),
        Err(error) => cleaned.failed.push(format!("nftables: {error}")),
    }
    #[cfg(feature = "ebpf")]
    if let Err(error) = pins(bpffs, dry_run, &mut cleaned) {
        cleaned.failed.push(format!("ebpf: {error}"));
    }
    if let Err(error) = overlay(links, dry_run, &mut cleaned) {
        cleaned.failed.push(format!("overlay: {error}"));
    }
    cleaned
}

/// The names of the agent's tables of nf_tables, in whatever family: the data planes', the overlay's, the tunnels'.
const TABLES: [&str; 4] = ["mesh-agent", "mesh-agent-ipvs", "mesh-agent-overlay", guard::TABLE];

fn tables(dry_run: bool) -> io::Result<Vec<String>> {
    let mut tables = Vec::new();
    for name in TABLES {
        tables.extend(ruleset::tables(name)?);
    }
    if !dry_run {
        ruleset::delete(&tables)?;
    }
    Ok(tables.iter().map(|TableName { family, name }| format!("remove table {family} {name}")).collect())
}

fn overlay(links: &OverlayConfig, dry_run: bool, cleaned: &mut Cleaned) -> io::Result<()> {
    let mut rtnl = Rtnl::open()?;
    if dry_run {
        cleaned.removed.extend(leftovers(&mut rtnl, links)?.iter().map(ToString::to_string));
        return Ok(());
    }
    let (done, failed) = teardown(&mut rtnl, links)?;
    cleaned.removed.extend(done);
    cleaned.failed.extend(failed);
    Ok(())
}

#[cfg(feature = "ebpf")]
fn pins(bpffs: Option<&Path>, dry_run: bool, cleaned: &mut Cleaned) -> io::Result<()> {
    // Before the maps that these programs read.
    match Rtnl::open().and_then(|mut rtnl| crate::dataplane::ebpf::unhook(&mut rtnl, dry_run)) {
        Ok(unhooked) => {
            cleaned.removed.extend(unhooked.removed);
            cleaned.failed.extend(unhooked.failed);
        }
        Err(error) => cleaned.failed.push(format!("eBPF filters: {error}")),
    }
    for folder in crate::dataplane::ebpf::leftovers(bpffs)? {
        if !dry_run {
            mesh_ebpf::remove(&folder)?;
        }
        cleaned.removed.push(format!("remove eBPF programs and maps of {}", folder.display()));
    }
    Ok(())
}
