//! Datagrams that are not cut up on their way.

use std::{ffi::c_int, io, os::fd::AsRawFd};

/// Has every datagram of an IPv4 or IPv6 socket sent whole or not at all, whatever the kernel believes of the path
/// (`IP_PMTUDISC_PROBE`, ip(7)). What is larger than the link's MTU is refused with `EMSGSIZE`.
///
/// # Errors
/// What the kernel says.
pub fn never_fragment(socket: &impl AsRawFd, ipv6: bool) -> io::Result<()> {
    let (level, option, value) = if ipv6 {
        (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE)
    } else {
        (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)
    };
    let length = libc::socklen_t::try_from(size_of::<c_int>()).unwrap_or_default();
    // SAFETY: the value is an int of that length, and outlives the call.
    let answer =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), length) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
