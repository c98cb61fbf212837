//! The stream of events: a body that makes its next lines only when the connection has room for them.
//!
//! So a slow reader costs no memory. It falls behind the list of events, and when what it should read next is
//! forgotten, it is told so and the stream ends. One that reads nothing at all is dropped by the connection's own limit.

use super::wire::{EventJson, StreamLine};
use crate::events::{EventLog, Follower, Since};
use bytes::Bytes;
use hyper::body::{Body, Frame};
use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{sync::watch, time::sleep};

/// JSON, one value a line (<https://github.com/ndjson/ndjson-spec>).
pub(super) const CONTENT_TYPE: &str = "application/x-ndjson";

/// An empty line is sent after so long without an event: both sides notice that the other is gone.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// Events in one frame, each below 2 KiB.
const MOST: usize = 16;

/// Follows `log` from `since` on until `stop` turns true; `None` when too many do already.
pub(super) fn follow(log: &EventLog, since: Since, stop: watch::Receiver<bool>) -> Option<Stream> {
    // Read before the page, so that nothing falls between the two.
    let newest = log.newest();
    let page = log.since(since);
    let after = page.events.first().map_or(newest, |first| first.seq - 1);
    let reader = Reader { follower: log.follow(after)?, stop, missed: page.missed };
    Some(Stream { turn: Some(Box::pin(reader.turn())) })
}

type Turn = Pin<Box<dyn Future<Output = (Bytes, Option<Reader>)> + Send>>;

/// The body.
pub(super) struct Stream {
    turn: Option<Turn>,
}

impl Body for Stream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(turn) = &mut self.turn else { return Poll::Ready(None) };
        let (bytes, reader) = ready!(turn.as_mut().poll(cx));
        self.turn = reader.map(|reader| Box::pin(reader.turn()) as Turn);
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }
}

struct Reader {
    follower: Follower,
    stop: watch::Receiver<bool>,
    /// Said before anything else.
    missed: u64,
}

impl Reader {
    /// The next lines, and itself when more may come.
    async fn turn(mut self) -> (Bytes, Option<Reader>) {
        if self.missed > 0 {
            let line = StreamLine::Missed { missed: std::mem::take(&mut self.missed) };
            return (lines([line]), Some(self));
        }
        let (text, more) = tokio::select! {
            // What happened is told before the end is.
            biased;
            next = self.follower.next(MOST) => match next {
                Ok(events) => {
                    let text = lines(events.iter().map(|e| StreamLine::Event(EventJson::new(e))));
                    (text, true)
                }
                Err(passed) => {
                    let last = self.follower.after() - passed.missed;
                    let end = format!(
                        "read too slowly: {} events after number {last} are forgotten; the others are kept",
                        passed.missed
                    );
                    (lines([StreamLine::End { end, slow: true }]), false)
                }
            },
            // An error means that the admin side is gone altogether.
            _ = self.stop.wait_for(|stop| *stop) => {
                (lines([StreamLine::End { end: "the agent stops".to_owned(), slow: false }]), false)
            }
            () = sleep(KEEP_ALIVE) => (Bytes::from_static(b"\n"), true),
        };
        (text, more.then_some(self))
    }
}

fn lines(all: impl IntoIterator<Item = StreamLine>) -> Bytes {
    let mut text = Vec::new();
    for line in all {
        // Our own types always serialize.
        if serde_json::to_writer(&mut text, &line).is_ok() {
            text.push(b'\n');
        }
    }
    text.into()
}
