//! Where a CNAME leads out of what is ours. A stub resolver takes the whole chain or nothing, so the rest is fetched.

use super::respond::Responder;
use crate::{answer::Answer, forward::Permit};
use hickory_proto::{
    op::{Message, Query, ResponseCode},
    rr::{Name, RecordType},
};

impl Responder {
    /// `known`, and after it what the upstreams say of the name it leads to, their code included; SERVFAIL when that
    /// cannot be had.
    pub(super) async fn complete(&self, known: Answer, kind: RecordType, permit: Permit) -> Answer {
        let failed = || Answer::bare(ResponseCode::ServFail);
        let Some(packet) = known.rest.clone().and_then(|name| packet(name, kind)) else { return failed() };
        let reply = match self.forwarder.forward(&packet, true, permit).await {
            Ok(forwarded) => forwarded.reply,
            Err(error) => {
                tracing::debug!(%error, "where a CNAME leads is not known");
                return failed();
            }
        };
        let Ok(message) = Message::from_vec(&reply) else { return failed() };
        let Answer { mut answers, .. } = known;
        answers.extend(message.answers);
        let (rcode, authority) = (message.metadata.response_code, message.authorities);
        Answer { rcode, answers, authority, additional: Vec::new(), rest: None }
    }
}

fn packet(name: Name, kind: RecordType) -> Option<Vec<u8>> {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name, kind));
    message.to_vec().ok()
}
