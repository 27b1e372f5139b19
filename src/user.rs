//! The [`User`] handle: what is known of a user, and what can be done as that user.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::SystemTime;

use serde::de::DeserializeOwned;

use crate::account::{Identity, Profile, UserState};
use crate::api_keys::ApiKeys;
use crate::credentials::Credentials;
use crate::ejson;
use crate::error::{Error, Result};
use crate::event::Event;
use crate::functions::Functions;
use crate::id::{DeviceId, UserId};
use crate::retry::Retry;
use crate::session::{Events, RefreshReason, Session, Subscription};
use crate::store::StoredUser;
use crate::token::AccessToken;

/// A user on this device: an id and its session.
///
/// A handle holds no state of its own but reads the session's store, so two handles never disagree,
/// and what another thread or process did shows at once. It keeps its session alive. Two handles
/// are equal if their ids are.
#[derive(Clone)]
pub struct User {
    session: Session,
    id: UserId,
}

impl User {
    pub(crate) fn new(session: Session, id: UserId) -> Self {
        Self { session, id }
    }

    /// Returns the user's id.
    pub fn id(&self) -> &UserId {
        &self.id
    }

    /// Returns the session that this user belongs to.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Returns whether the user is logged in, logged out, or not known here any more. Uses no
    /// network.
    ///
    /// # Errors
    /// [`Error::Store`] if the store cannot be read.
    pub fn state(&self) -> Result<UserState> {
        let inner = &self.session.inner;
        let record = self.session.within(|deadline| Ok(inner.store.user(&self.id, deadline)?))?;
        Ok(record.map_or(UserState::Removed, |record| match record.is_logged_in() {
            true => UserState::LoggedIn,
            false => UserState::LoggedOut,
        }))
    }

    /// Returns the accounts that are attached to the user, in the order in which they were linked,
    /// as they were when the profile was last fetched. Uses no network.
    ///
    /// # Errors
    /// [`Error::LocalState`] if the user was removed, [`Error::Store`] if the store cannot be read.
    pub fn identities(&self) -> Result<Vec<Identity>> {
        Ok(self.record()?.identities.clone())
    }

    /// Returns the profile as it was when it was last fetched: at log-in, or by
    /// [`User::refresh_profile`]. Uses no network.
    ///
    /// # Errors
    /// [`Error::LocalState`] if the user was removed, [`Error::Store`] if the store cannot be read.
    pub fn profile(&self) -> Result<Profile> {
        Ok(self.record()?.profile.clone())
    }

    /// Fetches profile and identities from the backend and stores them. Emits
    /// [`Event::ProfileChanged`] if they have changed. Blocks for a request (one more if they change
    /// meanwhile), a refresh if need be, and a commit.
    ///
    /// # Errors
    /// [`Error::LocalState`] if the user is not logged in, [`Error::LoginEnded`] if the backend
    /// ended the login, [`Error::Server`] if it refused otherwise, [`Error::Transport`] if no answer
    /// came, [`Error::Store`] if the profile cannot be kept.
    ///
    /// Source: realm-core `app.cpp`, `App::refresh_profile`.
    pub fn refresh_profile(&self) -> Result<Profile> {
        self.session.within(|deadline| self.session.inner.refresh_profile(&self.id, deadline))
    }

    /// Returns the id that the backend gave to this device, if it gave one. It stays after a
    /// log-out. Uses no network.
    ///
    /// # Errors
    /// [`Error::LocalState`] if the user was removed, [`Error::Store`] if the store cannot be read.
    pub fn device_id(&self) -> Result<Option<DeviceId>> {
        Ok(self.record()?.device_id.clone())
    }

    /// Returns the custom user data: the document that the backend embedded in the access token.
    /// It is as old as the token; `None` if there is none. Uses no network.
    ///
    /// # Errors
    /// [`Error::LocalState`] if the user is not logged in, [`Error::Decode`] if the document does
    /// not fit `T`, [`Error::Store`] if the store cannot be read.
    pub fn custom_data<T: DeserializeOwned>(&self) -> Result<Option<T>> {
        decode_custom_data(&self.access_token()?)
    }

    /// Gets a new access token, and returns the custom user data that it brings.
    ///
    /// # Errors
    /// As [`User::valid_access_token`] and [`User::custom_data`].
    pub fn refresh_custom_data<T: DeserializeOwned>(&self) -> Result<Option<T>> {
        decode_custom_data(&self.refresh_access_token()?)
    }

    /// Returns the access token that is stored, whether or not it has expired. Uses no network.
    ///
    /// # Errors
    /// [`Error::LocalState`] if the user is not logged in, [`Error::Store`] if the store cannot be
    /// read.
    pub fn access_token(&self) -> Result<AccessToken> {
        Ok(self.logged_in()?.1)
    }

    /// Returns an access token that the backend will accept; one that is due is refreshed first.
    ///
    /// A fresh token costs one look into the store. When it is due, one caller waits for a refresh,
    /// for five seconds at most; when it has expired, all of them wait for one, however many threads
    /// and processes ask. In a store that is sealed, whoever refreshed it also tells the backend
    /// of earlier log-outs, for five seconds at most. Emits [`Event::TokenRefreshed`] if it was
    /// refreshed.
    ///
    /// # Errors
    /// [`Error::LoginEnded`] if the backend refused the refresh token for good: the user is logged
    /// out then. Any other error leaves the user logged in; [`Error::is_retryable`] tells whether
    /// trying again can help.
    pub fn valid_access_token(&self) -> Result<AccessToken> {
        let inner = &self.session.inner;
        match inner.fresh_token(&self.id) {
            Some(token) => Ok(token),
            None => self.session.within(|deadline| inner.valid_access_token(&self.id, deadline)),
        }
    }

    /// Gets a new access token, also if the stored one is still fresh. Blocks for a request and a
    /// commit, and shares a refresh that is under way.
    ///
    /// # Errors
    /// As [`User::valid_access_token`].
    pub fn refresh_access_token(&self) -> Result<AccessToken> {
        let inner = &self.session.inner;
        self.session.within(|deadline| {
            let (_, stale) = inner.logged_in_for_request(&self.id, deadline)?;
            inner.refresh(&self.id, &stale, RefreshReason::Explicit, deadline)
        })
    }

    /// Returns when the stored access token expires, by the backend's clock.
    ///
    /// # Errors
    /// As [`User::access_token`].
    pub fn access_token_expires_at(&self) -> Result<SystemTime> {
        Ok(self.access_token()?.expires_at())
    }

    /// Returns when the login itself ends, by the backend's clock: then only another log-in helps.
    ///
    /// # Errors
    /// As [`User::access_token`].
    pub fn refresh_token_expires_at(&self) -> Result<SystemTime> {
        let (record, token) = self.logged_in()?;
        let refresh_token = record.refresh_token.as_ref();
        Ok(refresh_token.map_or(token.expires_at(), |token| token.expires_at()))
    }

    /// Logs this user out here, then tells the backend.
    ///
    /// The tokens are gone from disk when this returns, also when the backend could not be reached
    /// (in a store that is sealed once it was told); profile and identities stay. An anonymous user
    /// is removed, since there is no way to log in as the same one again. Emits
    /// [`Event::LoggedOut`] or [`Event::Removed`], and [`Event::CurrentUserChanged`] if the user
    /// was current; of those who are logged in, the one who was used last becomes current then.
    /// Does nothing if the user is logged out, but for telling the backend in a store that is
    /// sealed, if it was not told. Blocks for a commit and a request.
    ///
    /// # Errors
    /// [`Error::Server`] or [`Error::Transport`] if the backend was not told. The log-out here
    /// stands, whatever [`Error::is_retryable`] says: there is nothing left to tell the backend
    /// with, and the server session lives on until its own end. In a store that is sealed this is
    /// no error where trying again can help: the backend is told with the next log-in or refresh of
    /// anybody, by this session or one that is opened later.
    /// [`Error::LocalState`] if the user was removed, [`Error::Store`] if nothing was
    /// changed.
    ///
    /// Source: realm-core `app.cpp`, `App::log_out`.
    pub fn log_out(&self) -> Result<()> {
        self.session.within(|deadline| self.session.inner.log_out(&self.id, deadline))
    }

    /// Attaches another account to this user, and makes the user current.
    ///
    /// From then on the user can log in by either of them. An anonymous user becomes a permanent
    /// one that a log-out keeps. Identities and profile are fetched again; one
    /// [`Event::IdentityLinked`] follows, and [`Event::CurrentUserChanged`] if another user, or
    /// nobody, was current before. An e-mail address has to be registered, and confirmed if the app
    /// asks for that, before it can be linked. Blocks for two requests and, if need be, a refresh.
    ///
    /// # Errors
    /// [`Error::LocalState`] for anonymous credentials, or if the user is not logged in; one who
    /// logs out while the link is under way may be linked all the same.
    /// [`Error::Server`] if the backend refused, where [`Error::link_refusal`] says what it
    /// means; [`Error::Decode`] if the backend does not link but logged in as the other user (that
    /// log-in is ended). If only the profile could not be had, the link stands, and the error
    /// [is ambiguous](Error::is_ambiguous), unless it is [`Error::Decode`], whose text says so.
    ///
    /// Source: realm-core `app.cpp`, `App::link_user`.
    pub fn link(&self, credentials: &Credentials) -> Result<()> {
        self.session.within(|deadline| self.session.inner.link(&self.id, credentials, deadline))
    }

    /// Returns the client for this user's API keys.
    pub fn api_keys(&self) -> ApiKeys<'_> {
        ApiKeys::new(self)
    }

    /// Returns the client for the app's functions, which run on the backend as this user.
    pub fn functions(&self) -> Functions<'_> {
        Functions::new(self)
    }

    /// Returns what happens to this user from now on. See [`Events`].
    ///
    /// # Errors
    /// [`Error::Store`] if the store cannot be read or watched.
    pub fn changes(&self) -> Result<Events> {
        self.session.within(|deadline| self.session.inner.events(Some(self.id.clone()), deadline))
    }

    /// Calls `listener` with what happens to this user from now on; see [`Session::subscribe`].
    ///
    /// # Errors
    /// [`Error::Store`] if the store cannot be read or watched.
    pub fn subscribe(
        &self,
        listener: impl Fn(&Event) + Send + Sync + 'static,
    ) -> Result<Subscription> {
        self.changes()?.subscribe(listener)
    }

    /// Returns a builder that repeats a call of this user when that can help; see [`Retry`].
    pub fn retry(&self) -> Retry<'_, Self> {
        Retry::new(self)
    }

    fn record(&self) -> Result<Arc<StoredUser>> {
        self.session.within(|deadline| self.session.inner.record(&self.id, deadline))
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

impl PartialEq for User {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for User {}

impl Hash for User {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User").field("id", &self.id).finish_non_exhaustive()
    }
}
