//! Whether the whole demo is there, asked of every agent with the agent's own commands, as a user would.

use super::{
    layout::{Layout, Node},
    print::Running,
};
use crate::admin::wire::{ServicesJson, StatusJson};
use serde::de::DeserializeOwned;
use std::{net::IpAddr, path::Path, process::Stdio};
use tokio::{net::UnixStream, process::Command};

/// Whether an agent answers on the node's admin socket.
pub(super) async fn answers(node: &Node) -> bool {
    UnixStream::connect(&node.socket).await.is_ok()
}

/// Every node knows every other, every service with its VIP and all its instances, and its data plane and DNS hold
/// them. `Err` says what is missing.
pub(super) async fn ask(layout: &Layout, exe: &Path) -> Result<Running, String> {
    let mut running = Running::default();
    for node in &layout.nodes {
        let missing = |what: String| format!("{}: {what}", node.name);
        let services: ServicesJson = call(exe, node, &["service", "ls"]).await?;
        let status: StatusJson = call(exe, node, &["status"]).await?;
        if !status.ready {
            return Err(missing(status.missing.join(", ")));
        }
        if status.control.members_up + 1 < layout.nodes.len() {
            return Err(missing(format!("knows {} other nodes", status.control.members_up)));
        }
        for service in &layout.services {
            let found = services.services.iter().find(|s| s.name == service.name);
            let found = found.ok_or_else(|| missing(format!("does not know {}", service.name)))?;
            let vip: IpAddr = found
                .vips
                .first()
                .and_then(|v| v.parse().ok())
                .ok_or_else(|| missing(format!("{} has no VIP yet", service.name)))?;
            if found.endpoints_ready < service.instances.len() {
                return Err(missing(format!(
                    "{} of {} instances of {} are ready",
                    found.endpoints_ready,
                    service.instances.len(),
                    service.name
                )));
            }
            let before = running.vips.insert(service.name.to_owned(), vip);
            if before.is_some_and(|other| other != vip) {
                return Err(missing(format!("{} has another VIP than elsewhere", service.name)));
            }
        }
        if status.plane.revision.is_none_or(|r| r < services.revision) || !status.plane.failed.is_empty() {
            return Err(missing(format!(
                "the data plane is not there yet: {}",
                status.plane.failed.join(", ")
            )));
        }
    }
    Ok(running)
}

/// What a command of the agent prints as JSON.
pub(super) async fn call<T: DeserializeOwned>(
    exe: &Path,
    node: &Node,
    command: &[&str],
) -> Result<T, String> {
    let output = Command::new(exe)
        .arg("--admin")
        .arg(format!("unix:{}", node.socket.display()))
        .arg("--json")
        .args(command)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|e| format!("cannot run {}: {e}", exe.display()))?;
    serde_json::from_slice(&output.stdout).map_err(|_| {
        format!(
            "{}: {}",
            node.name,
            String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or("no answer")
        )
    })
}
