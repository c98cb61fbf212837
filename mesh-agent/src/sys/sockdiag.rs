//! Sockets of this network namespace, found by what programs of the kernel keep with them, and ended
//! (sock_diag(7); uapi `linux/inet_diag.h`, `linux/sock_diag.h`).

use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use std::{
    io,
    net::{IpAddr, SocketAddr as Remote},
    os::fd::{AsRawFd, OwnedFd},
    time::Duration,
};

/// `struct nlmsghdr`.
const HEADER: usize = 16;
/// `struct inet_diag_sockid`.
const ID: usize = 48;
/// `struct inet_diag_msg`.
const MESSAGE: usize = 72;
/// `SOCK_DIAG_BY_FAMILY` and `SOCK_DESTROY`.
const LIST: u16 = 20;
const DESTROY: u16 = 21;
/// `NLM_F_REQUEST | NLM_F_ACK` and `NLM_F_REQUEST | NLM_F_DUMP`.
const CHANGE: u16 = 0x5;
const DUMP: u16 = 0x301;
/// Every state of TCP in which a connection goes on: not listening, closed or waiting for its time to pass.
const CONNECTED: u32 = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11;
/// Far beyond any answer of the kernel: only a defect reaches it.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// A socket to the kernel's lists of sockets.
#[derive(Debug)]
pub struct SockDiag {
    socket: Socket,
    sequence: u32,
}

/// What tells a socket from all others: its family and `struct inet_diag_sockid` with its cookie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SocketId {
    family: u8,
    protocol: u8,
    id: [u8; ID],
}

impl SocketId {
    /// Whom it is connected to; an address of IPv4 is told as such, also of a socket of IPv6.
    #[must_use]
    pub fn remote(&self) -> Remote {
        let port = u16::from_be_bytes([self.id[2], self.id[3]]);
        let mut address = [0; 16];
        address.copy_from_slice(&self.id[20..36]);
        let [a, b, c, d, ..] = address;
        let address = match i32::from(self.family) {
            libc::AF_INET => IpAddr::from([a, b, c, d]),
            _ => IpAddr::from(address).to_canonical(),
        };
        Remote::new(address, port)
    }

    /// Its number, as `SO_COOKIE` and programs know it.
    #[must_use]
    pub fn cookie(&self) -> u64 {
        let mut cookie = [0; 8];
        cookie.copy_from_slice(&self.id[ID - 8..]);
        u64::from_ne_bytes(cookie)
    }
}

impl SockDiag {
    /// Opens it in the calling thread's network namespace.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open() -> io::Result<SockDiag> {
        let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER_WITHIN))?;
        Ok(SockDiag { socket, sequence: 0 })
    }

    /// Calls `each` with every connected socket of a protocol (`IPPROTO_TCP` or `IPPROTO_UDP`), whatever its address
    /// family, and the value it has in a map of socket storage; of UDP the kernel tells none. Of those alone with that
    /// remote port, if one is given.
    ///
    /// # Errors
    /// The kernel's.
    pub fn connected(
        &mut self,
        protocol: u8,
        remote_port: Option<u16>,
        map: &OwnedFd,
        mut each: impl FnMut(SocketId, Option<&[u8]>),
    ) -> io::Result<()> {
        for family in [libc::AF_INET, libc::AF_INET6] {
            let family = u8::try_from(family).unwrap_or(0);
            let states = if protocol == 6 { CONNECTED } else { 1 << 1 };
            let mut id = [0; ID];
            id[2..4].copy_from_slice(&remote_port.unwrap_or(0).to_be_bytes());
            let mut request = self.request(LIST, DUMP, &SocketId { family, protocol, id }, states);
            // INET_DIAG_REQ_SK_BPF_STORAGES with one SK_DIAG_BPF_STORAGE_REQ_MAP_FD.
            request.extend([12_u16, 2 | 1 << 15, 8, 1].map(u16::to_ne_bytes).as_flattened());
            request.extend(map.as_raw_fd().to_ne_bytes());
            self.exchange(request, |message| {
                if let Some((id, value)) = read(message, protocol) {
                    each(id, value);
                }
            })?;
        }
        Ok(())
    }

    /// Ends a socket: who uses it meets an error, and TCP's other side a reset. Whether it was still there.
    ///
    /// # Errors
    /// The kernel's; `Unsupported` where it was built without `INET_DIAG_DESTROY`.
    pub fn destroy(&mut self, socket: &SocketId) -> io::Result<bool> {
        let request = self.request(DESTROY, CHANGE, socket, u32::MAX);
        match self.exchange(request, |_| ()) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn request(&mut self, kind: u16, flags: u16, socket: &SocketId, states: u32) -> Vec<u8> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut bytes = vec![0; 4];
        bytes.extend([kind, flags].map(u16::to_ne_bytes).as_flattened());
        bytes.extend(self.sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend([socket.family, socket.protocol, 0, 0]);
        bytes.extend(states.to_ne_bytes());
        bytes.extend(socket.id);
        bytes
    }

    fn exchange(&mut self, mut request: Vec<u8>, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        let length = u32::try_from(request.len()).unwrap_or(0);
        request[..4].copy_from_slice(&length.to_ne_bytes());
        self.socket.send(&request, 0)?;
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            for (kind, sequence, payload) in messages(&datagram) {
                match kind {
                    _ if sequence != self.sequence => {}
                    // NLMSG_ERROR, whose number is 0 for well done; NLMSG_DONE.
                    2 => {
                        let error = payload.first_chunk().map_or(libc::EBADMSG, |e| -i32::from_ne_bytes(*e));
                        return if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) };
                    }
                    3 => return Ok(()),
                    LIST => each(payload),
                    _ => {}
                }
            }
        }
    }
}

/// Messages of a datagram: type, sequence number, payload. It ends at one that is cut short.
fn messages(datagram: &[u8]) -> impl Iterator<Item = (u16, u32, &[u8])> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let length = usize::try_from(u32::from_ne_bytes(*rest.first_chunk()?)).ok()?;
        let message = rest.get(..length).filter(|_| length >= HEADER)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        let (kind, sequence) = (message.get(4..6)?.try_into().ok()?, message.get(8..12)?.try_into().ok()?);
        Some((u16::from_ne_bytes(kind), u32::from_ne_bytes(sequence), message.get(HEADER..)?))
    })
}

/// The value of the first attribute of that type, flags aside.
fn attribute(mut rest: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16::from_ne_bytes(rest.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?) & 0x3fff;
        let value = rest.get(4..length)?;
        if kind == wanted {
            return Some(value);
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
}

/// A socket and the value it has in the map that was asked for.
fn read(message: &[u8], protocol: u8) -> Option<(SocketId, Option<&[u8]>)> {
    let id = message.get(4..4 + ID)?.try_into().ok()?;
    // INET_DIAG_SK_BPF_STORAGES, SK_DIAG_BPF_STORAGE, SK_DIAG_BPF_STORAGE_MAP_VALUE.
    let value = [20, 1, 3].into_iter().try_fold(message.get(MESSAGE..)?, attribute);
    Some((SocketId { family: *message.first()?, protocol, id }, value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng, rngs::StdRng};

    #[test]
    fn a_stored_value_is_found_and_garbage_is_read_without_panic() {
        let mut message = vec![0; MESSAGE];
        message[0] = 2;
        message[6] = 9;
        for (kind, length) in [(8_u16, 5_u16), (20 | 1 << 15, 20), (1 | 1 << 15, 16), (3, 12)] {
            message.extend(length.to_ne_bytes());
            message.extend(kind.to_ne_bytes());
            message.extend(if kind == 8 { vec![1, 0, 0, 0] } else { Vec::new() });
        }
        message.extend([1, 2, 3, 4, 5, 6, 7, 8]);
        let (id, value) = read(&message, 6).unwrap();
        assert_eq!((id.family, id.id[2], value), (2, 9, Some(&[1, 2, 3, 4, 5, 6, 7, 8][..])));
        let seed = 0x4d45_5348;
        println!("seed {seed:#x}");
        let mut random = StdRng::seed_from_u64(seed);
        for _ in 0..50_000 {
            let mut broken = message.clone();
            for _ in 0..random.random_range(1..4) {
                let at = random.random_range(0..broken.len());
                broken[at] = random.random();
            }
            broken.truncate(random.random_range(0..=broken.len()));
            let _read = read(&broken, 6);
            assert!(messages(&broken).count() <= broken.len() / HEADER + 1);
        }
    }
}
