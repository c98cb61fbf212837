//! Many datagrams per system call: recvmmsg(2) and sendmmsg(2), with the local address of each where a socket is bound
//! to every address (IP_PKTINFO, ip(7); IPV6_PKTINFO, RFC 3542 section 6).

use std::{
    cell::RefCell,
    io, mem,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
    os::fd::{AsRawFd, RawFd},
    ptr,
};

/// Datagrams per call.
pub(super) const BATCH: usize = COUNT as usize;
const COUNT: libc::c_uint = 32;
/// Bytes per datagram: the most that UDP carries.
const SLOT: usize = 65_536;
/// Room for one control message with a packet info.
const CONTROL: usize = 64;

thread_local! {
    static BUFFERS: RefCell<Buffers> = RefCell::new(Buffers::new());
}

/// A datagram that was received.
#[derive(Clone, Copy, Debug)]
pub(super) struct Received<'a> {
    /// Who sent it; absent on a connected socket.
    pub(super) from: Option<SocketAddr>,
    /// The local address it was sent to, where the socket reports it.
    pub(super) to: Option<IpAddr>,
    /// Its bytes.
    pub(super) data: &'a [u8],
}

/// The receive buffers of a thread. Pages that no datagram reached are never touched.
struct Buffers {
    data: Box<[u8]>,
    names: Box<[libc::sockaddr_storage; BATCH]>,
    control: Box<[Control; BATCH]>,
}

/// Aligned as `cmsghdr` wants it.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; CONTROL]);

impl Buffers {
    fn new() -> Self {
        Buffers {
            data: vec![0; BATCH * SLOT].into(),
            // SAFETY: all zeros is a valid sockaddr_storage of family AF_UNSPEC.
            names: Box::new(unsafe { mem::zeroed() }),
            control: Box::new([Control([0; CONTROL]); BATCH]),
        }
    }
}

/// Asks the kernel to report the local address of every datagram.
pub(super) fn report_local_address(socket: &impl AsRawFd, v6: bool) -> io::Result<()> {
    let on: libc::c_int = 1;
    let (level, name) =
        if v6 { (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO) } else { (libc::IPPROTO_IP, libc::IP_PKTINFO) };
    // SAFETY: the descriptor is open, `on` lives and its size is given.
    let rc = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, name, ptr::from_ref(&on).cast(), len_of::<libc::c_int>())
    };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Receives what is there, up to [`BATCH`] datagrams, and gives them to `each` in one slice. Must not be called again
/// from within `each`.
///
/// # Errors
/// `WouldBlock` when nothing is there; else what the system says, such as `ConnectionRefused` on a connected socket.
pub(super) fn receive<R>(fd: RawFd, each: impl FnOnce(&[Received<'_>]) -> R) -> io::Result<R> {
    BUFFERS.with_borrow_mut(|buffers| {
        let data = buffers.data.as_mut_ptr();
        let mut vectors: [libc::iovec; BATCH] = std::array::from_fn(|i| libc::iovec {
            iov_base: data.wrapping_add(i * SLOT).cast(),
            iov_len: SLOT,
        });
        let mut headers: [libc::mmsghdr; BATCH] = std::array::from_fn(|i| {
            // SAFETY: all zeros is a valid mmsghdr.
            let mut header: libc::mmsghdr = unsafe { mem::zeroed() };
            header.msg_hdr.msg_name = ptr::from_mut(&mut buffers.names[i]).cast();
            header.msg_hdr.msg_namelen = len_of::<libc::sockaddr_storage>();
            header.msg_hdr.msg_iov = ptr::from_mut(&mut vectors[i]);
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = ptr::from_mut(&mut buffers.control[i]).cast();
            header.msg_hdr.msg_controllen = CONTROL;
            header
        });
        // SAFETY: every header points to buffers of the sizes it states, which outlive the call.
        let rc =
            unsafe { libc::recvmmsg(fd, headers.as_mut_ptr(), COUNT, libc::MSG_DONTWAIT, ptr::null_mut()) };
        let count = usize::try_from(rc).map_err(|_| io::Error::last_os_error())?;
        let empty = Received { from: None, to: None, data: &[] };
        let mut received = [empty; BATCH];
        for (i, slot) in received.iter_mut().enumerate().take(count) {
            let header = &headers[i];
            let length = (header.msg_len as usize).min(SLOT);
            *slot = Received {
                from: (header.msg_hdr.msg_namelen > 0).then(|| address_of(&buffers.names[i])).flatten(),
                to: local_address(&header.msg_hdr),
                data: &buffers.data[i * SLOT..i * SLOT + length],
            };
        }
        Ok(each(&received[..count]))
    })
}

/// Sends datagrams in order and returns how many the system took: to `to` from `from`, or on a connected socket to its
/// peer. At most [`BATCH`] of them.
///
/// # Errors
/// The error of the first datagram when none was taken.
pub(super) fn send(
    fd: RawFd,
    to: Option<SocketAddr>,
    from: Option<IpAddr>,
    data: &[Received<'_>],
) -> io::Result<usize> {
    let count = data.len().min(BATCH);
    let mut name = to.map(socket2::SockAddr::from);
    let mut control = Control([0; CONTROL]);
    let control_len = from.map_or(0, |from| write_local_address(&mut control, from));
    let mut vectors: [libc::iovec; BATCH] = std::array::from_fn(|i| {
        let data = data.get(i).map_or(&[][..], |d| d.data);
        libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() }
    });
    let mut headers: [libc::mmsghdr; BATCH] = std::array::from_fn(|i| {
        // SAFETY: all zeros is a valid mmsghdr.
        let mut header: libc::mmsghdr = unsafe { mem::zeroed() };
        if let Some(name) = &mut name {
            header.msg_hdr.msg_name = name.as_ptr().cast_mut().cast();
            header.msg_hdr.msg_namelen = name.len();
        }
        header.msg_hdr.msg_iov = ptr::from_mut(&mut vectors[i]);
        header.msg_hdr.msg_iovlen = 1;
        if control_len > 0 {
            header.msg_hdr.msg_control = ptr::from_mut(&mut control).cast();
            header.msg_hdr.msg_controllen = control_len;
        }
        header
    });
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: `count` headers point to buffers of the sizes they state, which outlive the call; sending only reads.
    let rc = unsafe {
        libc::sendmmsg(fd, headers.as_mut_ptr(), libc::c_uint::try_from(count).unwrap_or(0), flags)
    };
    usize::try_from(rc).map_err(|_| io::Error::last_os_error())
}

fn len_of<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).unwrap_or(0)
}

/// The address in a name that the kernel wrote.
fn address_of(name: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match libc::c_int::from(name.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that it is a sockaddr_in, which is smaller than the storage and less aligned.
            let v4: &libc::sockaddr_in = unsafe { &*ptr::from_ref(name).cast() };
            let ip = Ipv4Addr::from_bits(u32::from_be(v4.sin_addr.s_addr));
            Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: the family says that it is a sockaddr_in6, which is smaller than the storage and less aligned.
            let v6: &libc::sockaddr_in6 = unsafe { &*ptr::from_ref(name).cast() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            Some(SocketAddrV6::new(ip, u16::from_be(v6.sin6_port), 0, v6.sin6_scope_id).into())
        }
        _ => None,
    }
}

/// The local address in the control messages of a received datagram.
fn local_address(header: &libc::msghdr) -> Option<IpAddr> {
    // SAFETY: the kernel wrote `msg_controllen` bytes of well-formed control messages; the macros stay within them,
    // and the payload is read unaligned.
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(header);
        while !message.is_null() {
            match ((*message).cmsg_level, (*message).cmsg_type) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let info: libc::in_pktinfo = ptr::read_unaligned(libc::CMSG_DATA(message).cast());
                    return Some(Ipv4Addr::from_bits(u32::from_be(info.ipi_spec_dst.s_addr)).into());
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let info: libc::in6_pktinfo = ptr::read_unaligned(libc::CMSG_DATA(message).cast());
                    return Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into());
                }
                _ => message = libc::CMSG_NXTHDR(header, message),
            }
        }
    }
    None
}

/// Writes the control message that makes `from` the source address; returns its length.
fn write_local_address(control: &mut Control, from: IpAddr) -> usize {
    // SAFETY: the buffer is aligned and, with 64 bytes, larger than either message; the payload is written unaligned.
    unsafe {
        // SAFETY: all zeros is a valid msghdr.
        let mut header: libc::msghdr = mem::zeroed();
        header.msg_control = ptr::from_mut(control).cast();
        header.msg_controllen = CONTROL;
        let message = libc::CMSG_FIRSTHDR(&raw const header);
        match from {
            IpAddr::V4(ip) => {
                let mut info: libc::in_pktinfo = mem::zeroed();
                info.ipi_spec_dst.s_addr = ip.to_bits().to_be();
                let size = len_of::<libc::in_pktinfo>();
                (*message).cmsg_level = libc::IPPROTO_IP;
                (*message).cmsg_type = libc::IP_PKTINFO;
                (*message).cmsg_len = libc::CMSG_LEN(size) as usize;
                ptr::write_unaligned(libc::CMSG_DATA(message).cast(), info);
                libc::CMSG_SPACE(size) as usize
            }
            IpAddr::V6(ip) => {
                let mut info: libc::in6_pktinfo = mem::zeroed();
                info.ipi6_addr.s6_addr = ip.octets();
                let size = len_of::<libc::in6_pktinfo>();
                (*message).cmsg_level = libc::IPPROTO_IPV6;
                (*message).cmsg_type = libc::IPV6_PKTINFO;
                (*message).cmsg_len = libc::CMSG_LEN(size) as usize;
                ptr::write_unaligned(libc::CMSG_DATA(message).cast(), info);
                libc::CMSG_SPACE(size) as usize
            }
        }
    }
}
