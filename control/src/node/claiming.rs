//! Who claims, and when.
//!
//! The node that declares a service claims for it at once, unless a claim is known. Whatever is lacking later (the
//! declaring node died, a claim lost its address when a partition healed) is claimed after a while by one node: the
//! first of the live declaring nodes, then of all live nodes, by name; each further round one more of them may, so
//! that views that differ delay a claim and do not prevent it.

use super::core::Node;
use crate::{
    claim::{Claim, ClaimKey, Held},
    claims::network_of,
    hlc::{Hlc, Now},
    key::{self, Key},
    model::{EndpointMode, NodeName, Origin, PublishMode, ServiceKey, ServiceSpec},
    store::{BUCKETS, TOMBSTONE_LIFE},
    value,
    view::{Declared, Need, port_key},
};
use rand::RngExt;
use std::collections::BTreeSet;

/// Between two tries, in milliseconds, so that news can arrive in between.
const ROUND: u64 = 1_000;
/// How long a node that should join others waits for them before it claims alone.
const GRACE: u64 = 5_000;

impl Node {
    /// Whether this node knows enough to claim.
    pub(super) fn may_claim(&self, now: Now) -> bool {
        self.joined() || now.mono >= self.started + GRACE
    }

    /// A first exchange is through: what is lacking may be claimed now.
    pub(super) fn set_synced(&mut self, now: Now) {
        self.measured.in_sync = Some(now.mono);
        if !self.synced {
            self.synced = true;
            for (due, _) in self.unmet.values_mut() {
                *due = now.mono;
            }
        }
    }

    /// Claims for a service that this node just declared; `before` is its mode so far, absent when nobody declared it.
    pub(super) fn claim_for_declaration(
        &mut self,
        service: &ServiceKey,
        before: Option<EndpointMode>,
        now: Now,
    ) {
        if !self.may_claim(now) {
            return;
        }
        let Some(Declared { spec, .. }) = self.view.declared(service, &self.store) else { return };
        // A service that comes back keeps its address if it still can, but its claim counts from now: it must not push
        // out who took the address meanwhile. Likewise one that wants an address again.
        let anew = |need: &Need| match before {
            None => true,
            Some(mode) => mode == EndpointMode::Dnsrr && matches!(need, Need::Address(_)),
        };
        let lacking = self.view.needs(service, &spec, &self.store);
        let mut needs = self.view.everything(&spec);
        needs.retain(|need| anew(need) || lacking.contains(need));
        self.claim(service, needs, now);
        self.refresh(now);
    }

    /// Notes whether a service lacks a claim.
    pub(super) fn look_at_claims(&mut self, service: &ServiceKey, now: Now) {
        let declared = self.view.snapshot().services.get(service);
        let lacking = declared.is_some_and(|d| !self.view.needs(service, &d.spec, &self.store).is_empty());
        if !lacking {
            self.unmet.remove(service);
        } else if !self.unmet.contains_key(service) {
            let due = now.mono + ROUND + self.rng.random_range(0..ROUND / 4);
            self.unmet.insert(service.clone(), (due, 0));
        }
    }

    /// Claims what is due.
    pub(super) fn claim_tick(&mut self, now: Now) {
        if self.unmet.is_empty() || !self.may_claim(now) {
            return;
        }
        let due: Vec<_> = self
            .unmet
            .iter()
            .filter(|(_, (at, _))| *at <= now.mono)
            .map(|(s, (_, n))| (s.clone(), *n))
            .collect();
        for (service, round) in due {
            let Some(declared) = self.view.declared(&service, &self.store) else {
                self.unmet.remove(&service);
                continue;
            };
            let needs = self.view.needs(&service, &declared.spec, &self.store);
            if needs.is_empty() {
                self.unmet.remove(&service);
                continue;
            }
            if self.my_turn(&declared, round) {
                self.claim(&service, needs, now);
            }
            // Tried in vain (the range is full): less and less often.
            let wait = ROUND << round.min(5);
            self.unmet.insert(service, (now.mono + wait, round + 1));
        }
        self.refresh(now);
    }

    fn my_turn(&self, declared: &Declared, round: usize) -> bool {
        let me = &self.config.name;
        let up = |name: &NodeName| name == me || self.membership.peers().is_up(name);
        let declaring: BTreeSet<&NodeName> = declared
            .origins
            .iter()
            .map(|(origin, writer)| match origin {
                Origin::Node(node) => node,
                Origin::Cluster => &writer.node,
            })
            .filter(|name| up(name))
            .collect();
        let before_me = declaring.iter().filter(|name| **name < me).count();
        if declaring.contains(me) {
            return before_me <= round;
        }
        let others =
            self.membership.peers().names().filter(|n| *n < me && up(n) && !declaring.contains(n)).count();
        declaring.len() + others <= round
    }

    fn claim(&mut self, service: &ServiceKey, needs: Vec<Need>, now: Now) {
        let Some(Declared { spec, .. }) = self.view.declared(service, &self.store) else { return };
        for need in needs {
            let Some(key) = need_key(service, &need, &spec) else { continue };
            let id = Key::Claim(key.clone()).id();
            let record = self.store.get(&id);
            let before = record.and_then(|r| Claim::decode(&r.value));
            let held = match &need {
                Need::Address(family) => {
                    let usable = record.and_then(|r| value::claim(&key, r));
                    let preferred = usable.and_then(|claim| match claim.held {
                        Held::Address(address) => Some(address),
                        _ => None,
                    });
                    let network = network_of(&self.config.vip_cidrs, *family);
                    if let (Some(address), Some(network)) = (preferred, network)
                        && !network.contains(address)
                    {
                        tracing::info!(%service, %address, %network, "claimed anew: outside vip_cidr");
                    }
                    network
                        .and_then(|network| self.view.claims().free_address(service, network, preferred))
                        .map(Held::Address)
                }
                Need::Ports(index) => spec.ports.get(*index).and_then(|port| {
                    let publish = port.publish.as_ref()?;
                    let range = match publish.port {
                        Some(fixed) => Some(fixed),
                        None => {
                            self.view.claims().free_ports(&key, port.port.count(), self.config.dynamic_ports)
                        }
                    };
                    let host = publish.mode == PublishMode::Host && publish.port.is_some();
                    Some(Held::Ports { range: range?, address: publish.address, host })
                }),
            };
            let Some(held) = held else {
                tracing::warn!(%service, ?need, "nothing free to claim: widen vip_cidr or dynamic_ports");
                // What it had before it went belongs to another by now: the old claim must not take it back.
                let lost = record.filter(|r| !r.deleted).and_then(|r| Some((r, before?)));
                if let Some((record, before)) = lost
                    && self.view.claims().newest_rival(&key, before.held) > Hlc::default()
                {
                    let value = record.value.clone();
                    self.write(id, true, value, now);
                    self.refresh(now);
                }
                continue;
            };
            // An earlier holder is known: a clock that is behind (or was ahead, the holder's) must not push it out.
            let stamp = self.clock.tick(now.wall, self.view.claims().newest_rival(&key, held));
            let generation = before.map_or(0, |claim| claim.generation.saturating_add(1));
            self.write(id, false, Claim { generation, stamp, held }.encode().into(), now);
            // The next need must see this one.
            self.refresh(now);
        }
    }

    /// Deletes claims that nobody wants any more: those of services that nobody declares and whose tombstones are
    /// gone, and those of nodes that left a day ago. What they hold is free once the claims' own tombstones end. One
    /// node does: the first live one by name. A call looks at one 32nd of the store.
    pub(super) fn collect_orphans(&mut self, now: Now) {
        let me = &self.config.name;
        let peers = self.membership.peers();
        if !self.joined() || peers.names().any(|name| name < me && peers.is_up(name)) {
            return;
        }
        let old = Hlc::from_millis(now.wall.saturating_sub(TOMBSTONE_LIFE));
        let buckets = self.orphan_bucket..self.orphan_bucket + BUCKETS / 32;
        self.orphan_bucket = buckets.end % BUCKETS;
        let orphans: Vec<_> = buckets
            .flat_map(|bucket| self.store.bucket(bucket))
            .filter(|r| r.id.kind == key::CLAIM && !r.deleted && r.version < old)
            .filter(|r| match Key::of(&r.id) {
                Some(Key::Claim(claim)) => !self.is_wanted(&claim),
                _ => false,
            })
            .map(|r| (r.id.clone(), r.value.clone()))
            .collect();
        for (id, value) in orphans {
            self.write(id, true, value, now);
        }
    }

    fn is_wanted(&self, claim: &ClaimKey) -> bool {
        let service = match claim {
            ClaimKey::Vip { service, .. } | ClaimKey::Port { service, .. } => service,
            // A node's record stays while it is down, and a day after it left.
            ClaimKey::Subnet { node, .. } => {
                let known = self.store.get(&Key::Node(node.clone()).id()).is_some();
                return known || self.membership.peers().is_up(node);
            }
        };
        match self.view.declared(service, &self.store) {
            Some(declared) => match claim {
                ClaimKey::Vip { .. } => declared.spec.endpoint_mode == EndpointMode::Vip,
                _ => {
                    declared.spec.ports.iter().any(|p| p.publish.is_some() && port_key(service, p) == *claim)
                }
            },
            // Withdrawn less than a tombstone's life ago by somebody: it may come back.
            None => {
                let nodes = self.view.snapshot().nodes.keys();
                let origins = nodes.map(|n| Origin::Node(n.clone())).chain([Origin::Cluster]);
                origins.into_iter().any(|o| self.store.get(&Key::Service(service.clone(), o).id()).is_some())
            }
        }
    }
}

fn need_key(service: &ServiceKey, need: &Need, spec: &ServiceSpec) -> Option<ClaimKey> {
    match need {
        Need::Address(family) => Some(ClaimKey::Vip { service: service.clone(), family: *family }),
        Need::Ports(index) => spec.ports.get(*index).map(|port| port_key(service, port)),
    }
}
