//! Starting and stopping the listeners.

use super::{
    auth::Token,
    call::Shared,
    config::{AdminConfig, AdminError, is_loopback},
    conn::serve,
    handle::Door,
    listen::{UnixSocket, tls},
    state::Operations,
};
use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    net::TcpListener,
    sync::{Semaphore, watch},
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

/// The admin side of one agent.
#[derive(Debug)]
pub struct AdminServer;

/// A running admin side. Dropping it stops it at once; [`AdminHandle::shutdown`] lets running requests finish.
#[derive(Debug)]
pub struct AdminHandle {
    unix: Option<PathBuf>,
    tcp: Option<SocketAddr>,
    metrics: Option<SocketAddr>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl AdminServer {
    /// Opens every listener of `config`, or none, and serves until the handle is dropped or shut down.
    /// `/metrics` answers what is in `registry` and what `operations` counts.
    ///
    /// # Errors
    /// [`AdminError`] when the API would be open to the network, an address is taken or a file is unusable.
    pub async fn start(
        config: AdminConfig,
        operations: Arc<dyn Operations>,
        registry: prometheus::Registry,
    ) -> Result<AdminHandle, AdminError> {
        config.validate()?;
        let tcp_config = config.tcp.as_ref();
        let token = match tcp_config.and_then(|t| t.token.as_ref()) {
            Some(secret) => Some(Token::new(secret.expose()).ok_or(AdminError::Random)?),
            None => None,
        };
        let acceptor = tcp_config.and_then(|t| t.tls.as_ref()).map(tls).transpose()?;
        let proven = tcp_config.is_some_and(super::config::TcpConfig::is_authenticated);
        if let Some(tcp) = tcp_config
            && token.is_some()
            && acceptor.is_none()
            && !is_loopback(tcp.listen.ip())
        {
            tracing::warn!(listen = %tcp.listen, "the admin token crosses the network in clear: set admin.tls");
        }
        let unix = config.unix.as_deref().map(UnixSocket::bind).transpose()?;
        let tcp = match tcp_config {
            Some(t) => Some(bind("admin.listen", t.listen).await?),
            None => None,
        };
        let metrics = match config.metrics {
            Some(address) => Some(bind("metrics.listen", address).await?),
            None => None,
        };

        let options = prometheus::Opts::new(
            "mesh_admin_requests_total",
            "Requests to the admin API and the metrics listener, by listener and HTTP status.",
        );
        let requests = prometheus::IntCounterVec::new(options, &["listener", "code"])?;
        registry.register(Box::new(requests.clone()))?;
        let (stop, stopped) = watch::channel(false);
        let shared = Arc::new(Shared {
            operations,
            registry,
            requests,
            limits: config.limits,
            token,
            started: Instant::now(),
            stop: stopped.clone(),
        });
        let mut handle = AdminHandle { unix: None, tcp: None, metrics: None, stop, tasks: JoinSet::new() };
        if let Some(socket) = unix {
            handle.unix = Some(socket.path.clone());
            let accept = Unix(socket);
            handle.tasks.spawn(listen(accept, Door::Unix, Arc::clone(&shared), stopped.clone()));
        }
        if let Some((listener, address)) = tcp {
            handle.tcp = Some(address);
            let door = if proven { Door::TcpProven } else { Door::TcpOpen };
            let accept = Tcp { listener, tls: acceptor };
            handle.tasks.spawn(listen(accept, door, Arc::clone(&shared), stopped.clone()));
        }
        if let Some((listener, address)) = metrics {
            handle.metrics = Some(address);
            let accept = Tcp { listener, tls: None };
            handle.tasks.spawn(listen(accept, Door::Metrics, shared, stopped));
        }
        Ok(handle)
    }
}

impl AdminHandle {
    /// The unix socket's path.
    #[must_use]
    pub fn unix(&self) -> Option<&Path> {
        self.unix.as_deref()
    }

    /// The API's TCP address, with the port that was bound.
    #[must_use]
    pub fn tcp(&self) -> Option<SocketAddr> {
        self.tcp
    }

    /// The metrics listener's address, with the port that was bound.
    #[must_use]
    pub fn metrics(&self) -> Option<SocketAddr> {
        self.metrics
    }

    /// Takes no new connection, gives running requests 5 s, then ends the rest. The unix socket is gone afterwards.
    pub async fn shutdown(mut self) {
        const GRACE: Duration = Duration::from_secs(5);
        self.stop.send_replace(true);
        let _ = timeout(GRACE, async { while self.tasks.join_next().await.is_some() {} }).await;
        self.tasks.shutdown().await;
    }
}

async fn bind(field: &'static str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), AdminError> {
    let fail = |source: io::Error| AdminError::Bind { field, address, source };
    let listener = TcpListener::bind(address).await.map_err(fail)?;
    let bound = listener.local_addr().map_err(fail)?;
    Ok((listener, bound))
}

/// What listens: hands out raw streams, and makes each ready in its own task.
trait Accept: Send + 'static {
    type Raw: AsyncWrite + Unpin + Send + 'static;
    fn accept(&self) -> impl Future<Output = io::Result<Self::Raw>> + Send;
    fn serve(
        &self,
        raw: Self::Raw,
        shared: Arc<Shared>,
        door: Door,
        stop: watch::Receiver<bool>,
    ) -> impl Future<Output = ()> + Send + 'static;
}

struct Unix(UnixSocket);

impl Accept for Unix {
    type Raw = tokio::net::UnixStream;

    async fn accept(&self) -> io::Result<Self::Raw> {
        Ok(self.0.listener.accept().await?.0)
    }

    fn serve(
        &self,
        raw: Self::Raw,
        shared: Arc<Shared>,
        door: Door,
        stop: watch::Receiver<bool>,
    ) -> impl Future<Output = ()> + Send + 'static {
        serve(raw, shared, door, stop)
    }
}

struct Tcp {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
}

impl Accept for Tcp {
    type Raw = tokio::net::TcpStream;

    async fn accept(&self) -> io::Result<Self::Raw> {
        let stream = self.listener.accept().await?.0;
        // Answers are written whole, so waiting to fill a segment only delays them.
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }

    fn serve(
        &self,
        raw: Self::Raw,
        shared: Arc<Shared>,
        door: Door,
        stop: watch::Receiver<bool>,
    ) -> impl Future<Output = ()> + Send + 'static {
        let tls = self.tls.clone();
        async move {
            let Some(tls) = tls else { return serve(raw, shared, door, stop).await };
            match timeout(shared.limits.header_timeout, tls.accept(raw)).await {
                Ok(Ok(stream)) => serve(stream, shared, door, stop).await,
                Ok(Err(error)) => tracing::debug!(%error, "admin: TLS handshake failed"),
                Err(_) => tracing::debug!("admin: TLS handshake took too long"),
            }
        }
    }
}

/// Most connections of the metrics listener.
const SCRAPERS: usize = 16;

/// Accepts until told to stop, then waits for the connections it has.
async fn listen<A: Accept>(accept: A, door: Door, shared: Arc<Shared>, mut stop: watch::Receiver<bool>) {
    let permits = match door {
        // Anybody may scrape, and the answer for a large mesh is large.
        Door::Metrics => shared.limits.connections.min(SCRAPERS),
        _ => shared.limits.connections,
    };
    let permits = Arc::new(Semaphore::new(permits));
    let mut connections = JoinSet::new();
    let connection_stop = stop.clone();
    loop {
        let accepted = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            Some(ended) = connections.join_next() => {
                report(ended);
                continue;
            }
            accepted = accept.accept() => accepted,
        };
        match accepted {
            Ok(raw) => match Arc::clone(&permits).try_acquire_owned() {
                Ok(permit) => {
                    let served = accept.serve(raw, Arc::clone(&shared), door, connection_stop.clone());
                    connections.spawn(async move {
                        served.await;
                        drop(permit);
                    });
                }
                Err(_) => refuse(raw),
            },
            Err(error) => {
                // Out of descriptors, or the like: what is open goes on, and new ones are tried in a while.
                tracing::warn!(%error, ?door, "admin: cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
    // Closed first, so that nobody waits in a backlog that is not read.
    drop(accept);
    while let Some(ended) = connections.join_next().await {
        report(ended);
    }
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "admin: a request's task panicked; its connection is closed");
    }
}

/// Tells a client that there are too many, without waiting for it.
fn refuse<S: AsyncWrite + Unpin>(mut raw: S) {
    const ANSWER: &[u8] =
        b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\n\
        Connection: close\r\nContent-Length: 71\r\n\r\n\
        {\"error\":\"too many connections\",\"fix\":\"close idle ones, or try again\"}\n";
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let write = std::pin::pin!(raw.write_all(ANSWER));
    let _ = write.poll(&mut context);
}
