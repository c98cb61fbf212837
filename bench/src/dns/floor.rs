//! The floor: a bare echo in batches, which sets the QR bit and does nothing else.

use anyhow::Context as _;
use nix::{
    errno::Errno,
    sys::socket::{self, MsgFlags, MultiHeaders, SockaddrStorage},
};
use std::{
    io::{IoSlice, IoSliceMut},
    net::{SocketAddr, UdpSocket},
    os::fd::AsRawFd as _,
};

/// Datagrams a system call, as many as our server takes.
const BATCH: usize = 64;
const LONGEST: usize = 1_500;

/// Echoes for ever.
pub(super) fn serve(address: SocketAddr) -> anyhow::Result<()> {
    let socket = UdpSocket::bind(address)?;
    socket2::SockRef::from(&socket).set_recv_buffer_size(4 << 20)?;
    let fd = socket.as_raw_fd();
    let mut packets = vec![[0_u8; LONGEST]; BATCH];
    let mut receiving: MultiHeaders<SockaddrStorage> = MultiHeaders::preallocate(BATCH, None);
    let mut sending: MultiHeaders<SockaddrStorage> = MultiHeaders::preallocate(BATCH, None);
    loop {
        let from: Vec<(usize, Option<SockaddrStorage>)> = {
            let mut slices: Vec<[IoSliceMut<'_>; 1]> =
                packets.iter_mut().map(|packet| [IoSliceMut::new(packet)]).collect();
            match socket::recvmmsg(fd, &mut receiving, slices.iter_mut(), MsgFlags::MSG_WAITFORONE, None) {
                Ok(messages) => messages.map(|message| (message.bytes, message.address)).collect(),
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(error).context("recvmmsg"),
            }
        };
        for packet in packets.iter_mut().take(from.len()) {
            packet[2] |= 0x80;
        }
        let slices: Vec<[IoSlice<'_>; 1]> = packets
            .iter()
            .zip(&from)
            .map(|(packet, (length, _))| [IoSlice::new(&packet[..*length])])
            .collect();
        let to: Vec<Option<SockaddrStorage>> = from.iter().map(|(_, address)| *address).collect();
        // A client that is gone is no matter of the floor's.
        let _ = socket::sendmmsg(fd, &mut sending, &slices, &to, [], MsgFlags::empty());
    }
}
