//! Ways to log in that others vouch for: tokens, OAuth, functions, and the app's own API keys.
//!
//! `keys` has the keys of tokens, `jwt` what makes a token good, `oauth` the three companies,
//! `fetch` the requests this takes. What the answer is to the client is not decided here.

mod fetch;
mod function;
mod jwt;
mod keys;
mod oauth;

use std::collections::HashMap;
use std::io;

use serde_json::{Map, Value};

pub(super) use self::function::AuthFunction;
pub use self::function::AuthFunctionAnswer;
pub use self::jwt::{CustomJwt, MetadataField};
pub(super) use self::jwt::{JwtProvider, Time};
pub use self::keys::JwtKeys;
pub use self::oauth::{Apple, Facebook, Google};
pub(super) use self::oauth::{FacebookProvider, GoogleProvider, TokenProvider};
use super::digest;
use super::state::Identity;
use super::text::is_plain;
use crate::Secret;

pub(super) const APPLE: &str = "oauth2-apple";
pub(super) const CUSTOM_FUNCTION: &str = "custom-function";
pub(super) const CUSTOM_TOKEN: &str = "custom-token";
pub(super) const FACEBOOK: &str = "oauth2-facebook";
pub(super) const GOOGLE: &str = "oauth2-google";

/// Ids that are longer than this are no ids: they would be kept as they are.
const MAX_ID: usize = 1024;
/// A server API key has at least this many characters, since its hash is a fast one.
const MIN_SERVER_KEY: usize = 16;

/// The providers' settings, until the server starts.
#[derive(Default)]
pub(super) struct Settings {
    pub apple: Option<Apple>,
    pub custom_jwt: Option<CustomJwt>,
    pub facebook: Option<Facebook>,
    pub function: Option<Box<AuthFunction>>,
    pub google: Option<Google>,
    pub server_keys: Vec<(String, Secret)>,
}

/// The providers, in use. Those that are not configured are not there.
pub(super) struct Providers {
    pub apple: Option<TokenProvider>,
    pub custom_jwt: Option<JwtProvider>,
    pub facebook: Option<FacebookProvider>,
    pub function: Option<Box<AuthFunction>>,
    pub google: Option<GoogleProvider>,
    /// Names by hash.
    server_keys: HashMap<String, String>,
}

/// Who a provider says somebody is.
pub(super) struct ProviderIdentity {
    pub id: String,
    pub data: Map<String, Value>,
}

/// Why a provider does not say who somebody is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum ProviderError {
    Refused,
    /// Somebody who must be asked for that does not answer.
    Unreachable,
}

/// Returns `true` if a provider's name for somebody can be the id of an identity.
pub(super) fn is_identity_id(id: &str) -> bool {
    (1..=MAX_ID).contains(&id.len()) && is_plain(id)
}

impl Settings {
    pub(super) fn open(self, app_id: &str) -> io::Result<Providers> {
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
            custom_jwt: self.custom_jwt.map(|jwt| jwt.open(app_id)).transpose()?,
            facebook: self.facebook.map(Facebook::open).transpose()?,
            function: self.function,
            google: self.google.map(Google::open).transpose()?,
            server_keys,
        })
    }
}

impl Providers {
    /// Returns a server API key's identity and name. The identity is made from the name, so that
    /// the key can be replaced.
    pub(super) fn server_key(&self, hash: &str) -> Option<(Identity, &str)> {
        let name = self.server_keys.get(hash)?;
        let mut id = digest::sha256(&format!("server API key {name}"));
        id.truncate(24);
        let provider_type = super::state::API_KEY.to_owned();
        Some((Identity { id, provider_type }, name))
    }
}
