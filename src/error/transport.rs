//! Errors of a transport: no usable response arrived.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use super::Printable;

/// No usable response came back.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TransportError {
    /// What kind of failure it was.
    pub kind: TransportErrorKind,
    /// The origin that the request was for, such as `https://example.org`.
    pub origin: String,
    /// Whether the request changes something and may have reached the backend, so that repeating
    /// it could do it twice.
    pub ambiguous: bool,
    unsent: bool,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

/// The kinds of [`TransportError`].
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum TransportErrorKind {
    /// The response to a request that succeeded is larger than the limit.
    BodyTooLarge,
    /// The host could not be reached, or ended the TLS handshake. Nothing was sent.
    Connect,
    /// A web page came as if it were a success: something between here and the backend, such as the
    /// sign-on page of a network, responded in its place.
    Intercepted,
    /// The connection broke after at least a part of the request had been sent.
    Interrupted,
    /// The URL cannot be requested: malformed, or plain http to another machine.
    InvalidUrl,
    /// What responded to a log-in, a registration or another request without a token does not look
    /// like an App Services backend: the base URL is probably another service's. The
    /// [`source`](StdError::source) says what was seen.
    NotABackend,
    /// The response is not HTTP, or has an encoding that keyfob did not ask for.
    Protocol,
    /// The proxy refused to connect, with a status such as 407 (user name or password missing or
    /// wrong). Nothing was sent.
    Proxy,
    /// The host name could not be resolved. Nothing was sent.
    Resolve,
    /// The deadline passed.
    Timeout,
    /// The server's certificate or its TLS version was rejected. Nothing was sent.
    Tls,
}

impl TransportError {
    /// Creates an error of a kind. It becomes ambiguous only if the session, which knows what the
    /// request was for, marks it so.
    pub fn new(kind: TransportErrorKind, origin: impl Into<String>) -> Self {
        Self { kind, origin: origin.into(), ambiguous: false, unsent: false, source: None }
    }

    /// Marks that the failure happened before anything was sent, where the kind alone does not say
    /// so.
    #[must_use]
    pub fn before_sending(mut self) -> Self {
        self.unsent = true;
        self
    }

    /// Adds the cause, for [`source`](StdError::source).
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(Arc::from(source.into()));
        self
    }

    /// Returns `true` if the backend may have received the request.
    pub fn may_have_arrived(&self) -> bool {
        !self.unsent
            && matches!(
                self.kind,
                TransportErrorKind::BodyTooLarge
                    | TransportErrorKind::Intercepted
                    | TransportErrorKind::Interrupted
                    | TransportErrorKind::Protocol
                    | TransportErrorKind::Timeout
            )
    }
}

impl fmt::Display for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            TransportErrorKind::BodyTooLarge => "the response is larger than the limit",
            TransportErrorKind::Connect => "cannot connect",
            TransportErrorKind::Intercepted => {
                "what responded does not look like an App Services backend, it returned a web page, \
                 check the base URL and whether this network requires a sign-on"
            }
            TransportErrorKind::Interrupted => {
                "the connection broke before the response was complete"
            }
            TransportErrorKind::InvalidUrl => "the URL cannot be requested",
            TransportErrorKind::NotABackend => {
                "what responded does not look like an App Services backend, check the base URL"
            }
            TransportErrorKind::Protocol => "the response is not valid HTTP",
            TransportErrorKind::Proxy => {
                "the proxy refused to connect, check its URL, user name and password"
            }
            TransportErrorKind::Resolve => "the host name cannot be resolved",
            TransportErrorKind::Timeout => "the deadline passed before a response arrived",
            TransportErrorKind::Tls => "the server's certificate or TLS was rejected",
        };
        write!(f, "{what}: {}", Printable(&self.origin))
    }
}

impl StdError for TransportError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}
