//! How the admin side is to be reached, and its limits.

use crate::config::Secret;
use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

/// Where the admin API and the metrics listen.
#[derive(Clone, Debug, Default)]
pub struct AdminConfig {
    /// A unix socket, made with mode 0600; its folder is made when it is missing.
    pub unix: Option<PathBuf>,
    /// A TCP address for the API.
    pub tcp: Option<TcpConfig>,
    /// A TCP address that serves `/metrics` and the probes only, without authentication.
    pub metrics: Option<SocketAddr>,
    /// Limits.
    pub limits: Limits,
}

/// The API over TCP.
#[derive(Clone, Debug)]
pub struct TcpConfig {
    /// Address; port 0 takes any free one.
    pub listen: SocketAddr,
    /// The token that requests must bring as `Authorization: Bearer`.
    pub token: Option<Secret>,
    /// TLS, with client certificates when it names a client CA.
    pub tls: Option<TlsConfig>,
}

/// PEM files for TLS.
#[derive(Clone, Debug)]
pub struct TlsConfig {
    /// Certificate chain, the server's own first.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The CA that client certificates must be signed by; absent asks for none.
    pub client_ca: Option<PathBuf>,
}

/// What one client may take. All of it is bounded, so that the worst client costs a known amount.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Bytes of a request's body.
    pub body: usize,
    /// Bytes of a request's line and headers.
    pub headers: usize,
    /// Concurrent connections of one listener; more are answered 503 and closed.
    pub connections: usize,
    /// To receive a request's headers; also how long a connection may idle between requests.
    pub header_timeout: Duration,
    /// To receive a request's body.
    pub body_timeout: Duration,
    /// To answer.
    pub answer_timeout: Duration,
    /// A client that takes no byte of its answer for this long is dropped.
    pub write_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            body: 1 << 20,
            headers: 32 << 10,
            connections: 128,
            header_timeout: Duration::from_secs(15),
            body_timeout: Duration::from_secs(30),
            answer_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
        }
    }
}

/// Why the admin side does not start.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The API would be open to the network.
    #[error(
        "admin.listen: {0} is beyond loopback: set admin.token_file or admin.tls.client_ca, or listen on 127.0.0.1"
    )]
    Open(SocketAddr),
    /// A TCP address cannot be bound.
    #[error("{field}: cannot listen on {address}: {source}")]
    Bind {
        /// The config key.
        field: &'static str,
        /// The address.
        address: SocketAddr,
        /// The system's answer.
        source: io::Error,
    },
    /// The unix socket cannot be made.
    #[error("admin.socket: {path}: {problem}")]
    Unix {
        /// Where.
        path: PathBuf,
        /// Why, and the fix.
        problem: String,
    },
    /// A file cannot be used.
    #[error("{field}: {path}: {problem}")]
    File {
        /// The config key.
        field: &'static str,
        /// Which file.
        path: PathBuf,
        /// What is wrong with it, and the fix.
        problem: String,
    },
    /// Without random numbers a token cannot be compared safely.
    #[error("admin.token_file: the system gives no random numbers")]
    Random,
    /// The registry already has a metric of ours.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

impl AdminConfig {
    /// Checks what needs no system call: that nothing is open to the network unasked.
    ///
    /// # Errors
    /// [`AdminError::Open`].
    pub fn validate(&self) -> Result<(), AdminError> {
        match &self.tcp {
            Some(tcp) if !is_loopback(tcp.listen.ip()) && !tcp.is_authenticated() => {
                Err(AdminError::Open(tcp.listen))
            }
            _ => Ok(()),
        }
    }
}

impl TcpConfig {
    /// Whether clients must prove who they are.
    #[must_use]
    pub fn is_authenticated(&self) -> bool {
        self.token.is_some() || self.tls.as_ref().is_some_and(|t| t.client_ca.is_some())
    }
}

/// Loopback, also as an IPv4 address in IPv6 clothes.
pub(crate) fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_door_is_refused() {
        let tls = |ca: Option<&str>| TlsConfig {
            cert: "c".into(),
            key: "k".into(),
            client_ca: ca.map(PathBuf::from),
        };
        let check = |listen: &str, token: Option<&str>, tls: Option<TlsConfig>| {
            let tcp = TcpConfig { listen: listen.parse().unwrap(), token: token.map(Secret::new), tls };
            AdminConfig { tcp: Some(tcp), ..AdminConfig::default() }.validate()
        };
        for loopback in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            check(loopback, None, None).unwrap();
        }
        for open in ["0.0.0.0:1", "192.0.2.1:1", "[::]:1", "[2001:db8::1]:1"] {
            assert!(check(open, None, None).unwrap_err().to_string().contains("token_file"), "{open}");
            assert!(check(open, None, Some(tls(None))).is_err(), "TLS alone proves no client");
            check(open, Some("t"), None).unwrap();
            check(open, None, Some(tls(Some("ca")))).unwrap();
        }
    }
}
