//! The providers for Google, Apple and Facebook.

use std::io;

use serde_json::{Map, Value};

use super::fetch::Remote;
use super::jwt::{CustomJwt, TokenKind, Verifier, claimed_issuer, subject};
use super::keys::JwtKeys;
use super::{ProviderError, ProviderIdentity, is_identity_id};
use crate::Secret;
use crate::server::clock::Time;
use crate::server::digest;
use crate::server::test_provider::TestProvider;

/// The settings of the provider `oauth2-google`: logins with an `id_token`, or with an `authCode`
/// if there is a [client secret](Self::client_secret).
#[derive(Clone, Debug)]
pub struct Google {
    client_ids: Vec<String>,
    client_secret: Option<Secret>,
    redirect_uri: String,
    keys: JwtKeys,
    issuers: Vec<String>,
    token_url: String,
}

/// The settings of the provider `oauth2-apple`: logins with an `id_token`.
#[derive(Clone, Debug)]
pub struct Apple {
    client_ids: Vec<String>,
    keys: JwtKeys,
    issuers: Vec<String>,
}

/// The settings of the provider `oauth2-facebook`: logins with an `accessToken`. The server asks
/// Facebook which user the token belongs to.
#[derive(Clone, Debug)]
pub struct Facebook {
    graph_url: String,
    app_secret: Option<Secret>,
}

impl Google {
    /// Accepts tokens that Google issued for this client id.
    pub fn new(client_id: impl Into<String>) -> Self {
        Self {
            client_ids: vec![client_id.into()],
            client_secret: None,
            redirect_uri: String::new(),
            keys: JwtKeys::jwks("https://www.googleapis.com/oauth2/v3/certs"),
            issuers: vec![
                "https://accounts.google.com".to_owned(),
                "accounts.google.com".to_owned(),
            ],
            token_url: "https://oauth2.googleapis.com/token".to_owned(),
        }
    }

    /// Also accepts tokens for this client id. Codes are exchanged with the first client id.
    #[must_use]
    pub fn client_id(mut self, client_id: impl Into<String>) -> Self {
        self.client_ids.push(client_id.into());
        self
    }

    /// Sets the client secret for the exchange of codes. Without it, logins with a code are
    /// rejected.
    #[must_use]
    pub fn client_secret(mut self, secret: impl Into<Secret>) -> Self {
        self.client_secret = Some(secret.into());
        self
    }

    /// Sets the `redirect_uri` for the exchange of codes. Defaults to the empty string, which is
    /// right for codes that an app on a device received.
    #[must_use]
    pub fn redirect_uri(mut self, uri: impl Into<String>) -> Self {
        self.redirect_uri = uri.into();
        self
    }

    /// Sets the keys that verify tokens. Defaults to Google's.
    #[must_use]
    pub fn keys(mut self, keys: JwtKeys) -> Self {
        self.keys = keys;
        self
    }

    /// Sets the issuer that tokens must name. Defaults to Google's issuer names.
    #[must_use]
    pub fn issuer(mut self, issuer: impl Into<String>) -> Self {
        self.issuers = vec![issuer.into()];
        self
    }

    /// Sets the URL of the token endpoint, which exchanges codes. Defaults to Google's.
    #[must_use]
    pub fn token_url(mut self, url: impl Into<String>) -> Self {
        self.token_url = url.into();
        self
    }

    pub(super) fn open(self, test: Option<&TestProvider>) -> io::Result<GoogleProvider> {
        let test = test.map(|test| TestTokens::new(test, self.client_ids.clone()));
        let exchange = self.client_secret.map(|secret| {
            let client_id = self.client_ids.first().cloned().unwrap_or_default();
            let endpoint = Remote::new(self.token_url)?;
            Ok::<_, io::Error>(Exchange {
                client_id,
                secret,
                endpoint,
                redirect_uri: self.redirect_uri,
            })
        });
        Ok(GoogleProvider {
            exchange: exchange.transpose()?,
            tokens: Some(TokenProvider(verifier(self.keys, self.client_ids, self.issuers)?)),
            test,
        })
    }
}

impl Apple {
    /// Accepts tokens that Apple issued for this client id: a bundle id or a services id.
    pub fn new(client_id: impl Into<String>) -> Self {
        Self {
            client_ids: vec![client_id.into()],
            keys: JwtKeys::jwks("https://appleid.apple.com/auth/keys"),
            issuers: vec!["https://appleid.apple.com".to_owned()],
        }
    }

    /// Also accepts tokens for this client id.
    #[must_use]
    pub fn client_id(mut self, client_id: impl Into<String>) -> Self {
        self.client_ids.push(client_id.into());
        self
    }

    /// Sets the keys that verify tokens. Defaults to Apple's.
    #[must_use]
    pub fn keys(mut self, keys: JwtKeys) -> Self {
        self.keys = keys;
        self
    }

    /// Sets the issuer that tokens must name. Defaults to Apple's issuer name.
    #[must_use]
    pub fn issuer(mut self, issuer: impl Into<String>) -> Self {
        self.issuers = vec![issuer.into()];
        self
    }

    pub(super) fn open(self) -> io::Result<TokenProvider> {
        Ok(TokenProvider(verifier(self.keys, self.client_ids, self.issuers)?))
    }
}

impl Facebook {
    /// Accepts tokens of Facebook users. Without an [app secret](Self::app_secret), tokens that
    /// were issued for any other app are accepted, too.
    pub fn new() -> Self {
        Self { graph_url: "https://graph.facebook.com".to_owned(), app_secret: None }
    }

    /// Sets the URL of the Graph API, without `/me`. Defaults to Facebook's.
    #[must_use]
    pub fn graph_url(mut self, url: impl Into<String>) -> Self {
        self.graph_url = url.into();
        self
    }

    /// Sets the app secret. With it, Facebook rejects tokens that were issued for other apps.
    #[must_use]
    pub fn app_secret(mut self, secret: impl Into<Secret>) -> Self {
        self.app_secret = Some(secret.into());
        self
    }

    pub(super) fn open(self) -> io::Result<FacebookProvider> {
        let url = format!("{}/me", self.graph_url.trim_end_matches('/'));
        Ok(FacebookProvider { me: Remote::new(url)?, app_secret: self.app_secret })
    }
}

impl Default for Facebook {
    fn default() -> Self {
        Self::new()
    }
}

/// Verifies OpenID Connect tokens.
pub(in crate::server) struct TokenProvider(Verifier);

impl TokenProvider {
    pub(in crate::server) fn identify(
        &self,
        token: &str,
        time: Time,
    ) -> Result<ProviderIdentity, ProviderError> {
        let claims = self.0.verify(token, time)?;
        Ok(ProviderIdentity { id: subject(&claims)?.to_owned(), data: profile(&claims) })
    }
}

pub(in crate::server) struct GoogleProvider {
    /// Verifies Google's tokens.
    tokens: Option<TokenProvider>,
    exchange: Option<Exchange>,
    test: Option<TestTokens>,
}

/// Verifies tokens of the test identity provider, which replaces Google.
struct TestTokens {
    issuer: String,
    tokens: TokenProvider,
}

impl TestTokens {
    fn new(test: &TestProvider, audiences: Vec<String>) -> Self {
        let tokens = TokenProvider(Verifier::of_test_provider(test, audiences));
        Self { issuer: test.issuer().to_owned(), tokens }
    }
}

struct Exchange {
    client_id: String,
    secret: Secret,
    endpoint: Remote,
    redirect_uri: String,
}

impl GoogleProvider {
    /// Accepts only tokens of the test identity provider, for any client.
    pub(super) fn of_test_provider(test: &TestProvider) -> Self {
        let test = Some(TestTokens::new(test, Vec::new()));
        Self { tokens: None, exchange: None, test }
    }

    pub(in crate::server) fn identify(
        &self,
        token: &str,
        time: Time,
    ) -> Result<ProviderIdentity, ProviderError> {
        match &self.test {
            Some(test) if claimed_issuer(token).as_deref() == Some(&test.issuer) => {
                test.tokens.identify(token, time)
            }
            _ => self.tokens.as_ref().ok_or(ProviderError::Refused)?.identify(token, time),
        }
    }

    /// Exchanges a code for an ID token, and verifies the token.
    ///
    /// Source: RFC 6749 section 4.1.3, OpenID Connect Core section 3.1.3.
    pub(in crate::server) fn identify_code(
        &self,
        code: &str,
        time: Time,
    ) -> Result<ProviderIdentity, ProviderError> {
        let exchange = self.exchange.as_ref().ok_or(ProviderError::Refused)?;
        let answer = exchange.endpoint.post(&[
            ("grant_type", "authorization_code"),
            ("code", code),
            ("client_id", &exchange.client_id),
            ("client_secret", exchange.secret.expose()),
            ("redirect_uri", &exchange.redirect_uri),
        ]);
        let body = accepted(answer?)?;
        self.identify(body["id_token"].as_str().ok_or(NO_TOKEN)?, time)
    }
}

pub(in crate::server) struct FacebookProvider {
    me: Remote,
    app_secret: Option<Secret>,
}

impl FacebookProvider {
    /// Asks Facebook which user an access token belongs to.
    ///
    /// Source: Facebook's Graph API, `/me` and `appsecret_proof`.
    pub(in crate::server) fn identify(
        &self,
        token: &str,
    ) -> Result<ProviderIdentity, ProviderError> {
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(ProviderError::Refused);
        }
        let fields = ("fields", "id,name,email,first_name,last_name,picture");
        let proof =
            self.app_secret.as_ref().map(|secret| digest::hmac_sha256(secret.expose(), token));
        let answer = match &proof {
            Some(proof) => self.me.get(&[fields, ("appsecret_proof", proof)], Some(token)),
            None => self.me.get(&[fields], Some(token)),
        };
        let body = accepted(answer?)?;
        let Value::Object(user) = body else { return Err(NO_USER) };
        match user.get("id").and_then(Value::as_str) {
            Some(id) if is_identity_id(id) => {
                Ok(ProviderIdentity { id: id.to_owned(), data: profile(&user) })
            }
            _ => Err(NO_USER),
        }
    }
}

const NO_TOKEN: ProviderError = ProviderError::Unreachable("its response has no ID token");
const NO_USER: ProviderError = ProviderError::Unreachable("its response names no user");

fn verifier(keys: JwtKeys, audiences: Vec<String>, issuers: Vec<String>) -> io::Result<Verifier> {
    let leeway = CustomJwt::DEFAULT_LEEWAY.as_secs_f64();
    let (keys, kind) = (keys.open()?, TokenKind::Any);
    Ok(Verifier { keys, audiences, any_audience: false, issuers, leeway, kind })
}

/// Distinguishes a rejected credential from a failure of the provider.
fn accepted((status, body): (u16, Value)) -> Result<Value, ProviderError> {
    match status {
        200..300 => Ok(body),
        400..500 if status != 429 => Err(ProviderError::Refused),
        _ => Err(ProviderError::Unreachable("it responds with an error of its own")),
    }
}

/// Returns the profile fields from a provider's claims.
///
/// Source: OpenID Connect Core section 5.1 for the names on the left, the profile of App Services
/// for those on the right.
pub(super) fn profile(claims: &Map<String, Value>) -> Map<String, Value> {
    const NAMES: [(&str, &str); 9] = [
        ("birthdate", "birthday"),
        ("email", "email"),
        ("family_name", "last_name"),
        ("first_name", "first_name"),
        ("gender", "gender"),
        ("given_name", "first_name"),
        ("last_name", "last_name"),
        ("name", "name"),
        ("picture", "picture"),
    ];
    let text = |name: &str| match claims.get(name)? {
        Value::String(text) => Some(text.clone()),
        // Facebook nests the URL of a picture.
        object => object["data"]["url"].as_str().map(str::to_owned),
    };
    NAMES
        .iter()
        .filter_map(|(claim, field)| Some(((*field).to_owned(), Value::String(text(claim)?))))
        .collect()
}
