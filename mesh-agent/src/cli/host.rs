//! The commands about this host: `doctor` and `cleanup`.

use super::{
    args::{CleanupArgs, DoctorArgs, Global},
    client::Client,
    daemon,
    exit::{Code, Failure},
    output::{Output, clean},
};
use crate::{
    cleanup,
    doctor::{self, Level, Wanted},
    overlay::OverlayConfig,
};
use serde_json::{Value, json};
use std::path::Path;

/// `doctor`: exits 1 when a check failed.
pub(super) fn doctor(args: &DoctorArgs, global: &Global, output: Output) -> Result<(), Failure> {
    let config = args.config.as_deref().map(daemon::load).transpose()?;
    let socket = config.as_ref().and_then(|config| config.admin.socket.as_deref());
    let agent = agent_runs(global, socket)?;
    let wanted = config.as_ref().map_or_else(Wanted::unconfigured, Wanted::of);
    let findings = doctor::judge(&doctor::gather(wanted, agent));
    let failed = findings.iter().any(|finding| finding.level == Level::Fail);
    if output.json {
        output.json(&json!({"ok": !failed, "findings": findings}))?;
    } else {
        let mut text = String::new();
        for finding in &findings {
            let level = finding.level.word();
            let pad = " ".repeat(5 - level.len());
            text += &format!("{}{pad}{:<24}{}\n", output.paint(level), finding.check, clean(&finding.found));
            if let Some(fix) = &finding.fix {
                text += &format!("{:29}fix: {}\n", "", clean(fix));
            }
        }
        output.print(&text)?;
    }
    if failed { Err(Failure::silent(Code::Failure)) } else { Ok(()) }
}

/// `cleanup`.
pub(super) fn cleanup(args: &CleanupArgs, global: &Global, output: Output) -> Result<(), Failure> {
    let config = args.config.as_deref().map(daemon::load).transpose()?;
    let socket = config.as_ref().and_then(|config| config.admin.socket.as_deref());
    if !args.force && !args.dry_run && agent_runs(global, socket)? {
        let what = format!("an agent answers at {}", global.admin);
        return Err(Failure::new(Code::AgentRuns, what)
            .fix("stop it first, as with systemctl stop mesh-agent; --force removes it all the same"));
    }
    let usual = (OverlayConfig::BRIDGE, OverlayConfig::DEVICE);
    let links = config.as_ref().map(|config| &config.overlay_links);
    let (bridge, device) = links.map_or(usual, |links| (links.bridge.as_str(), links.device.as_str()));
    let bpffs = config.as_ref().and_then(|config| config.ebpf.bpffs.as_deref());
    let cleaned = cleanup::clean(&OverlayConfig::of_links(bridge, device), bpffs, args.dry_run);
    if output.json {
        output
            .json(&json!({"dry_run": args.dry_run, "removed": cleaned.removed, "failed": cleaned.failed}))?;
    } else {
        let verb = if args.dry_run { "would" } else { "done:" };
        let mut text: String =
            cleaned.removed.iter().map(|what| format!("{verb} {}\n", clean(what))).collect();
        if cleaned.removed.is_empty() && cleaned.failed.is_empty() {
            text = "nothing of an agent is here\n".to_owned();
        }
        output.print(&text)?;
    }
    match &cleaned.failed[..] {
        [] => Ok(()),
        failed => Err(Failure::new(Code::Failure, failed.join("\n"))
            .fix("run it as root, in the network namespace of the agent")),
    }
}

/// Whether an agent answers at the address that was given, or at this socket.
fn agent_runs(global: &Global, socket: Option<&Path>) -> Result<bool, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::new(Code::Failure, format!("cannot start: {e}")))?;
    let socket = socket.map(|path| format!("unix:{}", path.display()));
    for admin in [Some(global.admin.clone()), socket].into_iter().flatten() {
        let client = Client::new(&admin, global.token_file.as_deref())?;
        let answer: Result<Value, Failure> = runtime.block_on(client.get("/v1/status"));
        // Also an agent that says no is one.
        if !answer.is_err_and(|failure| failure.code == Code::Unreachable) {
            return Ok(true);
        }
    }
    Ok(false)
}
