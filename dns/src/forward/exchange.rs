//! One query to one plain upstream.

use super::case::{Case, mix};
use crate::packet::{FORWARDED_UDP, HEADER, question_octets};
use hickory_proto::op::ResponseCode;
use rand::TryRng;
use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

/// Replies that do not fit the query, after which an upstream is given up: somebody guesses at ids.
const MAX_STRAYS: usize = 64;

/// An upstream's reply, still with the random id and case.
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
    #[error("{0}")]
    Secure(String),
}

impl ExchangeError {
    /// The value of a metric's label.
    pub(super) fn label(&self) -> &'static str {
        match self {
            ExchangeError::Io(_) => "io",
            ExchangeError::Timeout => "timeout",
            ExchangeError::Mismatch => "mismatch",
            ExchangeError::Secure(_) => "secure",
        }
    }
}

/// Asks `upstream` over UDP, and over TCP when the reply is truncated; the truncated reply stands when TCP fails or
/// takes longer than `tcp` (many a firewall drops it). Each datagram that does not fit is told to `stray`, with a word
/// for why. Takes as long as the upstream does: the caller sets the limit.
pub(super) async fn exchange(
    upstream: SocketAddr,
    case: &Case,
    query: &[u8],
    tcp: Duration,
    stray: impl Fn(&'static str),
) -> Result<Reply, ExchangeError> {
    let mut query = query.to_vec();
    let mut random = [0; 10];
    rand::rngs::SysRng.try_fill_bytes(&mut random).map_err(|e| io::Error::other(e.to_string()))?;
    let [first, second, bits @ ..] = random;
    query.get_mut(..2).ok_or(ExchangeError::Mismatch)?.copy_from_slice(&[first, second]);
    let proves = case.is_mixed() && mix(&mut query, u64::from_be_bytes(bits));
    let short = over_udp(upstream, case, proves, &query, stray).await?;
    if short.octets[2] & 0x02 == 0 {
        return Ok(short);
    }
    match timeout(tcp, over_tcp(upstream, &query)).await {
        Ok(Ok(whole)) => Ok(whole),
        Ok(Err(_)) | Err(_) => Ok(short),
    }
}

async fn over_udp(
    upstream: SocketAddr,
    case: &Case,
    proves: bool,
    query: &[u8],
    stray: impl Fn(&'static str),
) -> Result<Reply, ExchangeError> {
    let any: SocketAddr = match upstream {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    // A port of its own for every query; connected, so that the kernel drops what others send.
    let socket = UdpSocket::bind(any).await?;
    socket.connect(upstream).await?;
    socket.send(query).await?;
    let mut disbelieved = Disbelieved { case, any: false };
    let mut buffer = vec![0u8; FORWARDED_UDP + 1];
    for _ in 0..MAX_STRAYS {
        let length = socket.recv(&mut buffer).await?;
        // What did not fit the buffer is cut, so it counts as truncated.
        if length > FORWARDED_UDP {
            buffer[2] |= 0x02;
        }
        let datagram = &buffer[..length.min(FORWARDED_UDP)];
        match checked(query, datagram) {
            Ok(reply) => {
                let exact =
                    !proves || question_octets(datagram).is_none_or(|q| query[HEADER..].starts_with(q));
                if case.believes(exact, proves) {
                    disbelieved.any = false;
                    return Ok(reply);
                }
                disbelieved.any = true;
                stray("case");
            }
            Err(why) => stray(why),
        }
    }
    Err(ExchangeError::Mismatch)
}

/// Tells of an exchange that ended, also by its time running out, without a reply but one of another case.
struct Disbelieved<'c> {
    case: &'c Case,
    any: bool,
}

impl Drop for Disbelieved<'_> {
    fn drop(&mut self) {
        if self.any {
            self.case.lost();
        }
    }
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
    checked(query, &reply).map_err(|_| ExchangeError::Mismatch)
}

/// `reply` if it is a response to `query`: its id, its opcode, its question in whatever case (RFC 5452 section 9.1);
/// else a word for what is wrong. A bare header is taken too when it is an error about the query, not about the name:
/// that is how servers answer what they cannot read.
pub(super) fn checked(query: &[u8], reply: &[u8]) -> Result<Reply, &'static str> {
    let (Some(header), Some(asked)) = (reply.first_chunk::<HEADER>(), query.first_chunk::<HEADER>()) else {
        return Err("format");
    };
    if header[2] & 0x80 == 0 || (header[2] ^ asked[2]) & 0x78 != 0 {
        return Err("format");
    }
    if header[..2] != asked[..2] {
        return Err("id");
    }
    let rcode = ResponseCode::from_low(header[3] & 0x0f);
    let bare = header[4..] == [0; 8] && !matches!(rcode, ResponseCode::NoError | ResponseCode::NXDomain);
    let same = match (question_octets(query), question_octets(reply)) {
        (Some(asked), Some(answered)) => same_question(asked, answered),
        _ => bare,
    };
    if same { Ok(Reply { octets: reply.to_vec(), rcode }) } else { Err("question") }
}

/// Names are compared without case, type and class are not: type 65 is not type 97.
pub(super) fn same_question(asked: &[u8], answered: &[u8]) -> bool {
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
        let taken = |reply: &[u8]| checked(&query, reply).map(|r| r.rcode).ok();
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
            ("a bare header about the name", vec![0, 7, 0x81, 0x83, 0, 0, 0, 0, 0, 0, 0, 0]),
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
            let Ok(reply) = checked(query, input) else { return false };
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
