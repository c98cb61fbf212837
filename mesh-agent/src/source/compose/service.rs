//! One service.

use super::{
    declared::{Context, Declared},
    health::healthcheck,
    mesh::{Mesh, mesh},
    ports::{Placed, expose, ports},
};
use crate::{
    config::yaml::{Field, Map, Value},
    source::local::LocalService,
};
use mesh_control::model::{EndpointMode, Name, Origin, Protocol, ServiceKey, ServiceSpec};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// Keys of a service that Compose has and a mesh does not need.
const IGNORED: &[&str] = &[
    "annotations",
    "attach",
    "blkio_config",
    "build",
    "cap_add",
    "cap_drop",
    "cgroup",
    "cgroup_parent",
    "command",
    "configs",
    "container_name",
    "cpu_count",
    "cpu_percent",
    "cpu_period",
    "cpu_quota",
    "cpu_rt_period",
    "cpu_rt_runtime",
    "cpu_shares",
    "cpus",
    "cpuset",
    "credential_spec",
    "depends_on",
    "develop",
    "device_cgroup_rules",
    "devices",
    "dns",
    "dns_opt",
    "dns_search",
    "domainname",
    "entrypoint",
    "env_file",
    "environment",
    "external_links",
    "extra_hosts",
    "gpus",
    "group_add",
    "hostname",
    "image",
    "init",
    "ipc",
    "isolation",
    "label_file",
    "links",
    "logging",
    "mac_address",
    "mem_limit",
    "mem_reservation",
    "mem_swappiness",
    "memswap_limit",
    "models",
    "network_mode",
    "oom_kill_disable",
    "oom_score_adj",
    "pid",
    "pids_limit",
    "platform",
    "post_start",
    "pre_stop",
    "privileged",
    "profiles",
    "provider",
    "pull_policy",
    "read_only",
    "restart",
    "runtime",
    "scale",
    "secrets",
    "security_opt",
    "shm_size",
    "stdin_open",
    "stop_signal",
    "storage_opt",
    "sysctls",
    "tmpfs",
    "tty",
    "ulimits",
    "use_api_socket",
    "user",
    "userns_mode",
    "uts",
    "volumes",
    "volumes_from",
    "working_dir",
];
/// The same of `deploy:`.
const DEPLOY_IGNORED: &[&str] =
    &["mode", "placement", "replicas", "resources", "restart_policy", "rollback_config", "update_config"];
/// The same of a network of a service.
const NETWORK_IGNORED: &[&str] = &[
    "driver_opts",
    "gw_priority",
    "interface_name",
    "ipv4_address",
    "ipv6_address",
    "link_local_ips",
    "mac_address",
    "priority",
];

/// Reads a service; `None` only after a problem was reported.
pub(super) fn read(
    file: &Arc<str>,
    key: ServiceKey,
    field: &Field<'_>,
    context: Context<'_>,
) -> Option<Declared> {
    let mut map = field.map()?;
    map.ignore(IGNORED);
    if let Some(extends) = map.get("extends") {
        extends.fail("is not followed: write the keys out, or use a YAML anchor and <<");
    }
    let mut spec = ServiceSpec { drain: ServiceSpec::DEFAULT_DRAIN, ..ServiceSpec::default() };
    let day = Duration::from_secs(86_400);
    if let Some(d) = map.get("stop_grace_period").and_then(|f| f.duration(Duration::ZERO..=day)) {
        spec.drain = d;
    }
    deploy(&map, &mut spec);
    if let Some(f) = map.get("labels") {
        labels(&f, &mut spec.labels);
    }
    networks(&map, &mut spec);
    let mut placed = map.get("ports").map(|f| ports(&f)).unwrap_or_default();
    if let Some(f) = map.get("expose") {
        expose(&f, &mut placed);
    }
    let block = map.get("x-mesh").map(|f| mesh(&f, &key, context.node, &mut spec)).unwrap_or_default();
    let exec_field = map.get("healthcheck");
    // A check over the network is the mesh's own and goes first.
    let exec_check = exec_field.as_ref().and_then(healthcheck).filter(|_| spec.health.is_none());
    if let (Some(f), Some(_), Origin::Cluster) = (&exec_field, &exec_check, context.origin) {
        f.fail("runs a command, which only a file on the node itself may ask for: use x-mesh.health instead");
    }
    map.finish();

    let endpoints = finish(field, &key, &mut spec, &mut placed, block).into();
    let published = placed.iter().filter_map(Placed::published).collect();
    let declaration = Some((context.origin.clone(), Arc::new(spec)));
    Some(Declared {
        service: LocalService { key, declaration, endpoints, exec_check },
        file: file.clone(),
        line: field.line(),
        published,
    })
}

/// Puts the ports into the spec and checks what takes the whole service to see.
fn finish(
    field: &Field<'_>,
    key: &ServiceKey,
    spec: &mut ServiceSpec,
    placed: &mut [Placed<'_>],
    block: Mesh<'_>,
) -> Vec<mesh_control::model::Endpoint> {
    for p in placed.iter_mut() {
        p.port.proxy_protocol |= block.proxy_protocol && p.port.protocol == Protocol::Tcp;
        if let Some(publish) = &mut p.port.publish
            && publish.allow.is_empty()
        {
            publish.allow.clone_from(&block.allow);
        }
    }
    spec.ports = placed.iter().map(|p| p.port.clone()).collect();
    spec.aliases.sort();
    spec.aliases.dedup();
    spec.aliases.retain(|a| *a != key.name);
    if let Some(tasks) = spec.aliases.iter().find(|a| a.as_str() == "tasks") {
        field.fail(format!("the alias {tasks} is reserved for the list of endpoints: use another"));
    }
    if let Err(e) = spec.validate() {
        let index =
            e.field.strip_prefix("ports[").and_then(|f| f.strip_suffix(']')).and_then(|i| i.parse().ok());
        match index.and_then(|i: usize| placed.get(i)) {
            Some(p) => p.field.fail(e.problem),
            None => field.fail(e.to_string()),
        }
    }
    for (endpoint, at) in &block.endpoints {
        for target in endpoint.ports.keys() {
            let known = |p: &mesh_control::model::ServicePort| {
                let offset = target.checked_sub(p.target);
                offset.is_some_and(|o| u32::from(o) < p.port.count())
            };
            if !spec.ports.iter().any(known) {
                at.fail(format!(
                    "ports names the target {target}, which the service has not: add it to ports or expose"
                ));
            }
        }
    }
    block.endpoints.into_iter().map(|(e, _)| e).collect()
}

fn deploy(map: &Map<'_>, spec: &mut ServiceSpec) {
    let Some(mut deploy) = map.get("deploy").and_then(|f| f.map()) else { return };
    deploy.ignore(DEPLOY_IGNORED);
    let modes = [("vip", EndpointMode::Vip), ("dnsrr", EndpointMode::Dnsrr)];
    if let Some(mode) = deploy.get("endpoint_mode").and_then(|f| f.word(&modes)) {
        spec.endpoint_mode = mode;
    }
    if let Some(f) = deploy.get("labels") {
        labels(&f, &mut spec.labels);
    }
    deploy.finish();
}

/// A mapping, or a list of `key=value`.
fn labels(field: &Field<'_>, into: &mut BTreeMap<String, String>) {
    let mut add = |at: &Field<'_>, key: &str, value: &str| {
        if key.is_empty() || key.len() > 256 || value.len() > 4096 {
            at.fail("is no label: the key has 1 to 256 bytes and the value at most 4096");
        } else if into.len() < 1024 {
            into.insert(key.to_owned(), value.to_owned());
        }
    };
    match field.value() {
        Value::Map(_) | Value::Null => {
            for (key, value) in field.entries() {
                if value.is_null() {
                    add(&value, key, "");
                } else if let Some(text) = value.text() {
                    add(&value, key, text);
                }
            }
        }
        _ => {
            for item in field.list() {
                if let Some(text) = item.text() {
                    let (key, value) = text.split_once('=').unwrap_or((text, ""));
                    add(&item, key, value);
                }
            }
        }
    }
}

fn networks(map: &Map<'_>, spec: &mut ServiceSpec) {
    let Some(field) = map.get("networks") else { return };
    if !matches!(field.value(), Value::Map(_)) {
        let _names: Vec<_> = field.list().iter().map(Field::text).collect();
        return;
    }
    for (_, network) in field.entries() {
        let Some(mut network) = network.map() else { continue };
        network.ignore(NETWORK_IGNORED);
        for alias in network.get("aliases").iter().flat_map(Field::list) {
            spec.aliases.extend(alias.parse::<Name>());
        }
        network.finish();
    }
}
