//! How well this node is in touch with the others, as metrics.

use super::{
    family::{Family, count},
    state::Operations,
};
use mesh_control::PeerStats;

/// Up to so many other nodes all have series of their own; of a larger mesh only those with something wrong do, and of
/// them the first so many by name.
const MOST_PEERS: usize = 256;

/// Convergence, and what is measured of the other nodes.
pub(super) fn mesh(operations: &dyn Operations) -> Vec<Family> {
    let (stats, peers) = (operations.control_stats(), operations.peers());
    let mut families = vec![
        Family::gauge(
            "mesh_control_silenced",
            "1 while this node keeps silent because another had its name or address first.",
            &[],
        )
        .with(&[], f64::from(u8::from(stats.silenced.is_some()))),
        Family::gauge(
            "mesh_peers_in_trouble",
            "Other nodes with a wrong clock, or a name or address twice.",
            &[],
        )
        .with(&[], count(peers.iter().filter(|p| p.trouble.is_some()).count())),
    ];
    if let Some(lag) = stats.lag {
        let help = "Age at arrival of the records that gossip brought in the last minute.";
        families.push(
            Family::gauge("mesh_control_lag_seconds", help, &["statistic"])
                .with(&["median"], seconds(lag.median))
                .with(&["worst"], seconds(lag.worst)),
        );
    }
    if let Some(age) = stats.in_sync {
        let help = "Time since the last exchange after which a peer and this node held equal states.";
        families.push(Family::gauge("mesh_control_in_sync_seconds", help, &[]).with(&[], seconds(age)));
    }
    let mut rtt =
        Family::gauge("mesh_peer_rtt_seconds", "Time of the last TCP handshake with the node.", &["node"]);
    let help = "The node's wall clock less this one's, as last heard.";
    let mut offset = Family::gauge("mesh_peer_clock_offset_seconds", help, &["node"]);
    let all = peers.len() <= MOST_PEERS;
    let shown = |p: &&PeerStats| all || p.trouble.is_some();
    for peer in peers.iter().filter(shown).take(MOST_PEERS) {
        let node = &[peer.node.as_str()];
        if let Some(us) = peer.rtt {
            rtt.add(node, f64::from(us) / 1e6);
        }
        if let Some(ms) = peer.clock_offset {
            offset.add(node, signed_seconds(ms));
        }
    }
    families.extend([rtt, offset]);
    families
}

fn seconds(ms: u64) -> f64 {
    std::time::Duration::from_millis(ms).as_secs_f64()
}

/// Milliseconds as seconds.
#[expect(clippy::cast_precision_loss, reason = "a clock that is off by 2^53 ms need not be exact")]
fn signed_seconds(ms: i64) -> f64 {
    ms as f64 / 1e3
}
