//! The DNS against a bare echo and against Knot, Unbound, dnsmasq and BIND, all on one core each.

mod answers;
mod floor;
mod forwards;
mod load;
mod ours;
mod peers;
mod questions;
mod soak;
mod tcp;
mod turns;
mod updates;
mod zone;

pub(crate) use ours::{Serve, serve};

use crate::cores;
use clap::Args;
use std::time::Duration;

/// Sizes and lengths.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Rounds; every server has its turn in each.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Milliseconds of load in each turn.
    #[arg(long, default_value_t = 1_000)]
    millis: u64,
    /// Questions outstanding.
    #[arg(long, default_value_t = 512)]
    window: usize,
    /// Only this part: answers, updates, forwards, tcp; or soak, which is no part of the whole.
    #[arg(long)]
    only: Option<String>,
    /// How long to soak.
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
}

impl Default for Options {
    fn default() -> Self {
        Options { rounds: 5, millis: 1_000, window: 512, only: None, minutes: 10.0 }
    }
}

impl Options {
    fn time(&self) -> Duration {
        Duration::from_millis(self.millis)
    }

    fn wants(&self, part: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only == part)
    }
}

/// Runs and prints.
pub(crate) fn run(options: &Options, json: bool) -> anyhow::Result<()> {
    cores::leave_the_first();
    if options.only.as_deref() == Some("soak") {
        return soak::run(options, options.minutes, json);
    }
    if options.wants("answers") {
        for names in [10_000, 100_000] {
            answers::run(options, names, json)?;
        }
        answers::second_core(options, json)?;
    }
    if options.wants("updates") {
        updates::run(options, json)?;
    }
    if options.wants("forwards") {
        forwards::run(options, json)?;
    }
    if options.wants("tcp") {
        tcp::run(options, json)?;
    }
    Ok(())
}
