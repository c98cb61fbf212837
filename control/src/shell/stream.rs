//! TCP connections: accepting, connecting, sealing, limits and timeouts.

use crate::keyring::random;
use crate::{
    keyring::{Keyring, SharedRing, WireId, wire_id},
    model::KeyId,
    node::{ExchangeId, Input, Target},
    session::{self, ANSWER, GREETING, Half, Session, SessionError},
    sources::{Held, Said, source},
};
use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, lookup_host},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::{JoinHandle, JoinSet},
    time::timeout,
};

/// Connections of members at once.
const MAX_ACCEPTED: usize = 64;
/// Connections at once that did not yet prove to have a key: all together (more wait in the kernel's queue), and from
/// one source (more are closed).
const MAX_STRANGERS: usize = 64;
const MAX_OF_SOURCE: usize = 8;
/// Events of all connections that wait for the node, each up to a frame; beyond it the connections wait.
const EVENTS: usize = 16;
/// Frames that wait to be sent on one connection; beyond it the connection is given up.
const FRAMES: usize = 256;
/// Addresses of one seed that are tried.
const MAX_ADDRESSES: usize = 4;
const CONNECT: Duration = Duration::from_secs(2);
/// How long an accepted connection has to prove that it has a key: by its first frame.
const PROVE: Duration = Duration::from_secs(4);
/// Longest silence while reading, and longest time to write one frame.
const SILENCE: Duration = Duration::from_secs(15);

/// What a connection tells the task: an input, and for accepted ones the way to send.
pub(super) struct Event {
    pub(super) input: Input,
    pub(super) frames: Option<mpsc::Sender<Vec<u8>>>,
}

/// All connections of one node.
pub(super) struct Streams {
    pub(super) events: mpsc::Receiver<Event>,
    sender: mpsc::Sender<Event>,
    frames: HashMap<ExchangeId, mpsc::Sender<Vec<u8>>>,
    tasks: JoinSet<()>,
    acceptor: JoinHandle<()>,
    ring: SharedRing,
    /// The key at which a peer hung up, which is said once.
    shut_out: Arc<Mutex<Option<KeyId>>>,
}

impl Drop for Streams {
    fn drop(&mut self) {
        self.acceptor.abort();
    }
}

impl Streams {
    /// Begins to accept.
    pub(super) fn start(listener: TcpListener, ring: SharedRing, strangers: Arc<AtomicU64>) -> Streams {
        let (sender, events) = mpsc::channel(EVENTS);
        let acceptor = tokio::spawn(accept(listener, ring.clone(), sender.clone(), strangers));
        Streams {
            events,
            sender,
            frames: HashMap::new(),
            tasks: JoinSet::new(),
            acceptor,
            ring,
            shut_out: Arc::default(),
        }
    }

    /// Notes an accepted connection or the end of one.
    pub(super) fn note(&mut self, event: Event) -> Input {
        match (&event.input, event.frames) {
            (Input::Accepted(id), Some(frames)) => {
                self.frames.insert(*id, frames);
            }
            (Input::Closed(id), _) => {
                self.frames.remove(id);
            }
            _ => {}
        }
        while self.tasks.try_join_next().is_some() {}
        event.input
    }

    /// Connects; the node bounds how many.
    pub(super) fn open(&mut self, id: ExchangeId, target: Target) {
        let (frames, queued) = mpsc::channel(FRAMES);
        self.frames.insert(id, frames);
        let (ring, events, shut_out) = (self.ring.clone(), self.sender.clone(), Arc::clone(&self.shut_out));
        self.tasks.spawn(async move {
            let ring = ring.get();
            match connect(&target, &ring).await {
                Ok((stream, session, rtt)) => {
                    let opened = Event { input: Input::Opened(id, rtt), frames: None };
                    if events.send(opened).await.is_ok() {
                        run(stream, session, id, queued, &events).await;
                    }
                }
                Err(error) => {
                    tracing::debug!(?target, %error, "no exchange");
                    let key = Some(ring.sealing().id());
                    let mut told = shut_out.lock().unwrap_or_else(PoisonError::into_inner);
                    if hung_up(&error) && std::mem::replace(&mut *told, key) != key {
                        tracing::warn!(
                            ?target,
                            key = %ring.sealing().id(),
                            "the node there holds none of the cluster keys of this one: one of the two missed a \
                             rotation; the one outside the mesh joins with a token (`mesh-agent token create` on a \
                             running node), or gets the key in use into its cluster.keys"
                        );
                    }
                }
            }
            // An error means that the node is gone.
            let _ = events.send(Event { input: Input::Closed(id), frames: None }).await;
        });
    }

    /// Sends a frame; a peer that does not read loses its connection.
    pub(super) fn send(&mut self, id: ExchangeId, frame: Vec<u8>) {
        if let Some(frames) = self.frames.get(&id)
            && frames.try_send(frame).is_err()
        {
            self.frames.remove(&id);
        }
    }

    /// Closes after what is queued.
    pub(super) fn close(&mut self, id: ExchangeId) {
        self.frames.remove(&id);
    }
}

/// Room at the door for one connection of a source; given back when dropped.
struct Stranger {
    _slot: OwnedSemaphorePermit,
    held: Arc<Mutex<Held>>,
    source: IpAddr,
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).give_back(self.source);
    }
}

async fn accept(
    listener: TcpListener,
    ring: SharedRing,
    events: mpsc::Sender<Event>,
    strangers: Arc<AtomicU64>,
) {
    let (door, members) = (Arc::new(Semaphore::new(MAX_STRANGERS)), Arc::new(Semaphore::new(MAX_ACCEPTED)));
    let held = Arc::new(Mutex::new(Held::default()));
    let said = Arc::new(Mutex::new(Said::default()));
    let next = AtomicU64::new(ExchangeId::ACCEPTED);
    let mut tasks = JoinSet::new();
    loop {
        let Ok(slot) = Arc::clone(&door).acquire_owned().await else { return };
        while tasks.try_join_next().is_some() {}
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept gossip connections; trying again");
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            }
        };
        let source = source(peer.ip());
        let refused = {
            let (said, strangers) = (Arc::clone(&said), Arc::clone(&strangers));
            move |reason: &str| {
                strangers.fetch_add(1, Ordering::Relaxed);
                said.lock().unwrap_or_else(PoisonError::into_inner).refused(peer.ip(), "connection", reason);
            }
        };
        if !held.lock().unwrap_or_else(PoisonError::into_inner).take(source, MAX_OF_SOURCE) {
            refused("too many at once that prove nothing");
            continue;
        }
        let stranger = Stranger { _slot: slot, held: Arc::clone(&held), source };
        let id = ExchangeId(next.fetch_add(1, Ordering::Relaxed));
        let (ring, events, members) = (ring.clone(), events.clone(), Arc::clone(&members));
        tasks.spawn(async move {
            let (stream, session, first) = match timeout(PROVE, prove(stream, &ring)).await {
                Ok(Ok(proven)) => proven,
                Ok(Err(error)) => return refused(&error.to_string()),
                Err(_) => return refused("it says nothing"),
            };
            drop(stranger);
            let Ok(_slot) = members.try_acquire() else { return };
            let (frames, queued) = mpsc::channel(FRAMES);
            let accepted = Event { input: Input::Accepted(id), frames: Some(frames) };
            let first = Event { input: Input::Frame(id, first), frames: None };
            if events.send(accepted).await.is_ok() && events.send(first).await.is_ok() {
                run(stream, session, id, queued, &events).await;
            }
            // An error means that the node is gone.
            let _ = events.send(Event { input: Input::Closed(id), frames: None }).await;
        });
    }
}

/// Takes the greeting and the first frame, which proves that the peer has the key.
async fn prove(mut stream: TcpStream, ring: &SharedRing) -> io::Result<(TcpStream, Session, Vec<u8>)> {
    let mut session = answer(&mut stream, ring).await?;
    let first = read_frame(&mut stream, &mut session.receive).await?;
    Ok((stream, session, first))
}

/// Reads one frame; memory grows with what arrives, not with what is promised.
async fn read_frame(reader: &mut (impl AsyncRead + Unpin), half: &mut Half) -> io::Result<Vec<u8>> {
    let mut prefix = [0; 4];
    timeout(SILENCE, reader.read_exact(&mut prefix)).await??;
    let length = half.length(prefix).map_err(io::Error::other)?;
    let mut sealed = Vec::new();
    let mut rest = reader.take(length as u64);
    while sealed.len() < length {
        if timeout(SILENCE, rest.read_buf(&mut sealed)).await?? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
    }
    half.open(sealed).map_err(io::Error::other)
}

/// A connection, and how long the peer's kernel took to accept it, in microseconds. A peer that hangs up at one key is
/// offered the next of the ring: one of the two may have missed a part of a rotation.
async fn connect(target: &Target, ring: &Keyring) -> io::Result<(TcpStream, Session, u32)> {
    let addresses: Vec<SocketAddr> = match target {
        Target::Address(address) => vec![*address],
        Target::Seed(seed) => timeout(CONNECT, lookup_host(seed)).await??.take(MAX_ADDRESSES).collect(),
    };
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        for key in ring.ids() {
            let attempt = async {
                let start = Instant::now();
                let mut stream = TcpStream::connect(address).await?;
                let rtt = u32::try_from(start.elapsed().as_micros()).unwrap_or(u32::MAX);
                let session = greet(&mut stream, ring, wire_id(key)).await?;
                io::Result::Ok((stream, session, rtt))
            };
            match timeout(CONNECT, attempt).await.map_err(io::Error::from).flatten() {
                Ok(connected) => return Ok(connected),
                Err(error) => last = error,
            }
            if !hung_up(&last) {
                break;
            }
        }
    }
    Err(last)
}

/// Whether the peer ended the connection at the greeting, as it does when it lacks the key.
fn hung_up(error: &io::Error) -> bool {
    error.get_ref().and_then(|e| e.downcast_ref()) == Some(&SessionError::HungUp)
}

async fn greet(stream: &mut TcpStream, ring: &Keyring, key: WireId) -> io::Result<Session> {
    stream.set_nodelay(true)?;
    let salt = random().map_err(io::Error::other)?;
    stream.write_all(&session::greeting(key, salt)).await?;
    let mut answer = [0; ANSWER];
    stream.read_exact(&mut answer).await.map_err(|e| match e.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
            io::Error::other(SessionError::HungUp)
        }
        _ => e,
    })?;
    session::initiate(ring, key, salt, &answer).map_err(io::Error::other)
}

async fn answer(stream: &mut TcpStream, ring: &SharedRing) -> io::Result<Session> {
    stream.set_nodelay(true)?;
    let mut greeting = [0; GREETING];
    stream.read_exact(&mut greeting).await?;
    let salt = random().map_err(io::Error::other)?;
    let (answer, session) = session::respond(&ring.get(), &greeting, salt).map_err(io::Error::other)?;
    stream.write_all(&answer).await?;
    Ok(session)
}

/// Carries frames both ways until either side ends.
async fn run(
    mut stream: TcpStream,
    session: Session,
    id: ExchangeId,
    mut queued: mpsc::Receiver<Vec<u8>>,
    events: &mpsc::Sender<Event>,
) {
    let Session { mut send, mut receive } = session;
    let (mut reader, mut writer) = stream.split();
    let write = async {
        while let Some(frame) = queued.recv().await {
            let mut sealed = Vec::with_capacity(frame.len() + 32);
            send.seal(&frame, &mut sealed).map_err(io::Error::other)?;
            timeout(SILENCE, writer.write_all(&sealed)).await??;
        }
        writer.shutdown().await
    };
    let read = async {
        loop {
            let frame = read_frame(&mut reader, &mut receive).await?;
            let event = Event { input: Input::Frame(id, frame), frames: None };
            if events.send(event).await.is_err() {
                return io::Result::Ok(());
            }
        }
    };
    let ended = tokio::select! { ended = write => ended, ended = read => ended };
    if let Err(error) = ended {
        tracing::trace!(?id, %error, "connection ended");
    }
}
