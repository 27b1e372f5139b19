//! Tokens that somebody else made and signed.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Validation;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::keys::{JwtKeys, Keys};
use super::{ProviderError, ProviderIdentity, is_identity_id};
use crate::server::test_provider::TestProvider;
use crate::server::token::is_readable;
use crate::untrusted_json;

/// A token may have this many bytes.
const MAX_TOKEN: usize = 64 * 1024;

/// How the provider `custom-token` takes log-ins with tokens of your own.
///
/// A token must be signed with one of the keys, name the audience in `aud`, have a `sub`, which
/// becomes the id of the identity, and an `exp` that has not come. Times are judged by the server's
/// clock.
#[derive(Clone, Debug)]
pub struct CustomJwt {
    keys: JwtKeys,
    audience: Option<String>,
    issuer: Option<String>,
    fields: Vec<MetadataField>,
    leeway: Duration,
}

/// One claim that is copied from a token into the profile.
#[derive(Clone, Debug)]
pub struct MetadataField {
    name: String,
    field_name: String,
    required: bool,
}

impl CustomJwt {
    /// How far the clocks of the issuer and the server may differ by default: 60 seconds.
    pub const DEFAULT_LEEWAY: Duration = Duration::from_secs(60);

    /// Takes tokens signed with these keys, made for this app, by any issuer.
    pub fn new(keys: JwtKeys) -> Self {
        Self {
            keys,
            audience: None,
            issuer: None,
            fields: Vec::new(),
            leeway: Self::DEFAULT_LEEWAY,
        }
    }

    /// Sets the audience that tokens must name. Defaults to the app id.
    #[must_use]
    pub fn audience(mut self, audience: impl Into<String>) -> Self {
        self.audience = Some(audience.into());
        self
    }

    /// Sets the issuer that tokens must name. By default `iss` is not looked at.
    #[must_use]
    pub fn issuer(mut self, issuer: impl Into<String>) -> Self {
        self.issuer = Some(issuer.into());
        self
    }

    /// Adds a claim that is copied into the profile at every log-in.
    #[must_use]
    pub fn metadata_field(mut self, field: MetadataField) -> Self {
        self.fields.push(field);
        self
    }

    /// Sets by how much `exp` may have passed, and `nbf` may be ahead. Defaults to 60 seconds.
    #[must_use]
    pub fn leeway(mut self, leeway: Duration) -> Self {
        self.leeway = leeway;
        self
    }

    pub(super) fn open(self, app_id: &str) -> io::Result<JwtProvider> {
        let verifier = Verifier {
            keys: self.keys.open()?,
            audiences: vec![self.audience.unwrap_or_else(|| app_id.to_owned())],
            any_audience: false,
            issuers: self.issuer.into_iter().collect(),
            leeway: self.leeway.as_secs_f64(),
            kind: TokenKind::Any,
        };
        Ok(JwtProvider { verifier, fields: self.fields })
    }
}

impl MetadataField {
    /// Copies the claim `name`, a path with dots into the token, to the profile's field
    /// `field_name`. A token without it is taken.
    pub fn new(name: impl Into<String>, field_name: impl Into<String>) -> Self {
        Self { name: name.into(), field_name: field_name.into(), required: false }
    }

    /// Sets whether a token without this claim is refused.
    #[must_use]
    pub fn required(mut self, required: bool) -> Self {
        self.required = required;
        self
    }

    fn find<'a>(&self, claims: &'a Map<String, Value>) -> Option<&'a Value> {
        let mut parts = self.name.split('.');
        let first = claims.get(parts.next()?)?;
        parts.try_fold(first, |value, part| value.get(part)).filter(|value| !value.is_null())
    }
}

/// Copies claims into a profile.
pub(super) fn copy_fields(
    fields: &[MetadataField],
    claims: &Map<String, Value>,
    data: &mut Map<String, Value>,
) -> Result<(), ProviderError> {
    for field in fields {
        match field.find(claims) {
            Some(value) => {
                data.insert(field.field_name.clone(), value.clone());
            }
            None if field.required => return Err(ProviderError::Refused),
            None => {}
        }
    }
    Ok(())
}

/// Tokens of one's own for the provider `custom-token`, in use.
pub(super) struct JwtProvider {
    verifier: Verifier,
    fields: Vec<MetadataField>,
}

impl JwtProvider {
    pub(super) fn identify(
        &self,
        token: &str,
        time: Time,
    ) -> Result<ProviderIdentity, ProviderError> {
        let claims = self.verifier.verify(token, time)?;
        let mut data = Map::new();
        copy_fields(&self.fields, &claims, &mut data)?;
        Ok(ProviderIdentity { id: subject(&claims)?.to_owned(), data })
    }
}

/// What time it is, by the server's clock.
#[derive(Clone, Copy)]
pub(in crate::server) struct Time {
    /// Seconds since the epoch.
    pub now: i64,
    pub monotonic: Duration,
}

/// Decides whether a token is good.
pub(in crate::server) struct Verifier {
    pub(super) keys: Keys,
    /// One of these must be among the token's.
    pub(super) audiences: Vec<String>,
    /// Any audience is good if there are none: of the test identity provider alone.
    pub(super) any_audience: bool,
    /// The token's must be one of these, if there are any.
    pub(super) issuers: Vec<String>,
    /// Seconds.
    pub(super) leeway: f64,
    pub(super) kind: TokenKind,
}

/// Which tokens are good, beyond what is checked of all.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum TokenKind {
    Any,
    /// Those of OpenID Connect Core section 2, and no other token of the same issuer: access tokens
    /// (RFC 9068), logout tokens and security events (RFC 8417).
    Id,
}

impl Verifier {
    /// Takes ID tokens of the test identity provider, for any client if there are no audiences.
    pub(super) fn of_test_provider(provider: &TestProvider, audiences: Vec<String>) -> Self {
        Self {
            keys: Keys::Test(Arc::clone(provider.key())),
            any_audience: audiences.is_empty(),
            audiences,
            issuers: vec![provider.issuer().to_owned()],
            leeway: 0.0,
            kind: TokenKind::Id,
        }
    }

    /// Takes its access tokens.
    pub(in crate::server) fn of_access_tokens(provider: &TestProvider, audience: String) -> Self {
        Self { kind: TokenKind::Any, ..Self::of_test_provider(provider, vec![audience]) }
    }

    /// Returns the claims of a token that is good. It has a subject.
    pub(in crate::server) fn verify(
        &self,
        token: &str,
        time: Time,
    ) -> Result<Map<String, Value>, ProviderError> {
        if !is_parsable(token) {
            return Err(ProviderError::Refused);
        }
        // Fails for `none`, which is no algorithm.
        let header = jsonwebtoken::decode_header(token).map_err(|_| ProviderError::Refused)?;
        // Extensions that must be understood are not (RFC 7515 section 4.1.11).
        if header.crit.is_some() {
            return Err(ProviderError::Refused);
        }
        let is_jwt = |typ: &str| typ.eq_ignore_ascii_case("jwt");
        if self.kind == TokenKind::Id && !header.typ.as_deref().is_none_or(is_jwt) {
            return Err(ProviderError::Refused);
        }
        let key = self.keys.find(header.alg, header.kid.as_deref(), time.monotonic)?;
        let mut validation = Validation::new(header.alg);
        // The crate would ask the system what time it is; we ask our clock, below.
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_aud = false;
        let claims = jsonwebtoken::decode::<Map<String, Value>>(token, &key, &validation)
            .map_err(|_| ProviderError::Refused)?
            .claims;
        self.check(&claims, time.now as f64)?;
        Ok(claims)
    }

    fn check(&self, claims: &Map<String, Value>, now: f64) -> Result<(), ProviderError> {
        let lasts = number(claims, "exp").is_some_and(|exp| now < exp + self.leeway);
        let begun = match claims.get("nbf") {
            None => true,
            Some(_) => number(claims, "nbf").is_some_and(|nbf| nbf <= now + self.leeway),
        };
        let names = |name: &Value| {
            name.as_str().is_some_and(|name| self.any_audience || self.is_audience(name))
        };
        let ours = match claims.get("aud") {
            Some(Value::Array(audiences)) => audiences.iter().any(names),
            Some(audience) => names(audience),
            None => false,
        };
        let issuer = claims.get("iss").and_then(Value::as_str);
        let issued = self.issuers.is_empty()
            || issuer.is_some_and(|issuer| self.issuers.iter().any(|known| known == issuer));
        let is_kind = self.kind == TokenKind::Any || self.is_id_token(claims, now);
        let all = lasts && begun && ours && issued && is_kind && subject(claims).is_ok();
        if all { Ok(()) } else { Err(ProviderError::Refused) }
    }

    fn is_audience(&self, name: &str) -> bool {
        self.audiences.iter().any(|known| known == name)
    }

    /// Source: OpenID Connect Core section 3.1.3.7; Back-Channel Logout section 2.4 for `events`.
    fn is_id_token(&self, claims: &Map<String, Value>, now: f64) -> bool {
        let issued = number(claims, "iat").is_some_and(|iat| iat <= now + self.leeway);
        let several = matches!(claims.get("aud"), Some(Value::Array(names)) if names.len() > 1);
        let party = claims.get("azp").and_then(Value::as_str);
        issued
            && (!several || party.is_some_and(|party| self.is_audience(party)))
            && !claims.contains_key("events")
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier")
            .field("audiences", &self.audiences)
            .field("issuers", &self.issuers)
            .finish_non_exhaustive()
    }
}

/// Returns the issuer that a token names. Nothing shows that it is right.
pub(super) fn claimed_issuer(token: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Claims {
        iss: String,
    }
    let claims = token.split('.').nth(1).filter(|_| is_parsable(token))?;
    let claims: Claims = untrusted_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
    Some(claims.iss)
}

fn is_parsable(token: &str) -> bool {
    token.len() <= MAX_TOKEN && is_readable(token)
}

/// Returns who the token is about.
pub(super) fn subject(claims: &Map<String, Value>) -> Result<&str, ProviderError> {
    let subject = claims.get("sub").and_then(Value::as_str).unwrap_or_default();
    if is_identity_id(subject) { Ok(subject) } else { Err(ProviderError::Refused) }
}

fn number(claims: &Map<String, Value>, name: &str) -> Option<f64> {
    claims.get(name).and_then(Value::as_f64)
}
