//! What the probes of a path mean: pure.

use mesh_control::model::NodeName;

/// What got through to a node and was answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Path {
    /// The largest packet of the underlay, IP header included, bytes; absent when none was answered.
    pub(super) underlay: Option<u32>,
    /// Whether a small one was through the overlay.
    pub(super) overlay: bool,
}

/// Sizes that are tried when the full one is lost: what is left of 1,500 under common kinds of tunnels, and what every
/// IPv6 path has to carry (RFC 8200 section 5).
pub(super) const SMALLER: [u32; 7] = [1492, 1476, 1450, 1420, 1400, 1350, 1280];

/// What is wrong with the path to a node whose packets may have `full` bytes on the underlay, for people. A node that
/// answers nothing is down or lets no probes in: nothing is known of its path.
pub(super) fn trouble(node: &NodeName, path: Path, full: u32, port: u16) -> Option<String> {
    let passed = path.underlay?;
    if !path.overlay {
        return Some(format!(
            "{node} is reached on the underlay and not through the overlay: let UDP port {port} through between nodes"
        ));
    }
    (passed < full).then(|| {
        format!(
            "packets of {full} bytes get lost on the way to {node}, those of {passed} arrive: \
             make the MTU of the link to the nodes {passed}, or the path's {full}"
        )
    })
}

/// Whether the checksums that the device leaves to the hardware may be what breaks the overlay: no node at all is
/// reached through it, and some are without.
pub(super) fn suspects_checksums<'a>(paths: impl IntoIterator<Item = &'a Path>) -> bool {
    let mut some = false;
    for path in paths {
        if path.overlay {
            return false;
        }
        some |= path.underlay.is_some();
    }
    some
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_known_is_told() {
        let node = NodeName::new("n2").unwrap();
        let told = |underlay, overlay| trouble(&node, Path { underlay, overlay }, 1500, 4789);
        assert_eq!(told(Some(1500), true), None);
        assert_eq!(told(None, false), None);
        assert!(told(Some(1500), false).unwrap().contains("let UDP port 4789 through"));
        assert!(told(Some(1400), true).unwrap().contains("those of 1400 arrive"));
    }

    #[test]
    fn checksums_are_suspected_when_nothing_else_is_left() {
        let path = |underlay, overlay| Path { underlay, overlay };
        assert!(!suspects_checksums([]));
        assert!(!suspects_checksums(&[path(None, false)]));
        assert!(suspects_checksums(&[path(None, false), path(Some(1500), false)]));
        assert!(!suspects_checksums(&[path(Some(1500), false), path(Some(1500), true)]));
    }
}
