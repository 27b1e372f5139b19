//! Providers and their credentials.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ejson::{self, Value};
use crate::error::{Error, Result};
use crate::secret::Secret;
use crate::unprintable::trim;

/// A log-in method.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Provider {
    /// No account: the backend creates a user, and it is not possible to log in as that user again.
    Anonymous,
    /// A key that a user or the operator created.
    ApiKey,
    /// Sign in with Apple.
    Apple,
    /// E-mail address and password, stored by the backend.
    EmailPassword,
    /// Facebook.
    Facebook,
    /// An authentication function of the app.
    Function,
    /// Google.
    Google,
    /// A token signed by an issuer that the backend trusts.
    Jwt,
    /// A provider that this version of keyfob does not know, with its name on the wire.
    Other(String),
}

/// The input of one log-in attempt, for [`Session::log_in`](crate::Session::log_in) and
/// [`User::link`](crate::User::link). `Debug` shows the provider and no secret.
///
/// keyfob removes whitespace, line ends, a byte order mark and other invisible characters from both
/// ends of a key, token or code. It sends a password byte for byte.
///
/// # Examples
///
/// ```
/// use keyfob::{Credentials, Provider};
///
/// let credentials = Credentials::email_password("ada@example.org", "correct horse");
/// assert_eq!(credentials.provider(), Provider::EmailPassword);
/// assert!(!format!("{credentials:?}").contains("horse"));
/// ```
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

/// The fields of a JSON object, in their order.
pub(crate) type Payload = Vec<(String, Value)>;

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
    /// Creates credentials for a log-in without an account. If an anonymous user is already logged
    /// in, the log-in returns that user, without network. See also [`Credentials::new_anonymous`].
    ///
    /// # Examples
    ///
    /// ```
    /// # #[cfg(feature = "server")]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let server = keyfob::server::Server::builder().built_in_functions().start()?;
    /// # let session = keyfob::Session::builder(server.app_id(), server.base_url())
    /// #     .store(keyfob::store::MemoryStore::new())
    /// #     .open()?;
    /// use keyfob::Credentials;
    ///
    /// let user = session.log_in(&Credentials::anonymous())?;
    /// assert_eq!(session.log_in(&Credentials::anonymous())?, user);
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "server"))]
    /// # fn main() {}
    /// ```
    pub fn anonymous() -> Self {
        Self(Kind::Anonymous { reuse: true })
    }

    /// Creates credentials for a log-in without an account that always creates a new user.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[cfg(feature = "server")]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let server = keyfob::server::Server::builder().built_in_functions().start()?;
    /// # let session = keyfob::Session::builder(server.app_id(), server.base_url())
    /// #     .store(keyfob::store::MemoryStore::new())
    /// #     .open()?;
    /// use keyfob::Credentials;
    ///
    /// let first = session.log_in(&Credentials::new_anonymous())?;
    /// let second = session.log_in(&Credentials::new_anonymous())?;
    /// assert_ne!(first, second);
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "server"))]
    /// # fn main() {}
    /// ```
    pub fn new_anonymous() -> Self {
        Self(Kind::Anonymous { reuse: false })
    }

    /// Creates credentials from an e-mail address and a password. The address must be registered
    /// ([`EmailPassword::register`](crate::EmailPassword::register)).
    ///
    /// # Examples
    ///
    /// ```
    /// # #[cfg(feature = "server")]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let server = keyfob::server::Server::builder().built_in_functions().start()?;
    /// # let session = keyfob::Session::builder(server.app_id(), server.base_url())
    /// #     .store(keyfob::store::MemoryStore::new())
    /// #     .open()?;
    /// use keyfob::Credentials;
    ///
    /// session.email_password().register("ada@example.org", "correct horse")?;
    /// session.log_in(&Credentials::email_password("ada@example.org", "correct horse"))?;
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "server"))]
    /// # fn main() {}
    /// ```
    pub fn email_password(email: impl Into<String>, password: impl Into<Secret>) -> Self {
        Self(Kind::EmailPassword { email: email.into(), password: password.into() })
    }

    /// Creates credentials from an API key that a user created
    /// ([`ApiKeys::create`](crate::ApiKeys::create)) or that the operator created for the app.
    ///
    /// Read the key from a secret of the machine, such as an environment variable of the build
    /// system. Do not put it into the source.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[cfg(feature = "server")]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let server = keyfob::server::Server::builder().built_in_functions().start()?;
    /// # let session = keyfob::Session::builder(server.app_id(), server.base_url())
    /// #     .store(keyfob::store::MemoryStore::new())
    /// #     .open()?;
    /// # session.email_password().register("ada@example.org", "correct horse")?;
    /// # let ada = keyfob::Credentials::email_password("ada@example.org", "correct horse");
    /// # let user = session.log_in(&ada)?;
    /// use keyfob::Credentials;
    ///
    /// let (_, key) = user.api_keys().create("build-machine")?;
    /// // On the other machine: `Credentials::api_key(std::env::var("APP_API_KEY")?)`
    /// assert_eq!(session.log_in(&Credentials::api_key(&key))?, user);
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "server"))]
    /// # fn main() {}
    /// ```
    pub fn api_key(key: impl Into<Secret>) -> Self {
        Self(Kind::ApiKey(trimmed(key)))
    }

    /// Creates credentials from the identity token of Sign in with Apple.
    ///
    /// On macOS and iOS, Apple's framework returns the token
    /// (`ASAuthorizationAppleIDCredential.identityToken`, as text). Other programs need a relay;
    /// see the manual page [`browser`](crate::manual::guide::browser).
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # fn example(session: keyfob::Session, identity_token: String) -> keyfob::Result<()> {
    /// let user = session.log_in(&keyfob::Credentials::apple(identity_token))?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn apple(id_token: impl Into<Secret>) -> Self {
        Self(Kind::Apple(trimmed(id_token)))
    }

    /// Creates credentials from the access token that Facebook's own SDK returns after its log-in
    /// (`AccessToken.tokenString`).
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # fn example(session: keyfob::Session, access_token: String) -> keyfob::Result<()> {
    /// let user = session.log_in(&keyfob::Credentials::facebook(access_token))?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn facebook(access_token: impl Into<Secret>) -> Self {
        Self(Kind::Facebook(trimmed(access_token)))
    }

    /// Creates credentials from the server authorization code that Google's SDK for Android or iOS
    /// returns (`serverAuthCode`). The backend exchanges the code with Google.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # fn example(session: keyfob::Session, server_auth_code: String) -> keyfob::Result<()> {
    /// let user = session.log_in(&keyfob::Credentials::google_auth_code(server_auth_code))?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn google_auth_code(code: impl Into<Secret>) -> Self {
        Self(Kind::GoogleAuthCode(trimmed(code)))
    }

    /// Creates credentials from an OpenID Connect ID token of Google.
    ///
    /// A desktop program obtains one through the system browser with `Session::sign_in` (feature
    /// `browser`), which also logs in. Google's SDKs for other platforms return it as `idToken`.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # fn example(session: keyfob::Session, id_token: String) -> keyfob::Result<()> {
    /// let user = session.log_in(&keyfob::Credentials::google_id_token(id_token))?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn google_id_token(id_token: impl Into<Secret>) -> Self {
        Self(Kind::GoogleIdToken(trimmed(id_token)))
    }

    /// Creates credentials from a JWT of an issuer that the app is configured to trust. This is the
    /// ID token of an OpenID Connect provider, or a token that your own server signs.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # fn example(session: keyfob::Session, token: String) -> keyfob::Result<()> {
    /// // `token` comes from the identity provider, or from your own server.
    /// let user = session.log_in(&keyfob::Credentials::jwt(token))?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn jwt(token: impl Into<Secret>) -> Self {
        Self(Kind::Jwt(trimmed(token)))
    }

    /// Creates credentials for the app's own authentication function, which receives `payload`.
    ///
    /// The payload is any value that serialises to an object, such as a struct or a map. It is sent
    /// as canonical extended JSON and keeps the order of its fields. The protocol reserves the
    /// field `options`: keyfob replaces it. Values that extended JSON represents as an object, such
    /// as numbers, dates and ids, are rejected.
    ///
    /// # Errors
    /// [`Error::Decode`] if the payload is not an object.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[cfg(feature = "server")]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use keyfob::server::{AuthFunctionAnswer, Server};
    /// use keyfob::store::MemoryStore;
    /// use keyfob::{Credentials, Session};
    /// use serde_json::json;
    ///
    /// let server = Server::builder()
    ///     .auth_function(|payload| match payload["badge"].as_str() {
    ///         Some(badge) => Ok(AuthFunctionAnswer::new(badge)),
    ///         None => Err("no badge".into()),
    ///     })
    ///     .start()?;
    /// let session = Session::builder(server.app_id(), server.base_url())
    ///     .store(MemoryStore::new())
    ///     .open()?;
    /// session.log_in(&Credentials::function(json!({"badge": "A-113"}))?)?;
    /// assert!(Credentials::function("A-113").is_err());
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "server"))]
    /// # fn main() {}
    /// ```
    pub fn function(payload: impl Serialize) -> Result<Self> {
        object(&payload).map(|payload| Self(Kind::Function(payload)))
    }

    /// Creates credentials for a provider that this version of keyfob does not know. `fields` are
    /// the fields that the provider expects.
    ///
    /// # Errors
    /// [`Error::Decode`] if the fields are not an object.
    ///
    /// # Examples
    ///
    /// ```
    /// use keyfob::{Credentials, Provider};
    ///
    /// let credentials = Credentials::other("oauth2-new", serde_json::json!({"code": "4/P7q7W91"}))?;
    /// assert_eq!(credentials.provider(), Provider::Other("oauth2-new".to_owned()));
    /// # Ok::<(), keyfob::Error>(())
    /// ```
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

/// Serialises a payload and returns its fields, in canonical extended JSON.
fn object(payload: &impl Serialize) -> Result<Payload> {
    let text = ejson::to_vec(payload).map_err(|error| Error::decode("the credentials", error))?;
    match serde_json::from_slice(&text) {
        // In extended JSON, numbers and ids are objects too.
        Ok(Value::Object(fields)) if !fields.iter().any(|(field, _)| ejson::is_wrapper(field)) => {
            Ok(fields)
        }
        _ => Err(Error::decode("the credentials", "expected an object: a struct or a map")),
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

/// Removes surrounding whitespace and invisible characters from a key, token or code.
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
