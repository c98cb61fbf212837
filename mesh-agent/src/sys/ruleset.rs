//! What programs have put into nf_tables (uapi `linux/netfilter/nf_tables.h`), whoever they are; read only. And which
//! of its features the kernel has.

use super::{
    netns::Netns,
    nfnetlink::{ACK, CREATE, Channel, DUMP, REQUEST, Request},
};
use std::{collections::BTreeSet, io};

/// `NFNL_SUBSYS_NFTABLES`
const SUBSYSTEM: u16 = 10;
// `NFT_MSG_*`
const NEW_TABLE: u16 = 0;
const GET_TABLE: u16 = 1;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const GET_CHAIN: u16 = 4;
const NEW_RULE: u16 = 6;
const GET_RULE: u16 = 7;
// `NFPROTO_*`
const IPV4: u8 = 2;
const NETDEV: u8 = 5;
const IPV6: u8 = 10;
// `NFTA_*`: of a table, a chain, its hook, a rule.
const TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const HOOK_DEVICE: u16 = 3;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
/// Beyond so many only base chains are kept: kube-proxy makes several for each endpoint.
const MOST_CHAINS: usize = 1 << 16;

/// A table: its family in nft's words and its name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct TableName {
    /// `ip`, `ip6`, `inet`, `arp`, `bridge` or `netdev`.
    pub family: &'static str,
    /// Its name.
    pub name: String,
}

/// Where a base chain hangs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hooked {
    /// `filter`, `nat` or `route`.
    pub kind: String,
    /// `NF_INET_*`: 0 prerouting, 1 input, 2 forward, 3 output, 4 postrouting.
    pub hook: u32,
    /// Lower is earlier.
    pub priority: i32,
    /// Whether what no rule decides is dropped.
    pub drops: bool,
}

/// A chain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chain {
    /// Its table.
    pub table: TableName,
    /// Its name.
    pub name: String,
    /// Of a base chain.
    pub hooked: Option<Hooked>,
}

/// All chains of a network namespace, and the tables with a rule that names a link.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Ruleset {
    /// Chains of all tables: all base chains and up to 65,536 others.
    pub chains: Vec<Chain>,
    /// Where a rule has the name that was looked for.
    pub naming: BTreeSet<TableName>,
}

/// Reads the ruleset of the calling thread's network namespace; `link` is the name that rules are searched for.
///
/// # Errors
/// What the kernel says: `EPERM` without `CAP_NET_ADMIN`, `EINVAL` without nf_tables.
pub fn read(link: &str) -> io::Result<Ruleset> {
    let mut channel = Channel::open()?;
    let mut ruleset = Ruleset::default();
    channel.ask(Request::new(SUBSYSTEM, GET_CHAIN, REQUEST | DUMP, 0), |family, attributes| {
        let table = TableName { family: family_name(family), name: String::new() };
        let mut chain = Chain { table, name: String::new(), hooked: None };
        let (mut kind, mut hook, mut drops) = (String::new(), None, false);
        for (attribute, value) in attributes {
            match attribute {
                TABLE => chain.table.name = value.text(),
                CHAIN_NAME => chain.name = value.text(),
                CHAIN_TYPE => kind = value.text(),
                CHAIN_POLICY => drops = value.u32() == Some(0),
                CHAIN_HOOK => {
                    let of = |kind| value.nested().find(|(k, _)| *k == kind).and_then(|(_, v)| v.u32());
                    hook = of(HOOK_NUMBER).zip(of(HOOK_PRIORITY));
                }
                _ => {}
            }
        }
        chain.hooked =
            hook.map(|(hook, priority)| Hooked { kind, hook, priority: priority.cast_signed(), drops });
        if chain.hooked.is_some() || ruleset.chains.len() < MOST_CHAINS {
            ruleset.chains.push(chain);
        }
    })?;
    channel.ask(Request::new(SUBSYSTEM, GET_RULE, REQUEST | DUMP, 0), |family, attributes| {
        // However the rule says it (a comparison, a match of iptables), the name stands there in plain.
        if attributes.0.windows(link.len()).any(|part| part == link.as_bytes()) {
            let name = { attributes }.find(|(kind, _)| *kind == TABLE).map(|(_, value)| value.text());
            ruleset.naming.insert(TableName { family: family_name(family), name: name.unwrap_or_default() });
        }
    })?;
    Ok(ruleset)
}

/// The tables of that name, in whatever family; none where the kernel has no nf_tables.
///
/// # Errors
/// What the kernel says: `EPERM` without `CAP_NET_ADMIN`.
pub fn tables(name: &str) -> io::Result<Vec<TableName>> {
    let mut found = Vec::new();
    let asked =
        Channel::open()?.ask(Request::new(SUBSYSTEM, GET_TABLE, REQUEST | DUMP, 0), |family, attributes| {
            let named = { attributes }.any(|(kind, value)| kind == TABLE && value.text() == name);
            if named {
                found.push(TableName { family: family_name(family), name: name.to_owned() });
            }
        });
    match asked {
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => Ok(Vec::new()),
        other => other.map(|()| found),
    }
}

/// Deletes tables with all that is in them: all of them or none.
///
/// # Errors
/// What the kernel says.
pub fn delete(tables: &[TableName]) -> io::Result<()> {
    let delete = |table: &TableName| {
        let family = FAMILIES.iter().find(|(_, name)| *name == table.family).map_or(0, |(number, _)| *number);
        let mut request = Request::new(SUBSYSTEM, DELETE_TABLE, REQUEST | ACK, family);
        put_text(&mut request, TABLE, &table.name);
        request
    };
    if tables.is_empty() {
        return Ok(());
    }
    Channel::open()?.batch(SUBSYSTEM, tables.iter().map(delete).collect())
}

/// Something of nf_tables that a kernel may lack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Feature {
    /// Tables as such.
    Tables,
    /// Chains that translate addresses, IPv4 and IPv6.
    Nat,
    /// A chain that sees what leaves a link (Linux 5.16).
    Egress,
    /// An expression by its name in rules.
    Expression(&'static str),
}

/// Tries a feature in the calling thread's network namespace, in tables that go with it: only for a namespace that is
/// thrown away. Like a rule that used it, this loads the kernel's module.
///
/// # Errors
/// Why the kernel has it not, `EPERM` without `CAP_NET_ADMIN`.
pub fn try_feature(feature: Feature) -> io::Result<()> {
    let batch = match feature {
        Feature::Tables => vec![table(IPV4), table(IPV6)],
        Feature::Nat => {
            let nat = |family| [table(family), chain(family, "nat", 0, None)];
            [nat(IPV4), nat(IPV6)].into_iter().flatten().collect()
        }
        Feature::Egress => vec![table(NETDEV), chain(NETDEV, "filter", 1, Some("lo"))],
        Feature::Expression(name) => vec![table(IPV4), chain(IPV4, "nat", 0, None), rule(name)],
    };
    match Channel::open()?.batch(SUBSYSTEM, batch) {
        // The expression is there: it misses what it would be told, or wants another chain. Else it is ENOENT.
        Err(e)
            if matches!(feature, Feature::Expression(_))
                && matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) =>
        {
            Ok(())
        }
        other => other,
    }
}

/// Whether the kernel has [`Feature::Egress`], tried in a namespace of its own; where none can be made, it is taken to.
#[must_use]
pub fn has_egress() -> bool {
    let tried = Netns::new().and_then(|netns| netns.run(|| try_feature(Feature::Egress))?);
    tried.err().and_then(|e| e.raw_os_error()) != Some(libc::EOPNOTSUPP)
}

fn table(family: u8) -> Request {
    let mut request = Request::new(SUBSYSTEM, NEW_TABLE, REQUEST | ACK | CREATE, family);
    put_text(&mut request, TABLE, PROBE);
    request
}

fn chain(family: u8, kind: &str, hook: u32, device: Option<&str>) -> Request {
    let mut request = Request::new(SUBSYSTEM, NEW_CHAIN, REQUEST | ACK | CREATE, family);
    put_text(&mut request, TABLE, PROBE);
    put_text(&mut request, CHAIN_NAME, PROBE);
    request.nest(CHAIN_HOOK, |nested| {
        nested.put_u32(HOOK_NUMBER, hook);
        nested.put_u32(HOOK_PRIORITY, (-105_i32).cast_unsigned());
        if let Some(device) = device {
            put_text(nested, HOOK_DEVICE, device);
        }
    });
    put_text(&mut request, CHAIN_TYPE, kind);
    request
}

/// A rule of one expression that is told nothing.
fn rule(expression: &str) -> Request {
    let mut request = Request::new(SUBSYSTEM, NEW_RULE, REQUEST | ACK | CREATE, IPV4);
    put_text(&mut request, TABLE, PROBE);
    put_text(&mut request, RULE_CHAIN, PROBE);
    // NFTA_LIST_ELEM, and NFTA_EXPR_NAME and NFTA_EXPR_DATA in it.
    request.nest(RULE_EXPRESSIONS, |list| {
        list.nest(1, |element| {
            put_text(element, 1, expression);
            element.nest(2, |_| {});
        });
    });
    request
}

const PROBE: &str = "probe";

fn put_text(request: &mut Request, kind: u16, text: &str) {
    request.put(kind, &[text.as_bytes(), &[0]].concat());
}

const FAMILIES: [(u8, &str); 6] =
    [(1, "inet"), (IPV4, "ip"), (3, "arp"), (NETDEV, "netdev"), (7, "bridge"), (IPV6, "ip6")];

fn family_name(family: u8) -> &'static str {
    FAMILIES.iter().find(|(number, _)| *number == family).map_or("unknown", |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{link::set_up, netns::Netns};
    use std::{
        io::Write,
        process::{Command, Stdio},
    };

    #[test]
    fn chains_and_names_are_read_and_only_the_named_tables_go() {
        let Ok(netns) = Netns::new() else {
            assert!(std::env::var_os("CI").is_none(), "this needs root, and CI skips nothing");
            return eprintln!("SKIPPED: reading rulesets needs root for network namespaces");
        };
        set_up(&netns, "lo", true).unwrap();
        let rules = "table inet fw {\n chain forward {\n type filter hook forward priority 0\n policy drop\n \
             iifname \"mesh0\" accept\n }\n chain user {\n }\n }\n\
             table ip nat {\n chain pre {\n type nat hook prerouting priority -100\n }\n }\n\
             table ip ours {\n }\ntable ip6 ours {\n }\n";
        netns
            .run(|| {
                let nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn();
                let mut nft = nft.expect("nft (Debian: nftables)");
                nft.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
                assert!(nft.wait().unwrap().success());
                let ruleset = read("mesh0").unwrap();
                let fw = TableName { family: "inet", name: "fw".into() };
                assert_eq!(ruleset.naming, [fw.clone()].into());
                assert_eq!(read("mesh1").unwrap().naming, [].into());
                let hooked = |name: &str| {
                    ruleset
                        .chains
                        .iter()
                        .find(|c| c.name == name)
                        .unwrap_or_else(|| panic!("{name}"))
                        .hooked
                        .clone()
                };
                let forward = Hooked { kind: "filter".into(), hook: 2, priority: 0, drops: true };
                assert_eq!(hooked("forward"), Some(forward));
                assert_eq!(hooked("user"), None);
                let pre = Hooked { kind: "nat".into(), hook: 0, priority: -100, drops: false };
                assert_eq!(hooked("pre"), Some(pre));

                let ours = tables("ours").unwrap();
                assert_eq!(ours.iter().map(|t| t.family).collect::<BTreeSet<_>>(), ["ip", "ip6"].into());
                let gone = TableName { family: "ip", name: "never".into() };
                delete(&[ours[0].clone(), gone]).unwrap_err();
                assert_eq!(tables("ours").unwrap().len(), 2, "all or none");
                delete(&ours).unwrap();
                delete(&[]).unwrap();
                assert_eq!(tables("ours").unwrap(), []);
                assert_eq!(read("mesh0").unwrap(), ruleset, "nothing else changed");
            })
            .unwrap();
    }

    #[test]
    fn what_there_is_and_what_there_is_not() {
        let Ok(netns) = Netns::new() else {
            return eprintln!("SKIPPED: probing needs root for network namespaces");
        };
        let tried = |feature| netns.run(|| try_feature(feature)).unwrap();
        for feature in
            [Feature::Tables, Feature::Nat, Feature::Expression("numgen"), Feature::Expression("masq")]
        {
            tried(feature).unwrap();
        }
        let lacking = tried(Feature::Expression("no-such-thing")).unwrap_err();
        assert_eq!(lacking.raw_os_error(), Some(libc::ENOENT));
    }
}
