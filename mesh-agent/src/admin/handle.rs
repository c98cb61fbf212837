//! One request: authentication, limits, route, answer.

use super::{
    api,
    auth::{check_host, check_origin},
    call::{Call, Reply, ReplyBody, Shared},
    config::Limits,
    error::ApiError,
    follow,
    routes::{Action, Found, find},
};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body, Incoming},
    header::{self, HeaderValue},
};
use std::time::Instant;
use tokio::time::timeout;

/// Through which listener a request came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Door {
    /// The unix socket: whoever may open it may do everything.
    Unix,
    /// TCP on loopback without proof of who asks.
    TcpOpen,
    /// TCP with a token, a client certificate or both.
    TcpProven,
    /// Metrics and probes only.
    Metrics,
}

impl Door {
    fn as_str(self) -> &'static str {
        match self {
            Door::Unix => "unix",
            Door::TcpOpen | Door::TcpProven => "tcp",
            Door::Metrics => "metrics",
        }
    }
}

/// Answers a request; every failure is an answer too.
pub(crate) async fn handle(shared: &Shared, door: Door, request: Request<Incoming>) -> Response<ReplyBody> {
    let started = Instant::now();
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let (response, status) = match answer(shared, door, request).await {
        Ok(reply) => {
            let status = reply.status;
            (respond(reply), status)
        }
        Err(error) => {
            let status = error.status;
            (respond_error(&error), status)
        }
    };
    shared.requests.with_label_values(&[door.as_str(), status.as_str()]).inc();
    let us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
    if method == Method::GET || method == Method::HEAD {
        tracing::debug!(listener = door.as_str(), %method, path, status = status.as_u16(), us, "admin request");
    } else {
        tracing::info!(listener = door.as_str(), %method, path, status = status.as_u16(), us, "admin request");
    }
    response
}

async fn answer(shared: &Shared, door: Door, request: Request<Incoming>) -> Result<Reply, ApiError> {
    let found = find(request.method().as_str(), request.uri().path());
    let probe = matches!(found, Found::Route(action, _) if action.is_probe());
    match door {
        Door::TcpOpen => {
            check_host(request.headers())?;
            check_origin(request.method(), request.headers())?;
        }
        Door::TcpProven if !probe => match &shared.token {
            // No page has the token, so whoever brings it may be one of any site.
            Some(token) => token.check(request.headers())?,
            None => check_origin(request.method(), request.headers())?,
        },
        _ => {}
    }
    let nothing = || {
        ApiError::new(StatusCode::NOT_FOUND, format!("there is no {}", shorten(request.uri().path())))
            .fix("GET /openapi.json lists what there is")
    };
    let (action, path) = match found {
        Found::Route(action, path) => (action, path),
        Found::Nothing => return Err(nothing()),
        Found::Methods(methods) => {
            let text = format!("{} does not work here; {methods} does", shorten(request.method().as_str()));
            let mut error = ApiError::new(StatusCode::METHOD_NOT_ALLOWED, text);
            error.allow = Some(methods);
            return Err(error);
        }
    };
    if door == Door::Metrics && !(probe || action == Action::Metrics) {
        return Err(nothing());
    }
    if door == Door::TcpOpen && action.needs_proof() {
        return Err(ApiError::new(
            StatusCode::FORBIDDEN,
            "keys, join tokens and namespaces are not for whoever reaches this port",
        )
        .fix("use the unix socket, or set admin.token_file"));
    }
    let query = request.uri().query().unwrap_or_default().to_owned();
    let body = read_body(request.into_body(), &shared.limits).await?;
    let call = Call { action, path, query, body };
    timeout(shared.limits.answer_timeout, api::answer(shared, call)).await.unwrap_or_else(|_| {
        let limit = shared.limits.answer_timeout;
        let text = format!("a part of the agent did not answer within {limit:?}");
        Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, text)
            .fix("see the agent's log, and /healthz for what does not work"))
    })
}

/// Reads the body whole, never more than the limit: a length that is too large is refused before a byte is read.
async fn read_body(body: Incoming, limits: &Limits) -> Result<Bytes, ApiError> {
    let too_large = || {
        let text = format!("the body is larger than {} bytes", limits.body);
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, text)
            .fix("apply the services in several files")
            .closing()
    };
    if body.size_hint().lower() > limits.body as u64 {
        return Err(too_large());
    }
    match timeout(limits.body_timeout, Limited::new(body, limits.body).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err(ApiError::new(StatusCode::BAD_REQUEST, "the body is broken off").closing()),
        Err(_) => {
            let text = format!("the body did not arrive within {:?}", limits.body_timeout);
            Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, text).closing())
        }
    }
}

/// What is echoed to the client stays short.
fn shorten(text: &str) -> String {
    text.chars().take(100).collect()
}

fn respond(reply: Reply) -> Response<ReplyBody> {
    let mut response = Response::new(reply.body);
    *response.status_mut() = reply.status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(reply.content_type));
    if reply.content_type == follow::CONTENT_TYPE {
        // A client that is dropped must not hold the connection either.
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn respond_error(error: &ApiError) -> Response<ReplyBody> {
    let mut response = respond(Reply::json(error.status, &error.body));
    let headers = response.headers_mut();
    if let Some(Ok(allow)) = error.allow.as_deref().map(HeaderValue::from_str) {
        headers.insert(header::ALLOW, allow);
    }
    if error.status == StatusCode::UNAUTHORIZED {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if error.close {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
