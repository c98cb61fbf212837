//! The socket: one request, then its answers.

use rtnetlink::{
    packet_core::{
        NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST,
        NetlinkMessage, NetlinkPayload,
    },
    packet_route::RouteNetlinkMessage,
    sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE},
};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use std::{io, time::Duration};

/// Far beyond any answer of the kernel: only a defect reaches it.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// A list that changed while it was read is read again at most so often.
const READS: usize = 8;
/// Bytes of a netlink message's header (`struct nlmsghdr`).
const HEADER: usize = 16;

/// A socket of one network namespace.
#[derive(Debug)]
pub struct Rtnl {
    socket: Socket,
    sequence: u32,
    /// How many messages of the last answer could not be read.
    unread: usize,
}

impl Rtnl {
    /// Opens it in the namespace of the calling thread.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn open() -> io::Result<Rtnl> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_netlink_get_strict_chk(true)?;
        socket.set_ext_ack(true)?;
        set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER_WITHIN))?;
        Ok(Rtnl { socket, sequence: 0, unread: 0 })
    }

    /// Makes what is not there yet.
    pub(super) fn create(&mut self, message: RouteNetlinkMessage) -> io::Result<()> {
        self.exchange(message, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL).map(drop)
    }

    /// Makes it, or changes what has the same key.
    pub(super) fn put(&mut self, message: RouteNetlinkMessage) -> io::Result<()> {
        self.exchange(message, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE).map(drop)
    }

    /// Changes or deletes what is there.
    pub(super) fn change(&mut self, message: RouteNetlinkMessage) -> io::Result<()> {
        self.exchange(message, NLM_F_ACK).map(drop)
    }

    /// Asks for one thing.
    pub(super) fn get(&mut self, message: RouteNetlinkMessage) -> io::Result<Option<RouteNetlinkMessage>> {
        self.exchange(message, NLM_F_ACK).map(|(answers, _)| answers.into_iter().next())
    }

    /// Lists things, all as of one moment.
    pub(super) fn list(&mut self, message: &RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        for _ in 0..READS {
            match self.exchange(message.clone(), NLM_F_DUMP) {
                Ok((answers, false)) => return Ok(answers),
                Ok((_, true)) => {}
                // A kernel without IPv6 has nothing of IPv6.
                Err(error) if error.kind() == io::ErrorKind::Unsupported => return Ok(Vec::new()),
                Err(error) if errno(&error) == Some(libc::EAFNOSUPPORT) => return Ok(Vec::new()),
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::new(io::ErrorKind::Interrupted, "the kernel's tables change too fast to be listed"))
    }

    /// How many messages of the last answer could not be read.
    pub(super) fn unread(&self) -> usize {
        self.unread
    }

    fn exchange(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<(Vec<RouteNetlinkMessage>, bool)> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | flags;
        request.header.sequence_number = self.sequence;
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        let (mut answers, mut interrupted) = (Vec::new(), false);
        self.unread = 0;
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            for message in messages(&datagram) {
                let Some(message) = message else {
                    self.unread += 1;
                    continue;
                };
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                interrupted |= message.header.flags & NLM_F_DUMP_INTR != 0;
                match message.payload {
                    NetlinkPayload::InnerMessage(answer) => answers.push(answer),
                    NetlinkPayload::Done(_) => return Ok((answers, interrupted)),
                    NetlinkPayload::Error(error) if error.code.is_none() => {
                        return Ok((answers, interrupted));
                    }
                    NetlinkPayload::Error(error) => return Err(explained(error.to_io(), &error.header)),
                    _ => {}
                }
            }
        }
    }
}

/// The messages of a datagram; `None` for one that cannot be read, as a link of a kind made after this program.
pub(super) fn messages(datagram: &[u8]) -> impl Iterator<Item = Option<NetlinkMessage<RouteNetlinkMessage>>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let length = rest.first_chunk::<4>().map(|bytes| u32::from_ne_bytes(*bytes) as usize)?;
        let message = rest.get(..length).filter(|_| length >= HEADER)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(NetlinkMessage::deserialize(message).ok())
    })
}

/// What the kernel says, in numbers and in words.
#[derive(Debug, thiserror::Error)]
#[error("{source}: {text}")]
struct Explained {
    source: io::Error,
    text: String,
}

/// The number of an error of this folder (errno(3)).
#[must_use]
pub fn errno(error: &io::Error) -> Option<i32> {
    let explained = error.get_ref().and_then(|inner| inner.downcast_ref::<Explained>());
    explained.map_or(error, |explained| &explained.source).raw_os_error()
}

/// Adds the kernel's own words, if it has any (`NLMSGERR_ATTR_MSG`, linux/netlink.h): they follow the request, which
/// comes back in front of them.
fn explained(error: io::Error, echoed: &[u8]) -> io::Error {
    const MESSAGE: u16 = 1;
    let length = echoed.first_chunk::<4>().map_or(0, |bytes| u32::from_ne_bytes(*bytes) as usize);
    let mut rest = echoed.get(length.next_multiple_of(4)..).unwrap_or_default();
    while let [a, b, c, d, ..] = *rest {
        let (length, kind) = (usize::from(u16::from_ne_bytes([a, b])), u16::from_ne_bytes([c, d]));
        let Some(value) = rest.get(4..length) else { break };
        if kind == MESSAGE {
            let text = String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned();
            return io::Error::new(error.kind(), Explained { source: error, text });
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng, rngs::StdRng};

    #[test]
    fn garbage_is_read_without_panic_and_ends() {
        let seed = 0x4d45_5348;
        println!("seed {seed:#x}");
        let mut random = StdRng::seed_from_u64(seed);
        for _ in 0..20_000 {
            let mut bytes = vec![0u8; random.random_range(0..200)];
            random.fill(bytes.as_mut_slice());
            if let Some(length) = bytes.first_chunk_mut::<4>() {
                *length = random.random_range(0u32..220).to_ne_bytes();
            }
            assert!(messages(&bytes).count() <= bytes.len() / HEADER + 1);
            let _words = explained(io::Error::from_raw_os_error(22), &bytes);
        }
    }

    #[test]
    fn the_kernels_words_are_told() {
        let mut echoed = vec![0u8; 20];
        echoed[..4].copy_from_slice(&20u32.to_ne_bytes());
        echoed.extend([8, 0, 3, 0, 1, 2, 3, 4]);
        echoed.extend([7, 0, 1, 0, b'h', b'm', 0, 0]);
        let error = explained(io::Error::from_raw_os_error(22), &echoed);
        assert_eq!(errno(&error), Some(22));
        assert!(
            error.to_string().ends_with(": hm") && error.kind() == io::ErrorKind::InvalidInput,
            "{error}"
        );
    }
}
