//! Hardware that says it computes checksums inside VXLAN and does not.
//!
//! Between two nodes is a cable that does what such network cards do: it computes the checksum of the outermost UDP
//! header, as offloading asks for, and leaves those inside VXLAN as they come.

use crate::{
    measure::with_both,
    talk::{udp, until},
    world::{World, permitted},
};
use mesh_agent::sys::{ethtool, netns::Netns};
use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};
use std::{
    io::{self, Read},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

const EVERYTHING: u16 = 0x0003_u16.to_be();

/// A packet(7) socket on the only link that is up in a namespace, and where it sends to.
fn end(netns: &Netns) -> (Socket, SockAddr) {
    let index = crate::world::rtnl(netns, |rtnl| rtnl.link("port").unwrap().unwrap().index);
    let kind = Some(Protocol::from(i32::from(EVERYTHING)));
    let socket = netns.run(|| Socket::new(Domain::PACKET, Type::RAW, kind)).unwrap().unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let mut storage = SockAddrStorage::zeroed();
    let length = u32::try_from(size_of::<libc::sockaddr_ll>()).unwrap();
    // SAFETY: a sockaddr_ll is plain old data and fits into the storage, which is zeroed and aligned for all of them.
    let address = unsafe {
        let link = storage.view_as::<libc::sockaddr_ll>();
        link.sll_family = u16::try_from(libc::AF_PACKET).unwrap();
        link.sll_protocol = EVERYTHING;
        link.sll_ifindex = i32::try_from(index).unwrap();
        SockAddr::new(storage, length)
    };
    socket.bind(&address).unwrap();
    (socket, address)
}

/// Cuts the cable, also when the test fails.
struct Cut<'a>(&'a AtomicBool);

impl Drop for Cut<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Carries frames one way until `stop`.
fn carry(from: &Socket, to: &(Socket, SockAddr), stop: &AtomicBool) {
    let mut frame = vec![0; 65_536];
    while !stop.load(Ordering::Relaxed) {
        let mut reader = from;
        match reader.read(&mut frame) {
            Ok(length) => {
                complete(&mut frame[..length]);
                // What does not fit is lost, as on any cable.
                let _lost: io::Result<usize> = to.0.send_to(&frame[..length], &to.1);
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// Computes the checksum of a UDP datagram over IPv4 (RFC 768).
fn complete(frame: &mut [u8]) {
    let Some((head, datagram)) = frame.split_at_mut_checked(34) else { return };
    let udp = head[12..15] == [8, 0, 0x45] && head[23] == 17 && datagram.len() >= 8;
    if !udp {
        return;
    }
    let length = usize::from(u16::from_be_bytes([datagram[4], datagram[5]])).min(datagram.len());
    datagram[6..8].fill(0);
    let words = |bytes: &[u8]| -> u64 {
        let pairs = bytes.chunks(2);
        pairs.map(|pair| u64::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]))).sum()
    };
    let mut sum = words(&head[26..34]) + 17 + length as u64 + words(&datagram[..length]);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let sum = !u16::try_from(sum).unwrap();
    datagram[6..8].copy_from_slice(&(if sum == 0 { 0xffff } else { sum }).to_be_bytes());
}

#[test]
fn checksums_that_hardware_gets_wrong_are_computed_by_the_host_instead() {
    if !permitted() {
        return;
    }
    let ends = [Netns::new().unwrap(), Netns::new().unwrap()];
    let mut world = World::cabled(&ends);
    let (left, right) = (end(&ends[0]), end(&ends[1]));
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| carry(&left.0, &right, &stop));
        scope.spawn(|| carry(&right.0, &left, &stop));
        let _cut = Cut(&stop);
        with_both(&mut world, async |world, handle| {
            let status = handle.status();
            let told = "wrong checksums inside VXLAN";
            until(told, || status.borrow().paths.iter().any(|path| path.contains(told))).await;
            assert!(!ethtool::tx_checksum("mesh-vx").unwrap());
            let other = &world.nodes[1].netns;
            let off = || other.run(|| ethtool::tx_checksum("mesh-vx").is_ok_and(|on| !on)).unwrap();
            until("the other node finds out, too", off).await;
            let gateway = world.plan(1).gateways[0].ip();
            assert_eq!(
                udp(&world.nodes[0].netns, other, gateway, 700).unwrap(),
                world.plan(0).gateways[0].ip()
            );
        });
    });
}
