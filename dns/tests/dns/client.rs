//! A plain client, and a server on free loopback ports.

use hickory_proto::{
    op::{Edns, Message, Query},
    rr::{Name, RecordType},
};
use mesh_control::model::Snapshot;
use mesh_dns::{DnsConfig, DnsHandle, DnsServer, Limits, Upstreams};
use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    sync::watch,
    time::timeout,
};

/// Longest wait for one answer; an answer that comes ends it at once.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// An address that no other test uses, for those that must name a port before it is bound: a loopback address made of
/// this process's id, and a port, another each time, below those the kernel hands out.
pub(crate) fn own_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(15_353);
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    SocketAddr::from(([127, 128 | high, middle, low.max(1)], NEXT.fetch_add(1, Ordering::Relaxed)))
}

/// A running server and what feeds it.
pub(crate) struct Server {
    pub(crate) handle: DnsHandle,
    pub(crate) snapshots: watch::Sender<Arc<Snapshot>>,
    pub(crate) registry: prometheus::Registry,
}

impl Server {
    pub(crate) async fn start(snapshot: Snapshot, upstreams: &[SocketAddr], limits: Limits) -> Server {
        let config = DnsConfig {
            upstreams: if upstreams.is_empty() {
                Upstreams::None
            } else {
                Upstreams::List(upstreams.iter().copied().map(Into::into).collect())
            },
            limits,
            ..DnsConfig::default()
        };
        Server::with(snapshot, config).await
    }

    /// On a free loopback port, where `config` names none.
    pub(crate) async fn with(snapshot: Snapshot, mut config: DnsConfig) -> Server {
        let (snapshots, feed) = watch::channel(Arc::new(snapshot));
        let registry = prometheus::Registry::new();
        if config.listen.is_empty() {
            config.listen = vec!["127.0.0.1:0".parse().unwrap()];
        }
        let handle = DnsServer::start(config, feed, &registry).await.unwrap();
        Server { handle, snapshots, registry }
    }

    pub(crate) fn at(&self) -> SocketAddr {
        self.handle.addresses()[0]
    }

    pub(crate) async fn ask(&self, name: &str, kind: RecordType) -> Message {
        udp(self.at(), &query(name, kind, None)).await.unwrap()
    }

    /// The value of a counter or gauge, summed over the label sets that contain `labels`.
    pub(crate) fn metric(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let families = self.registry.gather();
        let metrics = families.iter().filter(|f| f.name() == name).flat_map(|f| f.get_metric().to_vec());
        let fits = |m: &prometheus::proto::Metric| {
            labels.iter().all(|(k, v)| m.get_label().iter().any(|l| l.name() == *k && l.value() == *v))
        };
        let sum: f64 =
            metrics.filter(fits).map(|m| m.get_counter().get_value() + m.get_gauge().get_value()).sum();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small counts")]
        let sum = sum as u64;
        sum
    }
}

pub(crate) fn query(name: &str, kind: RecordType, payload: Option<u16>) -> Vec<u8> {
    let mut message = Message::query();
    message.metadata.id = 4711;
    message.metadata.recursion_desired = true;
    let mut name = Name::from_ascii(name).unwrap();
    name.set_fqdn(true);
    message.add_query(Query::query(name, kind));
    if let Some(payload) = payload {
        let mut edns = Edns::new();
        edns.set_max_payload(payload);
        message.edns = Some(edns);
    }
    message.to_vec().unwrap()
}

/// Sends a datagram and reads the answer.
pub(crate) async fn udp_octets(at: SocketAddr, packet: &[u8]) -> io::Result<Vec<u8>> {
    let socket = UdpSocket::bind("127.0.0.1:0").await?;
    socket.connect(at).await?;
    socket.send(packet).await?;
    let mut buffer = vec![0u8; 65_535];
    let length = timeout(PATIENCE, socket.recv(&mut buffer)).await??;
    buffer.truncate(length);
    Ok(buffer)
}

pub(crate) async fn udp(at: SocketAddr, packet: &[u8]) -> io::Result<Message> {
    Message::from_vec(&udp_octets(at, packet).await?).map_err(io::Error::other)
}

/// Sends one message on a connection that is open and reads the answer.
pub(crate) async fn tcp(stream: &mut TcpStream, packet: &[u8]) -> io::Result<Message> {
    let length = u16::try_from(packet.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), packet].concat()).await?;
    let mut answer = vec![0u8; usize::from(timeout(PATIENCE, stream.read_u16()).await??)];
    timeout(PATIENCE, stream.read_exact(&mut answer)).await??;
    Message::from_vec(&answer).map_err(io::Error::other)
}

pub(crate) fn data(message: &Message) -> Vec<String> {
    let mut all: Vec<String> = message.answers.iter().map(|r| r.data.to_string()).collect();
    all.sort();
    all
}
