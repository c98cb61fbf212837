//! The zone: which names are ours, and how a service's names are written.

use hickory_proto::rr::Name;
use mesh_control::model::ServiceKey;

/// Most labels a name of ours has left of the zone: `_port._proto.tasks.NAME.NAMESPACE`.
pub(crate) const MAX_LABELS: usize = 5;

/// The label pair of the name server, as in the Kubernetes DNS specification.
pub(crate) const NAME_SERVER: [&str; 2] = ["ns", "dns"];

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

/// Where a name lies.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Place<'n> {
    /// Not below the zone.
    Outside,
    /// Below the zone, and such that nothing can have it (too deep, or labels that are no text).
    Nowhere,
    /// Below the zone: the labels left of it, leftmost first.
    At(Labels<'n>),
}

/// Up to [`MAX_LABELS`] lower-case labels, without an allocation.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Labels<'n> {
    items: [&'n str; MAX_LABELS],
    len: usize,
}

impl<'n> Labels<'n> {
    /// Leftmost first.
    pub(crate) fn as_slice(&self) -> &[&'n str] {
        &self.items[..self.len]
    }
}

impl Zone {
    /// The zone of `domain`, as `cluster` or `mesh.example.org.`; the root is refused, it would shadow everything.
    ///
    /// # Errors
    /// [`ZoneError`] naming the text and the rule it breaks.
    pub fn new(domain: &str) -> Result<Self, ZoneError> {
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
        // 63 + 63 + 63 octets and their lengths stay free for instance, service and namespace.
        match Name::from_ascii(text.to_ascii_lowercase()) {
            Ok(mut origin) if origin.len() <= 60 => {
                origin.set_fqdn(true);
                Ok(Zone { origin })
            }
            _ => fail("is too long: use at most 59 characters, so that service names fit below it"),
        }
    }

    /// The zone's apex, fully qualified, in lower case.
    #[must_use]
    pub fn origin(&self) -> &Name {
        &self.origin
    }

    /// Where `lower`, a name in lower case, lies.
    pub(crate) fn place<'n>(&self, lower: &'n Name) -> Place<'n> {
        let (depth, own) = (lower.iter().len(), self.origin.iter().len());
        if depth < own || !lower.iter().skip(depth - own).eq(self.origin.iter()) {
            return Place::Outside;
        }
        let len = depth - own;
        if len > MAX_LABELS {
            return Place::Nowhere;
        }
        let mut items = [""; MAX_LABELS];
        for (item, label) in items.iter_mut().zip(lower.iter().take(len)) {
            match std::str::from_utf8(label) {
                Ok(text) => *item = text,
                Err(_) => return Place::Nowhere,
            }
        }
        Place::At(Labels { items, len })
    }

    /// `labels` below the zone. Falls back to the zone itself should they not fit, which [`Zone::new`] rules out
    /// for every name made of model names.
    pub(crate) fn below<'l>(&self, labels: impl IntoIterator<Item = &'l str>) -> Name {
        Name::from_labels(labels.into_iter().map(str::as_bytes))
            .and_then(|name| name.append_domain(&self.origin))
            .unwrap_or_else(|_| self.origin.clone())
    }

    /// A service's canonical name: `NAME` in the default namespace, else `NAME.NAMESPACE`.
    pub(crate) fn service(&self, key: &ServiceKey) -> Name {
        if key.is_default_namespace() {
            self.below([key.name.as_str()])
        } else {
            self.below([key.name.as_str(), key.namespace.as_str()])
        }
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
    }

    #[test]
    fn places() {
        let zone = Zone::new("cluster").unwrap();
        let place = |text: &str| format!("{:?}", zone.place(&Name::from_ascii(text).unwrap()));
        assert_eq!(place("example.org."), "Outside");
        assert_eq!(place("notcluster."), "Outside");
        assert_eq!(place("."), "Outside");
        assert_eq!(place("a.b.c.d.e.f.cluster."), "Nowhere");
        let name = Name::from_ascii("web.shop.cluster.").unwrap();
        let Place::At(labels) = zone.place(&name) else { panic!("inside") };
        assert_eq!(labels.as_slice(), ["web", "shop"]);
    }
}
