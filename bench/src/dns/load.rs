//! Load over UDP: as many questions outstanding as the window allows, in batches, every reply checked.

use super::questions::Questions;
use anyhow::{Context as _, ensure};
use nix::{
    errno::Errno,
    sys::socket::{self, MsgFlags, MultiHeaders, SockaddrStorage},
};
use std::{
    io::{IoSlice, IoSliceMut},
    net::{SocketAddr, UdpSocket},
    os::fd::AsRawFd as _,
    time::{Duration, Instant},
};

/// Datagrams a system call.
const BATCH: usize = 64;
/// Longest reply that is read.
const REPLY: usize = 1_500;
/// After so long without a reply the window is taken for lost.
const SILENCE: Duration = Duration::from_millis(50);

/// What came of a load.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Answered {
    /// Replies that fit a question.
    pub(crate) replies: u64,
    /// Questions without one.
    pub(crate) lost: u64,
    /// Replies whose code is not the one expected.
    pub(crate) wrong: u64,
    /// Of those, SERVFAIL: no upstream answered in time; and REFUSED: too many questions waited for one.
    pub(crate) failed: [u64; 2],
    /// How long it took.
    pub(crate) time: Duration,
}

impl Answered {
    /// Counts a reply, of which there is at least a header.
    pub(crate) fn judge(&mut self, questions: &Questions, reply: &[u8]) {
        self.replies += 1;
        if !questions.fits(reply) {
            self.wrong += 1;
            let code = reply[3] & 0x0f;
            self.failed[0] += u64::from(code == 2);
            self.failed[1] += u64::from(code == 5);
        }
    }

    /// Adds another's counts.
    pub(crate) fn add(&mut self, other: &Answered) {
        self.replies += other.replies;
        self.lost += other.lost;
        self.wrong += other.wrong;
        self.failed = [0, 1].map(|i| self.failed[i] + other.failed[i]);
    }

    /// Replies a second.
    pub(crate) fn rate(&self) -> f64 {
        self.replies as f64 / self.time.as_secs_f64()
    }
}

/// Asks `server` for `time`, with `window` questions outstanding at most.
pub(crate) fn run(
    server: SocketAddr,
    questions: &Questions,
    window: usize,
    time: Duration,
) -> anyhow::Result<Answered> {
    let local: SocketAddr = if server.is_ipv4() { "127.0.0.1:0".parse()? } else { "[::1]:0".parse()? };
    let socket = UdpSocket::bind(local)?;
    socket2::SockRef::from(&socket).set_recv_buffer_size(4 << 20)?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(SILENCE))?;
    ensure!((BATCH..=1 << 15).contains(&window), "a window of {BATCH} to 32768");
    let fd = socket.as_raw_fd();
    let mut asked = vec![false; 1 << 16];
    let (mut outgoing, mut replies) = (vec![Vec::<u8>::new(); BATCH], vec![[0_u8; REPLY]; BATCH]);
    let mut sending: MultiHeaders<SockaddrStorage> = MultiHeaders::preallocate(BATCH, None);
    let mut receiving: MultiHeaders<SockaddrStorage> = MultiHeaders::preallocate(BATCH, None);
    let nowhere: Vec<Option<SockaddrStorage>> = vec![None; BATCH];
    let (mut next, mut id, mut outstanding) = (0_usize, 0_u16, 0_usize);
    let mut answered = Answered::default();
    let start = Instant::now();
    while start.elapsed() < time {
        let room = (window - outstanding).min(BATCH);
        // Few at a time would measure system calls.
        if room == BATCH || outstanding == 0 {
            for packet in outgoing.iter_mut().take(room) {
                packet.clear();
                packet.extend_from_slice(questions.packet(next));
                packet[..2].copy_from_slice(&id.to_be_bytes());
                asked[usize::from(id)] = true;
                (next, id) = (next + 1, id.wrapping_add(1));
            }
            let slices: Vec<[IoSlice<'_>; 1]> =
                outgoing.iter().take(room).map(|packet| [IoSlice::new(packet)]).collect();
            let sent = socket::sendmmsg(fd, &mut sending, &slices, &nowhere[..room], [], MsgFlags::empty())
                .context("sendmmsg")?
                .count();
            outstanding += sent;
            answered.lost += (room - sent) as u64;
        }
        let lengths: Vec<usize> = {
            let mut slices: Vec<[IoSliceMut<'_>; 1]> =
                replies.iter_mut().map(|reply| [IoSliceMut::new(reply)]).collect();
            match socket::recvmmsg(fd, &mut receiving, slices.iter_mut(), MsgFlags::MSG_WAITFORONE, None) {
                Ok(messages) => messages.map(|message| message.bytes).collect(),
                Err(Errno::EAGAIN) => Vec::new(),
                // What an ICMP error said of an earlier datagram.
                Err(Errno::ECONNREFUSED) => continue,
                Err(error) => return Err(error).context("recvmmsg"),
            }
        };
        if lengths.is_empty() {
            answered.lost += outstanding as u64;
            asked.fill(false);
            outstanding = 0;
        }
        for (reply, length) in replies.iter().zip(lengths) {
            let slot = &mut asked[usize::from(u16::from_be_bytes([reply[0], reply[1]]))];
            if length < 12 || !std::mem::take(slot) {
                continue;
            }
            outstanding = outstanding.saturating_sub(1);
            answered.judge(questions, &reply[..length]);
        }
    }
    answered.time = start.elapsed();
    Ok(answered)
}
