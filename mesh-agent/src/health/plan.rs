//! Which check an endpoint gets. Pure.

use super::state::Rules;
use crate::source::{ExecCheck, LocalView, Process};
use mesh_control::model::{CheckKind, Endpoint, HealthCheck, Protocol, ServiceKey, ServiceSpec};
use std::{
    hash::{DefaultHasher, Hash, Hasher},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

/// What is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Question {
    Tcp(SocketAddr),
    Http {
        at: SocketAddr,
        path: String,
        host: String,
    },
    Exec(Arc<ExecCheck>),
    /// Cannot be asked, and why: always a failure.
    Never(&'static str),
}

/// One endpoint's check; a plan that differs is a new check.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Plan {
    pub(super) service: ServiceKey,
    /// Whom it asks.
    pub(super) process: Process,
    pub(super) question: Question,
    pub(super) interval: Duration,
    pub(super) timeout: Duration,
    pub(super) rules: Rules,
}

/// The checks of a service's endpoints. A command of this node's own file goes first, then the check of the spec in
/// force, then that of this node's own declaration, which the mesh may not have yet.
pub(super) fn plans(key: &ServiceKey, local: &LocalView, in_force: Option<&ServiceSpec>) -> Vec<Plan> {
    let spec = in_force.or(local.spec.as_deref());
    let own = || local.spec.as_ref().and_then(|s| s.health.as_ref());
    let network = in_force.and_then(|s| s.health.as_ref()).or_else(own);
    let plan = |e: &Endpoint| {
        let common = |question, interval, timeout, rules| Plan {
            service: key.clone(),
            process: e.into(),
            question,
            interval,
            timeout,
            rules,
        };
        if let Some(exec) = &local.exec_check {
            let rules = Rules { rise: exec.rise, fall: exec.fall, start_period: exec.start_period };
            return Some(common(Question::Exec(exec.clone()), exec.interval, exec.timeout, rules));
        }
        let check = network?;
        let rules = Rules { rise: check.rise, fall: check.fall, start_period: check.start_period };
        Some(common(question(check, e, spec), check.interval, check.timeout, rules))
    };
    local.endpoints.iter().filter_map(|(e, _)| plan(e)).collect()
}

fn question(check: &HealthCheck, endpoint: &Endpoint, spec: Option<&ServiceSpec>) -> Question {
    let (CheckKind::Tcp { port } | CheckKind::Http { port, .. }) = &check.kind;
    let first = || spec?.ports.iter().find(|p| p.protocol == Protocol::Tcp).map(|p| p.target);
    let Some(port) = port.or_else(first) else {
        return Question::Never("the service has no TCP port: name one in the check");
    };
    let Some(address) = endpoint.addresses.first() else {
        return Question::Never("the endpoint has no address");
    };
    let at = SocketAddr::new(address, endpoint.port_for(port));
    match &check.kind {
        CheckKind::Tcp { .. } => Question::Tcp(at),
        CheckKind::Http { path, host, .. } => {
            let host = host.clone().unwrap_or_else(|| at.to_string());
            Question::Http { at, path: path.clone(), host }
        }
    }
}

impl Plan {
    /// When the first check runs, so that not all run at once: the same for the same endpoint, below half a second and
    /// below the interval.
    pub(super) fn offset(&self) -> Duration {
        let mut hasher = DefaultHasher::new();
        (&self.service, &self.process.instance).hash(&mut hasher);
        let most = self.interval.min(Duration::from_millis(500));
        most.mul_f64((hasher.finish() % 1000) as f64 / 1000.0)
    }
}
