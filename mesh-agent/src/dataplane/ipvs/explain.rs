//! Where a new flow would go, and which virtual service says so.

use super::{
    host::Ground,
    realize::{unsupported, virtual_of, virtuals},
    rules::{MARKS, TABLE},
    state::State,
};
use crate::{
    dataplane::{
        explain::{Candidate, Explanation, Flow},
        netfilter::explain::{address, find, reason},
    },
    plan::{BackendId, Entry},
    sys::ipvs::{Destination, Virtual},
};
use mesh_control::model::Scheduler;
use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    net::IpAddr,
};

/// The kernel's list of connections, and how much of it is read to find one client's.
const CONNECTIONS: &str = "/proc/thread-self/net/ip_vs_conn";
const MOST: u64 = 64 << 20;

/// An address as that list has it.
fn spelled(address: IpAddr) -> String {
    match address {
        IpAddr::V4(a) => format!("{:08X}", u32::from(a)),
        IpAddr::V6(a) => a.segments().map(|s| format!("{s:04x}")).join(":"),
    }
}

/// The reverse of [`spelled`].
fn unspelled(text: &str) -> Option<IpAddr> {
    match text.len() {
        8 => u32::from_str_radix(text, 16).ok().map(|bits| IpAddr::from(bits.to_be_bytes())),
        _ => text.parse().ok(),
    }
}

/// How the line begins that remembers a client of a virtual service: protocol, client, port 0, address and port.
fn template(of: &Virtual, client: IpAddr) -> [String; 5] {
    let port = |n: u16| format!("{n:04X}");
    let (protocol, address, at) = match of {
        Virtual::Address { at, protocol: 6 } => ("TCP", spelled(at.ip()), at.port()),
        Virtual::Address { at, .. } => ("UDP", spelled(at.ip()), at.port()),
        // The mark is where an address would begin.
        Virtual::Mark { mark, v6 } => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&mark.to_be_bytes());
            let address = if *v6 { IpAddr::from(bytes) } else { IpAddr::from(mark.to_be_bytes()) };
            ("IP", spelled(address), 0)
        }
    };
    [protocol.into(), spelled(client), port(0), address, port(at)]
}

/// Where the line of a list leads that begins so: address and port.
fn leads(line: &str, wanted: &[String; 5]) -> Option<(IpAddr, u16)> {
    let mut words = line.split_ascii_whitespace();
    let same = wanted.iter().all(|wanted| words.next() == Some(wanted));
    let (address, port) = (words.next()?, words.next()?);
    if !same {
        return None;
    }
    Some((unspelled(address)?, u16::from_str_radix(port, 16).ok()?))
}

/// Whom the kernel remembers for this client.
fn remembered(
    ground: &Ground,
    of: &Virtual,
    entry: &Entry,
    offset: u16,
    client: IpAddr,
) -> Option<BackendId> {
    let wanted = template(of, client);
    let found = ground.inside(|| {
        let mut list = BufReader::new(File::open(CONNECTIONS)?.take(MOST));
        let mut line = String::new();
        while list.read_line(&mut line)? > 0 {
            if let Some(found) = leads(&line, &wanted) {
                return Ok(Some(found));
            }
            line.clear();
        }
        io::Result::Ok(None)
    });
    let (address, port) = found.ok().flatten()?;
    // One that goes by a mark remembers no port.
    let meets =
        |b: &&crate::plan::Backend| b.address == address && (port == 0 || b.socket(offset).port() == port);
    entry.backends.iter().find(meets).map(|b| b.id.clone())
}

pub(super) fn explain(ground: &Ground, state: &State, schedulers: &[Scheduler], flow: &Flow) -> Explanation {
    let found = find(&state.table, flow).filter(|entry| unsupported(&entry.frontend, schedulers).is_none());
    let Some(entry) = found else {
        let (frontend, service, affinity) = (None, None, None);
        return Explanation { frontend, service, candidates: Vec::new(), affinity, objects: Vec::new() };
    };
    let (key, frontend) = (entry.frontend.key, &entry.frontend);
    let port = flow.destination.port();
    let offset = port.saturating_sub(key.ports.first());
    let (of, mark) = virtual_of(frontend, port, state.numbers.address(&key));
    let allow = &frontend.allow;
    let denied = flow.client.is_some_and(|c| !allow.is_empty() && !allow.iter().any(|n| n.contains(c)));
    let client = flow.client.filter(|_| frontend.affinity.is_some());
    let affinity = client.and_then(|client| remembered(ground, &of, entry, offset, client));
    let takes = |id: &BackendId| entry.backends.iter().any(|b| b.id == *id && b.takes_new_flows());
    let bound = affinity.as_ref().filter(|id| takes(id));
    let even = frontend.scheduler == Scheduler::Rr;
    let weigh = |weight: u16| if even { 1.0 } else { f64::from(weight) };
    let all: f64 = entry.backends.iter().filter(|b| b.takes_new_flows()).map(|b| weigh(b.weight)).sum();
    let candidates = entry.backends.iter().map(|backend| Candidate {
        backend: backend.id.clone(),
        address: backend.socket(offset),
        probability: match (denied, bound) {
            (true, _) => 0.0,
            (_, Some(id)) => f64::from(u8::from(backend.id == *id)),
            _ if backend.takes_new_flows() => weigh(backend.weight) / all,
            _ => 0.0,
        },
        excluded: reason(backend, denied),
    });
    let mut objects = Vec::new();
    for (_, of) in virtuals(frontend, &state.numbers).filter(|(place, _)| *place == offset) {
        let Some(program) = state.programs.get(&of) else { continue };
        objects.push(format!("ipvs {of} {}", program.service.scheduler));
        for (at, destination) in &program.destinations {
            let to = if destination.forward == Destination::ROUTE { "the node " } else { "" };
            objects.push(format!("ipvs {of} -> {to}{at} weight {}", destination.weight));
        }
    }
    let family = if of.is_ipv6() { "ip6" } else { "ip" };
    let (address, protocol) = (address(&key.listen), key.protocol);
    objects
        .push(format!("{family} {TABLE} map {MARKS} {{ {address} . {protocol} . {port} : {mark:#010x} }}"));
    Explanation {
        frontend: Some(key),
        service: Some(frontend.service.clone()),
        candidates: candidates.collect(),
        affinity,
        objects,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_a_client_is_found() {
        let at = "10.96.0.1:80".parse().unwrap();
        let client: IpAddr = "10.9.0.1".parse().unwrap();
        let of = Virtual::Address { at, protocol: 6 };
        let line = "TCP 0A090001 0000 0A600001 0050 0A2C0005 1F40 NONE            3599";
        let to: IpAddr = "10.44.0.5".parse().unwrap();
        assert_eq!(leads(line, &template(&of, client)), Some((to, 8000)));
        for other in [
            "TCP 0A090002 0000 0A600001 0050 0A2C0005 1F40 NONE            3599",
            "TCP 0A090001 8001 0A600001 0050 0A2C0005 1F40 ESTABLISHED     3599",
            "UDP 0A090001 0000 0A600001 0050 0A2C0005 1F40 NONE            3599",
            "Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData",
            "TCP 0A090001 0000 0A600001 0050 zz 1F40",
            "",
        ] {
            assert_eq!(leads(other, &template(&of, client)), None, "{other}");
        }
        let mark = Virtual::Mark { mark: 0x4e00_0050, v6: true };
        let client: IpAddr = "fd09::1".parse().unwrap();
        let wanted = template(&mark, client);
        assert_eq!(wanted[3], "4e00:0050:0000:0000:0000:0000:0000:0000");
        let line = format!("{} fd44:0000:0000:0000:0000:0000:0000:0005 0000 NONE 10", wanted.join(" "));
        assert_eq!(leads(&line, &wanted), Some(("fd44::5".parse().unwrap(), 0)));
    }
}
