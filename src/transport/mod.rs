//! The [`Transport`] trait, which sends a request and returns its response.
//!
//! A transport knows neither users nor retries. It sends each request once, follows no redirect, and
//! does not interpret the response.

mod proxy;
mod ureq;

use std::fmt;
use std::sync::Arc;

pub use self::ureq::{UreqTransport, UreqTransportBuilder};
use crate::deadline::Deadline;
use crate::error::TransportError;
use crate::secret::{Body, Secret};

/// Sends requests to the backend.
///
/// A session uses [`UreqTransport`] unless
/// [`SessionBuilder::transport`](crate::SessionBuilder::transport) sets another one, such as a
/// transport that records requests or returns scripted responses in a test. Closures are transports.
pub trait Transport: Send + Sync + 'static {
    /// Sends a request once and returns its complete response, whatever the status, by
    /// [`Request::deadline`].
    ///
    /// # Errors
    /// If no complete response arrived. [`TransportError::may_have_arrived`] must be `true` unless
    /// it is certain that the backend did not receive the request.
    fn send(&self, request: &Request) -> Result<Response, TransportError>;

    /// Checks, without network, that requests to a base URL can be sent. Called when a session is
    /// opened. By default every URL is accepted.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config), which
    /// [`SessionBuilder::open`](crate::SessionBuilder::open) returns.
    fn check(&self, base_url: &str) -> crate::Result<()> {
        let _ = base_url;
        Ok(())
    }

    /// Aborts the requests in progress, because the session was shut down. By default they end with
    /// their response or at their deadline.
    fn shut_down(&self) {}
}

impl<F> Transport for F
where
    F: Fn(&Request) -> Result<Response, TransportError> + Send + Sync + 'static,
{
    fn send(&self, request: &Request) -> Result<Response, TransportError> {
        self(request)
    }
}

/// The HTTP methods that the protocol uses.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Method {
    /// `DELETE`
    Delete,
    /// `GET`
    Get,
    /// `POST`
    Post,
    /// `PUT`
    Put,
}

/// A request. `Debug` shows neither token nor body.
#[derive(Clone)]
pub struct Request {
    pub(crate) method: Method,
    pub(crate) url: String,
    pub(crate) bearer: Option<Secret>,
    pub(crate) body: Option<Arc<Body>>,
    pub(crate) deadline: Deadline,
    pub(crate) fresh: bool,
    pub(crate) limit: u64,
    /// Whether the body is a form, for identity providers.
    pub(crate) is_form: bool,
    /// The value of the `Authorization` header after `Basic `.
    pub(crate) basic: Option<Secret>,
}

/// A response. `Debug` shows no body.
#[derive(Clone, Default)]
pub struct Response {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Body,
    /// Whether it came from the target of a redirect, and not from the backend's known location.
    pub(crate) was_redirected: bool,
    /// Whether the body is longer, or could not be decoded to its end.
    pub(crate) is_truncated: bool,
}

impl Method {
    /// Returns the method as it is on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delete => "DELETE",
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
        }
    }
}

impl Request {
    /// A request without token and body, for responses of at most `limit` bytes.
    pub(crate) fn new(method: Method, url: String, deadline: Deadline, limit: u64) -> Self {
        Self {
            method,
            url,
            bearer: None,
            body: None,
            deadline,
            fresh: false,
            limit,
            is_form: false,
            basic: None,
        }
    }

    /// Returns the method.
    pub fn method(&self) -> Method {
        self.method
    }

    /// Returns the absolute URL. It holds no secret.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns the token for the `Authorization` header, after `Bearer `.
    pub fn bearer(&self) -> Option<&str> {
        self.bearer.as_ref().map(Secret::expose)
    }

    /// Returns the body, which is JSON. A request without a body has no `Content-Type`, because
    /// Flowerbase rejects an empty JSON body.
    pub fn body(&self) -> Option<&[u8]> {
        self.body.as_ref().map(|body| &body[..])
    }

    /// Returns the deadline for the complete response.
    pub fn deadline(&self) -> Deadline {
        self.deadline
    }

    /// Returns the largest body of a successful response, in bytes. [`UreqTransport`] keeps the first
    /// 1 MiB of any other response.
    pub fn max_answer(&self) -> u64 {
        self.limit
    }

    /// Returns `true` if a new connection must be used, because an idle one just broke.
    pub fn wants_fresh_connection(&self) -> bool {
        self.fresh
    }
}

impl Response {
    /// The headers of a response that are kept.
    pub(crate) const HEADERS: [&'static str; 4] =
        ["content-type", "date", "location", "retry-after"];

    /// Creates a response with a status and a body.
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, body: body.into().into(), ..Self::default() }
    }

    /// Adds a header. Only `Content-Type`, `Date`, `Location` and `Retry-After` are kept; the session
    /// uses no others.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: impl Into<String>) -> Self {
        if let Some(name) = Self::HEADERS.iter().find(|kept| kept.eq_ignore_ascii_case(name)) {
            self.headers.push((name, value.into()));
        }
        self
    }

    /// Returns the status.
    pub fn status(&self) -> u16 {
        self.status
    }

    pub(crate) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// Returns a header by its case-insensitive name.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(kept, _)| kept.eq_ignore_ascii_case(name))?;
        Some(value)
    }

    /// Returns the body.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    pub(crate) fn into_body(self) -> Vec<u8> {
        self.body.into_bytes()
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("method", &self.method)
            .field("url", &self.url)
            .field("bearer", &self.bearer)
            .field("body_len", &self.body().map(<[u8]>::len))
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Response")
            .field("status", &self.status)
            .field("headers", &self.headers)
            .field("body_len", &self.body.len())
            .finish()
    }
}
