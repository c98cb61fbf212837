//! Derives the [`Snapshot`] from the store, touching only what a change touches.

use crate::{
    claim::{Claim, ClaimKey, Fixed, Held},
    claims::{Claims, network_of},
    hlc::Hlc,
    key::Key,
    member::Peers,
    model::{
        Addresses, Conflict, EndpointMode, EndpointView, Family, NodeName, NodeState, NodeView, Origin,
        PublishMode, PublishedView, ServiceKey, ServicePort, ServiceSpec, ServiceView, Snapshot,
    },
    record::{Record, Writer},
    store::Store,
    subnets::{OverlayNetwork, Subnets},
    value,
};
use ipnetwork::IpNetwork;
use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

/// What the failure detector contributes.
pub(crate) struct Liveness<'a> {
    pub(crate) me: &'a crate::member::Identity,
    pub(crate) peers: &'a Peers,
    pub(crate) suspects: &'a BTreeSet<NodeName>,
}

/// The derived state of one node.
#[derive(Debug)]
pub(crate) struct View {
    snapshot: Snapshot,
    parts: BTreeMap<ServiceKey, Parts>,
    by_node: BTreeMap<NodeName, BTreeSet<ServiceKey>>,
    claims: Claims,
    subnets: Subnets,
    networks: Vec<IpNetwork>,
    /// When this run began: claims made since then by nodes with another `vip_cidr` stand.
    since: Hlc,
    dirty: BTreeSet<ServiceKey>,
    dirty_nodes: BTreeSet<NodeName>,
}

/// Which records speak of a service.
#[derive(Debug, Default)]
struct Parts {
    origins: BTreeSet<Origin>,
    nodes: BTreeSet<NodeName>,
}

/// A claim that a service lacks, or whose present choice it lost.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Need {
    /// An address of this family.
    Address(Family),
    /// Ports for `spec.ports[index]`.
    Ports(usize),
}

/// The declaration in force and all that are live, newest first.
pub(crate) struct Declared {
    pub(crate) spec: Arc<ServiceSpec>,
    pub(crate) origins: Vec<(Origin, Arc<Writer>)>,
    conflict: Option<Conflict>,
}

impl View {
    /// An empty view at `since`; addresses are wanted in the families of `networks`, subnets out of `overlay`.
    pub(crate) fn new(
        local: NodeName,
        networks: Vec<IpNetwork>,
        overlay: Vec<OverlayNetwork>,
        since: Hlc,
    ) -> View {
        View {
            snapshot: Snapshot::empty(local),
            parts: BTreeMap::new(),
            by_node: BTreeMap::new(),
            claims: Claims::default(),
            subnets: Subnets::new(overlay),
            networks,
            since,
            dirty: BTreeSet::new(),
            dirty_nodes: BTreeSet::new(),
        }
    }

    /// The state as of the last [`View::refresh`].
    pub(crate) fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// The claims known.
    pub(crate) fn claims(&self) -> &Claims {
        &self.claims
    }

    /// The subnet claims known.
    pub(crate) fn subnets(&self) -> &Subnets {
        &self.subnets
    }

    /// Sets the subnets that this node may use.
    pub(crate) fn set_own_subnets(&mut self, subnets: Vec<IpNetwork>) {
        if self.snapshot.own_subnets != subnets {
            self.snapshot.set_own_subnets(subnets);
        }
    }

    /// Notes that a record went from `old` to `new`.
    pub(crate) fn changed(&mut self, old: Option<&Record>, new: Option<&Record>) {
        let Some(key) = new.or(old).and_then(|r| Key::of(&r.id)) else { return };
        let live = new.is_some_and(|r| !r.deleted);
        match key {
            Key::Node(node) => {
                self.dirty_nodes.insert(node);
            }
            Key::Endpoints(node, service) => {
                let (service, parts) = canonical(&mut self.parts, service);
                let (node, services) = canonical(&mut self.by_node, node);
                if live {
                    parts.nodes.insert(node.clone());
                    services.insert(service.clone());
                } else {
                    parts.nodes.remove(&node);
                    services.remove(&service);
                }
                // The node is shown even before its own record arrives.
                self.dirty_nodes.insert(node);
                self.dirty.insert(service);
            }
            Key::Service(service, origin) => {
                let (service, parts) = canonical(&mut self.parts, service);
                if live {
                    parts.origins.insert(origin);
                } else {
                    parts.origins.remove(&origin);
                }
                self.dirty.insert(service);
            }
            Key::Claim(claim) => match &claim {
                ClaimKey::Vip { service, .. } | ClaimKey::Port { service, .. } => {
                    self.claims.note(old, new);
                    self.dirty.insert(service.clone());
                }
                ClaimKey::Subnet { .. } => self.dirty_nodes.extend(self.subnets.note(&claim, old, new)),
            },
            // The ring is the node's, not part of the view.
            Key::Ring(_) => {}
        }
    }

    /// Notes that a node's liveness may have changed.
    pub(crate) fn node_changed(&mut self, node: NodeName) {
        self.dirty_nodes.insert(node);
    }

    /// Whether a live declaration of `service` is known.
    pub(crate) fn is_declared(&self, service: &ServiceKey) -> bool {
        self.parts.get(service).is_some_and(|p| !p.origins.is_empty())
    }

    /// Brings the snapshot up to date; returns the services that were looked at.
    pub(crate) fn refresh(&mut self, store: &Store, liveness: &Liveness<'_>) -> BTreeSet<ServiceKey> {
        for node in std::mem::take(&mut self.dirty_nodes) {
            self.refresh_node(node, store, liveness);
        }
        let mut services = std::mem::take(&mut self.dirty);
        let (mut touched, mut declared) = (BTreeSet::new(), BTreeMap::new());
        for service in &services {
            let found = self.declared(service, store);
            let wanted = found.as_ref().map(|d| self.wanted(service, &d.spec, store)).unwrap_or_default();
            touched.extend(self.claims.contend(service, wanted));
            declared.insert(service.clone(), found);
        }
        services.append(&mut touched);
        for service in &services {
            let found = declared.remove(service).unwrap_or_else(|| self.declared(service, store));
            self.refresh_service(service, found, store);
        }
        services
    }

    fn refresh_node(&mut self, name: NodeName, store: &Store, liveness: &Liveness<'_>) {
        let record = store.get(&Key::Node(name.clone()).id());
        let info = record.map(value::node).unwrap_or_default();
        let (state, gossip) = if name == liveness.me.name {
            (NodeState::Alive, Some(liveness.me.addr))
        } else {
            let latest = liveness.peers.latest(&name);
            let state = match latest {
                Some((_, true)) if liveness.suspects.contains(&name) => NodeState::Suspect,
                Some((_, true)) => NodeState::Alive,
                _ if record.is_some_and(|r| r.deleted) => NodeState::Left,
                _ => NodeState::Down,
            };
            (state, latest.map(|(id, _)| id.addr))
        };
        let services = self.by_node.get(&name);
        let known = record.is_some() || gossip.is_some() || services.is_some_and(|s| !s.is_empty());
        let before = self.snapshot.nodes.get(&name).cloned();
        let subnets = self.subnets_of(&name, store);
        if name == liveness.me.name && self.snapshot.own_subnets.iter().any(|own| !subnets.contains(own)) {
            // One that is lost is not used a moment longer.
            let own = self.snapshot.own_subnets.iter().copied().filter(|own| subnets.contains(own)).collect();
            self.snapshot.set_own_subnets(own);
        }
        let after = known.then(|| Arc::new(NodeView { name: name.clone(), info, gossip, state, subnets }));
        if before == after {
            return;
        }
        let counts =
            |view: &Option<Arc<NodeView>>| view.as_ref().map(|v| (v.state.is_up(), v.info.zone.clone()));
        if counts(&before) != counts(&after)
            && let Some(services) = services
        {
            self.dirty.extend(services.iter().cloned());
        }
        if let Some(now) = after.as_deref().filter(|now| now.name != liveness.me.name) {
            let was = before.as_ref().map(|b| b.state);
            // A suspicion is usually refuted in a moment.
            if was.is_some_and(NodeState::is_up) != now.state.is_up() {
                tracing::info!(node = %name, state = now.state.as_str(), gossip = ?now.gossip, "node changed");
            }
        }
        self.snapshot.set_node(name, after);
    }

    /// The subnets that a node holds.
    fn subnets_of(&self, node: &NodeName, store: &Store) -> Vec<IpNetwork> {
        let families = [Family::V4, Family::V6].into_iter().filter(|f| self.subnets.network_of(*f).is_some());
        let claims =
            families.filter_map(|family| live_claim(store, &ClaimKey::Subnet { node: node.clone(), family }));
        claims
            .filter_map(|claim| match claim.held {
                Held::Subnet(subnet) if self.subnets.wins(node, subnet) => Some(subnet),
                _ => None,
            })
            .collect()
    }

    /// The live declarations of a service.
    pub(crate) fn declared(&self, service: &ServiceKey, store: &Store) -> Option<Declared> {
        let origins = &self.parts.get(service)?.origins;
        let mut found: Vec<(&Record, Origin, ServiceSpec)> = origins
            .iter()
            .filter_map(|origin| {
                let record = store.live(&Key::Service(service.clone(), origin.clone()).id())?;
                Some((record, origin.clone(), value::spec(record)?))
            })
            .collect();
        found.sort_by(|(a, ..), (b, ..)| b.order(a));
        let (_, in_force, spec) = found.first()?;
        let overruled: Vec<_> =
            found.iter().filter(|(_, _, s)| s != spec).map(|(_, origin, _)| origin.clone()).collect();
        let conflict = (!overruled.is_empty()).then(|| Conflict { in_force: in_force.clone(), overruled });
        let origins = found.iter().map(|(r, origin, _)| (origin.clone(), Arc::clone(&r.writer))).collect();
        let spec = match self.snapshot.services.get(service) {
            Some(before) if *before.spec == *spec => Arc::clone(&before.spec),
            _ => Arc::new(spec.clone()),
        };
        Some(Declared { spec, origins, conflict })
    }

    /// The families in which addresses are claimed.
    fn families(&self) -> impl Iterator<Item = Family> {
        [Family::V4, Family::V6].into_iter().filter(|f| network_of(&self.networks, *f).is_some())
    }

    /// The claims of a service that its spec still wants.
    fn wanted(&self, service: &ServiceKey, spec: &ServiceSpec, store: &Store) -> BTreeMap<ClaimKey, Claim> {
        let mut wanted = BTreeMap::new();
        if spec.endpoint_mode == EndpointMode::Vip {
            for family in [Family::V4, Family::V6] {
                let key = ClaimKey::Vip { service: service.clone(), family };
                if let Some(claim) = live_claim(store, &key) {
                    wanted.insert(key, claim);
                }
            }
        }
        for port in spec.ports.iter().filter(|p| p.publish.is_some()) {
            let key = port_key(service, port);
            if let Some(claim) = live_claim(store, &key).filter(|claim| fits(port, claim)) {
                wanted.insert(key, claim);
            }
        }
        wanted
    }

    /// What a declared service still has to claim.
    pub(crate) fn needs(&self, service: &ServiceKey, spec: &ServiceSpec, store: &Store) -> Vec<Need> {
        let mut needs = Vec::new();
        if spec.endpoint_mode == EndpointMode::Vip {
            needs.extend(
                self.families().filter(|family| !self.holds(service, *family, store)).map(Need::Address),
            );
        }
        for (index, port) in spec.ports.iter().enumerate() {
            let Some(publish) = &port.publish else { continue };
            let key = port_key(service, port);
            let claim = live_claim(store, &key).filter(|claim| fits(port, claim));
            let met = claim.is_some_and(|claim| {
                // A fixed port that another holds is a conflict to show, not one to move.
                publish.port.is_some() || self.claims.better_port_claim(&key, &claim).is_none()
            });
            if !met {
                needs.push(Need::Ports(index));
            }
        }
        needs
    }

    /// Everything that a service with this spec claims.
    pub(crate) fn everything(&self, spec: &ServiceSpec) -> Vec<Need> {
        let addresses =
            self.families().filter(|_| spec.endpoint_mode == EndpointMode::Vip).map(Need::Address);
        let ports = spec.ports.iter().enumerate().filter(|(_, port)| port.publish.is_some());
        addresses.chain(ports.map(|(index, _)| Need::Ports(index))).collect()
    }

    fn holds(&self, service: &ServiceKey, family: Family, store: &Store) -> bool {
        let key = ClaimKey::Vip { service: service.clone(), family };
        let network = network_of(&self.networks, family);
        matches!(live_claim(store, &key), Some(Claim { held: Held::Address(address), stamp, .. })
            if self.claims.wins_address(service, address)
                // Nodes that disagree about `vip_cidr` must not claim against each other for ever.
                && (stamp >= self.since || network.is_some_and(|n| n.contains(address))))
    }

    fn refresh_service(&mut self, service: &ServiceKey, declared: Option<Declared>, store: &Store) {
        let after = declared.map(|declared| self.service_view(service, declared, store));
        if after.is_none()
            && self.parts.get(service).is_some_and(|p| p.origins.is_empty() && p.nodes.is_empty())
        {
            self.parts.remove(service);
        }
        if self.snapshot.services.get(service).map(Arc::as_ref) != after.as_ref() {
            self.snapshot.set_service(service.clone(), after.map(Arc::new));
        }
    }

    fn service_view(&self, service: &ServiceKey, declared: Declared, store: &Store) -> ServiceView {
        let Declared { spec, origins, conflict } = declared;
        let mut vips = Addresses::default();
        if spec.endpoint_mode == EndpointMode::Vip {
            for family in [Family::V4, Family::V6] {
                let key = ClaimKey::Vip { service: service.clone(), family };
                if let Some(Claim { held: Held::Address(address), .. }) = live_claim(store, &key)
                    && self.claims.wins_address(service, address)
                {
                    vips.set(address);
                }
            }
        }
        let ports = spec.ports.iter().enumerate();
        let published =
            ports.filter_map(|(index, port)| self.published(service, index, port, store)).collect();
        let (endpoints, hidden_endpoints) = self.endpoints(service, store);
        let origins = origins.into_iter().map(|(origin, _)| origin).collect();
        let key = service.clone();
        ServiceView { key, spec, origins, conflict, vips, published, endpoints, hidden_endpoints }
    }

    fn published(
        &self,
        service: &ServiceKey,
        index: usize,
        port: &ServicePort,
        store: &Store,
    ) -> Option<PublishedView> {
        let publish = port.publish.as_ref()?;
        let key = port_key(service, port);
        let claim = live_claim(store, &key).filter(|claim| fits(port, claim));
        let better = claim.and_then(|claim| self.claims.better_port_claim(&key, &claim)).cloned();
        let held = claim.and_then(|claim| match claim.held {
            Held::Ports { range, .. } => Some(range),
            _ => None,
        });
        // A dynamic port that is lost is chosen anew; a fixed one stays and shows who holds it.
        let (port_held, conflict) = match (publish.port, better) {
            (None, Some(_)) => (None, None),
            (_, better) => (held, better),
        };
        let protocol = port.protocol;
        Some(PublishedView { index, protocol, port: port_held, mode: publish.mode, conflict })
    }

    fn endpoints(&self, service: &ServiceKey, store: &Store) -> (Arc<[EndpointView]>, usize) {
        let (mut shown, mut hidden, mut seen) = (Vec::new(), 0, HashSet::new());
        // Lowest node name first: it announces for the others that have the same instance.
        for node in self.parts.get(service).into_iter().flat_map(|p| &p.nodes) {
            let record = store.live(&Key::Endpoints(node.clone(), service.clone()).id());
            let list = record.map(value::endpoints);
            let view = self.snapshot.nodes.get(node);
            let up = view.is_some_and(|v| v.state.is_up());
            for endpoint in list.into_iter().flatten() {
                if !up {
                    hidden += 1;
                } else if seen.insert((endpoint.instance.clone(), endpoint.addresses)) {
                    let zone = view.and_then(|v| v.info.zone.clone());
                    shown.push(EndpointView { node: node.clone(), zone, endpoint });
                }
            }
        }
        shown.sort_by(|a, b| (&a.endpoint.instance, &a.node).cmp(&(&b.endpoint.instance, &b.node)));
        (shown.into(), hidden)
    }

    /// The services of which `node` has endpoint records, or which it declares.
    pub(crate) fn services_of(&self, node: &NodeName) -> Vec<ServiceKey> {
        let mut services = self.by_node.get(node).cloned().unwrap_or_default();
        let origin = Origin::Node(node.clone());
        let declared = self.parts.iter().filter(|(_, p)| p.origins.contains(&origin));
        services.extend(declared.map(|(key, _)| key.clone()));
        services.into_iter().collect()
    }
}

/// The entry of a key, made if missing, and the map's own copy of the key: names are shared texts, and a hundred
/// thousand records name the same few.
fn canonical<K: Ord + Clone, V: Default>(map: &mut BTreeMap<K, V>, key: K) -> (K, &mut V) {
    let key = map.get_key_value(&key).map(|(own, _)| own.clone()).unwrap_or(key);
    let value = map.entry(key.clone()).or_default();
    (key, value)
}

/// The live claim of a key.
pub(crate) fn live_claim(store: &Store, key: &ClaimKey) -> Option<Claim> {
    store.live(&Key::Claim(key.clone()).id()).and_then(|r| value::claim(key, r))
}

/// The claim that publishes one service port.
pub(crate) fn port_key(service: &ServiceKey, port: &ServicePort) -> ClaimKey {
    let fixed = port.publish.as_ref().and_then(|publish| {
        let first = publish.port?.first();
        Some(Fixed { first, address: publish.address })
    });
    ClaimKey::Port { service: service.clone(), protocol: port.protocol, port: port.port.first(), fixed }
}

/// Whether a claim is the one that this port asks for, or one that it may have.
fn fits(port: &ServicePort, claim: &Claim) -> bool {
    let Some(publish) = &port.publish else { return false };
    let Held::Ports { range, address, host } = claim.held else { return false };
    address == publish.address
        && host == (publish.mode == PublishMode::Host && publish.port.is_some())
        && publish.port.map_or(range.count() == port.port.count(), |fixed| fixed == range)
}
