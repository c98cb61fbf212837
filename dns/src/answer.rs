//! From a view and a question to the sections of a reply: pure, no clock, no socket.

use crate::{
    records,
    resolve::{Target, resolve},
    reverse::Reverse,
    scope::{Scope, Seen},
    view::DnsView,
    zone::{Label, NAME_SERVER, Zone},
};
use hickory_proto::{
    op::ResponseCode,
    rr::{DNSClass, Name, Record, RecordType},
};
use ipnetwork::IpNetwork;
use mesh_control::model::EndpointMode;
use std::{net::IpAddr, sync::Arc};

/// One question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The name as asked; answers echo its case.
    pub name: Name,
    /// The same in lower case.
    lower: Name,
    /// QTYPE.
    pub kind: RecordType,
    /// QCLASS.
    pub class: DNSClass,
    /// What the asker sees.
    scope: Arc<Scope>,
}

impl Question {
    /// A question of class IN.
    #[must_use]
    pub fn new(name: Name, kind: RecordType) -> Self {
        let lower = name.to_lowercase();
        Question { name, lower, kind, class: DNSClass::IN, scope: Arc::default() }
    }

    /// The same question in another class.
    #[must_use]
    pub fn in_class(mut self, class: DNSClass) -> Self {
        self.class = class;
        self
    }

    /// The same question of a client that sees only `scope`.
    #[must_use]
    pub fn within(mut self, scope: Arc<Scope>) -> Self {
        self.scope = scope;
        self
    }
}

/// What answers depend on beside view and question.
#[derive(Clone, Debug)]
pub struct AnswerOptions {
    /// The zone that is ours.
    pub zone: Zone,
    /// Seconds an answer may be kept, where the service has no `ttl` of its own.
    pub ttl: u32,
    /// Seconds a negative answer may be kept.
    pub negative_ttl: u32,
    /// The addresses of `ns.dns` below the zone.
    pub name_servers: Vec<IpAddr>,
    /// Networks whose reverse names are ours even where no address is in use.
    pub local_reverse: Vec<IpNetwork>,
}

/// The sections of an authoritative reply.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The response code.
    pub rcode: ResponseCode,
    /// Answer section.
    pub answers: Vec<Record>,
    /// Authority section: the SOA of a negative answer.
    pub authority: Vec<Record>,
    /// Additional section, without the OPT record.
    pub additional: Vec<Record>,
}

impl Answer {
    /// A response code without a record.
    pub(crate) fn bare(rcode: ResponseCode) -> Self {
        Answer::positive(Vec::new()).with_code(rcode)
    }

    fn positive(answers: Vec<Record>) -> Self {
        Answer { rcode: ResponseCode::NoError, answers, authority: Vec::new(), additional: Vec::new() }
    }

    fn with_code(mut self, rcode: ResponseCode) -> Self {
        self.rcode = rcode;
        self
    }
}

/// Answers `question` from `view`, or `None` when the name is not ours: to be forwarded.
///
/// `seed` decides where lists of addresses begin; equal arguments give equal answers. Other classes than IN and zone
/// transfers are REFUSED whatever the name (RFC 8906 section 3.1.4; RFC 5936 section 2.2.1).
#[must_use]
pub fn answer(view: &DnsView, question: &Question, seed: u64, options: &AnswerOptions) -> Option<Answer> {
    let transfer = matches!(question.kind, RecordType::AXFR | RecordType::IXFR);
    if question.class != DNSClass::IN || transfer {
        return Some(Answer::bare(ResponseCode::Refused));
    }
    let seen = Seen::new(view, &question.scope);
    let asked = Asked { view, seen, question, seed, options };
    let labels: Vec<Label<'_>> = question.lower.iter().collect();
    match options.zone.place(&labels) {
        Some(labels) => Some(asked.target(&resolve(seen, labels))),
        None => asked.pointer(),
    }
}

/// The arguments of [`answer`].
struct Asked<'a> {
    view: &'a DnsView,
    seen: Seen<'a>,
    question: &'a Question,
    seed: u64,
    options: &'a AnswerOptions,
}

impl Asked<'_> {
    fn target(&self, target: &Target<'_>) -> Answer {
        let (name, kind) = (&self.question.name, self.question.kind);
        let apex = self.options.zone.origin();
        let ttl = target.entry().and_then(|entry| entry.view.spec.ttl).unwrap_or(self.options.ttl);
        let ttl = ttl.min(records::MAX_TTL);
        // A name without records of its own says NODATA to ANY too; every other one the minimum.
        if kind == RecordType::ANY && !matches!(target, Target::Empty | Target::Absent) {
            return Answer::positive(vec![records::minimal_any(
                name,
                self.options.ttl.min(records::MAX_TTL),
            )]);
        }
        match target {
            Target::Apex => self.apex(apex),
            Target::NameServer => {
                let servers = self.options.name_servers.iter();
                let all = servers.map(|a| records::address(name, self.options.ttl, *a));
                self.found(all.filter(|r| r.record_type() == kind).collect())
            }
            Target::Service(entry) if kind == RecordType::TXT => {
                Answer::positive(vec![records::text(name, ttl, entry)])
            }
            Target::Service(_) | Target::Tasks(_) => {
                let lists = target.lists();
                self.found(records::addresses(name, ttl, kind, &lists, self.seed))
            }
            Target::Instance(_, endpoints) => {
                let ready = endpoints.iter().filter(|e| e.endpoint.ready);
                let mut found: Vec<Record> = Vec::new();
                for record in ready.flat_map(|e| records::one(name, ttl, kind, e.endpoint.addresses)) {
                    if !found.contains(&record) {
                        found.push(record);
                    }
                }
                self.found(found)
            }
            Target::Port { entry, vip_port, target_port, tasks } if kind == RecordType::SRV => {
                let place = (self.seen, &self.options.zone);
                let each = *tasks || entry.view.spec.endpoint_mode == EndpointMode::Dnsrr;
                let (answers, additional) = if each {
                    records::srv_of_instances(name, ttl, place, (entry, *target_port), self.seed)
                } else {
                    records::srv_of_service(name, ttl, place, (entry, *vip_port))
                };
                Answer { additional, ..self.found(answers) }
            }
            Target::Port { .. } | Target::Empty => self.no_data(apex),
            Target::Absent => self.absent(apex),
        }
    }

    /// The apex of a zone of ours, forward or reverse.
    fn apex(&self, apex: &Name) -> Answer {
        let name = &self.question.name;
        match self.question.kind {
            RecordType::SOA => Answer::positive(vec![self.soa(name)]),
            RecordType::NS => {
                let host = self.name_server();
                let servers = self.options.name_servers.iter();
                let additional = servers.map(|a| records::address(&host, self.options.ttl, *a)).collect();
                let ns = records::name_server(name, self.options.ttl, host);
                Answer { additional, ..Answer::positive(vec![ns]) }
            }
            _ => self.no_data(apex),
        }
    }

    /// Reverse names: those of our addresses, and all of the networks that are ours whole. In those a name of fewer
    /// labels than an address has exists, because there may be addresses below it (RFC 8020 section 2).
    fn pointer(&self) -> Option<Answer> {
        let (lower, kind) = (&self.question.lower, self.question.kind);
        let asked = Reverse::read(lower)?;
        let network = self.options.local_reverse.iter().find(|n| asked.is_in(**n));
        // Outside such a network only the one name is ours, and so it is its own apex.
        let apex = network.map_or_else(|| lower.clone(), |n| asked.apex(*n));
        let is_apex = network.is_some() && apex == *lower;
        if is_apex && matches!(kind, RecordType::SOA | RecordType::NS) {
            return Some(self.apex(&apex));
        }
        let mut owners = asked.address().into_iter().flat_map(|a| self.seen.owners(a)).peekable();
        let owned = owners.peek().is_some();
        let (name, ttl) = (&self.question.name, self.options.ttl);
        Some(match (owned, kind) {
            (false, _) if network.is_none() => return None,
            (true, RecordType::PTR) => {
                let place = (self.seen, &self.options.zone);
                Answer::positive(records::pointers(name, ttl, place, owners))
            }
            (_, RecordType::ANY) if is_apex || owned => {
                Answer::positive(vec![records::minimal_any(name, ttl.min(records::MAX_TTL))])
            }
            (false, _) if !is_apex && (asked.rest || asked.address().is_some()) => self.absent(&apex),
            _ => self.no_data(&apex),
        })
    }

    /// A positive answer, or NODATA when there is nothing in it.
    fn found(&self, answers: Vec<Record>) -> Answer {
        if answers.is_empty() { self.no_data(self.options.zone.origin()) } else { Answer::positive(answers) }
    }

    /// RFC 2308 section 2.2.
    fn no_data(&self, apex: &Name) -> Answer {
        Answer { authority: vec![self.soa(apex)], ..Answer::positive(Vec::new()) }
    }

    /// RFC 2308 section 2.1.
    fn absent(&self, apex: &Name) -> Answer {
        self.no_data(apex).with_code(ResponseCode::NXDomain)
    }

    fn soa(&self, apex: &Name) -> Record {
        let (zone, ttl) = (&self.options.zone, self.options.negative_ttl.min(records::MAX_TTL));
        records::start_of_authority(apex, ttl, zone, self.name_server(), self.view.revision())
    }

    fn name_server(&self) -> Name {
        self.options.zone.below(NAME_SERVER)
    }
}
