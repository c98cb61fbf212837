//! Offloads of links (linux/ethtool.h, `SIOCETHTOOL`).

use rustix::net::{AddressFamily, SocketType, socket};
use std::{
    ffi::{c_char, c_void},
    io,
    os::fd::AsRawFd,
};

/// `ETHTOOL_GTXCSUM` and `ETHTOOL_STXCSUM`.
const GET_TX_CHECKSUM: u32 = 0x16;
const SET_TX_CHECKSUM: u32 = 0x17;
/// `ETHTOOL_SGRO`
const SET_GRO: u32 = 0x2c;

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// Whether checksums of what `link` sends are left to the hardware below, in the namespace of the calling thread.
///
/// # Errors
/// The link's name and what the kernel says.
pub fn tx_checksum(link: &str) -> io::Result<bool> {
    call(link, Value { command: GET_TX_CHECKSUM, data: 0 }).map(|value| value.data != 0)
}

/// Leaves checksums to the hardware below, or not.
///
/// # Errors
/// The link's name and what the kernel says.
pub fn set_tx_checksum(link: &str, on: bool) -> io::Result<()> {
    call(link, Value { command: SET_TX_CHECKSUM, data: u32::from(on) }).map(drop)
}

/// Puts packets that `link` receives together to longer ones, or not. An end of veth(4) that does takes frames of programs
/// at XDP.
///
/// # Errors
/// The link's name and what the kernel says.
pub fn set_gro(link: &str, on: bool) -> io::Result<()> {
    call(link, Value { command: SET_GRO, data: u32::from(on) }).map(drop)
}

fn call(link: &str, mut value: Value) -> io::Result<Value> {
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    // SAFETY: plain old data, for which all zeros are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays 0, as the name's end.
    let room = request.ifr_name.len() - 1;
    if link.len() > room {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{link} is no name of a link")));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(link.bytes()) {
        *to = c_char::from_ne_bytes([from]);
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast::<c_char>();
    // SAFETY: the request is whole and names a structure of the size that the command asks for; both outlive the call.
    let answer =
        unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, (&raw mut request).cast::<c_void>()) };
    if answer < 0 {
        let error = io::Error::last_os_error();
        return Err(io::Error::new(error.kind(), format!("link {link}: {error}")));
    }
    Ok(value)
}
