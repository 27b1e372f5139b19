//! Ways to log in: the providers, and what a person or a machine shows to one of them.

use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::ejson;
use crate::error::{Error, Result};
use crate::secret::Secret;
use crate::unprintable::trim;

/// A way to log in.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Provider {
    /// No account at all.
    Anonymous,
    /// A key made for a user or by the operator.
    ApiKey,
    /// Sign in with Apple.
    Apple,
    /// E-mail address and password, kept by the backend.
    EmailPassword,
    /// Facebook.
    Facebook,
    /// A function of the app decides.
    Function,
    /// Google.
    Google,
    /// A token signed by somebody the backend trusts.
    Jwt,
    /// A provider this version does not know, by its name on the wire.
    Other(String),
}

/// One log-in attempt's input. `Debug` shows the provider and no secret.
///
/// Blanks, line ends, a byte order mark and other characters that cannot be seen are removed from
/// both ends of a key, token or code. A password is kept byte for byte.
#[derive(Clone)]
pub struct Credentials(pub(crate) Kind);

#[derive(Clone)]
pub(crate) enum Kind {
    Anonymous { reuse: bool },
    ApiKey(Secret),
    Apple(Secret),
    EmailPassword { email: String, password: Secret },
    Facebook(Secret),
    Function(Payload),
    GoogleAuthCode(Secret),
    GoogleIdToken(Secret),
    Jwt(Secret),
    Other(String, Payload),
}

/// The fields of an object in their order, each the text of its value.
#[derive(Clone)]
pub(crate) struct Payload(pub(crate) Vec<(String, Box<RawValue>)>);

impl Provider {
    /// Returns the provider's name on the wire, which is also its path segment.
    ///
    /// Source: realm-core `object-store/sync/app_credentials.cpp`.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Anonymous => "anon-user",
            Self::ApiKey => "api-key",
            Self::Apple => "oauth2-apple",
            Self::EmailPassword => "local-userpass",
            Self::Facebook => "oauth2-facebook",
            Self::Function => "custom-function",
            Self::Google => "oauth2-google",
            Self::Jwt => "custom-token",
            Self::Other(name) => name,
        }
    }
}

impl Credentials {
    /// Credentials to log in without an account. A session that has a logged-in anonymous user already reuses
    /// it, without network; see [`Credentials::new_anonymous`].
    pub fn anonymous() -> Self {
        Self(Kind::Anonymous { reuse: true })
    }

    /// Credentials to log in without an account, always as a new user.
    pub fn new_anonymous() -> Self {
        Self(Kind::Anonymous { reuse: false })
    }

    /// Credentials of an e-mail address and a password that were registered before
    /// ([`EmailPassword::register`](crate::EmailPassword::register)).
    pub fn email_password(email: impl Into<String>, password: impl Into<Secret>) -> Self {
        Self(Kind::EmailPassword { email: email.into(), password: password.into() })
    }

    /// Credentials of an API key: a user's ([`ApiKeys::create`](crate::ApiKeys::create)) or one of
    /// the operator's.
    pub fn api_key(key: impl Into<Secret>) -> Self {
        Self(Kind::ApiKey(trimmed(key)))
    }

    /// Credentials of the identity token that Sign in with Apple gave.
    pub fn apple(id_token: impl Into<Secret>) -> Self {
        Self(Kind::Apple(trimmed(id_token)))
    }

    /// Credentials of the access token that Facebook's log-in gave.
    pub fn facebook(access_token: impl Into<Secret>) -> Self {
        Self(Kind::Facebook(trimmed(access_token)))
    }

    /// Credentials of the authorisation code for servers that Google's log-in gave.
    pub fn google_auth_code(code: impl Into<Secret>) -> Self {
        Self(Kind::GoogleAuthCode(trimmed(code)))
    }

    /// Credentials of the OpenID Connect identity token that Google's log-in gave.
    pub fn google_id_token(id_token: impl Into<Secret>) -> Self {
        Self(Kind::GoogleIdToken(trimmed(id_token)))
    }

    /// Credentials of a token by somebody else whom the app is configured to trust.
    pub fn jwt(token: impl Into<Secret>) -> Self {
        Self(Kind::Jwt(trimmed(token)))
    }

    /// Credentials for the app's own authentication function, which gets this payload: anything that
    /// serialises to an object, written as canonical extended JSON with its fields in their order.
    /// Its field `options` is the protocol's and is replaced. Numbers, dates, ids and whatever else
    /// extended JSON wraps in an object are none.
    ///
    /// # Errors
    /// [`Error::Decode`] if the payload is no object.
    pub fn function(payload: impl Serialize) -> Result<Self> {
        object(&payload).map(|payload| Self(Kind::Function(payload)))
    }

    /// Credentials for a provider that this version does not know, with the fields that it wants.
    ///
    /// # Errors
    /// [`Error::Decode`] if the fields are no object.
    pub fn other(provider: impl Into<String>, fields: impl Serialize) -> Result<Self> {
        object(&fields).map(|fields| Self(Kind::Other(provider.into(), fields)))
    }

    /// Returns the provider that these credentials are for.
    pub fn provider(&self) -> Provider {
        match &self.0 {
            Kind::Anonymous { .. } => Provider::Anonymous,
            Kind::ApiKey(_) => Provider::ApiKey,
            Kind::Apple(_) => Provider::Apple,
            Kind::EmailPassword { .. } => Provider::EmailPassword,
            Kind::Facebook(_) => Provider::Facebook,
            Kind::Function(_) => Provider::Function,
            Kind::GoogleAuthCode(_) | Kind::GoogleIdToken(_) => Provider::Google,
            Kind::Jwt(_) => Provider::Jwt,
            Kind::Other(provider, _) => Provider::from(provider.as_str()),
        }
    }
}

/// Turns a payload into its fields, in canonical extended JSON.
fn object(payload: &impl Serialize) -> Result<Payload> {
    let text = ejson::to_vec(payload).map_err(|error| Error::decode("the credentials", error))?;
    match serde_json::from_slice::<Payload>(&text) {
        // A number or an id is an object as well in extended JSON.
        Ok(payload) if !payload.0.iter().any(|(field, _)| ejson::is_wrapper(field)) => Ok(payload),
        _ => Err(Error::decode("the credentials", "expected an object: a struct or a map")),
    }
}

impl<'de> Deserialize<'de> for Payload {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = Payload;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Payload, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = from.next_entry()? {
                    fields.push(field);
                }
                Ok(Payload(fields))
            }
        }

        from.deserialize_map(Fields)
    }
}

impl From<&str> for Provider {
    fn from(name: &str) -> Self {
        match name {
            "anon-user" => Self::Anonymous,
            "api-key" => Self::ApiKey,
            "oauth2-apple" => Self::Apple,
            "local-userpass" => Self::EmailPassword,
            "oauth2-facebook" => Self::Facebook,
            "custom-function" => Self::Function,
            "oauth2-google" => Self::Google,
            "custom-token" => Self::Jwt,
            other => Self::Other(other.to_owned()),
        }
    }
}

/// Returns a key, token or code without what is around it.
fn trimmed(secret: impl Into<Secret>) -> Secret {
    let secret = secret.into();
    let inner = trim(secret.expose());
    if inner.len() == secret.expose().len() { secret } else { Secret::new(inner) }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("provider", &self.provider()).finish_non_exhaustive()
    }
}

impl Serialize for Provider {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Provider {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|name| name.as_str().into())
    }
}
