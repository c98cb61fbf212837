//! Side-by-side benchmarks. Peers and floors run interleaved with ours in one run; medians and ratios are printed.

mod plan;
mod table;

use clap::{Parser, Subcommand};

/// Benchmarks that print ratios against peers and floors.
#[derive(Parser)]
struct Args {
    /// One JSON object a row instead of tables.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Everything, one after the other.
    All,
    /// Cost of compile and diff at 100, 1,000 and 10,000 services.
    Plan,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    match args.what {
        What::All | What::Plan => plan::run(args.json),
    }
    Ok(())
}
