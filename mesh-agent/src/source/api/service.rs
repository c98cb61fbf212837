//! The operations.

use super::store::{Kept, StoreError, load, save};
use crate::source::{
    local::{LocalService, SourceId},
    writer::{StateWriter, WriterError},
};
use mesh_control::model::{
    Endpoint, Name, Origin, ServiceKey, ServiceSpec, ServiceView, Snapshot, SpecError,
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{Mutex, OwnedMutexGuard, watch},
    task::spawn_blocking,
    time::timeout,
};
use tracing::{error, warn};

/// Most endpoints of one service that the API keeps on this node: what the mesh takes of one node.
const MAX_ENDPOINTS: usize = 4096;
/// How long an endpoint waits for its service to appear, so that it knows of its health check from the start.
const SETTLE: Duration = Duration::from_secs(1);

/// Why the API cannot do it. `Display` is for people.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// No such service.
    #[error("there is no service {0}: `mesh-agent service ls` shows them all")]
    NoSuchService(ServiceKey),
    /// The service is not the API's.
    #[error("the service {service} is declared by a file of {by}: edit it there")]
    NotClusters {
        /// The service.
        service: ServiceKey,
        /// The nodes, as text.
        by: String,
    },
    /// No such endpoint.
    #[error("the API has added no endpoint {instance} to {service} on this node")]
    NoSuchEndpoint {
        /// The service.
        service: ServiceKey,
        /// The instance.
        instance: Name,
    },
    /// An endpoint that makes no sense, or one too many.
    #[error("endpoint {instance} of {service}: {problem}")]
    BadEndpoint {
        /// The service.
        service: ServiceKey,
        /// The instance.
        instance: Name,
        /// The rule and the fix.
        problem: String,
    },
    /// A declaration that breaks a rule.
    #[error("{service}: {source}")]
    Spec {
        /// The service.
        service: ServiceKey,
        /// The rule.
        source: SpecError,
    },
    /// A command, which only a file of the node itself may bring.
    #[error("{0}: a command as health check is read only from files on the node itself: use x-mesh.health")]
    Command(ServiceKey),
    /// Endpoints could not be kept.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The control plane refused it.
    #[error(transparent)]
    Writer(#[from] WriterError),
}

/// The API source of this node.
#[derive(Debug)]
pub struct ApiSource {
    parts: Arc<Parts>,
    kept: Arc<Mutex<Kept>>,
}

#[derive(Debug)]
struct Parts {
    writer: StateWriter,
    snapshot: watch::Receiver<Arc<Snapshot>>,
    file: Option<PathBuf>,
}

impl ApiSource {
    /// How it is known.
    #[must_use]
    pub fn id() -> SourceId {
        SourceId("api".into())
    }

    /// Reads `data_dir/api.json`, announces what it holds and is `synced`. A file that cannot be read is put aside, if
    /// it is damaged, and shown in the source's status; the agent starts without it. Without `data_dir` nothing is
    /// kept.
    ///
    /// # Errors
    /// [`WriterError::Closed`].
    pub async fn start(
        data_dir: Option<&Path>,
        writer: StateWriter,
        snapshot: watch::Receiver<Arc<Snapshot>>,
    ) -> Result<Self, WriterError> {
        let file = data_dir.map(|d| d.join("api.json"));
        let loaded = file.as_deref().map_or_else(|| Ok(Kept::new()), load);
        let kept = match loaded {
            Ok(kept) => kept,
            Err(e) => {
                error!(error = %e, "started without the endpoints of the API");
                writer.set_errors(&Self::id(), vec![e.to_string()]).await?;
                Kept::new()
            }
        };
        let services = kept.iter().map(|(key, endpoints)| statement(key, endpoints)).collect();
        match writer.replace(&Self::id(), services).await {
            Err(WriterError::Closed) => return Err(WriterError::Closed),
            Err(e) => warn!(error = %e, "the control plane refuses an endpoint of the API for now"),
            Ok(()) => {}
        }
        writer.synced(&Self::id()).await?;
        let parts = Arc::new(Parts { writer, snapshot, file });
        Ok(ApiSource { parts, kept: Arc::new(Mutex::new(kept)) })
    }

    /// Does what must not be left half done when a client hangs up: once its turn has come it runs to its end,
    /// whatever becomes of the caller.
    async fn whole<F>(
        &self,
        work: impl FnOnce(Arc<Parts>, OwnedMutexGuard<Kept>) -> F,
    ) -> Result<(), ApiError>
    where
        F: Future<Output = Result<(), ApiError>> + Send + 'static,
    {
        let turn = Arc::clone(&self.kept).lock_owned().await;
        let done = tokio::spawn(work(Arc::clone(&self.parts), turn)).await;
        // Cut off only when the agent stops.
        done.unwrap_or(Err(ApiError::Writer(WriterError::Closed)))
    }

    /// Declares services for the cluster, each instead of an earlier declaration of the cluster. One that brings
    /// endpoints replaces those that the API has on this node; one without leaves them. All are checked before the
    /// first is declared; a service that the control plane refuses ends the work and is named.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn apply(&self, services: Vec<LocalService>) -> Result<(), ApiError> {
        for service in &services {
            if service.exec_check.is_some() {
                return Err(ApiError::Command(service.key.clone()));
            }
            if let Some((_, spec)) = &service.declaration {
                check_spec(&service.key, spec)?;
            }
            for endpoint in service.endpoints.iter() {
                check_endpoint(&service.key, endpoint, service.endpoints.len())?;
            }
        }
        self.whole(|parts, mut kept| async move {
            for service in services {
                let LocalService { key, declaration, endpoints, .. } = service;
                if let Some((_, spec)) = declaration {
                    parts.writer.declare_for_cluster(&key, Some(spec)).await?;
                }
                if !endpoints.is_empty() {
                    parts.wait(|s| s.services.contains_key(&key)).await;
                    parts.put(&mut kept, &key, endpoints.to_vec()).await?;
                }
            }
            Ok(())
        })
        .await
    }

    /// Withdraws the cluster's declaration, and the endpoints that the API has on this node.
    ///
    /// # Errors
    /// [`ApiError::NoSuchService`], [`ApiError::NotClusters`] and others.
    pub async fn remove(&self, key: &ServiceKey) -> Result<(), ApiError> {
        self.parts.clusters(key)?;
        let key = key.clone();
        self.whole(|parts, mut kept| async move {
            parts.writer.declare_for_cluster(&key, None).await?;
            parts.put(&mut kept, &key, Vec::new()).await
        })
        .await
    }

    /// Adds an endpoint of this node to a service, or changes the one of that name. The service need not be declared
    /// yet.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn add_endpoint(&self, key: &ServiceKey, endpoint: Endpoint) -> Result<(), ApiError> {
        let key = key.clone();
        self.whole(|parts, mut kept| async move {
            let mut all = kept.get(&key).cloned().unwrap_or_default();
            all.retain(|e| e.instance != endpoint.instance);
            check_endpoint(&key, &endpoint, all.len() + 1)?;
            all.push(endpoint);
            all.sort_by(|a, b| a.instance.cmp(&b.instance));
            parts.put(&mut kept, &key, all).await
        })
        .await
    }

    /// Takes back an endpoint that the API added; it drains.
    ///
    /// # Errors
    /// [`ApiError::NoSuchEndpoint`] and others.
    pub async fn remove_endpoint(&self, key: &ServiceKey, instance: &Name) -> Result<(), ApiError> {
        let (key, instance) = (key.clone(), instance.clone());
        self.whole(|parts, mut kept| async move {
            let mut all = kept.get(&key).cloned().unwrap_or_default();
            let before = all.len();
            all.retain(|e| e.instance != instance);
            if all.len() == before {
                return Err(ApiError::NoSuchEndpoint { service: key, instance });
            }
            parts.put(&mut kept, &key, all).await
        })
        .await
    }

    /// Changes the declaration of a service that the cluster declares; `change` gets what is in force. Changes come
    /// one after the other, so that none starts from a spec without the other's.
    ///
    /// # Errors
    /// [`ApiError`], or whatever `change` says.
    pub async fn change<E: From<ApiError>>(
        &self,
        key: &ServiceKey,
        change: impl FnOnce(&ServiceView) -> Result<ServiceSpec, E>,
    ) -> Result<(), E> {
        let turn = Arc::clone(&self.kept).lock_owned().await;
        let view = self.parts.clusters(key)?;
        let spec = Arc::new(change(&view)?);
        check_spec(key, &spec)?;
        let (parts, key) = (Arc::clone(&self.parts), key.clone());
        // The turn ends when the snapshot shows the change, also for a caller that has gone.
        let done = tokio::spawn(async move {
            let _turn = turn;
            parts.writer.declare_for_cluster(&key, Some(spec.clone())).await?;
            parts.wait(|s| s.services.get(&key).is_some_and(|v| v.spec == spec)).await;
            Ok(())
        });
        Ok(done.await.unwrap_or(Err(ApiError::Writer(WriterError::Closed)))?)
    }
}

impl Parts {
    /// The service, if the cluster declares it.
    fn clusters(&self, key: &ServiceKey) -> Result<Arc<ServiceView>, ApiError> {
        let snapshot = self.snapshot.borrow();
        let view = snapshot.services.get(key).ok_or_else(|| ApiError::NoSuchService(key.clone()))?;
        if view.origins.contains(&Origin::Cluster) {
            return Ok(view.clone());
        }
        let nodes = view.origins.iter().filter_map(|o| match o {
            Origin::Node(node) => Some(node.to_string()),
            Origin::Cluster => None,
        });
        Err(ApiError::NotClusters { service: key.clone(), by: nodes.collect::<Vec<_>>().join(", ") })
    }

    /// Waits a little for the snapshot to show what was just said; it goes on without, as the store has taken it.
    async fn wait(&self, shows: impl Fn(&Snapshot) -> bool) {
        let mut snapshot = self.snapshot.clone();
        let _late = timeout(SETTLE, snapshot.wait_for(|s| shows(s))).await;
    }

    /// Keeps and announces all of the API's endpoints of a service; kept first, so that nothing is announced that a
    /// restart would lose.
    async fn put(&self, kept: &mut Kept, key: &ServiceKey, endpoints: Vec<Endpoint>) -> Result<(), ApiError> {
        if kept.get(key).map_or(endpoints.is_empty(), |old| *old == endpoints) {
            return Ok(());
        }
        let mut fresh = kept.clone();
        if endpoints.is_empty() {
            fresh.remove(key);
        } else {
            fresh.insert(key.clone(), endpoints.clone());
        }
        if let Some(file) = self.file.clone() {
            let saved = fresh.clone();
            let done = spawn_blocking(move || save(&file, &saved)).await;
            done.map_err(|_| WriterError::Closed)??;
        }
        *kept = fresh;
        if endpoints.is_empty() {
            self.writer.remove(&ApiSource::id(), key).await?;
        } else {
            self.writer.upsert(&ApiSource::id(), statement(key, &endpoints)).await?;
        }
        Ok(())
    }
}

fn statement(key: &ServiceKey, endpoints: &[Endpoint]) -> LocalService {
    LocalService { key: key.clone(), declaration: None, endpoints: endpoints.into(), exec_check: None }
}

fn check_spec(key: &ServiceKey, spec: &ServiceSpec) -> Result<(), ApiError> {
    spec.validate().map_err(|source| ApiError::Spec { service: key.clone(), source })
}

fn check_endpoint(key: &ServiceKey, endpoint: &Endpoint, count: usize) -> Result<(), ApiError> {
    let problem = if let Err(wrong) = endpoint.validate() {
        wrong.to_string()
    } else if endpoint.terminating || endpoint.drain_until.is_some() {
        "it is marked as terminating: add it as ready and drain it afterwards".to_owned()
    } else if count > MAX_ENDPOINTS {
        format!("at most {MAX_ENDPOINTS} endpoints of one service on a node")
    } else {
        return Ok(());
    };
    Err(ApiError::BadEndpoint { service: key.clone(), instance: endpoint.instance.clone(), problem })
}
