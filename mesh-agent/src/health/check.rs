//! The task that checks one endpoint, for as long as it lives.

use super::{
    plan::{Plan, Question},
    probe::{Failure, ask},
    results::{CheckResult, CheckState, Results},
    state::State,
};
use crate::source::{Health, LocalState, StateWriter, Verdict};
use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};
use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, MissedTickBehavior, interval_at},
};
use tracing::info;

/// Most checks over the network, and most commands, at one time; others wait for their turn.
const LIMITS: (usize, usize) = (256, 16);

/// What all checks share.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    pub(super) writer: StateWriter,
    pub(super) local: watch::Receiver<LocalState>,
    pub(super) results: Results,
    network: Arc<Semaphore>,
    commands: Arc<Semaphore>,
}

impl Shared {
    pub(super) fn new(writer: StateWriter, results: Results) -> Self {
        let local = writer.local();
        let (network, commands) = (Arc::new(Semaphore::new(LIMITS.0)), Arc::new(Semaphore::new(LIMITS.1)));
        Shared { writer, local, results, network, commands }
    }

    /// What the writer holds of the health of the process that is asked.
    fn held(&self, plan: &Plan) -> Option<Health> {
        let local = self.local.borrow();
        let view = local.get(&plan.service)?;
        view.endpoints.iter().find(|(e, _)| plan.process.is(e)).map(|(_, health)| *health)
    }
}

/// What is shown of a check that has not run yet.
pub(super) fn waiting(plan: &Plan) -> CheckResult {
    shown(plan, State::default(), unix_millis(), Ok(String::new()))
}

/// Checks until it is dropped. `number` is its own in `shared.results`.
pub(super) async fn run(number: u64, plan: Plan, shared: Shared) {
    let started = Instant::now();
    let mut ticks = interval_at(started + plan.offset(), plan.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut state = State::default();
    let mut since = unix_millis();
    loop {
        ticks.tick().await;
        let turns =
            if matches!(plan.question, Question::Exec(_)) { &shared.commands } else { &shared.network };
        // Never closed; if it were, the agent stops.
        let Ok(turn) = turns.acquire().await else { return };
        let answer = ask(&plan).await;
        drop(turn);
        let label = match &answer {
            Ok(_) => "success",
            Err(Failure::Timeout) => "timeout",
            Err(Failure::Answer(_)) => "failure",
        };
        shared.results.total.with_label_values(&[label]).inc();
        let answer = answer.map_err(|failure| match failure {
            Failure::Timeout => format!("no answer within {}", humantime::format_duration(plan.timeout)),
            Failure::Answer(text) => text,
        });
        if let Some(verdict) = state.step(plan.rules, answer.is_ok(), started.elapsed()) {
            since = unix_millis();
            let error = answer.as_ref().err().map(tracing::field::display);
            let healthy = verdict == Verdict::Healthy;
            info!(service = %plan.service, instance = %plan.process.instance, healthy, error, "health changed");
        }
        shared.results.put(number, shown(&plan, state, since, answer));
        // Compared with what the writer holds, not with what was said: an endpoint that went and came back in between
        // waits for a verdict anew.
        if let Some(verdict) = state.verdict()
            && shared.held(&plan).is_some_and(|held| held != Health::Checked(verdict))
        {
            // A refusal is the writer's to repeat.
            let _later = shared.writer.set_verdict(&plan.service, plan.process.clone(), Some(verdict)).await;
        }
    }
}

fn shown(plan: &Plan, state: State, since: u64, answer: Result<String, String>) -> CheckResult {
    CheckResult {
        service: plan.service.clone(),
        instance: plan.process.instance.clone(),
        state: match state.verdict() {
            None => CheckState::Waiting,
            Some(Verdict::Healthy) => CheckState::Healthy,
            Some(Verdict::Unhealthy) => CheckState::Unhealthy,
        },
        since,
        output: answer.as_ref().ok().filter(|o| !o.is_empty()).cloned(),
        last_error: answer.err(),
    }
}

fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
