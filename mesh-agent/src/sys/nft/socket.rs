//! The socket to nf_tables.

use super::transaction::Transaction;
use nftnl_sys::libc;
use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, socket_with,
        sockopt::{set_socket_recv_buffer_size_force, set_socket_send_buffer_size_force},
    },
};
use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    ptr,
};

/// Room for a whole batch, and for the answers to its messages.
const SEND_BUFFER: usize = 256 << 20;
const RECEIVE_BUFFER: usize = 16 << 20;
/// The kernel's dumps come in pieces of at most 32 KiB.
const PIECE: usize = 64 << 10;
/// A dump that the ruleset changed under is read again this often.
const DUMPS: u32 = 8;

/// A socket to the nf_tables of the namespace it was opened in.
#[derive(Debug)]
pub struct Nft {
    socket: OwnedFd,
    pub(super) sequence: u32,
}

/// One netlink message: its type and where it lies in the piece.
pub(super) struct Message<'a> {
    pub(super) kind: u16,
    /// All of it, header included.
    pub(super) bytes: &'a [u8],
}

impl Nft {
    /// Opens one in the calling thread's network namespace.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn open() -> io::Result<Nft> {
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(netlink::NETFILTER))?;
        // Without CAP_NET_ADMIN neither works, and then nothing else does: its error says so.
        let _send = set_socket_send_buffer_size_force(&socket, SEND_BUFFER);
        let _receive = set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER);
        Ok(Nft { socket, sequence: 0 })
    }

    /// Hands a batch over. All of it took effect, or nothing.
    ///
    /// The pages of a batch go in one `sendmsg`: the kernel takes each message it receives for a batch of its own.
    ///
    /// # Errors
    /// The kernel's first complaint.
    pub fn commit(&mut self, transaction: Transaction) -> io::Result<()> {
        let batch = transaction.finish();
        let pages: Vec<io::IoSlice<'_>> = batch.iter().map(io::IoSlice::new).collect();
        self.send(&pages)?;
        // The kernel works while it takes the message: every answer is here by now.
        let (mut heard, mut buffer) = (false, vec![0; PIECE]);
        let mut refused = None;
        loop {
            let read = match recv(&self.socket, &mut *buffer, RecvFlags::DONTWAIT) {
                Ok((_, read)) => read,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            each(&buffer[..read], |message| {
                if let Some(code) = error(&message) {
                    heard = true;
                    if code != 0 {
                        refused.get_or_insert(code);
                    }
                }
            });
        }
        match refused {
            Some(code) => Err(io::Error::from_raw_os_error(-code)),
            None if heard => Ok(()),
            None => Err(io::Error::other("nf_tables did not answer")),
        }
    }

    /// Sends a request and gives every message of its answer to `take`; whole, or an error.
    pub(super) fn ask(&mut self, request: &[u8], mut take: impl FnMut(&Message<'_>)) -> io::Result<Asked> {
        self.send(&[io::IoSlice::new(request)])?;
        let (mut buffer, mut interrupted) = (vec![0; PIECE], false);
        loop {
            let read = match recv(&self.socket, &mut *buffer, RecvFlags::empty()) {
                Ok((_, read)) => read,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            let mut end = None;
            each(&buffer[..read], |message| {
                let flags = number(&message.bytes[6..8]);
                // NLM_F_DUMP_INTR: what was dumped changed meanwhile.
                interrupted |= flags & 0x10 != 0;
                if message.kind == 3 {
                    end = Some(0);
                } else if let Some(code) = error(&message) {
                    end = Some(code);
                } else {
                    take(&message);
                }
            });
            match end {
                None => {}
                Some(0) if interrupted => return Ok(Asked::Again),
                Some(0) => return Ok(Asked::All),
                // EINTR says the same of a dump that could not go on.
                Some(code) if -code == libc::EINTR => return Ok(Asked::Again),
                Some(code) => return Err(io::Error::from_raw_os_error(-code)),
            }
        }
    }

    /// As [`Nft::ask`], from the start again while the ruleset changes under it; `collect` begins anew each time.
    pub(super) fn dump<T>(
        &mut self,
        request: &[u8],
        collect: impl Fn(&mut Vec<T>, &Message<'_>),
    ) -> io::Result<Vec<T>> {
        for _ in 0..DUMPS {
            let mut all = Vec::new();
            match self.ask(request, |message| collect(&mut all, message)) {
                Ok(Asked::All) => return Ok(all),
                Ok(Asked::Again) => {}
                // No such table or set: it holds nothing.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(Vec::new()),
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::other(format!("the ruleset changed {DUMPS} times while it was read")))
    }

    fn send(&self, parts: &[io::IoSlice<'_>]) -> io::Result<()> {
        // SAFETY: a zeroed msghdr is an empty one; the pieces live until the call returns. An `IoSlice` is an iovec by
        // its documentation, and the kernel does not write into them.
        let sent = unsafe {
            let mut message: libc::msghdr = std::mem::zeroed();
            message.msg_iov = parts.as_ptr().cast_mut().cast();
            message.msg_iovlen = parts.len();
            libc::sendmsg(
                self.socket.as_raw_fd(),
                ptr::from_ref(&message),
                SendFlags::empty().bits().cast_signed(),
            )
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// Whether a dump is complete.
pub(super) enum Asked {
    All,
    Again,
}

fn number(bytes: &[u8]) -> u16 {
    bytes.try_into().map_or(0, u16::from_ne_bytes)
}

/// The code of an `NLMSG_ERROR`; 0 is an acknowledgement.
fn error(message: &Message<'_>) -> Option<i32> {
    let code = message.bytes.get(16..20)?.try_into().ok()?;
    (message.kind == 2).then(|| i32::from_ne_bytes(code))
}

/// Walks the messages of one piece (netlink(7)).
fn each<'a>(mut piece: &'a [u8], mut take: impl FnMut(Message<'a>)) {
    while let Some(header) = piece.first_chunk::<16>() {
        let len =
            usize::try_from(u32::from_ne_bytes([header[0], header[1], header[2], header[3]])).unwrap_or(0);
        let Some(bytes) = piece.get(..len).filter(|m| m.len() >= 16) else { return };
        take(Message { kind: number(&header[4..6]), bytes });
        piece = piece.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
}
