//! The PROXY protocol header, version 2 (HAProxy's `proxy-protocol.txt`, section 2.2), for TCP.

use std::net::SocketAddr;

/// The 12 bytes every version 2 header begins with.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, command PROXY.
const VERSION_PROXY: u8 = 0x21;
/// TCP over IPv4 and over IPv6.
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

/// The header that tells a backend that `client` connected to `dialled`.
///
/// Two IPv4 addresses give 28 bytes; else both are written as IPv6 (an IPv4 one mapped, RFC 4291 section 2.5.5.2) and
/// it is 52 bytes.
#[must_use]
pub fn header(client: SocketAddr, dialled: SocketAddr) -> Vec<u8> {
    let mut out = Vec::with_capacity(52);
    out.extend_from_slice(&SIGNATURE);
    out.push(VERSION_PROXY);
    if let (SocketAddr::V4(from), SocketAddr::V4(to)) = (client, dialled) {
        out.push(TCP4);
        out.extend_from_slice(&12u16.to_be_bytes());
        out.extend_from_slice(&from.ip().octets());
        out.extend_from_slice(&to.ip().octets());
    } else {
        let wide = |a: SocketAddr| match a {
            SocketAddr::V4(a) => a.ip().to_ipv6_mapped().octets(),
            SocketAddr::V6(a) => a.ip().octets(),
        };
        out.push(TCP6);
        out.extend_from_slice(&36u16.to_be_bytes());
        out.extend_from_slice(&wide(client));
        out.extend_from_slice(&wide(dialled));
    }
    out.extend_from_slice(&client.port().to_be_bytes());
    out.extend_from_slice(&dialled.port().to_be_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: [u8; 12] = [0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a];

    #[test]
    fn ipv4_bytes() {
        let got = header("192.0.2.7:51966".parse().unwrap(), "10.96.0.1:443".parse().unwrap());
        let mut want = START.to_vec();
        want.extend([0x21, 0x11, 0x00, 0x0c, 192, 0, 2, 7, 10, 96, 0, 1, 0xca, 0xfe, 0x01, 0xbb]);
        assert_eq!(got, want);
    }

    #[test]
    fn ipv6_bytes() {
        let got = header("[2001:db8::1]:1".parse().unwrap(), "[fd00::2]:258".parse().unwrap());
        let mut want = START.to_vec();
        want.extend([0x21, 0x21, 0x00, 0x24]);
        want.extend([0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        want.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        want.extend([0, 1, 1, 2]);
        assert_eq!(got, want);
    }

    #[test]
    fn mixed_families_are_written_as_ipv6() {
        let got = header("192.0.2.7:1".parse().unwrap(), "[::1]:2".parse().unwrap());
        assert_eq!((got.len(), got[13]), (52, 0x21));
        assert_eq!(&got[16..32], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 7]);
    }
}
