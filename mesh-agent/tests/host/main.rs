//! `doctor` and `cleanup` as root, in network namespaces: what they find, that the fixes help when typed, and that they
//! touch nothing else.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test fails the test by panicking, as the test itself does"
)]

use mesh_agent::sys::{
    link::{add_bridge, set_up},
    netns::Netns,
    vxlan::{LinkKind, try_link},
};
use serde_json::Value;
use std::{
    io::{Read, Write},
    net::UdpSocket,
    os::unix::net::UnixListener,
    process::{Command, Output, Stdio},
    thread,
};
use tempfile::TempDir;

/// `None` where namespaces cannot be made; in CI they must be.
fn netns(test: &str) -> Option<Netns> {
    match Netns::new() {
        Ok(netns) => {
            set_up(&netns, "lo", true).unwrap();
            Some(netns)
        }
        Err(error) => {
            assert!(std::env::var_os("CI").is_none(), "{test} needs root, and CI skips nothing: {error}");
            eprintln!("SKIPPED: {test} needs root for network namespaces: {error}");
            None
        }
    }
}

/// Runs a program in the namespace.
fn run(netns: &Netns, program: &str, arguments: &[&str], input: &str) -> Output {
    netns
        .run(|| {
            let mut child = Command::new(program)
                .args(arguments)
                .env("NO_COLOR", "1")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap_or_else(|e| panic!("{program}: {e}"));
            // A program that reads nothing may be gone before this.
            drop(child.stdin.take().unwrap().write_all(input.as_bytes()));
            child.wait_with_output().unwrap()
        })
        .unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn agent(netns: &Netns, socket: &str, arguments: &[&str]) -> Output {
    run(netns, env!("CARGO_BIN_EXE_mesh-agent"), &[&["--admin", socket], arguments].concat(), "")
}

fn nft(netns: &Netns, rules: &str) {
    let done = run(netns, "nft", &["-f", "-"], rules);
    assert!(done.status.success(), "{done:?}");
}

/// All rules, and the names of all links.
fn state(netns: &Netns) -> (String, Vec<String>) {
    let links = text(&run(netns, "ip", &["-o", "link"], ""));
    let names = links.lines().filter_map(|line| line.split(' ').nth(1)).map(str::to_owned).collect();
    (text(&run(netns, "nft", &["list", "ruleset"], "")), names)
}

/// A socket on which nobody listens.
const NOBODY: &str = "unix:/nonexistent/admin.sock";

/// A configuration in this folder with its socket there too.
fn configured(folder: &TempDir, more: &str) -> String {
    let file = folder.path().join("config.yaml");
    let key = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let socket = folder.path().join("admin.sock");
    let text = format!(
        "node: {{name: n1, address: 127.0.0.1}}\ncluster: {{bind: \"127.0.0.1:7946\", keys: [\"{key}\"]}}\n\
         dns: {{listen: [\"127.0.0.1:53\"]}}\nmetrics: {{listen: \"127.0.0.1:9480\"}}\n\
         admin: {{socket: {}}}\n{more}",
        socket.display()
    );
    std::fs::write(&file, text).unwrap();
    file.display().to_string()
}

#[test]
fn an_agent_that_runs_is_known_and_left_alone() {
    let Some(netns) = netns("a running agent") else { return };
    let folder = tempfile::tempdir().unwrap();
    let config = configured(&folder, "vip_cidr: 127.96.0.0/16\ndata_plane: userspace\n");
    let mut running = netns
        .run(|| {
            // It stops when this test ends, however it does.
            let arguments = ["run", "--until-stdin-closes", "--config", &config];
            let mut command = Command::new(env!("CARGO_BIN_EXE_mesh-agent"));
            command.args(arguments).stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
        })
        .unwrap();
    let socket = format!("unix:{}", folder.path().join("admin.sock").display());
    let ready = agent(&netns, &socket, &["status", "--wait=60s"]);
    assert!(ready.status.success(), "{ready:?}");
    let looked = agent(&netns, NOBODY, &["doctor", "--config", &config]);
    assert_eq!(looked.status.code(), Some(0), "{looked:?}");
    assert!(text(&looked).contains("sockets: free, or the running agent's"), "{looked:?}");
    let refused = agent(&netns, &socket, &["cleanup"]);
    assert_eq!(refused.status.code(), Some(3), "{refused:?}");
    drop(running.stdin.take());
    assert!(running.wait().unwrap().success());
}

/// A data plane that the kernel does not have, asked for by name.
#[test]
fn a_data_plane_that_cannot_be_had_is_told_in_one_line() {
    let Some(netns) = netns("a data plane") else { return };
    if mesh_agent::sys::ipvs::Ipvs::open().is_ok() {
        eprintln!("SKIPPED: this kernel has IPVS");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let config = configured(&folder, "vip_cidr: 10.96.0.0/16\ndata_plane: ipvs\nlog: {level: error}\n");
    let ran = agent(&netns, NOBODY, &["run", "--config", &config]);
    let told = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert_eq!(ran.status.code(), Some(69), "EX_UNAVAILABLE: {ran:?}");
    assert_eq!(told.lines().count(), 1, "{told}");
    assert!(told.contains("this kernel has no IPVS: modprobe ip_vs, or set data_plane: auto"), "{told}");
}

#[test]
fn doctor_finds_what_is_in_the_way_and_its_fixes_help() {
    let Some(netns) = netns("doctor") else { return };
    let folder = tempfile::tempdir().unwrap();
    let config = configured(&folder, "vip_cidr: 10.96.0.0/16\noverlay: {cidr: 10.77.0.0/16}\n");
    nft(
        &netns,
        "table inet fw {\n chain forwarded {\n type filter hook forward priority 0\n policy drop\n }\n }\n\
         table ip nat {\n chain early {\n type nat hook prerouting priority -150\n }\n }\n",
    );
    try_link(&netns, LinkKind::Vxlan).unwrap();
    add_bridge(&netns, "br0").unwrap();
    let route = run(&netns, "ip", &["route", "add", "10.77.9.0/24", "dev", "br0"], "");
    assert!(route.status.success(), "{route:?}");
    let holder = netns.run(|| UdpSocket::bind("127.0.0.1:53").unwrap()).unwrap();
    let before = state(&netns);

    let look = || {
        let looked = agent(&netns, NOBODY, &["--json", "doctor", "--config", &config]);
        let json: Value =
            serde_json::from_slice(&looked.stdout).unwrap_or_else(|e| panic!("{e}: {looked:?}"));
        (looked.status.code(), json)
    };
    let (code, found) = look();
    assert_eq!(state(&netns), before, "it changes nothing");
    assert_eq!((code, &found["ok"]), (Some(1), &Value::Bool(false)), "{found:#}");
    let of = |found: &Value, check: &str| {
        let all = found["findings"].as_array().unwrap();
        let one = all.iter().find(|f| f["check"] == check && f["level"] != "ok");
        one.cloned().unwrap_or_else(|| panic!("{check} is not in {found:#}"))
    };
    let word = |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    let held = of(&found, "ports");
    assert!(word(&held, "found").contains(&format!("(pid {})", std::process::id())), "{held}");
    assert_eq!(word(&of(&found, "foreign-nat"), "level"), "warn");
    assert_eq!(word(&of(&found, "forwarding"), "fix"), "sysctl -w net.ipv4.ip_forward=\"1\"");
    assert!(word(&of(&found, "routes"), "fix").ends_with("ip route del 10.77.9.0/24 dev br0"));
    assert_eq!(word(&of(&found, "forward-policy"), "level"), "fail");
    let features = found["findings"].as_array().unwrap().iter().find(|f| f["check"] == "nftables").unwrap();
    assert!(word(features, "found").contains("numgen"), "{features}");

    // Typed as they are shown.
    drop(holder);
    for check in ["forward-policy", "routes", "forwarding"] {
        let fix = word(&of(&found, check), "fix");
        let command = fix.rsplit("or: ").next().unwrap().to_owned();
        let typed = run(&netns, "sh", &["-ec", &command], "");
        assert!(typed.status.success(), "{command}: {typed:?}");
    }
    let (_, after) = look();
    let levels = |check: &str| {
        let all = after["findings"].as_array().unwrap().iter();
        all.filter(|f| f["check"] == check).map(|f| word(f, "level")).collect::<Vec<_>>()
    };
    for check in ["forward-policy", "routes", "ports", "forwarding"] {
        assert!(levels(check).iter().all(|level| level == "ok"), "{check}: {after:#}");
    }

    let shown = text(&agent(&netns, NOBODY, &["doctor"]));
    assert!(shown.lines().any(|line| line.starts_with("warn foreign-nat")), "{shown}");
    assert!(shown.contains("fix: move it to priority -100"), "{shown}");
}

#[test]
fn cleanup_removes_ours_and_leaves_the_rest_as_it_was() {
    let Some(netns) = netns("cleanup") else { return };
    let nothing = agent(&netns, NOBODY, &["cleanup"]);
    assert_eq!((nothing.status.code(), &text(&nothing)[..]), (Some(0), "nothing of an agent is here\n"));
    nft(
        &netns,
        "table inet mesh-agents {\n chain c {\n type filter hook input priority 0\n }\n }\n\
         table ip nat {\n map m {\n type ipv4_addr : ipv4_addr\n elements = { 192.0.2.1 : 192.0.2.2 }\n }\n }\n",
    );
    add_bridge(&netns, "br0").unwrap();
    let foreign = state(&netns);
    let family = |family: &str| {
        format!(
            "table {family} mesh-agent {{\n chain c {{\n type nat hook prerouting priority -105\n counter\n }}\n }}\n"
        )
    };
    nft(&netns, &(family("ip") + &family("ip6")));
    let both = state(&netns);

    let dry = agent(&netns, NOBODY, &["cleanup", "--dry-run"]);
    let mut lines: Vec<String> = text(&dry).lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["would remove table ip mesh-agent", "would remove table ip6 mesh-agent"], "{dry:?}");
    assert_eq!(state(&netns), both);

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let answering = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        assert_ne!(stream.read(&mut [0; 4096]).unwrap(), 0);
        stream.write_all(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n").unwrap();
    });
    let socket = format!("unix:{}", path.display());
    let refused = agent(&netns, &socket, &["cleanup"]);
    answering.join().unwrap();
    assert_eq!(refused.status.code(), Some(3), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--force"), "{refused:?}");
    assert_eq!(state(&netns), both);

    let done = agent(&netns, &socket, &["--json", "cleanup", "--force"]);
    let json: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(json["removed"].as_array().unwrap().len(), 2, "{json}");
    assert_eq!((done.status.code(), json["failed"].as_array().unwrap().len()), (Some(0), 0));
    assert_eq!(state(&netns), foreign, "what is not ours is as it was, to the byte");
    assert_eq!(text(&agent(&netns, NOBODY, &["cleanup"])), "nothing of an agent is here\n");
}
