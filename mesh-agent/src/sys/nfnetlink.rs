//! The netlink of netfilter: its socket, messages and attributes (netlink(7); uapi `linux/netlink.h`,
//! `linux/netfilter/nfnetlink.h`). [`super::genl`] speaks generic netlink with the same: both headers are 4 bytes.

use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use std::{io, net::IpAddr, time::Duration};

/// `struct nlmsghdr`: length, type, flags, sequence number, port.
const HEADER: usize = 16;
/// `struct nfgenmsg`: family, version 0, resource id; `struct genlmsghdr`: command, version, two bytes of nothing.
const NFGEN: usize = 4;
// `NLM_F_*`
pub(super) const REQUEST: u16 = 1;
pub(super) const ACK: u16 = 4;
pub(super) const DUMP: u16 = 0x300;
pub(super) const CREATE: u16 = 0x400;
// `NFNL_MSG_BATCH_BEGIN` and `NFNL_MSG_BATCH_END`
const BEGIN: u16 = 0x10;
const END: u16 = 0x11;
/// `NLMSG_MIN_TYPE`: the types below are common to all of netlink.
const OWN: u16 = 0x10;
/// The kernel fills at most 32 KiB per datagram of a dump (`netlink_dump`).
const DATAGRAM: usize = 64 * 1024;
/// Far beyond any answer of the kernel: only a defect reaches it.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
const NLA_F_NESTED: u16 = 1 << 15;
/// Without the two flags an attribute's type can carry.
const NLA_TYPE_MASK: u16 = 0x3fff;

/// A request while it is built.
pub(super) struct Request(Vec<u8>);

impl Request {
    /// A request to a subsystem (`NFNL_SUBSYS_*`) with its message's number; `family` is `NFPROTO_*`, which those of IP
    /// share with `AF_*`.
    pub(super) fn new(subsystem: u16, message: u16, flags: u16, family: u8) -> Request {
        Self::of_type(subsystem << 8 | message, flags, [family, 0, 0, 0])
    }

    /// A request of any type, with what follows netlink's own header.
    pub(super) fn of_type(kind: u16, flags: u16, header: [u8; NFGEN]) -> Request {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        bytes.extend(header);
        Request(bytes)
    }

    /// An end of a batch; it names its subsystem as the resource.
    fn edge(message: u16, subsystem: u16) -> Request {
        let mut request = Request::new(0, message, REQUEST, 0);
        request.0[HEADER + 2..].copy_from_slice(&subsystem.to_be_bytes());
        request
    }

    /// Adds an attribute. Values are a few bytes here, so lengths fit.
    pub(super) fn put(&mut self, kind: u16, value: &[u8]) {
        let start = self.open(kind);
        self.0.extend_from_slice(value);
        self.close(start);
    }

    /// Adds an attribute of text, which ends with a NUL.
    pub(super) fn put_text(&mut self, kind: u16, text: &str) {
        self.put(kind, &[text.as_bytes(), &[0]].concat());
    }

    /// Adds a number; of netfilter's, unlike others, the greatest byte comes first.
    pub(super) fn put_u32(&mut self, kind: u16, value: u32) {
        self.put(kind, &value.to_be_bytes());
    }

    /// `v4` or `v6` is the attribute's type.
    pub(super) fn put_ip(&mut self, v4: u16, v6: u16, address: IpAddr) {
        match address {
            IpAddr::V4(address) => self.put(v4, &address.octets()),
            IpAddr::V6(address) => self.put(v6, &address.octets()),
        }
    }

    /// Adds an attribute that holds others.
    pub(super) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Request)) {
        let start = self.open(kind | NLA_F_NESTED);
        fill(self);
        self.close(start);
    }

    fn open(&mut self, kind: u16) -> usize {
        let start = self.0.len();
        self.0.extend([0, 0]);
        self.0.extend(kind.to_ne_bytes());
        start
    }

    fn close(&mut self, start: usize) {
        let length = u16::try_from(self.0.len() - start).unwrap_or(u16::MAX);
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    /// Asks for an answer when it is done, too.
    fn acknowledged(&mut self) {
        let flags = u16::from_ne_bytes([self.0[6], self.0[7]]) | ACK;
        self.0[6..8].copy_from_slice(&flags.to_ne_bytes());
    }

    /// The bytes to send, with their length and `sequence` filled in.
    pub(super) fn finish(&mut self, sequence: u32) -> &[u8] {
        let length = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0[8..12].copy_from_slice(&sequence.to_ne_bytes());
        &self.0
    }
}

/// How many requests of a row are sent at once: so many refusals fit into a socket's buffer of the default size.
const ROW: usize = 64;

/// A socket to netfilter, or another protocol, in one network namespace.
pub(super) struct Channel {
    pub(super) socket: Socket,
    sequence: u32,
    datagram: Vec<u8>,
}

impl Channel {
    /// Opens one to netfilter in the calling thread's network namespace. Only the kernel is heard on it.
    pub(super) fn open() -> io::Result<Channel> {
        Self::open_to(NETLINK_NETFILTER)
    }

    /// The same to another protocol of netlink.
    pub(super) fn open_to(protocol: isize) -> io::Result<Channel> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER_WITHIN))?;
        Ok(Channel { socket, sequence: 0, datagram: Vec::with_capacity(DATAGRAM) })
    }

    /// Sends a request, which asks for a dump or an acknowledgement, and hands out the objects of its answer.
    pub(super) fn ask(
        &mut self,
        mut request: Request,
        mut each: impl FnMut(u8, Attributes<'_>),
    ) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        self.socket.send(request.finish(self.sequence), 0)?;
        loop {
            self.receive(0)?;
            for message in messages(&self.datagram) {
                match message {
                    // What is left of a request that failed half way.
                    Ok((sequence, _)) if sequence != self.sequence => {}
                    Ok((_, Answer::Data(family, attributes))) => each(family, attributes),
                    Ok((_, Answer::End(0))) => return Ok(()),
                    Ok((_, Answer::End(error))) => return Err(io::Error::from_raw_os_error(error)),
                    Ok((_, Answer::Other)) => {}
                    Err(()) => return Err(malformed()),
                }
            }
        }
    }

    /// Sends requests as one batch of a subsystem: all take effect, or none and the first complaint is the error.
    pub(super) fn batch(&mut self, subsystem: u16, requests: Vec<Request>) -> io::Result<()> {
        let mut bytes = Vec::new();
        let edges = (Request::edge(BEGIN, subsystem), Request::edge(END, subsystem));
        for mut request in std::iter::once(edges.0).chain(requests).chain([edges.1]) {
            self.sequence = self.sequence.wrapping_add(1);
            bytes.extend_from_slice(request.finish(self.sequence));
        }
        self.socket.send(&bytes, 0)?;
        // The kernel works inside the call that sends: every answer is here.
        let mut first = None;
        loop {
            match self.receive(libc::MSG_DONTWAIT) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                other => other?,
            }
            for message in messages(&self.datagram).flatten() {
                if let (_, Answer::End(error)) = message {
                    first = first.filter(|e| *e != 0).or(Some(error));
                }
            }
        }
        match first {
            Some(0) => Ok(()),
            Some(error) => Err(io::Error::from_raw_os_error(error)),
            None => Err(malformed()),
        }
    }

    /// Sends requests in a row, each for itself: which were refused, by their place, with the error number.
    pub(super) fn row(&mut self, requests: Vec<Request>) -> io::Result<Vec<(usize, i32)>> {
        let mut refused = Vec::new();
        let mut requests = requests.into_iter().enumerate().peekable();
        while requests.peek().is_some() {
            let (first, mut bytes, mut places) = (self.sequence.wrapping_add(1), Vec::new(), Vec::new());
            while let Some((place, mut request)) = requests.next() {
                self.sequence = self.sequence.wrapping_add(1);
                places.push(place);
                let last = places.len() == ROW || requests.peek().is_none();
                if last {
                    request.acknowledged();
                }
                bytes.extend_from_slice(request.finish(self.sequence));
                if last {
                    break;
                }
            }
            self.socket.send(&bytes, 0)?;
            let mut heard = false;
            while !heard {
                self.receive(0)?;
                for message in messages(&self.datagram) {
                    let (sequence, answer) = message.map_err(|()| malformed())?;
                    let place = usize::try_from(sequence.wrapping_sub(first)).ok();
                    let Some(place) = place.and_then(|at| places.get(at)) else { continue };
                    if let Answer::End(error) = answer {
                        heard |= sequence == self.sequence;
                        refused.extend((error != 0).then_some((*place, error)));
                    }
                }
            }
        }
        Ok(refused)
    }

    fn receive(&mut self, flags: libc::c_int) -> io::Result<()> {
        loop {
            self.datagram.clear();
            match self.socket.recv(&mut self.datagram, flags | libc::MSG_TRUNC) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Ok(length) if length > self.datagram.len() => return Err(malformed()),
                other => return other.map(drop),
            }
        }
    }
}

/// An answer that is none.
pub(super) fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer is cut short")
}

/// What one message of an answer says.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Answer<'a> {
    /// An object: its family (of generic netlink: the command) and its attributes.
    Data(u8, Attributes<'a>),
    /// The end, with the error number (0 is well done).
    End(i32),
    /// Anything else.
    Other,
}

/// The messages of a datagram with their sequence numbers; `Err` at one that is cut short, which is the last.
pub(super) fn messages(datagram: &[u8]) -> impl Iterator<Item = Result<(u32, Answer<'_>), ()>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let message = message(rest);
        rest = match &message {
            Some((length, ..)) => rest.get(length.next_multiple_of(4)..).unwrap_or_default(),
            None => &[],
        };
        Some(message.map(|(_, sequence, answer)| (sequence, answer)).ok_or(()))
    })
}

fn message(bytes: &[u8]) -> Option<(usize, u32, Answer<'_>)> {
    let length = usize::try_from(u32_at(bytes, 0)?).ok()?;
    let kind = u16_at(bytes, 4)?;
    let sequence = u32_at(bytes, 8)?;
    let payload = bytes.get(HEADER..length)?;
    // 2 is NLMSG_ERROR, 3 NLMSG_DONE; a negative errno follows.
    let answer = match kind {
        2 => Answer::End(error(payload)?),
        3 => Answer::End(error(payload).unwrap_or(0)),
        kind if kind >= OWN => Answer::Data(*payload.first()?, Attributes(payload.get(NFGEN..)?)),
        _ => Answer::Other,
    };
    Some((length, sequence, answer))
}

fn error(payload: &[u8]) -> Option<i32> {
    let bytes = payload.get(..4)?.try_into().ok()?;
    Some(i32::from_ne_bytes(bytes).saturating_neg())
}

/// Attributes in a row: (type, value). It ends at one that is cut short.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Attributes<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, Value<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16_at(self.0, 0)?);
        let kind = u16_at(self.0, 2)? & NLA_TYPE_MASK;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, Value(value)))
    }
}

/// An attribute's value. Numbers are big-endian, and `None` when the length is another's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Value<'a>(&'a [u8]);

impl<'a> Value<'a> {
    pub(super) fn bytes<const N: usize>(self) -> Option<[u8; N]> {
        self.0.try_into().ok()
    }

    pub(super) fn u16(self) -> Option<u16> {
        self.bytes().map(u16::from_be_bytes)
    }

    pub(super) fn u32(self) -> Option<u32> {
        self.bytes().map(u32::from_be_bytes)
    }

    /// As it stands: in the byte order that the protocol has.
    pub(super) fn raw(self) -> &'a [u8] {
        self.0
    }

    /// Text, up to a NUL.
    pub(super) fn text(self) -> String {
        let text = self.0.split(|byte| *byte == 0).next().unwrap_or_default();
        String::from_utf8_lossy(text).into_owned()
    }

    pub(super) fn u64(self) -> Option<u64> {
        self.bytes().map(u64::from_be_bytes)
    }

    pub(super) fn ip(self) -> Option<IpAddr> {
        match self.0.len() {
            4 => self.bytes::<4>().map(IpAddr::from),
            _ => self.bytes::<16>().map(IpAddr::from),
        }
    }

    /// The attributes in it.
    pub(super) fn nested(self) -> Attributes<'a> {
        Attributes(self.0)
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}
