//! Which replies of a batch leave together.
//!
//! A client that has many questions out on one socket (another resolver, a proxy) has many replies in a batch. Those of
//! one length can go to the kernel as one datagram that it cuts up behind routing, filters and queues: most of what a
//! reply costs is then paid once for all of them. Clients with one question at a time have nothing of it, and lose
//! nothing: whether it is worth looking for is seen from neighbours.

use std::net::SocketAddr;

/// Replies that go together, by their numbers; without groups, none do.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Of one client and one length each.
    pub(super) groups: Vec<Vec<usize>>,
    /// All others, where there are groups.
    pub(super) single: Vec<usize>,
}

/// Fewer are no gain.
const FEW: usize = 4;

/// Most that the kernel cuts one datagram into (UDP_MAX_SEGMENTS in linux/udp.h when it came).
const MAX_SEGMENTS: usize = 64;

/// Most octets of a datagram, headers of IPv6 with some extensions aside.
const MAX_OCTETS: usize = 65_000;

/// Of replies to these `clients`, with the length in octets that `length` tells.
pub(super) fn plan(clients: &[SocketAddr], length: impl Fn(usize) -> usize) -> Plan {
    let neighbours = clients.windows(2).filter(|pair| pair[0] == pair[1]).count();
    if clients.len() < 2 * FEW || neighbours * 2 < clients.len() {
        return Plan::default();
    }
    let mut order: Vec<usize> = (0..clients.len()).collect();
    // Stable: what was asked first is answered first.
    order.sort_by_key(|i| (clients[*i], length(*i)));
    let mut plan = Plan::default();
    for same in order.chunk_by(|a, b| clients[*a] == clients[*b] && length(*a) == length(*b)) {
        let most = MAX_OCTETS / length(same[0]).max(1);
        for group in same.chunks(most.clamp(1, MAX_SEGMENTS)) {
            if group.len() < FEW {
                plan.single.extend(group);
            } else {
                plan.groups.push(group.to_vec());
            }
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    #[test]
    fn replies_of_one_length_to_one_client_go_together() {
        let clients: Vec<_> = [1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2].map(client).into();
        let lengths = [50, 51, 50, 51, 50, 51, 50, 52, 50, 50, 50, 50];
        let plan = plan(&clients, |i| lengths[i]);
        assert_eq!(plan.groups, [vec![0, 2, 4, 6], vec![8, 9, 10, 11]]);
        assert_eq!(plan.single, [1, 3, 5, 7], "three are few");
    }

    #[test]
    fn a_reply_to_each_of_many_clients_goes_alone() {
        let clients: Vec<_> = (0..64).map(client).collect();
        assert_eq!(plan(&clients, |_| 50), Plan::default());
        assert_eq!(plan(&[client(1); 7], |_| 50), Plan::default(), "too few");
        assert_eq!(plan(&[], |_| 50), Plan::default());
    }

    #[test]
    fn a_datagram_has_its_most() {
        let sizes = |length: usize| {
            plan(&[client(1); 64], |_| length).groups.iter().map(Vec::len).collect::<Vec<_>>()
        };
        assert_eq!(sizes(512), [64]);
        assert_eq!(sizes(1232), [52, 12]);
    }
}
