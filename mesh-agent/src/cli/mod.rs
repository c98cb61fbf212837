//! The command line.

/// Parses the arguments and runs; the exit code of the process.
#[must_use]
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}
