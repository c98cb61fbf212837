//! Many datagrams with one system call: recvmmsg(2) and sendmmsg(2).

use nix::sys::socket::{self, MsgFlags, MultiHeaders, SockaddrLike as _, SockaddrStorage};
use std::{
    cell::RefCell,
    io::{self, IoSlice, IoSliceMut},
    net::SocketAddr,
    os::fd::{AsRawFd as _, BorrowedFd},
};

/// Datagrams a call. More gain nothing: the calls are then a hundredth of the work.
pub(super) const BATCH: usize = 64;

/// Most octets of a query; a longer datagram is cut, and then is no whole message. Not 4,096: the buffers' beginnings
/// would all fall into the same few lines of the processor's cache.
const MAX_QUERY: usize = 4096 + 64;

thread_local! {
    /// What the kernel fills in, of no use between calls. It holds raw pointers and so must not change threads, as
    /// tasks do. Not to be used for sending as well: that leaves pointers to addresses of the caller in it. One for
    /// IPv4 and one for IPv6, because the length of the last address received is all the room that the next one gets.
    static RECEIVING: [RefCell<MultiHeaders<SockaddrStorage>>; 2] =
        std::array::from_fn(|_| RefCell::new(MultiHeaders::preallocate(BATCH, None)));
    /// What the kernel reads.
    static SENDING: RefCell<MultiHeaders<SockaddrStorage>> =
        RefCell::new(MultiHeaders::preallocate(BATCH, None));
}

/// Buffers for a batch of queries and of replies.
#[derive(Debug)]
pub(super) struct Batch {
    is_ipv6: bool,
    queries: Vec<[u8; MAX_QUERY]>,
    arrived: Vec<(usize, Option<SockaddrStorage>)>,
    replies: Vec<Vec<u8>>,
    clients: Vec<Option<SockaddrStorage>>,
}

impl Batch {
    /// For sockets of one family.
    pub(super) fn new(is_ipv6: bool) -> Batch {
        Batch {
            is_ipv6,
            queries: vec![[0; MAX_QUERY]; BATCH],
            arrived: Vec::with_capacity(BATCH),
            replies: (0..BATCH).map(|_| Vec::with_capacity(512)).collect(),
            clients: Vec::with_capacity(BATCH),
        }
    }

    /// Takes what has arrived, without waiting; how many datagrams.
    ///
    /// # Errors
    /// `WouldBlock` when there are none, and what ICMP said of earlier replies.
    pub(super) fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        self.arrived.clear();
        self.clients.clear();
        let flags = MsgFlags::MSG_DONTWAIT;
        let fd = socket.as_raw_fd();
        RECEIVING.with(|families| {
            let headers = &mut families[usize::from(self.is_ipv6)].borrow_mut();
            let mut slices: Vec<[IoSliceMut<'_>; 1]> =
                self.queries.iter_mut().map(|query| [IoSliceMut::new(query)]).collect();
            let messages = socket::recvmmsg(fd, headers, slices.iter_mut(), flags, None)?;
            self.arrived.extend(messages.map(|message| (message.bytes, message.address)));
            Ok(self.arrived.len())
        })
    }

    /// What arrived.
    pub(super) fn packets(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.queries.iter().zip(&self.arrived).map(|(query, (length, _))| &query[..*length])
    }

    /// Gives every query that arrived, with its client, to `answer`, which fills the reply; those it says `true` of are
    /// to be sent.
    pub(super) fn answer(&mut self, mut answer: impl FnMut(&[u8], SocketAddr, &mut Vec<u8>) -> bool) {
        for (query, (length, client)) in self.queries.iter().zip(&self.arrived) {
            let (Some(storage), Some(reply)) = (client, self.replies.get_mut(self.clients.len())) else {
                continue;
            };
            let Some(client) = address(storage) else { continue };
            if answer(&query[..*length], client, reply) {
                self.clients.push(Some(*storage));
            }
        }
    }

    /// Sends the replies; how many the kernel did not take. A full socket buffer loses them, as the network might; the
    /// clients ask again.
    pub(super) fn send(&mut self, socket: BorrowedFd<'_>) -> usize {
        let slices: Vec<[IoSlice<'_>; 1]> =
            self.replies.iter().take(self.clients.len()).map(|reply| [IoSlice::new(reply)]).collect();
        let (mut at, mut lost) = (0, 0);
        while at < slices.len() {
            let (rest, clients) = (&slices[at..], &self.clients[at..]);
            let flags = MsgFlags::MSG_DONTWAIT;
            let sent = SENDING.with_borrow_mut(|headers| {
                let sent = socket::sendmmsg(socket.as_raw_fd(), headers, rest, clients, [], flags)?;
                Ok::<_, nix::errno::Errno>(sent.count())
            });
            match sent {
                Ok(sent) => at += sent.max(1),
                // Of the first of them; the others may fare better.
                Err(_) => (at, lost) = (at + 1, lost + 1),
            }
        }
        lost
    }
}

fn address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    match storage.family()? {
        socket::AddressFamily::Inet => storage.as_sockaddr_in().map(|a| SocketAddr::V4((*a).into())),
        socket::AddressFamily::Inet6 => storage.as_sockaddr_in6().map(|a| SocketAddr::V6((*a).into())),
        _ => None,
    }
}
