//! `dns query NAME`: what the server would say, for people.

use super::{follow::packet, record_type, respond::Responder};
use crate::{
    answer::{Answer, Question},
    explain::Explanation,
    forward::{ForwardError, Forwarded},
    metrics::code,
};
use hickory_proto::{
    op::Message,
    rr::{Name, Record},
    serialize::binary::DecodeError,
};
use serde::{Deserialize, Serialize};
use std::{sync::Arc, time::Instant};

/// One question of `dns query`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lookup {
    /// The name. One without a dot is taken below the zone, unless clients of `listen` have names without it.
    pub name: String,
    /// A type's mnemonic (`A`, `srv`) or `TYPE65`.
    pub kind: String,
    /// As a client of this address, `IP` or `IP:PORT`; absent: as the host, which sees every namespace.
    pub listen: Option<String>,
    /// Whether to say where the answer comes from. Then a name that no upstream answers is no error either.
    pub explain: bool,
}

/// The answer to one question.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LookupReply {
    /// The name asked, fully qualified.
    pub name: String,
    /// The type asked.
    #[serde(rename = "type")]
    pub kind: String,
    /// The response code as `dig` writes it.
    pub rcode: String,
    /// Who answered.
    pub source: AnswerSource,
    /// The upstream that did, with `forwarded`.
    pub upstream: Option<String>,
    /// Answer section.
    pub answers: Vec<LookupRecord>,
    /// Authority section.
    pub authority: Vec<LookupRecord>,
    /// Where it comes from, when that was asked.
    pub explanation: Option<Explanation>,
}

/// Who answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AnswerSource {
    /// This server, from the mesh's state.
    Mesh,
    /// An upstream; or nobody, when there is none.
    Forwarded,
}

/// One record, as text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LookupRecord {
    /// Owner name.
    pub name: String,
    /// Type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Seconds it may be kept.
    pub ttl: u32,
    /// The data in presentation format.
    pub data: String,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// The name is none.
    #[error("name: `{0}` is no DNS name: use labels of at most 63 characters with dots between")]
    Name(String),
    /// The type is none.
    #[error("type: `{0}` is no record type: use A, AAAA, SRV, PTR, TXT, … or TYPE and its number")]
    Type(String),
    /// Nobody listens there.
    #[error("listen: `{asked}` is no address that DNS listens on: use one of {known}")]
    Listen {
        /// As asked.
        asked: String,
        /// Where it listens.
        known: String,
    },
    /// Too many queries are being forwarded.
    #[error("too many queries are being forwarded: try again")]
    Busy,
    /// The upstreams failed.
    #[error(transparent)]
    Forward(#[from] ForwardError),
    /// An upstream's reply cannot be read.
    #[error("the reply of {upstream} is malformed: {problem}")]
    Malformed {
        /// Who sent it.
        upstream: String,
        /// What is wrong.
        problem: String,
    },
}

pub(super) async fn query(responder: &Arc<Responder>, asked: &Lookup) -> Result<LookupReply, LookupError> {
    let kind = record_type(&asked.kind).ok_or_else(|| LookupError::Type(short(&asked.kind)))?;
    let (owner, completed) = owner(&asked.name, responder)?;
    let question = Question::new(owner.clone(), kind);
    let (known, mut explanation) = if asked.explain {
        // With very many services the search for like names takes a while.
        let (responder, question) = (Arc::clone(responder), question);
        match tokio::task::spawn_blocking(move || responder.explain(&question)).await {
            Ok((known, explanation)) => (known, Some(Explanation { completed, ..explanation })),
            // The runtime ends.
            Err(error) if error.is_cancelled() => return Err(LookupError::Busy),
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    } else {
        (responder.answer(&question), None)
    };
    let mut reply = LookupReply {
        name: owner.to_string(),
        kind: kind.to_string(),
        rcode: String::new(),
        source: if known.is_some() { AnswerSource::Mesh } else { AnswerSource::Forwarded },
        upstream: None,
        answers: Vec::new(),
        authority: Vec::new(),
        explanation: None,
    };
    let forwarder = &responder.forwarder;
    let outside = known.as_ref().map_or(Some(owner), |answer| answer.rest.clone());
    let packet = outside.and_then(|name| packet(name, kind));
    if let (Some(explanation), Some(packet)) = (&mut explanation, &packet) {
        explanation.forward = Some(forwarder.explain(packet, Instant::now()));
    }
    let permit = || forwarder.admit().ok_or(LookupError::Busy);
    let (answer, by) = match known {
        Some(known) if known.rest.is_none() || forwarder.is_empty() => (known, None),
        Some(known) => {
            let (answer, by) = responder.complete(known, kind, permit()?).await;
            (answer, Some(by))
        }
        None => {
            let packet = packet.ok_or_else(|| LookupError::Name(short(&asked.name)))?;
            match forwarder.forward(&packet, true, permit()?).await {
                Ok(Forwarded { reply: octets, upstream, .. }) => {
                    reply.upstream = Some(upstream.to_string());
                    (read(&octets, &upstream)?, Some(Ok(upstream)))
                }
                // Why there is no answer is what was asked for.
                Err(error) if asked.explain => (Answer::bare(error.rcode()), Some(Err(error.to_string()))),
                Err(error) => return Err(error.into()),
            }
        }
    };
    if let Some(path) = explanation.as_mut().and_then(|e| e.forward.as_mut()) {
        path.answered_by = by.as_ref().and_then(|by| by.as_ref().ok()).map(ToString::to_string);
        path.problem = by.and_then(Result::err);
    }
    reply.rcode = code(answer.rcode).to_owned();
    reply.answers = answer.answers.iter().map(text).collect();
    reply.authority = answer.authority.iter().map(text).collect();
    reply.explanation = explanation;
    Ok(reply)
}

/// An upstream's reply.
fn read(octets: &[u8], upstream: &str) -> Result<Answer, LookupError> {
    let malformed =
        |e: DecodeError| LookupError::Malformed { upstream: upstream.into(), problem: e.to_string() };
    let Message { metadata, answers, authorities, .. } = Message::from_vec(octets).map_err(malformed)?;
    Ok(Answer { answers, authority: authorities, ..Answer::bare(metadata.response_code) })
}

/// The name asked when `name` is written, fully qualified, and how it came to be when that is another.
fn owner(name: &str, responder: &Responder) -> Result<(Name, Option<String>), LookupError> {
    let fail = || LookupError::Name(short(name));
    if name.is_empty() {
        return Err(fail());
    }
    let mut owner = Name::from_ascii(name).map_err(|_| fail())?;
    let mut completed = None;
    // Where clients have names without the zone, those are asked.
    if owner.iter().len() == 1 && !owner.is_fqdn() && !responder.has_bare_names() {
        let zone = responder.options.zone.origin();
        owner = owner.append_domain(zone).map_err(|_| fail())?;
        completed = Some(format!("`{}` has no dot and is taken below `{zone}`", short(name)));
    }
    owner.set_fqdn(true);
    Ok((owner, completed))
}

fn short(text: &str) -> String {
    text.chars().take(80).collect()
}

fn text(record: &Record) -> LookupRecord {
    LookupRecord {
        name: record.name.to_string(),
        kind: record.record_type().to_string(),
        ttl: record.ttl,
        data: record.data.to_string(),
    }
}
