//! Datagrams: what comes in, and what goes out to whom.

use super::io::Tag;
use super::{core::Node, io::Output};
use crate::{
    gossip::{self, Spread},
    hlc::Now,
    key::Key,
    member::Identity,
    packet::Refused,
    probe::{self, Probe},
    record::Record,
};
use rand::seq::IndexedRandom;
use std::{net::SocketAddr, sync::Arc};

/// Members that a leaving node tells itself; the others hear it from them.
const GOODBYES: usize = 64;

impl Node {
    /// Says good-bye to the mesh and falls silent; the outputs are the last ones.
    pub fn leave(&mut self, now: Now) -> Vec<Output> {
        if self.gone {
            return Vec::new();
        }
        if self.names.silenced().is_none() {
            self.say_goodbye(now);
        }
        self.gone = true;
        std::mem::take(&mut self.out)
    }

    pub(super) fn say_goodbye(&mut self, now: Now) {
        let id = Key::Node(self.config.name.clone()).id();
        if let Some(record) = self.store.get(&id).filter(|record| !record.deleted) {
            // The tombstone keeps what the node said, for the tables of the others.
            let value = Arc::clone(&record.value);
            self.write(id, true, value, now);
        }
        let bodies = self.spread.round(&self.store, gossip::FANOUT, self.membership.peers().alive().len());
        let goodbye = postcard::to_stdvec(self.membership.me()).unwrap_or_default();
        for peer in self.some_peers(GOODBYES) {
            for body in &bodies {
                self.send(&peer, Tag::Records, body);
            }
            self.send(&peer, Tag::Goodbye, &goodbye);
        }
        self.membership.leave(now.mono);
        for (to, message) in self.membership.take_effects().sends {
            self.send(&to, Tag::Membership, &message);
        }
    }

    pub(super) fn datagram(&mut self, from: SocketAddr, packet: &mut [u8], now: Now) {
        self.udp_received.0 += 1;
        self.udp_received.1 += packet.len() as u64;
        let body = match self.opener.open(packet) {
            Ok(body) => body.to_vec(),
            Err(reason) => {
                if reason != Refused::Replayed {
                    self.said.refused(from.ip(), "datagram", reason.as_str());
                }
                return self.refuse(reason.as_str());
            }
        };
        let Some((tag, body)) = body.split_first() else { return self.refuse("malformed") };
        self.membership.heard(now.mono);
        match *tag {
            tag if tag == Tag::Membership as u8 => {
                if let Some((from, to)) = probe::ends(body)
                    && to == *self.membership.me()
                {
                    self.addressed(&from);
                }
                self.membership.receive(body, now.mono);
            }
            tag if tag == Tag::Ping as u8 || tag == Tag::Ack as u8 => {
                match Probe::decode(body, tag == Tag::Ack as u8) {
                    Some((probe, updates)) => self.probed(probe, updates, now),
                    None => self.refuse("malformed"),
                }
            }
            tag if tag == Tag::Records as u8 => match Record::decode_all(body) {
                Ok(records) => records.into_iter().for_each(|record| {
                    let (writer, version) = (Arc::clone(&record.writer), record.version.millis());
                    if self.absorb(record, now, true) {
                        self.aged(&writer.node, version, now);
                    }
                }),
                Err(_) => self.refuse("bad record"),
            },
            tag if tag == Tag::Goodbye as u8 => match postcard::from_bytes(body) {
                Ok(id) => self.membership.left(id, now.mono),
                Err(_) => self.refuse("malformed"),
            },
            // A later release's message.
            _ => self.refuse("unknown message"),
        }
    }

    fn probed(&mut self, probe: Probe, updates: &[u8], now: Now) {
        let me = self.membership.me().clone();
        if probe.to != me.mark() {
            // Meant for an earlier run.
            return;
        }
        let Some(from) = self.membership.peers().marked(probe.from).cloned() else {
            return self.refuse("unknown sender");
        };
        self.heard(&from.name, probe.wall, now);
        self.addressed(&from);
        self.compared(&from, probe.digest, now);
        if let Some(message) = probe.lengthen(from, me, updates) {
            self.membership.receive(&message, now.mono);
        }
    }

    /// Sends a message of the failure detector, in short where that is possible.
    pub(super) fn send_membership(&mut self, to: &Identity, message: &[u8], now: Now) {
        let short = Probe::shorten(message, now.wall, self.digest())
            .filter(|(probe, _)| self.measured.knows(to, probe.from));
        match short {
            Some((probe, updates)) => {
                let tag = if probe.ack { Tag::Ack } else { Tag::Ping };
                self.send(to, tag, &probe.encode(updates));
            }
            None => self.send(to, Tag::Membership, message),
        }
    }

    pub(super) fn round(&mut self, now: Now) {
        let ready = self.bucket.ready(now.mono);
        if ready > now.mono {
            // What cannot wait in the queue is left to anti-entropy.
            self.gossip_at = Some(ready);
            return;
        }
        self.last_round = now.mono;
        let nodes = self.membership.peers().alive().len() + 1;
        let peers = self.some_peers(gossip::FANOUT);
        if peers.is_empty() {
            // Whoever comes up gets everything by anti-entropy.
            self.spread = Spread::default();
            return;
        }
        for body in self.spread.round(&self.store, peers.len(), nodes) {
            self.bucket.spend(peers.len());
            for peer in &peers {
                self.send(peer, Tag::Records, &body);
            }
        }
    }

    /// Up to `count` distinct members that are up, at random.
    pub(super) fn some_peers(&mut self, count: usize) -> Vec<Identity> {
        let alive = self.membership.peers().alive();
        alive.sample(&mut self.rng, count).cloned().collect()
    }

    pub(super) fn send(&mut self, to: &Identity, tag: Tag, body: &[u8]) {
        let mut plain = Vec::with_capacity(1 + body.len());
        plain.push(tag as u8);
        plain.extend_from_slice(body);
        let Some(packet) = self.sealer.seal(to.name.as_str(), &plain) else {
            return self.refuse("cannot seal");
        };
        self.udp_sent.0 += 1;
        self.udp_sent.1 += packet.len() as u64;
        self.out.push(Output::Datagram(to.addr, packet));
    }
}
