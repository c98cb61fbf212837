//! Objects of a table that rules name: for how long flows may be idle (`ct timeout` of nft(8)).

use super::table::Table;
use crate::sys::nfnetlink::{ACK, CREATE, REQUEST, Request};
use nftnl::{MsgType, NlMsg};
use nftnl_sys::libc;
use std::ffi::c_void;

// uapi `linux/netfilter/nf_tables.h`: messages, attributes, and the type of object.
const NEW: u16 = 18;
const DELETE: u16 = 20;
const TABLE: u16 = 1;
const NAME: u16 = 2;
const TYPE: u16 = 3;
const DATA: u16 = 4;
const L4_PROTOCOL: u16 = 2;
const POLICY: u16 = 3;
pub(super) const CT_TIMEOUT: u32 = 7;
// uapi `linux/netfilter/nfnetlink_cttimeout.h`: of TCP, CTA_TIMEOUT_TCP_ESTABLISHED; of UDP, before and after an answer.
const ESTABLISHED: u16 = 3;
const UNREPLIED: u16 = 1;
const REPLIED: u16 = 2;

/// How long a flow of one protocol may be idle.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FlowTimeout {
    /// Its name.
    pub name: String,
    /// `IPPROTO_TCP` or `IPPROTO_UDP`.
    pub protocol: u8,
    /// After so long: of TCP, an established connection; of UDP, any flow.
    pub seconds: u32,
}

/// The message that makes or deletes one.
pub(super) struct FlowTimeoutMessage<'a> {
    pub(super) table: &'a Table,
    pub(super) timeout: &'a FlowTimeout,
}

impl FlowTimeoutMessage<'_> {
    fn request(&self, what: &MsgType) -> Request {
        let subsystem = u16::try_from(libc::NFNL_SUBSYS_NFTABLES).unwrap_or(0);
        let family = u8::try_from(self.table.family.raw()).unwrap_or(0);
        let (kind, flags) = match what {
            MsgType::Add => (NEW, REQUEST | CREATE | ACK),
            MsgType::Del => (DELETE, REQUEST | ACK),
        };
        let mut request = Request::new(subsystem, kind, flags, family);
        let text = |text: &str| [text.as_bytes(), &[0]].concat();
        request.put(TABLE, &text(&self.table.name));
        request.put(NAME, &text(&self.timeout.name));
        request.put_u32(TYPE, CT_TIMEOUT);
        if let MsgType::Add = what {
            let policy: &[u16] = match self.timeout.protocol {
                6 => &[ESTABLISHED],
                _ => &[UNREPLIED, REPLIED],
            };
            request.nest(DATA, |data| {
                data.put(L4_PROTOCOL, &[self.timeout.protocol]);
                data.nest(POLICY, |nested| {
                    policy.iter().for_each(|state| nested.put_u32(*state, self.timeout.seconds));
                });
            });
        }
        request
    }
}

// SAFETY: writes one message of a few hundred bytes, which fits the buffer that `Batch` gives: names have at most 255.
unsafe impl NlMsg for FlowTimeoutMessage<'_> {
    unsafe fn write(&self, buffer: *mut c_void, sequence: u32, what: MsgType) {
        let mut request = self.request(&what);
        let bytes = request.finish(sequence);
        // SAFETY: as above; the two do not overlap.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), buffer.cast(), bytes.len()) };
    }
}
