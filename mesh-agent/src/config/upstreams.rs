//! `dns.upstreams`, `dns.domains` and `dns.upstream_ca`: who is asked for other names.

use super::{
    secrets,
    types::{DnsConfig, Upstreams},
    values::domain,
    yaml::{Field, Map},
};
use mesh_dns::UpstreamAddress;
use std::path::Path;

/// Reads them into `found`, whose defaults stay where nothing is written.
pub(super) fn upstreams(map: &Map<'_>, base: &Path, found: &mut DnsConfig) {
    if let Some(field) = map.get("upstreams") {
        let items = field.one_or_list();
        if items.len() != 1 || !items[0].value().is_text("system") {
            found.upstreams = Upstreams::List(servers(&items));
        }
    }
    for (key, field) in map.get("domains").iter().flat_map(Field::entries) {
        match domain(key.strip_suffix('.').unwrap_or(key)) {
            Ok(name) => {
                if found.domains.insert(name, servers(&field.one_or_list())).is_some() {
                    field.fail("stands there twice, but for case or the dot at its end: keep one");
                }
            }
            Err(rule) => field.fail(rule),
        }
    }
    found.upstream_ca = map.get("upstream_ca").and_then(|field| secrets::pem(&field, base));
}

fn servers(items: &[Field<'_>]) -> Vec<UpstreamAddress> {
    items.iter().filter_map(|field| field.with(str::parse)).collect()
}
