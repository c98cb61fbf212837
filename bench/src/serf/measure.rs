//! The phases, each over all meshes.

use super::{cluster::Cluster, stop::Stop};
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

/// No mesh takes longer to come together or to see a crash.
const BOUND: Duration = Duration::from_secs(120);
/// The wait between two looks at a mesh's logs while a crash is timed.
const LOOK: Duration = Duration::from_millis(20);

/// Of one mesh at rest, a node's mean over the window.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rest {
    /// Bytes of IP a second.
    pub(super) bytes: f64,
    /// The same of the node that sent most.
    pub(super) most: f64,
    /// Datagrams a second.
    pub(super) datagrams: f64,
    /// TCP segments a second.
    pub(super) segments: f64,
    /// Milliseconds of processor a second.
    pub(super) processor: f64,
    /// Resident bytes, the median.
    pub(super) resident: f64,
}

/// What a mesh saw that was not so.
#[derive(Clone, Debug, Default)]
pub(super) struct Losses {
    /// How often a node began to show a living one as down.
    pub(super) false_failures: usize,
    /// The nodes shown so.
    pub(super) nodes: BTreeSet<usize>,
    /// Of 100 datagrams, those dropped.
    pub(super) lost: f64,
}

/// Waits until everybody in a mesh sees everybody.
fn together(cluster: &mut Cluster, stop: &Stop) -> anyhow::Result<()> {
    let what = format!("{} nodes of {} see each other", cluster.size(), cluster.kind.name());
    let met = || {
        cluster.check()?;
        cluster.news()?;
        Ok(cluster.all_see(None, true, None))
    };
    stop.until(&what, BOUND, Duration::from_millis(100), met).map(drop)
}

/// Waits until all meshes are together, and `time` more.
pub(super) fn settle(clusters: &mut [Cluster], time: Duration, stop: &Stop) -> anyhow::Result<()> {
    for cluster in &mut *clusters {
        together(cluster, stop)?;
    }
    stop.pause(time)?;
    for cluster in &mut *clusters {
        together(cluster, stop)?;
        cluster.confirm()?;
    }
    Ok(())
}

/// Measures what nodes use when nothing happens.
pub(super) fn rest(clusters: &mut [Cluster], time: Duration, stop: &Stop) -> anyhow::Result<Vec<Rest>> {
    let mut before = Vec::new();
    for cluster in &*clusters {
        before.push((Instant::now(), cluster.used()?));
    }
    stop.pause(time)?;
    let mut all = Vec::new();
    for (cluster, (start, before)) in clusters.iter_mut().zip(before) {
        let (seconds, after) = (start.elapsed().as_secs_f64(), cluster.used()?);
        let mut sum = Rest { resident: cluster.resident()?, ..Rest::default() };
        #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
        let share = seconds * after.len() as f64;
        #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
        let grown = |after: u64, before: u64| after.saturating_sub(before) as f64;
        for (after, before) in after.iter().zip(&before) {
            let bytes = grown(after.sent.bytes, before.sent.bytes);
            sum.bytes += bytes / share;
            sum.most = sum.most.max(bytes / seconds);
            sum.datagrams += grown(after.sent.datagrams, before.sent.datagrams) / share;
            sum.segments += grown(after.sent.segments, before.sent.segments) / share;
            sum.processor += after.processor.saturating_sub(before.processor).as_secs_f64() * 1e3 / share;
        }
        all.push(sum);
        cluster.check()?;
    }
    Ok(all)
}

/// Kills one node of each mesh in turn, `rounds` times, and brings it back; the seconds until all others said so.
pub(super) fn crashes(clusters: &mut [Cluster], rounds: usize, stop: &Stop) -> anyhow::Result<Vec<Vec<f64>>> {
    let mut all = vec![Vec::new(); clusters.len()];
    for round in 0..rounds {
        for (cluster, times) in clusters.iter_mut().zip(&mut all) {
            // The one of the last round has come back, while it was the others' turn.
            together(cluster, stop)?;
            // Never the first, which the others join; another one each time.
            let victim = 2 + round % (cluster.size() - 1);
            let start = Instant::now();
            cluster.kill(victim)?;
            let what = format!("all {} nodes of {} see a crash", cluster.size(), cluster.kind.name());
            let met = || {
                cluster.news()?;
                Ok(cluster.all_see(Some(victim), false, Some(victim)))
            };
            stop.until(&what, BOUND, LOOK, met)?;
            times.push(start.elapsed().as_secs_f64());
            cluster.restart(victim)?;
        }
    }
    for cluster in clusters {
        together(cluster, stop)?;
        cluster.confirm()?;
    }
    Ok(all)
}

/// Lets every node lose datagrams for `time` and counts who is wrongly given up.
pub(super) fn losses(clusters: &mut [Cluster], time: Duration, stop: &Stop) -> anyhow::Result<Vec<Losses>> {
    let mut all = vec![Losses::default(); clusters.len()];
    for cluster in &mut *clusters {
        together(cluster, stop)?;
        cluster.lose()?;
    }
    let start = Instant::now();
    while start.elapsed() < time {
        stop.pause(Duration::from_millis(500))?;
        for (cluster, losses) in clusters.iter_mut().zip(&mut all) {
            cluster.check()?;
            // Nobody is killed in this phase: whoever is shown as down lives.
            for (_, change) in cluster.news()?.into_iter().filter(|(_, change)| !change.up) {
                losses.false_failures += 1;
                losses.nodes.insert(change.of);
            }
        }
    }
    for (cluster, losses) in clusters.iter().zip(&mut all) {
        let (reached, lost) = cluster.lost()?;
        #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
        let share = lost as f64 * 100.0 / (reached.max(1)) as f64;
        losses.lost = share;
    }
    Ok(all)
}
