//! `dns query NAME`: what the server would say, for people.

use super::{record_type, respond::Responder};
use crate::{
    answer::Question,
    forward::{ForwardError, Forwarded},
    metrics::code,
};
use hickory_proto::{
    op::{Message, Query},
    rr::{Name, Record},
};
use serde::{Deserialize, Serialize};

/// The answer to one question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

pub(super) async fn query(responder: &Responder, name: &str, kind: &str) -> Result<LookupReply, LookupError> {
    let short = |text: &str| text.chars().take(80).collect::<String>();
    let kind_of = record_type(kind).ok_or_else(|| LookupError::Type(short(kind)))?;
    let fail = || LookupError::Name(short(name));
    if name.is_empty() {
        return Err(fail());
    }
    let mut owner = Name::from_ascii(name).map_err(|_| fail())?;
    if owner.iter().len() == 1 && !owner.is_fqdn() {
        owner = owner.append_domain(responder.options.zone.origin()).map_err(|_| fail())?;
    }
    owner.set_fqdn(true);
    let question = Question::new(owner.clone(), kind_of);
    let mut reply = LookupReply {
        name: owner.to_string(),
        kind: kind_of.to_string(),
        rcode: String::new(),
        source: AnswerSource::Mesh,
        upstream: None,
        answers: Vec::new(),
        authority: Vec::new(),
    };
    let mut known = responder.answer(&question);
    if let Some(answer) = known.take_if(|a| a.rest.is_some() && !responder.forwarder.is_empty()) {
        let permit = responder.forwarder.admit().ok_or(LookupError::Busy)?;
        known = Some(responder.complete(answer, kind_of, permit).await);
    }
    let (rcode, answers, authority) = match known {
        Some(answer) => (answer.rcode, answer.answers, answer.authority),
        None => {
            reply.source = AnswerSource::Forwarded;
            let mut message = Message::query();
            message.metadata.recursion_desired = true;
            message.add_query(Query::query(owner, kind_of));
            let packet = message.to_vec().map_err(|_| fail())?;
            let permit = responder.forwarder.admit().ok_or(LookupError::Busy)?;
            let Forwarded { reply: octets, upstream, .. } =
                responder.forwarder.forward(&packet, true, permit).await?;
            let malformed = |e: hickory_proto::serialize::binary::DecodeError| LookupError::Malformed {
                upstream: upstream.to_string(),
                problem: e.to_string(),
            };
            let message = Message::from_vec(&octets).map_err(malformed)?;
            reply.upstream = Some(upstream.to_string());
            (message.metadata.response_code, message.answers, message.authorities)
        }
    };
    reply.rcode = code(rcode).to_owned();
    reply.answers = answers.iter().map(text).collect();
    reply.authority = authority.iter().map(text).collect();
    Ok(reply)
}

fn text(record: &Record) -> LookupRecord {
    LookupRecord {
        name: record.name.to_string(),
        kind: record.record_type().to_string(),
        ttl: record.ttl,
        data: record.data.to_string(),
    }
}
