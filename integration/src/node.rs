//! What a test asks of one node, as a user would: `dig`, an HTTP request, a datagram, the admin socket.

use crate::{lab::Host, wait::at_this_pace};
use anyhow::{Context, Result, bail, ensure};
use mesh_agent::demo::layout;
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, UdpSocket, UnixStream},
    process::Command,
    time::timeout,
};

/// A single request never takes longer than this.
const PATIENCE: Duration = Duration::from_secs(3);

/// One node of a [`crate::Mesh`].
#[derive(Clone, Debug)]
pub struct Node {
    /// Its addresses and files.
    pub place: layout::Node,
    /// The host it runs in, if not this one: what is asked of it is asked there.
    pub host: Option<Host>,
}

/// What `dig` printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DigAnswer {
    /// `NOERROR`, `NXDOMAIN`, …
    pub status: String,
    /// The flags of the header, as `qr aa rd`.
    pub flags: String,
    /// The answer section's data, sorted.
    pub answers: Vec<String>,
    /// The authority section's record types.
    pub authority: Vec<String>,
}

/// What the `whoami` service answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whoami {
    /// Which instance.
    pub instance: String,
    /// On which node.
    pub node: String,
    /// The client it saw.
    pub client: SocketAddr,
    /// Who asked: the port may be another than what was seen, where the client had a flow with that port to the same instance
    /// by way of another node.
    pub asked_from: SocketAddr,
}

impl Node {
    /// Runs `dig NAME TYPE` at this node with further arguments, as `+tcp`.
    ///
    /// # Errors
    /// When dig is absent, or no answer came.
    pub async fn dig(&self, name: &str, kind: &str, more: &[&str]) -> Result<DigAnswer> {
        let dns = self.place.dns();
        let mut dig = Command::new("dig");
        dig.args(["+tries=1", "+time=2", "+noall", "+comments", "+answer", "+authority"]).args(more).args([
            &format!("@{}", dns.ip()),
            "-p",
            &dns.port().to_string(),
            name,
            kind,
        ]);
        let output = async move { dig.output().await };
        let output = self.there(output).await?.context("cannot run dig (Debian: bind9-dnsutils)")?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "dig {name} {kind} at {dns}: {}", text.trim());
        parse_dig(&text).with_context(|| format!("dig {name} {kind} at {dns} printed: {text}"))
    }

    /// The data of all records of `name` and type A, sorted.
    ///
    /// # Errors
    /// As [`Node::dig`].
    pub async fn lookup(&self, name: &str) -> Result<Vec<String>> {
        Ok(self.dig(name, "A", &[]).await?.answers)
    }

    /// Asks the whoami behind a published port of this node.
    ///
    /// # Errors
    /// When the request fails or takes too long.
    pub async fn whoami(&self, published: u16) -> Result<Whoami> {
        self.there(whoami((self.place.address, published).into())).await?
    }

    /// GETs a path of the admin API; the status and the JSON.
    ///
    /// # Errors
    /// When no agent answers or the body is no JSON.
    pub async fn admin(&self, path: &str) -> Result<(u16, serde_json::Value)> {
        let stream = UnixStream::connect(&self.place.socket).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let (status, body) = timeout(at_this_pace(PATIENCE), exchange(stream, request.as_bytes())).await??;
        Ok((
            status,
            serde_json::from_str(&body).with_context(|| format!("{path} answered {status}: {body}"))?,
        ))
    }

    /// The text of a path of the metrics listener, as `/metrics` or `/readyz`, with its status.
    ///
    /// # Errors
    /// When the request fails.
    pub async fn metrics(&self, path: &str) -> Result<(u16, String)> {
        let (at, path) = (self.place.metrics(), path.to_owned());
        self.there(async move { http_get(at, &path).await }).await?
    }

    /// Runs a future in the node's host.
    async fn there<F>(&self, future: F) -> std::io::Result<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        match &self.host {
            Some(host) => host.within(future).await,
            None => Ok(future.await),
        }
    }
}

/// GETs a path; status and body. One connection, closed afterwards.
///
/// # Errors
/// When the request fails or takes too long.
pub async fn http_get(at: SocketAddr, path: &str) -> Result<(u16, String)> {
    let (_, status, body) = http_get_from(Ipv4Addr::UNSPECIFIED.into(), at, path).await?;
    Ok((status, body))
}

/// Who asked, status and body.
async fn http_get_from(from: IpAddr, at: SocketAddr, path: &str) -> Result<(SocketAddr, u16, String)> {
    let ask = async {
        let socket = if at.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if !from.is_unspecified() {
            socket.bind((from, 0).into())?;
        }
        let stream = socket.connect(at).await?;
        let own = stream.local_addr()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n");
        let (status, body) = exchange(stream, request.as_bytes()).await?;
        Ok((own, status, body))
    };
    timeout(at_this_pace(PATIENCE), ask).await.with_context(|| format!("no answer from {at} in time"))?
}

/// Asks a whoami at any address.
///
/// # Errors
/// When the request fails or the answer is not whoami's.
pub async fn whoami(at: SocketAddr) -> Result<Whoami> {
    whoami_from(Ipv4Addr::UNSPECIFIED.into(), at).await
}

/// As [`whoami`], from a local address of the caller's choice.
///
/// # Errors
/// As [`whoami`].
pub async fn whoami_from(from: IpAddr, at: SocketAddr) -> Result<Whoami> {
    let (asked_from, status, body) = http_get_from(from, at, "/").await?;
    ensure!(status == 200, "{at} answered {status}: {body}");
    let lines: BTreeMap<&str, &str> = body.lines().filter_map(|l| l.split_once(": ")).collect();
    let line = |key: &str| lines.get(key).copied().with_context(|| format!("no {key} in {body:?}"));
    Ok(Whoami {
        instance: line("Instance")?.to_owned(),
        node: line("Node")?.to_owned(),
        client: line("Client")?.parse()?,
        asked_from,
    })
}

/// Sends one datagram to an echo and gives back the instance that answered.
///
/// # Errors
/// When no answer comes.
pub async fn echo(socket: &UdpSocket, at: SocketAddr, text: &str) -> Result<String> {
    socket.send_to(text.as_bytes(), at).await?;
    let mut answer = vec![0u8; 2048];
    let (length, by) = timeout(at_this_pace(PATIENCE), socket.recv_from(&mut answer)).await??;
    let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
    ensure!(by == at, "{by} answered {answer:?} to what {at} was asked");
    ensure!(answer.ends_with(text), "{at} answered {answer:?} to {text:?}");
    Ok(answer.split(' ').next().unwrap_or_default().to_owned())
}

async fn exchange<S>(mut stream: S, request: &[u8]) -> Result<(u16, String)>
where
    S: AsyncReadExt + AsyncWriteExt + Unpin,
{
    stream.write_all(request).await?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await?;
    let text = String::from_utf8_lossy(&bytes);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { bail!("no HTTP answer: {text:?}") };
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).context("no status")?;
    let body = if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        dechunk(body)?
    } else {
        body.to_owned()
    };
    Ok((status, body))
}

/// Joins the chunks of a body (RFC 9112 section 7.1).
fn dechunk(mut rest: &str) -> Result<String> {
    let mut body = String::new();
    loop {
        let (size, tail) = rest.split_once("\r\n").context("chunk without a size")?;
        let size = usize::from_str_radix(size.trim(), 16).context("bad chunk size")?;
        if size == 0 {
            return Ok(body);
        }
        body += tail.get(..size).context("short chunk")?;
        rest = tail.get(size + 2..).context("short chunk")?;
    }
}

fn parse_dig(text: &str) -> Result<DigAnswer> {
    let after = |mark: &str, end: char| {
        let (_, rest) = text.split_once(mark)?;
        Some(rest.split(end).next()?.trim().to_owned())
    };
    let mut found = DigAnswer {
        status: after("status: ", ',').context("no status")?,
        flags: after(";; flags: ", ';').context("no flags")?,
        answers: Vec::new(),
        authority: Vec::new(),
    };
    let mut authority = false;
    for line in text.lines() {
        if line.starts_with(";; ") {
            authority = line.starts_with(";; AUTHORITY");
        } else if !line.starts_with(';') && !line.is_empty() {
            let fields: Vec<&str> = line.split_whitespace().collect();
            ensure!(fields.len() > 4, "odd line {line:?}");
            if authority {
                found.authority.push(fields[3].to_owned());
            } else {
                found.answers.push(fields[4..].join(" "));
            }
        }
    }
    found.answers.sort();
    Ok(found)
}
