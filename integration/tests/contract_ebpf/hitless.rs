//! The agent is upgraded and endpoints change while clients dial: nobody's connection fails.

use super::{Ebpf, pins_of};
use mesh_agent::plan::BackendState;
use mesh_control::model::Protocol;
use mesh_integration::{
    contract::{
        Dialed, PlaneUnderTest, World,
        hosted::{Dialing, Hosted, dial_from},
        kernel::Routed4,
    },
    lab,
};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// So that connections that are closed, which the table keeps for ten seconds, do not drive out those that stay.
const FLOWS: u32 = 1 << 16;
/// Runs of the agent, each with programs of another object.
const UPGRADES: usize = 60;
/// Changes of an endpoint, each told to the plane by itself.
const CHANGES: usize = 1000;
/// A place for a frontend's backends that all clients know: those that change.
const BACKENDS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

/// What is pinned: maps and links, and programs.
fn pinned(folder: &Path) -> [BTreeMap<PathBuf, u32>; 2] {
    let all = mesh_ebpf::ids(folder).expect("pins can be read");
    let (programs, others): (BTreeMap<_, _>, BTreeMap<_, _>) =
        all.into_iter().partition(|(path, _)| path.to_string_lossy().starts_with("programs-"));
    let links = |name: &str| {
        others
            .keys()
            .filter(|path| path.starts_with("links") && path.to_string_lossy().contains(name))
            .count()
    };
    assert!(
        !programs.is_empty() && links("connect4") == 1 && (links("tc_ingress") > 1) == lab::has_tcx(),
        "{programs:?} {others:?}"
    );
    [others, programs]
}

/// Ends this run of the plane and begins another, whose programs are others than those in the links: loaded by it, or
/// those of the last but one run, which is faster by what the verifier takes.
pub(super) async fn upgrade<P: Hosted>(w: &mut World<P>, folder: &Path, back: bool) {
    let is_programs = |path: &PathBuf| path.to_string_lossy().contains("/programs-");
    let mut files = fs::read_dir(folder).expect("pins").flatten().map(|file| file.path());
    let programs = files.find(is_programs).expect("programs are pinned");
    let aside = folder.with_file_name("aside");
    let (last, last_but_one) = (aside.join("last"), aside.join("last-but-one"));
    fs::create_dir_all(&last_but_one).expect("a folder");
    fs::rename(&programs, &last).expect("pins can be renamed");
    if back {
        fs::rename(&last_but_one, &programs).expect("pins can be renamed");
    } else {
        fs::remove_dir_all(&last_but_one).expect("pins can be removed");
    }
    fs::rename(&last, &last_but_one).expect("pins can be renamed");
    w.put.restart().await;
    assert_eq!(w.observed().await, w.table);
}

/// Sockets of the node's own processes and packets of another host, new connections and old ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_upgrades_and_a_thousand_changes_of_endpoints_fail_nobody() {
    type Fixture = Routed4<Ebpf<FLOWS>>;
    if !Fixture::possible() {
        return;
    }
    let mut w = World::<Fixture>::start().await;
    let mut front = w.serving(Protocol::Tcp, &BACKENDS).await;
    let all = front.backends.clone();
    let kept = w.serving(Protocol::Tcp, &["kept"]).await;
    let folder = pins_of(&w.put);

    let places = [(w.put.node().clone(), w.put.addresses()[0]), (w.put.clients().clone(), w.put.client(7))];
    let (mut flows, mut dialing) = (Vec::new(), Vec::new());
    for (host, address) in &places {
        match dial_from(host, *address, kept.address(), Protocol::Tcp).await {
            Dialed::Answered(flow, _) => flows.push(flow),
            other => panic!("{}: {}", host.name, other.word()),
        }
        dialing.extend([0, 1].map(|_| Dialing::at(host, *address, front.address())));
    }
    let (mut upgrades, mut pins) = (0, pinned(&folder));
    for change in 0..CHANGES {
        if change * UPGRADES >= upgrades * CHANGES {
            upgrade(&mut w, &folder, upgrades % 6 != 0).await;
            upgrades += 1;
            let now = pinned(&folder);
            assert_eq!(now[0], pins[0], "maps and links are the same");
            assert!(now[1].keys().len() == pins[1].len(), "{now:?}");
            let before: Vec<&u32> = pins[1].values().collect();
            assert!(!now[1].values().any(|id| before.contains(&id)), "every program is another");
            pins = now;
            for flow in &mut flows {
                w.still(flow, "kept").await;
            }
        }
        let whose = (change / 4) % BACKENDS.len();
        match change % 4 {
            0 => front.set_state(BACKENDS[whose], BackendState::Draining { deadline: None }),
            1 => {
                // Who was led there before it drained has been answered.
                for dialing in &dialing {
                    dialing.goes_on(&mut w).await;
                }
                front.remove(BACKENDS[whose]);
            }
            2 => front.backends.push(all[whose].clone()),
            _ => front.backend(BACKENDS[(whose + 1) % BACKENDS.len()]).weight ^= 1,
        }
        w.set(&front).await;
    }
    assert_eq!(upgrades, UPGRADES);
    for dialing in dialing {
        dialing.goes_on(&mut w).await;
        println!("{} connections, none failed", dialing.stop().await);
    }
}
