//! The flows that the kernel tracks (ctnetlink: uapi `linux/netfilter/nfnetlink_conntrack.h`): list, mark, shorten, delete.
//!
//! Calls block, though only as long as the kernel works: call them on a thread that may. Each touches one network
//! namespace, the one in which the socket was opened.

mod entry;
mod filter;
#[cfg(test)]
mod tests;

pub use entry::{Counters, FlowEntry, TcpState, Tuple, status};
pub use filter::{Family, Filter, Masked, Side};

use super::nfnetlink::{ACK, Channel, DUMP, REQUEST, Request, malformed};
use entry::{CTA_ID, CTA_MARK, CTA_TIMEOUT};
use std::io;

/// `NFNL_SUBSYS_CTNETLINK`
const SUBSYSTEM: u16 = 1;
// `IPCTNL_MSG_CT_*`
const NEW: u16 = 0;
const GET: u16 = 1;
const DELETE: u16 = 2;
const GET_STATS: u16 = 5;
const CTA_MARK_MASK: u16 = 21;

/// How full the table is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Usage {
    /// Entries of this network namespace.
    pub entries: u32,
    /// `net.netfilter.nf_conntrack_max`; 0 is no limit.
    pub max: u32,
}

/// A socket to the connection tracking of one network namespace.
pub struct Conntrack {
    channel: Channel,
}

impl std::fmt::Debug for Conntrack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Conntrack").finish_non_exhaustive()
    }
}

impl Conntrack {
    /// Opens one in the calling thread's network namespace.
    ///
    /// # Errors
    /// What the kernel says; `EPROTONOSUPPORT` when it has no netfilter. Requests then need `CAP_NET_ADMIN` there.
    pub fn open() -> io::Result<Conntrack> {
        Channel::open().map(|channel| Conntrack { channel })
    }

    /// Calls `each` for every flow that is meant, as the kernel lists them, a datagram at a time. One that comes or goes
    /// meanwhile may be told or not; while the kernel resizes its table one may be told twice.
    ///
    /// # Errors
    /// What the kernel says; `EINVAL` also when it has no conntrack.
    pub fn for_each(&mut self, filter: &Filter, mut each: impl FnMut(FlowEntry)) -> io::Result<()> {
        let Some(family) = filter.family() else { return Ok(()) };
        let mut request = Request::new(SUBSYSTEM, GET, REQUEST | DUMP, family);
        filter.write(&mut request);
        self.channel.ask(request, |_, attributes| {
            if let Some(flow) = FlowEntry::read(attributes).filter(|flow| filter.matches(flow)) {
                each(flow);
            }
        })
    }

    /// The flows that are meant; at most as many as the table holds ([`Usage::max`]).
    ///
    /// # Errors
    /// As [`Conntrack::for_each`].
    pub fn flows(&mut self, filter: &Filter) -> io::Result<Vec<FlowEntry>> {
        let mut flows = Vec::new();
        self.for_each(filter, |flow| flows.push(flow))?;
        Ok(flows)
    }

    /// Deletes exactly this entry, told by both tuples and the id: not one that goes to another backend since. `false`
    /// when it is gone already.
    ///
    /// # Errors
    /// What the kernel says; `EBUSY` of a flow that is offloaded.
    pub fn delete(&mut self, flow: &FlowEntry) -> io::Result<bool> {
        let mut request = Request::new(SUBSYSTEM, DELETE, REQUEST | ACK, flow.family());
        flow.write_key(&mut request);
        request.put_u32(CTA_ID, flow.id);
        known(self.channel.ask(request, |_, _| {}))
    }

    /// Deletes every flow that is meant; how many there were.
    ///
    /// # Errors
    /// As [`Conntrack::for_each`] and [`Conntrack::delete`]; those before the error are deleted.
    pub fn delete_all(&mut self, filter: &Filter) -> io::Result<usize> {
        let mut deleted = 0;
        for flow in self.flows(filter)? {
            deleted += usize::from(self.delete(&flow)?);
        }
        Ok(deleted)
    }

    /// Changes the bits under `mask` of the flow's mark to those of `mark`. `false` when the entry is gone.
    ///
    /// # Errors
    /// What the kernel says; `EINVAL` when `mark` has bits outside of `mask`, which the kernel would flip.
    pub fn set_mark(&mut self, flow: &FlowEntry, mark: u32, mask: u32) -> io::Result<bool> {
        if mark & !mask != 0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("mark {mark:#x} is wider than its mask {mask:#x}"),
            ));
        }
        self.change(flow, |request| {
            request.put_u32(CTA_MARK, mark);
            request.put_u32(CTA_MARK_MASK, mask);
        })
    }

    /// Lets the flow be forgotten in `seconds` unless another packet comes. `false` when the entry is gone.
    ///
    /// # Errors
    /// What the kernel says; `EPERM` of a flow whose time is fixed.
    pub fn set_timeout(&mut self, flow: &FlowEntry, seconds: u32) -> io::Result<bool> {
        self.change(flow, |request| request.put_u32(CTA_TIMEOUT, seconds))
    }

    /// How full the table is.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn usage(&mut self) -> io::Result<Usage> {
        let mut usage = None;
        self.channel.ask(Request::new(SUBSYSTEM, GET_STATS, REQUEST | ACK, 0), |_, attributes| {
            // CTA_STATS_GLOBAL_ENTRIES and CTA_STATS_GLOBAL_MAX_ENTRIES; the latter came with 5.3.
            let figure = |kind| { attributes }.find(|(k, _)| *k == kind).and_then(|(_, v)| v.u32());
            usage = figure(1).map(|entries| Usage { entries, max: figure(2).unwrap_or(0) });
        })?;
        usage.ok_or_else(malformed)
    }

    /// The kernel compares no id when it changes an entry, so it is read first. A flow that takes the tuple in between
    /// would be changed in its stead.
    fn change(&mut self, flow: &FlowEntry, fill: impl FnOnce(&mut Request)) -> io::Result<bool> {
        let mut request = Request::new(SUBSYSTEM, GET, REQUEST | ACK, flow.family());
        flow.write_key(&mut request);
        let mut found = None;
        let there = known(self.channel.ask(request, |_, attributes| found = FlowEntry::read(attributes)))?;
        if !there || found.is_none_or(|found| found.id != flow.id) {
            return Ok(false);
        }
        let mut request = Request::new(SUBSYSTEM, NEW, REQUEST | ACK, flow.family());
        flow.write_key(&mut request);
        fill(&mut request);
        known(self.channel.ask(request, |_, _| {}))
    }
}

/// "No such entry" is an answer.
fn known(answer: io::Result<()>) -> io::Result<bool> {
    match answer {
        Ok(()) => Ok(true),
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(e) => Err(e),
    }
}
