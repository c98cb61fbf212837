//! The commands that run here rather than ask an agent: the one place where the CLI meets the daemon.

use super::{
    args::{ConfigCommand, DemoArgs, RunArgs},
    exit::{Code, Failure},
    output::Output,
};
use std::path::Path;

/// `run`: the agent of this node, until SIGINT or SIGTERM.
pub(crate) fn run(args: &RunArgs) -> Result<(), Failure> {
    readable(&args.config)?;
    Err(not_wired("run"))
}

/// `demo`: several nodes on this machine, until SIGINT or SIGTERM.
pub(crate) fn demo(_args: &DemoArgs) -> Result<(), Failure> {
    Err(not_wired("demo"))
}

/// `config check`.
pub(crate) fn config(command: &ConfigCommand, _output: Output) -> Result<(), Failure> {
    let ConfigCommand::Check { file } = command;
    readable(file)?;
    Err(not_wired("config check"))
}

/// Tells a missing file apart from a wrong one.
fn readable(path: &Path) -> Result<(), Failure> {
    std::fs::File::open(path)
        .map(|_| ())
        .map_err(|e| Failure::new(Code::NoInput, format!("{}: {e}", path.display())))
}

fn not_wired(command: &str) -> Failure {
    Failure::new(Code::Failure, format!("`{command}` is not part of this build"))
}
