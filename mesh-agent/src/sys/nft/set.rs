//! Sets and maps.

use super::{Family, c, table::Table};
use nftnl::{MsgType, NlMsg};
use nftnl_sys::{self as sys, libc};
use std::ffi::{c_char, c_void};

/// Types of keys and data, as `nft` numbers them, so that `nft list ruleset` can print them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// An IPv4 address, 4 bytes.
    Ipv4,
    /// An IPv6 address, 16 bytes.
    Ipv6,
    /// A MAC address, 6 bytes.
    Ether,
    /// `IPPROTO_*`, 1 byte.
    Protocol,
    /// A port, 2 bytes in network order.
    Port,
    /// Any 32-bit number in the host's order. Not `nft`'s `integer`, which crashes the `nft list` of Debian 12.
    Mark,
}

impl Kind {
    fn number(self) -> u32 {
        match self {
            Kind::Ipv4 => 7,
            Kind::Ipv6 => 8,
            Kind::Ether => 9,
            Kind::Protocol => 12,
            Kind::Port => 13,
            Kind::Mark => 19,
        }
    }

    /// Bytes of its value, without the padding to whole registers.
    fn len(self) -> u8 {
        match self {
            Kind::Ipv4 | Kind::Mark => 4,
            Kind::Ipv6 => 16,
            Kind::Ether => 6,
            Kind::Protocol => 1,
            Kind::Port => 2,
        }
    }

    /// Bytes it takes in a concatenation: whole registers.
    fn padded(self) -> u32 {
        u32::from(self.len()).next_multiple_of(4)
    }
}

/// The type number of a concatenation, 6 bits a field, and its length in bytes.
fn typed(kinds: &[Kind]) -> (u32, u32) {
    let number = kinds.iter().fold(0, |number, kind| number << 6 | kind.number());
    match kinds {
        [one] => (number, u32::from(one.len())),
        many => (number, many.iter().map(|k| k.padded()).sum()),
    }
}

/// The bytes of a concatenation: each field padded with zeros to whole registers.
#[must_use]
pub fn concat(fields: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(32);
    for field in fields {
        bytes.extend_from_slice(field);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

/// What a set holds beside its keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Holds {
    /// Nothing.
    Keys,
    /// Data of these types.
    Data(&'static [Kind]),
    /// Verdicts.
    Verdicts,
}

/// A set or map of a table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Set {
    /// Its name.
    pub name: String,
    /// The fields of its keys.
    pub key: &'static [Kind],
    /// What it maps to.
    pub holds: Holds,
    /// Whether keys are ranges, field by field.
    pub ranges: bool,
    /// Whether elements may end by themselves.
    pub timeouts: bool,
    /// Whether rules put elements into it.
    pub dynamic: bool,
    /// Whether every element counts the packets that it matches.
    pub counts: bool,
}

impl Set {
    /// A set of exact keys.
    #[must_use]
    pub fn new(name: &str, key: &'static [Kind], holds: Holds) -> Set {
        let name = name.to_owned();
        Set { name, key, holds, ranges: false, timeouts: false, dynamic: false, counts: false }
    }

    /// What `nft` keeps in a set's user data so that it prints its numbers right: the byte order of keys (type 0) and
    /// data (type 1), 1 for the host's and 2 for big endian.
    fn byte_orders(&self) -> Vec<u8> {
        let order = |kinds: &[Kind]| if matches!(kinds, [Kind::Mark]) { 1_u32 } else { 2 };
        let mut orders = [&[0, 4], order(self.key).to_ne_bytes().as_slice()].concat();
        if let Holds::Data(kinds) = self.holds {
            orders.extend([1, 4]);
            orders.extend(order(kinds).to_ne_bytes());
        }
        orders
    }

    fn flags(&self) -> u32 {
        let flags = [
            (self.ranges, libc::NFT_SET_INTERVAL),
            // NFT_SET_CONCAT (0x80): ranges in each field of a concatenation.
            (self.ranges && self.key.len() > 1, 0x80),
            (self.holds != Holds::Keys, libc::NFT_SET_MAP),
            (self.timeouts, libc::NFT_SET_TIMEOUT),
            (self.dynamic, libc::NFT_SET_EVAL),
        ];
        flags.iter().filter(|(on, _)| *on).fold(0, |all, (_, flag)| all | flag.unsigned_abs())
    }
}

/// The message that makes or deletes a set.
pub(super) struct SetMessage<'a> {
    pub(super) table: &'a Table,
    pub(super) set: &'a Set,
    /// Tells the sets of one transaction apart.
    pub(super) id: u32,
}

// SAFETY: writes one message made by libnftnl, which fits the buffer that `Batch` gives.
unsafe impl NlMsg for SetMessage<'_> {
    #[expect(clippy::cast_possible_truncation, reason = "attribute and message numbers are small constants")]
    unsafe fn write(&self, buffer: *mut c_void, sequence: u32, what: MsgType) {
        // SAFETY: libnftnl copies what it is given, and the set is freed at the end.
        unsafe {
            let set = raw(self.table, &self.set.name);
            let put = |attribute: u32, value| sys::nftnl_set_set_u32(set, attribute as u16, value);
            put(sys::NFTNL_SET_ID, self.id);
            let kind = match what {
                MsgType::Add => {
                    let (key, len) = typed(self.set.key);
                    put(sys::NFTNL_SET_FLAGS, self.set.flags());
                    put(sys::NFTNL_SET_KEY_TYPE, key);
                    put(sys::NFTNL_SET_KEY_LEN, len);
                    match self.set.holds {
                        Holds::Keys => {}
                        Holds::Data(kinds) => {
                            let (data, len) = typed(kinds);
                            put(sys::NFTNL_SET_DATA_TYPE, data);
                            put(sys::NFTNL_SET_DATA_LEN, len);
                        }
                        Holds::Verdicts => put(sys::NFTNL_SET_DATA_TYPE, 0xffff_ff00),
                    }
                    let order = self.set.byte_orders();
                    let len = u32::try_from(order.len()).unwrap_or(0);
                    let attribute = sys::NFTNL_SET_USERDATA as u16;
                    sys::nftnl_set_set_data(set, attribute, order.as_ptr().cast(), len);
                    if self.set.ranges && self.set.key.len() > 1 {
                        let lens: Vec<u8> = self.set.key.iter().map(|k| k.len()).collect();
                        let count = u32::try_from(lens.len()).unwrap_or(0);
                        let attribute = sys::NFTNL_SET_DESC_CONCAT as u16;
                        sys::nftnl_set_set_data(set, attribute, lens.as_ptr().cast(), count);
                    }
                    if self.set.counts {
                        sys::nftnl_set_add_expr(set, super::expr::Expr::counter(0, 0).raw().as_ptr());
                    }
                    libc::NFT_MSG_NEWSET
                }
                MsgType::Del => libc::NFT_MSG_DELSET,
            };
            let flags = (libc::NLM_F_CREATE | libc::NLM_F_ACK) as u16;
            let header = header(buffer, kind, self.table.family, flags, sequence);
            sys::nftnl_set_nlmsg_build_payload(header, set);
            sys::nftnl_set_free(set);
        }
    }
}

/// libnftnl's set of that name; the caller frees it.
pub(super) fn raw(table: &Table, name: &str) -> *mut sys::nftnl_set {
    // SAFETY: libnftnl copies the names; an allocation that failed ends the process as any other does.
    #[expect(clippy::cast_possible_truncation, reason = "attribute numbers are small constants")]
    unsafe {
        let set = sys::nftnl_set_alloc();
        if set.is_null() {
            std::alloc::handle_alloc_error(std::alloc::Layout::new::<Set>());
        }
        sys::nftnl_set_set_u32(set, sys::NFTNL_SET_FAMILY as u16, u32::from(table.family.raw()));
        sys::nftnl_set_set_str(set, sys::NFTNL_SET_TABLE as u16, c(&table.name).as_ptr());
        sys::nftnl_set_set_str(set, sys::NFTNL_SET_NAME as u16, c(name).as_ptr());
        set
    }
}

/// Begins a message in `buffer`.
///
/// # Safety
/// `buffer` has room for a message.
pub(super) unsafe fn header(
    buffer: *mut c_void,
    kind: libc::c_int,
    family: Family,
    flags: u16,
    sequence: u32,
) -> *mut libc::nlmsghdr {
    let kind = u16::try_from(kind).unwrap_or(0);
    // SAFETY: as the caller promises.
    unsafe { sys::nftnl_nlmsg_build_hdr(buffer.cast::<c_char>(), kind, family.raw(), flags, sequence) }
}
