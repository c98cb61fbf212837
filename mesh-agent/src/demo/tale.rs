//! What the demo says of what happens; every line is measured.

use super::error::DemoError;
use serde_json::{Value, json};
use std::{
    fmt::Display,
    io::{self, Write},
    time::Duration,
};
use tokio::time::{Instant, sleep};

/// Longest wait for anything that should happen.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);

/// Steps with the seconds since its begin: said at once for people, kept for programs.
pub(super) struct Tale {
    json: bool,
    start: Instant,
    /// What was said, when it is for programs.
    pub(super) steps: Vec<Value>,
}

impl Tale {
    pub(super) fn new(json: bool) -> Self {
        Tale { json, start: Instant::now(), steps: Vec::new() }
    }

    pub(super) fn say(&mut self, text: &str) {
        let seconds = self.start.elapsed().as_secs_f64();
        if self.json {
            self.steps.push(json!({"seconds": (seconds * 10.0).round() / 10.0, "text": text}));
        } else {
            print(&format!("{seconds:6.1} s  {text}"));
        }
    }
}

/// Waits for what `look` looks for.
pub(super) async fn until<T>(what: &str, look: impl AsyncFn() -> Result<T, String>) -> Result<T, DemoError> {
    let start = Instant::now();
    loop {
        match look().await {
            Ok(seen) => return Ok(seen),
            Err(missing) if start.elapsed() > PATIENCE => {
                return Err(DemoError::Story(format!("{what}: not after {PATIENCE:?}: {missing}")));
            }
            Err(_) => sleep(LOOK).await,
        }
    }
}

/// Whoever asked may have closed the pipe; the demo goes on, for its exit code.
pub(super) fn print(line: &impl Display) {
    let mut out = io::stdout().lock();
    drop(writeln!(out, "{line}").and_then(|()| out.flush()));
}
