//! The commands that run here rather than ask an agent: the one place where the CLI meets the daemon.

use super::{
    args::{ConfigCommand, DemoArgs, DemoPlane, LogFormat, RunArgs},
    exit::{Code, Failure},
    logging,
    output::Output,
    stop,
};
use crate::{
    app::{App, StartError},
    config::{self, Config},
    demo::{self, DemoError, layout::KernelPlane},
    sys,
};
use std::{path::Path, pin::pin, time::Duration};
use tokio::{
    runtime::{Builder, Runtime},
    time::timeout,
};

/// How long work on blocking threads may hold up the end of an agent that has stopped.
const LAST_WORK: Duration = Duration::from_secs(1);

/// How long an agent may take to stop in order: leaving the mesh, open flows and the last write to disk take less.
const STOP_WITHIN: Duration = Duration::from_secs(20);

/// `run`: the agent of this node, until SIGINT or SIGTERM.
pub(crate) fn run(args: &RunArgs) -> Result<(), Failure> {
    let config = load(&args.config)?;
    let format = match config.log.format {
        config::LogFormat::Logfmt => LogFormat::Logfmt,
        config::LogFormat::Json => LogFormat::Json,
        config::LogFormat::Text => LogFormat::Text,
    };
    logging::init(&args.log, Some(format), Some(&config.log.level))?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let runtime = runtime()?;
    let ran = runtime.block_on(async {
        let mut stopped = pin!(stop::asked(args.until_stdin_closes)?);
        let app = App::start(&config, stopped.as_mut()).await;
        let Some(mut app) = app.map_err(not_started)? else {
            return Ok(());
        };
        let broken = tokio::select! {
            () = stopped => None,
            part = app.broken() => Some(part),
        };
        // What the kernel holds serves on either way, and what was declared is kept as it changes.
        if timeout(STOP_WITHIN, app.stop()).await.is_err() {
            tracing::error!("stopping took longer than {STOP_WITHIN:?}: ending as it is");
        }
        // Half an agent is worse than one that its service manager starts anew.
        broken.map_or(Ok(()), |part| {
            Err(Failure::new(Code::Failure, format!("{part} ended unexpectedly; its panic is in the log"))
                .fix("start the agent again, and report this"))
        })
    });
    runtime.shutdown_timeout(LAST_WORK);
    ran
}

fn not_started(error: StartError) -> Failure {
    match error {
        StartError::Plane(error) => Failure::new(Code::Unreachable, format!("data_plane: {error}")),
        error => Failure::new(Code::Failure, error.to_string()),
    }
}

/// `demo`: several nodes on this machine, until SIGINT or SIGTERM.
pub(crate) fn demo(args: &DemoArgs) -> Result<(), Failure> {
    logging::init(&args.log, None, None)?;
    let exe = std::env::current_exe()
        .map_err(|e| Failure::new(Code::Failure, format!("cannot find the agent's own binary: {e}")))?;
    let options = demo::layout::Options { nodes: args.nodes, json: args.json, network: args.network };
    let runtime = runtime()?;
    let ran = match (args.partition, args.data_plane) {
        (true, _) => runtime.block_on(demo::partition::run(&options, &exe)),
        (false, DemoPlane::Userspace) => runtime.block_on(demo::run(&options, &exe)),
        (false, DemoPlane::Ebpf) => runtime.block_on(demo::kernel::run(&options, KernelPlane::Ebpf, &exe)),
        (false, DemoPlane::Nftables) => {
            runtime.block_on(demo::kernel::run(&options, KernelPlane::Nftables, &exe))
        }
    };
    ran.map_err(|error| {
        let code = match error {
            DemoError::Options(_) => Code::Usage,
            DemoError::Privileges(_) => Code::NotAllowed,
            _ => Code::Failure,
        };
        Failure::new(code, error.to_string())
    })
}

/// `config check`.
pub(crate) fn config(command: &ConfigCommand, output: Output) -> Result<(), Failure> {
    let ConfigCommand::Check { file } = command;
    let config = load(file)?;
    if output.json {
        return output.json(&serde_json::json!({"file": file, "ok": true, "node": config.node.name,
            "warnings": config.warnings}));
    }
    let warnings: String = config.warnings.iter().map(|w| format!("warning: {w}\n")).collect();
    output.print(&format!("{warnings}{}: good, for node {}\n", file.display(), config.node.name))
}

pub(super) fn load(path: &Path) -> Result<Config, Failure> {
    // A file that is not there is another mistake than one that is wrong.
    sys::file::open(path).map_err(|e| Failure::new(Code::NoInput, format!("{}: {e}", path.display())))?;
    Config::load(path).map_err(|problems| {
        let text = problems.to_string();
        Failure::new(Code::Usage, format!("the configuration is refused:\n{}", text.trim_end()))
    })
}

fn runtime() -> Result<Runtime, Failure> {
    Builder::new_multi_thread()
        .thread_name("mesh-agent")
        .enable_all()
        .build()
        .map_err(|e| Failure::new(Code::Failure, format!("cannot start the runtime: {e}")))
}
