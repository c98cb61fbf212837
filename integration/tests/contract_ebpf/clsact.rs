//! Programs as filters of `clsact`, which is what there is before Linux 6.6: they stay over restarts, come back, and leave
//! to others what is theirs.

use super::{Ebpf, hitless::upgrade, pins_of};
use mesh_agent::{
    dataplane::{DataPlane as _, ebpf::unhook},
    sys::rtnl::{Classifier, Classifiers, Direction, Rtnl},
};
use mesh_control::model::Protocol;
use mesh_ebpf::{Kernel, Sizes};
use mesh_integration::{
    contract::{
        PlaneUnderTest, World,
        hosted::{Dialing, Hosted},
        kernel::Routed4,
    },
    lab,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
};

type Filters = Routed4<Ebpf<4096, true>>;
type Links = Routed4<Ebpf>;

/// Does something with the node's links.
fn on_node<P: Hosted, T: Send>(put: &P, work: impl FnOnce(&mut Rtnl) -> io::Result<T> + Send) -> T {
    put.node().inside(|| work(&mut Rtnl::open()?)).flatten().expect("the kernel does it")
}

/// The number of one of the node's devices.
fn index<P: Hosted>(put: &P, name: &str) -> u32 {
    on_node(put, |rtnl| {
        let links = rtnl.links()?;
        links
            .iter()
            .find(|link| link.name == name)
            .map(|link| link.index)
            .ok_or(io::ErrorKind::NotFound.into())
    })
}

/// The filters of all devices that have `clsact`.
fn filters<P: Hosted>(put: &P) -> BTreeMap<u32, Classifiers> {
    on_node(put, |rtnl| rtnl.clsacts()?.into_iter().map(|link| Ok((link, rtnl.classifiers(link)?))).collect())
}

/// How many filters of a device are ours.
fn ours<P: Hosted>(put: &P, device: &str) -> usize {
    let there = filters(put).remove(&index(put, device)).unwrap_or_default();
    there.programs.iter().filter(|filter| filter.name.starts_with("mesh-agent/tc_")).count()
}

fn run<P: Hosted>(put: &P, program: &str, line: &str) {
    let words: Vec<&str> = line.split(' ').collect();
    let done = put.node().output(program, &words).expect("it can be run");
    assert!(done.status.success(), "{program} {line}: {}", String::from_utf8_lossy(&done.stderr));
}

fn tc<P: Hosted>(put: &P, line: &str) {
    run(put, "tc", line);
}

/// Links at tcx that are pinned.
fn pinned(folder: &Path) -> Vec<PathBuf> {
    let all = mesh_ebpf::ids(folder).expect("pins can be read").into_keys();
    all.filter(|path| path.to_string_lossy().contains("links/tc_")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters_stay_over_a_restart_are_replaced_in_place_and_come_back() {
    if !Filters::possible() {
        return;
    }
    let mut w = World::<Filters>::start().await;
    let front = w.serving(Protocol::Tcp, &["a"]).await;
    let (mut flow, _) = w.reach(1, &front).await;
    let before = filters(&w.put);
    for device in ["clients", "uplink", "backends"] {
        assert_eq!(ours(&w.put, device), 2, "{device}: {before:?}");
    }
    let folder = pins_of(&w.put);
    assert!(pinned(&folder).is_empty(), "no link at tcx is used");
    w.put.restart().await;
    assert_eq!(w.observed().await, w.table);
    assert_eq!(filters(&w.put), before);
    w.still(&mut flow, "a").await;

    // Programs of another object take the places of those before.
    let dialing = Dialing::at(w.put.clients(), w.put.client(7), front.address());
    dialing.goes_on(&mut w).await;
    upgrade(&mut w, &folder, false).await;
    dialing.goes_on(&mut w).await;
    dialing.stop().await;
    let after = filters(&w.put);
    assert!(before.keys().eq(after.keys()), "{before:?} {after:?}");
    for (old, new) in before.values().zip(after.values()) {
        assert!(old.programs.len() == 2 && new.programs.len() == 2, "{before:?} {after:?}");
        for (old, new) in old.programs.iter().zip(&new.programs) {
            assert_ne!(old.program, new.program);
            assert_eq!(&Classifier { program: new.program, ..old.clone() }, new);
        }
    }
    w.still(&mut flow, "a").await;

    let before = after;
    let clients = index(&w.put, "clients");
    // At once: an address that settles late makes the plane look, too.
    let left = on_node(&w.put, |rtnl| rtnl.remove_clsact(clients).and_then(|()| rtnl.clsacts()));
    assert!(!left.contains(&clients), "{left:?}");
    assert_eq!(w.observed().await, w.table);
    assert_eq!(filters(&w.put), before);
    w.still(&mut flow, "a").await;
    w.reach(2, &front).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disciplines_and_filters_of_others_stay() {
    if !Filters::possible() {
        return;
    }
    let mut w = World::<Filters>::start().await;
    let front = w.serving(Protocol::Tcp, &["a"]).await;
    // A filter of another kind in a `clsact` of ours, behind ours: it ends the walk.
    tc(&w.put, "filter add dev clients ingress pref 50000 protocol ip u32 match u32 0 0 flowid 1:1");
    w.reach(1, &front).await;
    let [clients, uplink] = ["clients", "uplink"].map(|device| index(&w.put, device));
    let before = filters(&w.put);
    let said = on_node(&w.put, |rtnl| unhook(rtnl, true));
    assert_eq!(filters(&w.put), before, "a dry run changes nothing");
    w.put.plane().teardown().await.expect("removed");
    let words = |what: &str, devices: &[&str]| -> Vec<String> {
        devices.iter().map(|device| format!("remove {what} of {device}")).collect()
    };
    let mut wanted = words("eBPF filters", &["clients", "uplink", "backends"]);
    wanted.extend(words("clsact", &["uplink", "backends"]));
    let all = |lines: &[String]| lines.iter().cloned().collect::<BTreeSet<_>>();
    assert_eq!((all(&said.removed), said.failed), (all(&wanted), vec![]));
    let left = filters(&w.put);
    assert_eq!(left.keys().copied().collect::<Vec<_>>(), [clients], "{left:?}");
    assert!(left[&clients].programs.is_empty() && left[&clients].others > 0, "{left:?}");

    // A `clsact` of another, with nothing in it, and our filters in both; where `ingress` is there is no room for it.
    tc(&w.put, "qdisc add dev uplink clsact");
    tc(&w.put, "qdisc add dev backends ingress");
    w.put.restart().await;
    w.table.clear();
    w.set(&front).await;
    assert_eq!(["clients", "uplink", "backends"].map(|device| ours(&w.put, device)), [2, 2, 0]);
    let shown = w.put.node().output("tc", &["filter", "show", "dev", "backends", "ingress"]).expect("tc");
    assert_eq!(
        String::from_utf8_lossy(&shown.stdout),
        "",
        "nothing of ours is in a discipline of another kind"
    );
    tc(&w.put, "qdisc del dev backends ingress");
    assert_eq!(w.observed().await, w.table);
    assert_eq!(ours(&w.put, "backends"), 2, "there is room now");
    w.reach(1, &front).await;
    w.put.plane().teardown().await.expect("removed");
    let left = filters(&w.put);
    assert_eq!(left.keys().copied().collect::<Vec<_>>(), [clients, uplink], "{left:?}");
    assert!(left.values().all(|there| there.programs.is_empty()), "{left:?}");
}

/// Devices come, become a port of a bridge, and are their own again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters_follow_the_devices() {
    if !Filters::possible() {
        return;
    }
    let mut w = World::<Filters>::start().await;
    let front = w.serving(Protocol::Tcp, &["a"]).await;
    let ip = |put: &Filters, line: &str| run(put, "ip", line);
    ip(&w.put, "link add extra type veth peer name other");
    w.until("a new device has them", |put| ours(put, "extra") == 2).await;
    ip(&w.put, "link set extra master backends");
    let extra = index(&w.put, "extra");
    w.until("a port has nothing", |put| !filters(put).contains_key(&extra)).await;
    assert_eq!(ours(&w.put, "other"), 2);
    ip(&w.put, "link set extra nomaster");
    w.until("it has them again", |put| ours(put, "extra") == 2).await;
    w.reach(1, &front).await;
}

/// `cleanup` takes all away when no agent runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cleanup_leaves_nothing() {
    if !Filters::possible() {
        return;
    }
    let mut w = World::<Filters>::start().await;
    let front = w.serving(Protocol::Tcp, &["a"]).await;
    w.reach(1, &front).await;
    w.put.stop();
    let (node, bpffs) = (w.put.node().clone(), w.put.ground().bpffs());
    let links = mesh_agent::overlay::OverlayConfig::of_links("mesh0", "mesh-vx");
    let clean = |dry_run| {
        let cleaned =
            node.inside(|| mesh_agent::cleanup::clean(&links, Some(&bpffs), dry_run)).expect("inside");
        assert_eq!(cleaned.failed, Vec::<String>::new());
        cleaned.removed
    };
    let before = filters(&w.put);
    let told = clean(true);
    assert!(told.contains(&"remove eBPF filters of uplink".into()), "{told:?}");
    assert!(told.contains(&"remove clsact of uplink".into()), "{told:?}");
    assert_eq!(filters(&w.put), before, "only told");
    assert_eq!(clean(false), told);
    assert_eq!((clean(true), filters(&w.put)), (vec![], BTreeMap::new()));
}

/// An agent that is told to use the other hook takes the programs off the one before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_the_hook_leaves_one_of_them() {
    if !Filters::possible() {
        return;
    }
    if !lab::has_tcx() {
        eprintln!("SKIPPED: this kernel has no tcx (Linux 6.6) to change from and to");
        return;
    }
    let mut w = World::<Filters>::start().await;
    let front = w.serving(Protocol::Tcp, &["a"]).await;
    let (mut flow, _) = w.reach(1, &front).await;
    let folder = pins_of(&w.put);
    let kernel = Kernel::open(&folder, &Sizes::default()).expect("pins");
    let uplink = index(&w.put, "uplink");
    w.put.node().inside(|| kernel.attach_device(uplink)).expect("inside").expect("attached");
    assert_eq!(pinned(&folder).len(), 2);
    w.put.restart().await;
    assert!(pinned(&folder).is_empty());
    w.still(&mut flow, "a").await;
    drop(w);

    let mut w = World::<Links>::start().await;
    let front = w.serving(Protocol::Tcp, &["a"]).await;
    let (mut flow, _) = w.reach(1, &front).await;
    let folder = pins_of(&w.put);
    let kernel = Kernel::open(&folder, &Sizes::default()).expect("pins");
    let uplink = index(&w.put, "uplink");
    let programs = kernel.device_programs().expect("programs");
    on_node(&w.put, |rtnl| {
        rtnl.add_clsact(uplink)?;
        let filter = Classifier {
            link: uplink,
            direction: Direction::Ingress,
            priority: 3,
            handle: 1,
            name: "mesh-agent/tc_ingress".into(),
            program: 0,
        };
        rtnl.add_classifier(&filter, programs[0].descriptor)
    });
    assert_eq!(ours(&w.put, "uplink"), 1);
    w.put.restart().await;
    assert_eq!((ours(&w.put, "uplink"), filters(&w.put).len()), (0, 1), "the clsact is not ours");
    w.still(&mut flow, "a").await;
}
