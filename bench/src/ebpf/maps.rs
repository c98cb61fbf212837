//! Maps of programs that are measured, as the benchmark fills them.

use anyhow::Context as _;
use aya::{
    Ebpf, Pod,
    maps::{Array, HashMap},
};

/// A type of the maps, to aya.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(super) struct Raw<T>(pub(super) T);

// SAFETY: the types of the maps are plain numbers without padding.
unsafe impl<T: Copy + 'static> Pod for Raw<T> {}

/// Writes the first entry of an array.
pub(super) fn set<T: Copy + 'static>(ebpf: &mut Ebpf, name: &str, value: T) -> anyhow::Result<()> {
    array(ebpf, name, [value])
}

/// Writes the first entries of an array.
pub(super) fn array<T: Copy + 'static>(
    ebpf: &mut Ebpf,
    name: &str,
    values: impl IntoIterator<Item = T>,
) -> anyhow::Result<()> {
    let mut map =
        Array::<_, Raw<T>>::try_from(ebpf.map_mut(name).with_context(|| format!("no map {name}"))?)?;
    for (value, index) in values.into_iter().zip(0..) {
        map.set(index, Raw(value), 0)?;
    }
    Ok(())
}

/// Writes entries of a hash.
pub(super) fn fill<K: Copy + 'static, V: Copy + 'static>(
    ebpf: &mut Ebpf,
    name: &str,
    entries: impl IntoIterator<Item = (K, V)>,
) -> anyhow::Result<()> {
    let map = ebpf.map_mut(name).with_context(|| format!("no map {name}"))?;
    let mut map = HashMap::<_, Raw<K>, Raw<V>>::try_from(map)?;
    for (key, value) in entries {
        map.insert(Raw(key), Raw(value), 0)?;
    }
    Ok(())
}

/// A link-layer address as `ip` reads it.
pub(super) fn mac(address: [u8; 6]) -> String {
    address.map(|byte| format!("{byte:02x}")).join(":")
}
