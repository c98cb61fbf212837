//! Elements of sets and maps.

use super::{c, expr::Expr, set, table::Table};
use nftnl::{MsgType, NlMsg};
use nftnl_sys::{self as sys, libc};
use std::{
    cell::Cell,
    ffi::{CStr, c_char, c_int, c_void},
    slice,
};

/// What a map holds for a key.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Data {
    /// Bytes, padded like keys.
    Bytes(Vec<u8>),
    /// Go on in this chain.
    Goto(String),
}

/// What an element's counter says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Count {
    /// Packets that matched; in a NAT chain, flows.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// One element.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Element {
    /// Its key; of a range, the least.
    pub key: Vec<u8>,
    /// The greatest key of a range.
    pub key_end: Option<Vec<u8>>,
    /// What the map holds.
    pub data: Option<Data>,
    /// Bytes that the kernel keeps for us, at most 253.
    pub note: Vec<u8>,
    /// Its counter, where it has one; written, the count begins there.
    pub count: Option<Count>,
}

/// The type of our user data in `NFTA_SET_ELEM_USERDATA`, a list of (type, length, bytes) that `nft` reads too; it
/// passes over types it does not know.
const NOTE: u8 = 0x4d;

#[expect(clippy::cast_possible_truncation, reason = "attribute numbers are small constants")]
const fn attr(number: u32) -> u16 {
    number as u16
}

fn put(element: *mut sys::nftnl_set_elem, attribute: u32, bytes: &[u8]) {
    let len = u32::try_from(bytes.len()).unwrap_or(0);
    // SAFETY: libnftnl copies `len` bytes.
    unsafe { sys::nftnl_set_elem_set(element, attr(attribute), bytes.as_ptr().cast(), len) };
}

fn get<'a>(element: *mut sys::nftnl_set_elem, attribute: u32) -> Option<&'a [u8]> {
    let mut len = 0;
    // SAFETY: libnftnl gives a pointer to `len` bytes that live as long as the element.
    unsafe {
        if !sys::nftnl_set_elem_is_set(element, attr(attribute)) {
            return None;
        }
        let bytes: *const u8 = sys::nftnl_set_elem_get(element, attr(attribute), &raw mut len).cast();
        if bytes.is_null() {
            return None;
        }
        Some(slice::from_raw_parts(bytes, usize::try_from(len).unwrap_or(0)))
    }
}

impl Element {
    /// Adds libnftnl's form to a set; without data for a deletion.
    fn add_to(&self, set: *mut sys::nftnl_set, whole: bool) {
        // SAFETY: libnftnl copies what it is given; the set owns the element.
        unsafe {
            let element = sys::nftnl_set_elem_alloc();
            if element.is_null() {
                std::alloc::handle_alloc_error(std::alloc::Layout::new::<Element>());
            }
            put(element, sys::NFTNL_SET_ELEM_KEY, &self.key);
            if let Some(end) = &self.key_end {
                put(element, sys::NFTNL_SET_ELEM_KEY_END, end);
            }
            if whole {
                match &self.data {
                    None => {}
                    Some(Data::Bytes(bytes)) => put(element, sys::NFTNL_SET_ELEM_DATA, bytes),
                    Some(Data::Goto(chain)) => {
                        let verdict = libc::NFT_GOTO.cast_unsigned();
                        sys::nftnl_set_elem_set_u32(element, attr(sys::NFTNL_SET_ELEM_VERDICT), verdict);
                        let chain = c(chain);
                        sys::nftnl_set_elem_set_str(element, attr(sys::NFTNL_SET_ELEM_CHAIN), chain.as_ptr());
                    }
                }
                if let (false, Ok(len)) = (self.note.is_empty(), u8::try_from(self.note.len())) {
                    let note = [&[NOTE, len], self.note.as_slice()].concat();
                    put(element, sys::NFTNL_SET_ELEM_USERDATA, &note);
                }
                if let Some(count) = self.count {
                    let counter = Expr::counter(count.packets, count.bytes).raw();
                    sys::nftnl_set_elem_add_expr(element, counter.as_ptr());
                }
            }
            sys::nftnl_set_elem_add(set, element);
        }
    }

    fn read(element: *mut sys::nftnl_set_elem) -> Element {
        let owned = |attribute| get(element, attribute).map(<[u8]>::to_vec);
        // SAFETY: the name lives as long as the element.
        let chain = unsafe {
            let name = sys::nftnl_set_elem_get_str(element, attr(sys::NFTNL_SET_ELEM_CHAIN));
            (!name.is_null()).then(|| CStr::from_ptr(name).to_string_lossy().into_owned())
        };
        let data = match chain {
            Some(chain) => Some(Data::Goto(chain)),
            None => owned(sys::NFTNL_SET_ELEM_DATA).map(Data::Bytes),
        };
        let mut count = None;
        let into: *mut Option<Count> = &raw mut count;
        // SAFETY: the callback gets the pointer back while `count` lives.
        unsafe { sys::nftnl_set_elem_expr_foreach(element, Some(read_counter), into.cast()) };
        Element {
            key: owned(sys::NFTNL_SET_ELEM_KEY).unwrap_or_default(),
            key_end: owned(sys::NFTNL_SET_ELEM_KEY_END),
            data,
            note: get(element, sys::NFTNL_SET_ELEM_USERDATA).map(note).unwrap_or_default(),
            count,
        }
    }
}

/// Our part of an element's user data.
fn note(mut bytes: &[u8]) -> Vec<u8> {
    while let [kind, len, rest @ ..] = bytes {
        let Some((value, rest)) = rest.split_at_checked(usize::from(*len)) else { break };
        if *kind == NOTE {
            return value.to_vec();
        }
        bytes = rest;
    }
    Vec::new()
}

extern "C" fn read_counter(expr: *mut sys::nftnl_expr, into: *mut c_void) -> c_int {
    // SAFETY: `into` is the `Option<Count>` of `Element::read`; the expression is libnftnl's.
    unsafe {
        let name = sys::nftnl_expr_get_str(expr, attr(sys::NFTNL_EXPR_NAME));
        if !name.is_null() && CStr::from_ptr(name) == c"counter" {
            *into.cast::<Option<Count>>() = Some(Count {
                packets: sys::nftnl_expr_get_u64(expr, attr(sys::NFTNL_EXPR_CTR_PACKETS)),
                bytes: sys::nftnl_expr_get_u64(expr, attr(sys::NFTNL_EXPR_CTR_BYTES)),
            });
        }
    }
    0
}

/// Elements of one set on their way into a batch, split over as many messages as they need.
pub(super) struct Batchful<'a> {
    table: &'a Table,
    set: *mut sys::nftnl_set,
    iter: *mut sys::nftnl_set_elems_iter,
    more: Cell<bool>,
}

impl<'a> Batchful<'a> {
    pub(super) fn new<'e>(
        table: &'a Table,
        name: &str,
        elements: impl Iterator<Item = &'e Element>,
        whole: bool,
    ) -> Batchful<'a> {
        let set = set::raw(table, name);
        for element in elements {
            element.add_to(set, whole);
        }
        // SAFETY: the set lives as long as the iterator.
        let iter = unsafe { sys::nftnl_set_elems_iter_create(set) };
        if iter.is_null() {
            std::alloc::handle_alloc_error(std::alloc::Layout::new::<Element>());
        }
        // SAFETY: as above.
        let more = Cell::new(unsafe { !sys::nftnl_set_elems_iter_cur(iter).is_null() });
        Batchful { table, set, iter, more }
    }

    /// Whether there is something left to write.
    pub(super) fn more(&self) -> bool {
        self.more.get()
    }

    /// The request for exactly these elements (`whole` false), in a buffer of its own.
    pub(super) fn request(&self, buffer: &mut [u8], sequence: u32) -> usize {
        let flags = u16::try_from(libc::NLM_F_REQUEST | libc::NLM_F_ACK).unwrap_or(0);
        self.build(buffer.as_mut_ptr().cast(), libc::NFT_MSG_GETSETELEM, flags, sequence)
    }

    /// Writes one message; its length in bytes.
    fn build(&self, buffer: *mut c_void, kind: c_int, flags: u16, sequence: u32) -> usize {
        // SAFETY: callers give room for the longest message of libnftnl.
        unsafe {
            let header = set::header(buffer, kind, self.table.family, flags, sequence);
            let left = sys::nftnl_set_elems_nlmsg_build_payload_iter(header, self.iter);
            self.more.set(left > 0);
            usize::try_from((*header).nlmsg_len).unwrap_or(0)
        }
    }
}

// SAFETY: writes one message made by libnftnl, which fits the buffer that `Batch` gives.
unsafe impl NlMsg for Batchful<'_> {
    unsafe fn write(&self, buffer: *mut c_void, sequence: u32, what: MsgType) {
        let (kind, flags) = match what {
            MsgType::Add => (libc::NFT_MSG_NEWSETELEM, libc::NLM_F_CREATE | libc::NLM_F_ACK),
            MsgType::Del => (libc::NFT_MSG_DELSETELEM, libc::NLM_F_ACK),
        };
        self.build(buffer, kind, u16::try_from(flags).unwrap_or(0), sequence);
    }
}

impl Drop for Batchful<'_> {
    fn drop(&mut self) {
        // SAFETY: both were made in `new`, and nobody else has them.
        unsafe {
            sys::nftnl_set_elems_iter_destroy(self.iter);
            sys::nftnl_set_free(self.set);
        }
    }
}

/// The elements in a `NFT_MSG_NEWSETELEM` message; nothing when libnftnl does not understand it.
///
/// # Safety
/// `message` is a whole netlink message.
pub(super) unsafe fn read(message: *const c_char, mut each: &mut dyn FnMut(Element)) {
    // SAFETY: the set is made and freed here; the callback gets the pointer back while `each` lives.
    unsafe {
        let set = sys::nftnl_set_alloc();
        if set.is_null() {
            return;
        }
        if sys::nftnl_set_elems_nlmsg_parse(message.cast(), set) >= 0 {
            let each: *mut &mut dyn FnMut(Element) = &raw mut each;
            sys::nftnl_set_elem_foreach(set, Some(read_one), each.cast());
        }
        sys::nftnl_set_free(set);
    }
}

extern "C" fn read_one(element: *mut sys::nftnl_set_elem, each: *mut c_void) -> c_int {
    // SAFETY: `each` is the closure of `read`.
    unsafe { (*each.cast::<&mut dyn FnMut(Element)>())(Element::read(element)) };
    0
}
