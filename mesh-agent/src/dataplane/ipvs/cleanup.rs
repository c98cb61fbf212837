//! Removing everything of ours from the kernel, and nothing else.

use super::{host::Ground, observe, rules};
use crate::sys::{
    ipvs::{Command, Ipvs, IpvsError, Virtual},
    nft::{Nft, Transaction},
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

/// Removes services, tables and the link, and puts parameters back.
pub(super) fn remove(ipvs: &mut Ipvs, nft: &mut Nft, ground: &mut Ground) -> io::Result<()> {
    let services: Vec<Command> = ours(ipvs, nft, ground)?.into_iter().map(Command::DelService).collect();
    super::run(ipvs, &services)?;
    let mut batch = Transaction::new();
    for layout in rules::layouts() {
        batch.delete_table(&layout.table);
    }
    nft.commit(batch)?;
    ground.restore(Some(ipvs))
}

/// Removes everything that the plane made in the calling thread's network namespace; what, for people. With `dry_run`
/// only tells. The tables are not told: who removes those of other parts tells these too.
///
/// # Errors
/// What the kernel says.
pub fn clean(dry_run: bool) -> io::Result<Vec<String>> {
    let mut ground = Ground::open()?;
    let mut ipvs = match Ipvs::open() {
        Ok(ipvs) => Some(ipvs),
        // Without it there are no services; a link may be there all the same.
        Err(IpvsError::Missing) => None,
        Err(error) => return Err(error.into()),
    };
    let mut nft = Nft::open()?;
    let mut all = match &mut ipvs {
        Some(ipvs) => ours(ipvs, &mut nft, &mut ground)?,
        None => Vec::new(),
    }
    .iter()
    .map(|of| format!("remove virtual service {of}"))
    .collect::<Vec<_>>();
    all.extend(ground.leftovers(ipvs.as_mut())?);
    if !dry_run {
        match &mut ipvs {
            Some(ipvs) => remove(ipvs, &mut nft, &mut ground)?,
            None => ground.restore(None)?,
        }
    }
    Ok(all)
}
