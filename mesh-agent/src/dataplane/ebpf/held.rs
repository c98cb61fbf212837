//! A frontend as it stands in the maps. Pure.

use super::{
    note,
    realize::{self, Place, picked},
};
use crate::plan::{Backend, BackendId, Entry};
use ipnetwork::IpNetwork;
use mesh_ebpf::{
    common as kernel,
    notes::{BackendNote, FrontendNote},
};
use std::collections::BTreeMap;

/// A backend as it stands in the maps.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct HeldBackend {
    pub(super) index: u32,
    pub(super) value: kernel::Backend,
    pub(super) note: BackendNote,
}

/// A frontend as it stands in the maps.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Held {
    /// Of its first port.
    pub(super) service: kernel::Service,
    pub(super) policy: kernel::Frontend,
    pub(super) note: FrontendNote,
    pub(super) slots: Vec<u32>,
    pub(super) backends: BTreeMap<BackendId, HeldBackend>,
    pub(super) allow: Vec<IpNetwork>,
    /// Whether other nodes may name its backends of this one by their tokens.
    pub(super) direct: bool,
}

impl Held {
    pub(super) fn index(&self) -> u32 {
        self.service.frontend
    }

    /// What stands for an entry whose frontend and backends have these places.
    pub(super) fn new(
        entry: &Entry,
        place: &Place,
        unix: u64,
        index: u32,
        base: u32,
        mut at: impl FnMut(&Backend, &kernel::Backend) -> (u32, u32),
    ) -> Held {
        let frontend = &*entry.frontend;
        let (policy, flags) = realize::policy(frontend);
        let mut indices = Vec::with_capacity(entry.backends.len());
        let mut backends = BTreeMap::new();
        for backend in entry.backends.iter() {
            let value = realize::backend(backend, frontend.key.protocol, place, unix);
            let (number, generation) = at(backend, &value);
            let value = kernel::Backend { frontend: index, generation, ..value };
            let held = HeldBackend { index: number, value, note: note::of_backend(backend) };
            backends.insert(backend.id.clone(), held);
            indices.push(number);
        }
        let slots: Vec<u32> = picked(entry).into_iter().map(|slot| indices[slot]).collect();
        let count = u32::try_from(slots.len()).unwrap_or(0);
        let service =
            kernel::Service { frontend: index, base, slots: count, offset: 0, flags, turn: 0, pad: 0 };
        Held {
            service,
            policy,
            note: note::of_frontend(frontend),
            slots,
            backends,
            allow: frontend.allow.clone(),
            direct: place.direct && frontend.key.listen.is_published(),
        }
    }
}
