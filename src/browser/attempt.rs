//! One sign-in attempt: its deadline, its requests to the provider, and its secrets, which must not
//! appear in errors.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::endpoints::{ClientAuth, Endpoints};
use super::id_token::{self, Expected};
use super::tokens::TokenResponse;
use super::{ProviderTokens, SignIn, endpoints};
use crate::clock::{Clock, SystemClock, milliseconds};
use crate::deadline::Deadline;
use crate::diagnostics::{Brief, note};
use crate::error::{Error, Result, SignInError, SignInErrorKind as Kind, TransportError};
use crate::form;
use crate::secret::Secret;
use crate::transport::{Method, Request, Response, Transport, UreqTransport};

/// The time limit of one request to a provider.
const REQUEST_LIMIT: Duration = Duration::from_secs(30);

/// How often a wait checks for cancellation.
pub(super) const POLL: Duration = Duration::from_millis(20);

/// The maximum size of a provider's response, in bytes.
const MAX_RESPONSE: u64 = 1024 * 1024;

/// A sign-in in progress.
pub(super) struct Attempt<'a> {
    pub(super) sign_in: &'a SignIn,
    pub(super) deadline: Deadline,
    transport: UreqTransport,
    /// The issuer, as shown in errors.
    provider: String,
    /// Secrets that were sent to the provider and that it may repeat in its errors.
    secrets: Vec<Secret>,
}

impl<'a> Attempt<'a> {
    pub(super) fn new(sign_in: &'a SignIn, deadline: Deadline) -> Result<Self> {
        sign_in.check()?;
        Ok(Self {
            sign_in,
            deadline,
            transport: sign_in.transport.clone().unwrap_or_default(),
            provider: sign_in.source.issuer().to_owned(),
            secrets: sign_in.client_secret.iter().cloned().collect(),
        })
    }

    /// Returns a new random secret of 256 bits that is safe in a URL.
    pub(super) fn secret(&mut self) -> Result<Secret> {
        let secret = super::random::secret()?;
        self.keep_quiet(&secret);
        Ok(secret)
    }

    /// Excludes a secret from the errors of this attempt.
    pub(super) fn keep_quiet(&mut self, secret: &Secret) {
        self.secrets.push(secret.clone());
    }

    /// Returns the provider's endpoints, from its discovery document if necessary.
    pub(super) fn endpoints(&self) -> Result<Endpoints> {
        let issuer = match &self.sign_in.source {
            super::Source::Discovery(issuer) => issuer,
            super::Source::Endpoints(endpoints) => return Ok(endpoints.clone()),
        };
        let url = endpoints::discovery_url(issuer)
            .map_err(|reason| Error::config("the issuer", reason))?;
        self.transport.check(&url)?;
        let response = self.send(&self.request(Method::Get, url))??;
        let discovered = Endpoints::discovered(issuer, &response);
        discovered.map_err(|reason| match response.status() {
            429 | 500.. => {
                SignInError::new(Kind::Unavailable, &self.provider, reason).retryable().into()
            }
            _ => self.failure(Kind::InvalidResponse, reason),
        })
    }

    /// Posts a form with this client's id and secret.
    ///
    /// # Errors
    /// The outer error is [`Error::Cancelled`] or an expired deadline; the inner error says that no
    /// response arrived.
    pub(super) fn post(
        &self,
        endpoints: &Endpoints,
        url: &str,
        fields: &[(&str, &str)],
    ) -> Result<Result<Response, TransportError>> {
        let mut request = self.request(Method::Post, url.to_owned());
        let (client_id, secret) = (self.sign_in.client_id.as_str(), &self.sign_in.client_secret);
        let mut fields = fields.to_vec();
        match (secret, endpoints.client_auth) {
            (None, _) => fields.push(("client_id", client_id)),
            (Some(secret), ClientAuth::Basic) => {
                request.basic = Some(basic(client_id, secret));
            }
            (Some(secret), ClientAuth::Body) => {
                fields.extend([("client_id", client_id), ("client_secret", secret.expose())]);
            }
            (Some(_), ClientAuth::Unsupported) => {
                let reason = "the provider accepts none: leave it out";
                return Err(Error::config("the client secret", reason));
            }
        }
        request.body = Some(Arc::new(form::encode(fields).into_bytes().into()));
        request.is_form = true;
        self.send(&request)
    }

    /// Checks an ID token and returns the tokens.
    pub(super) fn accept(
        &self,
        endpoints: &Endpoints,
        response: &Response,
        nonce: Option<&Secret>,
    ) -> Result<ProviderTokens> {
        let tokens = match TokenResponse::parse(response) {
            TokenResponse::Tokens { id_token, access_token, refresh_token } => ProviderTokens {
                backend_provider: self.sign_in.backend_provider.clone(),
                id_token,
                access_token,
                refresh_token,
            },
            refused => return Err(self.refusal(refused)),
        };
        let date = response.header("date").and_then(crate::http_date::parse);
        let expected = Expected {
            issuers: &endpoints.issuers,
            client_id: &self.sign_in.client_id,
            nonce: nonce.map(Secret::expose),
            // The local clock may be wrong, so prefer the provider's `Date` header.
            now: date.unwrap_or_else(now),
        };
        id_token::check(&tokens.id_token, &expected).map_err(|reason| {
            self.failure(Kind::InvalidResponse, format!("its ID token is refused: {reason}"))
        })?;
        Ok(tokens)
    }

    /// Returns the error for a response without tokens.
    pub(super) fn refusal(&self, response: TokenResponse) -> Error {
        match response {
            TokenResponse::Refused { code, description } => self.refused(&code, &description),
            TokenResponse::Unavailable(reason) => self.failure(Kind::Unavailable, reason),
            TokenResponse::Invalid(reason) => self.failure(Kind::InvalidResponse, reason),
            TokenResponse::Tokens { .. } => self.failure(Kind::InvalidResponse, "it has tokens"),
        }
    }

    /// Returns the error for a refusal, with the provider's code and description.
    pub(super) fn refused(&self, code: &str, description: &str) -> Error {
        let reason = self.without_secrets(description.to_owned());
        let code = self.without_secrets(code.to_owned());
        SignInError::new(Kind::Refused, &self.provider, reason).with_code(code).into()
    }

    pub(super) fn failure(&self, kind: Kind, reason: impl Into<String>) -> Error {
        SignInError::new(kind, &self.provider, self.without_secrets(reason.into())).into()
    }

    /// Returns the error for a token request that was sent but got no complete response.
    pub(super) fn lost(&self, error: TransportError) -> Error {
        let reason = "the response was lost";
        SignInError::new(Kind::ResponseLost, &self.provider, reason).because(error).into()
    }

    /// Logs the outcome of the exchange with the provider.
    pub(super) fn note<T>(&self, outcome: &Result<T>) {
        match outcome {
            Ok(_) => note!(debug, "signed in with {}", self.provider),
            Err(error) => note!(debug, "{}", Brief(error)),
        }
    }

    /// Returns an error if the deadline has passed or the sign-in was cancelled.
    pub(super) fn check(&self) -> Result<()> {
        if !self.deadline.has_passed() {
            return Ok(());
        }
        Err(match self.sign_in.cancel.is_cancelled() {
            true => Error::Cancelled { ambiguous: false },
            false => self.failure(Kind::TimedOut, "the deadline passed"),
        })
    }

    /// Sleeps; returns an error if the deadline passes or the sign-in is cancelled meanwhile.
    pub(super) fn sleep(&self, duration: Duration) -> Result<()> {
        let end = Deadline::after(duration);
        loop {
            self.check()?;
            let left = end.remaining();
            if left.is_zero() {
                return Ok(());
            }
            thread::sleep(left.min(POLL));
        }
    }

    fn request(&self, method: Method, url: String) -> Request {
        let deadline = self.deadline.at_most(REQUEST_LIMIT);
        // An idle connection may have been closed while the person signed in.
        Request { fresh: true, ..Request::new(method, url, deadline, MAX_RESPONSE) }
    }

    fn send(&self, request: &Request) -> Result<Result<Response, TransportError>> {
        self.check()?;
        let sent = self.transport.send(request);
        if sent.is_err() {
            self.check()?;
        }
        Ok(sent)
    }

    /// Returns a text from the provider, or a placeholder if it repeats a secret.
    fn without_secrets(&self, text: String) -> String {
        let repeats =
            |secret: &Secret| !secret.expose().is_empty() && text.contains(secret.expose());
        if self.secrets.iter().any(repeats) {
            "left out: it repeats a secret".to_owned()
        } else {
            text
        }
    }
}

/// Encodes a client id and a secret for HTTP Basic.
///
/// Source: RFC 6749, section 2.3.1: each part is form-encoded.
fn basic(client_id: &str, secret: &Secret) -> Secret {
    let mut pair = String::new();
    form::encode_into(&mut pair, client_id);
    pair.push(':');
    form::encode_into(&mut pair, secret.expose());
    let pair = Secret::new(pair);
    Secret::new(STANDARD.encode(pair.expose()))
}

/// Returns the local time, in seconds since the epoch.
fn now() -> i64 {
    milliseconds(SystemClock.now().duration_since(UNIX_EPOCH).unwrap_or_default()) / 1000
}
