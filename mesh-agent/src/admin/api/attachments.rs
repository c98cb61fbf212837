//! Namespaces on the overlay's bridge.

use crate::{
    admin::{
        call::{Call, Reply, Shared},
        error::ApiError,
        query::Query,
        wire::{AttachBody, AttachmentJson, AttachmentsJson},
    },
    overlay::AttachRequest,
};
use hyper::StatusCode;

/// What a container's link is called unless told otherwise.
const NAME: &str = "eth0";

pub(super) async fn list(shared: &Shared, call: &Call) -> Result<Reply, ApiError> {
    Query::parse(&call.query, &[])?;
    let attachments = shared.operations.attachments().await?;
    let attachments = attachments.iter().map(AttachmentJson::from).collect();
    Ok(Reply::json(StatusCode::OK, &AttachmentsJson { attachments }))
}

pub(super) async fn attach(shared: &Shared, call: &Call) -> Result<Reply, ApiError> {
    Query::parse(&call.query, &[])?;
    let body: AttachBody = call.json()?;
    let name = body.name.unwrap_or_else(|| NAME.to_owned());
    let request = AttachRequest { netns: body.netns.into(), name, address: body.address };
    let attached = shared.operations.attach(request).await?;
    Ok(Reply::json(StatusCode::OK, &AttachmentJson::from(&attached)))
}

pub(super) async fn detach(shared: &Shared, call: &Call) -> Result<Reply, ApiError> {
    let query = Query::parse(&call.query, &["netns", "name"])?;
    let netns =
        query.get("netns").ok_or_else(|| ApiError::field("netns", "is missing: name the namespace"))?;
    let name = query.get("name").unwrap_or(NAME);
    let was = shared.operations.detach(netns.into(), name.to_owned()).await?;
    // Who cleans up after a container that is gone is told no error.
    let words = if was { "is detached" } else { "was not attached" };
    Ok(Reply::done(format!("{name} in {netns} {words}")))
}
