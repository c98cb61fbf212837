//! The demo's HTTP service: says who answered and whom it saw, one `Key: value` a line.

use super::proxy_header;
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, body::Incoming, header, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
};

/// Most connections one instance serves at once; more wait in the listen queue.
const MAX_CONNECTIONS: usize = 1024;
/// Time a client has to send a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// Who an instance is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The service's name.
    pub service: String,
    /// The instance's name.
    pub instance: String,
    /// The node it runs on.
    pub node: String,
}

/// Serves until the returned future is dropped; dropping it ends every connection.
///
/// A connection may begin with a PROXY protocol v2 header; then the address in it is the client's.
pub async fn serve(listener: TcpListener, who: Identity) {
    let who = Arc::new(who);
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        while connections.try_join_next().is_some() {}
        // An accept error is the connection's (aborted) or a shortage of descriptors: neither ends the service.
        let Ok((stream, peer)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let who = Arc::clone(&who);
        connections.spawn(async move {
            if let Err(error) = connection(stream, peer, &who).await {
                tracing::debug!(%peer, %error, "whoami connection ended");
            }
            drop(slot);
        });
    }
}

async fn connection(mut stream: TcpStream, peer: SocketAddr, who: &Identity) -> io::Result<()> {
    let client =
        tokio::time::timeout(HEAD_TIMEOUT, proxy_header::client(&mut stream)).await??.unwrap_or(peer);
    let answer = |request: Request<Incoming>| {
        let body = body(who, client, peer, &request);
        async move {
            let response = Response::builder()
                .header(header::CONTENT_TYPE, "text/plain; charset=utf-8")
                .body(Full::new(Bytes::from(body)));
            Ok::<_, Infallible>(response.unwrap_or_default())
        }
    };
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service_fn(answer))
        .await
        .map_err(io::Error::other)
}

fn body(who: &Identity, client: SocketAddr, peer: SocketAddr, request: &Request<Incoming>) -> String {
    let host = request.headers().get(header::HOST).and_then(|h| h.to_str().ok()).unwrap_or("-");
    format!(
        "Service: {}\nInstance: {}\nNode: {}\nClient: {client}\nPeer: {peer}\nHost: {host}\nRequest: {} {}\n",
        who.service,
        who.instance,
        who.node,
        request.method(),
        request.uri().path(),
    )
}
