//! When the agent is asked to stop.

use super::exit::{Code, Failure};
use std::os::fd::AsFd;
use tokio::{
    io::AsyncReadExt,
    net::unix::pipe,
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};

/// Resolves on the first SIGINT or SIGTERM or, when asked, on the end of standard input. Signals are caught from here
/// on: a second one ends the process at once, with the exit code that a shell gives for it.
pub(super) fn asked(on_stdin: bool) -> Result<impl Future<Output = ()>, Failure> {
    let watch =
        |kind| signal(kind).map_err(|e| Failure::new(Code::Failure, format!("cannot watch signals: {e}")));
    let (interrupt, terminate) = (SignalKind::interrupt(), SignalKind::terminate());
    let (mut interrupts, mut terminates) = (watch(interrupt)?, watch(terminate)?);
    // tokio's own stdin would read on a thread that cannot be stopped and so keep the process alive.
    let pipe = |file| {
        pipe::Receiver::from_file(file).map_err(|e| {
            Failure::new(Code::Usage, format!("--until-stdin-closes: standard input is no pipe: {e}"))
        })
    };
    let stdin = std::io::stdin().as_fd().try_clone_to_owned().map(std::fs::File::from);
    let mut stdin = match (on_stdin, stdin) {
        (true, Ok(file)) => Some(pipe(file)?),
        _ => None,
    };
    let (first, signalled) = oneshot::channel();
    tokio::spawn(async move {
        let mut first = Some(first);
        loop {
            let kind = tokio::select! {
                _ = interrupts.recv() => interrupt,
                _ = terminates.recv() => terminate,
            };
            match first.take() {
                // Nobody waits any more when standard input was first.
                Some(first) => drop(first.send(())),
                None => at_once(kind),
            }
        }
    });
    Ok(async move {
        let stdin_closed = async {
            if let Some(stdin) = &mut stdin {
                let mut bytes = [0u8; 64];
                while stdin.read(&mut bytes).await.is_ok_and(|n| n > 0) {}
            } else {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            _ = signalled => {}
            () = stdin_closed => {}
        }
    })
}

#[expect(
    clippy::disallowed_methods,
    reason = "who asks twice wants the end even if it is a destructor that hangs"
)]
fn at_once(kind: SignalKind) -> ! {
    tracing::warn!("a second signal: ending at once, whatever is open");
    std::process::exit(128 + kind.as_raw_value())
}
