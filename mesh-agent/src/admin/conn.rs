//! One connection: hyper with all its limits, shutdown, and a close that does not cut its answer off.

use super::{
    call::Shared,
    config::Limits,
    handle::{Door, handle},
    patient::Patient,
};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{future::poll_fn, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::watch,
    time::timeout,
};

/// Serves requests until the client leaves, misbehaves or `stop` turns true; then the running request is finished.
pub(crate) async fn serve<S>(stream: S, shared: Arc<Shared>, door: Door, mut stop: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = shared.limits;
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        Box::pin(async move { Ok::<_, std::convert::Infallible>(handle(&shared, door, request).await) })
    });
    let io = TokioIo::new(Patient::new(stream, limits.write_timeout));
    let mut connection = builder(&limits).serve_connection(io, service);
    let mut stopping = false;
    let ended = loop {
        tokio::select! {
            ended = poll_fn(|cx| connection.poll_without_shutdown(cx)) => break ended,
            _ = stop.wait_for(|stop| *stop), if !stopping => {
                stopping = true;
                std::pin::Pin::new(&mut connection).graceful_shutdown();
            }
        }
    };
    match ended {
        Ok(()) => linger(connection.into_parts().io.into_inner()).await,
        Err(error) => tracing::debug!(%error, "admin connection ended"),
    }
}

fn builder(limits: &Limits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_headers(64)
        .max_header_size(limits.headers)
        .max_buf_size(limits.headers.max(8 << 10) + (32 << 10))
        .half_close(true);
    builder
}

/// Closes as RFC 9112 section 9.6 asks: first our side, then read a little of what the client still sends. Else the
/// kernel answers that with a reset, and the reset makes the client lose the answer it has not read yet.
async fn linger<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) {
    const TIME: Duration = Duration::from_secs(2);
    const MOST: u64 = 256 << 20;
    let _ = timeout(TIME, async {
        stream.shutdown().await?;
        tokio::io::copy(&mut (&mut stream).take(MOST), &mut tokio::io::sink()).await
    })
    .await;
}
