//! Where an answer comes from, for people: from the same lookups and the same answer that clients get.

mod absent;
mod candidates;
mod types;
mod words;

pub use types::{
    Cached, Candidate, Explanation, ForwardPath, Origin, Outcome, Step, TtlOrigin, UpstreamState,
};

use crate::{
    answer::{Answer, AnswerOptions, Found, MAX_CHAIN, Question, answer},
    index::Entry,
    naming::Style,
    resolve::{Target, resolve},
    reverse::Pointer,
    scope::Seen,
    view::DnsView,
    zone::Label,
};
use candidates::Told;
use hickory_proto::{
    op::ResponseCode,
    rr::{Name, RData, RecordType},
};

/// What [`answer`] gives for the same arguments, and where it comes from. Everything but the upstreams' part, the
/// address asked and how the name was completed is filled in.
#[must_use]
pub fn explain(
    view: &DnsView,
    question: &Question,
    seed: u64,
    options: &AnswerOptions,
) -> (Option<Answer>, Explanation) {
    let answer = answer(view, question, seed, options);
    let scope = &question.scope;
    let visible = scope.namespaces.as_ref();
    let mut names = vec![question.name.clone()];
    if question.kind != RecordType::CNAME {
        let records = answer.iter().flat_map(|a| &a.answers);
        names.extend(records.filter_map(|r| match &r.data {
            RData::CNAME(target) => Some(target.0.clone()),
            _ => None,
        }));
    }
    let cut = names.len() > MAX_CHAIN + 1;
    names.truncate(MAX_CHAIN + 1);
    let last = names.len() - 1;
    let told = answer.as_ref().map(Told::new).unwrap_or_default();
    let case = Case { seen: Seen::new(view, scope), view, options, question, answer: answer.as_ref(), told };
    let mut steps: Vec<Step> =
        names.iter().enumerate().map(|(at, name)| case.step(name, at == last)).collect();
    if let Some(step) = steps.last_mut().filter(|_| cut) {
        step.reasons.push(format!("the chain of CNAMEs is followed no further: {MAX_CHAIN} at most"));
    }
    let explanation = Explanation {
        revision: view.revision(),
        namespaces: visible.map(|all| all.iter().map(ToString::to_string).collect()),
        default_namespace: scope.default_namespace().to_owned(),
        steps,
        ..Explanation::default()
    };
    (answer, explanation)
}

/// A question and its answer.
struct Case<'a> {
    seen: Seen<'a>,
    view: &'a DnsView,
    options: &'a AnswerOptions,
    question: &'a Question,
    answer: Option<&'a Answer>,
    told: Told,
}

impl Case<'_> {
    fn step(&self, name: &Name, last: bool) -> Step {
        let lower = name.to_lowercase();
        let labels: Vec<Label<'_>> = lower.iter().collect();
        let step = Step { name: name.to_string(), outcome: self.outcome(last), ..Step::default() };
        match step.outcome {
            Outcome::Refused => {
                let why = format!("{} is refused, whatever the name", self.question.kind);
                Step { meaning: "not looked at".to_owned(), reasons: vec![why], ..step }
            }
            Outcome::Failed if self.view.is_expired() => {
                let why = "the control plane is away for too long: what is known is too old to be told";
                Step { meaning: "not looked at".to_owned(), reasons: vec![why.to_owned()], ..step }
            }
            _ => match self.options.find(self.seen, &labels) {
                Some(found) => self.named(step, name, &labels, &found),
                None => self.reversed(step, name, &lower, &labels),
            },
        }
    }

    /// What came of a name, as the answer says. What is answered to no name in particular is answered to the last.
    fn outcome(&self, last: bool) -> Outcome {
        match self.answer {
            None => Outcome::Forwarded,
            Some(_) if !last => Outcome::Alias,
            Some(answer) => match answer.rcode {
                ResponseCode::NXDomain => Outcome::NoSuchName,
                ResponseCode::Refused => Outcome::Refused,
                ResponseCode::NoError if answer.rest.is_some() => Outcome::Forwarded,
                // The SOA is that of the last name.
                ResponseCode::NoError if !answer.authority.is_empty() => Outcome::NoData,
                ResponseCode::NoError => Outcome::Answer,
                _ => Outcome::Failed,
            },
        }
    }

    /// A name below a zone of ours.
    fn named(&self, step: Step, name: &Name, labels: &[Label<'_>], found: &Found<'_>) -> Step {
        let Found { naming, target, bare } = found;
        let left = if *bare { labels } else { naming.zone.place(labels).unwrap_or_default() };
        let entry = target.entry();
        let origin = match naming.style {
            _ if *bare => Origin::Bare,
            Style::Mesh => Origin::Mesh,
            Style::Kubernetes => Origin::Kubernetes,
        };
        let label = words::label(target, naming.style, left);
        let mut reasons = Vec::new();
        let mut nearest = Vec::new();
        if matches!(target, Target::Absent) {
            let absent = absent::why(*naming, left);
            reasons.push(absent.why);
            nearest = absent.nearest;
        } else {
            reasons.extend(words::why(target, self.question.kind, step.outcome, self.view.here()));
            reasons.extend(words::other_reading(*naming, target, left));
            reasons.extend(label.and_then(|label| words::rivals(self.view, target, label)));
        }
        let (candidates, more) = match entry {
            Some(entry) if step.outcome != Outcome::Alias => {
                candidates::of_target(target, entry, self.question.kind, self.view.here(), &self.told)
            }
            _ => (Vec::new(), 0),
        };
        let hidden = entry.filter(|_| words::has_candidates(target, self.question.kind));
        Step {
            origin,
            zone: Some(if *bare { name } else { naming.zone.origin() }.to_string()),
            meaning: words::meaning(target, label),
            service: entry.map(|e| e.key().to_string()),
            reasons,
            nearest,
            ttl: self.ttl(name, step.outcome, entry.map(AsRef::as_ref)),
            candidates,
            more_candidates: more,
            hidden_endpoints: hidden.map_or(0, |e| e.view.hidden_endpoints),
            ..step
        }
    }

    /// The name of an address, or one that is not ours.
    fn reversed(&self, step: Step, name: &Name, lower: &Name, labels: &[Label<'_>]) -> Step {
        let local = &self.options.local_reverse;
        let Some(pointer) = Pointer::find(self.seen, lower, local, usize::MAX) else {
            let reasons = words::not_ours(self.options, &self.question.scope, labels);
            // Somebody forgot the zone.
            let meant = resolve(self.seen, labels).entry().is_some();
            let full = meant.then(|| lower.clone().append_domain(self.options.zone.origin()).ok()).flatten();
            let nearest = full.iter().map(ToString::to_string).collect();
            return Step { meaning: "a name that is not the mesh's".to_owned(), reasons, nearest, ..step };
        };
        let first = pointer.owners.first().filter(|_| step.outcome == Outcome::Answer);
        let (meaning, why) = words::of_pointer(&pointer, self.question.kind, step.outcome);
        let (candidates, more) = candidates::of_pointer(&pointer, self.question.kind);
        Step {
            origin: Origin::Reverse,
            zone: Some(pointer.apex.to_string()),
            meaning,
            reasons: vec![why],
            ttl: self.ttl(name, step.outcome, first.map(|owner| owner.entry.as_ref())),
            candidates,
            more_candidates: more,
            ..step
        }
    }

    /// The TTL that the answer gives for `name`, and who set it.
    fn ttl(&self, name: &Name, outcome: Outcome, entry: Option<&Entry>) -> Option<TtlOrigin> {
        let answer = self.answer?;
        let any = self.question.kind == RecordType::ANY;
        let (record, own, setting) = match outcome {
            Outcome::Answer | Outcome::Alias => {
                let of_name = answer.answers.iter().find(|r| r.name == *name);
                (of_name, entry.and_then(|e| e.ttl).filter(|_| !any), "ttl")
            }
            Outcome::NoData | Outcome::NoSuchName => {
                (answer.authority.first(), entry.and_then(|e| e.negative_ttl), "negative_ttl")
            }
            Outcome::Refused | Outcome::Failed | Outcome::Forwarded => return None,
        };
        let from =
            if own.is_some() { format!("the service's x-mesh.{setting}") } else { format!("dns.{setting}") };
        Some(TtlOrigin { seconds: record?.ttl, from })
    }
}
