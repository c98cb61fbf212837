//! The zone: which names are ours, and how a service's names are written.

use hickory_proto::rr::Name;

/// The label pair of the name server, as in the Kubernetes DNS specification.
pub(crate) const NAME_SERVER: [&str; 2] = ["ns", "dns"];

/// One label in lower case, without its length. Names are slices of them, leftmost first, so that what is read off a
/// packet and what a library parsed go the same way.
pub(crate) type Label<'n> = &'n [u8];

/// The zone this server is the authority of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone {
    origin: Name,
}

/// Why a text is no zone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("domain: `{text}` {rule}")]
pub struct ZoneError {
    text: String,
    rule: &'static str,
}

impl Zone {
    /// The zone of `domain`, as `cluster` or `mesh.example.org.`; the root is refused, it would shadow everything.
    ///
    /// # Errors
    /// [`ZoneError`] naming the text and the rule it breaks.
    pub fn new(domain: &str) -> Result<Self, ZoneError> {
        // 63 + 63 + 63 octets and their lengths stay free for instance, service and namespace.
        Zone::shorter(
            domain,
            59,
            "is too long: use at most 59 characters, so that service names fit below it",
        )
    }

    /// The zone of Kubernetes' names below `domain`, such as `cluster.local`: four octets shorter, for `svc`.
    ///
    /// # Errors
    /// As [`Zone::new`].
    pub fn kubernetes(domain: &str) -> Result<Self, ZoneError> {
        Zone::shorter(
            domain,
            55,
            "is too long: use at most 55 characters, so that service names fit below it",
        )
    }

    fn shorter(domain: &str, most: usize, too_long: &'static str) -> Result<Self, ZoneError> {
        let fail = |rule| Err(ZoneError { text: domain.chars().take(80).collect(), rule });
        let text = domain.trim_end_matches('.');
        if text.is_empty() {
            return fail("is empty: use a domain such as `cluster`");
        }
        let label = |l: &str| {
            (1..=63).contains(&l.len()) && l.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
        };
        if !text.split('.').all(label) {
            return fail("is no domain: labels of 1 to 63 letters, digits, `-` or `_`, with dots between");
        }
        match Name::from_ascii(text.to_ascii_lowercase()) {
            Ok(mut origin) if text.len() <= most => {
                origin.set_fqdn(true);
                Ok(Zone { origin })
            }
            _ => fail(too_long),
        }
    }

    /// The zone's apex, fully qualified, in lower case.
    #[must_use]
    pub fn origin(&self) -> &Name {
        &self.origin
    }

    /// The labels left of the zone, when the name of these labels is the zone's or below it.
    pub(crate) fn place<'s, 'n>(&self, labels: &'s [Label<'n>]) -> Option<&'s [Label<'n>]> {
        let (left, right) = labels.split_at_checked(labels.len().checked_sub(self.origin.iter().len())?)?;
        right.iter().copied().eq(self.origin.iter()).then_some(left)
    }

    /// `labels` below the zone. Falls back to the zone itself should they not fit, which [`Zone::new`] rules out
    /// for every name made of model names.
    pub(crate) fn below<'l>(&self, labels: impl IntoIterator<Item = &'l str>) -> Name {
        Name::from_labels(labels.into_iter().map(str::as_bytes))
            .and_then(|name| name.append_domain(&self.origin))
            .unwrap_or_else(|_| self.origin.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_domains_are_refused_with_the_rule() {
        for bad in ["", ".", "a..b", "ä", "a b", &"x".repeat(64), &format!("{0}.{0}", "x".repeat(40))] {
            let error = Zone::new(bad).unwrap_err().to_string();
            assert!(error.starts_with("domain: `"), "{bad:?}: {error}");
        }
        assert_eq!(Zone::new("Mesh.Example.").unwrap().origin().to_string(), "mesh.example.");
    }

    #[test]
    fn the_longest_names_fit() {
        let zone = Zone::new(&format!("{}.{}", "d".repeat(29), "e".repeat(29))).unwrap();
        let label = "n".repeat(63);
        assert_eq!(zone.below([label.as_str(), &label, &label]).iter().len(), 5);
        let longest = format!("{}.{}", "d".repeat(27), "e".repeat(27));
        let zone = Zone::kubernetes(&longest).unwrap();
        assert_eq!(zone.below([label.as_str(), &label, &label, "svc"]).iter().len(), 6);
        assert!(Zone::kubernetes(&format!("{longest}e")).is_err());
    }

    #[test]
    fn places() {
        let zone = Zone::new("mesh.example").unwrap();
        let left = |text: &str| {
            let name = Name::from_ascii(text).unwrap();
            let labels: Vec<Label<'_>> = name.iter().collect();
            zone.place(&labels).map(<[_]>::concat)
        };
        for (name, expected) in [
            ("example.org.", None),
            ("example.", None),
            ("notmesh.example.", None),
            (".", None),
            ("mesh.example.", Some(&b""[..])),
            ("web.shop.mesh.example.", Some(b"webshop")),
        ] {
            assert_eq!(left(name).as_deref(), expected, "{name}");
        }
    }
}
