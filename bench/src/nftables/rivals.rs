//! What the rivals are given, in the shapes that kube-proxy gives them: a chain for every service and every endpoint.

use super::services::{BACKENDS, ENDPOINTS, PORT, TARGET, endpoint, vip};
use std::fmt::Write as _;

/// kube-proxy names chains by a hash of what they are for; any will do.
fn hash(service: u32, endpoint: u32) -> String {
    const LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let mut bits = (u64::from(service) << 8 | u64::from(endpoint)).wrapping_add(1);
    bits = bits.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (0..16).map(|i| char::from(LETTERS[usize::try_from(bits >> (4 * i) & 31).unwrap_or(0)])).collect()
}

fn svc(service: u32) -> String {
    format!("KUBE-SVC-{}", hash(service, 255))
}

fn sep(service: u32, e: u32) -> String {
    format!("KUBE-SEP-{}", hash(service, e))
}

fn endpoint_rules(text: &mut String, service: u32, e: u32, generation: u32) {
    let (chain, to) = (sep(service, e), endpoint(service, e, generation));
    let comment = format!("-m comment --comment \"default/s{service}:http\"");
    let _ = writeln!(text, "-A {chain} {comment} -s {to}/32 -j KUBE-MARK-MASQ");
    let _ = writeln!(text, "-A {chain} {comment} -p tcp -m tcp -j DNAT --to-destination {to}:{TARGET}");
}

/// Everything, for iptables-restore.
pub(super) fn iptables(services: u32) -> String {
    let mut text = String::from("*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n");
    for i in 0..services {
        let _ = writeln!(text, ":{} - [0:0]", svc(i));
        for e in 0..ENDPOINTS {
            let _ = writeln!(text, ":{} - [0:0]", sep(i, e));
        }
    }
    text.push_str("-A PREROUTING -j KUBE-SERVICES\n-A OUTPUT -j KUBE-SERVICES\n");
    text.push_str("-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\n");
    for i in 0..services {
        let (chain, vip) = (svc(i), vip(i));
        let comment = format!("-m comment --comment \"default/s{i}:http cluster IP\"");
        let to = format!("{comment} -m tcp -p tcp -d {vip}/32 --dport {PORT}");
        let _ = writeln!(text, "-A KUBE-SERVICES {to} -j {chain}");
        let _ = writeln!(text, "-A {chain} {to} ! -s {BACKENDS} -j KUBE-MARK-MASQ");
        for e in 0..ENDPOINTS {
            let _ = write!(text, "-A {chain} -m comment --comment \"default/s{i}:http\" ");
            if e + 1 < ENDPOINTS {
                let chance = 1.0 / f64::from(ENDPOINTS - e);
                let _ = write!(text, "-m statistic --mode random --probability {chance:.10} ");
            }
            let _ = writeln!(text, "-j {}", sep(i, e));
            endpoint_rules(&mut text, i, e, 0);
        }
    }
    text.push_str("COMMIT\n");
    text
}

/// One endpoint moved, for `iptables-restore --noflush`: only its chain is written anew, which is the least there is.
pub(super) fn iptables_change(service: u32, e: u32, generation: u32) -> String {
    let mut text = format!("*nat\n:{} - [0:0]\n", sep(service, e));
    endpoint_rules(&mut text, service, e, generation);
    text.push_str("COMMIT\n");
    text
}

fn service_chain(service: u32) -> String {
    format!("service-{}-default/s{service}/tcp/http", &hash(service, 255)[..8])
}

fn endpoint_chain(service: u32, e: u32) -> String {
    let at = endpoint(service, e, 0);
    format!("endpoint-{}-default/s{service}/tcp/http__{at}/{TARGET}", &hash(service, e)[..8])
}

fn endpoint_chain_rules(text: &mut String, service: u32, e: u32, generation: u32) {
    let (chain, to) = (endpoint_chain(service, e), endpoint(service, e, generation));
    let _ = writeln!(text, "add rule ip kube-proxy {chain} ip saddr {to} jump mark-for-masquerade");
    let _ = writeln!(text, "add rule ip kube-proxy {chain} meta l4proto tcp dnat to {to}:{TARGET}");
}

/// Everything, for `nft -f`.
pub(super) fn nft(services: u32) -> String {
    let mut text = String::from(
        "add table ip kube-proxy\n\
         add chain ip kube-proxy mark-for-masquerade\n\
         add rule ip kube-proxy mark-for-masquerade mark set mark or 0x4000\n\
         add map ip kube-proxy service-ips { type ipv4_addr . inet_proto . inet_service : verdict ; }\n\
         add chain ip kube-proxy services\n\
         add rule ip kube-proxy services ip daddr . meta l4proto . th dport vmap @service-ips\n\
         add chain ip kube-proxy nat-prerouting { type nat hook prerouting priority -100 ; }\n\
         add rule ip kube-proxy nat-prerouting jump services\n\
         add chain ip kube-proxy nat-output { type nat hook output priority -100 ; }\n\
         add rule ip kube-proxy nat-output jump services\n",
    );
    for i in 0..services {
        let _ = writeln!(text, "add chain ip kube-proxy {}", service_chain(i));
        for e in 0..ENDPOINTS {
            let _ = writeln!(text, "add chain ip kube-proxy {}", endpoint_chain(i, e));
        }
    }
    for i in 0..services {
        let (chain, vip) = (service_chain(i), vip(i));
        let _ =
            writeln!(text, "add element ip kube-proxy service-ips {{ {vip} . tcp . {PORT} : goto {chain} }}");
        let _ = writeln!(
            text,
            "add rule ip kube-proxy {chain} ip daddr {vip} tcp dport {PORT} ip saddr != {BACKENDS} jump \
             mark-for-masquerade"
        );
        let choices: Vec<String> =
            (0..ENDPOINTS).map(|e| format!("{e} : goto {}", endpoint_chain(i, e))).collect();
        let _ = writeln!(
            text,
            "add rule ip kube-proxy {chain} numgen random mod {ENDPOINTS} vmap {{ {} }}",
            choices.join(" , ")
        );
        for e in 0..ENDPOINTS {
            endpoint_chain_rules(&mut text, i, e, 0);
        }
    }
    text
}

/// Two maps and a chain for all, for `nft -f`: from a service to the chain, and from its slots to endpoints. Nothing is counted,
/// no flow can be reset, and no source is changed: what a ruleset costs that only balances.
pub(super) fn two_maps(services: u32) -> String {
    let key = "ip daddr . meta l4proto . th dport";
    let slot = format!("{key} . numgen random mod {ENDPOINTS}");
    let (mut ways, mut slots) = (String::new(), String::new());
    for i in 0..services {
        let vip = vip(i);
        let _ = write!(ways, "{vip} . tcp . {PORT} : goto pick, ");
        for e in 0..ENDPOINTS {
            let _ = write!(slots, "{vip} . tcp . {PORT} . {e} : {} . {TARGET}, ", endpoint(i, e, 0));
        }
    }
    format!(
        "table ip two {{\n chain pick {{\n }}\n}}\ntable ip two {{\n\
         map services {{\n type ipv4_addr . inet_proto . inet_service : verdict\n elements = {{ {ways} }}\n }}\n\
         map slots {{\n typeof {slot} : ip daddr . th dport\n elements = {{ {slots} }}\n }}\n\
         chain pick {{\n dnat ip addr . port to {slot} map @slots\n }}\n\
         chain prerouting {{\n type nat hook prerouting priority -105\n {key} vmap @services\n }}\n}}\n"
    )
}

/// One endpoint moved, for `nft -f`.
pub(super) fn nft_change(service: u32, e: u32, generation: u32) -> String {
    let mut text = format!("flush chain ip kube-proxy {}\n", endpoint_chain(service, e));
    endpoint_chain_rules(&mut text, service, e, generation);
    text
}

/// Everything, for `ipvsadm -R`.
pub(super) fn ipvsadm(services: u32) -> String {
    let mut text = String::new();
    for i in 0..services {
        let vip = vip(i);
        let _ = writeln!(text, "-A -t {vip}:{PORT} -s rr");
        for e in 0..ENDPOINTS {
            let _ = writeln!(text, "-a -t {vip}:{PORT} -r {}:{TARGET} -m -w 1", endpoint(i, e, 0));
        }
    }
    text
}

/// One endpoint gets no new connections, for `ipvsadm -R`.
pub(super) fn ipvsadm_change(service: u32, e: u32) -> String {
    format!("-e -t {}:{PORT} -r {}:{TARGET} -m -w 0\n", vip(service), endpoint(service, e, 0))
}
