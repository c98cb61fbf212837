//! A sorted set that nearly always has one element.

use std::collections::BTreeSet;

/// A sorted set. One element costs no allocation; the node of a `BTreeSet` has room for eleven.
#[derive(Clone, Debug, Default)]
pub(crate) enum Few<T> {
    /// Empty.
    #[default]
    None,
    /// One.
    One(T),
    /// Two or more, or what is left of them.
    Many(BTreeSet<T>),
}

impl<T: Ord> Few<T> {
    /// Adds an element; that it is there already changes nothing.
    pub(crate) fn insert(&mut self, element: T) {
        *self = match std::mem::take(self) {
            Few::None => Few::One(element),
            Few::One(one) if one == element => Few::One(one),
            Few::One(one) => Few::Many([one, element].into()),
            Few::Many(mut all) => {
                all.insert(element);
                Few::Many(all)
            }
        };
    }

    /// Takes an element out; that it is not there changes nothing.
    pub(crate) fn remove(&mut self, element: &T) {
        match self {
            Few::One(one) if one == element => *self = Few::None,
            Few::Many(all) => {
                all.remove(element);
            }
            _ => {}
        }
        if let Few::Many(all) = self
            && all.len() < 2
        {
            *self = all.pop_first().map_or(Few::None, Few::One);
        }
    }

    /// The least.
    pub(crate) fn first(&self) -> Option<&T> {
        self.iter().next()
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.first().is_none()
    }

    /// In order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> + use<'_, T> {
        let (one, many) = match self {
            Few::None => (None, None),
            Few::One(one) => (Some(one), None),
            Few::Many(all) => (None, Some(all.iter())),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }
}

impl<'a, T: Ord> IntoIterator for &'a Few<T> {
    type Item = &'a T;
    type IntoIter = Box<dyn Iterator<Item = &'a T> + 'a>;

    fn into_iter(self) -> Self::IntoIter {
        Box::new(self.iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

        #[test]
        fn it_is_the_set_that_it_replaces(steps in proptest::collection::vec((any::<bool>(), 0..4u8), 0..24)) {
            let (mut few, mut set) = (Few::default(), BTreeSet::new());
            for (add, n) in steps {
                if add {
                    few.insert(n);
                    set.insert(n);
                } else {
                    few.remove(&n);
                    set.remove(&n);
                }
                prop_assert!(few.iter().eq(&set) && (&few).into_iter().eq(&set));
                prop_assert_eq!((few.first(), few.is_empty()), (set.first(), set.is_empty()));
                prop_assert_eq!(matches!(few, Few::Many(_)), set.len() > 1);
            }
        }
    }
}
