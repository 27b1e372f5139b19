//! API errors, and the responses they become.

use std::io;
use std::time::Duration;

use super::token::TokenFault;

/// An error response: `{"error","error_code","link"}` with this status.
///
/// Source: protocol facts from realm-core `object-store/sync/app.cpp` (`check_for_errors`) and
/// `src/realm/error_codes.cpp`.
#[derive(Debug)]
pub(super) struct ApiError {
    pub status: u16,
    /// The symbolic code, if the error has one.
    pub code: Option<&'static str>,
    pub message: String,
    /// Additional header fields.
    pub headers: Vec<(&'static str, String)>,
}

impl ApiError {
    pub(super) fn new(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code: Some(code), message: message.into(), headers: Vec::new() }
    }

    /// An error for which App Services has no code.
    pub(super) fn without_code(status: u16, message: impl Into<String>) -> Self {
        Self { status, code: None, message: message.into(), headers: Vec::new() }
    }

    pub(super) fn with_header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    pub(super) fn invalid_parameter(message: impl Into<String>) -> Self {
        Self::new(400, "InvalidParameter", message)
    }

    pub(super) fn missing_parameter(name: &str) -> Self {
        Self::new(400, "MissingParameter", format!("missing parameter: {name}"))
    }

    /// Makes the client refresh its access token. If the client sent a refresh token, this ends its
    /// log-in.
    pub(super) fn invalid_session(message: impl Into<String>) -> Self {
        Self::new(401, "InvalidSession", message)
    }

    /// The refresh token was revoked, has expired, or never existed.
    pub(super) fn no_session() -> Self {
        Self::invalid_session("invalid session: failed to find refresh token")
    }

    pub(super) fn user_gone() -> Self {
        Self::invalid_session("invalid session: failed to find user")
    }

    pub(super) fn user_disabled_session() -> Self {
        Self::invalid_session("invalid session: user is disabled")
    }

    pub(super) fn access_token(fault: TokenFault) -> Self {
        Self::invalid_session(match fault {
            TokenFault::Expired => "invalid session: access token expired",
            TokenFault::Invalid => "invalid session: this backend did not issue the access token",
            TokenFault::WrongType => "invalid access token: incorrect token type",
        })
    }

    pub(super) fn refresh_token(fault: TokenFault) -> Self {
        match fault {
            TokenFault::Expired => Self::no_session(),
            TokenFault::Invalid => Self::invalid_session(
                "invalid session: this backend did not issue the refresh token",
            ),
            TokenFault::WrongType => {
                Self::invalid_session("invalid refresh token: incorrect token type")
            }
        }
    }

    pub(super) fn invalid_password() -> Self {
        Self::new(401, "InvalidPassword", "unauthorized")
    }

    pub(super) fn auth_error(message: impl Into<String>) -> Self {
        Self::new(401, "AuthError", message)
    }

    /// The app has no such provider, or it is disabled.
    ///
    /// Source: mongodb/docs-realm issue 1127 for the text, which is also the response to a
    /// registration.
    pub(super) fn unsupported_provider(provider: &str) -> Self {
        let message = format!("authentication via '{provider}' is unsupported");
        Self::new(404, "AuthProviderNotFound", message)
    }

    /// The client exceeded a rate limit and must wait this long.
    pub(super) fn too_many(message: &str, wait: Duration) -> Self {
        // Round up, so that the client does not retry too early.
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        Self::without_code(429, message)
            .with_header("Retry-After", seconds.max(1).to_string())
            .with_header("Access-Control-Expose-Headers", "Retry-After")
    }

    /// The server has the maximum number of users. The status is not 429 or 503, because a retry
    /// does not help.
    pub(super) fn full() -> Self {
        Self::without_code(403, "the server has as many users as it may have")
    }

    pub(super) fn internal(message: impl Into<String>) -> Self {
        Self::new(500, "InternalServerError", message)
    }
}

/// A change could not be stored. The cause is not sent to the client, because it may contain paths.
impl From<io::Error> for ApiError {
    fn from(error: io::Error) -> Self {
        Self::internal(match error.kind() {
            io::ErrorKind::OutOfMemory => "the server is out of memory",
            io::ErrorKind::StorageFull => "the server's disk is full",
            _ => "the server could not store the change",
        })
    }
}
