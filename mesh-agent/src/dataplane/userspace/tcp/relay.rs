//! Moving bytes both ways between two connections.
//!
//! Small exchanges go through one scratch buffer per worker: read, write at once; only what the other side does not
//! take at once is kept per flow. A direction that keeps filling the scratch buffer is bulk and goes on by splice(2)
//! through a pipe, without copying; one that falls back to small pieces gives its pipe back.
//! A side that takes nothing is not read for: back-pressure reaches the sender through TCP's own window.

use super::pipe::{Pipe, PipePool};
use rustix::{
    io::Errno,
    pipe::{SpliceFlags, splice},
};
use std::{
    cell::{Cell, RefCell},
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
};

/// Bytes read at once when copying.
const SCRATCH: usize = 64 << 10;
/// Full reads in a row that make a direction bulk.
const BULK_AFTER: u32 = 4;
/// Moves in a row below [`SMALL`] that make it small again.
const SMALL_AFTER: u32 = 16;
/// Bytes of a move that is not worth a pipe.
const SMALL: usize = 8 << 10;
/// Bytes asked of one splice.
const SPLICE: usize = 1 << 20;
/// Moves of one direction before others get a turn.
const TURNS: u32 = 8;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into());
}

/// Told of every move.
pub(super) trait Meter {
    /// `n` bytes went from client to backend.
    fn bytes_in(&self, n: u64);
    /// `n` bytes went from backend to client.
    fn bytes_out(&self, n: u64);
}

/// Moves bytes until both directions ended in order, passing each half-close on; the end that comes last is left to
/// the caller to pass on, by closing both. `moved` is set on every move.
///
/// # Errors
/// The first error of either side; both should then be reset.
pub(super) async fn relay(
    client: &mut TcpStream,
    backend: &mut TcpStream,
    pipes: &Rc<PipePool>,
    meter: &impl Meter,
    moved: &Cell<bool>,
) -> io::Result<()> {
    let (mut client_read, mut client_write) = client.split();
    let (mut backend_read, mut backend_write) = backend.split();
    let mut up = Direction::default();
    let mut down = Direction::default();
    std::future::poll_fn(|cx| {
        let before = (up.total, down.total);
        let up_done = up.poll(cx, &mut client_read, &mut backend_write, pipes, down.end)?;
        let down_done = down.poll(cx, &mut backend_read, &mut client_write, pipes, up.end)?;
        let (n_in, n_out) = (up.total - before.0, down.total - before.1);
        if n_in > 0 {
            meter.bytes_in(n_in);
            moved.set(true);
        }
        if n_out > 0 {
            meter.bytes_out(n_out);
            moved.set(true);
        }
        if up_done.is_ready() && down_done.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    })
    .await
}

/// One direction of a flow.
#[derive(Debug, Default)]
struct Direction {
    /// Bytes written so far.
    total: u64,
    /// Read and not yet written; `from` is where they begin.
    pending: Vec<u8>,
    from: usize,
    pipe: Option<Pipe>,
    /// Full reads in a row, or small moves in a row while there is a pipe.
    streak: u32,
    end: End,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum End {
    #[default]
    Open,
    /// The source said that it is done; what is pending still goes.
    Seen,
    /// The destination has been told.
    Passed,
}

impl Direction {
    /// Moves what can be moved. Ready when the end was passed on, or will be by closing both connections, because
    /// the `other` direction has ended before.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut ReadHalf<'_>,
        to: &mut WriteHalf<'_>,
        pipes: &Rc<PipePool>,
        other: End,
    ) -> Poll<io::Result<()>> {
        for _ in 0..TURNS {
            ready!(self.poll_flush(cx, to))?;
            match self.end {
                End::Passed => return Poll::Ready(Ok(())),
                End::Seen => {
                    if other != End::Passed {
                        ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                    }
                    self.end = End::Passed;
                    self.pending = Vec::new();
                    self.pipe = None;
                }
                End::Open if self.pipe.is_some() => ready!(self.poll_splice(cx, from))?,
                End::Open => ready!(self.poll_copy(cx, from, to, pipes))?,
            }
        }
        // Still work to do: let the other flows of the worker have their turn.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Writes what was read before.
    fn poll_flush(&mut self, cx: &mut Context<'_>, to: &mut WriteHalf<'_>) -> Poll<io::Result<()>> {
        while self.from < self.pending.len() {
            let n = ready!(Pin::new(&mut *to).poll_write(cx, &self.pending[self.from..]))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.from += n;
            self.total += n as u64;
        }
        if self.from > 0 {
            // An idle flow holds no buffer.
            (self.pending, self.from) = (Vec::new(), 0);
        }
        let Some(pipe) = &mut self.pipe else { return Poll::Ready(Ok(())) };
        let stream: &TcpStream = to.as_ref();
        while pipe.held > 0 {
            ready!(stream.poll_write_ready(cx))?;
            let Some((source, _)) = pipe.ends() else { return Poll::Ready(Ok(())) };
            // The pipe is not empty, so EAGAIN can only mean that the socket is full.
            match stream.try_io(Interest::WRITABLE, || splice_some(source, stream, pipe.held)) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(n) => {
                    pipe.held -= n;
                    self.total += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads once into the scratch buffer and writes what the other side takes.
    fn poll_copy(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut ReadHalf<'_>,
        to: &mut WriteHalf<'_>,
        pipes: &Rc<PipePool>,
    ) -> Poll<io::Result<()>> {
        BUFFER.with_borrow_mut(|buffer| {
            let mut read = ReadBuf::new(buffer);
            ready!(Pin::new(&mut *from).poll_read(cx, &mut read))?;
            let data = read.filled();
            if data.is_empty() {
                self.end = End::Seen;
                return Poll::Ready(Ok(()));
            }
            self.streak = if data.len() == SCRATCH { self.streak + 1 } else { 0 };
            let taken = match Pin::new(&mut *to).poll_write(cx, data) {
                Poll::Ready(taken) => taken?,
                Poll::Pending => 0,
            };
            self.total += taken as u64;
            self.pending.extend_from_slice(&data[taken..]);
            if self.streak >= BULK_AFTER {
                self.streak = 0;
                self.pipe = Pipe::take(pipes);
            }
            Poll::Ready(Ok(()))
        })
    }

    /// Fills the pipe, which is empty.
    fn poll_splice(&mut self, cx: &mut Context<'_>, from: &mut ReadHalf<'_>) -> Poll<io::Result<()>> {
        let stream: &TcpStream = from.as_ref();
        loop {
            ready!(stream.poll_read_ready(cx))?;
            let Some(pipe) = &mut self.pipe else { return Poll::Ready(Ok(())) };
            let Some((_, target)) = pipe.ends() else { return Poll::Ready(Ok(())) };
            // The pipe is empty, so EAGAIN can only mean that the socket is.
            match stream.try_io(Interest::READABLE, || splice_some(stream, target, SPLICE)) {
                Ok(0) => {
                    self.end = End::Seen;
                    return Poll::Ready(Ok(()));
                }
                Ok(n) => {
                    pipe.held = n;
                    self.streak = if n < SMALL { self.streak + 1 } else { 0 };
                    return Poll::Ready(Ok(()));
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if self.streak >= SMALL_AFTER {
                        self.streak = 0;
                        self.pipe = None;
                        return Poll::Ready(Ok(()));
                    }
                }
                // A kernel or socket kind without splice: copy, as before.
                Err(e) if e.kind() == io::ErrorKind::InvalidInput => {
                    self.pipe = None;
                    return Poll::Ready(Ok(()));
                }
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
    }
}

fn splice_some(from: impl std::os::fd::AsFd, to: impl std::os::fd::AsFd, most: usize) -> io::Result<usize> {
    let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
    loop {
        match splice(&from, None, &to, None, most, flags) {
            Err(Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    #[derive(Default)]
    struct Count(Cell<u64>, Cell<u64>);

    impl Meter for Count {
        fn bytes_in(&self, n: u64) {
            self.0.set(self.0.get() + n);
        }

        fn bytes_out(&self, n: u64) {
            self.1.set(self.1.get() + n);
        }
    }

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (near, listener.accept().await.unwrap().0)
    }

    /// Sends `size` bytes through a relay and says how many pipes it opened.
    async fn pipes_for(size: usize) -> usize {
        let ((mut client, mut left), (mut right, mut backend)) = (pair().await, pair().await);
        let (pipes, count, moved) = (Rc::default(), Count::default(), Cell::new(false));
        let data: Vec<u8> = (0..size).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let ends = async {
            let send = async {
                client.write_all(&data).await.unwrap();
                client.shutdown().await.unwrap();
            };
            let mut got = Vec::new();
            let receive = async {
                backend.read_to_end(&mut got).await.unwrap();
                backend.write_all(b"done").await.unwrap();
                backend.shutdown().await.unwrap();
            };
            tokio::join!(send, receive);
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            assert!(got == data && answer == "done");
        };
        // The last end is passed on by closing, which is its owner's part.
        let relaying = async {
            let outcome = relay(&mut left, &mut right, &pipes, &count, &moved).await;
            (left, right) = (pair().await.0, pair().await.0);
            outcome
        };
        let (outcome, ()) = tokio::join!(relaying, ends);
        outcome.unwrap();
        assert_eq!((count.0.get(), count.1.get()), (size as u64, 4));
        Pipe::open_in(&pipes)
    }

    #[tokio::test]
    async fn bulk_is_spliced_and_small_is_copied() {
        assert_eq!(pipes_for(1000).await, 0);
        assert_eq!(pipes_for(32 << 20).await, 1);
    }
}
