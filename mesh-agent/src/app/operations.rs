//! The running agent as the admin API sees it.

use crate::{
    admin::{
        self, Answer, DnsAnswer, DnsRecord, Drain, HealthResult, OperationError, Operations, PlaneStatus,
        PublishRequest, SourceStatus, UnpublishRequest,
    },
    dataplane::{Counters, Explanation, Flow},
    events::EventLog,
    health::{CheckResult, CheckState, HealthHandle},
    overlay::{AttachRequest, Attachment, OverlayHandle, OverlayStatus},
    plan::Op,
    reconcile::{ReconcileConfig, ReconcileGone, ReconcileHandle},
    source::{
        LocalService, StateWriter, WriterError,
        api::{ApiError, ApiSource},
        compose,
    },
};
use mesh_control::{
    ClusterKey, ControlError, ControlHandle, ControlStats, KeyChange, KeyView, LocalChange, PeerStats,
    model::{Endpoint, Name, NodeName, Origin, PortRange, ServiceKey, ServiceView, Snapshot},
};
use mesh_dns::{AnswerSource, DnsHandle, Lookup, LookupError, LookupRecord};
use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// The handles of a running agent.
pub(super) struct Running {
    pub(super) control: ControlHandle,
    pub(super) writer: StateWriter,
    pub(super) api: ApiSource,
    pub(super) health: HealthHandle,
    pub(super) reconcile: ReconcileHandle,
    pub(super) reconcile_config: ReconcileConfig,
    pub(super) overlay: Option<OverlayHandle>,
    pub(super) dns: Option<DnsHandle>,
    pub(super) events: EventLog,
}

impl Running {
    fn overlay_handle(&self) -> Result<&OverlayHandle, OperationError> {
        let none = || {
            let problem = "this node has no overlay".to_owned();
            let fix = "write overlay.cidr, and in node.address one that other nodes reach".to_owned();
            OperationError::Conflict { problem, fix }
        };
        self.overlay.as_ref().ok_or_else(none)
    }
}

fn gone(error: ReconcileGone) -> OperationError {
    OperationError::Unavailable(error.to_string())
}

fn control(error: ControlError) -> OperationError {
    match error {
        ControlError::KeyChange { problem, fix } | ControlError::Forget { problem, fix } => {
            OperationError::Conflict { problem, fix }
        }
        error => OperationError::Unavailable(error.to_string()),
    }
}

fn writer(error: &WriterError) -> OperationError {
    match error {
        WriterError::Closed | WriterError::NodeRefused { .. } => {
            OperationError::Unavailable(error.to_string())
        }
        WriterError::Refused { .. } => {
            OperationError::Invalid { field: "service".into(), problem: error.to_string() }
        }
        WriterError::NoSuchEndpoint(_) => OperationError::NotFound(error.to_string()),
    }
}

impl From<ApiError> for OperationError {
    fn from(error: ApiError) -> Self {
        let problem = error.to_string();
        match error {
            ApiError::NoSuchService(_) | ApiError::NoSuchEndpoint { .. } => OperationError::NotFound(problem),
            ApiError::NotClusters { .. } => {
                let fix = "edit the file, or remove it there and apply it here".to_owned();
                OperationError::Conflict { problem, fix }
            }
            ApiError::BadEndpoint { .. } => OperationError::Invalid { field: "endpoint".into(), problem },
            ApiError::Spec { .. } | ApiError::Command(_) => {
                OperationError::Invalid { field: "service".into(), problem }
            }
            ApiError::Store(_) => OperationError::Unavailable(problem),
            ApiError::Writer(error) => writer(&error),
        }
    }
}

fn dns(error: &LookupError) -> OperationError {
    let text = error.to_string();
    match error {
        LookupError::Name(_) => OperationError::Invalid { field: "name".into(), problem: text },
        LookupError::Type(_) => OperationError::Invalid { field: "type".into(), problem: text },
        LookupError::Listen { .. } => OperationError::Invalid { field: "listen".into(), problem: text },
        _ => OperationError::Unavailable(text),
    }
}

fn record(record: LookupRecord) -> DnsRecord {
    DnsRecord { name: record.name, record_type: record.kind, ttl: record.ttl, data: record.data }
}

impl Operations for Running {
    fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.control.snapshots().borrow())
    }

    fn control_stats(&self) -> ControlStats {
        self.control.stats()
    }

    fn peers(&self) -> Vec<PeerStats> {
        self.control.peers()
    }

    fn events(&self) -> EventLog {
        self.events.clone()
    }

    fn joined(&self) -> bool {
        self.control.joined()
    }

    fn plane(&self) -> PlaneStatus {
        let status = self.reconcile.status();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        PlaneStatus {
            name: status.plane.to_owned(),
            revision: status.last_sync.as_ref().map(|_| status.applied_revision),
            error: status.plane_error,
            failed: status.errors.iter().map(|e| e.error.clone()).collect(),
            since_ok: status.last_sync.map(|sync| now.saturating_sub(Duration::from_millis(sync.at))),
            // An audit runs at every interval even when nothing changes; three missed ones are no coincidence.
            stale_after: self.reconcile_config.audit_interval * 3,
            frontends: status.frontends,
            capabilities: Some(status.capabilities),
        }
    }

    fn sources(&self) -> Vec<SourceStatus> {
        let status = |s: &crate::source::SourceStatus| SourceStatus {
            name: s.id.to_string(),
            synced: s.synced,
            services: s.services,
            errors: s.errors.clone(),
        };
        self.writer.statuses().iter().map(status).collect()
    }

    fn health(&self) -> Vec<HealthResult> {
        let result = |r: CheckResult| HealthResult {
            service: r.service,
            instance: r.instance,
            healthy: match r.state {
                CheckState::Waiting => None,
                CheckState::Healthy => Some(true),
                CheckState::Unhealthy => Some(false),
            },
            detail: r.last_error.unwrap_or_else(|| match r.state {
                CheckState::Waiting => "not checked yet".to_owned(),
                CheckState::Healthy => "ok".to_owned(),
                CheckState::Unhealthy => "ok, not often enough yet".to_owned(),
            }),
        };
        self.health.results().into_iter().map(result).collect()
    }

    fn dns_wanted(&self) -> bool {
        // It is started before the admin API or the agent does not start.
        self.dns.is_some()
    }

    fn dns_address(&self) -> Option<SocketAddr> {
        let serving = self.dns.as_ref().filter(|dns| dns.is_serving());
        serving.and_then(|dns| dns.addresses().first().copied())
    }

    fn counters(&self) -> Answer<'_, Result<Counters, OperationError>> {
        Box::pin(async { self.reconcile.counters().await.map_err(gone) })
    }

    fn explain(&self, flow: Flow) -> Answer<'_, Result<Explanation, OperationError>> {
        Box::pin(async move { self.reconcile.explain(flow).await.map_err(gone) })
    }

    fn plan(&self) -> Answer<'_, Result<Vec<Op>, OperationError>> {
        Box::pin(async { self.reconcile.plan().await.map_err(gone) })
    }

    fn overlay_plan(&self) -> Answer<'_, Result<Vec<String>, OperationError>> {
        Box::pin(async {
            match &self.overlay {
                // Why nothing can be done, status says; it is no step.
                Some(overlay) => Ok(overlay.pending().await.unwrap_or_default()),
                None => Ok(Vec::new()),
            }
        })
    }

    fn overlay(&self) -> Option<Arc<OverlayStatus>> {
        self.overlay.as_ref().map(|overlay| Arc::clone(&overlay.status().borrow()))
    }

    fn renew_key(&self) -> Answer<'_, Result<(), OperationError>> {
        Box::pin(async { self.overlay_handle()?.rotate_key().await.map_err(OperationError::Unavailable) })
    }

    fn attachments(&self) -> Answer<'_, Result<Vec<Attachment>, OperationError>> {
        Box::pin(async { Ok(self.overlay_handle()?.attachments().await?) })
    }

    fn attach(&self, request: AttachRequest) -> Answer<'_, Result<Attachment, OperationError>> {
        Box::pin(async move { Ok(self.overlay_handle()?.attach(request).await?) })
    }

    fn detach(&self, netns: PathBuf, name: String) -> Answer<'_, Result<bool, OperationError>> {
        Box::pin(async move { Ok(self.overlay_handle()?.detach(netns, name).await?) })
    }

    fn apply_compose(&self, text: String, dry_run: bool) -> Answer<'_, Result<Vec<ServiceKey>, Vec<String>>> {
        Box::pin(async move {
            let context = compose::Context { node: &self.snapshot().local.clone(), origin: &Origin::Cluster };
            let declared = compose::parse("request", &text, context).map_err(|problems| problems.lines())?;
            let services: Vec<LocalService> = declared.into_iter().map(|d| d.service).collect();
            let keys = services.iter().map(|s| s.key.clone()).collect();
            if !dry_run {
                self.api.apply(services).await.map_err(|e| vec![e.to_string()])?;
            }
            Ok(keys)
        })
    }

    fn remove_service(&self, key: ServiceKey) -> Answer<'_, Result<(), OperationError>> {
        Box::pin(async move { Ok(self.api.remove(&key).await?) })
    }

    fn publish(&self, key: ServiceKey, request: PublishRequest) -> Answer<'_, Result<(), OperationError>> {
        Box::pin(async move { self.api.change(&key, |view| admin::publish(&view.spec, &request)).await })
    }

    fn unpublish(
        &self,
        key: ServiceKey,
        request: UnpublishRequest,
    ) -> Answer<'_, Result<(), OperationError>> {
        Box::pin(async move {
            let change = |view: &ServiceView| {
                let held = |index: usize| {
                    let published = view.published.iter().find(|p| p.index == index)?;
                    published.port.map(PortRange::first)
                };
                admin::unpublish(&view.spec, request, held)
            };
            self.api.change(&key, change).await
        })
    }

    fn add_endpoint(&self, key: ServiceKey, endpoint: Endpoint) -> Answer<'_, Result<(), OperationError>> {
        Box::pin(async move { Ok(self.api.add_endpoint(&key, endpoint).await?) })
    }

    fn remove_endpoint(&self, key: ServiceKey, instance: Name) -> Answer<'_, Result<(), OperationError>> {
        Box::pin(async move { Ok(self.api.remove_endpoint(&key, &instance).await?) })
    }

    fn drain_endpoint(
        &self,
        key: ServiceKey,
        instance: Name,
        drain: Drain,
    ) -> Answer<'_, Result<(), OperationError>> {
        Box::pin(async move {
            match drain {
                Drain::Start(deadline) => self.writer.drain(&key, &instance, deadline).await,
                Drain::Undo => self.writer.undrain(&key, &instance).await,
            }
            .map_err(|e| writer(&e))
        })
    }

    fn drain_node(&self, draining: bool) -> Answer<'_, Result<(), OperationError>> {
        Box::pin(async move { self.writer.drain_node(draining).await.map_err(|e| writer(&e)) })
    }

    fn forget_node(&self, node: NodeName) -> Answer<'_, Result<(), OperationError>> {
        Box::pin(async move { self.control.forget(&node).await.map(drop).map_err(control) })
    }

    fn keys(&self) -> Vec<KeyView> {
        self.control.keys()
    }

    fn change_key(&self, change: KeyChange) -> Answer<'_, Result<(), OperationError>> {
        Box::pin(async move {
            self.control.submit(vec![LocalChange::Key(change)]).await.map(drop).map_err(control)
        })
    }

    fn expose_sealing_key(&self) -> ClusterKey {
        self.control.expose_sealing_key()
    }

    fn dns_query(&self, asked: Lookup) -> Answer<'_, Result<DnsAnswer, OperationError>> {
        Box::pin(async move {
            let off = || OperationError::Unavailable("DNS is switched off (dns.enabled)".into());
            let reply = self.dns.as_ref().ok_or_else(off)?.lookup(&asked).await.map_err(|e| dns(&e))?;
            Ok(DnsAnswer {
                rcode: reply.rcode,
                authoritative: reply.source == AnswerSource::Mesh,
                records: reply.answers.into_iter().map(record).collect(),
                explanation: reply.explanation,
            })
        })
    }
}
