//! The provider `custom-token`: tokens of one's own, and ID tokens of OpenID Connect providers.

use std::io;
use std::time::Duration;

use super::discovery::{Discovery, invalid};
use super::jwt::{
    CustomJwt, JwtProvider, MetadataField, Time, TokenKind, Verifier, claimed_issuer, copy_fields,
    subject,
};
use super::keys::Keys;
use super::oauth::profile;
use super::{ProviderError, ProviderIdentity, is_identity_id};
use crate::server::test_provider::TestProvider;
use crate::server::text::is_plain;

/// How the provider `custom-token` takes log-ins with the ID tokens of an OpenID Connect provider,
/// by its issuer.
///
/// The server fetches the issuer's discovery document and its keys when they are first needed, again
/// after an hour, and again for a key that it does not know, at most once a minute. A log-in that
/// needs them waits for them, for 10 seconds at most; log-ins with a key that is known do not wait.
/// If the provider cannot be asked, such a log-in gets status 503, and the client can try again.
///
/// # What is checked
///
/// - The signature, with a key of the issuer, and the algorithm of that key: RS256, ES256 or EdDSA
///   (Ed25519). Addresses and keys in the token itself are not looked at.
/// - `iss` is the issuer. `aud` names one of the client ids; with several audiences `azp` does, too.
/// - `exp` has not passed, `nbf` and `iat` are not ahead, but for the [leeway](Self::leeway).
/// - It is an ID token: access tokens (RFC 9068) and logout tokens of the same issuer are refused.
///
/// The nonce is not checked, because only the program that began the sign-in knows it.
///
/// # Identities
///
/// The id of an identity is the issuer, `#`, and the token's `sub`, such as
/// `https://id.example.org#248289761001`. Two issuers that use the same `sub` are two users. An
/// issuer that moves to another URL is another issuer.
///
/// The profile gets the name, the e-mail address and the other fields that a log-in with Google has,
/// and those that [`metadata_field`](Self::metadata_field) adds.
///
/// # Examples
///
/// ```
/// use keyfob::server::{Oidc, Server};
///
/// let company = Oidc::new("https://id.example.org", "notes-desktop").client_id("notes-web");
/// let server = Server::builder()
///     .oidc(company)
///     .oidc(Oidc::new("https://accounts.example.com", "notes"))
///     .start()?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Oidc {
    issuer: String,
    client_ids: Vec<String>,
    fields: Vec<MetadataField>,
    leeway: Duration,
}

impl Oidc {
    /// Takes ID tokens that this issuer made for this client id. The issuer is written as its
    /// discovery document has it: `https`, or `http` to this machine.
    pub fn new(issuer: impl Into<String>, client_id: impl Into<String>) -> Self {
        Self {
            issuer: issuer.into(),
            client_ids: vec![client_id.into()],
            fields: Vec::new(),
            leeway: CustomJwt::DEFAULT_LEEWAY,
        }
    }

    /// Takes tokens for this client id, too.
    #[must_use]
    pub fn client_id(mut self, client_id: impl Into<String>) -> Self {
        self.client_ids.push(client_id.into());
        self
    }

    /// Adds a claim that is copied into the profile at every log-in.
    #[must_use]
    pub fn metadata_field(mut self, field: MetadataField) -> Self {
        self.fields.push(field);
        self
    }

    /// Sets by how much the clocks of the issuer and the server may differ. Defaults to 60 seconds
    /// ([`CustomJwt::DEFAULT_LEEWAY`]).
    #[must_use]
    pub fn leeway(mut self, leeway: Duration) -> Self {
        self.leeway = leeway;
        self
    }

    fn open(self) -> io::Result<OidcProvider> {
        let is_client_id = |id: &String| !id.is_empty() && is_plain(id);
        if !self.client_ids.iter().all(is_client_id) {
            let what = "has a client id that is empty or has control characters";
            return Err(invalid(&self.issuer, what));
        }
        let verifier = Verifier {
            keys: Keys::of_issuer(Discovery::new(self.issuer.clone())?),
            audiences: self.client_ids,
            any_audience: false,
            issuers: vec![self.issuer.clone()],
            leeway: self.leeway.as_secs_f64(),
            kind: TokenKind::Id,
        };
        Ok(OidcProvider { issuer: self.issuer, verifier, fields: self.fields })
    }
}

/// One OpenID Connect provider, in use.
struct OidcProvider {
    issuer: String,
    verifier: Verifier,
    fields: Vec<MetadataField>,
}

impl OidcProvider {
    fn identify(&self, token: &str, time: Time) -> Result<ProviderIdentity, ProviderError> {
        let claims = self.verifier.verify(token, time)?;
        // No issuer has a `#`, so no two pairs make the same id.
        let id = format!("{}#{}", self.issuer, subject(&claims)?);
        if !is_identity_id(&id) {
            return Err(ProviderError::Refused);
        }
        let mut data = profile(&claims);
        copy_fields(&self.fields, &claims, &mut data)?;
        Ok(ProviderIdentity { id, data })
    }
}

/// The provider `custom-token`, in use.
pub(in crate::server) struct CustomToken {
    jwt: Option<JwtProvider>,
    issuers: Vec<OidcProvider>,
}

impl CustomToken {
    pub(super) fn open(
        jwt: Option<CustomJwt>,
        issuers: Vec<Oidc>,
        test: Option<&TestProvider>,
        app_id: &str,
    ) -> io::Result<Option<Self>> {
        if jwt.is_none() && issuers.is_empty() && test.is_none() {
            return Ok(None);
        }
        let mut opened: Vec<OidcProvider> = Vec::new();
        for oidc in issuers {
            if opened.iter().any(|other| other.issuer == oidc.issuer) {
                return Err(invalid(&oidc.issuer, "is added twice: give one all client ids"));
            }
            opened.push(oidc.open()?);
        }
        let audiences: Vec<_> =
            opened.iter().flat_map(|oidc| oidc.verifier.audiences.clone()).collect();
        opened.extend(test.map(|test| OidcProvider {
            issuer: test.issuer().to_owned(),
            verifier: Verifier::of_test_provider(test, audiences),
            fields: Vec::new(),
        }));
        Ok(Some(Self { jwt: jwt.map(|jwt| jwt.open(app_id)).transpose()?, issuers: opened }))
    }

    pub(in crate::server) fn identify(
        &self,
        token: &str,
        time: Time,
    ) -> Result<ProviderIdentity, ProviderError> {
        // Only issuers that were configured are ever asked.
        let claimed = claimed_issuer(token);
        let of_claimed = |oidc: &&OidcProvider| claimed.as_deref() == Some(&oidc.issuer);
        if let Some(oidc) = self.issuers.iter().find(of_claimed) {
            return oidc.identify(token, time);
        }
        let identity = self.jwt.as_ref().ok_or(ProviderError::Refused)?.identify(token, time)?;
        // Whoever signs tokens of one's own does not speak for an issuer.
        let is_of = |oidc: &OidcProvider| {
            identity.id.strip_prefix(&*oidc.issuer).is_some_and(|rest| rest.starts_with('#'))
        };
        match self.issuers.iter().any(is_of) {
            true => Err(ProviderError::Refused),
            false => Ok(identity),
        }
    }
}
