//! Two nodes with one name or one advertised address: the later one keeps silent until the other is gone.
//!
//! Seeing another run under this node's name or address proves nothing: it may be the ghost of an earlier run, or the
//! place where this node was before. So the run is *asked* over TCP, at the address in question (`Who`):
//! - Nobody answers, or this very process, or a node of another name at another address: a ghost, or a rename.
//! - A run of this name at its own address: two nodes with one name. The greater (epoch, address) keeps silent.
//! - Another process at this node's own advertised address: that one is reached there, so this one keeps silent.
//!
//! A silent node leaves, withdraws what it wrote, serves what it knew, and asks every [`ASK`] until nobody answers to
//! its name any more and no seed knows such a node to be up; then it joins again and says what its sources say.

use super::{
    core::Node,
    exchanges::{Exchange, Role},
    io::{ExchangeId, Output, Target},
    names::Silence,
};
use crate::{
    frame::{Frame, IAm},
    hlc::Now,
    key::RecordId,
    member::Identity,
    membership::Membership,
    model::NodeName,
    record::Writer,
};
use rand::RngExt;
use std::{net::SocketAddr, sync::Arc};

/// Between two questions to one address, in milliseconds.
const ASK: u64 = 10_000;
/// Questions in a row without an answer after which the other is gone.
const GONE: u8 = 3;
/// Rivals, doubled names and addresses to ask that are remembered.
const MAX_NAMES: usize = 64;
/// How long a rival is shown after it was last heard of.
const SHOWN: u64 = 60_000;
/// How long others may have one name before it is an error: a restart at another address looks like that.
const NAMESAKES: u64 = 15_000;

impl Node {
    /// Asks rivals, forgets what is over, and names others' doubles. Costs little while there are none.
    pub(super) fn look_at_names(&mut self, now: Now) {
        self.names.asked.retain(|_, at| *at > now.mono);
        self.names.rivals.retain(|_, (_, until)| *until > now.mono);
        if self.names.silence.is_some() {
            return self.ask_while_silent(now);
        }
        let namesakes = self.membership.peers().namesakes(&self.config.name);
        let places: Vec<SocketAddr> = namesakes.into_iter().map(|id| id.addr).collect();
        for place in places {
            self.ask(place, now);
        }
        let peers = self.membership.peers();
        self.names.doubled.retain(|name, _| peers.doubled().contains(name));
        for name in peers.doubled().iter().take(MAX_NAMES) {
            let (since, told) = self.names.doubled.entry(name.clone()).or_insert((now.mono, None));
            if told.is_none() && now.mono - *since >= NAMESAKES {
                let addresses: Vec<_> = peers.namesakes(name).iter().map(|id| id.addr.to_string()).collect();
                let addresses = addresses.join(" and ");
                tracing::error!(node = %name, %addresses, "two nodes have one name: rename one and restart it");
                *told =
                    Some(format!("two nodes are named {name}, at {addresses}: rename one and restart it"));
            }
        }
    }

    /// Asks who is at `place`, unless that was done lately.
    pub(super) fn ask(&mut self, place: SocketAddr, now: Now) {
        if self.names.asked.len() < MAX_NAMES && !self.names.asked.contains_key(&place) {
            self.names.asked.insert(place, now.mono + ASK);
            self.begin(Target::Address(place), Role::Asking { place: Some(place) }, now);
        }
    }

    fn ask_while_silent(&mut self, now: Now) {
        let Some(silence) = &mut self.names.silence else { return };
        if silence.ask_at > now.mono {
            return;
        }
        silence.ask_at = now.mono + ASK + self.rng.random_range(0..ASK / 5);
        let place = silence.place;
        self.begin(Target::Address(place), Role::Asking { place: Some(place) }, now);
        let seeds = &self.exchanges.seeds;
        if let Some(seed) = seeds.get(self.exchanges.next_seed % seeds.len().max(1)) {
            let seed = Target::Seed(seed.text.clone());
            self.exchanges.next_seed += 1;
            self.begin(seed, Role::Asking { place: None }, now);
        }
    }

    /// Answers who this is. Whoever asks under this node's name or address lives.
    pub(super) fn who(&mut self, id: ExchangeId, asker: &Identity, run: u64, now: Now) {
        let me = self.membership.me().clone();
        if run != self.names.run && (asker.addr == me.addr || asker.name == me.name) {
            self.name_rival(asker, now);
            if asker.addr == me.addr && self.names.silence.is_none() {
                // It was reached here, so this node is the one at the address.
                self.membership.outbid(asker.epoch, now.mono);
            }
        }
        let up =
            self.membership.peers().latest(&asker.name).filter(|(run, up)| *up && run.addr != asker.addr);
        let silent = self.names.silence.is_some();
        // Who keeps silent has not heard for a while.
        let namesake = up.filter(|_| !silent).map(|(run, _)| run.clone());
        let answer = IAm { from: me, run: self.names.run, silent, namesake };
        self.out.push(Output::Frame(id, Frame::IAm(Box::new(answer)).encode()));
    }

    /// Takes the answer of whoever is at `place`, or of a seed.
    pub(super) fn answered(&mut self, place: Option<SocketAddr>, answer: IAm, now: Now) {
        let me = self.membership.me().clone();
        let IAm { from, run, silent, namesake } = answer;
        let itself = run == self.names.run;
        let later = (me.epoch, me.addr) > (from.epoch, from.addr);
        let Some(silence) = &mut self.names.silence else {
            let Some(place) = place.filter(|_| !itself) else { return };
            if place == me.addr || (from.name == me.name && !silent) {
                self.name_rival(&from, now);
                if place == me.addr || later {
                    self.fall_silent(from, place, now);
                }
            }
            return;
        };
        let shared = silence.place == me.addr;
        if let Some(run) = namesake.filter(|run| run.addr != me.addr && !shared) {
            // It went elsewhere, or is only not reached from here.
            (silence.place, silence.unanswered) = (run.addr, 0);
        }
        if place != Some(silence.place) {
            return;
        }
        let yields = silent && !later && from.name == me.name && !shared;
        if itself || yields || (from.name != me.name && !shared) {
            self.speak_again(now);
        } else {
            silence.unanswered = 0;
            self.name_rival(&from, now);
        }
    }

    /// Nobody answered.
    pub(super) fn unanswered(&mut self, place: Option<SocketAddr>, now: Now) {
        let own = self.membership.me().addr;
        let Some(silence) = &mut self.names.silence else { return };
        // Who was never reached at its own address takes nothing over there.
        if place == Some(silence.place) && silence.place != own {
            silence.unanswered += 1;
            if silence.unanswered >= GONE {
                self.speak_again(now);
            }
        }
    }

    fn name_rival(&mut self, rival: &Identity, now: Now) {
        let me = self.membership.me();
        let what = if rival.name == me.name {
            format!(
                "two nodes are named {}, at {} and {}: rename one and restart it",
                me.name, me.addr, rival.addr
            )
        } else {
            let (a, b) = (&me.name, &rival.name);
            format!("{a} and {b} both advertise {}: give one its own `cluster.advertise`", me.addr)
        };
        let until = now.mono + SHOWN;
        let rivals = &mut self.names.rivals;
        let told = rivals.get(&rival.name).is_some_and(|(known, _)| *known == what);
        if !told && (rivals.len() < MAX_NAMES || rivals.contains_key(&rival.name)) {
            tracing::error!(node = %rival.name, address = %rival.addr, "{what}");
            rivals.insert(rival.name.clone(), (what, until));
        } else if let Some((_, shown)) = rivals.get_mut(&rival.name) {
            *shown = until;
        }
    }

    fn fall_silent(&mut self, rival: Identity, place: SocketAddr, now: Now) {
        let why = self.names.trouble(&rival.name).unwrap_or_default();
        tracing::error!(rival = %rival.name, "this node came later, so it keeps silent until the other is gone: {why}");
        // What this run wrote is withdrawn; the other says again what is its own.
        let mine: Vec<RecordId> = self.desired.keys().cloned().collect();
        for id in mine {
            if let Some(record) = self.store.get(&id).filter(|r| !r.deleted && r.writer == self.writer) {
                let value = Arc::clone(&record.value);
                self.write(id, true, value, now);
            }
        }
        self.say_goodbye(now);
        self.spread = crate::gossip::Spread::default();
        self.gossip_at = None;
        self.exchanges.met.clear();
        for (id, _) in std::mem::take(&mut self.exchanges.running) {
            self.out.push(Output::Close(id));
        }
        let ask_at = now.mono + ASK;
        self.names.silence = Some(Silence { why, rival, place, ask_at, unanswered: 0 });
    }

    fn speak_again(&mut self, now: Now) {
        let Some(silence) = self.names.silence.take() else { return };
        tracing::info!(rival = %silence.rival.name, "the other is gone: this node joins again");
        self.names.rivals.remove(&silence.rival.name);
        let me = self.membership.me();
        let epoch = now.wall.max(me.epoch.saturating_add(1)).max(silence.rival.epoch.saturating_add(1));
        let renewed = Identity { epoch, ..me.clone() };
        let known: Vec<NodeName> = self.membership.peers().names().cloned().collect();
        self.membership = Membership::new(renewed, self.rng.random());
        known.into_iter().for_each(|name| self.view.node_changed(name));
        for seed in &mut self.exchanges.seeds {
            seed.answered = None;
        }
        self.exchanges.seed_at = now.mono;
        self.reclaim(now);
    }

    /// Says again what this node's sources say, where its records say otherwise: another run wrote there.
    pub(super) fn reclaim(&mut self, now: Now) {
        let desired: Vec<_> = self.desired.iter().map(|(id, want)| (id.clone(), want.clone())).collect();
        for (id, want) in desired {
            let Some(record) = self.store.get(&id) else { continue };
            if want.as_ref() == (!record.deleted).then_some(&record.value) {
                continue;
            }
            if record.writer.boot > self.writer.boot {
                let boot = record.writer.boot.saturating_add(1);
                self.writer = Arc::new(Writer { node: self.config.name.clone(), boot });
            }
            self.write(id, want.is_none(), want.unwrap_or_default(), now);
        }
    }

    /// Frames that a node which keeps silent still takes; whether it was one.
    pub(super) fn question(&mut self, id: ExchangeId, frame: &Frame, now: Now) -> bool {
        let role = self.exchanges.running.get(&id).map(|Exchange { role, .. }| role);
        match (role, frame) {
            (Some(Role::Responder { greeted: false }), Frame::Who(asker, run)) => {
                self.who(id, asker, *run, now);
            }
            (Some(Role::Asking { place }), Frame::IAm(answer)) => {
                let place = *place;
                self.finish(id);
                self.answered(place, (**answer).clone(), now);
            }
            _ => return false,
        }
        true
    }
}
