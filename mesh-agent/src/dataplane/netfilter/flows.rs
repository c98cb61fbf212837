//! What becomes of flows when their backend or frontend changes: TCP connections are marked, and both sides get a reset
//! with their next packet; UDP flows are forgotten, so that the next datagram begins a new one.

use super::{layout::number, names::RESET};
use crate::{
    plan::{Backend, BackendId, BackendState, Entry, FrontendKey, Listen, Table},
    sys::conntrack::{self, Conntrack, Filter, FlowEntry, Masked, TcpState, status},
};
use mesh_control::model::{Family, Protocol, ServiceKey};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    net::IpAddr,
};

/// The flows of one frontend that have to end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::dataplane) struct Cut {
    pub(in crate::dataplane) frontend: FrontendKey,
    pub(in crate::dataplane) service: ServiceKey,
    /// Those to this backend; without, all datagrams, also those from before the frontend was there.
    pub(in crate::dataplane) backend: Option<Backend>,
}

/// What has to end at once, and what later, by deadline (Unix ms).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(in crate::dataplane) struct Cuts {
    pub(in crate::dataplane) now: Vec<Cut>,
    pub(in crate::dataplane) later: Vec<(u64, Cut)>,
}

impl Cuts {
    /// Takes out what cannot wait: a datagram that comes after a change must not go to who is gone, a connection may hear
    /// of it a little later.
    pub(in crate::dataplane) fn take_datagrams(&mut self) -> Vec<Cut> {
        let (tcp, udp) = self.now.drain(..).partition(|cut| cut.frontend.protocol == Protocol::Tcp);
        self.now = tcp;
        udp
    }
}

/// What follows for flows from a change of the table.
pub(in crate::dataplane) fn cuts(before: &Table, after: &Table, touched: &BTreeSet<FrontendKey>) -> Cuts {
    let mut cuts = Cuts::default();
    for key in touched {
        match (before.get(key), after.get(key)) {
            (Some(old), Some(new)) => between(&mut cuts, old, new),
            (Some(old), None) => cuts.now.extend(old.backends.iter().map(|b| of(old, b))),
            // Datagrams that came before the frontend was there have a flow past it.
            (None, Some(new)) => {
                if key.protocol == Protocol::Udp {
                    cuts.now.push(all(new));
                }
                deadlines(&mut cuts, new);
            }
            (None, None) => {}
        }
    }
    cuts
}

fn all(entry: &Entry) -> Cut {
    Cut { frontend: entry.frontend.key, service: entry.frontend.service.clone(), backend: None }
}

fn of(entry: &Entry, backend: &Backend) -> Cut {
    Cut { backend: Some(backend.clone()), ..all(entry) }
}

fn between(cuts: &mut Cuts, old: &Entry, new: &Entry) {
    let udp = new.frontend.key.protocol == Protocol::Udp;
    for backend in old.backends.iter() {
        let now = new.backends.iter().find(|b| b.id == backend.id);
        let moved = now.is_none_or(|b| (b.address, b.port) != (backend.address, backend.port));
        let down =
            udp && now.is_some_and(|b| b.state == BackendState::Down) && backend.state != BackendState::Down;
        if moved || down {
            cuts.now.push(of(old, backend));
        }
    }
    deadlines(cuts, new);
}

/// The deadlines of an entry.
pub(in crate::dataplane) fn deadlines(cuts: &mut Cuts, entry: &Entry) {
    for backend in entry.backends.iter() {
        if let BackendState::Draining { deadline: Some(at) } = backend.state {
            cuts.later.push((at, of(entry, backend)));
        }
    }
}

/// Whether a cut that was planned for a deadline still stands: the backend may have come back, or got more time.
pub(in crate::dataplane) fn stands(table: &Table, at: u64, cut: &Cut) -> bool {
    let held = table.get(&cut.frontend).zip(cut.backend.as_ref());
    held.is_some_and(|(entry, backend)| {
        let due = BackendState::Draining { deadline: Some(at) };
        entry.backends.iter().any(|b| b.id == backend.id && b.state == due)
    })
}

/// Whether what was to be cut because it was gone is there again, at the same place: then its old flows are as good.
pub(in crate::dataplane) fn is_back(table: &Table, cut: &Cut) -> bool {
    let held = table.get(&cut.frontend).zip(cut.backend.as_ref());
    held.is_some_and(|(entry, backend)| {
        let same = |b: &Backend| (&b.id, b.address, b.port) == (&backend.id, backend.address, backend.port);
        entry.backends.iter().any(same)
    })
}

/// What tells flows that nf_tables translated; IPVS leaves no such sign.
pub(in crate::dataplane) const TRANSLATED: Option<Masked> =
    Some(Masked { value: status::DST_NAT, mask: status::DST_NAT });

/// Ends flows; how many of each backend of a service. Those of a backend all have `status`.
pub(in crate::dataplane) fn cut(
    conntrack: &mut Conntrack,
    cuts: &[Cut],
    status: Option<Masked>,
) -> io::Result<BTreeMap<(ServiceKey, BackendId, Protocol), u64>> {
    let mut ended = BTreeMap::new();
    if cuts.is_empty() {
        return Ok(ended);
    }
    let wanted = Wanted::new(cuts, status);
    let mut flows = Vec::new();
    conntrack.for_each(&wanted.filter, |flow| {
        if let Some(cut) = wanted.find(&flow) {
            flows.push((cut, flow));
        }
    })?;
    for (cut, flow) in flows {
        let tcp = cut.frontend.protocol == Protocol::Tcp;
        let gone = match tcp {
            true if over(&flow) => false,
            true => conntrack.set_mark(&flow, RESET, u32::MAX)?,
            false => conntrack.delete(&flow)?,
        };
        if let (true, Some(backend)) = (gone, &cut.backend) {
            let key = (cut.service.clone(), backend.id.clone(), cut.frontend.protocol);
            *ended.entry(key).or_default() += 1;
        }
    }
    Ok(ended)
}

/// Forgets flows, whatever their protocol.
pub(in crate::dataplane) fn forget(
    conntrack: &mut Conntrack,
    cuts: &[Cut],
    status: Option<Masked>,
) -> io::Result<()> {
    if cuts.is_empty() {
        return Ok(());
    }
    let wanted = Wanted::new(cuts, status);
    let mut flows = Vec::new();
    conntrack.for_each(&wanted.filter, |flow| flows.extend(wanted.find(&flow).map(|_| flow)))?;
    for flow in flows {
        conntrack.delete(&flow)?;
    }
    Ok(())
}

/// Whether a connection is at its end anyway.
pub(in crate::dataplane) fn over(flow: &FlowEntry) -> bool {
    matches!(flow.tcp, Some(TcpState::TimeWait | TcpState::Close))
}

/// Finds the cut that a flow meets.
struct Wanted<'a> {
    exact: HashMap<(u8, IpAddr, u16), Vec<&'a Cut>>,
    any: HashMap<(u8, Family, u16), Vec<&'a Cut>>,
    /// What the kernel may leave out of the list.
    filter: Filter,
}

/// What is common to all cuts, so that the kernel need not tell of other flows.
fn filter(cuts: &[Cut], status: Option<Masked>) -> Filter {
    fn common<T: PartialEq>(mut of: impl Iterator<Item = T>) -> Option<T> {
        let first = of.next()?;
        of.all(|other| other == first).then_some(first)
    }
    let backends = || cuts.iter().map(|cut| cut.backend.as_ref().map(|backend| backend.address));
    let family = common(cuts.iter().map(|cut| cut.frontend.listen.family()));
    let family = family.map(|family| match family {
        Family::V4 => conntrack::Family::V4,
        Family::V6 => conntrack::Family::V6,
    });
    Filter {
        family,
        proto: common(cuts.iter().map(|cut| number(cut.frontend.protocol))),
        reply: conntrack::Side { src: common(backends()).flatten(), ..conntrack::Side::default() },
        status: status.filter(|_| backends().all(|b| b.is_some())),
        ..Filter::default()
    }
}

impl<'a> Wanted<'a> {
    fn new(cuts: &'a [Cut], status: Option<Masked>) -> Wanted<'a> {
        let mut wanted = Wanted { exact: HashMap::new(), any: HashMap::new(), filter: filter(cuts, status) };
        for cut in cuts {
            let FrontendKey { listen, ports, protocol } = cut.frontend;
            let protocol = number(protocol);
            for port in ports.iter() {
                match listen {
                    Listen::Vip(a) | Listen::Address(a) => {
                        wanted.exact.entry((protocol, a, port)).or_default().push(cut);
                    }
                    Listen::AnyLocal(family) => {
                        wanted.any.entry((protocol, family, port)).or_default().push(cut);
                    }
                }
            }
        }
        wanted
    }

    fn find(&self, flow: &FlowEntry) -> Option<&'a Cut> {
        let (to, proto) = (flow.original.dst, flow.original.proto);
        let exact = self.exact.get(&(proto, to, flow.original.dport));
        let any = self.any.get(&(proto, Family::of(&to), flow.original.dport));
        let meets = |cut: &&&'a Cut| match &cut.backend {
            None => true,
            Some(backend) => {
                let offset = flow.original.dport.saturating_sub(cut.frontend.ports.first());
                leads_to(flow, backend, offset)
            }
        };
        exact.into_iter().chain(any).flatten().find(meets).copied()
    }
}

/// Whether a flow goes to that port of a backend.
pub(in crate::dataplane) fn leads_to(flow: &FlowEntry, backend: &Backend, offset: u16) -> bool {
    let (dialled, answers) = (&flow.original, &flow.reply);
    (dialled.dst, dialled.dport) != (answers.src, answers.sport)
        && flow.reply.src == backend.address
        && flow.reply.sport == backend.port.saturating_add(offset)
}
