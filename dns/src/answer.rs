//! From a view and a question to the sections of a reply: pure, no clock, no socket.

use crate::{
    index::Entry,
    kubernetes,
    naming::{Naming, Style},
    records,
    resolve::{Target, resolve},
    reverse::Pointer,
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
use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

/// One question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The name as asked; answers echo its case.
    pub name: Name,
    /// The same in lower case.
    pub(crate) lower: Name,
    /// QTYPE.
    pub kind: RecordType,
    /// QCLASS.
    pub class: DNSClass,
    /// What the asker sees.
    pub(crate) scope: Arc<Scope>,
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
    /// The domain below which names are answered as Kubernetes writes them, when they are.
    pub kubernetes: Option<Zone>,
}

/// What a name that is ours leads to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found<'v> {
    /// Below which zone it is; names in its records are written as there.
    pub(crate) naming: Naming<'v>,
    /// What it stands for.
    pub(crate) target: Target<'v>,
    /// Whether it was asked without the zone, and so is its own apex.
    pub(crate) bare: bool,
}

impl AnswerOptions {
    /// Finds the name of `labels`, in lower case, leftmost first; allocates nothing. `None` for reverse names and
    /// for those that are not ours.
    pub(crate) fn find<'v>(&'v self, seen: Seen<'v>, labels: &[Label<'_>]) -> Option<Found<'v>> {
        let mesh = self.zone.place(labels);
        let kubernetes = self.kubernetes.as_ref().and_then(|zone| Some((zone, zone.place(labels)?)));
        // Of two zones the deeper has the name.
        if let Some((zone, left)) = kubernetes
            && mesh.is_none_or(|mesh| left.len() < mesh.len())
        {
            let naming = Naming { seen, zone, style: Style::Kubernetes };
            return Some(Found { naming, target: kubernetes::resolve(seen, left), bare: false });
        }
        let naming = Naming { seen, zone: &self.zone, style: Style::Mesh };
        if let Some(left) = mesh {
            return Some(Found { naming, target: resolve(seen, left), bare: false });
        }
        if !seen.scope.bare_names || !matches!(labels, [_] | [b"tasks", _]) {
            return None;
        }
        let target = resolve(seen, labels);
        // All but services, the empty names among them, may be somebody else's.
        let ours = matches!(target, Target::Service(_) | Target::External(_) | Target::Tasks(_));
        ours.then_some(Found { naming, target, bare: true })
    }
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
    /// The name whose records of the type asked belong to the answer too and are not ours: where a CNAME leads.
    pub rest: Option<Name>,
}

/// Most CNAMEs that are followed.
pub(crate) const MAX_CHAIN: usize = 8;

impl Answer {
    /// A response code without a record.
    pub(crate) fn bare(rcode: ResponseCode) -> Self {
        Answer::positive(Vec::new()).with_code(rcode)
    }

    fn positive(answers: Vec<Record>) -> Self {
        let (authority, additional) = (Vec::new(), Vec::new());
        Answer { rcode: ResponseCode::NoError, answers, authority, additional, rest: None }
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
    let answer = answered(view, question, seed, options, 0)?;
    let told = matches!(answer.rcode, ResponseCode::NoError | ResponseCode::NXDomain);
    Some(if told && view.is_expired() { Answer::bare(ResponseCode::ServFail) } else { answer })
}

fn answered(
    view: &DnsView,
    question: &Question,
    seed: u64,
    options: &AnswerOptions,
    chain: usize,
) -> Option<Answer> {
    let transfer = matches!(question.kind, RecordType::AXFR | RecordType::IXFR);
    if question.class != DNSClass::IN || transfer {
        return Some(Answer::bare(ResponseCode::Refused));
    }
    let seen = Seen::new(view, &question.scope);
    let labels: Vec<Label<'_>> = question.lower.iter().collect();
    let asked = |naming, entry: Option<&Entry>| {
        let ttl = entry.and_then(|entry| entry.ttl).unwrap_or(options.ttl);
        let negative_ttl = entry.and_then(|entry| entry.negative_ttl).unwrap_or(options.negative_ttl);
        let (ttl, negative_ttl) = (ttl.min(records::MAX_TTL), negative_ttl.min(records::MAX_TTL));
        Asked { view, naming, question, seed, options, ttl, negative_ttl, chain }
    };
    if let Some(Found { naming, target, bare }) = options.find(seen, &labels) {
        let apex = if bare { &question.lower } else { naming.zone.origin() };
        return Some(asked(naming, target.entry().map(AsRef::as_ref)).target(&target, apex));
    }
    let naming = match &options.kubernetes {
        Some(zone) => Naming { seen, zone, style: Style::Kubernetes },
        None => Naming { seen, zone: &options.zone, style: Style::Mesh },
    };
    asked(naming, None).pointer()
}

/// The arguments of [`answer`], and what is known of the name.
struct Asked<'a> {
    view: &'a DnsView,
    naming: Naming<'a>,
    question: &'a Question,
    seed: u64,
    options: &'a AnswerOptions,
    /// Seconds that records of the name may be kept …
    ttl: u32,
    /// … and that there are none.
    negative_ttl: u32,
    /// How many CNAMEs led here.
    chain: usize,
}

impl Asked<'_> {
    fn target(&self, target: &Target<'_>, apex: &Name) -> Answer {
        let (name, kind, ttl) = (&self.question.name, self.question.kind, self.ttl);
        // A name without records of its own says NODATA to ANY too; every other one the minimum.
        if kind == RecordType::ANY && !matches!(target, Target::Empty | Target::Absent) {
            let ttl = self.options.ttl.min(records::MAX_TTL);
            return Answer::positive(vec![records::minimal_any(name, ttl)]);
        }
        let answers = match target {
            Target::Apex => return self.apex(apex),
            Target::Absent => return self.absent(apex),
            Target::External(entry) => return self.external(entry),
            Target::Port { entry, vip_port, target_port, tasks } if kind == RecordType::SRV => {
                let (answers, additional) = self.port(entry, (*vip_port, *target_port), *tasks);
                return Answer { additional, ..self.found(answers, apex) };
            }
            Target::Service(entry) if kind == RecordType::SRV && self.naming.style == Style::Kubernetes => {
                let (answers, additional) = self.every_port(entry);
                return Answer { additional, ..self.found(answers, apex) };
            }
            Target::NameServer => {
                let all = self.options.name_servers.iter().map(|a| records::address(name, ttl, *a));
                all.filter(|r| r.record_type() == kind).collect()
            }
            Target::Version if kind == RecordType::TXT => {
                vec![records::text(name, ttl, vec![kubernetes::SCHEMA.to_owned()])]
            }
            Target::Service(entry) if kind == RecordType::TXT => {
                vec![records::text(name, ttl, records::description(entry))]
            }
            Target::Service(_) | Target::Tasks(_) => {
                records::addresses(name, ttl, kind, &target.lists(), self.seed)
            }
            Target::Instance(_, endpoints) => {
                let ready = endpoints.iter().filter(|e| e.endpoint.ready);
                let mut found: Vec<Record> = Vec::new();
                for record in ready.flat_map(|e| records::one(name, ttl, kind, e.endpoint.addresses)) {
                    if !found.contains(&record) {
                        found.push(record);
                    }
                }
                found
            }
            Target::Address(_, address) => records::one(name, ttl, kind, (*address).into()),
            Target::Version | Target::Port { .. } | Target::Empty => Vec::new(),
        };
        self.found(answers, apex)
    }

    /// The SRV records of a port, as (VIP's, endpoint's), and the addresses of the names in them.
    fn port(&self, entry: &Entry, port: (u16, u16), tasks: bool) -> (Vec<Record>, Vec<Record>) {
        let name = &self.question.name;
        if tasks || entry.view.spec.endpoint_mode == EndpointMode::Dnsrr {
            records::srv_of_instances(name, self.ttl, self.naming, (entry, port.1), self.seed)
        } else {
            records::srv_of_service(name, self.ttl, self.naming, (entry, port.0))
        }
    }

    /// Those of all ports, which CoreDNS answers at the service's own name. The names in them are the same for each.
    fn every_port(&self, entry: &Entry) -> (Vec<Record>, Vec<Record>) {
        let (mut answers, mut additional) = (Vec::new(), Vec::new());
        let mut told = BTreeSet::new();
        for port in entry.view.spec.ports.iter().map(|p| (p.port.first(), p.target)) {
            // One number may be of both protocols, and of several published places.
            if told.insert(port) && answers.len() < records::MAX_ANSWERS {
                let (more, addresses) = self.port(entry, port, false);
                answers.extend(more);
                additional = addresses;
            }
        }
        answers.truncate(records::MAX_ANSWERS);
        (answers, additional)
    }

    /// The name that stands for the service, and what that answers, as far as it is ours (RFC 1034 section 3.6.2).
    fn external(&self, entry: &Entry) -> Answer {
        let (name, kind) = (&self.question.name, self.question.kind);
        let target = entry.view.spec.external_name.as_deref().and_then(|text| Name::from_ascii(text).ok());
        let Some(mut target) = target else { return Answer::bare(ResponseCode::ServFail) };
        target.set_fqdn(true);
        let mut answers = vec![records::canonical(name, self.ttl, target.clone())];
        if kind == RecordType::CNAME || self.chain >= MAX_CHAIN {
            return Answer::positive(answers);
        }
        let next = Question::new(target.clone(), kind).within(Arc::clone(&self.question.scope));
        match answered(self.view, &next, self.seed, self.options, self.chain + 1) {
            Some(rest) => {
                answers.extend(rest.answers);
                Answer { answers, ..rest }
            }
            None => Answer { rest: Some(target), ..Answer::positive(answers) },
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
                let additional = servers.map(|a| records::address(&host, self.ttl, *a)).collect();
                let ns = records::name_server(name, self.ttl, host);
                Answer { additional, ..Answer::positive(vec![ns]) }
            }
            _ => self.no_data(apex),
        }
    }

    /// Reverse names: those of our addresses, and all of the networks that are ours whole. In those a name of fewer
    /// labels than an address has exists, because there may be addresses below it (RFC 8020 section 2).
    fn pointer(&self) -> Option<Answer> {
        let (lower, kind) = (&self.question.lower, self.question.kind);
        let local = &self.options.local_reverse;
        let Pointer { spelled, network, apex, owners } =
            Pointer::find(self.naming.seen, lower, local, records::MAX_POINTERS)?;
        let is_apex = network.is_some() && apex == *lower;
        if is_apex && matches!(kind, RecordType::SOA | RecordType::NS) {
            return Some(self.apex(&apex));
        }
        let owned = !owners.is_empty();
        let (name, ttl) = (&self.question.name, self.ttl);
        Some(match (owned, kind) {
            (true, RecordType::PTR) => Answer::positive(records::pointers(name, ttl, self.naming, &owners)),
            (_, RecordType::ANY) if is_apex || owned => {
                Answer::positive(vec![records::minimal_any(name, ttl)])
            }
            (false, _) if !is_apex && (spelled.rest || spelled.address().is_some()) => self.absent(&apex),
            _ => self.no_data(&apex),
        })
    }

    /// A positive answer, or NODATA when there is nothing in it.
    fn found(&self, answers: Vec<Record>, apex: &Name) -> Answer {
        if answers.is_empty() { self.no_data(apex) } else { Answer::positive(answers) }
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
        let (zone, revision) = (self.naming.zone, self.view.revision());
        records::start_of_authority(apex, self.negative_ttl, zone, self.name_server(), revision)
    }

    fn name_server(&self) -> Name {
        self.naming.zone.below(NAME_SERVER)
    }
}
