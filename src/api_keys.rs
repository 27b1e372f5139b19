//! A user's API keys. A machine can log in as the user with such a key.

use crate::account::ApiKey;
use crate::error::{Error, Result, ServerErrorCode};
use crate::id::ApiKeyId;
use crate::secret::Secret;
use crate::transport::Response;
use crate::user::User;
use crate::wire::{self, Route};

/// The client for a user's API keys; returned by [`User::api_keys`]. A machine logs in with such a
/// key as the user who created it.
///
/// Each call blocks for one request, within the session's deadline. All calls can return these
/// errors:
///
/// - [`Error::LocalState`] if the user is not logged in.
/// - [`Error::LoginEnded`] if the backend ended the login (these calls carry the refresh token).
/// - [`Error::Server`] if the backend refused otherwise.
/// - [`Error::Transport`] if no usable response was received.
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
/// let keys = user.api_keys();
/// let (key, secret) = keys.create("build-machine")?;
/// assert_eq!(keys.list()?, [key.clone()]);
/// assert_eq!(session.log_in(&Credentials::api_key(&secret))?, user);
/// session.log_in(&ada)?;
///
/// keys.disable(&key.id)?;
/// assert!(session.log_in(&Credentials::api_key(&secret)).is_err());
/// keys.delete(&key.id)?;
/// assert_eq!(keys.get(&key.id)?, None);
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "server"))]
/// # fn main() {}
/// ```
///
/// Source: realm-core `app.cpp`, `UserAPIKeyProviderClient`.
#[derive(Debug)]
pub struct ApiKeys<'a> {
    user: &'a User,
}

impl<'a> ApiKeys<'a> {
    pub(crate) fn new(user: &'a User) -> Self {
        Self { user }
    }

    /// Creates a key and returns it with its secret. The backend returns the secret only this once.
    /// Log in with it through [`Credentials::api_key`](crate::Credentials::api_key).
    ///
    /// # Errors
    /// Code `InvalidParameter` if the name has characters other than ASCII letters, digits, `_` and
    /// `-`; [`ApiKeyAlreadyExists`](ServerErrorCode::ApiKeyAlreadyExists) if the name is taken. If
    /// the error [`is_ambiguous`](Error::is_ambiguous), the key may have been created, but its
    /// secret is lost: delete the key that has this name in [`ApiKeys::list`].
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
    /// let (key, secret) = user.api_keys().create("build-machine")?;
    /// println!("created {}; copy the key now: {}", key.name, secret.expose());
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "server"))]
    /// # fn main() {}
    /// ```
    pub fn create(&self, name: &str) -> Result<(ApiKey, Secret)> {
        wire::created_api_key(self.send(&Route::create_api_key(name))?.body())
    }

    /// Returns the user's keys, without their secrets.
    ///
    /// # Errors
    /// The errors of all calls; see [`ApiKeys`].
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
    /// user.api_keys().create("laptop")?;
    /// for key in user.api_keys().list()? {
    ///     println!("{} {} {}", key.id.as_str(), key.name, key.is_enabled);
    /// }
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "server"))]
    /// # fn main() {}
    /// ```
    pub fn list(&self) -> Result<Vec<ApiKey>> {
        wire::api_keys(self.send(&Route::list_api_keys())?.body())
    }

    /// Returns a key, or `None` if the user has no key with this id.
    ///
    /// # Errors
    /// The errors of all calls; see [`ApiKeys`].
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
    /// let (key, _) = user.api_keys().create("laptop")?;
    /// assert_eq!(user.api_keys().get(&key.id)?, Some(key));
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "server"))]
    /// # fn main() {}
    /// ```
    pub fn get(&self, id: &ApiKeyId) -> Result<Option<ApiKey>> {
        check(id)?;
        match self.send(&Route::get_api_key(id)) {
            Ok(answer) => wire::api_key(answer.body()).map(Some),
            Err(error) if is_unknown(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Enables log-ins with a key; does nothing if the key is already enabled.
    ///
    /// # Errors
    /// Code `ApiKeyNotFound` if the user has no such key.
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
    /// let (key, _) = user.api_keys().create("laptop")?;
    /// user.api_keys().disable(&key.id)?;
    /// user.api_keys().enable(&key.id)?;
    /// assert!(user.api_keys().get(&key.id)?.unwrap().is_enabled);
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "server"))]
    /// # fn main() {}
    /// ```
    pub fn enable(&self, id: &ApiKeyId) -> Result<()> {
        check(id)?;
        self.send(&Route::enable_api_key(id, true)).map(|_| ())
    }

    /// Disables log-ins with a key. Users who logged in with it earlier stay logged in.
    ///
    /// # Errors
    /// Code `ApiKeyNotFound` if the user has no such key.
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
    /// let (key, secret) = user.api_keys().create("laptop")?;
    /// user.api_keys().disable(&key.id)?;
    /// let error = session.log_in(&Credentials::api_key(&secret)).unwrap_err();
    /// assert_eq!(error.status(), Some(401));
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "server"))]
    /// # fn main() {}
    /// ```
    pub fn disable(&self, id: &ApiKeyId) -> Result<()> {
        check(id)?;
        self.send(&Route::enable_api_key(id, false)).map(|_| ())
    }

    /// Deletes a key. If the user has no such key, this succeeds.
    ///
    /// # Errors
    /// The errors of all calls; see [`ApiKeys`]. Status 403 for the key that the user is logged in
    /// with.
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
    /// let (key, _) = user.api_keys().create("laptop")?;
    /// user.api_keys().delete(&key.id)?;
    /// assert!(user.api_keys().list()?.is_empty());
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "server"))]
    /// # fn main() {}
    /// ```
    pub fn delete(&self, id: &ApiKeyId) -> Result<()> {
        check(id)?;
        match self.send(&Route::delete_api_key(id)) {
            Err(error) if !is_unknown(&error) => Err(error),
            _ => Ok(()),
        }
    }

    fn send(&self, route: &Route) -> Result<Response> {
        let session = self.user.session();
        let user = self.user.id();
        session.within(|deadline| session.inner.send_with_refresh_token(user, route, deadline))
    }
}

/// Rejects an empty id: its path would be that of the key list.
fn check(id: &ApiKeyId) -> Result<()> {
    match id.as_str() {
        "" => Err(Error::config("the id of the API key", "it is empty")),
        _ => Ok(()),
    }
}

/// Returns `true` if the backend itself reports that the user has no such key. Any other 404 may
/// come from a proxy, or from a backend without API keys.
fn is_unknown(error: &Error) -> bool {
    error.status() == Some(404) && error.server_code() == Some(&ServerErrorCode::ApiKeyNotFound)
}
