use super::Merge;
use crate::source::testing::{key, node, service, source};
use mesh_control::model::{NodeInfo, ServiceSpec, Snapshot};
use std::time::Duration;

#[test]
fn an_instance_that_flaps_leaves_one_deadline() {
    let mut merge = Merge::new(node(), NodeInfo::default(), &[source("file")]);
    let (snapshot, file) = (Snapshot::empty(node()), source("file"));
    let month = ServiceSpec { drain: Duration::from_secs(30 * 86_400), ..ServiceSpec::default() };
    let says = |merge: &mut Merge, now, instances: &[&str]| {
        merge.upsert(now, &snapshot, &file, service("web", month.clone(), instances));
    };
    for now in 0..1000 {
        says(&mut merge, 2 * now, &["a", "b"]);
        says(&mut merge, 2 * now + 1, &["b"]);
    }
    assert_eq!((merge.deadlines.len(), merge.next_deadline()), (1, Some(30 * 86_400_000 + 1999)));
    says(&mut merge, 2000, &["a", "b"]);
    assert_eq!((merge.deadlines.len(), merge.next_deadline()), (0, None));
    // Two that leave one after the other go one after the other.
    says(&mut merge, 3000, &["b"]);
    says(&mut merge, 4000, &[]);
    assert_eq!(merge.next_deadline(), Some(30 * 86_400_000 + 3000));
    merge.tick(30 * 86_400_000 + 3000);
    assert_eq!(merge.next_deadline(), Some(30 * 86_400_000 + 4000));
    merge.tick(30 * 86_400_000 + 4000);
    assert_eq!((merge.deadlines.len(), merge.next_deadline()), (0, None));
}

#[test]
fn a_step_of_the_wall_clock_moves_no_drain_that_is_under_way() {
    const HOUR: u64 = 3_600_000;
    let mut merge = Merge::new(node(), NodeInfo::default(), &[source("file")]);
    let (snapshot, file) = (Snapshot::empty(node()), source("file"));
    let minute = ServiceSpec { drain: Duration::from_secs(60), ..ServiceSpec::default() };
    let says = |merge: &mut Merge, now, instances: &[&str]| {
        merge.upsert(now, &snapshot, &file, service("web", minute.clone(), instances));
    };
    let told = |merge: &Merge| -> Vec<Option<u64>> {
        let view = merge.local().get(&key("web"));
        view.into_iter().flat_map(|v| &v.endpoints).map(|(e, _)| e.drain_until).collect()
    };
    merge.set_wall_ahead(2 * HOUR);
    says(&mut merge, 0, &["a", "b"]);
    says(&mut merge, 0, &["b"]);
    assert_eq!(told(&merge), [Some(2 * HOUR + 60_000), None]);
    // The clock is set back by an hour, then forward by four: what is under way stays as it was told.
    for ahead in [HOUR, 5 * HOUR] {
        merge.set_wall_ahead(ahead);
        merge.tick(59_999);
        assert_eq!(told(&merge), [Some(2 * HOUR + 60_000), None]);
    }
    says(&mut merge, 59_999, &[]);
    assert_eq!(told(&merge), [Some(2 * HOUR + 60_000), Some(5 * HOUR + 119_999)]);
    merge.tick(60_000);
    assert_eq!(told(&merge), [Some(5 * HOUR + 119_999)]);
}
