//! The sets of a table, and its base chains. Pure.

use super::{
    ids::SetId,
    layout::Layout,
    names::{DROP, REJECT, RESET, Rule, comment},
};
use crate::sys::nft::{
    Expr, Holds, Hook, HookKind,
    Kind::{self, Ipv4, Ipv6, Mark, Port, Protocol},
    Set, reg,
};
use ipnetwork::IpNetwork;
use mesh_control::model::Family;

/// A set as it is made.
pub(super) fn set(layout: &Layout, id: SetId) -> Set {
    let key = layout.kinds(&[Ipv4, Protocol, Port], &[Ipv6, Protocol, Port]);
    let numbered = layout.kinds(&[Ipv4, Protocol, Port, Mark], &[Ipv6, Protocol, Port, Mark]);
    let named = layout.kinds(&[Ipv4, Protocol, Port, Mark, Mark], &[Ipv6, Protocol, Port, Mark, Mark]);
    let address = layout.kinds(&[Ipv4], &[Ipv6]);
    let at = layout.kinds(&[Ipv4, Port], &[Ipv6, Port]);
    let number: &'static [Kind] = &[Mark, Mark];
    let sourced = layout.kinds(&[Ipv4, Protocol, Port, Ipv4], &[Ipv6, Protocol, Port, Ipv6]);
    let (key, holds) = match id {
        SetId::Services | SetId::Ids(_) => (key, Holds::Data(number)),
        SetId::Shapes { .. } => (number, Holds::Verdicts),
        SetId::Slots(_) => (numbered, Holds::Data(at)),
        SetId::Picks(_) => (numbered, Holds::Data(number)),
        SetId::Backends(_) => (named, Holds::Data(at)),
        SetId::Affinity => (layout.kinds(&[Mark, Mark, Ipv4], &[Mark, Mark, Ipv6]), Holds::Data(number)),
        SetId::Allow => (sourced, Holds::Keys),
        SetId::Denied | SetId::Limited => (key, Holds::Keys),
        SetId::Idle | SetId::Former(_) => (named, Holds::Keys),
        SetId::Hairpin => (layout.kinds(&[Ipv4, Ipv4], &[Ipv6, Ipv6]), Holds::Keys),
        SetId::Masquerade | SetId::Vips => (address, Holds::Keys),
        SetId::SameDevice => (number, Holds::Keys),
        SetId::Most(_) => (at, Holds::Keys),
    };
    Set {
        ranges: id == SetId::Allow,
        timeouts: id == SetId::Affinity,
        dynamic: matches!(id, SetId::Affinity | SetId::SameDevice | SetId::Most(_)),
        // Of services only those count that turn everybody away: a counter is per processor.
        counts: id.counts() && id != SetId::Services,
        ..Set::new(&id.to_string(), key, holds)
    }
}

/// What the base chains depend on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Outline {
    pub(super) vip_cidrs: Vec<IpNetwork>,
    /// The bridge of which every packet goes through this host, also between two of its ports.
    pub(super) bridge: Option<String>,
}

/// A base chain, or a chain that is always there.
pub(super) struct Base {
    pub(super) name: &'static str,
    pub(super) hook: Option<Hook>,
    pub(super) rules: Vec<Rule>,
}

/// The chains that are always there.
pub(super) fn chains(layout: &Layout, outline: &Outline) -> Vec<Base> {
    let hook = |kind, number, priority| Some(Hook { kind, number, priority, device: None });
    let tcp = |mut rest: Vec<Expr>| {
        let mut rule = vec![Expr::meta(reg(0), libc::NFT_META_L4PROTO), Expr::cmp(reg(0), true, &[6])];
        rule.append(&mut rest);
        rule
    };
    let reset = || {
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
        vec![(tcp(marked.to_vec()), comment("connections that lost their backend"))]
    };
    let refuse = vec![
        (tcp(vec![Expr::tcp_reset()]), comment("refuse")),
        (vec![Expr::port_unreachable(layout.port_unreachable())], comment("refuse")),
    ];
    let silent = vec![(vec![Expr::verdict(libc::NF_DROP)], comment("stay silent"))];
    let nat = |number| Base {
        name: if number == libc::NF_INET_PRE_ROUTING { "prerouting" } else { "output" },
        // Before Docker's and kube-proxy's -100: of equal ones the later registered wins.
        hook: hook(HookKind::Nat, number, -105),
        rules: destination(layout, &outline.vip_cidrs),
    };
    // After conntrack (-200), before any NAT.
    let early = |name, number| Base { name, hook: hook(HookKind::Filter, number, -150), rules: reset() };
    vec![
        Base { name: REJECT, hook: None, rules: refuse },
        Base { name: DROP, hook: None, rules: silent },
        early("reset-prerouting", libc::NF_INET_PRE_ROUTING),
        early("reset-output", libc::NF_INET_LOCAL_OUT),
        nat(libc::NF_INET_PRE_ROUTING),
        nat(libc::NF_INET_LOCAL_OUT),
        Base {
            name: "postrouting",
            hook: hook(HookKind::Nat, libc::NF_INET_POST_ROUTING, 95),
            rules: source(layout, outline.bridge.as_deref()),
        },
    ]
}

/// Where a new flow goes.
fn destination(layout: &Layout, vip_cidrs: &[IpNetwork]) -> Vec<Rule> {
    let mut exact = layout.load_key(false).to_vec();
    exact.extend(lead(layout, false));
    let local = libc::RTN_LOCAL.to_ne_bytes_u32();
    let mut any = vec![Expr::destination_type(reg(0)), Expr::cmp(reg(0), true, &local)];
    // What is sent from loopback cannot leave the host: better refused than lost.
    any.extend(layout.not_loopback());
    any.extend(layout.load_key(true));
    any.extend(lead(layout, true));
    let (icmp, echo) = layout.icmp();
    let ping = vec![
        Expr::meta(reg(0), libc::NFT_META_L4PROTO),
        Expr::cmp(reg(0), true, &[icmp]),
        Expr::transport(reg(0), 0, 1),
        Expr::cmp(reg(0), true, &[echo]),
        layout.destination(0),
        Expr::lookup(reg(0), &SetId::Vips.to_string()),
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

/// From a packet's key to its chain.
fn lead(layout: &Layout, local: bool) -> [Expr; 2] {
    let id = reg(layout.key_words());
    let name = |set: SetId| set.to_string();
    [Expr::map(reg(0), id, &name(SetId::Services)), Expr::map(id, 0, &name(SetId::Shapes { local }))]
}

/// Whose source address has to change: only flows whose answers would not come back through us.
fn source(layout: &Layout, bridge: Option<&str>) -> Vec<Rule> {
    let local = libc::RTN_LOCAL.to_ne_bytes_u32();
    let foreign = || vec![Expr::source_type(reg(8)), Expr::cmp(reg(8), false, &local)];
    // Rarely met sets first: looking up a kind of address walks the routes.
    let mut hairpin = vec![layout.both_addresses(0), Expr::lookup(reg(0), &SetId::Hairpin.to_string())];
    hairpin.extend(foreign());
    hairpin.push(Expr::masquerade());
    let mut past = vec![layout.destination(0), Expr::lookup(reg(0), &SetId::Masquerade.to_string())];
    past.extend(Expr::translated());
    past.extend(foreign());
    past.push(Expr::masquerade());
    let mut same = Expr::translated().to_vec();
    if let Some(bridge) = bridge {
        same.extend(Expr::leaves_by(bridge, false));
    }
    let iif = |word| Expr::meta(reg(word), libc::NFT_META_IIF);
    same.extend([
        iif(0),
        iif(1),
        Expr::remember(reg(0), &SetId::SameDevice.to_string()),
        Expr::meta(reg(1), libc::NFT_META_OIF),
    ]);
    same.extend([Expr::lookup(reg(0), &SetId::SameDevice.to_string()), Expr::masquerade()]);
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
