//! One query to one upstream.

use crate::encode::{FORWARDED_UDP, HEADER, question_octets};
use hickory_proto::op::ResponseCode;
use rand::TryRng;
use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
};

/// Replies that do not fit the query, after which an upstream is given up: somebody guesses at ids.
const MAX_STRAYS: usize = 64;

/// An upstream's reply, still with the random id.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) octets: Vec<u8>,
    pub(super) rcode: ResponseCode,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum ExchangeError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("no answer in time")]
    Timeout,
    #[error("the answer does not fit the question")]
    Mismatch,
}

impl ExchangeError {
    /// The value of a metric's label.
    pub(super) fn label(&self) -> &'static str {
        match self {
            ExchangeError::Io(_) => "io",
            ExchangeError::Timeout => "timeout",
            ExchangeError::Mismatch => "mismatch",
        }
    }
}

/// Asks `upstream` over UDP, and over TCP when the reply is truncated. Without `whole` the truncated reply stands when
/// TCP fails. Takes as long as the upstream does: the caller sets the limit.
pub(super) async fn exchange(
    upstream: SocketAddr,
    query: &[u8],
    whole: bool,
) -> Result<Reply, ExchangeError> {
    let query = with_random_id(query)?;
    let short = over_udp(upstream, &query).await?;
    if short.octets[2] & 0x02 == 0 {
        return Ok(short);
    }
    match over_tcp(upstream, &query).await {
        Ok(reply) => Ok(reply),
        Err(_) if !whole => Ok(short),
        Err(error) => Err(error),
    }
}

fn with_random_id(query: &[u8]) -> Result<Vec<u8>, ExchangeError> {
    let mut query = query.to_vec();
    let id = query.get_mut(..2).ok_or(ExchangeError::Mismatch)?;
    rand::rngs::SysRng.try_fill_bytes(id).map_err(|e| io::Error::other(e.to_string()))?;
    Ok(query)
}

async fn over_udp(upstream: SocketAddr, query: &[u8]) -> Result<Reply, ExchangeError> {
    let any: SocketAddr = match upstream {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    // A port of its own for every query; connected, so that the kernel drops what others send.
    let socket = UdpSocket::bind(any).await?;
    socket.connect(upstream).await?;
    socket.send(query).await?;
    let mut buffer = vec![0u8; FORWARDED_UDP + 1];
    for _ in 0..MAX_STRAYS {
        let length = socket.recv(&mut buffer).await?;
        // What did not fit the buffer is cut, so it counts as truncated.
        if length > FORWARDED_UDP {
            buffer[2] |= 0x02;
        }
        if let Some(reply) = checked(query, &buffer[..length.min(FORWARDED_UDP)]) {
            return Ok(reply);
        }
    }
    Err(ExchangeError::Mismatch)
}

/// RFC 7766: one query, one connection.
async fn over_tcp(upstream: SocketAddr, query: &[u8]) -> Result<Reply, ExchangeError> {
    let length = u16::try_from(query.len()).map_err(|_| ExchangeError::Mismatch)?;
    let mut stream = TcpStream::connect(upstream).await?;
    let mut message = Vec::with_capacity(query.len() + 2);
    message.extend_from_slice(&length.to_be_bytes());
    message.extend_from_slice(query);
    stream.write_all(&message).await?;
    let mut reply = vec![0u8; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut reply).await?;
    checked(query, &reply).ok_or(ExchangeError::Mismatch)
}

/// `reply` if it is a response to `query`: its id, its opcode, its question in whatever case (RFC 5452 section 9.1).
/// A bare header is taken too when it is an error: that is how servers answer what they cannot read.
fn checked(query: &[u8], reply: &[u8]) -> Option<Reply> {
    let header = reply.first_chunk::<HEADER>()?;
    let rcode = ResponseCode::from_low(header[3] & 0x0f);
    let response = header[2] & 0x80 != 0 && (header[2] ^ query.get(2)?) & 0x78 == 0;
    let bare = header[4..] == [0; 8] && rcode != ResponseCode::NoError;
    let same = match (question_octets(query), question_octets(reply)) {
        (Some(asked), Some(answered)) => same_question(asked, answered),
        _ => bare,
    };
    (response && same && header[..2] == query[..2]).then(|| Reply { octets: reply.to_vec(), rcode })
}

/// Names are compared without case, type and class are not: type 65 is not type 97.
fn same_question(asked: &[u8], answered: &[u8]) -> bool {
    match (asked.split_last_chunk::<4>(), answered.split_last_chunk::<4>()) {
        (Some((name, kind)), Some((other, of))) => name.eq_ignore_ascii_case(other) && kind == of,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A query for `Web.example`, with this id, flags, type and class.
    fn packet(id: u8, flags: [u8; 2], name: &[u8], kind: [u8; 4]) -> Vec<u8> {
        [&[0, id, flags[0], flags[1], 0, 1, 0, 0, 0, 0, 0, 0], name, &kind].concat()
    }

    #[test]
    fn only_a_response_to_the_very_question_is_taken() {
        const NAME: &[u8] = b"\x03Web\x07example\x00";
        const HTTPS: [u8; 4] = [0, 65, 0, 1];
        let query = packet(7, [1, 0], NAME, HTTPS);
        let taken = |reply: &[u8]| checked(&query, reply).map(|r| r.rcode);
        assert_eq!(taken(&packet(7, [0x81, 0x80], NAME, HTTPS)), Some(ResponseCode::NoError));
        assert_eq!(
            taken(&packet(7, [0x81, 0x83], b"\x03wEB\x07example\x00", HTTPS)),
            Some(ResponseCode::NXDomain)
        );
        for (why, reply) in [
            ("another id", packet(8, [0x81, 0x80], NAME, HTTPS)),
            ("no response", packet(7, [1, 0], NAME, HTTPS)),
            ("another opcode", packet(7, [0x91, 0x80], NAME, HTTPS)),
            ("another name", packet(7, [0x81, 0x80], b"\x03wet\x07example\x00", HTTPS)),
            ("a longer name", packet(7, [0x81, 0x80], b"\x03web\x07example\x03org\x00", HTTPS)),
            ("type 97, that is 65 in lower case", packet(7, [0x81, 0x80], NAME, [0, 97, 0, 1])),
            ("another class", packet(7, [0x81, 0x80], NAME, [0, 65, 0, 3])),
            ("half a header", vec![0, 7, 0x81, 0x80, 0, 0]),
            ("a bare header that is no error", vec![0, 7, 0x81, 0x80, 0, 0, 0, 0, 0, 0, 0, 0]),
        ] {
            assert_eq!(taken(&reply), None, "{why}");
        }
        let bare = [0, 7, 0x81, 0x81, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(taken(&bare), Some(ResponseCode::FormErr), "how a server answers what it cannot read");
    }

    /// Whatever an upstream sends, only a response to the question is passed on, and unchanged.
    #[test]
    fn replies() {
        let packets = crate::fuzz::packets();
        crate::fuzz::fuzz("replies", &packets, |input| {
            let query = &packets[0];
            let Some(reply) = checked(query, input) else { return false };
            assert!(reply.octets == input && input[..2] == query[..2] && input[2] & 0xf8 == 0x80);
            let bare = input[4..].iter().all(|octet| *octet == 0) || question_octets(input).is_none();
            assert!(
                bare || question_octets(input).map(<[u8]>::to_ascii_lowercase).as_deref()
                    == question_octets(query)
            );
            true
        });
    }
}
