//! Starts and stops the parts of an agent, in order.
//!
//! Start: control plane, writer, data plane and reconciler, DNS, admin, and last the sources, so that an address that
//! is taken stops the start before anything was declared. Stop: admin, sources, leave the mesh, refuse new connections and
//! let flows end, data plane, DNS.

mod operations;
mod parts;
mod planes;
mod publishing;
mod stop;
mod tunnels;
mod watching;

use crate::{
    admin::{AdminError, AdminHandle, AdminServer},
    config::Config,
    dataplane::{DataPlane, PlaneError},
    events::{self, EventLog},
    health::HealthHandle,
    overlay::{self, OverlayConfig},
    plan::Policy,
    reconcile::{self, ReconcileConfig, ReconcileMetrics},
    source::{SourceId, StateWriter, api::ApiSource, file::FileSource},
};
use mesh_control::{
    Control, ControlError, ControlHandle, LocalChange,
    model::{NodeInfo, Snapshot},
};
use mesh_dns::{DnsError, DnsServer};
use operations::Running;
use std::{future::pending, sync::Arc, time::Duration};
use tokio::{sync::watch, task::JoinHandle, time::timeout};

/// How long a node that has seeds waits to hear from one before it takes what it has for complete. After that it
/// serves alone and goes on trying.
const JOIN_WITHIN: Duration = Duration::from_secs(10);

/// How long a node that kept nothing over its restart waits to hear what it said before, so that files that did not
/// change write nothing and instances that were ready stay so. Nothing is lost by it: addresses and ports for what is
/// new are not claimed earlier either.
const RECALL_WITHIN: Duration = Duration::from_secs(5);

/// Why the agent did not start; whatever had been started is stopped again.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Gossip.
    #[error("cluster: {0}")]
    Control(#[from] ControlError),
    /// The data plane.
    #[error("data_plane: {0}")]
    Plane(#[from] PlaneError),
    /// The overlay.
    #[error("overlay: {0}")]
    Overlay(std::io::Error),
    /// DNS.
    #[error("dns: {0}")]
    Dns(#[from] DnsError),
    /// The admin API or the metrics listener.
    #[error("{0}")]
    Admin(#[from] AdminError),
    /// Two parts name a metric alike, which is a bug.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// The addresses of links.
    #[error("publish.interfaces: addresses cannot be read: {0}")]
    Publish(std::io::Error),
    /// A source.
    #[error("sources: {0}")]
    Source(String),
}

/// A running agent.
pub struct App {
    running: Arc<Running>,
    admin: AdminHandle,
    files: Option<JoinHandle<()>>,
    writer_task: JoinHandle<()>,
    leftovers: stop::Owned,
    announcing: Option<stop::Owned>,
    publishing: Option<stop::Owned>,
    events: JoinHandle<()>,
    /// Whether the data plane serves on without the agent.
    stays: bool,
}

impl App {
    /// Starts everything that `config` asks for; `None` when `stopped` resolved first and all was stopped again.
    ///
    /// # Errors
    /// [`StartError`] naming the part and the fix.
    pub async fn start(
        config: &Config,
        mut stopped: impl Future<Output = ()> + Unpin,
    ) -> Result<Option<App>, StartError> {
        let registry = prometheus::Registry::new();
        let info = parts::info(config, tunnels::at_start(config));
        let control = tokio::select! {
            biased;
            () = &mut stopped => return Ok(None),
            control = Control::start(parts::control(config, info.clone())) => control?,
        };
        let app = tokio::select! {
            biased;
            () = &mut stopped => Ok(None),
            app = Self::with_control(config, info, &control, &registry) => app.map(Some),
        };
        if !matches!(app, Ok(Some(_))) {
            tracing::info!("stopping before everything was started");
            control.shutdown().await;
        }
        app
    }

    async fn with_control(
        config: &Config,
        mut info: NodeInfo,
        control: &ControlHandle,
        registry: &prometheus::Registry,
    ) -> Result<App, StartError> {
        let plane = planes::start(config, &control.snapshots())?;
        info.direct = plane.name() == "ebpf" && parts::direct(config);
        if info.direct
            && let Err(error) = control.submit(vec![LocalChange::SetNode(info.clone())]).await
        {
            tracing::warn!(%error, "answers go through the other nodes until the mesh is told otherwise");
        }
        // What was kept over the restart. All that comes later is news.
        let known = Arc::clone(&control.snapshots().borrow());
        let sources: Vec<SourceId> =
            config.sources.files.iter().map(|_| FileSource::id()).chain([ApiSource::id()]).collect();
        let to_control = control.clone();
        let (writer, writer_task) = StateWriter::spawn(
            config.node.name.clone(),
            info.clone(),
            &sources,
            control.snapshots(),
            move |changes| {
                let control = to_control.clone();
                async move { control.submit(changes).await.map(drop).map_err(|e| e.to_string()) }
            },
        );

        let stays = plane.capabilities().survives_restart;
        let ipvs = plane.name() == "ipvs";
        let (policy, publishing) = publishing::policies(config).map_err(StartError::Publish)?;
        let mut reconcile_config = ReconcileConfig::new(parts::node_facts(config), Policy::default());
        reconcile_config.policy = policy;
        let (complete, synced) = watch::channel(false);
        // Owned from here on: should a later part not start, it must not live on with its handles.
        let leftovers = stop::Owned::spawn(complete_state(writer.clone(), control.clone(), complete));
        let reconcile = reconcile::spawn(
            plane,
            control.snapshots(),
            synced,
            reconcile_config.clone(),
            ReconcileMetrics::new(registry)?,
        );

        let overlay = parts::overlay(config)
            .map(|config| overlay::spawn(OverlayConfig { ipvs, ..config }, control.snapshots()));
        let overlay = overlay.transpose().map_err(StartError::Overlay)?;
        let announcing = overlay.as_ref().map(|overlay| {
            stop::Owned::spawn(tunnels::announce(info.tunnels, overlay.status(), writer.clone()))
        });
        let dns = match parts::dns(config) {
            Some(dns) => Some(DnsServer::start(dns, control.snapshots(), registry).await?),
            None => None,
        };
        let health = HealthHandle::spawn(writer.clone(), control.snapshots(), registry)?;
        let api = ApiSource::start(config.cluster.data_dir.as_deref(), writer.clone(), control.snapshots())
            .await
            .map_err(|e| StartError::Source(e.to_string()))?;
        let running = Arc::new(Running {
            control: control.clone(),
            writer: writer.clone(),
            api,
            health,
            reconcile,
            reconcile_config,
            overlay,
            dns,
            events: EventLog::default(),
        });
        let watched = Arc::clone(&running);
        let observe = move || watching::observe(&watched);
        let events = events::spawn(known, control.snapshots(), observe, running.events.clone());
        let admin =
            AdminServer::start(parts::admin(config), Arc::clone(&running) as _, registry.clone()).await;
        let admin = admin.inspect_err(|_| events.abort())?;
        let keeps_state = config.cluster.data_dir.is_some();
        let watch = |files| {
            let (control, node) = (control.clone(), config.node.name.clone());
            tokio::spawn(async move {
                if !keeps_state && timeout(RECALL_WITHIN, control.until_joined()).await.is_err() {
                    tracing::info!("no seed answered within {RECALL_WITHIN:?}: reading the service files");
                }
                // It watches for as long as this task lives.
                let _source = FileSource::spawn(files, node, writer);
                pending::<()>().await;
            })
        };
        let files = config.sources.files.clone().map(watch);
        tracing::info!(node = %config.node.name, gossip = %control.address(), "the agent runs");
        Ok(App { running, admin, files, writer_task, leftovers, announcing, publishing, events, stays })
    }

    /// Resolves when a part has ended that the agent cannot do without, which only a defect makes; says which.
    pub async fn broken(&mut self) -> &'static str {
        tokio::select! {
            _ = &mut self.writer_task => "the writer of local state",
            () = self.running.reconcile.ended() => "the reconciler",
            () = ended(self.running.control.snapshots()) => "the control plane",
        }
    }

    /// Stops in order: takes no new work, tells the mesh, lets flows end for a moment, then closes everything. A data
    /// plane of the kernel is left as it is, for the next run to find.
    pub async fn stop(self) {
        tracing::info!("stopping");
        if let Some(files) = self.files {
            files.abort();
        }
        drop((self.leftovers, self.announcing, self.publishing));
        self.admin.shutdown().await;
        self.events.abort();
        // Gone for sure: it holds all the handles.
        let _ = self.events.await;
        self.running.control.shutdown().await;
        if !self.stays {
            stop::until_idle(&self.running.reconcile).await;
        }
        if let Err(error) = self.running.reconcile.shutdown(!self.stays).await {
            tracing::warn!(%error, "the data plane left something behind");
        }
        self.writer_task.abort();
        // The last handle: DNS answers until here, so that what still runs on this host can resolve.
        drop(self.running);
        tracing::info!("stopped");
    }
}

/// Resolves when nobody publishes snapshots any more.
async fn ended(mut snapshots: watch::Receiver<Arc<Snapshot>>) {
    while snapshots.changed().await.is_ok() {}
}

/// Says `complete` once the sources have told everything and, with seeds, a peer was heard; before that a data plane
/// must not remove what it holds. Then withdraws what a previous boot of this node announced and nobody does now.
async fn complete_state(writer: StateWriter, control: ControlHandle, complete: watch::Sender<bool>) {
    let mut synced = writer.all_synced();
    if synced.wait_for(|s| *s).await.is_err() {
        return;
    }
    if timeout(JOIN_WITHIN, control.until_joined()).await.is_err() {
        tracing::warn!("no seed answered within {JOIN_WITHIN:?}: serving alone and trying on");
    }
    complete.send_replace(true);
    if let Err(error) = writer.withdraw_leftovers(control.own_services()).await {
        tracing::warn!(%error, "could not withdraw what a previous run announced");
    }
    // The receivers watch this sender: it lives as long as the task, which ends with the agent.
    pending::<()>().await;
}
