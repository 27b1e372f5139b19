//! Login providers that rely on external credentials: tokens, OAuth, functions, and the app's own
//! API keys.
//!
//! `keys` has the verification keys of tokens, `jwt` the checks of a token, `oauth` Google, Apple
//! and Facebook, `oidc` any OpenID Connect provider, `discovery` its metadata, and `fetch` the HTTP
//! requests. This module does not decide the response to the client.

mod discovery;
mod error;
mod fetch;
mod function;
mod jwt;
mod keys;
mod oauth;
mod oidc;

use std::collections::HashMap;
use std::io;

use serde_json::{Map, Value};

pub(super) use self::error::ProviderError;
pub(super) use self::function::AuthFunction;
pub use self::function::AuthFunctionAnswer;
pub(super) use self::jwt::Verifier;
pub use self::jwt::{CustomJwt, MetadataField};
pub use self::keys::JwtKeys;
pub use self::oauth::{Apple, Facebook, Google};
pub(super) use self::oauth::{FacebookProvider, GoogleProvider, TokenProvider};
pub(super) use self::oidc::CustomToken;
pub use self::oidc::Oidc;
use super::digest;
use super::state::{ANONYMOUS, API_KEY, EMAIL_PASSWORD, Identity};
use super::test_provider::TestProvider;
use super::text::is_plain;
use crate::Secret;

pub(super) const APPLE: &str = "oauth2-apple";
pub(super) const CUSTOM_FUNCTION: &str = "custom-function";
pub(super) const CUSTOM_TOKEN: &str = "custom-token";
pub(super) const FACEBOOK: &str = "oauth2-facebook";
pub(super) const GOOGLE: &str = "oauth2-google";

/// Longer ids are rejected, because identities store them unchanged.
const MAX_ID: usize = 1024;
/// The minimum length of a server API key in characters, because it is hashed with a fast hash.
const MIN_SERVER_KEY: usize = 16;

/// A login provider, named as in the `auth/providers.json` of an exported app.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum AuthProvider {
    /// `anon-user`
    Anonymous,
    /// `api-key`, for the API keys of users and of the app.
    ApiKey,
    /// `oauth2-apple`
    Apple,
    /// `custom-function`
    CustomFunction,
    /// `custom-token`
    CustomToken,
    /// `local-userpass`
    EmailPassword,
    /// `oauth2-facebook`
    Facebook,
    /// `oauth2-google`
    Google,
}

impl AuthProvider {
    /// All providers, in alphabetical order of the variants.
    pub const ALL: [Self; 8] = [
        Self::Anonymous,
        Self::ApiKey,
        Self::Apple,
        Self::CustomFunction,
        Self::CustomToken,
        Self::EmailPassword,
        Self::Facebook,
        Self::Google,
    ];

    /// Returns the name on the wire, such as `local-userpass`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Anonymous => ANONYMOUS,
            Self::ApiKey => API_KEY,
            Self::Apple => APPLE,
            Self::CustomFunction => CUSTOM_FUNCTION,
            Self::CustomToken => CUSTOM_TOKEN,
            Self::EmailPassword => EMAIL_PASSWORD,
            Self::Facebook => FACEBOOK,
            Self::Google => GOOGLE,
        }
    }
}

/// The settings of the providers, before the server starts.
#[derive(Default)]
pub(super) struct Settings {
    pub apple: Option<Apple>,
    pub custom_jwt: Option<CustomJwt>,
    pub disabled: Vec<AuthProvider>,
    pub facebook: Option<Facebook>,
    pub function: Option<Box<AuthFunction>>,
    pub google: Option<Google>,
    pub oidc: Vec<Oidc>,
    pub registration_disabled: bool,
    pub server_keys: Vec<(String, Secret)>,
}

/// The configured providers of a running server.
pub(super) struct Providers {
    pub apple: Option<TokenProvider>,
    pub custom_token: Option<CustomToken>,
    disabled: Vec<AuthProvider>,
    pub facebook: Option<FacebookProvider>,
    pub function: Option<Box<AuthFunction>>,
    pub google: Option<GoogleProvider>,
    pub registration_disabled: bool,
    /// Names of server API keys, by the hash of the key.
    server_keys: HashMap<String, String>,
}

/// A verified login: the identity and the profile fields that the provider returned.
pub(super) struct ProviderIdentity {
    pub id: String,
    pub data: Map<String, Value>,
}

/// Returns `true` if a provider's id for a person can be the id of an identity.
pub(super) fn is_identity_id(id: &str) -> bool {
    (1..=MAX_ID).contains(&id.len()) && is_plain(id)
}

impl Settings {
    pub(super) fn open(self, app_id: &str, test: Option<&TestProvider>) -> io::Result<Providers> {
        let mut server_keys = HashMap::new();
        for (name, key) in self.server_keys {
            if !is_identity_id(&name) || key.expose().chars().count() < MIN_SERVER_KEY {
                let what = format!(
                    "the server API key {name:?} needs a name, and at least {MIN_SERVER_KEY} \
                     characters"
                );
                return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
            }
            server_keys.retain(|_, other| *other != name);
            server_keys.insert(digest::sha256(key.expose()), name);
        }
        Ok(Providers {
            apple: self.apple.map(Apple::open).transpose()?,
            custom_token: CustomToken::open(self.custom_jwt, self.oidc, test, app_id)?,
            disabled: self.disabled,
            facebook: self.facebook.map(Facebook::open).transpose()?,
            function: self.function,
            google: match self.google {
                Some(google) => Some(google.open(test)?),
                None => test.map(GoogleProvider::of_test_provider),
            },
            registration_disabled: self.registration_disabled,
            server_keys,
        })
    }
}

impl Providers {
    /// Returns `true` if the provider with this name is disabled.
    pub(super) fn is_disabled(&self, name: &str) -> bool {
        self.disabled.iter().any(|disabled| disabled.as_str() == name)
    }

    /// Returns the identity and the name of a server API key. The identity depends only on the
    /// name, so that the key can be replaced.
    pub(super) fn server_key(&self, hash: &str) -> Option<(Identity, &str)> {
        let name = self.server_keys.get(hash)?;
        let mut id = digest::sha256(&format!("server API key {name}"));
        id.truncate(24);
        let provider_type = API_KEY.to_owned();
        Some((Identity { id, provider_type }, name))
    }
}
