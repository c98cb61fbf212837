//! A worker: one thread, one event loop, its own listening sockets and flows.

use super::{config::UserspaceConfig, context::Context, listen::ListenSocket, tcp, udp, view::BackendSlot};
use crate::plan::BackendId;
use mesh_control::model::Protocol;
use std::{
    io,
    rc::Rc,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};
use tokio::{
    runtime::{Builder, LocalOptions},
    sync::{mpsc, oneshot},
    task::spawn_local,
};

/// Commands that may wait for a worker; more make the plane wait.
const COMMANDS: usize = 1024;

/// What the plane tells a worker. Handled in order.
#[derive(Debug)]
pub(super) enum Command {
    /// Serve a bound socket until it is closed.
    Serve(Arc<ListenSocket>),
    /// Reset the flows of a frontend: those to one backend, or all.
    Cut {
        /// [`super::view::FrontendState::id`].
        frontend: u64,
        /// Absent means all.
        backend: Option<BackendId>,
    },
    /// Reset what is left of a draining backend's flows when its deadline comes.
    Drain {
        /// [`super::view::FrontendState::id`].
        frontend: u64,
        /// The backend; it is asked again at the deadline whether it still drains.
        slot: Arc<BackendSlot>,
    },
    /// Answer when everything before is done.
    Barrier(oneshot::Sender<()>),
}

/// The plane's end of a worker. Dropping the sender stops the thread.
#[derive(Debug)]
pub(super) struct Worker {
    commands: Option<mpsc::Sender<Command>>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts thread `index` of `workers`.
    ///
    /// # Errors
    /// When the system gives no thread or no event loop.
    pub(super) fn start(
        index: usize,
        workers: usize,
        config: Arc<UserspaceConfig>,
        seed: u64,
    ) -> io::Result<Self> {
        let (commands, inbox) = mpsc::channel(COMMANDS);
        let (started, answer) = std::sync::mpsc::sync_channel(1);
        let body = move || {
            let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
            match runtime {
                Ok(runtime) => {
                    let _ = started.send(Ok(()));
                    let context = Context::new(config, workers, seed);
                    runtime.block_on(run(context, inbox));
                }
                Err(e) => {
                    let _ = started.send(Err(e));
                }
            }
        };
        let thread = std::thread::Builder::new().name(format!("proxy-{index}")).spawn(body)?;
        answer.recv().map_err(|_| io::Error::other("worker thread ended at its start"))??;
        Ok(Worker { commands: Some(commands), thread: Some(thread) })
    }

    /// Hands over a command; false when the worker is gone.
    pub(super) async fn send(&self, command: Command) -> bool {
        match &self.commands {
            Some(commands) => commands.send(command).await.is_ok(),
            None => false,
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            // A panic in there has been reported by the panic hook.
            let _ = thread.join();
        }
    }
}

/// Ends when the plane lets go of the sender; what tasks are left are then dropped with the runtime, which resets
/// their flows.
async fn run(context: Rc<Context>, mut inbox: mpsc::Receiver<Command>) {
    let mut draining: Vec<(u64, Arc<BackendSlot>)> = Vec::new();
    loop {
        let next = draining.iter().filter_map(|(_, slot)| slot.deadline()).min();
        let due = async {
            match next {
                Some(deadline) => {
                    // It may have changed meanwhile: look again at least every second.
                    let wait = deadline.saturating_duration_since(Instant::now());
                    tokio::time::sleep(wait.min(Duration::from_secs(1))).await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            command = inbox.recv() => match command {
                None => return,
                Some(command) => handle(&context, command, &mut draining),
            },
            () = due => {}
        }
        let now = Instant::now();
        draining.retain(|(frontend, slot)| match slot.deadline() {
            Some(deadline) if deadline <= now => {
                context.cut(*frontend, Some(&slot.id));
                false
            }
            Some(_) => true,
            None => false,
        });
    }
}

fn handle(context: &Rc<Context>, command: Command, draining: &mut Vec<(u64, Arc<BackendSlot>)>) {
    match command {
        Command::Serve(socket) => {
            match socket.protocol {
                Protocol::Tcp => drop(spawn_local(tcp::accept::serve(Rc::clone(context), socket))),
                Protocol::Udp => drop(spawn_local(udp::serve::serve(Rc::clone(context), socket))),
            };
        }
        Command::Cut { frontend, backend } => context.cut(frontend, backend.as_ref()),
        Command::Drain { frontend, slot } => {
            if !draining.iter().any(|(f, s)| *f == frontend && Arc::ptr_eq(s, &slot)) {
                draining.push((frontend, slot));
            }
        }
        Command::Barrier(done) => drop(done.send(())),
    }
}
