//! bpf(2), as far as aya 0.14 leaves it out or hides it: batches, pins and links by descriptor.

use std::{
    ffi::CString,
    io,
    mem::{size_of, zeroed},
    os::{
        fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

/// `enum bpf_cmd` of linux/bpf.h.
#[derive(Clone, Copy)]
#[repr(i64)]
pub(crate) enum Command {
    Create = 0,
    Lookup = 1,
    Update = 2,
    Pin = 6,
    Get = 7,
    Info = 15,
    LookupBatch = 24,
    UpdateBatch = 26,
    DeleteBatch = 27,
    LinkCreate = 28,
    LinkUpdate = 29,
    LinkDetach = 34,
}

/// `struct bpf_map_info`, as far as it is read.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct MapInfo {
    pub(crate) kind: u32,
    pub(crate) id: u32,
    pub(crate) key_size: u32,
    pub(crate) value_size: u32,
    pub(crate) max_entries: u32,
    pub(crate) flags: u32,
}

/// The beginning of `struct bpf_prog_info`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct ProgramInfo {
    kind: u32,
    pub(crate) id: u32,
}

/// `struct bpf_link_info` of a link to a cgroup or a device.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct LinkInfo {
    kind: u32,
    pub(crate) id: u32,
    pub(crate) program: u32,
    pad: u32,
    /// Of tcx: the device's index and the attach type, two words. Of XDP: the index. Of cgroups: the cgroup's id.
    pub(crate) target: [u32; 2],
}

#[expect(clippy::disallowed_methods, reason = "this is the place for bpf(2)")]
/// Calls the kernel with the part of `union bpf_attr` that a command reads.
fn bpf<A>(command: Command, attributes: &mut A) -> io::Result<i64> {
    // SAFETY: the kernel reads and writes `attributes` within the size given, and the memory that its pointers name,
    // for which callers answer.
    let done = unsafe {
        libc::syscall(libc::SYS_bpf, command as i64, std::ptr::from_mut(attributes), size_of::<A>())
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(done) }
}

fn owned(fd: i64) -> io::Result<OwnedFd> {
    let fd = i32::try_from(fd).map_err(|_| io::ErrorKind::InvalidData)?;
    // SAFETY: the kernel just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn number(fd: &impl AsFd) -> u32 {
    fd.as_fd().as_raw_fd().unsigned_abs()
}

#[repr(C)]
struct NewMap {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
    inner: u32,
    node: u32,
    name: [u8; 16],
}

/// Makes a hash map that takes memory for the entries it has (`BPF_MAP_TYPE_HASH`, `BPF_F_NO_PREALLOC`).
pub(crate) fn create_hash(name: &str, key: usize, value: usize, entries: u32) -> io::Result<OwnedFd> {
    let size = |bytes: usize| u32::try_from(bytes).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
    let mut new = NewMap {
        kind: 1,
        key_size: size(key)?,
        value_size: size(value)?,
        max_entries: entries,
        flags: 1,
        inner: 0,
        node: 0,
        name: [0; 16],
    };
    // The last byte stays 0.
    new.name[..15].iter_mut().zip(name.bytes()).for_each(|(to, byte)| *to = byte);
    bpf(Command::Create, &mut new).and_then(owned)
}

#[repr(C)]
struct Element {
    map: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Reads or writes one entry.
///
/// # Safety
/// `key` and `value` lead to as many bytes as the map's key and value have.
pub(crate) unsafe fn element(
    command: Command,
    map: &OwnedFd,
    key: *const u8,
    value: *mut u8,
) -> io::Result<()> {
    let mut attributes = Element { map: number(map), pad: 0, key: key as u64, value: value as u64, flags: 0 };
    bpf(command, &mut attributes).map(drop)
}

/// Where a batch is read on from, and where it got to.
pub(crate) struct Cursor {
    pub(crate) from: *const u8,
    pub(crate) to: *mut u8,
}

#[repr(C)]
struct Batch {
    from: u64,
    to: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

/// Reads, writes or deletes many entries; how many were done, also in front of an error.
///
/// # Safety
/// `keys` and `values` lead to `count` keys and values; `values` may be null where none are needed; the cursor's ends
/// are null or lead to as much as a key and at least 4 bytes.
pub(crate) unsafe fn batch(
    command: Command,
    map: &OwnedFd,
    cursor: &Cursor,
    keys: *mut u8,
    values: *mut u8,
    count: usize,
) -> (usize, io::Result<()>) {
    let Ok(count) = u32::try_from(count) else { return (0, Err(io::ErrorKind::InvalidInput.into())) };
    let mut attributes = Batch {
        from: cursor.from as u64,
        to: cursor.to as u64,
        keys: keys as u64,
        values: values as u64,
        count,
        map: number(map),
        element_flags: 0,
        flags: 0,
    };
    let done = bpf(command, &mut attributes).map(drop);
    (usize::try_from(attributes.count).unwrap_or(0), done)
}

#[repr(C)]
struct Object {
    path: u64,
    fd: u32,
    flags: u32,
}

fn path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::from)
}

/// Makes a file of the BPF file system that keeps a map, program or link.
pub(crate) fn pin(object: &impl AsFd, at: &Path) -> io::Result<()> {
    let at = path(at)?;
    bpf(Command::Pin, &mut Object { path: at.as_ptr() as u64, fd: number(object), flags: 0 }).map(drop)
}

/// What a file of the BPF file system keeps.
pub(crate) fn get(at: &Path) -> io::Result<OwnedFd> {
    let at = path(at)?;
    bpf(Command::Get, &mut Object { path: at.as_ptr() as u64, fd: 0, flags: 0 }).and_then(owned)
}

#[repr(C)]
struct Ask {
    fd: u32,
    length: u32,
    info: u64,
}

/// What the kernel tells of an object: the first bytes of it, zeroes where it is older.
///
/// # Safety
/// `T` is the beginning of the info of that kind of object, and made of integers.
pub(crate) unsafe fn info<T>(object: &impl AsFd) -> io::Result<T> {
    // SAFETY: `T` is made of integers.
    let mut told: T = unsafe { zeroed() };
    let length = u32::try_from(size_of::<T>()).unwrap_or(0);
    let ask = &mut Ask { fd: number(object), length, info: std::ptr::from_mut(&mut told) as u64 };
    bpf(Command::Info, ask)?;
    Ok(told)
}

/// `BPF_XDP` of `enum bpf_attach_type`.
pub(crate) const XDP: u32 = 37;

#[repr(C)]
struct Attach {
    program: u32,
    target: u32,
    kind: u32,
    flags: u32,
}

/// Attaches a program to a cgroup (a descriptor) or a device (its index); it stays while the link is held or pinned.
pub(crate) fn attach(program: &OwnedFd, target: u32, kind: u32) -> io::Result<OwnedFd> {
    // Of a device, the driver's own mode or none (`XDP_FLAGS_DRV_MODE` of linux/if_link.h).
    let flags = if kind == XDP { 1 << 2 } else { 0 };
    bpf(Command::LinkCreate, &mut Attach { program: number(program), target, kind, flags }).and_then(owned)
}

/// Puts another program into a link: no packet meets none.
pub(crate) fn replace(link: &OwnedFd, program: &OwnedFd) -> io::Result<()> {
    let mut attributes = Attach { program: number(link), target: number(program), kind: 0, flags: 0 };
    bpf(Command::LinkUpdate, &mut attributes).map(drop)
}

/// Takes a link's program off at once; when the last file and descriptor of a link go, that is some time later.
pub(crate) fn detach(link: &OwnedFd) -> io::Result<()> {
    bpf(Command::LinkDetach, &mut number(link)).map(drop)
}
