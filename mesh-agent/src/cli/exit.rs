//! Exit codes, in the spirit of sysexits(3), and the failure that carries one.

use std::{fmt, process::ExitCode};

/// How a command ends; `mesh-agent --help` and docs/cli.md list them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Code {
    /// The agent refused or failed.
    Failure = 1,
    /// What was named is not there.
    NotFound = 2,
    /// An agent runs here, which this must not be done under.
    AgentRuns = 3,
    /// Wrong usage or configuration (EX_USAGE).
    Usage = 64,
    /// The input was refused (EX_DATAERR).
    Data = 65,
    /// An input file cannot be read (EX_NOINPUT).
    NoInput = 66,
    /// No agent answers, or the data plane that is asked for cannot be had here (EX_UNAVAILABLE).
    Unreachable = 69,
    /// Timed out, or try again later (EX_TEMPFAIL).
    TryAgain = 75,
    /// Not allowed (EX_NOPERM).
    NotAllowed = 77,
}

/// Why a command did not do its work.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// The exit code.
    pub code: Code,
    /// What is wrong; empty when the output said it already.
    pub message: String,
    /// What to do.
    pub fix: Option<String>,
}

impl Failure {
    /// A failure without a fix.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Failure { code, message: message.into(), fix: None }
    }

    /// A failure whose reason the output already shows.
    #[must_use]
    pub fn silent(code: Code) -> Self {
        Failure::new(code, "")
    }

    /// Adds what to do.
    #[must_use]
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }

    /// The process's exit code.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code as u8)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.fix {
            Some(fix) => write!(f, "\n  fix: {fix}"),
            None => Ok(()),
        }
    }
}
