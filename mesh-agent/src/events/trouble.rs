//! What is wrong at the moment, and what of it is new or over. Pure.

use super::event::{Kind, News};
use mesh_control::{CLOCK_OFF, ControlStats, PeerStats};
use std::collections::BTreeMap;

/// What is asked of the running parts at each look.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// The control plane's counts.
    pub control: ControlStats,
    /// What it measured of the others.
    pub peers: Vec<PeerStats>,
    /// The data plane's errors: what fails, and why.
    pub plane: Vec<(String, String)>,
    /// Each source's name and the problems of its input.
    pub sources: Vec<(String, Vec<String>)>,
}

/// All that is wrong: by kind, subject and what tells several of one subject apart.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Troubles(BTreeMap<(Kind, String, String), String>);

/// What is wrong on the node `local`. `future` says that records from the future were heard lately ([`ClockWatch`]).
#[must_use]
pub fn troubles(local: &str, observed: &Observed, future: bool) -> Troubles {
    let mut all = BTreeMap::new();
    let mut add = |kind, subject: &str, id: &str, text: &str| {
        all.insert((kind, subject.to_owned(), id.to_owned()), text.to_owned());
    };
    if let Some(reason) = &observed.control.silenced {
        add(Kind::Silenced, local, "", reason);
    }
    if let Some(text) = own_clock(&observed.peers) {
        add(Kind::ClockTrouble, local, "offset", &text);
    }
    if future {
        let text =
            "records from more than 60 s ahead of this node's clock arrive: `mesh-agent nodes` shows whose";
        add(Kind::ClockTrouble, local, "future", text);
    }
    for peer in &observed.peers {
        if let Some(text) = &peer.trouble {
            // The numbers in it change all the time.
            let id: String = text.chars().filter(|c| !c.is_ascii_digit()).collect();
            add(Kind::NodeTrouble, peer.node.as_str(), &id, text);
        }
    }
    for (subject, error) in &observed.plane {
        add(Kind::PlaneError, subject, "", error);
    }
    for (source, errors) in &observed.sources {
        for error in errors {
            add(Kind::SourceError, source, error, error);
        }
    }
    Troubles(all)
}

impl Troubles {
    /// What is over, then what is new in `now`.
    #[must_use]
    pub fn diff(&self, now: &Troubles) -> Vec<News> {
        let over = self.0.iter().filter(|(key, _)| !now.0.contains_key(key)).filter_map(
            |((kind, subject, _), text)| {
                let kind = match kind {
                    Kind::NodeTrouble => Kind::NodeTroubleOver,
                    Kind::Silenced => Kind::SilencedOver,
                    Kind::ClockTrouble => Kind::ClockTroubleOver,
                    Kind::PlaneError => Kind::PlaneErrorOver,
                    Kind::SourceError => Kind::SourceErrorOver,
                    _ => return None,
                };
                Some(News::new(kind, subject, format!("no longer: {text}")))
            },
        );
        let new = now.0.iter().filter(|(key, _)| !self.0.contains_key(key));
        over.chain(new.map(|((kind, subject, _), text)| News::new(*kind, subject, text))).collect()
    }
}

/// Whether this node's own clock is off: when it is for most of the others.
#[must_use]
pub fn own_clock(peers: &[PeerStats]) -> Option<String> {
    let mut offsets: Vec<i64> = peers.iter().filter_map(|p| p.clock_offset).collect();
    offsets.sort_unstable();
    let (ahead, behind): (Vec<i64>, Vec<i64>) =
        offsets.iter().copied().filter(|o| o.unsigned_abs() > CLOCK_OFF).partition(|o| *o < 0);
    let (list, word) = if ahead.len() > behind.len() { (&ahead, "ahead of") } else { (&behind, "behind") };
    if list.len() * 2 <= offsets.len() {
        return None;
    }
    let middle = list.get(list.len() / 2).copied().unwrap_or_default().unsigned_abs();
    let (seconds, tenths) = (middle / 1000, middle % 1000 / 100);
    let off = format!("this node's clock is {seconds}.{tenths} s {word}");
    Some(match offsets.len() {
        1 => format!("{off} the only other node's: set the one that is wrong, as with NTP"),
        all => format!("{off} that of {} of {all} other nodes: set it, as with NTP", list.len()),
    })
}

/// Whether a count of records from the future still grows.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClockWatch {
    count: u64,
    grew: Option<u64>,
}

impl ClockWatch {
    /// Milliseconds without growth after which the trouble is over.
    const QUIET: u64 = 60_000;

    /// Looks at the counter at `now`, in milliseconds of a clock that never jumps.
    pub fn look(&mut self, control: &ControlStats, now: u64) -> bool {
        let count = control.refused.iter().filter(|(reason, _)| *reason == "clock").map(|(_, n)| n).sum();
        if count > self.count {
            self.grew = Some(now);
        }
        self.count = count;
        self.grew.is_some_and(|at| now.saturating_sub(at) < Self::QUIET)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_control::model::Name;

    fn peer(node: &str, offset: Option<i64>, trouble: Option<&str>) -> PeerStats {
        PeerStats {
            node: Name::new(node).unwrap(),
            rtt: None,
            clock_offset: offset,
            heard: None,
            trouble: trouble.map(str::to_owned),
        }
    }

    #[test]
    fn troubles_arise_once_and_end_once() {
        let look = |change: &dyn Fn(&mut Observed)| {
            let mut observed = Observed::default();
            change(&mut observed);
            troubles("n1", &observed, false)
        };
        let none = look(&|_| {});
        let words = |old: &Troubles, new: &Troubles| -> Vec<String> {
            old.diff(new).iter().map(|n| format!("{} {} {}", n.kind.as_str(), n.subject, n.text)).collect()
        };
        // What is wrong, and the news when it arises and when it is over.
        type Change = dyn Fn(&mut Observed);
        let table: &[(&Change, &str, &str)] = &[
            (
                &|o| o.control.silenced = Some("n9 had the name".into()),
                "silenced n1 n9 had the name",
                "silenced-over n1 no longer: n9 had the name",
            ),
            (
                &|o| o.peers = vec![peer("n2", None, Some("two nodes of this name"))],
                "node-trouble n2 two nodes of this name",
                "node-trouble-over n2 no longer: two nodes of this name",
            ),
            (
                &|o| o.plane = vec![("0.0.0.0:80/tcp".into(), "in use".into())],
                "plane-error 0.0.0.0:80/tcp in use",
                "plane-error-over 0.0.0.0:80/tcp no longer: in use",
            ),
            (
                &|o| o.sources = vec![("file".into(), vec!["a.yml: line 3".into()])],
                "source-error file a.yml: line 3",
                "source-error-over file no longer: a.yml: line 3",
            ),
        ];
        for (change, arisen, over) in table {
            let now = look(*change);
            assert_eq!(words(&none, &now), [*arisen]);
            assert_eq!(words(&now, &none), [*over]);
            assert!(words(&now, &now).is_empty());
        }
        let two = look(&|o| o.sources = vec![("file".into(), vec!["a: line 3".into(), "b: line 4".into()])]);
        let one = look(&|o| o.sources = vec![("file".into(), vec!["b: line 4".into(), "c: line 1".into()])]);
        let said = words(&two, &one);
        assert_eq!(said, ["source-error-over file no longer: a: line 3", "source-error file c: line 1"]);
        let off = |text: &str| look(&|o| o.peers = vec![peer("n2", None, Some(text))]);
        assert!(
            words(&off("3600 s ahead"), &off("3601 s ahead")).is_empty(),
            "a number that runs is no news"
        );
        assert_eq!(words(&off("3600 s ahead"), &off("same name")).len(), 2);
    }

    #[test]
    fn the_own_clock_is_wrong_when_most_say_so() {
        // What each other node's clock shows, in milliseconds less ours.
        let table: &[(&[i64], Option<&str>)] = &[
            (&[], None),
            (&[12], None),
            (&[-5_000], None),
            (&[3_600_400], Some("is 3600.4 s behind the only other node's")),
            (&[3_600_000, 0], None),
            (&[3_600_000, 3_600_000], Some("is 3600.0 s behind that of 2 of 2 other nodes")),
            (&[-60_000, 0, -61_000, -62_000], Some("is 61.0 s ahead of that of 3 of 4 other nodes")),
            (&[-60_000, 60_000], None),
            (&[i64::MIN, i64::MIN], Some("ahead of")),
        ];
        for (offsets, want) in table {
            let peers: Vec<_> = offsets.iter().map(|o| peer("n2", Some(*o), None)).collect();
            let said = own_clock(&peers);
            assert_eq!(said.is_some(), want.is_some(), "{offsets:?}: {said:?}");
            assert!(said.unwrap_or_default().contains(want.unwrap_or_default()), "{offsets:?}");
        }
        let mut peers = vec![peer("n2", None, None); 5];
        peers.push(peer("n3", Some(7_000), None));
        assert!(own_clock(&peers).is_some(), "nodes without a measurement have no say");
    }

    #[test]
    fn records_from_the_future_are_a_trouble_until_none_came_for_a_while() {
        let stats =
            |n| ControlStats { refused: vec![("replayed", 9), ("clock", n)], ..ControlStats::default() };
        let mut watch = ClockWatch::default();
        let looks = [(0, 0, false), (3, 10, true), (3, 50_000, true), (4, 60_000, true), (4, 119_999, true)];
        for (count, now, want) in looks {
            assert_eq!(watch.look(&stats(count), now), want, "{count} at {now}");
        }
        assert!(!watch.look(&stats(4), 120_000));
        assert!(!watch.look(&ControlStats::default(), 120_001));
    }
}
