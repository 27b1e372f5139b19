//! A user's API keys: log-ins for machines, made by the user.

use crate::account::ApiKey;
use crate::error::{Error, Result, ServerErrorCode};
use crate::id::ApiKeyId;
use crate::secret::Secret;
use crate::transport::Response;
use crate::user::User;
use crate::wire::{self, Route};

/// The client for a user's API keys; returned by [`User::api_keys`].
///
/// Each call blocks for one request, within the session's deadline. Their common errors:
/// [`Error::LocalState`] if the user is not logged in,
/// [`Error::LoginEnded`] if the backend ended the login (these calls
/// carry the refresh token), [`Error::Server`] if it refused otherwise,
/// [`Error::Transport`] if no answer came.
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

    /// Makes a key, and returns it: it is shown this once. Log in with it by
    /// [`Credentials::api_key`](crate::Credentials::api_key).
    ///
    /// # Errors
    /// With code `InvalidParameter` if the name has other characters than ASCII letters, digits,
    /// `_` and `-`; [`ApiKeyAlreadyExists`](ServerErrorCode::ApiKeyAlreadyExists) if the name is taken. If
    /// [`is_ambiguous`](Error::is_ambiguous), the key may have been made all the same, and
    /// nobody knows it: delete it by its name in [`ApiKeys::list`].
    pub fn create(&self, name: &str) -> Result<(ApiKey, Secret)> {
        wire::created_api_key(self.send(&Route::create_api_key(name))?.body())
    }

    /// Lists the keys.
    ///
    /// # Errors
    /// The common ones.
    pub fn list(&self) -> Result<Vec<ApiKey>> {
        wire::api_keys(self.send(&Route::list_api_keys())?.body())
    }

    /// Returns a key, or `None` if the user has none with this id.
    ///
    /// # Errors
    /// The common ones.
    pub fn get(&self, id: &ApiKeyId) -> Result<Option<ApiKey>> {
        check(id)?;
        match self.send(&Route::get_api_key(id)) {
            Ok(answer) => wire::api_key(answer.body()).map(Some),
            Err(error) if is_unknown(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Lets a key be used to log in again; does nothing if the key is enabled already.
    ///
    /// # Errors
    /// With code `ApiKeyNotFound` if the user has no such key.
    pub fn enable(&self, id: &ApiKeyId) -> Result<()> {
        check(id)?;
        self.send(&Route::enable_api_key(id, true)).map(|_| ())
    }

    /// Stops a key from being used to log in. Whoever is logged in with it stays logged in.
    ///
    /// # Errors
    /// With code `ApiKeyNotFound` if the user has no such key.
    pub fn disable(&self, id: &ApiKeyId) -> Result<()> {
        check(id)?;
        self.send(&Route::enable_api_key(id, false)).map(|_| ())
    }

    /// Deletes a key. A key that is not there is deleted already.
    ///
    /// # Errors
    /// The common ones; status 403 for the key that the user is logged in with.
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

/// Rejects an id that names the list of keys and no key.
fn check(id: &ApiKeyId) -> Result<()> {
    match id.as_str() {
        "" => Err(Error::config("the id of the API key", "it is empty")),
        _ => Ok(()),
    }
}

/// Tells whether the backend itself says that the user has no such key. Any other 404 may be of a
/// proxy, or of a backend that has no API keys at all.
fn is_unknown(error: &Error) -> bool {
    error.status() == Some(404) && error.server_code() == Some(&ServerErrorCode::ApiKeyNotFound)
}
