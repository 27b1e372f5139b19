//! Verification of JWTs from external identity providers.

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
use crate::server::clock::Time;
use crate::server::test_provider::TestProvider;
use crate::server::token::is_readable;
use crate::untrusted_json;

/// The maximum size of a token, in bytes.
const MAX_TOKEN: usize = 64 * 1024;

/// The settings of the provider `custom-token` for logins with your own JWTs.
///
/// A token must be signed with one of the keys and name the audience in `aud`. It must have a
/// `sub`, which becomes the id of the identity, and an `exp` that has not passed. Times are
/// compared with the server's clock.
#[derive(Clone, Debug)]
pub struct CustomJwt {
    keys: JwtKeys,
    audience: Option<String>,
    issuer: Option<String>,
    fields: Vec<MetadataField>,
    leeway: Duration,
}

/// A claim that is copied from a token into the profile.
#[derive(Clone, Debug)]
pub struct MetadataField {
    name: String,
    field_name: String,
    required: bool,
}

impl CustomJwt {
    /// The default tolerance for clock differences between the issuer and the server: 60 seconds.
    pub const DEFAULT_LEEWAY: Duration = Duration::from_secs(60);

    /// Accepts tokens that are signed with these keys and issued for this app, by any issuer.
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

    /// Sets the issuer that tokens must name. By default `iss` is not checked.
    #[must_use]
    pub fn issuer(mut self, issuer: impl Into<String>) -> Self {
        self.issuer = Some(issuer.into());
        self
    }

    /// Adds a claim that each login copies into the profile.
    #[must_use]
    pub fn metadata_field(mut self, field: MetadataField) -> Self {
        self.fields.push(field);
        self
    }

    /// Sets the tolerance for `exp` and `nbf`. Defaults to 60 seconds.
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
    /// Copies the claim `name` to the profile field `field_name`. A dot in `name` separates the
    /// names of nested objects. A token without the claim is accepted.
    pub fn new(name: impl Into<String>, field_name: impl Into<String>) -> Self {
        Self { name: name.into(), field_name: field_name.into(), required: false }
    }

    /// Sets whether a token without this claim is rejected.
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

/// The provider `custom-token` of a running server, for your own JWTs.
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

/// Verifies tokens.
pub(in crate::server) struct Verifier {
    pub(super) keys: Keys,
    /// The accepted audiences; a token must name at least one.
    pub(super) audiences: Vec<String>,
    /// `true` if any audience is accepted. Used only for the test identity provider.
    pub(super) any_audience: bool,
    /// The accepted issuers. If empty, any issuer is accepted.
    pub(super) issuers: Vec<String>,
    /// In seconds.
    pub(super) leeway: f64,
    pub(super) kind: TokenKind,
}

/// The kinds of tokens that are accepted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum TokenKind {
    Any,
    /// Only ID tokens as defined in OpenID Connect Core section 2. Other tokens of the same issuer
    /// are rejected: access tokens (RFC 9068), logout tokens and security events (RFC 8417).
    Id,
}

impl Verifier {
    /// Accepts ID tokens of the test identity provider, for any client if `audiences` is empty.
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

    /// Accepts access tokens of the test identity provider.
    pub(in crate::server) fn of_access_tokens(provider: &TestProvider, audience: String) -> Self {
        Self { kind: TokenKind::Any, ..Self::of_test_provider(provider, vec![audience]) }
    }

    /// Verifies a token and returns its claims, which include a subject.
    pub(in crate::server) fn verify(
        &self,
        token: &str,
        time: Time,
    ) -> Result<Map<String, Value>, ProviderError> {
        if !is_parsable(token) {
            return Err(ProviderError::Refused);
        }
        // This fails for `none`, which is no known algorithm.
        let header = jsonwebtoken::decode_header(token).map_err(|_| ProviderError::Refused)?;
        // No critical extensions are supported (RFC 7515 section 4.1.11).
        if header.crit.is_some() {
            return Err(ProviderError::Refused);
        }
        let is_jwt = |typ: &str| typ.eq_ignore_ascii_case("jwt");
        if self.kind == TokenKind::Id && !header.typ.as_deref().is_none_or(is_jwt) {
            return Err(ProviderError::Refused);
        }
        let key = self.keys.find(header.alg, header.kid.as_deref(), time.monotonic)?;
        let mut validation = Validation::new(header.alg);
        // The crate would use the system's clock; `check` uses the server's clock instead.
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

    /// Returns `true` for the claims of an ID token.
    ///
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

/// Returns the issuer that a token claims. It is not verified.
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

/// Returns the subject of a token.
pub(super) fn subject(claims: &Map<String, Value>) -> Result<&str, ProviderError> {
    let subject = claims.get("sub").and_then(Value::as_str).unwrap_or_default();
    if is_identity_id(subject) { Ok(subject) } else { Err(ProviderError::Refused) }
}

fn number(claims: &Map<String, Value>, name: &str) -> Option<f64> {
    claims.get(name).and_then(Value::as_f64)
}
