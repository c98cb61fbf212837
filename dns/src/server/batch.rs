//! Many datagrams with one system call: recvmmsg(2) and sendmmsg(2).

use super::together::{Plan, plan};
use nix::{
    errno::Errno,
    sys::socket::{
        self, AddressFamily, ControlMessage, MsgFlags, MultiHeaders, SockaddrLike as _, SockaddrStorage,
    },
};
use std::{
    io::{self, IoSlice, IoSliceMut},
    net::SocketAddr,
    os::fd::{AsRawFd as _, BorrowedFd},
};

/// Datagrams a call. More gain nothing: the calls are then a hundredth of the work.
pub(super) const BATCH: usize = 64;

/// Most octets of a query; a longer datagram is cut, and then is no whole message. Not 4,096: the buffers' beginnings
/// would all fall into the same few lines of the processor's cache.
const MAX_QUERY: usize = 4096 + 64;

/// Batches sent one by one after the kernel refused to take replies together, before that is tried again.
const APART: u32 = 1024;

/// Buffers for a batch of queries. It holds raw pointers, of no use between calls, and so stays in its thread.
#[derive(Debug)]
pub(super) struct Inbox {
    /// What the kernel fills in. One for IPv4 and one for IPv6, because the length of the last address received is all
    /// the room that the next one gets.
    headers: [MultiHeaders<SockaddrStorage>; 2],
    queries: Vec<[u8; MAX_QUERY]>,
    arrived: Vec<(usize, Option<SockaddrStorage>)>,
}

impl Inbox {
    pub(super) fn new() -> Inbox {
        Inbox {
            headers: std::array::from_fn(|_| MultiHeaders::preallocate(BATCH, None)),
            queries: vec![[0; MAX_QUERY]; BATCH],
            arrived: Vec::with_capacity(BATCH),
        }
    }

    /// Takes what has arrived, without waiting; how many datagrams.
    ///
    /// # Errors
    /// `WouldBlock` when there are none, and what ICMP said of earlier replies.
    pub(super) fn receive(&mut self, socket: BorrowedFd<'_>, is_ipv6: bool) -> io::Result<usize> {
        self.arrived.clear();
        let headers = &mut self.headers[usize::from(is_ipv6)];
        let mut slices: Vec<[IoSliceMut<'_>; 1]> =
            self.queries.iter_mut().map(|query| [IoSliceMut::new(query)]).collect();
        let flags = MsgFlags::MSG_DONTWAIT;
        let messages = socket::recvmmsg(socket.as_raw_fd(), headers, slices.iter_mut(), flags, None)?;
        self.arrived.extend(messages.map(|message| (message.bytes, message.address)));
        Ok(self.arrived.len())
    }

    /// What arrived, with its sender.
    pub(super) fn packets(&self) -> impl Iterator<Item = (&[u8], Client)> {
        let all = self.queries.iter().zip(&self.arrived);
        all.filter_map(|(query, (length, client))| Some((&query[..*length], Client::new((*client)?)?)))
    }
}

/// A sender, to us and to the kernel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Client {
    pub(super) address: SocketAddr,
    raw: SockaddrStorage,
}

impl Client {
    fn new(raw: SockaddrStorage) -> Option<Client> {
        let address = match raw.family()? {
            AddressFamily::Inet => SocketAddr::V4((*raw.as_sockaddr_in()?).into()),
            AddressFamily::Inet6 => SocketAddr::V6((*raw.as_sockaddr_in6()?).into()),
            _ => return None,
        };
        Some(Client { address, raw })
    }
}

/// Buffers for the replies of a batch. As an [`Inbox`] it stays in its thread.
#[derive(Debug)]
pub(super) struct Outbox {
    /// What the kernel reads.
    headers: MultiHeaders<SockaddrStorage>,
    replies: Vec<Vec<u8>>,
    clients: Vec<SocketAddr>,
    raw: Vec<Option<SockaddrStorage>>,
    /// Batches to come whose replies are sent one by one; `None` for all.
    apart: Option<u32>,
}

impl Outbox {
    /// With `together`, replies to one client may leave together.
    pub(super) fn new(together: bool) -> Outbox {
        Outbox {
            headers: MultiHeaders::preallocate(BATCH, None),
            replies: (0..BATCH).map(|_| Vec::with_capacity(512)).collect(),
            clients: Vec::with_capacity(BATCH),
            raw: Vec::with_capacity(BATCH),
            apart: together.then_some(0),
        }
    }

    /// Gives `write` room for a reply to `client`; it is sent with the others if `write` says so. No more than [`BATCH`].
    pub(super) fn put(&mut self, client: Client, write: impl FnOnce(&mut Vec<u8>) -> bool) {
        let Some(reply) = self.replies.get_mut(self.clients.len()) else { return };
        if write(reply) {
            self.clients.push(client.address);
            self.raw.push(Some(client.raw));
        }
    }

    /// Sends the replies; how many the kernel did not take. A full socket buffer loses them, as the network might; the
    /// clients ask again.
    pub(super) fn send(&mut self, socket: BorrowedFd<'_>) -> usize {
        let Plan { groups, mut single } = match &mut self.apart {
            Some(0) => plan(&self.clients, |i| self.replies[i].len()),
            Some(batches) => {
                *batches -= 1;
                Plan::default()
            }
            None => Plan::default(),
        };
        let mut lost = 0;
        if groups.is_empty() {
            let replies: Vec<[IoSlice<'_>; 1]> =
                self.replies.iter().take(self.raw.len()).map(|reply| [IoSlice::new(reply)]).collect();
            lost += one_by_one(socket, &mut self.headers, &replies, &self.raw);
        } else {
            for group in groups {
                match self.send_together(socket, &group) {
                    Ok(()) => {}
                    Err(Errno::EAGAIN | Errno::ENOBUFS) => lost += group.len(),
                    // Too old a kernel, a device that cannot sum, or a link that takes less.
                    Err(_) => {
                        self.apart = Some(APART);
                        single.extend(group);
                    }
                }
            }
            let replies: Vec<_> = single.iter().map(|i| [IoSlice::new(&self.replies[*i])]).collect();
            let clients: Vec<_> = single.iter().map(|i| self.raw[*i]).collect();
            lost += one_by_one(socket, &mut self.headers, &replies, &clients);
        }
        self.clients.clear();
        self.raw.clear();
        lost
    }

    /// Replies of one length to one client, as one datagram that the kernel cuts up as late as it can (UDP_SEGMENT in
    /// udp(7), since Linux 4.18).
    fn send_together(&self, socket: BorrowedFd<'_>, group: &[usize]) -> nix::Result<()> {
        let Some(first) = group.first() else { return Ok(()) };
        let slices: Vec<IoSlice<'_>> = group.iter().map(|i| IoSlice::new(&self.replies[*i])).collect();
        let length = u16::try_from(self.replies[*first].len()).map_err(|_| Errno::EMSGSIZE)?;
        let cut = [ControlMessage::UdpGsoSegments(&length)];
        let (fd, flags) = (socket.as_raw_fd(), MsgFlags::MSG_DONTWAIT);
        socket::sendmsg(fd, &slices, &cut, flags, self.raw[*first].as_ref())?;
        Ok(())
    }
}

/// Sends each reply to the client beside it; how many the kernel did not take.
fn one_by_one(
    socket: BorrowedFd<'_>,
    headers: &mut MultiHeaders<SockaddrStorage>,
    replies: &[[IoSlice<'_>; 1]],
    clients: &[Option<SockaddrStorage>],
) -> usize {
    let (mut at, mut lost) = (0, 0);
    while at < replies.len() {
        let flags = MsgFlags::MSG_DONTWAIT;
        match socket::sendmmsg(socket.as_raw_fd(), headers, &replies[at..], &clients[at..], [], flags) {
            Ok(sent) => at += sent.count().max(1),
            // Of the first of them; the others may fare better.
            Err(_) => (at, lost) = (at + 1, lost + 1),
        }
    }
    lost
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::{libc, setsockopt_impl, sockopt_impl};
    use std::{net::UdpSocket, os::fd::AsFd as _, time::Duration};

    /// What a client gets that asked `asked` questions, each answered with as many octets as `length` says.
    fn echoed(bind: &str, together: bool, asked: u8, length: impl Fn(u8) -> usize) -> Vec<Vec<u8>> {
        let (server, client) = (UdpSocket::bind(bind).unwrap(), UdpSocket::bind(bind).unwrap());
        client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        for i in 0..asked {
            client.send_to(&[i], server.local_addr().unwrap()).unwrap();
        }
        let (mut inbox, mut outbox) = (Inbox::new(), Outbox::new(together));
        let arrived = inbox.receive(server.as_fd(), server.local_addr().unwrap().is_ipv6()).unwrap();
        assert_eq!(arrived, usize::from(asked), "over loopback what is sent is there");
        for (packet, sender) in inbox.packets() {
            assert_eq!(sender.address, client.local_addr().unwrap());
            outbox.put(sender, |reply| {
                reply.clear();
                reply.resize(length(packet[0]), packet[0]);
                true
            });
        }
        assert_eq!(outbox.send(server.as_fd()), 0);
        assert_eq!(outbox.apart, together.then_some(0), "the kernel took what was sent together");
        let mut buffer = [0; 2048];
        let mut got: Vec<Vec<u8>> = (0..asked)
            .map(|_| {
                let length = client.recv(&mut buffer).unwrap();
                buffer[..length].to_vec()
            })
            .collect();
        got.sort();
        got
    }

    #[test]
    fn every_reply_arrives_by_itself_however_they_were_sent() {
        for bind in ["127.0.0.1:0", "[::1]:0"] {
            for length in [|_| 50, |i| 50 + usize::from(i % 3), |_| 1232, |i| 40 + usize::from(i)] {
                let want: Vec<Vec<u8>> = (0..64).map(|i| vec![i; length(i)]).collect();
                for together in [true, false] {
                    assert_eq!(echoed(bind, together, 64, length), want, "{bind}, {together}");
                }
            }
        }
    }

    // From a socket that is not to sum the kernel takes nothing together.
    sockopt_impl!(NoSums, SetOnly, libc::SOL_SOCKET, libc::SO_NO_CHECK, bool);

    #[test]
    fn what_the_kernel_does_not_take_together_goes_one_by_one() {
        let (server, client) =
            (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket::setsockopt(&server, NoSums, &true).unwrap();
        let (mut outbox, raw) = (Outbox::new(true), client.local_addr().unwrap().into());
        for apart in [APART, APART - 1] {
            for i in 0..8 {
                outbox.put(Client::new(raw).unwrap(), |reply| {
                    reply.resize(20, i);
                    true
                });
            }
            assert_eq!((outbox.send(server.as_fd()), outbox.apart), (0, Some(apart)));
            assert!((0..8).all(|_| client.recv(&mut [0; 64]).unwrap() == 20));
        }
    }
}
