//! The maps. The loader sets their sizes and pins each under its name; `mesh_ebpf_common` says what is in them.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    btf_maps::SkStorage,
    macros::{btf_map, map},
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf},
};
use mesh_ebpf_common::{
    Backend, BackendCounts, CACHE_EPOCH_COUNT, Cached, Chosen, Config, Dialled, Drop, FragmentKey, Frontend,
    FrontendCounts, MemberKey, Pace, Peer, PeerKey, SETS, Service, ServiceKey, Sticky, StickyKey, V4, V6,
    WAYS,
    table::{Line4, Line6},
    xdp::{Device, Vtep, VtepKey},
};

/// The loader gives every map its size; this one only has to be above 0.
const LATER: u32 = 1;

/// Declares a map under a name as users of `bpftool map` see it.
macro_rules! maps {
    ($($name:literal $ident:ident: $kind:ident<$($of:ty),+> = $size:expr, $flags:expr;)+) => {
        $(#[map(name = $name)]
        pub static $ident: $kind<$($of),+> = $kind::with_max_entries($size, $flags);)+
    };
}

maps! {
    "config" CONFIG: Array<Config> = 1, 0;
    "services4" SERVICES4: HashMap<ServiceKey<V4>, Service> = LATER, BPF_F_NO_PREALLOC;
    "services6" SERVICES6: HashMap<ServiceKey<V6>, Service> = LATER, BPF_F_NO_PREALLOC;
    "slots" SLOTS: Array<u32> = LATER, 0;
    "backends" BACKENDS: Array<Backend> = LATER, BPF_F_MMAPABLE;
    "backend_counts" BACKEND_COUNTS: PerCpuArray<BackendCounts> = LATER, 0;
    "frontends" FRONTENDS: Array<Frontend> = LATER, 0;
    "frontend_counts" FRONTEND_COUNTS: PerCpuArray<FrontendCounts> = LATER, 0;
    "members" MEMBERS: HashMap<MemberKey, u32> = LATER, BPF_F_NO_PREALLOC;
    "affinity" AFFINITY: LruHashMap<StickyKey, Sticky> = LATER, 0;
    "allow4" ALLOW4: LpmTrie<[u8; 8], u8> = LATER, BPF_F_NO_PREALLOC;
    "allow6" ALLOW6: LpmTrie<[u8; 20], u8> = LATER, BPF_F_NO_PREALLOC;
    "locals4" LOCALS4: HashMap<V4, u8> = LATER, BPF_F_NO_PREALLOC;
    "locals6" LOCALS6: HashMap<V6, u8> = LATER, BPF_F_NO_PREALLOC;
    "nodes4" NODES4: HashMap<V4, u8> = LATER, BPF_F_NO_PREALLOC;
    "nodes6" NODES6: HashMap<V6, u8> = LATER, BPF_F_NO_PREALLOC;
    "vips4" VIPS4: HashMap<V4, u32> = LATER, BPF_F_NO_PREALLOC;
    "vips6" VIPS6: HashMap<V6, u32> = LATER, BPF_F_NO_PREALLOC;
    "flows4" FLOWS4: Array<Line4> = LATER, BPF_F_MMAPABLE;
    "flows6" FLOWS6: Array<Line6> = LATER, BPF_F_MMAPABLE;
    "lines4" LINES4: Array<Cached<V4>> = LATER, BPF_F_MMAPABLE;
    "lines6" LINES6: Array<Cached<V6>> = LATER, BPF_F_MMAPABLE;
    "aside4" ASIDE4: PerCpuArray<Cached<V4>> = 1, 0;
    "aside6" ASIDE6: PerCpuArray<Cached<V6>> = 1, 0;
    "cache_epochs" CACHE_EPOCHS: Array<u32> = CACHE_EPOCH_COUNT, 0;
    "fragments4" FRAGMENTS4: LruHashMap<FragmentKey<V4>, [u16; 2]> = 4096, 0;
    "fragments6" FRAGMENTS6: LruHashMap<FragmentKey<V6>, [u16; 2]> = 4096, 0;
    "pace" PACE: PerCpuArray<Pace> = 1, 0;
    "udp_out4" UDP_OUT4: LruHashMap<PeerKey<V4>, Chosen> = LATER, 0;
    "udp_out6" UDP_OUT6: LruHashMap<PeerKey<V6>, Chosen> = LATER, 0;
    "udp_back4" UDP_BACK4: LruHashMap<PeerKey<V4>, Peer<V4>> = LATER, 0;
    "udp_back6" UDP_BACK6: LruHashMap<PeerKey<V6>, Peer<V6>> = LATER, 0;
    "cookies" COOKIES: Array<[u64; WAYS as usize]> = SETS, 0;
    "sockets" SOCKETS: Array<Dialled> = SETS * WAYS, 0;
    "xdp_devices" XDP_DEVICES: HashMap<u32, Device> = 4096, BPF_F_NO_PREALLOC;
    "xdp_vteps" XDP_VTEPS: HashMap<VtepKey, Vtep> = 16_384, BPF_F_NO_PREALLOC;
    "evicted" EVICTED: PerCpuArray<u64> = 1, 0;
    "drops" DROPS: PerCpuArray<u64> = Drop::COUNT, 0;
}

/// What each socket dialled, of sockets that have no place in `sockets`; goes with the socket.
#[btf_map(name = "dialled")]
pub static DIALLED: SkStorage<Dialled> = SkStorage::new();

/// Packets that were not forwarded, for the log.
#[map(name = "events")]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(1 << 16, 0);

/// The facts of this node.
#[inline(always)]
pub fn config() -> Option<&'static Config> {
    CONFIG.get(0)
}
