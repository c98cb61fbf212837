//! The sets of a table, and its base chains. Pure.

use super::ids::SetId;
use crate::{
    dataplane::netfilter::{
        base::{Base, Outline, refusals, reset, source},
        layout::{Layout, octets},
        names::{REJECT, Rule, comment},
        sets::Common,
    },
    sys::nft::{
        Expr, Holds, Hook, HookKind,
        Kind::{self, Ipv4, Ipv6, Mark, Port, Protocol},
        Set, reg,
    },
};
use ipnetwork::IpNetwork;
use mesh_control::model::Family;

/// A set as it is made.
pub(super) fn set(layout: &Layout, id: SetId) -> Set {
    let key = layout.kinds(&[Ipv4, Protocol, Port], &[Ipv6, Protocol, Port]);
    let numbered = layout.kinds(&[Ipv4, Protocol, Port, Mark], &[Ipv6, Protocol, Port, Mark]);
    let named = layout.kinds(&[Ipv4, Protocol, Port, Mark, Mark], &[Ipv6, Protocol, Port, Mark, Mark]);
    let at = layout.kinds(&[Ipv4, Port], &[Ipv6, Port]);
    let (shape, number): (&'static [Kind], &'static [Kind]) = (&[Mark], &[Mark, Mark]);
    let (key, holds) = match id {
        SetId::Services => (key, Holds::Data(shape)),
        SetId::Ids(_) => (key, Holds::Data(number)),
        SetId::Shapes { .. } => (shape, Holds::Verdicts),
        SetId::Slots(_) => (numbered, Holds::Data(at)),
        SetId::Picks(_) => (numbered, Holds::Data(number)),
        SetId::Backends(_) => (named, Holds::Data(at)),
        SetId::Affinity => (layout.kinds(&[Mark, Mark, Ipv4], &[Mark, Mark, Ipv6]), Holds::Data(number)),
        SetId::Common(common) => return common.set(layout),
        SetId::Limited => (key, Holds::Keys),
        SetId::Idle | SetId::Former(_) => (named, Holds::Keys),
        SetId::Most(_) => (at, Holds::Keys),
    };
    Set {
        timeouts: id == SetId::Affinity,
        dynamic: matches!(id, SetId::Affinity | SetId::Most(_)),
        // Of services only those count that turn everybody away: a counter is per processor.
        counts: id.counts() && id != SetId::Services,
        ..Set::new(&id.to_string(), key, holds)
    }
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
            rules: departing(layout, outline.bridge.as_deref()),
        },
    ]
}

/// Where a new flow goes.
fn destination(layout: &Layout, vip_cidrs: &[IpNetwork]) -> Vec<Rule> {
    let mut exact = numbered(layout, false);
    exact.extend(lead(layout, false));
    // Rarely met first: looking up a kind of address walks the routes.
    let mut any = numbered(layout, true);
    any.extend(Expr::to_here(true));
    // What is sent from loopback cannot leave the host: better refused than lost.
    any.extend(layout.not_loopback());
    any.extend(lead(layout, true));
    let (icmp, echo) = layout.icmp();
    let ping = vec![
        Expr::meta(reg(0), libc::NFT_META_L4PROTO),
        Expr::cmp(reg(0), true, &[icmp]),
        Expr::transport(reg(0), 0, 1),
        Expr::cmp(reg(0), true, &[echo]),
        layout.destination(0),
        Expr::lookup(reg(0), Common::Vips.name()),
        Expr::redirect(),
    ];
    let mut rules = vec![
        (exact, comment("VIPs, and ports published on one address")),
        (any, comment("ports published on every local address")),
        (ping, comment("VIPs answer ping")),
    ];
    for cidr in vip_cidrs.iter().filter(|c| Family::of(&c.ip()) == layout.family) {
        let (network, mask) = (octets(cidr.network()), octets(cidr.mask()));
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

/// From a packet's key to the number of its shape, in the word behind the key.
fn numbered(layout: &Layout, local: bool) -> Vec<Expr> {
    let mut rule = layout.load_key(local).to_vec();
    rule.push(Expr::map(reg(0), reg(layout.key_words()), &SetId::Services.to_string()));
    rule
}

/// From the number of a shape to its chain. The number of the shape goes through the packet's mark, which is put back at once:
/// `nft` 1.0.6 ends with a failed assertion when it lists a rule that looks up what comes straight out of a map, and with
/// it the list of everything on the host.
fn lead(layout: &Layout, local: bool) -> [Expr; 5] {
    let [number, mark, shape] = [0, 1, 2].map(|word| reg(layout.key_words() + word));
    [
        Expr::meta(mark, libc::NFT_META_MARK),
        Expr::set_meta(number, libc::NFT_META_MARK),
        Expr::meta(shape, libc::NFT_META_MARK),
        Expr::set_meta(mark, libc::NFT_META_MARK),
        Expr::map(shape, 0, &SetId::Shapes { local }.to_string()),
    ]
}

/// Whose source changes as it leaves.
fn departing(layout: &Layout, bridge: Option<&str>) -> Vec<Rule> {
    let mut others = Expr::translated(false).to_vec();
    others.push(Expr::verdict(libc::NF_ACCEPT));
    let mut rules = vec![(others, comment("all that no service translated"))];
    rules.extend(source(layout, &[], bridge));
    rules
}
