//! The provider `custom-token`: your own JWTs, and ID tokens of OpenID Connect providers.

use std::io;
use std::time::Duration;

use super::discovery::{Discovery, invalid};
use super::jwt::{
    CustomJwt, JwtProvider, MetadataField, TokenKind, Verifier, claimed_issuer, copy_fields,
    subject,
};
use super::keys::Keys;
use super::oauth::profile;
use super::{ProviderError, ProviderIdentity, is_identity_id};
use crate::server::clock::Time;
use crate::server::test_provider::TestProvider;
use crate::server::text::is_plain;

/// The settings of the provider `custom-token` for logins with ID tokens of an OpenID Connect
/// provider, identified by its issuer.
///
/// The server fetches the issuer's discovery document and its keys when they are first needed, and
/// again after an hour. It also fetches them for an unknown key, at most once a minute. A login
/// that needs them waits, for 10 seconds at most; logins with a known key do not wait. If the
/// provider is unreachable, such a login gets status 503, and the client can try again.
///
/// # What is checked
///
/// - The signature, with a key of the issuer and the algorithm of that key: RS256, ES256 or EdDSA
///   (Ed25519). URLs and keys in the token itself are ignored.
/// - `iss` is the issuer. `aud` names one of the client ids. With several audiences, `azp` also
///   names one.
/// - `exp` has not passed, and `nbf` and `iat` are not in the future, within the
///   [leeway](Self::leeway).
/// - The token is an ID token: access tokens (RFC 9068) and logout tokens of the same issuer are
///   rejected.
///
/// The server does not check the nonce, because only the program that started the sign-in knows it.
///
/// # Identities
///
/// The id of an identity is the issuer, `#`, and the token's `sub`, such as
/// `https://id.example.org#248289761001`. The same `sub` from two issuers belongs to two users. An
/// issuer that moves to another URL counts as another issuer.
///
/// The profile has the same fields as after a login with Google, such as the name and the e-mail
/// address, and the fields that [`metadata_field`](Self::metadata_field) adds.
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
    /// Accepts ID tokens that this issuer issued for this client id. `issuer` must match its
    /// discovery document exactly: `https`, or `http` to this machine.
    pub fn new(issuer: impl Into<String>, client_id: impl Into<String>) -> Self {
        Self {
            issuer: issuer.into(),
            client_ids: vec![client_id.into()],
            fields: Vec::new(),
            leeway: CustomJwt::DEFAULT_LEEWAY,
        }
    }

    /// Also accepts tokens for this client id.
    #[must_use]
    pub fn client_id(mut self, client_id: impl Into<String>) -> Self {
        self.client_ids.push(client_id.into());
        self
    }

    /// Adds a claim that each login copies into the profile.
    #[must_use]
    pub fn metadata_field(mut self, field: MetadataField) -> Self {
        self.fields.push(field);
        self
    }

    /// Sets the tolerance for clock differences between the issuer and the server. Defaults to 60
    /// seconds ([`CustomJwt::DEFAULT_LEEWAY`]).
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

/// An OpenID Connect provider of a running server.
struct OidcProvider {
    issuer: String,
    verifier: Verifier,
    fields: Vec<MetadataField>,
}

impl OidcProvider {
    fn identify(&self, token: &str, time: Time) -> Result<ProviderIdentity, ProviderError> {
        let claims = self.verifier.verify(token, time)?;
        // An issuer contains no `#`, so different pairs have different ids.
        let id = format!("{}#{}", self.issuer, subject(&claims)?);
        if !is_identity_id(&id) {
            return Err(ProviderError::Refused);
        }
        let mut data = profile(&claims);
        copy_fields(&self.fields, &claims, &mut data)?;
        Ok(ProviderIdentity { id, data })
    }
}

/// The provider `custom-token` of a running server.
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
        // Only configured issuers are contacted.
        let claimed = claimed_issuer(token);
        let of_claimed = |oidc: &&OidcProvider| claimed.as_deref() == Some(&oidc.issuer);
        if let Some(oidc) = self.issuers.iter().find(of_claimed) {
            return oidc.identify(token, time);
        }
        let identity = self.jwt.as_ref().ok_or(ProviderError::Refused)?.identify(token, time)?;
        // A signer of custom JWTs must not create identities of an issuer.
        let is_of = |oidc: &OidcProvider| {
            identity.id.strip_prefix(&*oidc.issuer).is_some_and(|rest| rest.starts_with('#'))
        };
        match self.issuers.iter().any(is_of) {
            true => Err(ProviderError::Refused),
            false => Ok(identity),
        }
    }
}
