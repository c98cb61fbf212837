//! Exchanges over TCP: membership push/pull, the last try before a suspect is down, and anti-entropy, in one.

use super::exchanges::{ANYWAY, Exchange, FIRST_GROUP, PERIOD, Role, Seed};
use super::{
    core::Node,
    io::{ExchangeId, Output, Target},
};
use crate::{
    frame::{Frame, GROUP, Hello, Welcome, batches, compare, list},
    hlc::Now,
    key::RecordId,
    member::{Identity, Member},
    model::NodeName,
};
use rand::{RngExt, seq::IteratorRandom};
use std::collections::VecDeque;

/// Between two tries of the seeds while alone.
const ALONE: u64 = 1_000;
/// How long a suspect has to answer over TCP.
const CONFIRM: u64 = 1_500;
/// How long an exchange may be silent.
const SILENCE: u64 = 10_000;
/// Exchanges that this node has begun, at most; suspects may use as many again.
const MAX_OUTGOING: usize = 8;
/// A mesh of fewer others measures them all soon.
const SMALL: usize = 12;
/// Between two exchanges because a peer holds other records, at least.
const HURRY: u64 = 1_500;
/// Exchanges that peers have begun, at most.
const MAX_INCOMING: usize = 64;
/// So many of those that see a member come up exchange with it at once.
const EAGER: usize = 16;
/// Members that came up and wait for an exchange; beyond it the periodic one serves them.
const MAX_MET: usize = 3;
/// So many bytes in answer to one listing are much: the next one covers less.
const MUCH: usize = 2 * 1024 * 1024;
/// From so many learned records on, gossip leaves passing them on to further exchanges.
const BULK: usize = 64;

impl Node {
    /// A member came up: exchange with it soon.
    pub(super) fn meet(&mut self, id: Identity) {
        // Of very many some do: a node that joins is met by about as many, whatever the size of the mesh.
        let members = self.membership.peers().alive().len();
        if members > EAGER && self.rng.random_range(0..members) >= EAGER {
            return;
        }
        let met = &mut self.exchanges.met;
        if met.len() < MAX_MET && !met.contains(&id) {
            met.push_back(id);
        }
    }

    /// Begins the exchanges that must not wait: suspects, new members, overflow of gossip.
    pub(super) fn start_exchanges(&mut self, now: Now) {
        while self.exchanges.outgoing() < 2 * MAX_OUTGOING
            && let Some(suspect) = self.membership.next_to_confirm()
        {
            self.begin(Target::Address(suspect.addr), Role::to(suspect, true), now);
        }
        if self.spread.take_overflowed() && self.exchanges.soon == 0 {
            self.exchanges.soon = 3;
            self.exchanges.periodic_at = self.exchanges.periodic_at.min(now.mono + 100);
        }
        while self.exchanges.outgoing() < MAX_OUTGOING
            && let Some(id) = self.exchanges.met.pop_front()
        {
            if self.membership.peers().alive().contains(&id) {
                self.begin(Target::Address(id.addr), Role::to(id, false), now);
            }
        }
    }

    /// Ends exchanges that take too long.
    pub(super) fn end_late_exchanges(&mut self, now: Now) {
        let running = self.exchanges.running.iter();
        let late: Vec<_> = running.filter(|(_, e)| e.deadline <= now.mono).map(|(id, _)| *id).collect();
        for id in late {
            self.fail(id, now);
        }
    }

    /// Periodic exchanges and seeds.
    pub(super) fn exchange_tick(&mut self, now: Now) {
        if self.exchanges.periodic_at <= now.mono {
            // Probes compare what both hold: while that agrees there is nothing to exchange.
            let agreed = self.measured.take_agreement() && now.mono < self.exchanges.anyway_at;
            let agreed = agreed && self.exchanges.soon == 0;
            // The distance of a member that was never dialed is worth one; in a large mesh that has time.
            let candidates = self.some_peers(SMALL);
            let unmeasured = candidates.iter().find(|peer| agreed && !self.measured.dialed(peer));
            let idle = agreed && (unmeasured.is_none() || candidates.len() == SMALL);
            let peer = unmeasured.or(candidates.first()).cloned();
            let wait = if self.exchanges.soon > 0 {
                self.exchanges.soon -= 1;
                700 + self.rng.random_range(0..600)
            } else {
                PERIOD * 9 / 10 + self.rng.random_range(0..PERIOD / 5)
            };
            self.exchanges.periodic_at = now.mono + wait;
            if !idle
                && self.exchanges.outgoing() < MAX_OUTGOING
                && let Some(peer) = peer
            {
                self.exchanges.anyway_at = now.mono + ANYWAY * 9 / 10 + self.rng.random_range(0..ANYWAY / 5);
                self.begin(Target::Address(peer.addr), Role::to(peer, false), now);
            }
        }
        if self.exchanges.seed_at <= now.mono {
            let alone = self.membership.peers().alive().is_empty();
            let most = if alone { ALONE } else { PERIOD };
            self.exchanges.seed_at = now.mono + self.rng.random_range(most / 2..most);
            self.try_seed(now);
            let answered = |seed: &Seed| seed.answered.as_ref().is_some_and(|n| self.is_me_or_up(n));
            if alone || !self.exchanges.seeds.iter().any(answered) {
                self.try_remembered(now);
            }
        }
    }

    fn is_me_or_up(&self, name: &NodeName) -> bool {
        *name == self.config.name || self.membership.peers().is_up(name)
    }

    /// Tries one of those that were up once and are not: the seeds may be gone for good, and the failure detector asks
    /// rarely, and only while it knows somebody.
    fn try_remembered(&mut self, now: Now) {
        let peers = self.membership.peers();
        let known = peers.names().filter(|name| !peers.is_up(name)).filter_map(|name| peers.latest(name));
        if let Some(addr) = known.map(|(id, _)| id.addr).choose(&mut self.rng)
            && self.exchanges.outgoing() < MAX_OUTGOING
        {
            let role =
                Role::Initiator { to: None, seed: None, confirm: None, todo: None, group: FIRST_GROUP };
            self.begin(Target::Address(addr), role, now);
        }
    }

    /// Exchanges with a member that holds other records, every few seconds at most.
    pub(super) fn hurry(&mut self, peer: Identity, now: Now) {
        if self.exchanges.hurry_at <= now.mono {
            self.exchanges.hurry_at = now.mono + HURRY + self.rng.random_range(0..HURRY);
            self.meet(peer);
        }
    }

    /// Tries the next seed whose node is not up. Seeds are tried for ever: this is how a partition heals.
    fn try_seed(&mut self, now: Now) {
        let count = self.exchanges.seeds.len();
        for step in 0..count {
            let index = (self.exchanges.next_seed + step) % count;
            let seed = &self.exchanges.seeds[index];
            let there = seed.answered.as_ref().is_some_and(|n| self.is_me_or_up(n));
            if !there && self.exchanges.outgoing() < MAX_OUTGOING {
                self.exchanges.next_seed = index + 1;
                let role = Role::Initiator {
                    to: None,
                    seed: Some(index),
                    confirm: None,
                    todo: None,
                    group: FIRST_GROUP,
                };
                self.begin(Target::Seed(seed.text.clone()), role, now);
                return;
            }
        }
    }

    pub(super) fn begin(&mut self, target: Target, role: Role, now: Now) {
        let id = ExchangeId(self.exchanges.next);
        self.exchanges.next += 1;
        let short = matches!(role, Role::Initiator { confirm: Some(_), .. } | Role::Asking { .. });
        let deadline = now.mono + if short { CONFIRM } else { SILENCE };
        self.exchanges.running.insert(id, Exchange { role, deadline, learned: 0, arrived: 0 });
        self.out.push(Output::Open(id, target));
    }

    pub(super) fn accepted(&mut self, id: ExchangeId, now: Now) {
        let incoming = self.exchanges.running.len() - self.exchanges.outgoing();
        if incoming >= MAX_INCOMING {
            self.refuse("too many exchanges");
            self.out.push(Output::Close(id));
            return;
        }
        let role = Role::Responder { greeted: false };
        self.exchanges
            .running
            .insert(id, Exchange { role, deadline: now.mono + SILENCE, learned: 0, arrived: 0 });
    }

    pub(super) fn opened(&mut self, id: ExchangeId, rtt: u32, now: Now) {
        let from = self.membership.me().clone();
        let to = match self.exchanges.running.get(&id).map(|exchange| &exchange.role) {
            Some(Role::Initiator { to, .. }) => to.clone(),
            Some(Role::Asking { .. }) => {
                let who = Frame::Who(from, self.names.run);
                return self.out.push(Output::Frame(id, who.encode()));
            }
            _ => return self.out.push(Output::Close(id)),
        };
        let mut members = vec![Member::alive(from.clone())];
        let mut message = Vec::new();
        if let Some(to) = &to {
            self.took(&to.name, rtt);
            // A suspect learns of the suspicion and refutes it in its answer.
            members.extend(self.membership.suspicion(to));
            message = self.membership.announcement(to);
        }
        let (root, known) = (self.store.root(), self.membership.hash());
        let hello = Hello { from, to: to.map(|id| id.name), members, message, root, known, wall: now.wall };
        self.out.push(Output::Frame(id, Frame::Hello(Box::new(hello)).encode()));
    }

    pub(super) fn frame(&mut self, id: ExchangeId, bytes: &[u8], now: Now) {
        let Some(exchange) = self.exchanges.running.get_mut(&id) else {
            self.out.push(Output::Close(id));
            return;
        };
        exchange.deadline = exchange.deadline.max(now.mono + SILENCE);
        exchange.arrived = exchange.arrived.saturating_add(bytes.len());
        let Ok(frame) = Frame::decode(bytes) else {
            self.refuse("bad frame");
            return self.fail(id, now);
        };
        if matches!(frame, Frame::Unknown) {
            return self.refuse("unknown message");
        }
        if self.question(id, &frame, now) {
            return;
        }
        if self.names.silenced().is_some() {
            return self.fail(id, now);
        }
        let Some(exchange) = self.exchanges.running.get(&id) else { return };
        let initiator = matches!(exchange.role, Role::Initiator { .. });
        let greeted = match &exchange.role {
            Role::Initiator { todo, .. } => todo.is_some(),
            Role::Responder { greeted } => *greeted,
            Role::Asking { .. } => false,
        };
        match (frame, initiator, greeted) {
            (Frame::Hello(hello), false, false) => self.hello(id, *hello, now),
            (Frame::Welcome(welcome), true, false) => self.welcome(id, *welcome, now),
            (Frame::Members(members), false, true) => self.membership.apply(members, now.mono),
            (Frame::Listing(lists), false, true) => {
                let (give, want) = compare(&self.store, lists);
                let records = batches(give).into_iter().map(|f| f.encode());
                let frames = records.chain([Frame::Want(want).encode()]);
                self.out.extend(frames.map(|bytes| Output::Frame(id, bytes)));
            }
            (Frame::Want(keys), true, true) => {
                let store = &self.store;
                let ids = keys.into_iter().map(|(kind, key)| RecordId { kind, key: key.into() });
                let records = ids.filter_map(|id| store.get(&id).cloned()).collect();
                self.out.extend(batches(records).into_iter().map(|f| Output::Frame(id, f.encode())));
                self.next_listing(id, now);
            }
            (Frame::Records(records), _, true) => {
                let few = records.len() <= BULK;
                let mut learned = 0;
                for record in records {
                    learned += usize::from(self.absorb(record, now, few));
                }
                if let Some(exchange) = self.exchanges.running.get_mut(&id) {
                    exchange.learned += learned;
                }
            }
            (Frame::Done, false, true) => self.succeed(id, now),
            _ => {
                self.refuse("frame out of turn");
                self.fail(id, now);
            }
        }
    }

    fn hello(&mut self, id: ExchangeId, hello: Hello, now: Now) {
        if hello.to.as_ref().is_some_and(|to| *to != self.config.name) {
            self.refuse("meant for another node");
            return self.fail(id, now);
        }
        let theirs = hello.from.clone();
        self.membership.apply(hello.members, now.mono);
        self.heard(&theirs.name, hello.wall, now);
        let message = if hello.message.is_empty() || theirs.addr == self.config.addr {
            None
        } else {
            self.membership.receive_over_tcp(&hello.message, &theirs, now.mono)
        };
        let buckets = (hello.root != self.store.root()).then(|| self.store.bucket_hashes());
        let equal = buckets.is_none();
        let welcome = Welcome {
            from: self.membership.me().clone(),
            members: if hello.known == self.membership.hash() { Vec::new() } else { self.membership.state() },
            message: message.unwrap_or_default(),
            buckets,
            wall: now.wall,
        };
        self.out.push(Output::Frame(id, Frame::Welcome(Box::new(welcome)).encode()));
        if let Some(Exchange { role: Role::Responder { greeted }, .. }) = self.exchanges.running.get_mut(&id)
        {
            *greeted = true;
        }
        if equal && theirs.name != self.config.name {
            self.set_synced(now);
        }
    }

    fn welcome(&mut self, id: ExchangeId, welcome: Welcome, now: Now) {
        let Welcome { from, members, message, buckets, wall } = welcome;
        if !members.is_empty() {
            // Who is up is not agreed on.
            self.out.push(Output::Frame(id, Frame::Members(self.membership.state()).encode()));
            self.membership.apply(members, now.mono);
        }
        self.heard(&from.name, wall, now);
        if !message.is_empty() {
            self.membership.receive(&message, now.mono);
        }
        let mine = self.store.bucket_hashes();
        let differing = buckets.into_iter().flatten().zip(mine).enumerate().filter(|(_, (a, b))| a != b);
        let differing: VecDeque<u8> = differing.filter_map(|(i, _)| u8::try_from(i).ok()).collect();
        let Some(Exchange { role: Role::Initiator { seed, confirm, todo, .. }, .. }) =
            self.exchanges.running.get_mut(&id)
        else {
            return;
        };
        *todo = Some(differing);
        let (seed, confirm) = (*seed, confirm.take());
        if let Some(seed) = seed.and_then(|i| self.exchanges.seeds.get_mut(i)) {
            seed.answered = Some(from.name.clone());
        }
        if let Some(addr) = confirm {
            self.membership.confirmed(addr, true, now.mono);
        }
        if from == *self.membership.me() {
            // A seed that is this node itself.
            return self.finish(id);
        }
        self.next_listing(id, now);
    }

    /// Lists the next buckets that differ, or ends the exchange.
    fn next_listing(&mut self, id: ExchangeId, now: Now) {
        let Some(Exchange { role: Role::Initiator { todo: Some(todo), group, .. }, arrived, .. }) =
            self.exchanges.running.get_mut(&id)
        else {
            return;
        };
        if todo.is_empty() {
            self.out.push(Output::Frame(id, Frame::Done.encode()));
            return self.succeed(id, now);
        }
        *group = match std::mem::take(arrived) {
            much if much > MUCH => (*group / 2).max(1),
            little if little < MUCH / 4 => (*group * 2).min(GROUP),
            _ => *group,
        };
        let lists = list(&self.store, todo, *group);
        self.out.push(Output::Frame(id, Frame::Listing(lists).encode()));
    }

    fn succeed(&mut self, id: ExchangeId, now: Now) {
        let learned = self.exchanges.running.get(&id).map_or(0, |e| e.learned);
        if learned >= BULK {
            // Others lack it too: find them sooner than the period.
            self.exchanges.soon = self.exchanges.soon.max(1);
            let soon = now.mono + 700 + self.rng.random_range(0..600);
            self.exchanges.periodic_at = self.exchanges.periodic_at.min(soon);
        }
        self.set_synced(now);
        self.exchanges.done += 1;
        self.finish(id);
    }

    pub(super) fn finish(&mut self, id: ExchangeId) {
        if self.exchanges.running.remove(&id).is_some() {
            self.out.push(Output::Close(id));
        }
    }

    fn fail(&mut self, id: ExchangeId, now: Now) {
        self.out.push(Output::Close(id));
        self.closed(id, now);
    }

    pub(super) fn closed(&mut self, id: ExchangeId, now: Now) {
        let Some(exchange) = self.exchanges.running.remove(&id) else { return };
        if let Role::Asking { place } = exchange.role {
            self.unanswered(place, now);
        }
        if let Role::Initiator { confirm, .. } = exchange.role {
            self.exchanges.done += 1;
            self.exchanges.failed += 1;
            if let Some(addr) = confirm {
                self.membership.confirmed(addr, false, now.mono);
            }
        }
    }
}
