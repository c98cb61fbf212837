//! This node's own overlay subnets: sync, claim, wait, use.
//!
//! A subnet that endpoints live in is expensive to move. So a node claims only after it heard from the mesh (else it
//! would not know its own older claim, nor those of others), and uses a new claim only when it was held undisputed for
//! a while. What it uses it keeps as long as no older claim of another node turns up, which only a partition can hide.
//! Tests: `node/tests/subnets.rs`, `tests/subnets.rs`.

use super::core::Node;
use crate::{
    claim::{Claim, ClaimKey, Held},
    hlc::Now,
    key::{Key, RecordId},
    model::Family,
    subnets::OverlayNetwork,
    value,
};
/// How long a new claim is held before it is used, in milliseconds: well beyond the time in which news reaches all of a
/// large mesh.
const SETTLE: u64 = 3_000;
/// Between two claims, in milliseconds, so that news can arrive in between.
const ROUND: u64 = 1_000;
/// Between two looks for a free subnet when there is none, in milliseconds.
const FULL: u64 = 60_000;

impl Node {
    /// Claims the subnets that this node lacks, and lets it use those that it held long enough.
    pub(super) fn subnet_tick(&mut self, now: Now) {
        let mut usable = Vec::new();
        for family in [Family::V4, Family::V6] {
            let key = ClaimKey::Subnet { node: self.config.name.clone(), family };
            let id = Key::Claim(key.clone()).id();
            let Some(overlay) = self.config.overlay.iter().copied().find(|o| o.family() == family) else {
                self.give_up(id, now);
                continue;
            };
            let me = self.view.snapshot().nodes.get(&self.config.name);
            let held = me.and_then(|me| me.subnets.iter().copied().find(|s| overlay.suits(*s)));
            let Some(subnet) = held else {
                self.claim_subnet(&key, &overlay, now);
                continue;
            };
            let claimed = self.own_subnets.claimed.get(&family);
            if claimed.is_none_or(|at| now.mono >= at + SETTLE) && self.may_claim(now) {
                usable.push(subnet);
                // From here on it is defended against claims of earlier runs that turn up late.
                let value = self.store.live(&id).map(|record| record.value.clone());
                self.desired.entry(id).or_insert(value);
            }
        }
        self.view.set_own_subnets(usable);
    }

    /// Frees what this node claimed while it was configured with an overlay.
    fn give_up(&mut self, id: RecordId, now: Now) {
        let Some(record) = self.store.live(&id).filter(|_| self.joined()) else { return };
        let value = record.value.clone();
        self.desired.remove(&id);
        self.write(id, true, value, now);
        self.refresh(now);
    }

    fn claim_subnet(&mut self, key: &ClaimKey, overlay: &OverlayNetwork, now: Now) {
        let family = overlay.family();
        let wait = self.own_subnets.next_try.get(&family).is_some_and(|at| now.mono < *at);
        if wait || !self.joined() {
            return;
        }
        let id = Key::Claim(key.clone()).id();
        let before = self.store.get(&id).and_then(|record| value::claim(key, record));
        let preferred = before.and_then(|claim| match claim.held {
            Held::Subnet(subnet) => Some(subnet),
            _ => None,
        });
        let subnets = self.view.subnets();
        let Some(subnet) = subnets.free(&self.config.name, overlay, preferred) else {
            tracing::warn!(network = %overlay.network, "no subnet is free: widen overlay.cidr");
            self.own_subnets.next_try.insert(family, now.mono + FULL);
            return;
        };
        let stamp = self.clock.tick(now.wall, subnets.newest_rival(&self.config.name, subnet));
        tracing::info!(%subnet, before = ?preferred.map(|s| s.to_string()), "this node claims an overlay subnet");
        let claim = Claim { generation: Claim::NEWEST, stamp, held: Held::Subnet(subnet) };
        self.desired.remove(&id);
        self.write(id, false, claim.encode().into(), now);
        self.own_subnets.claimed.insert(family, now.mono);
        self.own_subnets.next_try.insert(family, now.mono + ROUND);
        self.refresh(now);
    }
}
