//! `dns.limits`: what the DNS server may take of the host, and one client of the server.

use super::{values::optional_duration, yaml::Map};
use mesh_dns::Limits;
use std::time::Duration;

/// Reads them; what is not written stays at its default.
pub(super) fn limits(map: Map<'_>) -> Limits {
    let mut found = Limits::default();
    let rate = |key| map.get(key).and_then(|f| f.number(0..=10_000_000));
    let count = |key, least, most| map.get(key).and_then(|f| f.number(least..=most));
    let set = |place: &mut usize, value: Option<usize>| *place = value.unwrap_or(*place);
    found.client_queries = rate("client_queries").unwrap_or(found.client_queries);
    found.client_burst = rate("client_burst").unwrap_or(found.client_burst);
    set(&mut found.client_forwards, count("client_forwards", 0, 65_536));
    set(&mut found.client_connections, count("client_connections", 0, 65_536));
    set(&mut found.tcp_connections, count("tcp_connections", 1, 65_536));
    set(&mut found.udp_workers, count("udp_workers", 0, 64));
    found.udp_gso = map.get("udp_gso").and_then(|f| f.bool()).unwrap_or(found.udp_gso);
    set(&mut found.cache_entries, count("cache_entries", 0, 10_000_000));
    set(&mut found.cache_bytes, count("cache_bytes", 0, 1 << 40));
    if let Some(field) = map.get("last_known") {
        found.last_known =
            optional_duration(&field, Duration::from_secs(1)..=Duration::from_secs(365 * 86_400));
    }
    if let Some(field) =
        map.get("client_burst").filter(|_| found.client_queries == 0 && found.client_burst > 0)
    {
        field.fail_value(
            &found.client_burst.to_string(),
            "bounds nothing without client_queries: set that too, or leave this out",
        );
    }
    map.finish();
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::{errors, keyed, parse};

    #[test]
    fn what_is_written_counts_and_the_rest_stays() {
        let text = "dns: {limits: {client_queries: 500, client_burst: 1_000, client_forwards: 0, \
                    client_connections: 9, tcp_connections: 99, udp_workers: 2, udp_gso: false, cache_entries: 0, cache_bytes: 7, last_known: none}}\n";
        let want = Limits {
            client_queries: 500,
            client_burst: 1000,
            client_forwards: 0,
            client_connections: 9,
            tcp_connections: 99,
            udp_workers: 2,
            udp_gso: false,
            cache_entries: 0,
            cache_bytes: 7,
            last_known: None,
            ..Limits::default()
        };
        assert_eq!(parse(&keyed(text)).unwrap().dns.limits, want);
        let some = parse(&keyed("dns: {limits: {udp_workers: 3}}\n")).unwrap().dns.limits;
        assert_eq!(some, Limits { udp_workers: 3, ..Limits::default() });
    }

    #[test]
    fn mistakes_are_named_with_the_fix() {
        for (text, want) in [
            ("tcp_connections: 0", "dns.limits.tcp_connections: \"0\" is no whole number from 1 to 65536"),
            (
                "client_queries: 1/s",
                "dns.limits.client_queries: \"1/s\" is no whole number from 0 to 10000000",
            ),
            (
                "client_burst: 5",
                "dns.limits.client_burst: \"5\" bounds nothing without client_queries: set that too, or leave this out",
            ),
            ("cache_entry: 5", "dns.limits.cache_entry: is no known key: did you mean \"cache_entries\"?"),
        ] {
            let text = keyed(&format!("dns: {{limits: {{{text}}}}}\n"));
            assert_eq!(errors(&text), [format!("mesh.yaml:1: {want}")], "{text}");
        }
    }
}
