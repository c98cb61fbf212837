//! Asks one question once.

use super::plan::{Plan, Question};
use crate::{source::ExecCheck, sys::process::kill_group};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{Request, client::conn::http1};
use hyper_util::rt::TokioIo;
use std::{net::SocketAddr, process::Stdio, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    net::TcpStream,
    process::Command,
    task::JoinHandle,
    time::timeout,
};

/// Most bytes of an answer's body that are read, and of its head.
const MAX_BODY: usize = 64 << 10;
/// Most bytes of a command's output that are kept; the rest is read and dropped.
const MAX_OUTPUT: usize = 4096;
/// How long the output may lag behind the command's end.
const OUTPUT_LAG: Duration = Duration::from_millis(100);

/// How a check failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Failure {
    /// No answer in time.
    Timeout,
    /// The wrong answer, in words for people.
    Answer(String),
}

/// Asks once. On success what a command wrote, which is empty for the others.
pub(super) async fn ask(plan: &Plan) -> Result<String, Failure> {
    let answer = async {
        match &plan.question {
            Question::Tcp(at) => tcp(*at).await.map(|_| String::new()),
            Question::Http { at, path, host } => http(*at, path, host).await.map(|()| String::new()),
            Question::Exec(check) => exec(check, plan).await,
            Question::Never(why) => Err((*why).to_owned()),
        }
    };
    match timeout(plan.timeout, answer).await {
        Ok(answer) => answer.map_err(Failure::Answer),
        Err(_) => Err(Failure::Timeout),
    }
}

async fn tcp(at: SocketAddr) -> Result<TcpStream, String> {
    TcpStream::connect(at).await.map_err(|e| format!("connect to {at}: {e}"))
}

/// Ends the task with its owner.
struct Owned<T>(JoinHandle<T>);

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn http(at: SocketAddr, path: &str, host: &str) -> Result<(), String> {
    let io = TokioIo::new(tcp(at).await?);
    let fail = |e: hyper::Error| format!("GET http://{at}{path}: {e}");
    let handshake = http1::Builder::new().max_buf_size(MAX_BODY).handshake(io).await;
    let (mut sender, connection) = handshake.map_err(fail)?;
    let _driver = Owned(tokio::spawn(connection));
    let request = Request::get(path)
        .header("host", host)
        .header("user-agent", concat!("mesh-agent/", env!("CARGO_PKG_VERSION")))
        .header("connection", "close")
        .body(Empty::<Bytes>::new())
        .map_err(|e| format!("GET {path}: {e}"))?;
    let mut answer = sender.send_request(request).await.map_err(fail)?;
    let status = answer.status().as_u16();
    if !(200..400).contains(&status) {
        return Err(format!("GET http://{at}{path}: status {status}, not 200 to 399"));
    }
    // Read, so that the server is not reset in the middle of an answer; but no further than this.
    let mut read = 0;
    while read < MAX_BODY {
        match answer.frame().await {
            None => break,
            Some(frame) => read += frame.map_err(fail)?.data_ref().map_or(0, Bytes::len),
        }
    }
    Ok(())
}

/// Kills the whole group when the check ends, in whatever way: a shell's children outlive the shell otherwise.
struct Group(u32);

impl Drop for Group {
    fn drop(&mut self) {
        kill_group(self.0);
    }
}

async fn exec(check: &ExecCheck, plan: &Plan) -> Result<String, String> {
    let Some((program, arguments)) = check.command.split_first() else {
        return Err("the command is empty".to_owned());
    };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .envs(std::env::vars_os().filter(|(k, _)| k == "PATH" || k == "HOME" || k == "LANG"))
        .env("MESH_SERVICE", plan.service.to_string())
        .env("MESH_INSTANCE", plan.process.instance.as_str())
        .env("MESH_ADDRESS", plan.process.addresses.first().map(|a| a.to_string()).unwrap_or_default())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    let mut child = command.spawn().map_err(|e| format!("{program}: {e}"))?;
    let _group = child.id().map(Group);
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let status = {
        let output = async { tokio::join!(keep(stdout, &mut out), keep(stderr, &mut err)) };
        tokio::pin!(output);
        let waited = tokio::select! {
            status = child.wait() => Some(status),
            _ = &mut output => None,
        };
        match waited {
            // Somebody else may still hold the pipes; that is no reason to wait.
            Some(status) => {
                let _lag = timeout(OUTPUT_LAG, output).await;
                status
            }
            None => child.wait().await,
        }
    };
    let status = status.map_err(|e| format!("{program}: {e}"))?;
    out.extend(err);
    out.truncate(MAX_OUTPUT);
    let output = String::from_utf8_lossy(&out).trim().to_owned();
    match (status.success(), output.is_empty()) {
        (true, _) => Ok(output),
        (false, true) => Err(status.to_string()),
        (false, false) => Err(format!("{status}: {output}")),
    }
}

async fn keep(pipe: Option<impl AsyncRead + Unpin>, into: &mut Vec<u8>) {
    let Some(mut pipe) = pipe else { return };
    let mut buffer = [0; 1024];
    while let Ok(n @ 1..) = pipe.read(&mut buffer).await {
        into.extend(&buffer[..n.min(MAX_OUTPUT - into.len())]);
    }
}
