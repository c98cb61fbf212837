//! Open flows of backends, put right. Where places for flows are scarce one gives way to another without a word, and its
//! backend's count (which `lc` and `max_connections` go by) stays one too high: so, when that has happened and while the
//! table is rather full, what is counted is compared with what there is.

use super::maps::Maps;
use mesh_ebpf::common::{SETS, WAYS};
use std::{collections::HashMap, io};

/// A backend's place and its generation there.
pub(super) type Whose = (u32, u32);

/// What the last comparison found.
#[derive(Debug, Default)]
pub(super) struct Leaks {
    /// Whether the next walk through the table is one to compare with.
    armed: bool,
    /// How many had given way by then.
    evicted: u64,
    /// How much more was counted than there was.
    excess: HashMap<Whose, i64>,
}

/// How much is too much for certain: flows begin and end while they are looked at, so both of two looks have to say it.
fn surely(one: i64, other: i64) -> i64 {
    match (one.signum(), other.signum()) {
        (1, 1) => one.min(other),
        (-1, -1) => one.max(other),
        _ => 0,
    }
}

/// The open flows of sockets; `None` when some may be where they cannot be listed.
fn sockets(maps: &Maps) -> io::Result<Option<HashMap<Whose, i64>>> {
    let cookies = maps.cookies.range(0, SETS)?;
    if cookies.iter().any(|set| !set.contains(&0)) {
        return Ok(None);
    }
    let mut open = HashMap::new();
    let dialled = maps.sockets.range(0, SETS * WAYS)?;
    for (cookie, dialled) in cookies.iter().flatten().zip(dialled) {
        if *cookie != 0 && dialled.family != 0 {
            *open.entry((dialled.backend, dialled.generation)).or_default() += 1;
        }
    }
    Ok(Some(open))
}

/// What is counted in the first `end` places.
pub(super) struct Counted(Vec<i64>);

impl Leaks {
    /// To be called before the table is walked through: what is counted then, if it is to be compared.
    pub(super) fn before(&self, maps: &Maps, end: u32) -> Option<Counted> {
        let active = |index| maps.backends.get(index).map_or(0, |backend| backend.active);
        self.armed.then(|| Counted((0..end).map(active).collect()))
    }

    /// After it: `flows` were open, the table is rather full or not, and so many have given way.
    pub(super) fn after(
        &mut self,
        maps: &Maps,
        before: Option<Counted>,
        flows: &HashMap<Whose, i64>,
        (full, evicted): (bool, u64),
    ) -> io::Result<()> {
        let mut excess = HashMap::new();
        if let Some(Counted(before)) = before
            && let Some(sockets) = sockets(maps)?
        {
            for (index, before) in (0..).zip(before) {
                let Some(backend) = maps.backends.get(index) else { break };
                let whose = (index, backend.generation);
                let there = [flows, &sockets].map(|open| open.get(&whose).copied().unwrap_or(0));
                let now = before.min(backend.active) - there.iter().sum::<i64>();
                let wrong = surely(self.excess.get(&whose).copied().unwrap_or(0), now);
                maps.backends.add(whose.0, whose.1, -wrong);
                if now != wrong {
                    excess.insert(whose, now - wrong);
                }
            }
        }
        self.armed = full || evicted != self.evicted || !excess.is_empty();
        self.evicted = evicted;
        self.excess = excess;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::surely;

    #[test]
    fn only_what_two_looks_agree_on_is_wrong() {
        for (one, other, wrong) in [(5, 3, 3), (3, 5, 3), (-2, -7, -2), (4, -1, 0), (0, 9, 0), (-1, 0, 0)] {
            assert_eq!(surely(one, other), wrong, "{one} {other}");
        }
    }
}
