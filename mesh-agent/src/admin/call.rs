//! A request taken apart, an answer before it is HTTP, and what all of them share.

use super::{auth::Token, config::Limits, error::ApiError, routes::Action, state::Operations};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::StatusCode;
use mesh_control::model::{Name, ServiceKey};
use serde::de::DeserializeOwned;
use std::{convert::Infallible, sync::Arc, time::Instant};
use tokio::sync::watch;

/// What all listeners share.
pub(crate) struct Shared {
    pub(crate) operations: Arc<dyn Operations>,
    pub(crate) registry: prometheus::Registry,
    pub(crate) requests: prometheus::IntCounterVec,
    pub(crate) limits: Limits,
    pub(crate) token: Option<Token>,
    pub(crate) started: Instant,
    /// Turns true when the agent stops.
    pub(crate) stop: watch::Receiver<bool>,
}

/// A request, taken apart for the handlers.
pub(crate) struct Call {
    pub(crate) action: Action,
    /// The path's variable segments.
    pub(crate) path: Vec<String>,
    pub(crate) query: String,
    pub(crate) body: Bytes,
}

impl Call {
    /// The service that the path's first variable names.
    pub(crate) fn service(&self) -> Result<ServiceKey, ApiError> {
        let text = self.path.first().map_or("", String::as_str);
        service_key("name", text)
    }

    /// The instance that the path's second variable names.
    pub(crate) fn instance(&self) -> Result<Name, ApiError> {
        let text = self.path.get(1).map_or("", String::as_str);
        text.parse().map_err(|e| ApiError::field("instance", format!("{e}")))
    }

    /// The body as JSON.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        serde_json::from_slice(&self.body).map_err(|e| {
            ApiError::field("body", format!("the body is not what is expected: {e}"))
                .fix("GET /openapi.json describes it")
        })
    }

    /// The body as JSON; an empty one is the default.
    pub(crate) fn json_or_default<T: DeserializeOwned + Default>(&self) -> Result<T, ApiError> {
        if self.body.iter().all(u8::is_ascii_whitespace) { Ok(T::default()) } else { self.json() }
    }
}

/// Reads a service's name out of the request's `field`.
pub(crate) fn service_key(field: &str, text: &str) -> Result<ServiceKey, ApiError> {
    text.parse().map_err(|e| {
        ApiError::field(field, format!("{e}")).fix("write `web`, or `web.shop` outside the default namespace")
    })
}

/// The body of an answer: whole, or one that goes on.
pub(crate) type ReplyBody = UnsyncBoxBody<Bytes, Infallible>;

/// A body that is there whole.
pub(crate) fn whole(body: impl Into<Bytes>) -> ReplyBody {
    Full::new(body.into()).boxed_unsync()
}

/// An answer before it is HTTP.
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) content_type: &'static str,
    pub(crate) body: ReplyBody,
}

impl Reply {
    pub(crate) fn json<T: serde::Serialize>(status: StatusCode, value: &T) -> Reply {
        // Our own types always serialize; should one not, an empty body says more than a panic.
        let mut body = serde_json::to_vec(value).unwrap_or_default();
        body.push(b'\n');
        Reply { status, content_type: "application/json", body: whole(body) }
    }

    /// The answer to a write that has nothing else to say.
    pub(crate) fn done(text: String) -> Reply {
        Reply::json(StatusCode::OK, &super::wire::Done { done: text })
    }
}
