//! The HTTP client of the CLI: one request a connection, over a unix socket or TCP.

use super::{
    exit::{Code, Failure},
    lines::Lines,
};
use crate::{admin::wire::ErrorBody, sys};
use bytes::Bytes;
use http_body_util::{BodyExt, Collected, Full, Limited};
use hyper::{Request, StatusCode, body::Incoming, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use std::{
    io::{self, Read},
    ops::ControlFlow,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    time::timeout,
};

/// Where an admin API is.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Address {
    Unix(PathBuf),
    /// `host:port`.
    Tcp(String),
}

/// Talks to one agent.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    address: Address,
    token: Option<String>,
}

/// To connect.
const CONNECT: Duration = Duration::from_secs(5);
/// For the whole answer; longer than the server's own limit, so that its reason arrives.
const ANSWER: Duration = Duration::from_secs(40);
/// More than a mesh of 10,000 services with 10 endpoints each needs.
const MOST: usize = 256 << 20;
/// What is read of a token file, in bytes: more is no token.
const TOKEN_FILE: u64 = 4096;

impl Client {
    pub(crate) fn new(admin: &str, token_file: Option<&Path>) -> Result<Client, Failure> {
        let address = parse(admin)?;
        let token = token_file.map(read_token).transpose()?;
        Ok(Client { address, token })
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.call("GET", path, None).await
    }

    pub(crate) async fn send<B: Serialize, T: DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        body: &B,
    ) -> Result<T, Failure> {
        let body = serde_json::to_vec(body)
            .map_err(|e| Failure::new(Code::Failure, format!("cannot write JSON: {e}")))?;
        self.call(method, path, Some(("application/json", body.into()))).await
    }

    /// Sends a request; an answer other than 2xx is the failure that its status says.
    pub(crate) async fn call<T: DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        body: Option<(&str, Bytes)>,
    ) -> Result<T, Failure> {
        let (status, bytes) = self.exchange(method, path, body).await?;
        if !status.is_success() {
            return Err(refused(status, &bytes));
        }
        serde_json::from_slice(&bytes).map_err(|e| {
            Failure::new(Code::Failure, format!("{} answered no JSON of ours: {e}", self.name()))
        })
    }

    /// Sends a request and returns whatever is answered.
    pub(crate) async fn exchange(
        &self,
        method: &str,
        path: &str,
        body: Option<(&str, Bytes)>,
    ) -> Result<(StatusCode, Bytes), Failure> {
        let request = self.request(method, path, body)?;
        let exchange = async {
            match &self.address {
                Address::Unix(path) => talk(self.connect(UnixStream::connect(path)).await?, request).await,
                Address::Tcp(to) => talk(self.connect(TcpStream::connect(to)).await?, request).await,
            }
            .map_err(|e| self.broken(&e))
        };
        timeout(ANSWER, exchange).await.unwrap_or_else(|_| {
            let text = format!("{} did not answer within {} s", self.name(), ANSWER.as_secs());
            Err(Failure::new(Code::TryAgain, text).fix("see the agent's log"))
        })
    }

    fn request(
        &self,
        method: &str,
        path: &str,
        body: Option<(&str, Bytes)>,
    ) -> Result<Request<Full<Bytes>>, Failure> {
        let host = match &self.address {
            Address::Unix(_) => "localhost",
            Address::Tcp(authority) => authority,
        };
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, host);
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        if let Some((content_type, _)) = &body {
            request = request.header(header::CONTENT_TYPE, *content_type);
        }
        request
            .body(Full::new(body.map(|(_, bytes)| bytes).unwrap_or_default()))
            .map_err(|e| Failure::new(Code::Usage, format!("cannot make the request: {e}")))
    }

    /// Asks for a stream of lines and gives each that is not empty to `line`, until that says to break or the stream
    /// ends. A server that sends nothing for longer than `silence` is taken for dead.
    pub(crate) async fn stream(
        &self,
        path: &str,
        silence: Duration,
        mut line: impl FnMut(&str) -> Result<ControlFlow<()>, Failure>,
    ) -> Result<(), Failure> {
        let request = self.request("GET", path, None)?;
        let (status, body, driver) = match &self.address {
            Address::Unix(path) => open(self.connect(UnixStream::connect(path)).await?, request).await,
            Address::Tcp(to) => open(self.connect(TcpStream::connect(to)).await?, request).await,
        }
        .map_err(|e| self.broken(&e))?;
        let _driver = driver;
        if !status.is_success() {
            let body = timeout(ANSWER, Limited::new(body, MOST).collect()).await.ok().and_then(Result::ok);
            return Err(refused(status, &body.map(Collected::to_bytes).unwrap_or_default()));
        }
        let mut body = body;
        let mut lines = Lines::default();
        loop {
            let frame = timeout(silence, body.frame()).await.map_err(|_| {
                let text = format!("{} is silent for {} s", self.name(), silence.as_secs());
                Failure::new(Code::Unreachable, text).fix("see whether the agent still runs, and its log")
            })?;
            let Some(frame) = frame else { return Ok(()) };
            let frame = frame.map_err(|e| self.broken(&BrokenOff(e.into())))?;
            let whole = lines.add(&frame.into_data().unwrap_or_default());
            let whole =
                whole.map_err(|e| Failure::new(Code::Failure, format!("{} sent {e}", self.name())))?;
            for text in whole {
                if line(&text)?.is_break() {
                    return Ok(());
                }
            }
        }
    }

    async fn connect<S>(&self, connecting: impl Future<Output = io::Result<S>>) -> Result<S, Failure> {
        let outcome =
            timeout(CONNECT, connecting).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        outcome.map_err(|e| {
            let failure = Failure::new(Code::Unreachable, format!("no agent answers at {}: {e}", self.name()));
            match (e.kind(), &self.address) {
                (io::ErrorKind::PermissionDenied, _) => {
                    let text = format!("{} may not be opened: {e}", self.name());
                    Failure::new(Code::NotAllowed, text).fix("run it as the agent's user, or as root")
                }
                (_, Address::Unix(_)) => failure.fix(
                    "is it running? Start it with `mesh-agent run`, or name another with --admin or MESH_ADMIN",
                ),
                _ => failure.fix("is it running, and is admin.listen this address? Name another with --admin"),
            }
        })
    }

    fn broken(&self, error: &dyn std::error::Error) -> Failure {
        let mut text = error.to_string();
        if let Some(source) = error.source() {
            text.push_str(&format!(": {source}"));
        }
        Failure::new(Code::Unreachable, format!("{} broke the answer off: {text}", self.name()))
            .fix("is that the admin API of a mesh-agent? Its log may say more")
    }

    fn name(&self) -> String {
        match &self.address {
            Address::Unix(path) => format!("unix:{}", path.display()),
            Address::Tcp(authority) => format!("http://{authority}"),
        }
    }
}

type Broken = Box<dyn std::error::Error + Send + Sync>;

/// Drives a connection for as long as it lives.
struct Driver(tokio::task::JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Sends a request and waits for the head of the answer.
async fn open<S>(
    stream: S,
    request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Incoming, Driver), BrokenOff>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let run = async {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // What goes wrong with it the body says too.
        let driver = Driver(tokio::spawn(async move { drop(connection.await) }));
        let response = sender.send_request(request).await?;
        Ok::<_, Broken>((response.status(), response.into_body(), driver))
    };
    timeout(ANSWER, run).await.unwrap_or_else(|_| Err("no answer in time".into())).map_err(BrokenOff)
}

async fn talk<S>(stream: S, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), BrokenOff>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (status, body, _driver) = open(stream, request).await?;
    let body = Limited::new(body, MOST).collect().await.map_err(BrokenOff)?.to_bytes();
    Ok((status, body))
}

/// An exchange that did not end well.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct BrokenOff(Broken);

/// The failure that a status says.
fn refused(status: StatusCode, body: &[u8]) -> Failure {
    let code = match status.as_u16() {
        404 => Code::NotFound,
        400 | 413 | 422 => Code::Data,
        401 | 403 => Code::NotAllowed,
        408 | 503 | 504 => Code::TryAgain,
        _ => Code::Failure,
    };
    let Ok(body) = serde_json::from_slice::<ErrorBody>(body) else {
        return Failure::new(code, format!("the agent answered {status}"));
    };
    let mut text = match body.field {
        Some(field) if !body.error.starts_with(&field) => format!("{field}: {}", body.error),
        _ => body.error,
    };
    for more in body.details.iter().skip(1) {
        text.push_str(&format!("\n{more}"));
    }
    Failure { code, message: text, fix: body.fix }
}

fn parse(admin: &str) -> Result<Address, Failure> {
    let wrong = |why: &str| {
        Err(Failure::new(Code::Usage, format!("--admin `{admin}`: {why}"))
            .fix("write unix:/run/mesh-agent/admin.sock or http://127.0.0.1:7700"))
    };
    if admin.starts_with('/') {
        return Ok(Address::Unix(admin.into()));
    }
    if let Some(path) = admin.strip_prefix("unix:") {
        let path = path.strip_prefix("//").unwrap_or(path);
        return if path.is_empty() { wrong("the path is missing") } else { Ok(Address::Unix(path.into())) };
    }
    if admin.starts_with("https:") {
        return wrong("this client speaks no TLS: use the unix socket, or a TLS proxy");
    }
    let Some(authority) = admin.strip_prefix("http://") else { return wrong("no scheme that is known") };
    let authority = authority.trim_end_matches('/');
    let port = authority.rsplit_once(':').and_then(|(host, port)| {
        let host_is_whole = !host.is_empty() && (!host.contains(':') || host.ends_with(']'));
        port.parse::<u16>().ok().filter(|_| host_is_whole)
    });
    if port.is_none() || authority.contains(['/', '@', ' ']) {
        return wrong("no HOST:PORT");
    }
    Ok(Address::Tcp(authority.to_owned()))
}

fn read_token(path: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    sys::file::open(path)
        .and_then(|file| file.take(TOKEN_FILE).read_to_string(&mut text))
        .map_err(|e| Failure::new(Code::NoInput, format!("--token-file {}: {e}", path.display())))?;
    let token = text.trim();
    if token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()) {
        let text = format!("--token-file {} holds no token", path.display());
        return Err(Failure::new(Code::Usage, text).fix("it must be one line of visible ASCII characters"));
    }
    Ok(token.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_server_that_falls_silent_is_given_up() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = Client::new(&format!("http://{}", listener.local_addr().unwrap()), None).unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\none\n";
            tokio::io::AsyncWriteExt::write_all(&mut stream, answer).await.unwrap();
            stream
        });
        let mut heard = Vec::new();
        let take = |line: &str| {
            heard.push(line.to_owned());
            Ok(ControlFlow::Continue(()))
        };
        let failure = client.stream("/", Duration::from_millis(300), take).await.unwrap_err();
        assert_eq!(failure.code, Code::Unreachable);
        assert!(failure.message.contains("is silent"), "{failure}");
        assert_eq!(heard, ["one"]);
        drop(server.await.unwrap());
    }

    #[test]
    fn addresses_are_read() {
        let unix = |p: &str| Address::Unix(p.into());
        for (text, want) in [
            ("/a.sock", unix("/a.sock")),
            ("unix:/a.sock", unix("/a.sock")),
            ("unix:///a.sock", unix("/a.sock")),
            ("unix:a.sock", unix("a.sock")),
            ("http://127.0.0.1:80/", Address::Tcp("127.0.0.1:80".into())),
            ("http://[::1]:80", Address::Tcp("[::1]:80".into())),
        ] {
            assert_eq!(parse(text).unwrap(), want, "{text}");
        }
        for bad in
            ["", "unix:", "https://a:1", "http://", "http://a", "http://::1:80", "http://a:80/x", "a:1"]
        {
            assert_eq!(parse(bad).unwrap_err().code, Code::Usage, "{bad}");
        }
    }
}
