//! How an upstream is written.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};
use tokio_rustls::rustls::pki_types::ServerName;

/// An upstream server: `192.0.2.53`, `192.0.2.53:5353`, `tls://9.9.9.9#dns.quad9.net`,
/// `https://9.9.9.9/dns-query#dns.quad9.net`. The part after `#` is the name that the certificate must be for; without
/// it, the address. Addresses only, so that no name must be resolved before names can be: `https://dns.example/dns-query`
/// alone is looked up by the host's resolver at every connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum UpstreamAddress {
    /// UDP, and TCP for what is truncated.
    Plain(SocketAddr),
    /// DNS over TLS (RFC 7858), port 853 unless given.
    Tls {
        /// Where.
        address: SocketAddr,
        /// For whom its certificate must be.
        name: String,
    },
    /// DNS over HTTPS (RFC 8484) by POST over HTTP/2, port 443 unless given.
    Https {
        /// Where.
        host: HttpsHost,
        /// For whom its certificate must be.
        name: String,
        /// Path on the server, with the leading `/`.
        path: String,
    },
}

/// Where a DoH server is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HttpsHost {
    /// There.
    Address(SocketAddr),
    /// Where the host's resolver says, on this port.
    Name(String, u16),
}

/// Why a text is no upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "is no DNS server: write IP or IP:PORT, as 192.0.2.53, tls://IP#NAME, as tls://9.9.9.9#dns.quad9.net, or https://IP/PATH#NAME, as https://9.9.9.9/dns-query#dns.quad9.net"
)]
pub struct NoUpstream;

impl UpstreamAddress {
    /// Its socket, where that is known.
    #[must_use]
    pub fn socket(&self) -> Option<SocketAddr> {
        match self {
            UpstreamAddress::Plain(address)
            | UpstreamAddress::Tls { address, .. }
            | UpstreamAddress::Https { host: HttpsHost::Address(address), .. } => Some(*address),
            UpstreamAddress::Https { host: HttpsHost::Name(..), .. } => None,
        }
    }

    /// Whether certificates are checked.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        !matches!(self, UpstreamAddress::Plain(_))
    }
}

impl From<SocketAddr> for UpstreamAddress {
    fn from(address: SocketAddr) -> Self {
        UpstreamAddress::Plain(address)
    }
}

impl FromStr for UpstreamAddress {
    type Err = NoUpstream;

    fn from_str(text: &str) -> Result<Self, NoUpstream> {
        if let Some(rest) = text.strip_prefix("tls://") {
            let (host, name) = named(rest)?;
            let address = socket(host, 853).ok_or(NoUpstream)?;
            let name = name.map_or_else(|| address.ip().to_string(), str::to_owned);
            return Ok(UpstreamAddress::Tls { address, name });
        }
        if let Some(rest) = text.strip_prefix("https://") {
            let (rest, name) = named(rest)?;
            let (host, path) = rest.split_at(rest.find('/').ok_or(NoUpstream)?);
            if path.len() > 255 || path.bytes().any(|b| !b.is_ascii_graphic() || b"{}?\"<>\\".contains(&b)) {
                return Err(NoUpstream);
            }
            let host = match socket(host, 443) {
                Some(address) => HttpsHost::Address(address),
                None => by_name(host).ok_or(NoUpstream)?,
            };
            let own = match &host {
                HttpsHost::Address(address) => address.ip().to_string(),
                HttpsHost::Name(name, _) => name.clone(),
            };
            let name = name.map_or(own, str::to_owned);
            return Ok(UpstreamAddress::Https { host, name, path: path.to_owned() });
        }
        socket(text, 53).map(UpstreamAddress::Plain).ok_or(NoUpstream)
    }
}

/// What stands before `#`, and the name behind it, which must be one that a certificate can be for.
fn named(text: &str) -> Result<(&str, Option<&str>), NoUpstream> {
    let Some((rest, name)) = text.split_once('#') else { return Ok((text, None)) };
    ServerName::try_from(name).map_err(|_| NoUpstream)?;
    Ok((rest, Some(name)))
}

/// `IP`, `IP:PORT`, `[IP]`, `[IP]:PORT`, neither a wildcard nor port 0.
fn socket(text: &str, port: u16) -> Option<SocketAddr> {
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    let found = text.parse().or_else(|_| bare.parse().map(|ip: IpAddr| SocketAddr::new(ip, port))).ok()?;
    (found.port() > 0 && !found.ip().to_canonical().is_unspecified() && !found.ip().is_multicast())
        .then_some(found)
}

fn by_name(text: &str) -> Option<HttpsHost> {
    let (name, port) = text.split_once(':').unwrap_or((text, "443"));
    let port = port.parse().ok().filter(|port| *port > 0)?;
    // Four numbers are an address that was refused, not a name.
    let a_name = matches!(ServerName::try_from(name), Ok(ServerName::DnsName(_)))
        && name.bytes().any(|b| b.is_ascii_alphabetic());
    a_name.then(|| HttpsHost::Name(name.to_ascii_lowercase(), port))
}

impl fmt::Display for UpstreamAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UpstreamAddress::Plain(address) => write!(f, "{address}"),
            UpstreamAddress::Tls { address, name } => write!(f, "tls://{address}#{name}"),
            UpstreamAddress::Https { host: HttpsHost::Address(address), name, path } => {
                write!(f, "https://{address}{path}#{name}")
            }
            UpstreamAddress::Https { host: HttpsHost::Name(host, port), name, path } => {
                write!(f, "https://{host}:{port}{path}#{name}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_shown_whole() {
        for (text, shown) in [
            ("192.0.2.53", "192.0.2.53:53"),
            ("192.0.2.53:5353", "192.0.2.53:5353"),
            ("2001:db8::1", "[2001:db8::1]:53"),
            ("[2001:db8::1]:54", "[2001:db8::1]:54"),
            ("tls://9.9.9.9#dns.quad9.net", "tls://9.9.9.9:853#dns.quad9.net"),
            ("tls://9.9.9.9:8853", "tls://9.9.9.9:8853#9.9.9.9"),
            ("tls://[2620:fe::fe]#dns.quad9.net", "tls://[2620:fe::fe]:853#dns.quad9.net"),
            ("https://9.9.9.9/dns-query#dns.quad9.net", "https://9.9.9.9:443/dns-query#dns.quad9.net"),
            ("https://dns.example/dns-query", "https://dns.example:443/dns-query#dns.example"),
            ("https://DNS.example:8443/q", "https://dns.example:8443/q#dns.example"),
        ] {
            let read: UpstreamAddress = text.parse().unwrap();
            assert_eq!(read.to_string(), shown, "{text}");
            assert_eq!(shown.parse(), Ok(read), "{shown}");
        }
    }

    #[test]
    fn what_is_no_server_is_refused() {
        for text in [
            "",
            "dns.example",
            "0.0.0.0",
            "::ffff:0.0.0.0",
            "192.0.2.53:0",
            "224.0.0.1",
            "tls://",
            "tls://dns.quad9.net",
            "tls://9.9.9.9#",
            "tls://9.9.9.9#a b",
            "https://9.9.9.9",
            "https://dns.example/dns-query{?dns}",
            "https://999.1.1.1/dns-query",
            "https://dns.example:0/",
            "http://9.9.9.9/dns-query",
            "sdns://x",
        ] {
            assert_eq!(text.parse::<UpstreamAddress>(), Err(NoUpstream), "{text}");
        }
    }
}
