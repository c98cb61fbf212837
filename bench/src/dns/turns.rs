//! Servers that have their turns one after the other, round by round.

use super::{load::Answered, peers::Server};
use crate::table::{Table, median};

/// One server's turns at one kind of question.
#[derive(Default)]
pub(super) struct Turns {
    rates: Vec<f64>,
    costs: Vec<f64>,
    lost: u64,
    wrong: u64,
}

impl Turns {
    /// Gives `server` one turn.
    pub(super) fn take(
        &mut self,
        server: &Server,
        turn: impl FnOnce() -> anyhow::Result<Answered>,
    ) -> anyhow::Result<()> {
        let before = server.processor_time()?;
        let answered = turn()?;
        let spent = server.processor_time()?.saturating_sub(before);
        self.rates.push(answered.rate());
        self.costs.push(spent.as_secs_f64() * 1e6 / answered.replies.max(1) as f64);
        self.lost += answered.lost;
        self.wrong += answered.wrong;
        Ok(())
    }

    /// Replies a second, the median.
    pub(super) fn rate(&self) -> f64 {
        median(&self.rates)
    }

    /// Processor time for each reply in microseconds, the median.
    pub(super) fn cost(&self) -> f64 {
        median(&self.costs)
    }

    /// What was lost and what was wrong, in words.
    pub(super) fn trouble(&self) -> String {
        match (self.lost, self.wrong) {
            (0, 0) => "none".to_owned(),
            (lost, wrong) => format!("{lost} lost, {wrong} wrong"),
        }
    }
}

/// Gives all `servers` a turn in each of `rounds` and prints how they compare with the first, which is ours.
pub(super) fn against_ours(
    title: &str,
    servers: &[Server],
    rounds: usize,
    json: bool,
    mut turn: impl FnMut(&Server) -> anyhow::Result<Answered>,
) -> anyhow::Result<()> {
    let mut turns: Vec<Turns> = servers.iter().map(|_| Turns::default()).collect();
    for round in 0..rounds {
        eprintln!("{title}: round {} of {rounds}", round + 1);
        for (server, turns) in servers.iter().zip(&mut turns) {
            turns.take(server, || turn(server))?;
        }
    }
    let head = ["server", "q/s", "ours is", "CPU µs", "it/ours by CPU", "trouble"];
    let mut table = Table::new(title, &head);
    for (server, it) in servers.iter().zip(&turns) {
        table.row(&[
            server.name.to_owned(),
            format!("{:.0}", it.rate()),
            format!("{:.2} ×", turns[0].rate() / it.rate()),
            format!("{:.2}", it.cost()),
            format!("{:.2}", it.cost() / turns[0].cost()),
            it.trouble(),
        ]);
    }
    table.print(json);
    Ok(())
}
