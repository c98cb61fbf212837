use super::Merge;
use crate::source::testing::{node, service, source};
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
