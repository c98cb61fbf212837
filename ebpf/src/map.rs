//! Maps with the types of their keys and values.

use crate::notes::{AllowNote, AllowPlace, BackendNote, FrontendNote};
use crate::raw::{self, Command, Cursor};
use mesh_ebpf_common::{
    AllowKey, Backend, BackendCounts, Config, Dialled, Event, Flow, FlowKey, Frontend, FrontendCounts,
    MemberKey, NAME_LEN, Service, ServiceKey, Sticky, StickyKey, V4, V6, WAYS, xdp,
};
use std::{
    io,
    marker::PhantomData,
    mem::{size_of, zeroed},
    os::fd::OwnedFd,
    path::Path,
    ptr::{from_mut, from_ref, null, null_mut},
};

/// What the kernel and we may read as bytes.
///
/// # Safety
/// Any bytes are a value, and a value has no padding.
pub unsafe trait Plain: Copy + PartialEq {}

macro_rules! plain {
    ($($kind:ty),+) => { $(
        // SAFETY: made of integers without padding, as the tests of `mesh_ebpf_common` check.
        unsafe impl Plain for $kind {}
    )+ };
}

plain!(
    u8,
    u32,
    u64,
    i64,
    V4,
    V6,
    [u8; NAME_LEN],
    [u64; WAYS as usize],
    ServiceKey<V4>,
    ServiceKey<V6>,
    Service,
    Frontend,
    Backend
);
plain!(FlowKey<V4>, FlowKey<V6>, Flow<V4>, Flow<V6>, Dialled, StickyKey, Sticky, MemberKey, AllowKey<V4>);
plain!(xdp::Device, xdp::VtepKey, xdp::Vtep);
plain!(
    AllowKey<V6>,
    Config,
    Event,
    FrontendCounts,
    BackendCounts,
    FrontendNote,
    BackendNote,
    AllowPlace,
    AllowNote
);

/// The value that these bytes are; `None` when there are more or less of them.
pub fn value<T: Plain>(bytes: &[u8]) -> Option<T> {
    // SAFETY: as many bytes as are read, and any are a value.
    (bytes.len() == size_of::<T>()).then(|| unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

/// Entries that are read at once; a bucket of a hash has to fit (`ENOSPC` otherwise).
const AT_ONCE: usize = 4096;

/// A map.
#[derive(Debug)]
pub struct Map<K, V> {
    fd: OwnedFd,
    entries: u32,
    kind: PhantomData<fn(K) -> V>,
}

/// A map with a value for each CPU.
pub type PerCpu<V> = Map<u32, V>;

/// Opens a pinned map whose values take up that many bytes for the system calls.
fn open<K>(at: &Path, value: usize) -> io::Result<(OwnedFd, u32)> {
    let fd = raw::get(at)?;
    // SAFETY: the descriptor is of a map.
    let info: raw::MapInfo = unsafe { raw::info(&fd) }?;
    let same = |a: u32, b: usize| usize::try_from(a).is_ok_and(|a| a == b);
    if !same(info.key_size, size_of::<K>()) || !same(info.value_size, value) {
        let text = format!(
            "{} has keys and values of {} and {} bytes",
            at.display(),
            info.key_size,
            info.value_size
        );
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    Ok((fd, info.max_entries))
}

impl<K: Plain, V: Plain> Map<K, V> {
    pub(crate) fn open(at: &Path) -> io::Result<Map<K, V>> {
        let (fd, entries) = open::<K>(at, size_of::<V>())?;
        Ok(Map { fd, entries, kind: PhantomData })
    }

    /// Its descriptor.
    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// How many entries it can have.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.entries
    }

    /// The value of a key.
    ///
    /// # Errors
    /// The kernel's.
    pub fn get(&self, key: &K) -> io::Result<Option<V>> {
        // SAFETY: any bytes are a value.
        let mut value: V = unsafe { zeroed() };
        let (key, to) = (from_ref(key).cast(), from_mut(&mut value).cast());
        // SAFETY: the sizes were compared when the map was opened.
        match unsafe { raw::element(Command::Lookup, &self.fd, key, to) } {
            Ok(()) => Ok(Some(value)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes entries, new and old ones.
    ///
    /// # Errors
    /// The kernel's; `E2BIG` when the map is full. Those in front of it are written.
    pub fn put(&self, entries: &[(K, V)]) -> io::Result<()> {
        let mut keys: Vec<K> = entries.iter().map(|(key, _)| *key).collect();
        let mut values: Vec<V> = entries.iter().map(|(_, value)| *value).collect();
        if entries.len() == 1 {
            // SAFETY: as in `get`.
            return unsafe {
                raw::element(Command::Update, &self.fd, keys.as_ptr().cast(), values.as_mut_ptr().cast())
            };
        }
        if entries.is_empty() {
            return Ok(());
        }
        let (none, keys, values) =
            (Cursor { from: null(), to: null_mut() }, keys.as_mut_ptr().cast(), values.as_mut_ptr().cast());
        // SAFETY: both have as many as there are entries, of sizes that were compared.
        unsafe { raw::batch(Command::UpdateBatch, &self.fd, &none, keys, values, entries.len()) }.1
    }

    /// Deletes entries; those that are not there are no error.
    ///
    /// # Errors
    /// The kernel's.
    pub fn delete(&self, keys: &[K]) -> io::Result<()> {
        let mut keys = keys.to_vec();
        let mut rest = keys.as_mut_slice();
        while !rest.is_empty() {
            let none = Cursor { from: null(), to: null_mut() };
            // SAFETY: as many keys as said, of a size that was compared.
            let (done, result) = unsafe {
                raw::batch(
                    Command::DeleteBatch,
                    &self.fd,
                    &none,
                    rest.as_mut_ptr().cast(),
                    null_mut(),
                    rest.len(),
                )
            };
            match result {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    rest = rest.get_mut(done + 1..).unwrap_or_default();
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// All entries; of arrays also those that were never written.
    ///
    /// # Errors
    /// The kernel's.
    pub fn entries(&self) -> io::Result<Vec<(K, V)>> {
        let mut all = Vec::new();
        self.each(None, usize::MAX, 1, |key, values| all.extend(values.first().map(|value| (*key, *value))))?;
        Ok(all)
    }

    /// Calls `each` with the keys that come after one, `most` of them, and their values, `per` of them.
    fn each(
        &self,
        after: Option<u32>,
        most: usize,
        per: usize,
        mut each: impl FnMut(&K, &[V]),
    ) -> io::Result<()> {
        let mut left = most.min(usize::try_from(self.entries).unwrap_or(most));
        // Hashes give whole buckets.
        let mut at_once = AT_ONCE.min(left).max(1);
        // Cursors are keys or numbers of buckets: 4 bytes at least.
        let mut cursors = vec![0_u64; 2 * size_of::<K>().div_ceil(8).max(1)];
        let middle = cursors.len() / 2;
        cursors[0] = after.map_or(0, |index| u64::from(index).to_le());
        let (mut first, mut end) = (after.is_none(), left == 0);
        while !end {
            // SAFETY: any bytes are a value.
            let (mut keys, mut values) =
                unsafe { (vec![zeroed::<K>(); at_once], vec![zeroed::<V>(); at_once * per]) };
            let (from, to) = cursors.split_at_mut(middle);
            let from = if first { null() } else { from.as_ptr().cast() };
            let cursor = Cursor { from, to: to.as_mut_ptr().cast() };
            // SAFETY: both have room for as many as asked for, of sizes that were compared.
            let (count, result) = unsafe {
                let (keys, values) = (keys.as_mut_ptr().cast(), values.as_mut_ptr().cast());
                raw::batch(Command::LookupBatch, &self.fd, &cursor, keys, values, at_once)
            };
            match result {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => end = true,
                // More in one bucket than there was room for.
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && at_once < 1 << 20 => {
                    at_once *= 4;
                    continue;
                }
                Err(error) => return Err(error),
            }
            for (key, values) in keys.iter().zip(values.chunks(per)).take(count) {
                each(key, values);
            }
            left = left.saturating_sub(count);
            end |= left == 0;
            first = false;
            cursors.rotate_left(middle);
        }
        Ok(())
    }
}

impl<V: Plain> Map<u32, V> {
    /// Of an array, `count` values from index `first` on.
    ///
    /// # Errors
    /// The kernel's.
    pub fn range(&self, first: u32, count: u32) -> io::Result<Vec<V>> {
        let count = usize::try_from(count.min(self.entries.saturating_sub(first))).unwrap_or(0);
        let mut all = Vec::with_capacity(count);
        self.each(first.checked_sub(1), count, 1, |_, values| all.extend(values.first().copied()))?;
        all.truncate(count);
        Ok(all)
    }
    /// Opens a map with a value for each CPU; each is as long as a multiple of 8.
    pub(crate) fn open_per_cpu(at: &Path) -> io::Result<PerCpu<V>> {
        const { assert!(size_of::<V>().is_multiple_of(8)) };
        Self::open(at)
    }

    /// The values of the first `count` indices, of all CPUs.
    ///
    /// # Errors
    /// The kernel's.
    pub fn of_all_cpus(&self, count: u32, mut each: impl FnMut(u32, &[V])) -> io::Result<()> {
        let most = usize::try_from(count).unwrap_or(usize::MAX);
        self.each(None, most, cpus()?, |index, values| {
            if *index < count {
                each(*index, values);
            }
        })
    }

    /// Sets the values of these indices to zero on all CPUs.
    ///
    /// # Errors
    /// The kernel's.
    pub fn clear(&self, indices: &[u32]) -> io::Result<()> {
        // SAFETY: any bytes are a value.
        let mut values = vec![unsafe { zeroed::<V>() }; cpus()? * AT_ONCE.min(indices.len())];
        for indices in indices.chunks(AT_ONCE) {
            let (mut keys, values) = (indices.to_vec(), values.as_mut_ptr().cast());
            let none = Cursor { from: null(), to: null_mut() };
            let keys = keys.as_mut_ptr().cast();
            // SAFETY: a value for each index and each CPU there can be.
            unsafe { raw::batch(Command::UpdateBatch, &self.fd, &none, keys, values, indices.len()) }.1?;
        }
        Ok(())
    }

    /// The values of one index, of all CPUs.
    ///
    /// # Errors
    /// The kernel's.
    pub fn at(&self, index: u32) -> io::Result<Vec<V>> {
        // SAFETY: any bytes are a value.
        let mut values = vec![unsafe { zeroed::<V>() }; cpus()?];
        let (key, to) = (from_ref(&index).cast(), values.as_mut_ptr().cast());
        // SAFETY: there is room for a value of each CPU there can be.
        unsafe { raw::element(Command::Lookup, &self.fd, key, to) }?;
        Ok(values)
    }
}

/// How many CPUs there can be: as many values has an entry of a per-CPU map.
pub(crate) fn cpus() -> io::Result<usize> {
    aya::util::nr_cpus().map_err(|(_, error)| error)
}
