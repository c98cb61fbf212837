//! The `mesh-agent` binary: parse, trace, run, exit code.

fn main() -> std::process::ExitCode {
    mesh_agent::cli::main()
}
