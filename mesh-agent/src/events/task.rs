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
/// aborted. `known`, an earlier snapshot of the same run, is where it begins: what it holds is no news.
pub fn spawn(
    known: Arc<Snapshot>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    observe: impl Fn() -> Observed + Send + 'static,
    log: EventLog,
) -> JoinHandle<()> {
    tokio::spawn(run(known, snapshots, observe, log))
}

async fn run(
    mut state: Arc<Snapshot>,
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    observe: impl Fn() -> Observed,
    log: EventLog,
) {
    let start = Instant::now();
    snapshots.mark_changed();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{log::Follower, ring::Since};
    use mesh_control::model::{Name, NodeInfo, NodeState, NodeView};
    use std::sync::Mutex;

    const LONG: Duration = Duration::from_secs(30);

    fn with(snapshot: &Snapshot, node: &str, state: NodeState) -> Arc<Snapshot> {
        let mut snapshot = snapshot.clone();
        let name = Name::new(node).unwrap();
        let info = NodeInfo::default();
        let view = NodeView { name: name.clone(), info, gossip: None, state, subnets: vec![] };
        snapshot.set_node(name, Some(Arc::new(view)));
        Arc::new(snapshot)
    }

    async fn next(follower: &mut Follower) -> (String, u64) {
        let events = tokio::time::timeout(LONG, follower.next(1)).await.expect("no event").unwrap();
        let news = &events[0].news;
        (format!("{} {}", news.kind.as_str(), news.subject), events[0].revision)
    }

    #[tokio::test]
    async fn what_was_there_is_no_news_and_what_comes_is() {
        let first = with(&Snapshot::empty(Name::new("n1").unwrap()), "n1", NodeState::Alive);
        let (publish, snapshots) = watch::channel(Arc::clone(&first));
        let wrong = Arc::new(Mutex::new(Observed::default()));
        let (log, look) = (EventLog::default(), Arc::clone(&wrong));
        let task = spawn(first.clone(), snapshots, move || look.lock().unwrap().clone(), log.clone());
        let mut follower = log.follow(0).unwrap();
        assert_eq!(next(&mut follower).await, ("agent-started n1".into(), 1));
        let second = with(&first, "n2", NodeState::Alive);
        publish.send(Arc::clone(&second)).unwrap();
        assert_eq!(next(&mut follower).await, ("node-up n2".into(), 2));
        wrong.lock().unwrap().plane = vec![("0.0.0.0:80/tcp".into(), "in use".into())];
        assert_eq!(next(&mut follower).await, ("plane-error 0.0.0.0:80/tcp".into(), 2));
        wrong.lock().unwrap().plane.clear();
        assert_eq!(next(&mut follower).await, ("plane-error-over 0.0.0.0:80/tcp".into(), 2));
        drop(publish);
        tokio::time::timeout(LONG, task).await.expect("it goes on without a control plane").unwrap();
        assert_eq!(log.since(Since::Number(0)).events.len(), 4, "each is told once");
    }
}
