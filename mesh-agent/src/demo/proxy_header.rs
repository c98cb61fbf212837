//! Reads a PROXY protocol v2 header (HAProxy's proxy-protocol.txt, section 2.2) where a connection has one.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};
use tokio::{io::AsyncReadExt, net::TcpStream};

/// The twelve bytes that every version 2 header begins with. No HTTP request begins with a carriage return.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Longest address block and TLVs that are accepted, bytes.
const MAX_REST: usize = 536;

/// The client's address out of a header; `None` when the connection has no header or the header names no client
/// (command LOCAL). Nothing is consumed when there is no header.
pub(super) async fn client(stream: &mut TcpStream) -> io::Result<Option<SocketAddr>> {
    let mut first = [0u8; 1];
    if stream.peek(&mut first).await? == 0 || first[0] != SIGNATURE[0] {
        return Ok(None);
    }
    let mut head = [0u8; 16];
    stream.read_exact(&mut head).await?;
    let length = usize::from(u16::from_be_bytes([head[14], head[15]]));
    if head[..12] != SIGNATURE || head[12] >> 4 != 2 || length > MAX_REST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "malformed PROXY protocol v2 header"));
    }
    let mut rest = vec![0u8; length];
    stream.read_exact(&mut rest).await?;
    Ok(if head[12] & 0xf == 1 { source(head[13], &rest) } else { None })
}

/// The source address of an address block; `family` is the header's fourteenth byte.
fn source(family: u8, block: &[u8]) -> Option<SocketAddr> {
    let port = |at: usize| Some(u16::from_be_bytes([*block.get(at)?, *block.get(at + 1)?]));
    match family >> 4 {
        1 => {
            let octets: [u8; 4] = block.get(..4)?.try_into().ok()?;
            Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::from(octets)), port(8)?))
        }
        2 => {
            let octets: [u8; 16] = block.get(..16)?.try_into().ok()?;
            Some(SocketAddr::new(IpAddr::V6(Ipv6Addr::from(octets)), port(32)?))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{io::AsyncWriteExt, net::TcpListener};

    async fn read(bytes: &[u8]) -> io::Result<Option<SocketAddr>> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let mut sender = TcpStream::connect(listener.local_addr()?).await?;
        let (mut stream, _) = listener.accept().await?;
        sender.write_all(bytes).await?;
        sender.shutdown().await?;
        client(&mut stream).await
    }

    fn header(family: u8, block: &[u8]) -> Vec<u8> {
        let length = u16::try_from(block.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[0x21, family], &length, block].concat()
    }

    #[tokio::test]
    async fn the_client_is_read_out_of_a_header_and_only_there() {
        let v4 = header(0x11, &[192, 0, 2, 7, 127, 0, 0, 1, 0x1f, 0x90, 0, 80]);
        assert_eq!(read(&v4).await.unwrap(), Some("192.0.2.7:8080".parse().unwrap()));
        let mut block = [0u8; 36];
        block[15] = 1;
        block[32..34].copy_from_slice(&443u16.to_be_bytes());
        assert_eq!(read(&header(0x21, &block)).await.unwrap(), Some("[::1]:443".parse().unwrap()));
        assert_eq!(read(b"GET / HTTP/1.1\r\n\r\n").await.unwrap(), None);
        assert_eq!(read(b"").await.unwrap(), None);
        assert_eq!(read(&header(0x11, &[1])).await.unwrap(), None, "a short block names nobody");
        assert!(read(b"\r\n\r\n not a header at all").await.is_err());
    }
}
