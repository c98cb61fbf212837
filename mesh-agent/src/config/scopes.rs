//! Who sees which names of the DNS: its listening addresses, and the domain of Kubernetes' names.

use super::{
    values::{domain, listen},
    yaml::{Field, Map, Value},
};
use mesh_dns::Scope;
use std::net::SocketAddr;

/// One entry of `dns.listen`: an address, or a mapping with what its clients see. `None` after a problem was reported.
pub(super) fn listener(item: &Field<'_>, example: SocketAddr) -> Option<(SocketAddr, Scope)> {
    if !matches!(item.value(), Value::Map(_)) {
        return Some((item.with(|text| listen(text, example, 0))?, Scope::default()));
    }
    let map = item.map()?;
    let address = map.get("address");
    if address.is_none() {
        item.fail(format!("has no address: write IP:PORT, as {example}"));
    }
    let scope = scope(&map);
    map.finish();
    Some((address?.with(|text| listen(text, example, 0))?, scope))
}

fn scope(map: &Map<'_>) -> Scope {
    let mut scope = Scope::default();
    if let Some(field) = map.get("namespaces") {
        let items = field.one_or_list();
        if items.is_empty() {
            field.fail("is empty: name at least one, or leave it out to show all");
        }
        scope.namespaces = Some(items.iter().filter_map(Field::parse).collect());
    }
    if let Some(field) = map.get("default_namespace") {
        scope.default_namespace = field.parse();
        let visible = scope.namespaces.as_ref();
        if let Some(name) =
            scope.default_namespace.as_ref().filter(|n| visible.is_some_and(|v| !v.contains(n)))
        {
            field.fail_value(name.as_str(), "is not among its namespaces: add it there, or use one of them");
        }
    }
    scope.bare_names = map.get("bare_names").and_then(|f| f.bool()).unwrap_or(false);
    scope
}

/// `dns.kubernetes`: the domain of its names, which is not the mesh's `own`.
pub(super) fn kubernetes(field: &Field<'_>, own: &str) -> Option<String> {
    let map = field.map()?;
    let given = map.get("domain");
    let found = match &given {
        Some(field) => field.with(|text| match domain(text)? {
            same if same == own => Err("is the mesh's own domain: use another, as cluster.local".to_owned()),
            other => Ok(other),
        }),
        None => Some("cluster.local".to_owned()),
    };
    map.finish();
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{
        tests::{errors, keyed, parse},
        types::DnsConfig,
    };
    use mesh_control::model::Name;

    fn dns(text: &str) -> DnsConfig {
        parse(&keyed(text)).unwrap().dns
    }

    #[test]
    fn an_address_may_say_what_its_clients_see() {
        let text = "dns:\n  listen:\n    - 127.0.0.1:5300\n    - {address: '127.0.0.2:5300', namespaces: [Shop, data], default_namespace: data, bare_names: true}\n    - {address: '127.0.0.3:5300', namespaces: lab}\n";
        let found = dns(text);
        assert_eq!(found.listen.len(), 3);
        let name = |text: &str| Name::new(text).unwrap();
        let shop = Scope {
            namespaces: Some(vec![name("shop"), name("data")]),
            default_namespace: Some(name("data")),
            bare_names: true,
        };
        let lab = Scope { namespaces: Some(vec![name("lab")]), ..Scope::default() };
        assert_eq!(found.scopes, [Scope::default(), shop, lab]);
        assert_eq!(dns("dns: {ttl: 9}\n").scopes, [Scope::default()]);
    }

    #[test]
    fn kubernetes_names_are_off_unless_asked_for() {
        assert_eq!(dns("").kubernetes, None);
        assert_eq!(dns("dns: {kubernetes: {}}\n").kubernetes.as_deref(), Some("cluster.local"));
        let named = dns("dns: {kubernetes: {domain: K8s.Example.}}\n");
        assert_eq!(named.kubernetes.as_deref(), Some("k8s.example"));
        assert_eq!((dns("").negative_ttl, dns("dns: {ttl: 9}\n").negative_ttl), (5, 9));
        assert_eq!(dns("dns: {negative_ttl: 1}\n").negative_ttl, 1);
    }

    #[test]
    fn mistakes_are_named_with_the_fix() {
        for (text, want) in [
            (
                "dns: {listen: [{namespaces: [a]}]}\n",
                "dns.listen[0]: has no address: write IP:PORT, as 127.0.0.1:5300",
            ),
            (
                "dns: {listen: [{address: x}]}\n",
                "dns.listen[0].address: \"x\" is no address and port: write IP:PORT, as 127.0.0.1:5300",
            ),
            (
                "dns: {listen: [{address: '127.0.0.1:5300', namespaces: []}]}\n",
                "dns.listen[0].namespaces: is empty: name at least one, or leave it out to show all",
            ),
            (
                "dns: {listen: [{address: '127.0.0.1:5300', namespaces: [a.b]}]}\n",
                "dns.listen[0].namespaces[0]: `a.b` is no name: only letters, digits, `-` and `_` are allowed",
            ),
            (
                "dns: {listen: [{address: '127.0.0.1:5300', namespaces: [a], default_namespace: b}]}\n",
                "dns.listen[0].default_namespace: \"b\" is not among its namespaces: add it there, or use one of them",
            ),
            (
                "dns: {listen: [{address: '127.0.0.1:5300', names: [a]}]}\n",
                "dns.listen[0].names: is no known key: did you mean \"namespaces\"?",
            ),
            (
                "dns: {kubernetes: {domain: Cluster}}\n",
                "dns.kubernetes.domain: \"Cluster\" is the mesh's own domain: use another, as cluster.local",
            ),
            (
                "dns: {kubernetes: {domain: a b}}\n",
                "dns.kubernetes.domain: \"a b\" is no domain: write labels of letters, digits and -, as cluster or mesh.example.com",
            ),
        ] {
            assert_eq!(errors(&keyed(text)), [format!("mesh.yaml:1: {want}")], "{text}");
        }
    }
}
