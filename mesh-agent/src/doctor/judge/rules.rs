//! Packet filters and translations of others.

use super::{BRIDGE, DEVICE, TABLE};
use crate::{
    doctor::{
        facts::Facts,
        finding::{Finding, Level},
    },
    sys::ruleset::{Chain, Hooked, Ruleset},
};

/// `NF_INET_*`
const PREROUTING: u32 = 0;
const FORWARD: u32 = 2;
const OUTPUT: u32 = 3;
/// Where the agent's own nat chains are: before those at −100, which is where everybody puts them.
const OURS: i32 = -105;

pub(super) fn judge(facts: &Facts, findings: &mut Vec<Finding>) {
    let ruleset = match &facts.ruleset {
        Ok(ruleset) => ruleset,
        Err(why) => {
            let level = facts.wanted.kernel_plane.missing().min(Level::Warn);
            let found = format!("the rules of nf_tables cannot be read: {why}");
            return findings.push(Finding::with_fix("rules", level, found, "sudo mesh-agent doctor"));
        }
    };
    forward(facts, ruleset, findings);
    translations(ruleset, findings);
    leftovers(ruleset, findings);
    if !facts.legacy_tables.is_empty() {
        let found = format!(
            "iptables-legacy has tables ({}), whose policy is not seen here",
            facts.legacy_tables.join(", ")
        );
        let fix = format!(
            "iptables-legacy -S FORWARD, and if its policy is DROP: {}",
            iptables("iptables-legacy", "FORWARD")
        );
        findings.push(Finding::with_fix("legacy-iptables", Level::Warn, found, fix));
    }
}

fn base(ruleset: &Ruleset) -> impl Iterator<Item = (&Chain, &Hooked)> {
    let foreign = ruleset.chains.iter().filter(|chain| chain.table.name != TABLE);
    foreign.filter_map(|chain| chain.hooked.as_ref().map(|hooked| (chain, hooked)))
}

/// A policy of DROP is final: that another table accepts does not help.
fn forward(facts: &Facts, ruleset: &Ruleset, findings: &mut Vec<Finding>) {
    let level = if facts.wanted.overlay.is_empty() { Level::Warn } else { Level::Fail };
    let before = findings.len();
    let dropping = base(ruleset).filter(|(_, hooked)| hooked.hook == FORWARD && hooked.drops);
    for (chain, _) in dropping {
        let at = format!("{} {} {}", chain.table.family, chain.table.name, chain.name);
        findings.push(if ruleset.naming.contains(&chain.table) {
            Finding::ok(
                "forward-policy",
                format!("{at} drops what no rule accepts, and has rules for {BRIDGE}"),
            )
        } else {
            let found = format!("{at} drops what no rule accepts, and no rule names {BRIDGE}");
            Finding::with_fix("forward-policy", level, found, allow(chain, ruleset))
        });
    }
    if findings.len() == before {
        findings.push(Finding::ok("forward-policy", "nobody drops by policy what is forwarded"));
    }
}

/// The commands of the program whose chain it is.
fn allow(chain: &Chain, ruleset: &Ruleset) -> String {
    let table = &chain.table;
    let has = |name: &str| ruleset.chains.iter().any(|c| c.table == *table && c.name.starts_with(name));
    let iptables_of = match table.family {
        "ip6" => "ip6tables",
        _ => "iptables",
    };
    if table.name == "firewalld" {
        return format!(
            "firewall-cmd --permanent --zone=trusted --add-interface={BRIDGE} --add-interface={DEVICE} && \
             firewall-cmd --reload"
        );
    }
    if has("ufw") {
        return links(|link| format!("ufw route allow in on {link} && ufw route allow out on {link}"));
    }
    if table.name == "filter" && matches!(table.family, "ip" | "ip6") {
        return iptables(iptables_of, if has("DOCKER-USER") { "DOCKER-USER" } else { "FORWARD" });
    }
    let place = format!("nft insert rule {} {} {}", table.family, table.name, chain.name);
    links(|link| format!("{place} iifname {link} accept && {place} oifname {link} accept"))
}

fn iptables(program: &str, chain: &str) -> String {
    links(|link| {
        format!("{program} -I {chain} -i {link} -j ACCEPT && {program} -I {chain} -o {link} -j ACCEPT")
    })
}

fn links(commands: impl Fn(&str) -> String) -> String {
    [BRIDGE, DEVICE].map(commands).join(" && ")
}

fn translations(ruleset: &Ruleset, findings: &mut Vec<Finding>) {
    let nat = base(ruleset).filter(|(_, h)| h.kind == "nat" && matches!(h.hook, PREROUTING | OUTPUT));
    let (early, late): (Vec<_>, Vec<_>) = nat.partition(|(_, hooked)| hooked.priority <= OURS);
    for (chain, hooked) in early {
        let (family, table, name) = (chain.table.family, &chain.table.name, &chain.name);
        let found = format!(
            "{family} {table} {name} translates at priority {}, before the agent ({OURS}): what it takes, services do \
             not get",
            hooked.priority
        );
        let fix = format!("move it to priority -100: nft list chain {family} {table} {name}");
        findings.push(Finding::with_fix("foreign-nat", Level::Warn, found, fix));
    }
    if !late.is_empty() {
        let mut tables: Vec<String> =
            late.iter().map(|(chain, _)| format!("{} {}", chain.table.family, chain.table.name)).collect();
        tables.sort();
        tables.dedup();
        findings.push(Finding::ok(
            "foreign-nat",
            format!("{} come after the agent's, which is fine", tables.join(", ")),
        ));
    }
}

fn leftovers(ruleset: &Ruleset, findings: &mut Vec<Finding>) {
    let has = |prefix: &str| ruleset.chains.iter().any(|chain| chain.name.starts_with(prefix));
    if has("KUBE-SERVICES") {
        let found = "kube-proxy's rules are here: fine as long as cluster IPs and node ports are not those of the mesh";
        let fix = "if kube-proxy no longer runs here: kube-proxy --cleanup";
        findings.push(Finding::with_fix("kube-proxy", Level::Ok, found, fix));
    }
    if has("DOCKER-INGRESS") {
        let found = "Docker Swarm's routing mesh is here: a port that both publish goes to this mesh";
        let fix = "publish it in one of them; if the swarm is over: docker swarm leave";
        findings.push(Finding::with_fix("docker-swarm", Level::Ok, found, fix));
    }
}
