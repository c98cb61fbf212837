//! The zone that every server serves, in each one's form.

use super::questions::{A, AAAA, Questions, Want};
use std::{fmt::Write as _, net::Ipv4Addr};

/// `service-0.cluster` and so on, each with one IPv4 address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Zone {
    names: usize,
}

/// A zone that is not ours.
pub(super) const FOREIGN: &str = "elsewhere.example";

/// Steps through all names in an order that no cache foresees; coprime with the sizes used.
const STRIDE: usize = 7_919;

impl Zone {
    /// A zone of `names` names.
    pub(crate) fn new(names: usize) -> Zone {
        Zone { names }
    }

    /// How many names it has.
    pub(crate) fn names(&self) -> usize {
        self.names
    }

    /// Its name.
    pub(crate) fn name(&self) -> &'static str {
        "cluster"
    }

    /// A name that it has.
    pub(crate) fn present(&self, i: usize) -> String {
        format!("service-{}.cluster", i * STRIDE % self.names)
    }

    /// A name's address.
    pub(crate) fn address(i: usize) -> Ipv4Addr {
        Ipv4Addr::from_bits(0x0a60_0001 + u32::try_from(i).unwrap_or(0))
    }

    /// Every name once, for its address.
    pub(crate) fn hits(&self) -> Questions {
        Questions::new((0..self.names).map(|i| self.present(i)), A, Want::Answer)
    }

    /// Every name once, for an address that it has not.
    pub(crate) fn no_data(&self) -> Questions {
        Questions::new((0..self.names).map(|i| self.present(i)), AAAA, Want::NoData)
    }

    /// As many names that are not there.
    pub(crate) fn absent(&self) -> Questions {
        let names = (0..self.names).map(|i| format!("nothing-{}.cluster", i * STRIDE % self.names));
        Questions::new(names, A, Want::Absent)
    }

    /// RFC 1035 section 5.
    pub(super) fn master_file(&self) -> String {
        let mut text =
            "$ORIGIN cluster.\n$TTL 5\n@ SOA ns hostmaster 1 60 60 600 5\n@ NS ns\nns A 127.0.0.1\n"
                .to_owned();
        for i in 0..self.names {
            let _ = writeln!(text, "service-{i} A {}", Zone::address(i));
        }
        text
    }

    /// A name of another zone.
    pub(super) fn foreign(&self, i: usize) -> String {
        format!("host-{}.{FOREIGN}", i % self.names)
    }

    /// That other zone, with as many names and a TTL of an hour.
    pub(super) fn foreign_file(&self) -> String {
        let mut text = format!(
            "$ORIGIN {FOREIGN}.\n$TTL 3600\n@ SOA ns hostmaster 1 60 60 600 5\n@ NS ns\nns A 127.0.0.1\n"
        );
        for i in 0..self.names {
            let _ = writeln!(text, "host-{i} A {}", Zone::address(i));
        }
        text
    }

    /// hosts(5).
    pub(super) fn hosts(&self) -> String {
        let mut text = String::new();
        for i in 0..self.names {
            let _ = writeln!(text, "{} service-{i}.cluster", Zone::address(i));
        }
        text
    }

    /// unbound.conf(5), within `server:`.
    pub(super) fn local_data(&self) -> String {
        let mut text = "local-zone: \"cluster.\" static\n\
            local-data: \"cluster. 5 IN SOA ns.cluster. hostmaster.cluster. 1 60 60 600 5\"\n"
            .to_owned();
        for i in 0..self.names {
            let _ = writeln!(text, "local-data: \"service-{i}.cluster. 5 IN A {}\"", Zone::address(i));
        }
        text
    }
}
