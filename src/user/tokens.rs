//! The tokens of a user, and the custom user data that the access token contains.

use std::sync::Arc;
use std::time::SystemTime;

use serde::de::DeserializeOwned;

use super::User;
use crate::ejson;
use crate::error::{Error, Result};
#[cfg(doc)]
use crate::event::Event;
use crate::session::RefreshReason;
use crate::store::StoredUser;
use crate::token::AccessToken;

impl User {
    /// Returns the custom user data: a document that the app attaches to a user, and that the
    /// backend embeds in the access token. It is as old as the token. Returns `None` if the token
    /// has none. Uses no network.
    ///
    /// # Errors
    /// - [`Error::LocalState`] if the user is not logged in.
    /// - [`Error::Decode`] if the document does not fit `T`.
    /// - [`Error::Store`] if the store cannot be read.
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
    /// # let user = session.log_in(&keyfob::Credentials::anonymous())?;
    /// use serde::Deserialize;
    ///
    /// #[derive(Debug, Deserialize, PartialEq)]
    /// struct Settings {
    ///     language: String,
    /// }
    ///
    /// assert_eq!(user.custom_data::<Settings>()?, None);
    /// // The app attaches a document; it comes with the next token.
    /// server.set_custom_data(user.id(), Some(serde_json::json!({"language": "en"})))?;
    /// user.refresh_access_token()?;
    /// assert_eq!(user.custom_data()?, Some(Settings { language: "en".to_owned() }));
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "server"))]
    /// # fn main() {}
    /// ```
    pub fn custom_data<T: DeserializeOwned>(&self) -> Result<Option<T>> {
        decode_custom_data(&self.access_token()?)
    }

    /// Gets a new access token, and returns the custom user data that it contains.
    ///
    /// # Errors
    /// As [`User::refresh_access_token`] and [`User::custom_data`].
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
    /// # let user = session.log_in(&keyfob::Credentials::anonymous())?;
    /// server.set_custom_data(user.id(), Some(serde_json::json!({"language": "en"})))?;
    /// let data: Option<serde_json::Value> = user.refresh_custom_data()?;
    /// assert_eq!(data, Some(serde_json::json!({"language": "en"})));
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "server"))]
    /// # fn main() {}
    /// ```
    pub fn refresh_custom_data<T: DeserializeOwned>(&self) -> Result<Option<T>> {
        decode_custom_data(&self.refresh_access_token()?)
    }

    /// Returns the stored access token, even if it has expired. Uses no network.
    ///
    /// # Errors
    /// [`Error::LocalState`] if the user is not logged in, [`Error::Store`] if the store cannot be
    /// read.
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
    /// # let user = session.log_in(&keyfob::Credentials::anonymous())?;
    /// let token = user.access_token()?;
    /// // `Debug` shows no secret; `expose` returns the token.
    /// assert!(!format!("{token:?}").contains(token.expose()));
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "server"))]
    /// # fn main() {}
    /// ```
    pub fn access_token(&self) -> Result<AccessToken> {
        Ok(self.logged_in()?.1)
    }

    /// Returns an access token that the backend will accept, and refreshes it first if it is due.
    /// Use this for your own requests.
    ///
    /// A fresh token costs one read of the store. If the token is due, one caller refreshes it and
    /// waits for at most 5 s; other callers get the token that is still valid. If the token has
    /// expired, all callers wait for one refresh, in any number of threads and processes. With an
    /// encrypted store, the caller that refreshed also retries pending revocations, for at most 5
    /// s. Emits [`Event::TokenRefreshed`] after a refresh.
    ///
    /// # Errors
    /// [`Error::LoginEnded`] if the backend definitely refused the refresh token: the user is then
    /// logged out. Any other error leaves the user logged in; [`Error::is_retryable`] says whether
    /// a retry can help.
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
    /// # let user = session.log_in(&keyfob::Credentials::anonymous())?;
    /// let token = user.valid_access_token()?;
    /// let header = format!("Bearer {}", token.expose());
    /// # assert!(header.len() > 20);
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "server"))]
    /// # fn main() {}
    /// ```
    pub fn valid_access_token(&self) -> Result<AccessToken> {
        let inner = &self.session.inner;
        self.session.check()?;
        match inner.fresh_token(&self.id) {
            Some(token) => Ok(token),
            None => self.session.within(|deadline| inner.valid_access_token(&self.id, deadline)),
        }
    }

    /// Gets a new access token, even if the stored one is still fresh. Blocks for a request and a
    /// commit. If another thread is refreshing the same user's token, this call shares the result.
    ///
    /// # Errors
    /// As [`User::valid_access_token`].
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
    /// # let user = session.log_in(&keyfob::Credentials::anonymous())?;
    /// let old = user.access_token()?;
    /// let new = user.refresh_access_token()?;
    /// assert_ne!(old.expose(), new.expose());
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "server"))]
    /// # fn main() {}
    /// ```
    pub fn refresh_access_token(&self) -> Result<AccessToken> {
        let inner = &self.session.inner;
        self.session.within(|deadline| {
            let (_, stale) = inner.logged_in_for_request(&self.id, deadline)?;
            inner.refresh(&self.id, &stale, RefreshReason::Explicit, deadline)
        })
    }

    /// Returns when the stored access token expires, by the backend's clock. Uses no network.
    ///
    /// # Errors
    /// As [`User::access_token`].
    pub fn access_token_expires_at(&self) -> Result<SystemTime> {
        Ok(self.access_token()?.expires_at())
    }

    /// Returns when the login expires, by the backend's clock. After that the user has to log in
    /// again. Uses no network.
    ///
    /// # Errors
    /// As [`User::access_token`].
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
    /// # let user = session.log_in(&keyfob::Credentials::anonymous())?;
    /// let ends_at = user.refresh_token_expires_at()?;
    /// let left = ends_at.duration_since(std::time::SystemTime::now())?;
    /// assert!(left.as_secs() > 59 * 24 * 3600); // this backend gives 60 days
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "server"))]
    /// # fn main() {}
    /// ```
    pub fn refresh_token_expires_at(&self) -> Result<SystemTime> {
        let (record, token) = self.logged_in()?;
        let refresh_token = record.refresh_token.as_ref();
        Ok(refresh_token.map_or(token.expires_at(), |token| token.expires_at()))
    }

    fn logged_in(&self) -> Result<(Arc<StoredUser>, AccessToken)> {
        self.session.within(|deadline| self.session.inner.logged_in(&self.id, deadline))
    }
}

fn decode_custom_data<T: DeserializeOwned>(token: &AccessToken) -> Result<Option<T>> {
    const WHAT: &str = "the custom user data";
    let Some(document) = token.user_data()? else { return Ok(None) };
    let text = ejson::without_undefined(document.get().as_bytes());
    ejson::from_slice(&text).map_err(|error| Error::decode(WHAT, ejson::explain(&error, &text)))
}
