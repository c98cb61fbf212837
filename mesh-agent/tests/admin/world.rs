//! A served fake and ways to talk to it.

use crate::fake::Fake;
use mesh_agent::admin::{AdminConfig, AdminHandle, AdminServer, Limits, TcpConfig};
use std::{path::PathBuf, sync::Arc, time::Duration};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    time::timeout,
};

/// No test waits longer for anything.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// A fake agent behind a real admin side.
pub(crate) struct World {
    pub(crate) fake: Arc<Fake>,
    pub(crate) admin: AdminHandle,
    pub(crate) dir: TempDir,
}

/// An answer, taken apart.
#[derive(Debug)]
pub(crate) struct Heard {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Heard {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// Reads one whole answer that ends with the connection.
    pub(crate) fn parse(text: &str) -> Heard {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Heard { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }
}

impl World {
    pub(crate) async fn start() -> World {
        World::with(|_| {}).await
    }

    /// A unix socket, an open TCP address and a metrics address; `change` may differ.
    pub(crate) async fn with(change: impl FnOnce(&mut AdminConfig)) -> World {
        let dir = tempfile::tempdir().unwrap();
        let local = "127.0.0.1:0".parse().unwrap();
        let mut config = AdminConfig {
            unix: Some(dir.path().join("admin.sock")),
            tcp: Some(TcpConfig { listen: local, token: None, tls: None }),
            metrics: Some(local),
            limits: Limits::default(),
        };
        change(&mut config);
        let fake = Fake::new();
        let admin = AdminServer::start(config, fake.clone(), prometheus::Registry::new()).await.unwrap();
        World { fake, admin, dir }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.admin.unix().unwrap().to_owned()
    }

    pub(crate) async fn unix(&self) -> UnixStream {
        UnixStream::connect(self.socket()).await.unwrap()
    }

    pub(crate) async fn tcp(&self) -> TcpStream {
        TcpStream::connect(self.admin.tcp().unwrap()).await.unwrap()
    }

    pub(crate) async fn metrics(&self) -> TcpStream {
        TcpStream::connect(self.admin.metrics().unwrap()).await.unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> Heard {
        ask(self.unix().await, "GET", path, "", "").await
    }

    pub(crate) async fn send(&self, method: &str, path: &str, body: &str) -> Heard {
        ask(self.unix().await, method, path, "", body).await
    }
}

/// One request on one connection. `headers` are whole lines.
pub(crate) async fn ask<S>(mut stream: S, method: &str, path: &str, headers: &str, body: &str) -> Heard
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let host = if headers.contains("Host:") { "" } else { "Host: localhost\r\n" };
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\n{host}{headers}Connection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    Heard::parse(&read_all(&mut stream).await)
}

/// Everything until the other side closes; a reset counts as that.
pub(crate) async fn read_all(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut bytes = Vec::new();
    let _ = timeout(LONG, stream.read_to_end(&mut bytes)).await.expect("the answer never ended");
    String::from_utf8_lossy(&bytes).into_owned()
}
