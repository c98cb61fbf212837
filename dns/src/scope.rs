//! What a client may see: isolation by the address it asks.

use crate::{
    index::{Entry, Owner, Owners},
    view::DnsView,
    zone::Label,
};
use mesh_control::model::{DEFAULT_NAMESPACE, Name};
use std::{net::IpAddr, sync::Arc};

/// The namespaces that the clients of one listening address see. By default all, and `NAME` alone is of `default`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// The namespaces that exist for them; all when absent.
    pub namespaces: Option<Vec<Name>>,
    /// The namespace of a name that names none; when absent the first of `namespaces`, or `default`.
    pub default_namespace: Option<Name>,
    /// Whether `NAME` and `tasks.NAME` are answered also without the zone, for services of the default namespace.
    pub bare_names: bool,
}

impl Scope {
    /// The namespace of a name that names none.
    pub(crate) fn default_namespace(&self) -> &str {
        let first = || self.namespaces.as_ref().and_then(|all| all.first());
        self.default_namespace.as_ref().or_else(first).map_or(DEFAULT_NAMESPACE, Name::as_str)
    }

    fn sees(&self, namespace: Label<'_>) -> bool {
        let visible = self.namespaces.as_ref();
        visible.is_none_or(|all| all.iter().any(|name| name.as_str().as_bytes() == namespace))
    }
}

/// A view through a scope: what is out of sight is as if it were not there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen<'v> {
    view: &'v DnsView,
    /// Through what it is seen.
    pub(crate) scope: &'v Scope,
}

impl<'v> Seen<'v> {
    pub(crate) fn new(view: &'v DnsView, scope: &'v Scope) -> Self {
        Seen { view, scope }
    }

    /// The service with this name or else alias, both in lower case; of the default namespace when none is given.
    pub(crate) fn service(&self, namespace: Option<Label<'_>>, name: Label<'_>) -> Option<&'v Arc<Entry>> {
        let namespace = namespace.unwrap_or(self.scope.default_namespace().as_bytes());
        if self.scope.sees(namespace) { self.view.service(namespace, name) } else { None }
    }

    /// Whether any service is in this namespace.
    pub(crate) fn has_namespace(&self, namespace: Label<'_>) -> bool {
        self.scope.sees(namespace) && self.view.has_namespace(namespace)
    }

    /// Whether a namespace with services is out of sight.
    pub(crate) fn is_hidden(&self, namespace: Label<'_>) -> bool {
        !self.scope.sees(namespace) && self.view.has_namespace(namespace)
    }

    /// Every name of a service and alias with its namespace, in no order.
    pub(crate) fn names(&self) -> impl Iterator<Item = (Label<'v>, Label<'v>)> + use<'v> {
        let scope = self.scope;
        self.view.names().filter(move |(_, namespace)| scope.sees(namespace))
    }

    /// Every namespace with services, in no order.
    pub(crate) fn namespaces(&self) -> impl Iterator<Item = &'v Name> + use<'v> {
        let scope = self.scope;
        self.view.namespaces().filter(move |name| scope.sees(name.as_str().as_bytes()))
    }

    /// Whose address this is, services first.
    pub(crate) fn owners(&self, address: IpAddr) -> impl Iterator<Item = &'v Owner> + use<'v> {
        let scope = self.scope;
        let all = self.view.owners(address).into_iter().flat_map(Owners::iter);
        all.filter(move |owner| scope.sees(owner.entry.key().namespace.as_str().as_bytes()))
    }
}
