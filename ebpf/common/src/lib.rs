//! What the kernel programs and the agent share, byte for byte: keys and values of maps.
//!
//! All is `repr(C)` without implicit padding: the kernel compares keys as bytes. Addresses and ports are in network
//! order, all else in that of the host. `A` is `[u8; 4]` or `[u8; 16]`: maps come in pairs, IPv4 is spared IPv6's length.
//!
//! ```text
//!  packet ─▶ cache (per CPU) ─▶ flows ─▶ services ─▶ slots ─▶ backends
//!            (array by hash)   (sets)   address,     number   where to,
//!                                       port, proto  ─▶ index  generation
//! ```
#![no_std]

pub mod direct;
mod drops;
pub mod hash;
pub mod table;
pub mod xdp;

pub use drops::{Drop, Event};

/// Version of this layout; part of the path under which maps are pinned, so that programs and maps always agree.
pub const LAYOUT: u32 = 3;

/// An IPv4 address.
pub type V4 = [u8; 4];
/// An IPv6 address.
pub type V6 = [u8; 16];

/// What a frontend is found by.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ServiceKey<A> {
    /// Dialled address; all zero for a published port on every local address.
    pub address: A,
    /// Dialled port, network order. A range has a key for each of its ports.
    pub port: u16,
    /// `IPPROTO_TCP` or `IPPROTO_UDP`.
    pub protocol: u8,
    /// Always 0.
    pub pad: u8,
}

/// A frontend, as the choice of a backend needs it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Service {
    /// Index into `frontends` and `frontend_counts`.
    pub frontend: u32,
    /// Its first slot in `slots`.
    pub base: u32,
    /// How many slots it has; 0 when no backend takes new flows.
    pub slots: u32,
    /// How far the port lies above the frontend's first, host order.
    pub offset: u16,
    /// [`flag`]s.
    pub flags: u16,
    /// Counts up with each pick in turn; programs write it. It is here, as whoever picks has just read the rest.
    pub turn: u32,
    /// Always 0.
    pub pad: u32,
}

/// Bits of [`Service::flags`].
pub mod flag {
    /// Which bits say how a slot is picked.
    pub const PICK: u16 = 0x3;
    /// The next one in turn.
    pub const PICK_NEXT: u16 = 0;
    /// Any.
    pub const PICK_RANDOM: u16 = 1;
    /// By the client's address.
    pub const PICK_HASH: u16 = 2;
    /// The backend with the fewest open flows for its weight.
    pub const PICK_LEAST: u16 = 3;
    /// Clients stay with their backend: `frontends` has the timeout.
    pub const STICKY: u16 = 0x4;
    /// Only sources in `allow4`/`allow6`.
    pub const ALLOW: u16 = 0x8;
    /// Without a backend packets are dropped; otherwise they are refused aloud.
    pub const SILENT: u16 = 0x10;
    /// Backends have a limit of flows: `frontends` says which.
    pub const LIMIT: u16 = 0x20;
    /// Its flows have an idle timeout of their own: `frontends` says which.
    pub const IDLE: u16 = 0x40;
    /// A published port.
    pub const PUBLISHED: u16 = 0x80;
}

/// The rest of a frontend's policy; read only when a [`flag`] says so.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Frontend {
    /// Hash of the service's name: affinity is kept by service.
    pub service: u64,
    /// How long a client stays with its backend after its last new flow, in milliseconds.
    pub sticky_ms: u64,
    /// Idle time of a flow in milliseconds; 0 means the default of its protocol and state.
    pub idle_ms: u64,
    /// Most concurrent flows to one backend; 0 means no limit.
    pub max_flows: u32,
    /// Always 0.
    pub pad: u32,
}

/// A backend behind one frontend: 64 bytes, that is one line of a processor's cache, with all that a new flow needs.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Backend {
    /// Its address; IPv4 in the first four bytes.
    pub address: V6,
    /// Its port for the frontend's first port, host order.
    pub port: u16,
    /// [`state`] bits.
    pub state: u16,
    /// Counts up whenever the entry becomes another backend: a flow of another generation is not of this one.
    pub generation: u32,
    /// Whose it is: index into `frontends`.
    pub frontend: u32,
    /// Share of new flows, for [`flag::PICK_LEAST`].
    pub weight: u32,
    /// Hash of instance and node, as `plan::maglev::backend_hash`: key of `members`.
    pub id: u64,
    /// Flows that are open. Programs write this and the next; the agent changes them as programs do, never with the rest.
    pub active: i64,
    /// Flows that were begun.
    pub begun: u64,
    /// Always 0.
    pub pad: u64,
}

/// Bits of [`Backend::state`].
pub mod state {
    /// Takes new flows.
    pub const ACTIVE: u16 = 0x1;
    /// Keeps the flows it has.
    pub const KEEPS: u16 = 0x2;
    /// What flows are left are reset.
    pub const RESET: u16 = 0x4;
    /// Answers do not come back through this node unless the source is this node's.
    pub const MASQUERADE: u16 = 0x8;
    /// Behind the overlay, on another node.
    pub const REMOTE: u16 = 0x10;
    /// A program of this host: the address is local.
    pub const HERE: u16 = 0x20;
}

/// A packet's addresses and ports, as they are found in it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct FlowKey<A> {
    /// Source.
    pub source: A,
    /// Destination.
    pub destination: A,
    /// Source port, network order; an ICMP echo's identifier.
    pub source_port: u16,
    /// Destination port, network order.
    pub destination_port: u16,
    /// `IPPROTO_*`.
    pub protocol: u8,
    /// Always 0.
    pub pad: [u8; 3],
}

/// One direction of a translated flow: what its packets become. The other direction is under the key that this
/// one's new addresses make when turned around.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flow<A> {
    /// New source.
    pub source: A,
    /// New destination.
    pub destination: A,
    /// New source port, network order.
    pub source_port: u16,
    /// New destination port, network order.
    pub destination_port: u16,
    /// [`direction`] bits and what was seen of TCP.
    pub bits: u32,
    /// Index into `backends`; of a [`direction::GUEST`] the end of the other node's link-layer address.
    pub backend: u32,
    /// Generation of that backend when the flow began.
    pub generation: u32,
    /// Index into `frontends`.
    pub frontend: u32,
    /// When a packet was last seen: jiffies, low half. Written at most once a second.
    pub seen: u32,
}

/// Bits of [`Flow::bits`].
pub mod direction {
    /// From backend to client.
    pub const REPLY: u32 = 0x1;
    /// FIN of the client was seen.
    pub const FIN_CLIENT: u32 = 0x2;
    /// FIN of the backend was seen.
    pub const FIN_BACKEND: u32 = 0x4;
    /// RST was seen, or both FINs: a SYN begins a new flow.
    pub const CLOSED: u32 = 0x8;
    /// The backend answered.
    pub const ANSWERED: u32 = 0x10;
    /// Another node began the flow and translates it; only its answers are here, so that no flow of this node takes
    /// their place.
    pub const GUEST: u32 = 0x20;
    /// Its packets are handed on to the backend's node as they are ([`crate::direct`]); answers do not come by here, and
    /// there is no other direction.
    pub const HANDED: u32 = 0x40;
    /// Another node handed it on, and counts it.
    pub const TAKEN: u32 = 0x80;
    /// The client has acknowledged an answer, or has sent again after one: nobody who only pretends to be there does.
    pub const OPEN: u32 = 0x100;
}

/// Mark, and mask of it, of answers that the host has found to be a guest's, and sends back to where it came from.
pub const GUEST_MARK: [u32; 2] = [0x4d00_0000, 0xff00_0000];

/// Mark of packets of a flow that another node began and whose answers would be taken for those of a flow of this node:
/// the host has to give it another source port.
pub const CLASH_MARK: u32 = 0x4f00_0000;

/// What becomes of a packet, computed.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rewrite<A> {
    /// New source.
    pub source: A,
    /// New destination.
    pub destination: A,
    /// Whom to send it to on `device`; all zero where the route is asked anew.
    pub nexthop: A,
    /// New source port, network order.
    pub source_port: u16,
    /// New destination port, network order.
    pub destination_port: u16,
    /// Difference of the addresses, for the IP header's and the pseudo header's checksum.
    pub addresses: u16,
    /// Difference of the ports, likewise.
    pub ports: u16,
    /// Sum of the old addresses and the protocol, of 16 bits: what the pseudo header has beside the length.
    pub pseudo: u32,
    /// Device to send it to; 0 for where it is going anyway.
    pub device: u32,
    /// The longest packet that may go there, in bytes of IP.
    pub mtu: u32,
    /// [`direction::REPLY`], [`direction::HANDED`] and [`direction::TAKEN`].
    pub bits: u32,
    /// Index into `backends`.
    pub backend: u32,
}

/// A line of the cache of flows, `lines4`/`lines6`: a flow's rewrite. Each CPU has [`Config::cached`] and one of its own, those
/// of the first CPU first. IPv4's are 64 bytes at an even 64, so that one that no cache of the processor has is one wait for
/// memory.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cached<A> {
    /// Which flow.
    pub key: FlowKey<A>,
    /// What becomes of it.
    pub rewrite: Rewrite<A>,
    /// [`Config::epoch`] plus that of its share of the lines in `cache_epochs` when it was cached, and [`SHAPE`]: of another
    /// it is not used.
    pub epoch: u32,
    /// When it was looked up in `flows`: jiffies, low half. It is used for a second.
    pub since: u32,
}

/// Told apart by it, lines that programs of other versions made of the same memory are not used: it changes with what is in
/// [`Rewrite`] and where a flow's line is.
pub const SHAPE: u32 = 2 << 24;

/// Entries of `cache_epochs`, a power of two: every so many sets of lines of the cache share one.
pub const CACHE_EPOCH_COUNT: u32 = 1024;

/// What later fragments of a packet are known by: key of `fragments4`/`fragments6`. The value is the two ports, source
/// first, network order.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FragmentKey<A> {
    /// Source.
    pub source: A,
    /// Destination.
    pub destination: A,
    /// Identification, as it is in the header.
    pub id: u32,
    /// `IPPROTO_*`.
    pub protocol: u8,
    /// Always 0.
    pub pad: [u8; 3],
}

/// What a CPU did in the present jiffy: value of the per-CPU `pace`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Pace {
    /// Jiffies, low half.
    pub jiffy: u32,
    /// Flows begun in it.
    pub flows: u32,
    /// Events told in it.
    pub events: u32,
    /// Always 0.
    pub pad: u32,
}

/// Sets of sockets: entries of `cookies`.
pub const SETS: u32 = 1 << 14;
/// Sockets in a set. Where `cookies` has the cookie of a socket at index `set` and place `way`, `sockets` has its
/// [`Dialled`] at `set * WAYS + way`; a socket that finds its set full has it in socket storage (map `dialled`).
pub const WAYS: u32 = 4;

/// The set of a socket. The kernel numbers sockets one after the other: they spread by themselves.
#[must_use]
#[inline(always)]
pub const fn socket_set(cookie: u64) -> u32 {
    #[expect(clippy::cast_possible_truncation, reason = "of the low bits alone")]
    let low = cookie as u32;
    low % SETS
}

/// What a socket dialled and where that led, until it is closed. A datagram socket without a peer has its first
/// frontend here and others in `udp_out` and `udp_back`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Dialled {
    /// Dialled address; IPv4 in the first four bytes.
    pub address: V6,
    /// Address of the backend, likewise.
    pub peer: V6,
    /// Dialled port, network order.
    pub port: u16,
    /// Port of the backend, network order.
    pub peer_port: u16,
    /// 4 or 6; 0 when nothing is translated any more.
    pub family: u32,
    /// Index into `backends`.
    pub backend: u32,
    /// Generation of that backend.
    pub generation: u32,
}

/// A socket without a peer and one of those it sends to beside [`Dialled`]: key of `udp_out` (dialled) and `udp_back` (backend).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerKey<A> {
    /// Cookie of the socket, in two words: the length is a multiple of 4 in both families.
    pub cookie: [u32; 2],
    /// Address.
    pub address: A,
    /// Port, network order.
    pub port: u16,
    /// Always 0.
    pub pad: u16,
}

/// Where datagrams of a [`PeerKey`] go: value of `udp_out`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Chosen {
    /// Index into `backends`.
    pub backend: u32,
    /// Its generation.
    pub generation: u32,
}

/// What an answer of a backend pretends to come from: value of `udp_back`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Peer<A> {
    /// Address.
    pub address: A,
    /// Port, network order.
    pub port: u16,
    /// Always 0.
    pub pad: u16,
}

/// A client and a service: key of `affinity`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StickyKey {
    /// [`Frontend::service`].
    pub service: u64,
    /// The client; IPv4 in the first four bytes.
    pub client: V6,
}

/// The backend of a client.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sticky {
    /// [`Backend::id`].
    pub id: u64,
    /// Until when, in nanoseconds of `CLOCK_MONOTONIC_COARSE`.
    pub until: u64,
}

/// Key of `members`: where a frontend has the backend of that id, if it is sticky, or the backend of this node of that
/// [`direct::token`], if it is a published port.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct MemberKey {
    /// [`Backend::id`].
    pub id: u64,
    /// Index into `frontends`.
    pub frontend: u32,
    /// 1 where `id` is a [`direct::token`], else 0.
    pub short: u32,
}

/// Key of `allow4`/`allow6`, a longest-prefix trie.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct AllowKey<A> {
    /// 32 bits of the frontend and those of the network.
    pub prefix: u32,
    /// Index into `frontends`.
    pub frontend: u32,
    /// The network.
    pub address: A,
}

/// What a frontend turned away: value of the per-CPU `frontend_counts`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FrontendCounts {
    /// New flows that found no backend.
    pub no_backend: u64,
    /// New flows from sources that are not allowed.
    pub denied: u64,
    /// New flows beyond a limit.
    pub limited: u64,
}

/// What a backend got beside [`Backend::begun`]: value of the per-CPU `backend_counts`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BackendCounts {
    /// Flows reset by us.
    pub reset: u64,
    /// Bytes from clients, of flows that pass the packet programs.
    pub bytes_in: u64,
    /// Bytes to clients, of the same.
    pub bytes_out: u64,
}

/// Facts of this node, in the only entry of `config`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Config {
    /// The network namespace whose sockets are translated: `SO_NETNS_COOKIE`.
    pub netns: u64,
    /// Counts up when a backend stops keeping its flows: every [`Cached`] is stale then.
    pub epoch: u32,
    /// [`mode`] bits.
    pub mode: u32,
    /// The overlay's bridge, to which this node's containers are attached; 0 without one.
    pub overlay: u32,
    /// The overlay's device, by which other nodes' flows come; 0 without one.
    pub tunnel: u32,
    /// New flows a CPU may begin within a jiffy; 0 means any number.
    pub new_flows: u32,
    /// Jiffies in a second.
    pub hz: u32,
    /// Lines of `lines4` and of `lines6` for each CPU, less 1: all bits below the highest.
    pub cached: u32,
    /// The device of this node's address: what comes by it may be answered by others ([`direct`]); 0 where that is not so.
    pub underlay: u32,
    /// Sets of `flows4` and of `flows6` ([`table`]).
    pub sets: u32,
    /// What only this node knows: in which set a flow is depends on it.
    pub seed: u32,
    /// This node's address, the source of masqueraded flows; zero without one.
    pub node4: V4,
    /// This node's address on the overlay.
    pub overlay4: V4,
    /// Where VIPs are claimed: network and mask. What is dialled there and served by nobody is refused.
    pub vips4: [[V4; 2]; 2],
    /// As `node4`.
    pub node6: V6,
    /// As `overlay4`.
    pub overlay6: V6,
    /// As `vips4`.
    pub vips6: [[V6; 2]; 2],
}

/// Bits of [`Config::mode`].
pub mod mode {
    /// Programs of this host are backends: their answers are looked at on the way out.
    pub const EGRESS: u32 = 0x1;
    /// What this kind of processor writes others see in the same order.
    pub const ORDERED: u32 = 0x2;
}

/// Longest name in `names`: an instance's or a node's.
pub const NAME_LEN: usize = 64;
