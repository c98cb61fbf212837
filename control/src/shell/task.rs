//! The one task that feeds the node and does what it says.

use super::{
    handle::{Clocks, Command, Shared},
    keeper::{self, Keeper},
    stream::Streams,
};
use crate::{
    hlc::Now,
    model::Snapshot,
    node::{Input, Output},
    packet::MAX_DATAGRAM,
};
use std::{sync::Arc, time::Duration};
use tokio::{
    net::UdpSocket,
    sync::{mpsc, watch},
    time::sleep_until,
};

/// Between two publications, in milliseconds.
const PUBLISH: u64 = 3;
/// Datagrams taken at one go.
const BATCH: usize = 64;

pub(super) struct Task {
    pub(super) node: Shared,
    pub(super) clocks: Clocks,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) socket: UdpSocket,
    pub(super) streams: Streams,
    pub(super) publish: watch::Sender<Arc<Snapshot>>,
    pub(super) joining: watch::Sender<bool>,
    pub(super) keeper: Option<Keeper>,
}

impl Task {
    pub(super) async fn run(mut self) {
        let mut buffer = vec![0; MAX_DATAGRAM + 1];
        let (mut published_at, mut keep_at) = (0, keeper::next(self.clocks.now(), 0));
        let mut answer = None;
        loop {
            let now = self.clocks.now();
            let (joined, revision) = {
                let node = self.node.lock();
                (node.joined(), node.snapshot().revision)
            };
            self.joining.send_if_modified(|before| std::mem::replace(before, joined) != joined);
            let pending = revision != self.publish.borrow().revision;
            if pending && now.mono >= published_at + PUBLISH {
                published_at = now.mono;
                let snapshot = self.node.lock().snapshot().clone();
                self.publish.send_replace(Arc::new(snapshot));
                continue;
            }
            if self.keeper.is_some() && now.mono >= keep_at {
                keep_at = keeper::next(now, self.node.lock().records().count());
                self.keep(now).await;
            }
            let mut deadline = self.node.lock().deadline();
            if pending {
                deadline = deadline.min(published_at + PUBLISH);
            }
            let wake = self.clocks.instant(deadline).into();
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(Command::Do(outputs)) => self.perform(outputs),
                    Some(Command::Shutdown(stopped)) => {
                        answer = Some(stopped);
                        break;
                    }
                    None => break,
                },
                Some(event) = self.streams.events.recv() => {
                    let input = self.streams.note(event);
                    self.step(input);
                }
                received = self.socket.recv_from(&mut buffer) => {
                    // An error is an ICMP message about an earlier datagram: of no interest.
                    if let Ok((length, from)) = received {
                        self.step(Input::Datagram(from, buffer[..length].to_vec()));
                        for _ in 0..BATCH {
                            let Ok((length, from)) = self.socket.try_recv_from(&mut buffer) else { break };
                            self.step(Input::Datagram(from, buffer[..length].to_vec()));
                        }
                    }
                }
                () = sleep_until(wake) => self.step(Input::Tick),
            }
        }
        self.stop().await;
        if let Some(answer) = answer {
            // Nobody waits any more: fine.
            let _ = answer.send(());
        }
    }

    fn step(&mut self, input: Input) {
        let outputs = self.node.lock().handle(input, self.clocks.now());
        self.perform(outputs);
    }

    fn perform(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                // A full socket buffer loses the datagram, as the network may.
                Output::Datagram(to, packet) => drop(self.socket.try_send_to(&packet, to)),
                Output::Open(id, target) => self.streams.open(id, target),
                Output::Frame(id, frame) => self.streams.send(id, frame),
                Output::Close(id) => self.streams.close(id),
            }
        }
    }

    async fn keep(&mut self, now: Now) {
        let Some(keeper) = &mut self.keeper else { return };
        let (hash, name, records) = {
            let node = self.node.lock();
            let hash = node.state_hash();
            if !keeper.wants(hash) {
                return;
            }
            // Clones share keys and values.
            (hash, node.snapshot().local.clone(), node.records().cloned().collect())
        };
        keeper.keep(hash, name, records, now).await;
    }

    async fn stop(&mut self) {
        let now = self.clocks.now();
        let outputs = self.node.lock().leave(now);
        for output in outputs {
            if let Output::Datagram(to, packet) = output {
                let sent = tokio::time::timeout(Duration::from_millis(100), self.socket.send_to(&packet, to));
                // The others find out by themselves if it is lost.
                drop(sent.await);
            }
        }
        if let Some(keeper) = &mut self.keeper {
            keeper.finish().await;
        }
        self.keep(now).await;
        if let Some(keeper) = &mut self.keeper {
            keeper.finish().await;
        }
    }
}
