//! How the names of services are written: below which zone, and in whose manner.

use crate::{scope::Seen, zone::Zone};
use hickory_proto::rr::Name;
use mesh_control::model::ServiceKey;

/// A zone of ours and its manner of naming, for one client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Naming<'v> {
    pub(crate) seen: Seen<'v>,
    pub(crate) zone: &'v Zone,
    pub(crate) style: Style,
}

/// The manner of naming.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// `NAME.NAMESPACE`, and `NAME` in the default namespace.
    Mesh,
    /// `NAME.NAMESPACE.svc`, always in full.
    Kubernetes,
}

impl Naming<'_> {
    /// A service's canonical name.
    pub(crate) fn service(&self, key: &ServiceKey) -> Name {
        self.below(&[], key, false)
    }

    /// The name of one of its instances.
    pub(crate) fn instance(&self, key: &ServiceKey, instance: &str) -> Name {
        let (name, label) = (key.name.as_str(), instance.as_bytes());
        // `a.b` is service `a` of namespace `b` before it is instance `a` of service `b`.
        let ambiguous =
            self.style == Style::Mesh && self.seen.service(Some(name.as_bytes()), label).is_some();
        self.below(&[instance], key, ambiguous)
    }

    fn below(&self, left: &[&str], key: &ServiceKey, in_full: bool) -> Name {
        let (name, namespace) = (key.name.as_str(), key.namespace.as_str());
        let right: &[&str] = match self.style {
            Style::Kubernetes => &[name, namespace, "svc"],
            Style::Mesh if in_full || namespace != self.seen.scope.default_namespace() => &[name, namespace],
            Style::Mesh => &[name],
        };
        self.zone.below(left.iter().chain(right).copied())
    }
}
