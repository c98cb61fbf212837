//! A command of the agent and what came of it.

use anyhow::{Context, Result};
use serde_json::Value;
use std::{path::Path, process::Stdio, time::Duration};
use tokio::{io::AsyncWriteExt, process::Command, time::timeout};

/// No command takes longer than this.
const PATIENCE: Duration = Duration::from_secs(40);

/// How a command ended.
#[derive(Clone, Debug)]
pub struct Ran {
    /// Its exit code; absent when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Ran {
    /// Itself, when the exit code is `code`.
    ///
    /// # Errors
    /// When it is another.
    pub fn code(self, code: i32) -> Result<Ran> {
        anyhow::ensure!(self.code == Some(code), "not exit code {code}: {self:?}");
        Ok(self)
    }

    /// Standard output as JSON.
    ///
    /// # Errors
    /// When it is none.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.out).with_context(|| format!("no JSON: {self:?}"))
    }
}

/// Runs `binary` to its end with `input` on its standard input.
///
/// # Errors
/// When it cannot be run or does not end.
pub async fn ran(binary: &Path, arguments: &[&str], input: &str) -> Result<Ran> {
    let mut child = Command::new(binary)
        .args(arguments)
        .env("NO_COLOR", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut stdin = child.stdin.take().context("no stdin")?;
    // A command that reads nothing may be gone before this.
    drop(stdin.write_all(input.as_bytes()).await);
    drop(stdin);
    let output = timeout(PATIENCE, child.wait_with_output())
        .await
        .with_context(|| format!("{arguments:?} does not end"))??;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(Ran { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) })
}
