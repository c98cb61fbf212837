//! Tables.

use super::{Family, c};

/// A table by name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Table {
    /// Its family.
    pub family: Family,
    /// Its name.
    pub name: String,
}

impl Table {
    /// Names a table.
    #[must_use]
    pub fn new(family: Family, name: &str) -> Table {
        Table { family, name: name.to_owned() }
    }

    pub(super) fn raw(&self) -> nftnl::Table {
        nftnl::Table::new(c(&self.name), self.family.proto())
    }
}
