//! What an event is.

use std::collections::BTreeMap;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident $word:literal $trouble:literal),* $(,)?) => {
        /// What kind of thing happened.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum Kind { $($(#[$doc])* $name),* }

        impl Kind {
            /// Every kind; docs/cli.md lists them.
            pub const ALL: &[Kind] = &[$(Kind::$name),*];

            /// The word that people and programs read.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Kind::$name => $word),* }
            }

            /// Whether somebody should look at it.
            #[must_use]
            pub fn is_trouble(self) -> bool {
                match self { $(Kind::$name => $trouble),* }
            }
        }
    };
}

kinds! {
    /// This agent started.
    AgentStarted "agent-started" false,
    /// A node is new, or answers again after a suspicion.
    NodeUp "node-up" false,
    /// A node missed a probe.
    NodeSuspect "node-suspect" true,
    /// A node is declared dead; its endpoints are hidden.
    NodeDown "node-down" true,
    /// A node said good-bye.
    NodeLeft "node-left" false,
    /// A node that was down or had left is back.
    NodeReturned "node-returned" false,
    /// A node is no longer known.
    NodeForgotten "node-forgotten" false,
    /// A node says something else of itself: addresses, zone, version.
    NodeChanged "node-changed" false,
    /// An operator drains a node.
    NodeDrained "node-drained" false,
    /// A drain was taken back.
    NodeUndrained "node-undrained" false,
    /// Something is wrong with another node, as its name, address or clock.
    NodeTrouble "node-trouble" true,
    /// That is over.
    NodeTroubleOver "node-trouble-over" false,
    /// This node keeps silent, as another had its name or address first.
    Silenced "silenced" true,
    /// It speaks again.
    SilencedOver "silenced-over" false,
    /// This node's clock does not agree with the others'.
    ClockTrouble "clock-trouble" true,
    /// It does again.
    ClockTroubleOver "clock-trouble-over" false,
    /// A service is declared.
    ServiceDeclared "service-declared" false,
    /// Its declaration in force is another.
    ServiceChanged "service-changed" false,
    /// Nobody declares it any more.
    ServiceWithdrawn "service-withdrawn" false,
    /// Its declarations differ.
    ServiceConflict "service-conflict" true,
    /// They agree again.
    ServiceConflictOver "service-conflict-over" false,
    /// A service has its virtual address.
    VipClaimed "vip-claimed" false,
    /// It has another.
    VipChanged "vip-changed" true,
    /// It has none any more.
    VipLost "vip-lost" true,
    /// A published port of the mesh's choice is chosen, or another is.
    PortClaimed "port-claimed" false,
    /// Another service holds a published port.
    PortConflict "port-conflict" true,
    /// The port is this service's now, or it wants it no more.
    PortConflictOver "port-conflict-over" false,
    /// Endpoints are announced.
    EndpointsAdded "endpoints-added" false,
    /// Endpoints take new flows.
    EndpointsReady "endpoints-ready" false,
    /// Endpoints failed their checks.
    EndpointsUnready "endpoints-unready" true,
    /// Endpoints take no new flow before they go.
    EndpointsDraining "endpoints-draining" false,
    /// Endpoints have another address, port or weight.
    EndpointsChanged "endpoints-changed" false,
    /// Endpoints are withdrawn.
    EndpointsRemoved "endpoints-removed" false,
    /// Endpoints are hidden, as their node is down or left.
    EndpointsHidden "endpoints-hidden" true,
    /// Endpoints are back with their node.
    EndpointsShown "endpoints-shown" false,
    /// The data plane, or one frontend, does not stand as wanted.
    PlaneError "plane-error" true,
    /// It does again.
    PlaneErrorOver "plane-error-over" false,
    /// A source's input is refused, as a file with a mistake.
    SourceError "source-error" true,
    /// It is taken again.
    SourceErrorOver "source-error-over" false,
}

/// Something that happened, before it has a number and a time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct News {
    /// What kind of thing.
    pub kind: Kind,
    /// To what: a node, a service, a source, a frontend.
    pub subject: String,
    /// In words.
    pub text: String,
}

impl News {
    /// Longest subject or text in bytes: names of others and messages of the system are bounded here, so that the
    /// whole list is.
    pub const MOST: usize = 512;

    /// Cuts what is too long.
    #[must_use]
    pub fn new(kind: Kind, subject: impl Into<String>, text: impl Into<String>) -> Self {
        News { kind, subject: cut(subject.into()), text: cut(text.into()) }
    }
}

fn cut(mut text: String) -> String {
    if text.len() > News::MOST {
        let fits = |end: &usize| text.is_char_boundary(*end);
        let end = (0..=News::MOST - '…'.len_utf8()).rev().find(fits).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

/// Something that happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    /// Counts from 1 in each run of the agent, without gaps.
    pub seq: u64,
    /// Unix time in milliseconds at which this node saw it.
    pub at: u64,
    /// The snapshot's revision by then.
    pub revision: u64,
    /// What.
    pub news: News,
}

/// Events of one kind out of one look; more are only counted, so that a node that joins a mesh of 10,000 services does
/// not push everything else out of the list.
const EACH: usize = 32;

/// Counts what is more than [`EACH`] of a kind.
pub(super) fn bounded(news: Vec<News>) -> Vec<News> {
    let mut seen: BTreeMap<Kind, usize> = BTreeMap::new();
    let mut kept = Vec::new();
    for n in news {
        let count = seen.entry(n.kind).or_default();
        *count += 1;
        if *count <= EACH {
            kept.push(n);
        }
    }
    for (kind, count) in seen.into_iter().filter(|(_, count)| *count > EACH) {
        kept.push(News::new(kind, "*", format!("and {} more at the same time", count - EACH)));
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_very_many_at_once_the_rest_is_counted() {
        let mut news: Vec<_> =
            (0..1000).map(|i| News::new(Kind::ServiceDeclared, format!("s{i}"), "")).collect();
        news.push(News::new(Kind::NodeUp, "n1", ""));
        let kept = bounded(news);
        assert_eq!(kept.len(), EACH + 2);
        assert_eq!(kept[EACH], News::new(Kind::NodeUp, "n1", ""));
        let rest = News::new(Kind::ServiceDeclared, "*", "and 968 more at the same time");
        assert_eq!(kept[EACH + 1], rest);
        // One look never fills the list, so it never passes a reader over that keeps up.
        assert!(Kind::ALL.len() * (EACH + 1) > 1024, "else the bound of the list itself is enough");
    }

    #[test]
    fn words_are_unique_and_every_trouble_that_lasts_can_end() {
        let words: std::collections::BTreeSet<_> = Kind::ALL.iter().map(|k| k.as_str()).collect();
        assert_eq!(words.len(), Kind::ALL.len());
        for over in words.iter().filter_map(|w| w.strip_suffix("-over")) {
            let begins = Kind::ALL.iter().find(|k| k.as_str() == over);
            assert!(begins.is_some_and(|k| k.is_trouble()), "{over}");
        }
    }

    #[test]
    fn every_kind_is_documented() {
        let documented = include_str!("../../../docs/cli.md");
        for kind in Kind::ALL {
            assert!(documented.contains(&format!("`{}`", kind.as_str())), "{}", kind.as_str());
        }
    }

    #[test]
    fn texts_are_cut_between_characters() {
        let news = News::new(Kind::NodeUp, "ü".repeat(400), "short");
        assert!(news.subject.len() <= News::MOST && news.subject.ends_with("ü…"), "{news:?}");
        assert_eq!(news.text, "short");
    }
}
