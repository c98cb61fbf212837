//! What each operation does: parse, ask the backend, answer JSON.

mod attachments;
mod endpoints;
mod events;
mod keys;
mod queries;
mod services;
mod status;

use super::{
    call::{Call, Reply, Shared, whole},
    error::ApiError,
    probes,
    routes::Action,
};
use hyper::StatusCode;

/// The OpenAPI document, as it is served.
pub const OPENAPI: &str = include_str!("../openapi.json");

/// Answers a call.
pub(crate) async fn answer(shared: &Shared, call: Call) -> Result<Reply, ApiError> {
    match call.action {
        Action::Status => status::status(shared, &call),
        Action::Services => services::list(shared, &call),
        Action::Service => services::detail(shared, &call).await,
        Action::Apply => services::apply(shared, &call).await,
        Action::RemoveService => services::remove(shared, &call).await,
        Action::Publish => services::publish(shared, &call).await,
        Action::Unpublish => services::unpublish(shared, &call).await,
        Action::Endpoints => endpoints::list(shared, &call).await,
        Action::AddEndpoint => endpoints::add(shared, &call).await,
        Action::RemoveEndpoint => endpoints::remove(shared, &call).await,
        Action::Drain => endpoints::drain(shared, &call).await,
        Action::Undrain => endpoints::undrain(shared, &call).await,
        Action::Nodes => queries::nodes(shared, &call),
        Action::DrainNode => queries::drain_node(shared, &call).await,
        Action::ForgetNode => queries::forget_node(shared, &call).await,
        Action::Events => events::events(shared, &call),
        Action::Keys => keys::list(shared, &call),
        Action::AddKey => keys::add(shared, &call).await,
        Action::UseKey => keys::put_in_use(shared, &call).await,
        Action::RemoveKey => keys::remove(shared, &call).await,
        Action::RenewKey => keys::renew(shared, &call).await,
        Action::CreateToken => keys::create_token(shared, &call),
        Action::Dns => queries::dns(shared, &call).await,
        Action::Explain => queries::explain(shared, &call).await,
        Action::Plan => queries::plan(shared, &call).await,
        Action::Attachments => attachments::list(shared, &call).await,
        Action::Attach => attachments::attach(shared, &call).await,
        Action::Detach => attachments::detach(shared, &call).await,
        Action::OpenApi => {
            let body = whole(OPENAPI);
            Ok(Reply { status: StatusCode::OK, content_type: "application/json", body })
        }
        Action::Metrics | Action::Livez | Action::Readyz | Action::Healthz => {
            Ok(probes::answer(shared, call.action).await)
        }
    }
}
