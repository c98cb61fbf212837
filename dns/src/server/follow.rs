//! Where a CNAME leads out of what is ours. A stub resolver takes the whole chain or nothing, so the rest is fetched.

use super::respond::Responder;
use crate::{
    answer::Answer,
    forward::{Forwarded, Permit},
};
use hickory_proto::{
    op::{Message, Query, ResponseCode},
    rr::{Name, RecordType},
};
use std::sync::Arc;

impl Responder {
    /// `known`, and after it what the upstreams say of the name it leads to, their code included, and who said so;
    /// SERVFAIL, and why, when that cannot be had.
    pub(super) async fn complete(
        &self,
        known: Answer,
        kind: RecordType,
        permit: Permit,
    ) -> (Answer, Result<Arc<str>, String>) {
        match self.rest(&known, kind, permit).await {
            Ok((message, upstream)) => {
                let Answer { mut answers, .. } = known;
                answers.extend(message.answers);
                let (rcode, authority) = (message.metadata.response_code, message.authorities);
                (Answer { rcode, answers, authority, additional: Vec::new(), rest: None }, Ok(upstream))
            }
            Err(problem) => {
                tracing::debug!(problem, "where a CNAME leads is not known");
                (Answer::bare(ResponseCode::ServFail), Err(problem))
            }
        }
    }

    async fn rest(
        &self,
        known: &Answer,
        kind: RecordType,
        permit: Permit,
    ) -> Result<(Message, Arc<str>), String> {
        let packet = known.rest.clone().and_then(|name| packet(name, kind)).ok_or("the name is too long")?;
        let Forwarded { reply, upstream, .. } =
            self.forwarder.forward(&packet, true, permit).await.map_err(|e| e.to_string())?;
        Ok((Message::from_vec(&reply).map_err(|e| format!("{upstream}: {e}"))?, upstream))
    }
}

/// A query of our own.
pub(super) fn packet(name: Name, kind: RecordType) -> Option<Vec<u8>> {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name, kind));
    message.to_vec().ok()
}
