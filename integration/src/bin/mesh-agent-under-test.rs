//! The agent as the tests start it: the same `main`, built with them so that it is never stale.

fn main() -> std::process::ExitCode {
    mesh_agent::cli::main()
}
