//! The maps, and how a change is written to them: so that no lookup ever fails in between.

use super::{
    change::{Change, v4, v6},
    note::NameBytes,
};
use mesh_ebpf::{
    Backends, Flows, Kernel, Map, PerCpu,
    common::{
        AllowKey, BackendCounts, Config, Dialled, Frontend, FrontendCounts, MemberKey, Service, ServiceKey,
        Sticky, StickyKey, V4, V6, WAYS, xdp,
    },
    notes::{AllowNote, AllowPlace, BackendNote, FrontendNote},
};
use std::{
    io,
    os::fd::OwnedFd,
    sync::atomic::{AtomicU32, Ordering},
};

/// The maps that the agent reads and writes.
#[derive(Debug)]
pub(super) struct Maps {
    pub(super) config: Map<u32, Config>,
    pub(super) services4: Map<ServiceKey<V4>, Service>,
    pub(super) services6: Map<ServiceKey<V6>, Service>,
    pub(super) slots: Map<u32, u32>,
    pub(super) backends: Backends,
    pub(super) backend_counts: PerCpu<BackendCounts>,
    pub(super) drops: PerCpu<u64>,
    pub(super) evicted: PerCpu<u64>,
    pub(super) frontends: Map<u32, Frontend>,
    pub(super) frontend_counts: PerCpu<FrontendCounts>,
    pub(super) members: Map<MemberKey, u32>,
    pub(super) affinity: Map<StickyKey, Sticky>,
    pub(super) allow4: Map<AllowKey<V4>, u8>,
    pub(super) allow6: Map<AllowKey<V6>, u8>,
    pub(super) locals4: Map<V4, u8>,
    pub(super) locals6: Map<V6, u8>,
    pub(super) nodes4: Map<V4, u8>,
    pub(super) nodes6: Map<V6, u8>,
    pub(super) vips4: Map<V4, u32>,
    pub(super) vips6: Map<V6, u32>,
    pub(super) flows4: Flows<V4>,
    pub(super) flows6: Flows<V6>,
    pub(super) names: Map<u64, NameBytes>,
    pub(super) frontend_notes: Map<u32, FrontendNote>,
    pub(super) backend_notes: Map<u32, BackendNote>,
    pub(super) allow_notes: Map<AllowPlace, AllowNote>,
    pub(super) xdp_devices: Map<u32, xdp::Device>,
    pub(super) xdp_vteps: Map<xdp::VtepKey, xdp::Vtep>,
    /// What each socket dialled: their cookies, what belongs to them, and storage for those without a place.
    pub(super) cookies: Map<u32, [u64; WAYS as usize]>,
    pub(super) sockets: Map<u32, Dialled>,
    pub(super) dialled: OwnedFd,
    /// How often services were written: where their turns begin.
    writes: AtomicU32,
    /// How many lines the cache of a CPU has.
    pub(super) cached: u32,
}

impl Maps {
    pub(super) fn open(kernel: &Kernel) -> io::Result<Maps> {
        Ok(Maps {
            writes: AtomicU32::new(0),
            config: kernel.map("config")?,
            services4: kernel.map("services4")?,
            services6: kernel.map("services6")?,
            slots: kernel.map("slots")?,
            backends: kernel.backends()?,
            backend_counts: kernel.per_cpu("backend_counts")?,
            drops: kernel.per_cpu("drops")?,
            evicted: kernel.per_cpu("evicted")?,
            frontends: kernel.map("frontends")?,
            frontend_counts: kernel.per_cpu("frontend_counts")?,
            members: kernel.map("members")?,
            affinity: kernel.map("affinity")?,
            allow4: kernel.map("allow4")?,
            allow6: kernel.map("allow6")?,
            locals4: kernel.map("locals4")?,
            locals6: kernel.map("locals6")?,
            nodes4: kernel.map("nodes4")?,
            nodes6: kernel.map("nodes6")?,
            vips4: kernel.map("vips4")?,
            vips6: kernel.map("vips6")?,
            flows4: kernel.flows("flows4")?,
            flows6: kernel.flows("flows6")?,
            names: kernel.map("names")?,
            frontend_notes: kernel.map("frontend_notes")?,
            backend_notes: kernel.map("backend_notes")?,
            allow_notes: kernel.map("allow_notes")?,
            xdp_devices: kernel.map("xdp_devices")?,
            xdp_vteps: kernel.map("xdp_vteps")?,
            cookies: kernel.map("cookies")?,
            sockets: kernel.map("sockets")?,
            dialled: kernel.raw_map("dialled")?,
            cached: kernel.cached()?,
        })
    }

    /// How many frontends, backends and slots there can be.
    pub(super) fn sizes(&self) -> [u32; 3] {
        [self.frontends.capacity(), self.backends.capacity(), self.slots.capacity()]
    }

    /// Services whose turns begin where those of the last ones did not: a frontend that changes often would else have its
    /// first backend chosen too often.
    fn turned<K: Copy>(&self, services: &[(K, Service)]) -> Vec<(K, Service)> {
        let turn = || self.writes.fetch_add(0x9e37_79b9, Ordering::Relaxed);
        services.iter().map(|(key, service)| (*key, Service { turn: turn(), ..*service })).collect()
    }

    /// Writes a change: what is led to, then what leads there, then what went.
    pub(super) fn write(&self, change: &Change) -> io::Result<()> {
        change.new_backends.iter().for_each(|index| self.backends.clear(*index));
        self.backend_counts.clear(&change.new_backends)?;
        self.frontend_counts.clear(&change.new_frontends)?;
        self.names.put(&change.names.put)?;
        self.backend_notes.put(&change.backend_notes.put)?;
        self.frontend_notes.put(&change.frontend_notes.put)?;
        self.allow_notes.put(&change.allow_notes.put)?;
        self.allow4.put(&change.allow4.put)?;
        self.allow6.put(&change.allow6.put)?;
        self.frontends.put(&change.frontends)?;
        change.taking.iter().try_for_each(|(index, backend)| self.backends.put(*index, backend))?;
        self.members.put(&change.members.put)?;
        self.slots.put(&change.slots)?;
        let vips: Vec<(V4, u32)> =
            change.vips.put.iter().filter_map(|(vip, n)| Some((v4(*vip)?, *n))).collect();
        self.vips4.put(&vips)?;
        let vips: Vec<(V6, u32)> =
            change.vips.put.iter().filter_map(|(vip, n)| Some((v6(*vip)?, *n))).collect();
        self.vips6.put(&vips)?;
        self.services4.put(&self.turned(&change.services4.put))?;
        self.services6.put(&self.turned(&change.services6.put))?;

        self.services4.delete(&change.services4.out)?;
        self.services6.delete(&change.services6.out)?;
        self.vips4.delete(&change.vips.out.iter().copied().filter_map(v4).collect::<Vec<_>>())?;
        self.vips6.delete(&change.vips.out.iter().copied().filter_map(v6).collect::<Vec<_>>())?;
        change.resting.iter().try_for_each(|(index, backend)| self.backends.put(*index, backend))?;
        self.members.delete(&change.members.out)?;
        self.allow4.delete(&change.allow4.out)?;
        self.allow6.delete(&change.allow6.out)?;
        self.allow_notes.delete(&change.allow_notes.out)?;
        self.frontend_notes.delete(&change.frontend_notes.out)?;
        self.backend_notes.delete(&change.backend_notes.out)?;
        self.names.delete(&change.names.out)
    }
}
