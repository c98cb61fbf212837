//! Refuses packets of the overlay that did not come through the tunnels. The kernel's VXLAN takes what comes in by any
//! link: without this somebody on the underlay could put packets into the overlay.

use std::io;

/// The name of the table, in the family `ip6`: the encrypted overlay's VXLAN hears IPv6 alone.
pub const TABLE: &str = "mesh-agent-tunnel";

/// Refuses what is for VXLAN network `vni` on UDP port `port`; whether anything had to change.
///
/// # Errors
/// What the kernel says.
#[cfg(feature = "nftables")]
pub fn ensure(vni: u32, port: u16) -> io::Result<bool> {
    use super::end::NAMES;
    use crate::sys::nft::{Expr, Family, Hook, HookKind, Nft, Table, Transaction};

    let table = Table::new(Family::Ip6, TABLE);
    let comment = format!("unsealed packets of VXLAN network {vni}, port {port} (mesh-agent 1)");
    let mut nft = Nft::open()?;
    let rules = nft.comments(&table)?;
    if rules.len() == 1 && rules.get("input").is_some_and(|held| held.len() == 1 && held[0] == comment) {
        return Ok(false);
    }
    let mut rule = Vec::new();
    for name in NAMES {
        rule.extend(Expr::came_by(name, false));
    }
    rule.extend(Expr::vxlan(vni, port));
    rule.extend([Expr::counter(0, 0), Expr::verdict(libc::NF_DROP)]);
    let mut batch = Transaction::new();
    batch.delete_table(&table);
    batch.add_table(&table);
    let hook = Hook { kind: HookKind::Filter, number: libc::NF_INET_LOCAL_IN, priority: -150, device: None };
    batch.add_chain(&table, "input", Some(&hook));
    batch.add_rule(&table, "input", &rule, &comment);
    nft.commit(batch)?;
    Ok(true)
}

/// This build cannot.
///
/// # Errors
/// Always.
#[cfg(not(feature = "nftables"))]
pub fn ensure(_vni: u32, _port: u16) -> io::Result<bool> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "this build has no nftables"))
}
