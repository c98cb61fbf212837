//! Whose addresses could be answered, and why each is or is not.

use super::{types::Candidate, words::has_candidates};
use crate::{
    answer::Answer,
    index::{Entry, Here, Standing},
    records::{MAX_ANSWERS, MAX_POINTERS},
    resolve::Target,
    reverse::Pointer,
};
use hickory_proto::rr::{RData, Record, RecordType};
use mesh_control::model::{EndpointMode, EndpointView, Family, Locality};
use std::{collections::HashSet, net::IpAddr};

/// Most candidates that are listed.
const MAX_LISTED: usize = 1000;

/// The addresses of an answer, those beside SRV records included.
#[derive(Debug, Default)]
pub(super) struct Told(HashSet<IpAddr>);

impl Told {
    pub(super) fn new(answer: &Answer) -> Self {
        let address = |record: &Record| match &record.data {
            RData::A(a) => Some(IpAddr::V4(a.0)),
            RData::AAAA(a) => Some(IpAddr::V6(a.0)),
            _ => None,
        };
        Told(answer.answers.iter().chain(&answer.additional).filter_map(address).collect())
    }

    fn has(&self, addresses: &[IpAddr]) -> bool {
        addresses.iter().any(|a| self.0.contains(a))
    }
}

/// The VIPs and endpoints of a service that a question of `kind` is about, and how many more than are listed. Those that
/// are in the answer come first.
pub(super) fn of_target(
    target: &Target<'_>,
    entry: &Entry,
    kind: RecordType,
    here: &Here,
    told: &Told,
) -> (Vec<Candidate>, usize) {
    if !has_candidates(target, kind) {
        return (Vec::new(), 0);
    }
    let of_vip = entry.view.spec.endpoint_mode == EndpointMode::Vip;
    let by_vip = of_vip && matches!(target, Target::Service(_) | Target::Port { tasks: false, .. });
    let vips = entry.view.vips.iter().filter(|_| by_vip).map(|vip| {
        let answered = told.has(&[vip]);
        let why = if answered { "claimed for this service" } else { "not of the family asked" };
        let (name, why) = ("VIP".to_owned(), why.to_owned());
        Candidate { name, node: None, addresses: vec![vip], answered, why }
    });
    let asked: Vec<&EndpointView> = match target {
        Target::Instance(_, endpoints) => endpoints.iter().collect(),
        Target::Address(_, address) => entry
            .view
            .endpoints
            .iter()
            .filter(|e| e.endpoint.addresses.iter().any(|a| a == *address))
            .collect(),
        _ => entry.view.endpoints.iter().collect(),
    };
    let endpoints = asked.into_iter().map(|e| {
        let addresses: Vec<IpAddr> = e.endpoint.addresses.iter().collect();
        let answered = told.has(&addresses);
        let why = match (by_vip, target) {
            (true, _) if e.endpoint.ready => "ready: the VIP leads to it".to_owned(),
            (true, _) => unready(e).to_owned(),
            (false, Target::Service(_)) => why(e, entry.view.spec.locality, here, kind, answered),
            // All that are ready, whatever their weight and place.
            (false, _) => ready(e, kind, answered, "ready"),
        };
        Candidate {
            name: e.endpoint.instance.to_string(),
            node: Some(e.node.to_string()),
            addresses,
            answered,
            why,
        }
    });
    listed(vips.chain(endpoints).collect())
}

fn listed(mut all: Vec<Candidate>) -> (Vec<Candidate>, usize) {
    all.sort_by_key(|c| !c.answered);
    let more = all.len().saturating_sub(MAX_LISTED);
    all.truncate(MAX_LISTED);
    (all, more)
}

/// Why an endpoint is or is not among what the name of a service without a VIP answers.
fn why(e: &EndpointView, locality: Locality, here: &Here, kind: RecordType, answered: bool) -> String {
    let standing = here.standing(e, locality);
    if kind == RecordType::SRV {
        return ready(e, kind, answered, "ready");
    }
    let text = match (standing, locality) {
        (Standing::Unready, _) => return ready(e, kind, answered, ""),
        (Standing::Weightless, _) => "its weight is 0",
        (Standing::Elsewhere, _) => "on another node (local-only)",
        (Standing::Near, Locality::Any) => "ready",
        (Standing::Near, Locality::PreferZone) if e.node != here.node => "ready, in this zone",
        (Standing::Near, _) => "ready, on this node",
        (Standing::Far, Locality::PreferZone) => "ready, after those of this zone (prefer-zone)",
        (Standing::Far, _) => "ready, after those of this node (prefer-local)",
    };
    match standing {
        Standing::Near | Standing::Far => ready(e, kind, answered, text),
        _ if answered => shared(text),
        _ => text.to_owned(),
    }
}

/// The same where every ready one is: `text` of those that are.
fn ready(e: &EndpointView, kind: RecordType, answered: bool, text: &str) -> String {
    let family = match kind {
        RecordType::A => Some((Family::V4, "IPv4")),
        RecordType::AAAA => Some((Family::V6, "IPv6")),
        _ => None,
    };
    match (e.endpoint.ready, answered) {
        (true, true) => text.to_owned(),
        (false, true) => shared(unready(e)),
        (false, false) => unready(e).to_owned(),
        (true, false) => match family {
            Some((family, name)) if e.endpoint.addresses.get(family).is_none() => {
                format!("has no {name} address")
            }
            _ => format!("left out: {MAX_ANSWERS} are answered at once, in turn"),
        },
    }
}

fn unready(e: &EndpointView) -> &'static str {
    if e.endpoint.terminating { "draining" } else { "not ready" }
}

fn shared(text: &str) -> String {
    format!("{text}, but its address is another's too")
}

/// Who has an address, and how many more than are listed.
pub(super) fn of_pointer(pointer: &Pointer<'_>, kind: RecordType) -> (Vec<Candidate>, usize) {
    let candidates = pointer.owners.iter().enumerate().map(|(at, owner)| {
        let key = owner.entry.key();
        let (name, why) = match owner.instance() {
            None => (key.to_string(), "the service's VIP".to_owned()),
            Some(instance) => (format!("{instance}.{key}"), "a ready endpoint's address".to_owned()),
        };
        let (answered, addresses) = (at < MAX_POINTERS, pointer.spelled.address().into_iter().collect());
        let why = if answered { why } else { format!("left out: {MAX_POINTERS} names at most") };
        Candidate { name, node: None, addresses, answered: answered && kind == RecordType::PTR, why }
    });
    listed(candidates.collect())
}
