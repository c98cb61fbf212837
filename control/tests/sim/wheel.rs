//! The events to come: a ring of milliseconds. Adding and taking cost O(1), and the buffers are used again.

/// How far ahead an event may lie, in milliseconds.
const SPAN: u64 = 1 << 16;

/// Events by time; those of one millisecond keep the order in which they were added.
pub(super) struct Wheel<T> {
    slots: Vec<Vec<T>>,
    spare: Vec<T>,
}

impl<T> Wheel<T> {
    pub(super) fn new() -> Wheel<T> {
        Wheel { slots: (0..SPAN).map(|_| Vec::new()).collect(), spare: Vec::new() }
    }

    /// Adds an event at `at`, which is not before `now`.
    pub(super) fn add(&mut self, now: u64, at: u64, event: T) {
        assert!((now..now + SPAN).contains(&at), "an event at {at} ms, and it is {now} ms");
        self.slot(at).push(event);
    }

    /// Takes the events of `at`, if there are any; the emptied buffer is to be given back.
    pub(super) fn take(&mut self, at: u64) -> Option<Vec<T>> {
        let spare = std::mem::take(&mut self.spare);
        let slot = self.slot(at);
        if slot.is_empty() {
            self.spare = spare;
            return None;
        }
        Some(std::mem::replace(slot, spare))
    }

    pub(super) fn give_back(&mut self, emptied: Vec<T>) {
        self.spare = emptied;
    }

    /// Takes all events, the soonest first; `now` is when the wheel was last used.
    pub(super) fn take_all(&mut self, now: u64) -> Vec<T> {
        (now..now + SPAN).flat_map(|at| std::mem::take(self.slot(at))).collect()
    }

    fn slot(&mut self, at: u64) -> &mut Vec<T> {
        let index = usize::try_from(at % SPAN).expect("small");
        &mut self.slots[index]
    }
}
