//! The sets of a table, and its base chains. Pure.

use super::{
    layout::Layout,
    names::{
        AFFINITY, ALLOW, BACKENDS, DENIED, DROP, HAIRPIN, IDLE, IDS, LIMITED, MASQUERADE, PICKS, REJECT,
        RESET, Rule, SAME, SERVICES, SLOTS, VIPS, comment, limit_set,
    },
};
use crate::sys::nft::{
    Expr, Holds, Hook, HookKind,
    Kind::{self, Ipv4, Ipv6, Mark, Port, Protocol},
    Set, reg,
};
use ipnetwork::IpNetwork;
use mesh_control::model::Family;

/// The sets that are always there.
pub(super) fn sets(layout: &Layout) -> Vec<Set> {
    let key = layout.kinds(&[Ipv4, Protocol, Port], &[Ipv6, Protocol, Port]);
    let numbered = layout.kinds(&[Ipv4, Protocol, Port, Mark], &[Ipv6, Protocol, Port, Mark]);
    let named = layout.kinds(&[Ipv4, Protocol, Port, Mark, Mark], &[Ipv6, Protocol, Port, Mark, Mark]);
    let address = layout.kinds(&[Ipv4], &[Ipv6]);
    let socket = Holds::Data(layout.kinds(&[Ipv4, Port], &[Ipv6, Port]));
    let id = Holds::Data(&[Mark, Mark]);
    let counting = |set: Set| Set { counts: true, ..set };
    let keys = Holds::Keys;
    vec![
        counting(Set::new(SERVICES, key, Holds::Verdicts)),
        counting(Set::new(SLOTS, numbered, socket)),
        Set::new(PICKS, numbered, id),
        counting(Set::new(BACKENDS, named, socket)),
        Set::new(IDS, key, id),
        Set {
            timeouts: true,
            dynamic: true,
            ..Set::new(AFFINITY, layout.kinds(&[Mark, Mark, Ipv4], &[Mark, Mark, Ipv6]), id)
        },
        Set {
            ranges: true,
            ..Set::new(
                ALLOW,
                layout.kinds(&[Ipv4, Protocol, Port, Ipv4], &[Ipv6, Protocol, Port, Ipv6]),
                keys,
            )
        },
        counting(Set::new(DENIED, key, keys)),
        counting(Set::new(LIMITED, key, keys)),
        Set::new(IDLE, named, keys),
        Set::new(HAIRPIN, layout.kinds(&[Ipv4, Ipv4], &[Ipv6, Ipv6]), keys),
        Set::new(MASQUERADE, address, keys),
        Set::new(VIPS, address, keys),
        Set { dynamic: true, ..Set::new(SAME, &[Mark, Mark], keys) },
    ]
}

/// The set that counts flows for a limit.
pub(super) fn counting_set(layout: &Layout, most: u32) -> Set {
    let key: &'static [Kind] = layout.kinds(&[Ipv4, Port], &[Ipv6, Port]);
    Set { dynamic: true, ..Set::new(&limit_set(most), key, Holds::Keys) }
}

/// What the base chains depend on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Outline {
    pub(super) vip_cidrs: Vec<IpNetwork>,
    /// The bridge of which every packet goes through this host, also between two of its ports.
    pub(super) bridge: Option<String>,
}

/// A base chain, or a chain that is always there.
pub(in crate::dataplane) struct Base {
    pub(in crate::dataplane) name: &'static str,
    pub(in crate::dataplane) hook: Option<Hook>,
    pub(in crate::dataplane) rules: Vec<Rule>,
}

/// The chains that are always there.
pub(super) fn chains(layout: &Layout, outline: &Outline) -> Vec<Base> {
    let hook = |kind, number, priority| Some(Hook { kind, number, priority, device: None });
    let nat = |number| Base {
        name: if number == libc::NF_INET_PRE_ROUTING { "prerouting" } else { "output" },
        // Before Docker's and kube-proxy's -100: of equal ones the later registered wins.
        hook: hook(HookKind::Nat, number, -105),
        rules: destination(layout, &outline.vip_cidrs),
    };
    // After conntrack (-200), before any NAT.
    let early =
        |name, number| Base { name, hook: hook(HookKind::Filter, number, -150), rules: vec![reset()] };
    let [reject, drop] = refusals(layout);
    vec![
        reject,
        drop,
        early("reset-prerouting", libc::NF_INET_PRE_ROUTING),
        early("reset-output", libc::NF_INET_LOCAL_OUT),
        nat(libc::NF_INET_PRE_ROUTING),
        nat(libc::NF_INET_LOCAL_OUT),
        Base {
            name: "postrouting",
            hook: hook(HookKind::Nat, libc::NF_INET_POST_ROUTING, 95),
            rules: source(layout, &Expr::translated(), outline.bridge.as_deref()),
        },
    ]
}

fn tcp(mut rest: Vec<Expr>) -> Vec<Expr> {
    let mut rule = vec![Expr::meta(reg(0), libc::NFT_META_L4PROTO), Expr::cmp(reg(0), true, &[6])];
    rule.append(&mut rest);
    rule
}

/// Resets connections that are marked so.
pub(in crate::dataplane) fn reset() -> Rule {
    let mark = RESET.to_ne_bytes();
    let marked = [
        Expr::ct(reg(1), libc::NFT_CT_MARK),
        Expr::cmp(reg(1), true, &mark),
        // Not the resets themselves: RST is bit 2 of the flags at byte 13 (RFC 9293 section 3.1).
        Expr::transport(reg(1), 13, 1),
        Expr::mask(reg(1), reg(1), &[4]),
        Expr::cmp(reg(1), true, &[0]),
        Expr::tcp_reset(),
    ];
    (tcp(marked.to_vec()), comment("connections that lost their backend"))
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

/// Where a new flow goes.
fn destination(layout: &Layout, vip_cidrs: &[IpNetwork]) -> Vec<Rule> {
    let mut exact = layout.load_key(false).to_vec();
    exact.push(Expr::map(reg(0), 0, SERVICES));
    let local = libc::RTN_LOCAL.to_ne_bytes_u32();
    let mut any = vec![Expr::destination_type(reg(0)), Expr::cmp(reg(0), true, &local)];
    // What is sent from loopback cannot leave the host: better refused than lost.
    any.extend(layout.not_loopback());
    any.extend(layout.load_key(true));
    any.push(Expr::map(reg(0), 0, SERVICES));
    let (icmp, echo) = layout.icmp();
    let ping = vec![
        Expr::meta(reg(0), libc::NFT_META_L4PROTO),
        Expr::cmp(reg(0), true, &[icmp]),
        Expr::transport(reg(0), 0, 1),
        Expr::cmp(reg(0), true, &[echo]),
        layout.destination(0),
        Expr::lookup(reg(0), VIPS),
        Expr::redirect(),
    ];
    let mut rules = vec![
        (exact, comment("VIPs, and ports published on one address")),
        (any, comment("ports published on every local address")),
        (ping, comment("VIPs answer ping")),
    ];
    for cidr in vip_cidrs.iter().filter(|c| Family::of(&c.ip()) == layout.family) {
        let (network, mask) = (super::layout::octets(cidr.network()), super::layout::octets(cidr.mask()));
        let nobody = vec![
            layout.destination(0),
            Expr::mask(reg(0), reg(0), &mask),
            Expr::cmp(reg(0), true, &network),
            Expr::goto(REJECT),
        ];
        rules.push((nobody, comment(&format!("nobody serves this in {cidr}"))));
    }
    rules
}

/// Whose source address has to change: only flows whose answers would not come back through us. `translated` goes on
/// with those that go to a backend.
pub(in crate::dataplane) fn source(layout: &Layout, translated: &[Expr], bridge: Option<&str>) -> Vec<Rule> {
    let local = libc::RTN_LOCAL.to_ne_bytes_u32();
    let foreign = || vec![Expr::source_type(reg(8)), Expr::cmp(reg(8), false, &local)];
    // Rarely met sets first: looking up a kind of address walks the routes.
    let mut hairpin = vec![layout.both_addresses(0), Expr::lookup(reg(0), HAIRPIN)];
    hairpin.extend(foreign());
    hairpin.push(Expr::masquerade());
    let mut past = vec![layout.destination(0), Expr::lookup(reg(0), MASQUERADE)];
    past.extend_from_slice(translated);
    past.extend(foreign());
    past.push(Expr::masquerade());
    let mut same = translated.to_vec();
    if let Some(bridge) = bridge {
        same.extend(Expr::leaves_by(bridge, false));
    }
    let iif = |word| Expr::meta(reg(word), libc::NFT_META_IIF);
    same.extend([iif(0), iif(1), Expr::remember(reg(0), SAME), Expr::meta(reg(1), libc::NFT_META_OIF)]);
    same.extend([Expr::lookup(reg(0), SAME), Expr::masquerade()]);
    vec![
        (hairpin, comment("a backend that dials itself")),
        (past, comment("backends outside the overlay")),
        (same, comment("neighbours, who would answer each other directly")),
    ]
}

/// `RTN_*` are bytes in `libc` and words in registers.
trait Word {
    fn to_ne_bytes_u32(self) -> [u8; 4];
}

impl Word for u8 {
    fn to_ne_bytes_u32(self) -> [u8; 4] {
        u32::from(self).to_ne_bytes()
    }
}
