use super::*;
use mesh_control::model::{
    Affinity, CheckKind, EndpointMode, Locality, Name, NoBackend, Origin, Protocol, PublishMode, Scheduler,
    ServiceSpec,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::time::Duration;

fn parse_as(text: &str, origin: &Origin) -> Result<Vec<Declared>, crate::config::yaml::Problems> {
    parse("shop.yaml", text, Context { node: &Name::new("n1").unwrap(), origin })
}

fn read(text: &str) -> Result<Vec<Declared>, crate::config::yaml::Problems> {
    parse_as(text, &Origin::Node(Name::new("n1").unwrap()))
}

/// The only service of a text.
fn one(text: &str) -> (ServiceSpec, crate::source::LocalService) {
    let mut all = read(text).unwrap_or_else(|e| panic!("{text}\n{e}"));
    assert_eq!(all.len(), 1);
    let service = all.remove(0).service;
    ((*service.declaration.as_ref().unwrap().1).clone(), service)
}

fn shown(spec: &ServiceSpec) -> Vec<String> {
    let port = |p: &mesh_control::model::ServicePort| {
        let publish = p.publish.as_ref().map_or("-".to_owned(), |x| {
            let mode = if x.mode == PublishMode::Host { " host" } else { "" };
            let address = x.address.map_or(String::new(), |a| format!("{a} "));
            format!("{address}{}{mode}", x.port.map_or("*".to_owned(), |r| r.to_string()))
        });
        format!("{}>{}/{} {publish}", p.port, p.target, p.protocol)
    };
    spec.ports.iter().map(port).collect()
}

#[test]
fn ports_in_every_notation() {
    for (text, want) in [
        ("['8080:80']", "80>80/tcp 8080"),
        ("[8080:80]", "80>80/tcp 8080"),
        ("['5353:53/udp']", "53>53/udp 5353"),
        ("['6000-6010:7000-7010']", "7000-7010>7000/tcp 6000-6010"),
        ("['127.0.0.1:8080:80']", "80>80/tcp 127.0.0.1 8080"),
        ("['0.0.0.0:8080:80']", "80>80/tcp 8080"),
        ("['[::1]:8080:80']", "80>80/tcp ::1 8080"),
        ("['127.0.0.1::80']", "80>80/tcp 127.0.0.1 *"),
        ("[80]", "80>80/tcp *"),
        ("[{target: 80, published: 8080, protocol: tcp, mode: host}]", "80>80/tcp 8080 host"),
        (
            "[{target: 53, published: '5353', protocol: udp, host_ip: 127.0.0.1, name: dns}]",
            "53>53/udp 127.0.0.1 5353",
        ),
        ("[{target: 80, app_protocol: http}]", "80>80/tcp *"),
    ] {
        assert_eq!(shown(&one(&format!("services: {{web: {{ports: {text}}}}}")).0), [want], "{text}");
    }
    // One port may be open at several places.
    let (spec, _) = one("services: {web: {ports: ['8080:80', '127.0.0.1:8080:80', '8081:80', 80]}}");
    assert_eq!(shown(&spec), ["80>80/tcp 8080", "80>80/tcp 127.0.0.1 8080", "80>80/tcp 8081", "80>80/tcp *"]);
    let (spec, _) = one("services: {web: {ports: ['8080:80'], expose: ['80', '53/udp', 9000-9002]}}");
    assert_eq!(shown(&spec), ["80>80/tcp 8080", "53>53/udp -", "9000-9002>9000/tcp -"]);
}

#[test]
fn a_whole_file_is_read() {
    let (spec, service) = one(r#"
name: shop
x-common: &common {image: "whoami:1", restart: always, environment: [A=b], depends_on: [db]}
services:
  web:
    <<: *common
    ports: ["8080:80"]
    stop_grace_period: 1m30s
    labels: {a: 1, empty: }
    deploy: {endpoint_mode: dnsrr, replicas: 3, labels: [b=2]}
    networks: {front: {aliases: [www, web]}, back: }
    healthcheck: {test: ["CMD", "check", "-x"], interval: 5s, timeout: 1s, retries: 4, start_period: 10s}
    x-mesh:
      scheduler: maglev
      affinity: {timeout: 10m}
      locality: prefer-zone
      no_backend: drop
      idle_timeout: 5m
      max_connections: 100
      ttl: 30
      negative_ttl: 60
      aliases: site
      allow: [10.0.0.0/8]
      proxy_protocol: true
      endpoints:
        - {name: a, address: 10.0.0.1, ports: {80: 8081}, weight: 5}
        - {name: a, address: 10.0.0.2, node: n2}
        - {address: [10.0.0.3, "fd00::3"]}
networks: {front: {}, back: {}}
"#);
    assert_eq!(service.key.to_string(), "web.shop");
    assert_eq!(service.declaration.unwrap().0, Origin::Node(Name::new("n1").unwrap()));
    assert_eq!(spec.endpoint_mode, EndpointMode::Dnsrr);
    assert_eq!((spec.drain, spec.scheduler), (Duration::from_secs(90), Scheduler::Maglev));
    assert_eq!(spec.affinity, Some(Affinity { timeout: Duration::from_secs(600) }));
    assert_eq!((spec.locality, spec.no_backend), (Locality::PreferZone, NoBackend::Drop));
    assert_eq!((spec.idle_timeout, spec.max_connections), (Some(Duration::from_secs(300)), Some(100)));
    assert_eq!((spec.ttl, spec.negative_ttl), (Some(30), Some(60)));
    assert!(spec.ports[0].proxy_protocol);
    assert_eq!(spec.ports[0].publish.as_ref().unwrap().allow, ["10.0.0.0/8".parse().unwrap()]);
    let aliases: Vec<&str> = spec.aliases.iter().map(Name::as_str).collect();
    assert_eq!(aliases, ["site", "www"]);
    let labels: Vec<(&str, &str)> = spec.labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(labels, [("a", "1"), ("b", "2"), ("empty", "")]);
    let exec = service.exec_check.unwrap();
    assert_eq!((exec.command, exec.fall, exec.rise), (vec!["check".to_owned(), "-x".into()], 4, 1));
    assert_eq!((exec.interval, exec.start_period), (Duration::from_secs(5), Duration::from_secs(10)));
    let [a, b] = &*service.endpoints else { panic!("{:?}", service.endpoints) };
    assert_eq!((a.instance.as_str(), a.port_for(80), a.weight), ("a", 8081, 5));
    assert_eq!((b.instance.as_str(), b.addresses.to_string().as_str()), ("web-3", "10.0.0.3,fd00::3"));
}

#[test]
fn health_checks_of_both_kinds() {
    let check = |text: &str| one(&format!("services: {{web: {{ports: [80], {text}}}}}"));
    let (spec, service) =
        check("x-mesh: {health: {http: {path: /up, host: a.example}, rise: 1}}, healthcheck: {test: x}");
    let health = spec.health.unwrap();
    assert_eq!(
        health.kind,
        CheckKind::Http { port: None, path: "/up".into(), host: Some("a.example".into()) }
    );
    assert_eq!((health.interval, health.rise, health.fall), (Duration::from_secs(5), 1, 3));
    assert_eq!(service.exec_check, None);
    let (spec, _) = check("x-mesh: {health: {tcp: 81}}");
    assert_eq!(spec.health.unwrap().kind, CheckKind::Tcp { port: Some(81) });
    assert_eq!(check("x-mesh: {health: {tcp: }}").0.health.unwrap().kind, CheckKind::Tcp { port: None });
    for (text, want) in [
        ("test: curl -f localhost", vec!["/bin/sh", "-c", "curl -f localhost"]),
        ("test: [CMD-SHELL, 'a || b']", vec!["/bin/sh", "-c", "a || b"]),
        ("test: [NONE]", vec![]),
        ("test: x, disable: true", vec![]),
        ("interval: 5s", vec![]),
    ] {
        let found =
            check(&format!("healthcheck: {{{text}}}")).1.exec_check.map(|e| e.command).unwrap_or_default();
        assert_eq!(found, want, "{text}");
    }
}

#[test]
fn mistakes_are_named_with_line_key_value_and_fix() {
    for (text, want) in [
        (
            "servics: {}",
            vec![
                "shop.yaml:1: services: is missing: write the services under it, as `services: {web: {ports: [\"8080:80\"]}}`",
                "shop.yaml:1: servics: is no known key: did you mean \"services\"?",
            ],
        ),
        (
            "services:\n  web:\n    prots: [80]",
            vec!["shop.yaml:3: services.web.prots: is no known key: did you mean \"ports\"?"],
        ),
        (
            "services:\n  web:\n    imag: x",
            vec!["shop.yaml:3: services.web.imag: is no known key: did you mean \"image\"?"],
        ),
        (
            "services:\n  web:\n    x-mehs: {}",
            vec!["shop.yaml:3: services.web.x-mehs: is no known key: did you mean \"x-mesh\"?"],
        ),
        (
            "services: {tasks: {}}",
            vec![
                "shop.yaml:1: services.tasks: `tasks` is no name: `tasks` is reserved for the list of endpoints",
            ],
        ),
        (
            "services: {a.b: {}}",
            vec![
                "shop.yaml:1: services.a.b: `a.b` is no name: only letters, digits, `-` and `_` are allowed",
            ],
        ),
        (
            "name: a b\nservices: {}",
            vec!["shop.yaml:1: name: `a b` is no name: only letters, digits, `-` and `_` are allowed"],
        ),
        ("services: [web]", vec!["shop.yaml:1: services: is a list: write a mapping of keys and values"]),
        (
            "services:\n  web:\n    ports:\n    - '80'\n    - '8080:99999'",
            vec![
                "shop.yaml:5: services.web.ports[1]: \"8080:99999\" is no port mapping: write [IP:][PUBLISHED:]TARGET[/tcp|udp], as 8080:80, 53:53/udp or 127.0.0.1:6000-6010:7000-7010",
            ],
        ),
        (
            "services: {web: {ports: ['${PORT}:80']}}",
            vec![
                "shop.yaml:1: services.web.ports[0]: \"${PORT}:80\" holds a variable, which is not replaced here: write the number",
            ],
        ),
        (
            "services: {web: {ports: ['80/sctp']}}",
            vec!["shop.yaml:1: services.web.ports[0]: \"80/sctp\" has an unknown protocol: use /tcp or /udp"],
        ),
        (
            "services: {web: {ports: ['1-3:80']}}",
            vec!["shop.yaml:1: services.web.ports[0]: published 1-3 and port 80 differ in length"],
        ),
        (
            "services:\n  web:\n    ports:\n    - 81:80\n    - 81:80",
            vec!["shop.yaml:5: services.web.ports[1]: port 80/tcp is declared twice"],
        ),
        (
            "services: {web: {ports: [{published: 80, mod: host}]}}",
            vec![
                "shop.yaml:1: services.web.ports[0]: has no target: name the port of the instances, as target: 80",
                "shop.yaml:1: services.web.ports[0].mod: is no known key: did you mean \"mode\"?",
            ],
        ),
        (
            "services: {web: {deploy: {endpoint_mode: vipp}}}",
            vec!["shop.yaml:1: services.web.deploy.endpoint_mode: \"vipp\" is not known: use vip, dnsrr"],
        ),
        (
            "services: {web: {stop_grace_period: 10}}",
            vec![
                "shop.yaml:1: services.web.stop_grace_period: \"10\" is no duration: write a number and a unit (us, ms, s, m, h), as 1m30s or 500ms",
            ],
        ),
        (
            "services: {web: {x-mesh: {scheduler: fast, weight: 1}}}",
            vec![
                "shop.yaml:1: services.web.x-mesh.scheduler: \"fast\" is not known: use rr, wrr, lc, maglev, random",
                "shop.yaml:1: services.web.x-mesh.weight: is no known key: use one of affinity, aliases, allow, drain, endpoints, external_name, health, idle_timeout, locality, max_connections, negative_ttl, no_backend, proxy_protocol, scheduler, ttl",
            ],
        ),
        (
            "services: {web: {x-mesh: {affinity: cookie}}}",
            vec![
                "shop.yaml:1: services.web.x-mesh.affinity: is no affinity: write client_ip, none, or {timeout: 3h}",
            ],
        ),
        (
            "services: {web: {x-mesh: {health: {}}}}",
            vec![
                "shop.yaml:1: services.web.x-mesh.health: must say what is asked: write either tcp: PORT or http: {path: /}",
            ],
        ),
        (
            "services: {web: {x-mesh: {health: {http: {path: up}}}}}",
            vec!["shop.yaml:1: services.web.x-mesh.health.http.path: \"up\" must begin with /, as /healthz"],
        ),
        (
            "services: {web: {x-mesh: {endpoints: [{name: a}]}}}",
            vec![
                "shop.yaml:1: services.web.x-mesh.endpoints[0]: has no address: write its IP address, as address: 192.0.2.10",
            ],
        ),
        (
            "services: {web: {x-mesh: {endpoints: [{address: web.example}]}}}",
            vec![
                "shop.yaml:1: services.web.x-mesh.endpoints[0].address: \"web.example\" is no IP address of an instance: write one, as 192.0.2.10",
            ],
        ),
        (
            "services: {web: {ports: [80], x-mesh: {endpoints: [{address: 10.0.0.1, ports: {81: 82}}]}}}",
            vec![
                "shop.yaml:1: services.web.x-mesh.endpoints[0]: ports names the target 81, which the service has not: add it to ports or expose",
            ],
        ),
        (
            "services: {web: {x-mesh: {endpoints: [{name: a, address: 10.0.0.1}, {name: a, address: 10.0.0.2}]}}}",
            vec![
                "shop.yaml:1: services.web.x-mesh.endpoints[1]: the endpoint a is declared twice on n1: give each a name",
            ],
        ),
        (
            "services: {web: {healthcheck: {test: [curl]}}}",
            vec![
                "shop.yaml:1: services.web.healthcheck.test: is no command: write [\"CMD\", PROGRAM, ARGUMENT…], [\"CMD-SHELL\", LINE] or [\"NONE\"]",
            ],
        ),
        (
            "services: {web: {extends: {service: x}}}\ninclude: [b.yaml]",
            vec![
                "shop.yaml:1: services.web.extends: is not followed: write the keys out, or use a YAML anchor and <<",
                "shop.yaml:2: include: is not followed: put the other files into the same folder",
            ],
        ),
        (
            "services:\n  a: {ports: ['80:80']}\n  b:\n    ports:\n    - 79-81:1-3",
            vec![
                "shop.yaml:5: services.b.ports[0]: published port 79-81/tcp is taken by a at shop.yaml:2: use another",
            ],
        ),
    ] {
        assert_eq!(read(text).expect_err(text).lines(), want, "{text}");
    }
}

#[test]
fn commands_come_only_from_a_file_of_the_node() {
    let text = "services: {web: {healthcheck: {test: rm}}}";
    assert_eq!(
        parse_as(text, &Origin::Cluster).unwrap_err().lines(),
        [
            "shop.yaml:1: services.web.healthcheck: runs a command, which only a file on the node itself may ask for: use x-mesh.health instead"
        ]
    );
    let with_health = "services: {web: {ports: [80], healthcheck: {test: rm}, x-mesh: {health: {tcp: 80}}}}";
    assert!(parse_as(with_health, &Origin::Cluster).is_ok());
}

#[test]
fn files_may_not_clash_and_both_places_are_named() {
    let node = Name::new("n1").unwrap();
    let origin = Origin::Node(node.clone());
    let file = |name: &str, text: &str| parse(name, text, Context { node: &node, origin: &origin }).unwrap();
    let old = file("a.yaml", "services:\n  web: {ports: ['8080:80', '53:53/udp']}\n");
    let clash = |text: &str| -> Vec<String> {
        clashes(old.iter(), &file("b.yaml", text)).iter().map(ToString::to_string).collect()
    };
    assert_eq!(
        clash("services:\n\n  web: {}"),
        ["b.yaml:3: services.web: the service web is declared already, at a.yaml:2: keep one"]
    );
    assert_eq!(
        clash("services:\n  x:\n    ports:\n    - 127.0.0.1:8080:1"),
        ["b.yaml:4: services.x.ports[0]: published port 8080/tcp is taken by web at a.yaml:2: use another"]
    );
    assert!(clash("name: other\nservices: {web: {ports: ['8080:80/udp', '53:1/tcp', '2']}}").is_empty());
    let pinned = file("c.yaml", "services: {c: {ports: ['127.0.0.1:80:80']}}");
    assert!(
        clashes(pinned.iter(), &file("d.yaml", "services: {d: {ports: ['127.0.0.2:80:80']}}")).is_empty()
    );
}

#[test]
fn reserved_and_own_aliases() {
    let text = "services: {web: {networks: {a: {aliases: [tasks]}}}}";
    assert!(read(text).unwrap_err().to_string().contains("the alias tasks is reserved"));
    assert_eq!(read("services:\n  web:\n").unwrap().len(), 1);
}

#[test]
fn another_name_may_stand_for_a_service() {
    let read_one = |name: &str| read(&format!("services: {{db: {{x-mesh: {{external_name: {name}}}}}}}"));
    let spec = read_one("db.example.org").unwrap()[0].service.declaration.clone().unwrap().1;
    assert_eq!(spec.external_name.as_deref(), Some("db.example.org"));
    assert_eq!(spec.endpoint_mode, EndpointMode::Dnsrr);
    let error = read_one("192.0.2.1").unwrap_err().to_string();
    assert!(error.contains("external_name") && error.contains("is no domain name"), "{error}");
}

#[test]
fn the_documented_examples_are_read() {
    let doc = include_str!("../../../../docs/services.md");
    let mut count = 0;
    for yaml in doc.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()) {
        read(yaml).unwrap_or_else(|e| panic!("{yaml}\n{e}"));
        count += 1;
    }
    assert!(count >= 2);
}

/// Mutated documents: services or problems, never a panic.
#[test]
fn mutations_never_panic() {
    let seed = 0x5EED_0002;
    println!("seed {seed:#x}");
    let mut rng = StdRng::seed_from_u64(seed);
    let sample = "name: s\nservices:\n  web:\n    ports: ['127.0.0.1:6000-6010:7000-7010/udp', {target: 80, published: 1}]\n    expose: [1]\n    healthcheck: {test: [CMD, x], interval: 1s}\n    deploy: {labels: [a=b]}\n    x-mesh: {affinity: {timeout: 1h}, health: {http: {path: /}}, endpoints: [{address: 1.2.3.4, ports: {80: 81}}]}\n";
    let pieces = [
        "{", "}", "[", "]", ":", "-", "\n", "  ", "65535", "65536", "-1", "0", "é", "~", "*a", "&a ", "::",
        "/udp", "'",
    ];
    for _ in 0..3000 {
        let mut text: Vec<char> = sample.chars().collect();
        for _ in 0..rng.random_range(1..5) {
            let at = rng.random_range(0..text.len());
            let end = (at + rng.random_range(0..4)).min(text.len());
            let piece = pieces[rng.random_range(0..pieces.len())];
            text.splice(at..end, piece.chars());
        }
        let text: String = text.into_iter().collect();
        if let Ok(all) = read(&text) {
            for d in all {
                d.service.declaration.unwrap().1.validate().unwrap_or_else(|e| panic!("{text}\n{e}"));
            }
        }
    }
}

/// A bad document is not `Ok` with parts missing.
#[test]
fn a_bad_service_refuses_the_whole_file() {
    assert!(read("services: {good: {ports: [80]}, bad: {ports: [0]}}").is_err());
    assert_eq!(
        read("services: {u: {ports: [53/udp]}}").unwrap()[0].service.declaration.as_ref().unwrap().1.ports[0]
            .protocol,
        Protocol::Udp
    );
}

#[test]
fn twenty_thousand_claims_of_one_port_are_refused_in_bounded_space() {
    let many: String = (0..20_000).map(|i| format!("  s{i}: {{ports: ['80:80']}}\n")).collect();
    let problems = read(&format!("services:\n{many}")).unwrap_err();
    assert!((1..=101).contains(&problems.0.len()), "{}", problems.0.len());
    assert!(problems.to_string().contains("published port 80/tcp is taken by s0 at"), "{problems}");
}

#[test]
fn an_empty_command_is_refused_as_it_would_always_succeed() {
    for test in ["''", "[CMD-SHELL, ' ']"] {
        let all = read(&format!("services: {{web: {{healthcheck: {{test: {test}}}}}}}"));
        let lines = all.expect_err(test).lines();
        assert!(lines[0].contains("healthcheck.test: is no command"), "{lines:?}");
    }
}
