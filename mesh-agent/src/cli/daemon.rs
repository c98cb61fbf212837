//! The commands that run here rather than ask an agent: the one place where the CLI meets the daemon.

use super::{
    args::{ConfigCommand, DemoArgs, LogFormat, RunArgs},
    exit::{Code, Failure},
    logging,
    output::Output,
};
use crate::{
    app::App,
    config::{self, Config},
    demo::{self, DemoError},
    sys,
};
use std::{os::fd::AsFd, path::Path};
use tokio::{
    io::AsyncReadExt,
    net::unix::pipe,
    runtime::{Builder, Runtime},
    signal::unix::{SignalKind, signal},
};

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
    runtime()?.block_on(async {
        let stopped = stop_asked(args.until_stdin_closes)?;
        let mut app = App::start(&config).await.map_err(|e| Failure::new(Code::Failure, e.to_string()))?;
        let broken = tokio::select! {
            () = stopped => None,
            part = app.broken() => Some(part),
        };
        app.stop().await;
        // Half an agent is worse than one that its service manager starts anew.
        broken.map_or(Ok(()), |part| {
            Err(Failure::new(Code::Failure, format!("{part} ended unexpectedly; its panic is in the log"))
                .fix("start the agent again, and report this"))
        })
    })
}

/// `demo`: several nodes on this machine, until SIGINT or SIGTERM.
pub(crate) fn demo(args: &DemoArgs) -> Result<(), Failure> {
    logging::init(&args.log, None, None)?;
    let exe = std::env::current_exe()
        .map_err(|e| Failure::new(Code::Failure, format!("cannot find the agent's own binary: {e}")))?;
    let options = demo::layout::Options { nodes: args.nodes, json: args.json, network: args.network };
    let runtime = runtime()?;
    let ran = if args.partition {
        runtime.block_on(demo::partition::run(&options, &exe))
    } else {
        runtime.block_on(demo::run(&options, &exe))
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

fn load(path: &Path) -> Result<Config, Failure> {
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

/// Resolves on SIGINT, SIGTERM or, when asked, on the end of standard input. The signals are caught from here on.
fn stop_asked(on_stdin: bool) -> Result<impl Future<Output = ()>, Failure> {
    let watch =
        |kind| signal(kind).map_err(|e| Failure::new(Code::Failure, format!("cannot watch signals: {e}")));
    let (mut interrupt, mut terminate) = (watch(SignalKind::interrupt())?, watch(SignalKind::terminate())?);
    // tokio's own stdin would read on a thread that cannot be stopped and so keep the process alive.
    let pipe = |file| {
        pipe::Receiver::from_file(file).map_err(|e| {
            Failure::new(Code::Usage, format!("--until-stdin-closes: standard input is no pipe: {e}"))
        })
    };
    let stdin = std::io::stdin().as_fd().try_clone_to_owned().map(std::fs::File::from);
    let mut stdin = match (on_stdin, stdin) {
        (true, Ok(file)) => Some(pipe(file)?),
        _ => None,
    };
    Ok(async move {
        let stdin_closed = async {
            if let Some(stdin) = &mut stdin {
                let mut bytes = [0u8; 64];
                while stdin.read(&mut bytes).await.is_ok_and(|n| n > 0) {}
            } else {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            () = stdin_closed => {}
        }
    })
}
