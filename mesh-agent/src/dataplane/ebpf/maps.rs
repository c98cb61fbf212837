//! The maps, and how a change is written to them: so that no lookup ever fails in between.

use super::{
    change::{Change, v4, v6},
    note::NameBytes,
};
use mesh_ebpf::{
    Kernel, Map, PerCpu, Shared,
    common::{
        AllowKey, Backend, BackendCounts, Config, Dialled, Flow, FlowKey, Frontend, FrontendCounts,
        MemberKey, Service, ServiceKey, Sticky, StickyKey, V4, V6, WAYS, xdp,
    },
    notes::{AllowNote, AllowPlace, BackendNote, FrontendNote},
};
use std::{io, os::fd::OwnedFd};

/// The maps that the agent reads and writes.
#[derive(Debug)]
pub(super) struct Maps {
    pub(super) config: Map<u32, Config>,
    pub(super) services4: Map<ServiceKey<V4>, Service>,
    pub(super) services6: Map<ServiceKey<V6>, Service>,
    pub(super) slots: Map<u32, u32>,
    pub(super) backends: Map<u32, Backend>,
    pub(super) active: Map<u32, i64>,
    pub(super) backend_counts: PerCpu<BackendCounts>,
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
    pub(super) flows4: Map<FlowKey<V4>, Flow<V4>>,
    pub(super) flows6: Map<FlowKey<V6>, Flow<V6>>,
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
    /// The memory of `active`.
    open_flows: Shared,
    /// How many lines each cache has.
    pub(super) cached: u32,
}

impl Maps {
    pub(super) fn open(kernel: &Kernel) -> io::Result<Maps> {
        let active = kernel.map("active")?;
        Ok(Maps {
            open_flows: Shared::new(&active)?,
            active,
            config: kernel.map("config")?,
            services4: kernel.map("services4")?,
            services6: kernel.map("services6")?,
            slots: kernel.map("slots")?,
            backends: kernel.map("backends")?,
            backend_counts: kernel.per_cpu("backend_counts")?,
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
            flows4: kernel.map("flows4")?,
            flows6: kernel.map("flows6")?,
            names: kernel.map("names")?,
            frontend_notes: kernel.map("frontend_notes")?,
            backend_notes: kernel.map("backend_notes")?,
            allow_notes: kernel.map("allow_notes")?,
            xdp_devices: kernel.map("xdp_devices")?,
            xdp_vteps: kernel.map("xdp_vteps")?,
            cookies: kernel.map("cookies")?,
            sockets: kernel.map("sockets")?,
            dialled: kernel.raw_map("dialled")?,
            cached: kernel.entries("cache4")?,
        })
    }

    /// How many frontends, backends and slots there can be.
    pub(super) fn sizes(&self) -> [u32; 3] {
        [self.frontends.capacity(), self.backends.capacity(), self.slots.capacity()]
    }

    /// Counts a flow out, unless another backend has its place by now.
    pub(super) fn ended(&self, index: u32, generation: u32) -> io::Result<()> {
        if self.backends.get(&index)?.is_some_and(|backend| backend.generation == generation) {
            self.open_flows.add(index, -1);
        }
        Ok(())
    }

    /// Writes a change: what is led to, then what leads there, then what went.
    pub(super) fn write(&self, change: &Change) -> io::Result<()> {
        let zeroes: Vec<(u32, i64)> = change.new_backends.iter().map(|index| (*index, 0)).collect();
        self.active.put(&zeroes)?;
        self.backend_counts.clear(&change.new_backends)?;
        self.frontend_counts.clear(&change.new_frontends)?;
        self.names.put(&change.names.put)?;
        self.backend_notes.put(&change.backend_notes.put)?;
        self.frontend_notes.put(&change.frontend_notes.put)?;
        self.allow_notes.put(&change.allow_notes.put)?;
        self.allow4.put(&change.allow4.put)?;
        self.allow6.put(&change.allow6.put)?;
        self.frontends.put(&change.frontends)?;
        self.backends.put(&change.taking)?;
        self.members.put(&change.members.put)?;
        self.slots.put(&change.slots)?;
        let vips: Vec<(V4, u32)> =
            change.vips.put.iter().filter_map(|(vip, n)| Some((v4(*vip)?, *n))).collect();
        self.vips4.put(&vips)?;
        let vips: Vec<(V6, u32)> =
            change.vips.put.iter().filter_map(|(vip, n)| Some((v6(*vip)?, *n))).collect();
        self.vips6.put(&vips)?;
        self.services4.put(&change.services4.put)?;
        self.services6.put(&change.services6.put)?;

        self.services4.delete(&change.services4.out)?;
        self.services6.delete(&change.services6.out)?;
        self.vips4.delete(&change.vips.out.iter().copied().filter_map(v4).collect::<Vec<_>>())?;
        self.vips6.delete(&change.vips.out.iter().copied().filter_map(v6).collect::<Vec<_>>())?;
        self.backends.put(&change.resting)?;
        self.members.delete(&change.members.out)?;
        self.allow4.delete(&change.allow4.out)?;
        self.allow6.delete(&change.allow6.out)?;
        self.allow_notes.delete(&change.allow_notes.out)?;
        self.frontend_notes.delete(&change.frontend_notes.out)?;
        self.backend_notes.delete(&change.backend_notes.out)?;
        self.names.delete(&change.names.out)
    }
}
