//! Asks a whoami, from a network namespace.

use crate::sys::netns::Netns;
use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};
use tokio::task::spawn_blocking;

/// Longest wait of a request, in each direction.
const PATIENCE: Duration = Duration::from_secs(3);

/// What a whoami answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Answer {
    /// Who it is.
    pub(super) instance: String,
    /// Whom it saw.
    pub(super) client: SocketAddr,
}

/// Asks the one at `at` from `netns`; an error names the address.
pub(super) async fn ask(netns: &Arc<Netns>, at: SocketAddr) -> Result<Answer, String> {
    let netns = Arc::clone(netns);
    let asked = spawn_blocking(move || netns.run(|| request(at)).flatten()).await;
    asked.map_err(io::Error::other).flatten().map_err(|e| format!("{at}: {e}"))
}

fn request(at: SocketAddr) -> io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&at, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: whoami\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(64 * 1024).read_to_string(&mut answer)?;
    let line = |key: &str| answer.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(": "));
    let client = line("Client").and_then(|client| client.parse().ok());
    let answer = line("Instance").zip(client);
    let answer = answer.map(|(instance, client)| Answer { instance: instance.to_owned(), client });
    answer.ok_or_else(|| io::Error::other("no instance answered"))
}
