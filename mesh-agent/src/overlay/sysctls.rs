//! The kernel parameters that the overlay needs: pure.
//!
//! Those of its own links go with the links. Of the others, what was there before is written on the bridge (its alias),
//! where it lives exactly as long as what it is about: a restart of the agent finds it, and one of the host ends both.

use super::plan::OverlayPlan;
use ipnetwork::IpNetwork;
use std::collections::BTreeMap;

/// A parameter below `net/` and its value.
pub type Sysctl = (String, String);

/// What a link's alias begins with when the link is this program's.
pub const MARK: &str = "mesh-agent";

/// How strictly senders are looked at on all links: the highest of this and of a link's own counts.
const RP_FILTER: &str = "ipv4/conf/all/rp_filter";

/// What [`of_links`] depends on and the overlay does not write.
pub const FACTS: [&str; 1] = [RP_FILTER];

/// Of the overlay's own links; set before the links are up. `found` has the [`FACTS`].
#[must_use]
pub fn of_links(plan: &OverlayPlan, found: &BTreeMap<String, String>) -> Vec<Sysctl> {
    let (bridge, vxlan) = (&plan.bridge.name, &plan.vxlan.name);
    // Loose where the host is strict. Where it does not look at all nor does this link: it would ask for another route for
    // each packet.
    let unlooked = found.get(RP_FILTER).is_some_and(|all| all == "0");
    let all = [
        // What another node sends on has the client's address, to which the way back is another link; and that client
        // may be this very host.
        (format!("ipv4/conf/{vxlan}/rp_filter"), if unlooked { "0" } else { "2" }),
        (format!("ipv4/conf/{vxlan}/accept_local"), "1"),
        // Containers of one node talk through the gateway, on purpose: do not tell them of a shorter way.
        (format!("ipv4/conf/{bridge}/send_redirects"), "0"),
        // Nobody is on the other side of a VXLAN device to whom an address of one link would mean anything.
        (format!("ipv6/conf/{vxlan}/addr_gen_mode"), "1"),
        // No other host is on the bridge: what is looked for there would only delay.
        (format!("ipv6/conf/{bridge}/accept_dad"), "0"),
        (format!("ipv6/conf/{bridge}/accept_ra"), "0"),
    ];
    all.into_iter().map(|(key, value)| (key, value.to_owned())).collect()
}

/// What the overlay writes into a parameter of the whole namespace.
#[must_use]
pub fn written(key: &str) -> Option<&'static str> {
    match key {
        SEND_REDIRECTS => Some("0"),
        FORWARD_4 | FORWARD_6 => Some("1"),
        key if key.ends_with(ACCEPT_RA) => Some("2"),
        _ => None,
    }
}

/// Of the whole namespace. `underlay` is the link that leads to the other nodes.
#[must_use]
pub fn of_host(plan: &OverlayPlan, underlay: &str) -> Vec<Sysctl> {
    let mut keys = vec![SEND_REDIRECTS.to_owned()];
    if plan.gateways.iter().any(IpNetwork::is_ipv4) {
        keys.push(FORWARD_4.to_owned());
    }
    if plan.gateways.iter().any(IpNetwork::is_ipv6) {
        // A router takes no default route from others, unless told to: first, lest the host lose its own.
        keys.push(format!("ipv6/conf/{underlay}{ACCEPT_RA}"));
        keys.push(FORWARD_6.to_owned());
    }
    keys.into_iter().filter_map(|key| written(&key).map(|value| (key, value.to_owned()))).collect()
}

/// It works for a link only when it is 0 here too (devinet.h, `IN_DEV_TX_REDIRECTS`); other links have their own.
const SEND_REDIRECTS: &str = "ipv4/conf/all/send_redirects";
const FORWARD_4: &str = "ipv4/ip_forward";
const FORWARD_6: &str = "ipv6/conf/all/forwarding";
/// How the key ends by which a link takes the word of routers.
pub const ACCEPT_RA: &str = "/accept_ra";

/// What to write, in order, when the namespace is at `found`. A host that takes no router's word (0) still need not.
#[must_use]
pub fn changes(wanted: &[Sysctl], found: &BTreeMap<String, String>) -> Vec<Sysctl> {
    let deaf = |key: &str, now: &str| key.ends_with(ACCEPT_RA) && now == "0";
    let differs = |(key, value): &&Sysctl| found.get(key).is_some_and(|now| now != value && !deaf(key, now));
    wanted.iter().filter(differs).cloned().collect()
}

/// The bridge's alias that remembers `before`.
#[must_use]
pub fn remember(before: &BTreeMap<String, String>) -> String {
    before.iter().fold(MARK.to_owned(), |text, (key, value)| format!("{text} {key}={value}"))
}

/// What an alias remembers.
#[must_use]
pub fn remembered(alias: Option<&str>) -> BTreeMap<String, String> {
    let words = alias.unwrap_or_default().split(' ').filter_map(|word| word.rsplit_once('='));
    words.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}
