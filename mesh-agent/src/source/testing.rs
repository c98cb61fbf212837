//! Helpers of this folder's tests: a control plane in memory and bounded waits.

use super::{
    local::{LocalService, SourceId},
    writer::StateWriter,
};
use mesh_control::{
    LocalChange,
    model::{Addresses, Endpoint, Name, NodeInfo, Origin, ServiceKey, ServiceSpec, Snapshot},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// What the control plane holds.
#[derive(Debug, Default)]
pub(crate) struct Held {
    pub(crate) specs: BTreeMap<(ServiceKey, Origin), Arc<ServiceSpec>>,
    pub(crate) endpoints: BTreeMap<ServiceKey, Vec<Endpoint>>,
    pub(crate) info: NodeInfo,
    /// Changes taken so far.
    pub(crate) writes: usize,
    /// Services whose changes are refused.
    pub(crate) refuse: BTreeSet<ServiceKey>,
    /// What is said of the node is refused.
    pub(crate) refuse_node: bool,
}

impl Held {
    pub(crate) fn take(&mut self, changes: Vec<LocalChange>) -> Result<(), String> {
        let refused = changes.iter().any(|c| match c {
            LocalChange::PutService { key, .. }
            | LocalChange::DeleteService { key, .. }
            | LocalChange::PutEndpoints { key, .. } => self.refuse.contains(key),
            LocalChange::SetNode(_) => self.refuse_node,
            LocalChange::Key(_) => false,
        });
        if refused {
            return Err("refused by the test".into());
        }
        for change in changes {
            self.writes += 1;
            match change {
                LocalChange::PutService { origin, key, spec } => drop(self.specs.insert((key, origin), spec)),
                LocalChange::DeleteService { origin, key } => drop(self.specs.remove(&(key, origin))),
                LocalChange::PutEndpoints { key, endpoints } if endpoints.is_empty() => {
                    self.endpoints.remove(&key);
                }
                LocalChange::PutEndpoints { key, endpoints } => drop(self.endpoints.insert(key, endpoints)),
                LocalChange::SetNode(info) => self.info = info,
                LocalChange::Key(_) => unreachable!("no source speaks of keys"),
            }
        }
        Ok(())
    }

    /// The names of the declared services, and of the ready endpoints of all.
    pub(crate) fn shown(&self) -> (Vec<String>, Vec<String>) {
        let ready = self.endpoints.values().flatten().filter(|e| e.ready).map(|e| e.instance.to_string());
        (self.specs.keys().map(|(k, _)| k.to_string()).collect(), ready.collect())
    }
}

pub(crate) type Control = Arc<Mutex<Held>>;

pub(crate) fn node() -> Name {
    Name::new("n1").unwrap()
}

pub(crate) fn key(text: &str) -> ServiceKey {
    text.parse().unwrap()
}

pub(crate) fn source(text: &str) -> SourceId {
    SourceId(text.into())
}

pub(crate) fn endpoint(name: &str) -> Endpoint {
    Endpoint::new(Name::new(name).unwrap(), Addresses::from(std::net::IpAddr::from([127, 0, 0, 1])))
}

pub(crate) fn service(name: &str, spec: ServiceSpec, endpoints: &[&str]) -> LocalService {
    LocalService {
        key: key(name),
        declaration: Some((Origin::Node(node()), Arc::new(spec))),
        endpoints: endpoints.iter().map(|e| endpoint(e)).collect(),
        exec_check: None,
    }
}

pub(crate) fn writer(sources: &[&str]) -> (StateWriter, Control, watch::Sender<Arc<Snapshot>>) {
    let control = Control::default();
    let sink = control.clone();
    let (snapshots, snapshot) = watch::channel(Arc::new(Snapshot::empty(node())));
    let sources: Vec<SourceId> = sources.iter().map(|s| source(s)).collect();
    let (writer, _task) =
        StateWriter::spawn(node(), NodeInfo::default(), &sources, snapshot, move |changes| {
            let result = sink.lock().unwrap().take(changes);
            async move { result }
        });
    (writer, control, snapshots)
}

/// Waits until `check` is true, at most ten seconds.
pub(crate) async fn until(what: &str, mut check: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !check() {
        assert!(Instant::now() < end, "not within 10 s: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
