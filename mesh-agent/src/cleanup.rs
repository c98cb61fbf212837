//! `mesh-agent cleanup`: removes from the kernel what an agent made in this network namespace, and nothing else.

use crate::sys::ruleset::{self, TableName};
use std::io;

/// What was removed, or would be, and what could not.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Cleaned {
    /// In words.
    pub removed: Vec<String>,
    /// With the reason.
    pub failed: Vec<String>,
}

/// Removes one kind of thing, all of it, or only says what it would; each in words.
type Remover = fn(dry_run: bool) -> io::Result<Vec<String>>;

/// Every kind that an agent makes, in the order of removal.
const REMOVERS: [(&str, Remover); 1] = [("nftables", tables)];

/// Removes everything from the calling thread's network namespace. A kind that fails keeps no other from going.
#[must_use]
pub fn clean(dry_run: bool) -> Cleaned {
    let mut cleaned = Cleaned::default();
    for (kind, remove) in REMOVERS {
        match remove(dry_run) {
            Ok(removed) => cleaned.removed.extend(removed),
            Err(error) => cleaned.failed.push(format!("{kind}: {error}")),
        }
    }
    cleaned
}

/// The name of the agent's tables of nf_tables, in whatever family.
const TABLE: &str = "mesh-agent";

fn tables(dry_run: bool) -> io::Result<Vec<String>> {
    let tables = ruleset::tables(TABLE)?;
    if !dry_run {
        ruleset::delete(&tables)?;
    }
    Ok(tables.iter().map(|TableName { family, name }| format!("table {family} {name}")).collect())
}
