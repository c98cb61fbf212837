//! The chains that pick a backend. One serves every frontend of its shape, so their number does not grow with the
//! services. Pure.

use super::{
    ids::SetId,
    shape::{Pick, Shape},
};
use crate::{
    dataplane::netfilter::{
        layout::Layout,
        names::{REJECT, Rule, comment},
        sets::Common,
    },
    sys::nft::{Expr, FlowTimeout, reg},
};

/// How often a backend at its limit makes a flow try another.
const RETRIES: usize = 3;

/// The objects that make flows be forgotten after so long, of either protocol.
pub(super) fn timeouts(seconds: u32) -> [FlowTimeout; 2] {
    [("tcp", 6), ("udp", 17)].map(|(word, protocol)| FlowTimeout {
        name: format!("{word}{seconds}"),
        protocol,
        seconds,
    })
}

impl Shape {
    /// Its rules, tried one after the other until one takes the packet.
    pub(super) fn rules(&self, layout: &Layout) -> Vec<Rule> {
        let mut rules = Vec::new();
        let key = || layout.load_key(self.local).to_vec();
        let words = layout.key_words();
        if self.allow {
            let mut deny = key();
            deny.push(layout.source(words));
            deny.extend([
                Expr::lookup_not(reg(0), Common::Allow.name()),
                Expr::lookup(reg(0), Common::Denied.name()),
                Expr::goto(REJECT),
            ]);
            rules.push((deny, comment("source not allowed")));
        }
        if let Some(seconds) = self.idle {
            let timeouts = timeouts(seconds).map(|timeout| Expr::set_timeout(&timeout.name));
            rules.push((timeouts.to_vec(), comment("idle flows are forgotten")));
        }
        // Where results go: past the key and the two words of a backend's id.
        let (at, id) = (words + 2, words);
        let finish = |rule: &mut Vec<Expr>| {
            if let Some(most) = self.most {
                rule.push(Expr::limit_flows(reg(at), &SetId::Most(most).to_string(), most));
            }
            rule.push(Expr::dnat(layout.nfproto(), reg(at), reg(at + layout.words())));
        };
        let affinity = SetId::Affinity.to_string();
        let [slots, picks, backends, ids] =
            [SetId::Slots(*self), SetId::Picks(*self), SetId::Backends(*self), SetId::Ids(*self)]
                .map(|id| id.to_string());
        if let Some(ms) = self.sticky {
            let mut known = key();
            known.push(Expr::map(reg(0), reg(at), &ids));
            known.push(layout.source(at + 2));
            known.push(Expr::map(reg(at), reg(id), &affinity));
            known.push(Expr::learn(reg(at), Some(reg(id)), &affinity, Some(ms)));
            known.push(Expr::map(reg(0), reg(at), &backends));
            finish(&mut known);
            rules.push((known, comment("affinity")));
        }
        let pick = |pick: Expr, remembers: bool| {
            let mut rule = key();
            rule.push(pick);
            if self.sticky.is_some() {
                rule.push(Expr::map(reg(0), reg(id), &picks));
            }
            if let Some(ms) = self.sticky.filter(|_| remembers) {
                rule.push(Expr::map(reg(0), reg(at), &ids));
                rule.push(layout.source(at + 2));
                // Data of an element that is there would stay as it is.
                rule.push(Expr::forget(reg(at), reg(id), &affinity));
                rule.push(Expr::learn(reg(at), Some(reg(id)), &affinity, Some(ms)));
            }
            let leads = if self.sticky.is_some() { &backends } else { &slots };
            rule.push(Expr::map(reg(0), reg(at), leads));
            finish(&mut rule);
            rule
        };
        let first = match self.pick {
            Pick::Next => Expr::numgen(reg(id), self.slots, false),
            Pick::Random => Expr::numgen(reg(id), self.slots, true),
            Pick::Hash => {
                Expr::jhash(reg(at), reg(id), layout.bytes(), self.slots, crate::plan::maglev::SEED)
            }
        };
        let mut chosen = pick(first, true);
        if self.pick == Pick::Hash {
            chosen.insert(0, layout.source(at));
        }
        rules.push((chosen, comment("pick")));
        let retries = if self.most.is_some() { RETRIES } else { 0 };
        for _ in 0..retries {
            let another = pick(Expr::numgen(reg(id), self.slots, true), true);
            rules.push((another, comment("pick another")));
        }
        // A change that came within the first look is over now. And the kernel remembers no more than 65,535 clients,
        // which is what it gives a set that packets fill.
        let again = pick(Expr::numgen(reg(id), self.slots, true), false);
        rules.push((again, comment("pick once more, remembering nobody")));
        if self.most.is_some() {
            let mut refuse = key();
            refuse.extend([Expr::lookup(reg(0), &SetId::Limited.to_string()), Expr::goto(REJECT)]);
            rules.push((refuse, comment("all at their limit")));
        }
        // A change came between this packet's lookups, which takes a moment: a client that hears nothing asks again.
        rules.push((vec![Expr::verdict(libc::NF_DROP)], comment("gone meanwhile")));
        rules
    }
}
