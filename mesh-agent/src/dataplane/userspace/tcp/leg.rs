//! One side of a flow.

use rustix::net::sockopt::set_socket_linger;
use std::time::Duration;
use tokio::net::TcpStream;

/// A connection that is reset when it is dropped before [`Leg::finish`]: an error, a removal or a drain deadline on one
/// side must not look like an orderly end on the other.
#[derive(Debug)]
pub(super) struct Leg {
    pub(super) stream: TcpStream,
    finished: bool,
}

impl Leg {
    /// A leg over a fresh connection.
    pub(super) fn new(stream: TcpStream) -> Self {
        Leg { stream, finished: false }
    }

    /// From now on a drop closes it in order.
    pub(super) fn finish(&mut self) {
        self.finished = true;
    }
}

impl Drop for Leg {
    fn drop(&mut self) {
        if !self.finished {
            // Linger zero makes close() send RST (socket(7), tcp(7)). A failure leaves an orderly close.
            let _ = set_socket_linger(&self.stream, Some(Duration::ZERO));
        }
    }
}
