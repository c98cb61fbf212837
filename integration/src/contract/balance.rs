//! Who gets how many flows.

use super::{
    fixture::PlaneUnderTest,
    world::{Front, World},
};
use mesh_agent::{
    dataplane::DataPlane,
    plan::maglev::{MaglevTable, backend_hash, client_hash, table_size},
};
use mesh_control::model::{Protocol, Scheduler};
use std::{
    collections::{BTreeMap, BTreeSet},
    iter::repeat_n,
};

const INSTANCES: [&str; 3] = ["a", "b", "c"];
const WEIGHTS: [u16; 3] = [100, 200, 300];

/// Three instances of different weights; nothing where the plane refuses the scheduler, as it then must.
async fn weighted<P: PlaneUnderTest>(w: &mut World<P>, scheduler: Scheduler) -> Option<Front> {
    if !w.honours(scheduler).await {
        return None;
    }
    let mut front = w.serving(Protocol::Tcp, &INSTANCES).await;
    front.frontend.scheduler = scheduler;
    for (instance, weight) in INSTANCES.iter().zip(WEIGHTS) {
        front.backend(instance).weight = weight;
    }
    w.set(&front).await;
    Some(front)
}

/// Each of `expected` got its share, give or take `slack` flows.
fn within(hits: &BTreeMap<String, u32>, expected: [u32; 3], slack: u32) {
    for (instance, expected) in INSTANCES.iter().zip(expected) {
        let got = hits.get(*instance).copied().unwrap_or(0);
        assert!(
            got.abs_diff(expected) <= slack,
            "{instance}: {got}, expected {expected} ± {slack}: {hits:?}"
        );
    }
}

/// Every shard counts on its own and is off by at most one.
pub async fn round_robin_is_even<P: PlaneUnderTest>() {
    let mut w = World::<P>::start().await;
    let front = w.serving(Protocol::Tcp, &INSTANCES).await;
    let hits = w.hits(&front, repeat_n(1, 60)).await;
    within(&hits, [20; 3], w.put.shards());
}

/// Within any stretch of picks smooth weighted round robin is off by less than one flow a backend and end of it.
pub async fn weighted_round_robin_follows_weights<P: PlaneUnderTest>() {
    let mut w = World::<P>::start().await;
    let Some(front) = weighted(&mut w, Scheduler::Wrr).await else { return };
    let hits = w.hits(&front, repeat_n(1, 60)).await;
    within(&hits, [10, 20, 30], 2 * w.put.shards());
}

/// Open flows are in proportion to weight, and who loses flows gets the next.
pub async fn least_connections_counts_open_flows<P: PlaneUnderTest>() {
    let mut w = World::<P>::start().await;
    let Some(front) = weighted(&mut w, Scheduler::Lc).await else { return };
    let mut open: BTreeMap<String, Vec<P::Flow>> = BTreeMap::new();
    for _ in 0..30 {
        let (flow, by) = w.reach(1, &front).await;
        open.entry(by).or_default().push(flow);
    }
    let count = |open: &BTreeMap<String, Vec<P::Flow>>| -> BTreeMap<String, u32> {
        open.iter().map(|(k, v)| (k.clone(), u32::try_from(v.len()).expect("few"))).collect()
    };
    within(&count(&open), [5, 10, 15], 1);
    for flow in open.remove("b").expect("b has flows") {
        w.put.hang_up(flow).await;
    }
    let service = front.frontend.service.clone();
    let active = move |put: &mut P| -> u64 {
        let counters = put.plane().counters();
        let b =
            counters.backends.iter().filter(|c| c.service == service && c.backend.instance.as_str() == "b");
        b.map(|c| c.active).sum()
    };
    w.until("b's flows are closed", |put| active(put) == 0).await;
    for _ in 0..5 {
        let (flow, by) = w.reach(1, &front).await;
        assert_eq!(by, "b", "the one without flows gets the next ones");
        open.entry(by).or_default().push(flow);
    }
}

/// Binomial: six standard deviations are exceeded by chance less than twice in 10^9.
pub async fn random_follows_weights<P: PlaneUnderTest>() {
    let mut w = World::<P>::start().await;
    let Some(front) = weighted(&mut w, Scheduler::Random).await else { return };
    let n = 1200_u32;
    let hits = w.hits(&front, repeat_n(1, usize::try_from(n).expect("small"))).await;
    for (instance, weight) in INSTANCES.iter().zip(WEIGHTS) {
        let share = f64::from(weight) / 600.0;
        let (mean, sd) = (f64::from(n) * share, (f64::from(n) * share * (1.0 - share)).sqrt());
        let got = f64::from(hits.get(*instance).copied().unwrap_or(0));
        assert!((got - mean).abs() <= 6.0 * sd, "{instance}: {got}, expected {mean:.0} ± {:.0}", 6.0 * sd);
    }
}

/// Which backend a client gets can be computed by anybody, and is the same however often and wherever it asks.
pub async fn maglev_is_the_same_everywhere<P: PlaneUnderTest>() {
    let mut w = World::<P>::start().await;
    let Some(front) = weighted(&mut w, Scheduler::Maglev).await else { return };
    if !w.put.maglev_is_ours() {
        return a_client_hashes_to_one_backend(w, &front).await;
    }
    let mut backends = front.backends.clone();
    backends.sort_by(|a, b| a.id.cmp(&b.id));
    let list: Vec<(u64, u16)> = backends.iter().map(|b| (backend_hash(&b.id), b.weight)).collect();
    let table = MaglevTable::build(&list, table_size(list.len()));
    for client in (1..40).chain(1..10) {
        let slot = table.pick(client_hash(w.put.client(client))).expect("there are backends");
        let (flow, by) = w.reach(client, &front).await;
        assert_eq!(by, backends[slot].id.instance.to_string(), "client {}", w.put.client(client));
        let explained = w.explain(client, &front);
        let sure = explained
            .candidates
            .iter()
            .find(|c| c.probability > 0.999)
            .map(|c| c.backend.instance.to_string());
        assert_eq!(sure.as_deref(), Some(by.as_str()), "explain knows it too: {explained:?}");
        w.put.hang_up(flow).await;
    }
}

/// What is left of it where the kernel has a table of its own: one backend for each client, also for another run.
async fn a_client_hashes_to_one_backend<P: PlaneUnderTest>(mut w: World<P>, front: &Front) {
    let mut chosen = BTreeMap::new();
    for client in 1..40 {
        let (flow, by) = w.reach(client, front).await;
        w.put.hang_up(flow).await;
        chosen.insert(client, by);
    }
    let used: BTreeSet<&String> = chosen.values().collect();
    assert_eq!(used.len(), INSTANCES.len(), "{chosen:?}");
    w.put.restart().await;
    assert_eq!(w.observed().await, w.table);
    for (client, by) in chosen {
        assert_eq!(w.reach(client, front).await.1, by, "client {client}");
    }
}

/// UDP flows are balanced like TCP ones, and each stays where it is.
pub async fn udp_clients_are_balanced<P: PlaneUnderTest>() {
    let mut w = World::<P>::start().await;
    let front = w.serving(Protocol::Udp, &INSTANCES).await;
    let (mut hits, mut flows) = (BTreeMap::new(), Vec::new());
    for _ in 0..30 {
        let (flow, by) = w.reach(1, &front).await;
        *hits.entry(by.clone()).or_default() += 1;
        flows.push((flow, by));
    }
    within(&hits, [10; 3], w.put.shards());
    for (flow, by) in &mut flows {
        w.still(flow, by).await;
    }
}

/// Weight 0 is a soft drain without an end.
pub async fn weight_zero_takes_no_new_flow_and_keeps_old_ones<P: PlaneUnderTest>() {
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let mut w = World::<P>::start().await;
        let mut front = w.serving(protocol, &["a"]).await;
        let (mut flow, _) = w.reach(1, &front).await;
        front.backends.push(w.put.serve("b", 1).await);
        front.backend("a").weight = 0;
        w.set(&front).await;
        for scheduler in w.put.plane().capabilities().schedulers {
            front.frontend.scheduler = scheduler;
            w.set(&front).await;
            let hits = w.hits(&front, 1..12).await;
            assert_eq!(hits.keys().collect::<Vec<_>>(), ["b"], "{protocol} {scheduler}");
        }
        w.still(&mut flow, "a").await;
    }
}
