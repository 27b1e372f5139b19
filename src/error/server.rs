//! Errors that the backend returned.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use super::{Printable, ServerErrorCode};

/// The backend refused a request.
///
/// Source: realm-core `object-store/sync/app_utils.cpp` for the error body.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct ServerError {
    /// What was attempted, such as "log in".
    pub attempt: &'static str,
    /// The HTTP status.
    pub status: u16,
    /// The backend's symbolic code, if it sent one.
    pub code: Option<ServerErrorCode>,
    /// The backend's message, unchanged; `Display` escapes control characters.
    pub message: String,
    /// The URL of the backend's log of this request, if the backend sent one.
    pub log_link: Option<String>,
    /// How long to wait before retrying, from the `Retry-After` header.
    pub retry_after: Option<Duration>,
    /// The origin that a redirect pointed to, such as `https://example.org`, if keyfob did not
    /// follow it.
    pub redirect_origin: Option<String>,
    /// Whether the request changes something and may have taken effect: a proxy had no response of
    /// the backend (502 or 504 without a JSON object), a web page came with a 5xx other than 501,
    /// 503 and 511, or the response was a redirect (301, 302, 303).
    pub ambiguous: bool,
    /// Whether the same request may succeed later: the backend, or a proxy in front of it, is busy
    /// or down (302, 303, 307, 408, 429, 502, 503, 504; any 5xx if the request is harmless to
    /// repeat), or a web page came with a 4xx other than 404, 405 and 410, or with any 5xx.
    pub retryable: bool,
}

/// Why an account could not be linked; see [`Error::link_refusal`](crate::Error::link_refusal).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum LinkRefusal {
    /// The account belongs to another user. Log in with it instead.
    IdentityAlreadyInUse,
    /// Accounts of this provider cannot be linked.
    NotLinkable,
    /// The e-mail address is not registered or not confirmed, or the password is wrong.
    RegisterFirst,
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the backend refused to {}: ", self.attempt)?;
        if !self.message.is_empty() {
            let end = if self.redirect_origin.is_some() { ", and " } else { " " };
            write!(f, "{}{end}", Printable(&self.message))?;
        }
        if let Some(origin) = &self.redirect_origin {
            write!(f, "it redirects to {}, which keyfob does not follow ", Printable(origin))?;
        }
        match &self.code {
            Some(code) => write!(f, "(status {}, {})", self.status, Printable(code.as_str())),
            None => write!(f, "(status {})", self.status),
        }
    }
}

impl StdError for ServerError {}
