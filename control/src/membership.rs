//! Who is up: foca (SWIM with suspicion, Das et al. 2002) on a virtual clock, with two repairs.
//!
//! 1. foca declares a suspect down when its timer fires although the member may have refuted the suspicion with the
//!    same incarnation in between; here the timer counts only while the member is still suspect at that incarnation.
//! 2. Before a member is declared down it is tried once over TCP, by an exchange that carries the suspicion to it and
//!    its refutation back. Lost datagrams alone take nobody down.
//!
//! After Lifeguard (Dadgar et al. 2018) a node doubts itself first: time that it was stalled does not count, and while
//! it hears nobody at all its suspicions wait.

use crate::{
    member::{Identity, Member, Peers},
    model::NodeName,
    packet, probe,
};
use foca::{Config, Foca, NoCustomBroadcast, OwnedNotification, PostcardCodec, State, Timer};
use rand::{SeedableRng, rngs::StdRng};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    net::SocketAddr,
    num::{NonZeroU8, NonZeroUsize},
    time::Duration,
};

/// Specification constants, in milliseconds: a dead node is suspected within two probe periods at three nodes and
/// declared down [`SUSPICION`] later.
const PROBE_PERIOD: u64 = 1_000;
const PROBE_RTT: u64 = 300;
const SUSPICION: u64 = 2_000;
/// In larger meshes a suspect has this long for each power of 2^(4/5) in the number of members.
const PATIENCE_STEP: u64 = 800;
/// While nothing was heard from anybody for so long, a suspicion waits, this many times at most.
const DEAF: u64 = 2 * PROBE_PERIOD;
const PATIENCE: u8 = 3;
/// Between two times that this node goes beyond the epoch of another run at its address.
const OUTBID: u64 = 5_000;
/// How long a down identity is remembered and retried: longer than tombstones live.
const REMEMBER_DOWN: u64 = 25 * 3_600_000;
/// Most identities kept.
pub(crate) const MAX_MEMBERS: usize = 16_384;
/// Most members told in one exchange: they fit the first frame of a connection, whatever their names.
pub(crate) const MAX_TOLD: usize = 2_000;
/// Largest foca message: what fits a datagram beside its seal and tag.
pub(crate) const MAX_MESSAGE: usize = 1_200 - packet::OVERHEAD - 1;

/// What the node has to do after a step.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    /// Messages to send.
    pub(crate) sends: Vec<(Identity, Vec<u8>)>,
    /// Nodes whose liveness or address may have changed.
    pub(crate) changed: BTreeSet<NodeName>,
    /// Members that came up or were replaced by a later run.
    pub(crate) up: Vec<Identity>,
    /// Another run at this node's own address that somebody takes for alive.
    pub(crate) rival: Option<Identity>,
}

/// The membership of one node.
pub(crate) struct Membership {
    foca: Foca<Identity, PostcardCodec, StdRng, NoCustomBroadcast>,
    timers: BTreeMap<(u64, u64), Timer<Identity>>,
    sequence: u64,
    peers: Peers,
    /// Suspects to try over TCP, and the timers that take them down otherwise.
    to_confirm: VecDeque<Identity>,
    confirming: HashMap<SocketAddr, Timer<Identity>>,
    effects: Effects,
    errors: u64,
    /// The members that foca's configuration was made for.
    sized_for: usize,
    /// Most identities kept.
    limit: usize,
    /// When anything was last heard, and how often suspicions waited since.
    heard: (u64, u8),
    outbid_at: u64,
    suspects: BTreeSet<NodeName>,
    /// Suspects may have changed.
    stirred: bool,
}

#[derive(Default)]
struct Collect {
    sends: Vec<(Identity, Vec<u8>)>,
    timers: Vec<(Timer<Identity>, Duration)>,
    notes: Vec<OwnedNotification<Identity>>,
}

impl foca::Runtime<Identity> for &mut Collect {
    fn notify(&mut self, note: foca::Notification<'_, Identity>) {
        self.notes.push(note.to_owned());
    }
    fn send_to(&mut self, to: Identity, data: &[u8]) {
        self.sends.push((to, data.to_vec()));
    }
    fn submit_after(&mut self, event: Timer<Identity>, after: Duration) {
        self.timers.push((event, after));
    }
}

type Driven<'a> = &'a mut Foca<Identity, PostcardCodec, StdRng, NoCustomBroadcast>;

impl Membership {
    /// A node alone.
    pub(crate) fn new(me: Identity, seed: u64) -> Membership {
        let foca = Foca::new(me, config(1), StdRng::seed_from_u64(seed), PostcardCodec);
        Membership {
            foca,
            timers: BTreeMap::new(),
            sequence: 0,
            peers: Peers::default(),
            to_confirm: VecDeque::new(),
            confirming: HashMap::new(),
            effects: Effects::default(),
            errors: 0,
            sized_for: 0,
            limit: MAX_MEMBERS,
            heard: (0, 0),
            outbid_at: 0,
            suspects: BTreeSet::new(),
            stirred: false,
        }
    }

    /// Who this node is at present.
    pub(crate) fn me(&self) -> &Identity {
        self.foca.identity()
    }

    /// The others.
    pub(crate) fn peers(&self) -> &Peers {
        &self.peers
    }

    /// Messages that foca refused.
    pub(crate) fn errors(&self) -> u64 {
        self.errors
    }

    /// Takes what is to be done.
    pub(crate) fn take_effects(&mut self) -> Effects {
        std::mem::take(&mut self.effects)
    }

    /// When [`Membership::tick`] has something to do.
    pub(crate) fn deadline(&self) -> Option<u64> {
        self.timers.first_key_value().map(|((due, _), _)| *due)
    }

    /// Runs the timers that are due.
    pub(crate) fn tick(&mut self, now: u64) {
        while let Some(entry) = self.timers.first_entry()
            && entry.key().0 <= now
        {
            let timer = entry.remove();
            if let Timer::ChangeSuspectToDown { member_id, incarnation, .. } = &timer {
                if !self.is_suspect(member_id, *incarnation) {
                    continue;
                }
                if now.saturating_sub(self.heard.0) > DEAF
                    && self.heard.1 < PATIENCE
                    && self.peers.alive().len() > 1
                {
                    self.heard.1 += 1;
                    self.sequence += 1;
                    self.timers.insert((now + SUSPICION, self.sequence), timer);
                    continue;
                }
                let id = member_id.clone();
                if self.confirming.insert(id.addr, timer).is_none() {
                    self.to_confirm.push_back(id);
                }
                continue;
            }
            self.drive(now, |foca, out| foca.handle_timer(timer, out));
        }
    }

    /// Lets time stand still for `late` milliseconds: this node did not run, so its timers prove nothing.
    pub(crate) fn stalled(&mut self, late: u64) {
        let timers = std::mem::take(&mut self.timers);
        self.timers =
            timers.into_iter().map(|((due, n), timer)| ((due.saturating_add(late), n), timer)).collect();
        self.heard.0 = self.heard.0.saturating_add(late);
    }

    /// Notes that something was heard from some member.
    pub(crate) fn heard(&mut self, now: u64) {
        self.heard = (now, 0);
    }

    /// The next suspect to try over TCP; the caller answers with [`Membership::confirmed`].
    pub(crate) fn next_to_confirm(&mut self) -> Option<Identity> {
        self.to_confirm.pop_front()
    }

    /// Whether a suspect answered over TCP. An answer carries its refutation, so there is nothing left to do.
    pub(crate) fn confirmed(&mut self, addr: SocketAddr, answered: bool, now: u64) {
        let Some(timer) = self.confirming.remove(&addr) else { return };
        if let Timer::ChangeSuspectToDown { member_id, incarnation, .. } = &timer
            && !answered
            && self.is_suspect(member_id, *incarnation)
        {
            self.drive(now, |foca, out| foca.handle_timer(timer, out));
        }
    }

    /// Takes a message from the network.
    pub(crate) fn receive(&mut self, message: &[u8], now: u64) {
        if self.foca.iter_membership_state().len() < self.limit {
            self.drive(now, |foca, out| foca.handle_data(message, out));
        } else if let Some(message) =
            probe::without(message, |id| id.addr != self.me().addr && self.peers.at(id.addr).is_none())
        {
            self.drive(now, |foca, out| foca.handle_data(&message, out));
        } else {
            self.errors += 1;
        }
    }

    /// As [`Membership::receive`] for a message that came over TCP from `from`: the replies to it are returned, to be
    /// sent the same way.
    pub(crate) fn receive_over_tcp(&mut self, message: &[u8], from: &Identity, now: u64) -> Option<Vec<u8>> {
        let before = self.effects.sends.len();
        self.receive(message, now);
        let mut reply = None;
        let (kept, fresh): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.effects.sends).into_iter().enumerate().partition(|(i, _)| *i < before);
        self.effects.sends = kept.into_iter().map(|(_, send)| send).collect();
        for (_, (to, data)) in fresh {
            if to.addr == from.addr && reply.is_none() {
                reply = Some(data);
            } else {
                self.effects.sends.push((to, data));
            }
        }
        reply
    }

    /// An announcement for `to`, to be carried over TCP.
    pub(crate) fn announcement(&mut self, to: &Identity) -> Vec<u8> {
        let mut out = Collect::default();
        if self.foca.announce(to.clone(), &mut out).is_err() {
            self.errors += 1;
        }
        out.sends.pop().map(|(_, data)| data).unwrap_or_default()
    }

    /// The members to tell another node, without mere suspicions, this node first; of very many other ones each time.
    pub(crate) fn state(&self) -> Vec<Member> {
        let told = self.foca.iter_membership_state().filter(|m| m.state() != State::Suspect);
        let mut others: Vec<Member> = told.cloned().collect();
        if others.len() >= MAX_TOLD {
            let start = usize::try_from(self.sequence).unwrap_or_default() % others.len();
            others.rotate_left(start);
            others.truncate(MAX_TOLD - 1);
        }
        others.insert(0, Member::alive(self.me().clone()));
        others
    }

    /// The suspicion of `id`, if it is a suspect.
    pub(crate) fn suspicion(&self, id: &Identity) -> Option<Member> {
        self.foca.iter_membership_state().find(|m| m.id() == id && m.state() == State::Suspect).cloned()
    }

    /// Learns members from an exchange; suspicions of others are left to the failure detector.
    pub(crate) fn apply(&mut self, members: Vec<Member>, now: u64) {
        let me = self.me().clone();
        let others = || members.iter().filter(|m| m.id().addr == me.addr && m.state() != State::Down);
        let rival = others().map(Member::id).find(|id| id.name != me.name || id.epoch > me.epoch);
        if rival.is_some() {
            self.effects.rival = rival.cloned();
        }
        // A run of this node with a later epoch, from a clock that was ahead: go beyond it or be taken for a ghost. If
        // it lives, who is reached at the address decides; until then this goes slowly.
        let ahead = members.iter().map(Member::id).filter(|id| id.addr == me.addr && **id > me);
        if let Some(epoch) = ahead.map(|id| id.epoch).max()
            && self.outbid_at <= now
        {
            self.outbid(epoch, now);
        }
        let me = self.me().clone();
        let mut room = self.limit.saturating_sub(self.foca.iter_membership_state().len());
        let mut useful: Vec<Member> =
            members.into_iter().filter(|m| m.state() != State::Suspect || *m.id() == me).collect();
        useful.retain(|m| {
            let known = m.id().addr == me.addr || self.peers.at(m.id().addr).is_some();
            let fits = known || room > 0;
            room -= usize::from(fits && !known);
            fits
        });
        self.drive(now, |foca, out| foca.apply_many(useful.into_iter(), true, out));
    }

    /// Goes beyond the epoch of another run at this node's address.
    pub(crate) fn outbid(&mut self, epoch: u64, now: u64) {
        if epoch >= self.me().epoch {
            self.outbid_at = now + OUTBID;
            let renewed = Identity { epoch: epoch.saturating_add(1), ..self.me().clone() };
            self.drive(now, |foca, out| foca.change_identity(renewed, out));
        }
    }

    /// Notes that `id` said good-bye.
    pub(crate) fn left(&mut self, id: Identity, now: u64) {
        if id.addr != self.me().addr {
            self.drive(now, |foca, out| foca.apply_many(std::iter::once(Member::down(id)), true, out));
        }
    }

    /// Says good-bye; the membership is of no use afterwards.
    pub(crate) fn leave(&mut self, now: u64) {
        self.drive(now, |foca, out| foca.leave_cluster(out));
        self.timers.clear();
    }

    /// Hash of who is up, this node included.
    pub(crate) fn hash(&self) -> u64 {
        self.peers.hash() ^ self.me().hash()
    }

    /// Members that are suspects at the moment. Costs nothing while nothing changed.
    pub(crate) fn suspects(&mut self) -> &BTreeSet<NodeName> {
        if self.stirred {
            // What changes is in foca's queue of updates until it was sent often enough.
            self.stirred = self.foca.updates_backlog() > 0;
            let members = self.foca.iter_membership_state().filter(|m| m.state() == State::Suspect);
            self.suspects = members.map(|m| m.id().name.clone()).collect();
        }
        &self.suspects
    }

    fn is_suspect(&self, id: &Identity, incarnation: foca::Incarnation) -> bool {
        self.suspicion(id).is_some_and(|m| m.incarnation() == incarnation)
    }

    fn drive(&mut self, now: u64, step: impl FnOnce(Driven<'_>, &mut Collect) -> Result<(), foca::Error>) {
        let mut out = Collect::default();
        let stepped = step(&mut self.foca, &mut out);
        // With a new identity foca rests until it hears from somebody, also if the members that it takes for alive
        // died meanwhile; learning of nobody makes it look at whom it has.
        let resumed = self.foca.apply_many(std::iter::empty(), false, &mut out);
        if stepped.and(resumed).is_err() {
            self.errors += 1;
        }
        self.stirred |= self.foca.updates_backlog() > 0;
        self.effects.sends.append(&mut out.sends);
        for (timer, after) in out.timers {
            self.sequence += 1;
            let after = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
            self.timers.insert((now.saturating_add(after), self.sequence), timer);
        }
        let members = self.foca.num_members();
        for note in out.notes {
            match note {
                OwnedNotification::MemberUp(id) => {
                    self.effects.changed.insert(id.name.clone());
                    self.effects.up.push(id.clone());
                    self.peers.set(id, true);
                }
                OwnedNotification::MemberDown(id) => {
                    self.effects.changed.insert(id.name.clone());
                    self.peers.set(id, false);
                }
                OwnedNotification::Rename(old, new) => {
                    self.effects.changed.extend([old.name, new.name.clone()]);
                    if self.peers.rename(&new) {
                        self.effects.up.push(new);
                    }
                }
                _ => {}
            }
        }
        if members == self.sized_for {
            return;
        }
        // Dissemination and suspicion grow with the logarithm of the mesh.
        self.sized_for = members;
        if self.foca.set_config(config(members + 1)).is_err() {
            self.errors += 1;
        }
    }
}

fn config(nodes: usize) -> Config {
    let logarithm = u64::from((nodes as u64 + 1).ilog2());
    // 4 · log10(n + 1), at least one and rounded up a little.
    let transmissions = u8::try_from(2 + logarithm * 5 / 4).unwrap_or(u8::MAX);
    let suspicion = SUSPICION.max(PATIENCE_STEP * (logarithm * 5 / 4));
    let periodic = |frequency: u64, members| {
        NonZeroUsize::new(members).map(|num_members| foca::PeriodicParams {
            frequency: Duration::from_millis(frequency),
            num_members,
        })
    };
    Config {
        probe_period: Duration::from_millis(PROBE_PERIOD),
        probe_rtt: Duration::from_millis(PROBE_RTT),
        max_transmissions: NonZeroU8::new(transmissions).unwrap_or(NonZeroU8::MIN),
        suspect_to_down_after: Duration::from_millis(suspicion),
        remove_down_after: Some(Duration::from_millis(REMEMBER_DOWN)),
        max_packet_size: NonZeroUsize::new(MAX_MESSAGE).unwrap_or(NonZeroUsize::MIN),
        notify_down_members: true,
        periodic_announce_to_down_members: periodic(5_000, 1),
        periodic_gossip: periodic(200, 3),
        ..Config::simple()
    }
}

#[cfg(test)]
mod tests;
