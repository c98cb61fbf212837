//! The task that watches the agent and writes down what happens.

use super::{
    diff::diff,
    event::{Kind, News, bounded},
    log::EventLog,
    trouble::{ClockWatch, Observed, Troubles, troubles},
};
use mesh_control::model::Snapshot;
use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

/// How often troubles are looked for; they have no signal of their own.
const LOOK: Duration = Duration::from_secs(1);

/// How long changes of the state are gathered, so that endpoints that come one by one are one event.
const GATHER: Duration = Duration::from_millis(100);

/// Writes to `log` what changes in `snapshots` and in what `observe` returns, until the snapshots end or the task is
/// aborted. What `snapshots` holds now is where it begins: that is no news.
pub fn spawn(
    snapshots: watch::Receiver<Arc<Snapshot>>,
    observe: impl Fn() -> Observed + Send + 'static,
    log: EventLog,
) -> JoinHandle<()> {
    tokio::spawn(run(snapshots, observe, log))
}

async fn run(mut snapshots: watch::Receiver<Arc<Snapshot>>, observe: impl Fn() -> Observed, log: EventLog) {
    let start = Instant::now();
    let mut state = Arc::clone(&snapshots.borrow_and_update());
    let mut wrong = Troubles::default();
    let mut clock = ClockWatch::default();
    let hello = format!(
        "mesh-agent {}; services known: {}, nodes: {}",
        env!("CARGO_PKG_VERSION"),
        state.services.len(),
        state.nodes.len()
    );
    log.add(wall(), state.revision, [News::new(Kind::AgentStarted, state.local.to_string(), hello)]);
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let news = tokio::select! {
            changed = snapshots.changed() => {
                if changed.is_err() {
                    return;
                }
                sleep_until(Instant::now() + GATHER).await;
                let new = Arc::clone(&snapshots.borrow_and_update());
                let news = diff(&state, &new);
                state = new;
                news
            }
            _ = looks.tick() => {
                let observed = observe();
                let now = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
                let future = clock.look(&observed.control, now);
                let new = troubles(state.local.as_str(), &observed, future);
                let news = wrong.diff(&new);
                wrong = new;
                news
            }
        };
        log.add(wall(), state.revision, bounded(news));
    }
}

/// Unix time in milliseconds.
fn wall() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
