//! Removing everything of ours from the kernel, and nothing else.

use super::{host::Ground, observe, rules};
use crate::sys::{
    ipvs::{Command, Ipvs, IpvsError, Virtual},
    nft::{Nft, Transaction},
    ruleset,
};
use std::io;

/// What IPVS holds of ours.
fn ours(ipvs: &mut Ipvs, nft: &mut Nft, ground: &mut Ground) -> io::Result<Vec<Virtual>> {
    let mut vips = observe::named_vips(nft)?;
    if let Some(link) = ground.link()? {
        vips.extend(ground.vips(link.index)?);
    }
    Ok(observe::programs(ipvs, &vips)?.into_keys().collect())
}

fn delete(ipvs: &mut Ipvs, services: Vec<Virtual>) -> io::Result<()> {
    super::run(ipvs, &services.into_iter().map(Command::DelService).collect::<Vec<_>>())
}

/// Removes services, tables and the link, and puts parameters back.
pub(super) fn remove(ipvs: &mut Ipvs, nft: &mut Nft, ground: &mut Ground) -> io::Result<()> {
    let services = ours(ipvs, nft, ground)?;
    delete(ipvs, services)?;
    let mut batch = Transaction::new();
    for layout in rules::layouts() {
        batch.delete_table(&layout.table);
    }
    nft.commit(batch)?;
    ground.restore(Some(ipvs))
}

/// Removes what the plane made in the calling thread's network namespace, all but its tables, and says what. With
/// `dry_run` it only says.
///
/// # Errors
/// What the kernel says.
pub fn clean(dry_run: bool) -> io::Result<Vec<String>> {
    let mut ground = Ground::open(false)?;
    // Asking for IPVS would load it.
    if ground.link()?.is_none() && ruleset::tables(rules::TABLE)?.is_empty() {
        return Ok(Vec::new());
    }
    let (mut nft, mut services) = (Nft::open()?, Vec::new());
    let mut ipvs = match Ipvs::open() {
        Ok(ipvs) => Some(ipvs),
        // Without it there are no services; a link may be there all the same.
        Err(IpvsError::Missing) => None,
        Err(error) => return Err(error.into()),
    };
    if let Some(ipvs) = &mut ipvs {
        services = ours(ipvs, &mut nft, &mut ground)?;
    }
    let mut all: Vec<String> = services.iter().map(|of| format!("remove virtual service {of}")).collect();
    all.extend(ground.leftovers(ipvs.as_mut())?);
    if !dry_run {
        if let Some(ipvs) = &mut ipvs {
            delete(ipvs, services)?;
        }
        ground.restore(ipvs.as_mut())?;
    }
    Ok(all)
}
