//! Steady traffic while something changes.

use crate::{
    lab::Host,
    node::{Whoami, whoami, whoami_from},
};
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};
use tokio::task::JoinHandle;

/// What a load saw.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Requests answered.
    pub answered: u64,
    /// Requests that failed, with the reason.
    pub failed: Vec<String>,
    /// Answers by instance.
    pub by_instance: BTreeMap<String, u64>,
}

/// A client that asks one whoami address again and again, a new connection each time.
#[derive(Debug)]
pub struct Load {
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

impl Load {
    /// Starts asking `at`.
    #[must_use]
    pub fn on(at: SocketAddr) -> Load {
        Load::start(at, move || whoami(at))
    }

    /// Starts asking `at` from an address of another host.
    #[must_use]
    pub fn from(host: &Host, own: IpAddr, at: SocketAddr) -> Load {
        let host = host.clone();
        Load::start(at, move || {
            let host = host.clone();
            async move { host.within(whoami_from(own, at)).await? }
        })
    }

    fn start<F>(at: SocketAddr, ask: impl Fn() -> F + Send + 'static) -> Load
    where
        F: Future<Output = anyhow::Result<Whoami>> + Send,
    {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let sink = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            loop {
                let answer = ask().await;
                let mut seen = sink.lock().unwrap_or_else(PoisonError::into_inner);
                match answer {
                    Ok(who) => {
                        seen.answered += 1;
                        *seen.by_instance.entry(who.instance).or_default() += 1;
                    }
                    Err(error) => seen.failed.push(format!("{at}: {error:#}")),
                }
            }
        });
        Load { seen, task }
    }

    /// What it saw so far.
    #[must_use]
    pub fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until `more` further requests were answered.
    pub async fn answers(&self, more: u64) {
        let target = self.seen().answered + more;
        crate::until(&format!("{more} more answers"), crate::BOUND, || async {
            let seen = self.seen();
            if seen.answered >= target {
                Ok(())
            } else {
                Err(format!("{} of {target}, {:?}", seen.answered, seen.failed))
            }
        })
        .await;
    }

    /// Ends it and gives what it saw.
    #[must_use]
    pub fn stop(self) -> Seen {
        self.task.abort();
        self.seen()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.task.abort();
    }
}
