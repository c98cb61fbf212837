//! DNS over TLS and over HTTPS, by hickory-net: one connection that all queries share, made when it is needed. Its
//! replies are passed on as the octets that came.

use super::exchange::{ExchangeError, Reply, same_question};
use crate::{
    address::{HttpsHost, UpstreamAddress},
    packet::question_octets,
};
use hickory_net::{
    DnsHandle, NetError,
    h2::HttpsClientStream,
    runtime::TokioRuntimeProvider,
    tls::tls_client_connect,
    xfer::{DnsExchange, DnsMultiplexer, DnsRequestSender, FirstAnswer},
};
use hickory_proto::op::{DnsRequest, DnsRequestOptions, Message, ResponseCode};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::sync::{Mutex, Semaphore};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};

/// Queries under way to one upstream; more wait. Below 100: after so many replies at once hickory-net's `DnsMultiplexer`
/// (0.26) means to wake itself and does not, and the rest lies there until a timer or another query wakes it.
const MAX_ACTIVE: usize = 64;

/// The same as a connection counts it, which goes on with those that nobody waits for any more. When it says that it is
/// busy, it is as well at its end.
const MAX_COUNTED: usize = 4 * MAX_ACTIVE;

/// Where distributions keep the certificates they trust (Debian and Alpine, Fedora, SUSE, BSD).
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Why nobody can be trusted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TrustError {
    #[error("`{}` cannot be used: {problem}: write a file of PEM certificates", path.display())]
    File { path: PathBuf, problem: String },
    #[error("no certificates of the host were found in {}: name a file of PEM certificates", BUNDLES.join(", "))]
    NoBundle,
}

/// Trusts the authorities in `file`, or those that the host trusts.
pub(crate) fn trusting(file: Option<&Path>) -> Result<Arc<ClientConfig>, TrustError> {
    let path = match file {
        Some(file) => file,
        None => BUNDLES.iter().map(Path::new).find(|p| p.is_file()).ok_or(TrustError::NoBundle)?,
    };
    let fail = |problem: String| TrustError::File { path: path.to_owned(), problem };
    let found = CertificateDer::pem_file_iter(path).map_err(|e| fail(e.to_string()))?;
    let found = found.collect::<Result<Vec<_>, _>>().map_err(|e| fail(e.to_string()))?;
    let mut roots = RootCertStore::empty();
    // A host's bundle may hold what nobody can read any more.
    let (taken, _) = roots.add_parsable_certificates(found);
    if taken == 0 {
        return Err(fail("no certificate in it".to_owned()));
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| fail(e.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// An encrypted upstream.
pub(super) struct Secure {
    trust: Arc<ClientConfig>,
    /// For one reply: less than the caller waits, so that a connection that fell silent is left for another.
    patience: Duration,
    /// The connection, for as long as it works, and its number.
    open: Mutex<(u64, Option<DnsExchange<TokioRuntimeProvider>>)>,
    active: Semaphore,
}

impl std::fmt::Debug for Secure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secure").finish_non_exhaustive()
    }
}

impl Secure {
    pub(super) fn new(trust: Arc<ClientConfig>, per_try: Duration) -> Self {
        Secure {
            trust,
            patience: per_try * 3 / 4,
            open: Mutex::default(),
            active: Semaphore::new(MAX_ACTIVE),
        }
    }

    /// Asks once, on a new connection when there is none or the one there has ended.
    pub(super) async fn exchange(
        &self,
        upstream: &UpstreamAddress,
        query: &[u8],
    ) -> Result<Reply, ExchangeError> {
        let fail = |e: &dyn std::fmt::Display| ExchangeError::Secure(e.to_string());
        let message = Message::from_vec(query).map_err(|e| fail(&e))?;
        let _active = self.active.acquire().await.map_err(|e| fail(&e))?;
        let (number, reused) = self.open.lock().await.clone();
        if let Some(open) = reused {
            let error = match ask(&open, message.clone()).await {
                Ok(octets) => return fitting(query, octets),
                Err(error) => error,
            };
            let mut slot = self.open.lock().await;
            // Unless somebody else has made another since.
            if slot.0 == number {
                slot.1 = None;
            }
            // Servers close what is idle: that is no failure. Silence is.
            if matches!(error, NetError::Timeout) {
                return Err(ExchangeError::Timeout);
            }
        }
        let mut slot = self.open.lock().await;
        let open = match &slot.1 {
            Some(open) => open.clone(),
            None => {
                let open = self.connect(upstream).await?;
                *slot = (slot.0 + 1, Some(open.clone()));
                open
            }
        };
        drop(slot);
        let octets = ask(&open, message).await.map_err(|e| fail(&e))?;
        fitting(query, octets)
    }

    async fn connect(
        &self,
        upstream: &UpstreamAddress,
    ) -> Result<DnsExchange<TokioRuntimeProvider>, ExchangeError> {
        let provider = TokioRuntimeProvider::default();
        let fail = |e: &dyn std::fmt::Display| ExchangeError::Secure(e.to_string());
        match upstream {
            UpstreamAddress::Plain(_) => Err(fail(&"not encrypted")),
            UpstreamAddress::Tls { address, name } => {
                let name = ServerName::try_from(name.clone()).map_err(|e| fail(&e))?;
                let (stream, sender) = tls_client_connect(*address, name, Arc::clone(&self.trust), provider);
                let stream = stream.await.map_err(|e| fail(&e))?;
                let multiplexer = DnsMultiplexer::new(stream, sender)
                    .with_timeout(self.patience)
                    .with_max_active_requests(MAX_COUNTED);
                Ok(driven(multiplexer))
            }
            UpstreamAddress::Https { host, name, path } => {
                let address = match host {
                    HttpsHost::Address(address) => *address,
                    HttpsHost::Name(host, port) => looked_up(host, *port).await?,
                };
                let mut builder = HttpsClientStream::builder(Arc::clone(&self.trust), provider);
                builder.request_timeout(self.patience);
                let stream = builder.build(address, name.as_str().into(), path.as_str().into()).await;
                Ok(driven(stream.map_err(|e| fail(&e))?))
            }
        }
    }
}

/// A handle to a connection, which is driven until it ends or nobody has the handle any more.
fn driven<S: DnsRequestSender>(stream: S) -> DnsExchange<TokioRuntimeProvider> {
    let (open, work) = DnsExchange::from_stream(stream);
    tokio::spawn(work);
    open
}

async fn looked_up(host: &str, port: u16) -> Result<SocketAddr, ExchangeError> {
    let mut found = tokio::net::lookup_host((host, port)).await?;
    found.next().ok_or_else(|| ExchangeError::Secure(format!("{host} has no address")))
}

async fn ask(open: &DnsExchange<TokioRuntimeProvider>, message: Message) -> Result<Vec<u8>, NetError> {
    let request = DnsRequest::new(message, DnsRequestOptions::default());
    Ok(open.send(request).first_answer().await?.into_buffer())
}

/// The reply if it is one to the question: the id was the connection's own.
fn fitting(query: &[u8], octets: Vec<u8>) -> Result<Reply, ExchangeError> {
    let same = question_octets(query).zip(question_octets(&octets)).is_some_and(|(q, a)| same_question(q, a));
    let rcode = octets.get(3).map(|flags| ResponseCode::from_low(flags & 0x0f));
    match rcode {
        Some(rcode) if same => Ok(Reply { octets, rcode }),
        _ => Err(ExchangeError::Mismatch),
    }
}
