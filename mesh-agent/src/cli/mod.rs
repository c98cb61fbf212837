//! The command line: arguments, the client of the admin API, tables, exit codes.
//!
//! The way of a command: [`args`] (clap) → `commands` (ask the agent through `client`) → `output` (table or JSON).
//! What runs here rather than asks an agent is in `daemon`.

pub mod args;
mod client;
mod commands;
mod daemon;
pub mod exit;
mod host;
mod input;
mod key;
mod lines;
pub mod logging;
mod output;
mod stop;
mod token;

use args::{Cli, Command, Shell};
use clap::{CommandFactory, Parser, error::ErrorKind};
use exit::{Code, Failure};
use output::Output;
use std::process::ExitCode;

/// Parses the arguments and runs; the exit code of the process.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    match dispatch(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.message.is_empty() {
                // A closed stderr must not turn a clear exit code into a panic, as eprintln! would.
                let text = format!("mesh-agent: {failure}\n");
                let _ = std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes());
            }
            failure.exit_code()
        }
    }
}

/// Help and version go to stdout and are no failure; everything else is wrong usage.
fn usage(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
        _ => Failure::silent(Code::Usage).exit_code(),
    }
}

fn dispatch(cli: Cli) -> Result<(), Failure> {
    let output = Output::new(cli.global.json);
    match cli.command {
        Command::Run(args) => daemon::run(&args),
        Command::Demo(mut args) => {
            args.json = cli.global.json;
            daemon::demo(&args)
        }
        Command::Config(command) => daemon::config(&command, output),
        Command::Key(args::KeyCommand::Generate) => key::generate(output),
        Command::Token(command) => match token::run(command, output)? {
            Some(asking) => commands::run(Command::Token(asking), &cli.global, output),
            None => Ok(()),
        },
        Command::Doctor(args) => host::doctor(&args, &cli.global, output),
        Command::Cleanup(args) => host::cleanup(&args, &cli.global, output),
        Command::Completion { shell } => output.print(&completion(shell)),
        Command::Version => version(output),
        asking => commands::run(asking, &cli.global, output),
    }
}

fn completion(shell: Shell) -> String {
    let shell = match shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "mesh-agent", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

fn version(output: Output) -> Result<(), Failure> {
    let version = env!("CARGO_PKG_VERSION");
    if output.json {
        return output.json(&serde_json::json!({"name": "mesh-agent", "version": version}));
    }
    output.print(&format!("mesh-agent {version}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_help_with_an_example() {
        fn visit(command: &clap::Command, path: &str) {
            let path = format!("{path} {}", command.get_name());
            assert!(command.get_about().is_some(), "{path} has no description");
            let children: Vec<_> = command.get_subcommands().collect();
            if children.is_empty() {
                let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(help.contains("mesh-agent "), "{path} shows no example");
            }
            for child in children {
                visit(child, &path);
            }
        }
        visit(&Cli::command(), "");
    }
}
