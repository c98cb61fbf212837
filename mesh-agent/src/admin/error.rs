//! Errors of the API: a status and `{error, field?, fix?}`.

use super::{state::OperationError, wire::ErrorBody};
use hyper::StatusCode;

/// An error on its way to the client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    pub(crate) body: Box<ErrorBody>,
    /// The methods a 405 allows (RFC 9110 section 15.5.6).
    pub(crate) allow: Option<String>,
    /// The connection cannot be used further, as a body is left unread on it.
    pub(crate) close: bool,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, error: impl Into<String>) -> Self {
        let body = Box::new(ErrorBody { error: error.into(), ..ErrorBody::default() });
        ApiError { status, body, allow: None, close: false }
    }

    pub(crate) fn field(field: &str, error: impl Into<String>) -> Self {
        let mut e = ApiError::new(StatusCode::BAD_REQUEST, error);
        e.body.field = Some(field.to_owned());
        e
    }

    pub(crate) fn fix(mut self, fix: impl Into<String>) -> Self {
        self.body.fix = Some(fix.into());
        self
    }

    pub(crate) fn closing(mut self) -> Self {
        self.close = true;
        self
    }
}

impl From<OperationError> for ApiError {
    fn from(error: OperationError) -> Self {
        match error {
            OperationError::NotFound(text) => ApiError::new(StatusCode::NOT_FOUND, text),
            OperationError::Invalid { field, problem } => ApiError::field(&field, problem),
            OperationError::Conflict { problem, fix } => {
                ApiError::new(StatusCode::CONFLICT, problem).fix(fix)
            }
            OperationError::Unavailable(text) => ApiError::new(StatusCode::SERVICE_UNAVAILABLE, text)
                .fix("try again; `mesh-agent status` shows what is missing"),
        }
    }
}
