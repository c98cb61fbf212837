//! Records: from addresses, ports and names to what goes into a section.

use crate::{
    index::{AddressList, Entry, Owner},
    naming::Naming,
    zone::Zone,
};
use hickory_proto::rr::{
    Name, RData, Record, RecordType,
    rdata::{A, AAAA, CNAME, HINFO, NS, PTR, SOA, SRV, TXT},
};
use mesh_control::model::{Addresses, EndpointMode, EndpointView};
use std::{collections::HashSet, net::IpAddr};

/// Most records of one answer. A TCP message of 65,535 octets holds as many addresses; SRV records of long names may
/// be more than fit and are then truncated even there. A larger service answers as many of its endpoints, beginning
/// at the rotation's start, so that all are seen in turn.
pub(crate) const MAX_ANSWERS: usize = 1000;

/// The greatest TTL there is (RFC 2181 section 8), in seconds.
pub(crate) const MAX_TTL: u32 = i32::MAX as u32;

/// Most names of one address: a node's address can be that of very many endpoints.
pub(crate) const MAX_POINTERS: usize = 16;

/// Most ports a TXT record tells.
const MAX_TXT_PORTS: usize = 64;

/// `list` from position `seed` on and around.
pub(crate) fn rotated<T>(list: &[T], seed: u64) -> impl Iterator<Item = &T> {
    let len = list.len().max(1);
    let start = usize::try_from(seed % len as u64).unwrap_or(0);
    list[start..].iter().chain(&list[..start])
}

/// The A or AAAA records of `lists`, one list after the other, each rotated.
pub(crate) fn addresses(
    owner: &Name,
    ttl: u32,
    kind: RecordType,
    lists: &[&AddressList],
    seed: u64,
) -> Vec<Record> {
    let record = |data| Record::from_rdata(owner.clone(), ttl, data);
    let all = lists.iter();
    match kind {
        RecordType::A => all
            .flat_map(|l| rotated(&l.v4, seed))
            .take(MAX_ANSWERS)
            .map(|a| record(RData::A(A(*a))))
            .collect(),
        RecordType::AAAA => all
            .flat_map(|l| rotated(&l.v6, seed))
            .take(MAX_ANSWERS)
            .map(|a| record(RData::AAAA(AAAA(*a))))
            .collect(),
        _ => Vec::new(),
    }
}

/// The record of one address.
pub(crate) fn address(owner: &Name, ttl: u32, address: IpAddr) -> Record {
    let data = match address {
        IpAddr::V4(a) => RData::A(A(a)),
        IpAddr::V6(a) => RData::AAAA(AAAA(a)),
    };
    Record::from_rdata(owner.clone(), ttl, data)
}

/// The addresses of the family that `kind` asks for.
pub(crate) fn one(owner: &Name, ttl: u32, kind: RecordType, of: Addresses) -> Vec<Record> {
    let wanted = |a: &IpAddr| kind == if a.is_ipv4() { RecordType::A } else { RecordType::AAAA };
    of.iter().filter(wanted).map(|a| address(owner, ttl, a)).collect()
}

/// One SRV record that names the service itself, with its VIPs to go into the additional section.
pub(crate) fn srv_of_service(
    owner: &Name,
    ttl: u32,
    naming: Naming<'_>,
    (entry, port): (&Entry, u16),
) -> (Vec<Record>, Vec<Record>) {
    let target = naming.service(entry.key());
    let vips = entry.view.vips.iter().map(|a| address(&target, ttl, a)).collect();
    (vec![Record::from_rdata(owner.clone(), ttl, RData::SRV(SRV::new(0, 0, port, target)))], vips)
}

/// One SRV record for each ready instance, its weight the endpoint's, and the instances' addresses.
pub(crate) fn srv_of_instances(
    owner: &Name,
    ttl: u32,
    naming: Naming<'_>,
    (entry, target_port): (&Entry, u16),
    seed: u64,
) -> (Vec<Record>, Vec<Record>) {
    let ready: Vec<&EndpointView> = entry.ready().collect();
    let (mut answers, mut additional) = (Vec::new(), Vec::new());
    let (mut told, mut named) = (HashSet::new(), HashSet::new());
    for e in rotated(&ready, seed).map(|e| &e.endpoint).take(MAX_ANSWERS) {
        let target = naming.instance(entry.key(), e.instance.as_str());
        let port = e.port_for(target_port);
        if told.insert((&e.instance, port, e.weight)) {
            let data = RData::SRV(SRV::new(0, e.weight, port, target.clone()));
            answers.push(Record::from_rdata(owner.clone(), ttl, data));
        }
        for a in e.addresses.iter().filter(|a| named.insert((&e.instance, *a))) {
            additional.push(address(&target, ttl, a));
        }
    }
    (answers, additional)
}

/// The names of one address, in the order given.
pub(crate) fn pointers(owner: &Name, default_ttl: u32, naming: Naming<'_>, owners: &[&Owner]) -> Vec<Record> {
    let record = |who: &&Owner| {
        let (entry, key) = (&who.entry, who.entry.key());
        let name = match who.instance() {
            None => naming.service(key),
            Some(instance) => naming.instance(key, instance.as_str()),
        };
        let ttl = entry.ttl.unwrap_or(default_ttl).min(MAX_TTL);
        Record::from_rdata(owner.clone(), ttl, RData::PTR(PTR(name)))
    };
    owners.iter().map(record).collect()
}

/// What a service is, one `key=value` a string: namespace, mode, and each port as `port=NAME:NUMBER/PROTOCOL`.
pub(crate) fn description(entry: &Entry) -> Vec<String> {
    let spec = &entry.view.spec;
    let mode = match spec.endpoint_mode {
        EndpointMode::Vip => "vip",
        EndpointMode::Dnsrr => "dnsrr",
    };
    let mut strings = vec![
        format!("service={}", entry.key().name),
        format!("namespace={}", entry.key().namespace),
        format!("mode={mode}"),
    ];
    for port in spec.ports.iter().take(MAX_TXT_PORTS) {
        let text = match &port.name {
            Some(name) => format!("port={name}:{}/{}", port.port, port.protocol),
            None => format!("port={}/{}", port.port, port.protocol),
        };
        // One that is published at several places stands there several times.
        if !strings.contains(&text) {
            strings.push(text);
        }
    }
    strings
}

/// A TXT record.
pub(crate) fn text(owner: &Name, ttl: u32, strings: Vec<String>) -> Record {
    Record::from_rdata(owner.clone(), ttl, RData::TXT(TXT::new(strings)))
}

/// The CNAME record.
pub(crate) fn canonical(owner: &Name, ttl: u32, target: Name) -> Record {
    Record::from_rdata(owner.clone(), ttl, RData::CNAME(CNAME(target)))
}

/// What ANY gets: one synthesised HINFO (RFC 8482 section 4.2).
pub(crate) fn minimal_any(owner: &Name, ttl: u32) -> Record {
    Record::from_rdata(owner.clone(), ttl, RData::HINFO(HINFO::new("RFC8482".to_owned(), String::new())))
}

/// The NS record of the apex.
pub(crate) fn name_server(owner: &Name, ttl: u32, host: Name) -> Record {
    Record::from_rdata(owner.clone(), ttl, RData::NS(NS(host)))
}

/// The SOA of `apex`. Its TTL and MINIMUM are how long a negative answer may be kept (RFC 2308 section 5); the
/// serial is the snapshot's revision, modulo 2^32.
pub(crate) fn start_of_authority(
    apex: &Name,
    negative_ttl: u32,
    zone: &Zone,
    host: Name,
    revision: u64,
) -> Record {
    let serial = u32::try_from(revision & u64::from(u32::MAX)).unwrap_or(u32::MAX);
    let soa = SOA::new(host, zone.below(["hostmaster"]), serial, 60, 60, 600, negative_ttl);
    Record::from_rdata(apex.clone(), negative_ttl, RData::SOA(soa))
}
