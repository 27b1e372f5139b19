//! Errors of a sign-in with an identity provider.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use super::Printable;

/// A sign-in in the browser or on another device failed. No user was logged in.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SignInError {
    /// The kind of failure.
    pub kind: SignInErrorKind,
    /// The issuer of the provider, such as `https://accounts.google.com`.
    pub provider: String,
    /// The provider's error code, such as `access_denied`, if it sent one.
    pub code: Option<String>,
    /// What happened, or the provider's description of its error. It holds no secret.
    pub reason: String,
    retryable: bool,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

/// The kinds of [`SignInError`].
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum SignInErrorKind {
    /// The response of the provider is invalid: it is malformed, or failed a check such as that of
    /// the ID token's nonce.
    InvalidResponse,
    /// keyfob could not listen on a port for the response.
    Listener,
    /// The provider or the person refused: see [`SignInError::code`].
    Refused,
    /// The request for the tokens was sent, and no complete response arrived. The provider may have
    /// used up the code, so keyfob does not send it again: start a new sign-in.
    ResponseLost,
    /// The person did not complete the sign-in in time.
    TimedOut,
    /// The provider responded that it cannot respond now (429 or 5xx).
    Unavailable,
}

#[cfg(feature = "browser")]
impl SignInError {
    pub(crate) fn new(
        kind: SignInErrorKind,
        provider: impl Into<String>,
        reason: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            provider: provider.into(),
            code: None,
            reason: reason.into(),
            retryable: false,
            source: None,
        }
    }

    pub(crate) fn with_code(self, code: impl Into<String>) -> Self {
        Self { code: Some(code.into()), ..self }
    }

    /// Marks that the same call may succeed later and that no person was asked to sign in yet.
    pub(crate) fn retryable(self) -> Self {
        Self { retryable: true, ..self }
    }

    pub(crate) fn because(self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self { source: Some(Arc::from(source.into())), ..self }
    }
}

impl SignInError {
    /// Returns `true` if the same call may succeed later and no person was asked to sign in yet.
    pub(super) fn is_retryable(&self) -> bool {
        self.retryable
    }
}

impl fmt::Display for SignInError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (provider, reason) = (Printable(&self.provider), Printable(&self.reason));
        match self.kind {
            SignInErrorKind::InvalidResponse => {
                write!(f, "the response of {provider} cannot be used: {reason}")
            }
            SignInErrorKind::Listener => {
                write!(f, "cannot listen for the response of {provider}: {reason}")
            }
            SignInErrorKind::Refused => {
                write!(f, "{provider} refused the sign-in")?;
                if let Some(code) = &self.code {
                    write!(f, ": {}", Printable(code))?;
                }
                if self.reason.is_empty() { Ok(()) } else { write!(f, " ({reason})") }
            }
            SignInErrorKind::ResponseLost => write!(
                f,
                "the tokens from {provider} did not arrive, and its code may have been used up: \
                 start the sign-in again"
            ),
            SignInErrorKind::TimedOut => {
                write!(f, "the sign-in with {provider} was not completed in time: {reason}")
            }
            SignInErrorKind::Unavailable => {
                write!(f, "{provider} is not available: {reason}")
            }
        }
    }
}

impl StdError for SignInError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}
