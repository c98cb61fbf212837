//! Chains that the tables of every plane have, and how tables are laid. Pure but for libnftnl's buffers.

use super::{
    layout::Layout,
    names::{DROP, REJECT, RESET, Rule, comment},
    sets::Common,
};
use crate::sys::nft::{Expr, Hook, Set, Table, Transaction, reg};
use ipnetwork::IpNetwork;

/// What the base chains depend on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::dataplane) struct Outline {
    pub(in crate::dataplane) vip_cidrs: Vec<IpNetwork>,
    /// The bridge of which every packet goes through this host, also between two of its ports.
    pub(in crate::dataplane) bridge: Option<String>,
}

/// A base chain, or a chain that is always there.
pub(in crate::dataplane) struct Base {
    pub(in crate::dataplane) name: &'static str,
    pub(in crate::dataplane) hook: Option<Hook>,
    pub(in crate::dataplane) rules: Vec<Rule>,
}

fn tcp(mut rest: Vec<Expr>) -> Vec<Expr> {
    let mut rule = vec![Expr::meta(reg(0), libc::NFT_META_L4PROTO), Expr::cmp(reg(0), true, &[6])];
    rule.append(&mut rest);
    rule
}

/// Resets connections that are marked so.
pub(in crate::dataplane) fn reset() -> Rule {
    // Every packet of the host is asked this: the mark, which hardly any has, comes first.
    let mut rule = vec![Expr::ct(reg(0), libc::NFT_CT_MARK), Expr::cmp(reg(0), true, &RESET.to_ne_bytes())];
    rule.extend(tcp(vec![
        // Not the resets themselves: RST is bit 2 of the flags at byte 13 (RFC 9293 section 3.1).
        Expr::transport(reg(1), 13, 1),
        Expr::mask(reg(1), reg(1), &[4]),
        Expr::cmp(reg(1), true, &[0]),
        Expr::tcp_reset(),
    ]));
    (rule, comment("connections that lost their backend"))
}

/// The chains of frontends without a backend.
pub(in crate::dataplane) fn refusals(layout: &Layout) -> [Base; 2] {
    let refuse = vec![
        (tcp(vec![Expr::tcp_reset()]), comment("refuse")),
        (vec![Expr::port_unreachable(layout.port_unreachable())], comment("refuse")),
    ];
    let silent = vec![(vec![Expr::verdict(libc::NF_DROP)], comment("stay silent"))];
    [Base { name: REJECT, hook: None, rules: refuse }, Base { name: DROP, hook: None, rules: silent }]
}

/// Whose source address has to change: only flows whose answers would not come back through us. `translated` goes on
/// with those that go to a backend; it is empty where a rule before has turned away the others.
pub(in crate::dataplane) fn source(layout: &Layout, translated: &[Expr], bridge: Option<&str>) -> Vec<Rule> {
    let foreign = || Expr::from_here(reg(8), false);
    // Rarely met sets first: looking up a kind of address walks the routes.
    let mut hairpin = vec![layout.both_addresses(0), Expr::lookup(reg(0), Common::Hairpin.name())];
    hairpin.extend(foreign());
    hairpin.push(Expr::masquerade());
    let mut past = vec![layout.destination(0), Expr::lookup(reg(0), Common::Masquerade.name())];
    past.extend_from_slice(translated);
    past.extend(foreign());
    past.push(Expr::masquerade());
    let mut same = translated.to_vec();
    if let Some(bridge) = bridge {
        same.extend(Expr::leaves_by(bridge, false));
    }
    let iif = |word| Expr::meta(reg(word), libc::NFT_META_IIF);
    same.extend([
        iif(0),
        iif(1),
        Expr::remember(reg(0), Common::SameDevice.name()),
        Expr::meta(reg(1), libc::NFT_META_OIF),
    ]);
    same.extend([Expr::lookup(reg(0), Common::SameDevice.name()), Expr::masquerade()]);
    vec![
        (hairpin, comment("a backend that dials itself")),
        (past, comment("backends outside the overlay")),
        (same, comment("neighbours, who would answer each other directly")),
    ]
}

/// Table, sets and the chains that are always there; what had its name is gone.
pub(in crate::dataplane) fn lay(
    batch: &mut Transaction,
    table: &Table,
    sets: impl IntoIterator<Item = Set>,
    bases: Vec<Base>,
) {
    batch.delete_table(table);
    batch.add_table(table);
    for set in sets {
        batch.add_set(table, &set);
    }
    for base in &bases {
        batch.add_chain(table, base.name, base.hook.as_ref());
    }
    for base in bases {
        for (expressions, comment) in base.rules {
            batch.add_rule(table, base.name, &expressions, &comment);
        }
    }
}
