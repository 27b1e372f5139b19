//! The [`User`] handle: a user's state, and the calls made as that user.

mod tokens;

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::account::{Identity, Profile, UserState};
use crate::api_keys::ApiKeys;
use crate::credentials::Credentials;
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::event::Event;
use crate::functions::Functions;
use crate::id::{DeviceId, UserId};
use crate::retry::Retry;
use crate::session::{Events, Session, Subscription};
use crate::store::StoredUser;

/// A user on this device; returned by [`Session::log_in`], [`Session::current_user`] and others.
///
/// A handle consists of an id and the session. It has no state of its own and reads the session's
/// store. Two handles therefore never disagree, and changes by another thread or process are
/// visible at once. A handle keeps its session alive. Two handles are equal if their ids are equal.
#[derive(Clone)]
pub struct User {
    session: Session,
    id: UserId,
}

impl User {
    pub(crate) fn new(session: Session, id: UserId) -> Self {
        Self { session, id }
    }

    /// Returns the user's id. It is the same for every identity of the user and on every device.
    pub fn id(&self) -> &UserId {
        &self.id
    }

    /// Returns the session that this user belongs to.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Returns whether the user is logged in, logged out, or no longer known here. Uses no network.
    ///
    /// # Errors
    /// [`Error::Store`] if the store cannot be read.
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
    /// use keyfob::UserState;
    ///
    /// assert_eq!(user.state()?, UserState::LoggedIn);
    /// user.log_out()?;
    /// assert_eq!(user.state()?, UserState::LoggedOut);
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "server"))]
    /// # fn main() {}
    /// ```
    pub fn state(&self) -> Result<UserState> {
        let inner = &self.session.inner;
        let record = self.session.within(|deadline| Ok(inner.store.user(&self.id, deadline)?))?;
        Ok(record.map_or(UserState::Removed, |record| match record.is_logged_in() {
            true => UserState::LoggedIn,
            false => UserState::LoggedOut,
        }))
    }

    /// Returns the accounts that are attached to the user, in the order in which they were linked.
    /// They are as old as the last fetch of the profile. Uses no network.
    ///
    /// # Errors
    /// [`Error::LocalState`] if the user was removed, [`Error::Store`] if the store cannot be read.
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
    /// use keyfob::Provider;
    ///
    /// let identities = user.identities()?;
    /// assert_eq!(identities[0].provider, Provider::EmailPassword);
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "server"))]
    /// # fn main() {}
    /// ```
    pub fn identities(&self) -> Result<Vec<Identity>> {
        Ok(self.record()?.identities.clone())
    }

    /// Returns the profile as last fetched: at log-in, or by [`User::refresh_profile`]. Uses no
    /// network.
    ///
    /// # Errors
    /// [`Error::LocalState`] if the user was removed, [`Error::Store`] if the store cannot be read.
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
    /// let profile = user.profile()?;
    /// assert_eq!(profile.email(), Some("ada@example.org"));
    /// assert_eq!(profile.name(), None); // this backend knows no name for this account
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "server"))]
    /// # fn main() {}
    /// ```
    pub fn profile(&self) -> Result<Profile> {
        Ok(self.record()?.profile.clone())
    }

    /// Fetches the profile and the identities from the backend and stores them. Emits
    /// [`Event::ProfileChanged`] if they have changed. Blocks for a request (two if the stored
    /// profile changes during the first), a refresh if it is due, and a commit.
    ///
    /// # Errors
    /// - [`Error::LocalState`] if the user is not logged in.
    /// - [`Error::LoginEnded`] if the backend ended the login; [`Error::Server`] if it refused
    ///   otherwise.
    /// - [`Error::Transport`] if no usable response came back.
    /// - [`Error::Store`] if the profile could not be stored.
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
    /// let profile = user.refresh_profile()?;
    /// assert_eq!(profile.email(), Some("ada@example.org"));
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "server"))]
    /// # fn main() {}
    /// ```
    ///
    /// Source: realm-core `app.cpp`, `App::refresh_profile`.
    pub fn refresh_profile(&self) -> Result<Profile> {
        self.session.within(|deadline| self.session.inner.refresh_profile(&self.id, deadline))
    }

    /// Returns the id that the backend assigned to this device, or `None` if it assigned none. The
    /// id remains after a log-out. Uses no network.
    ///
    /// # Errors
    /// [`Error::LocalState`] if the user was removed, [`Error::Store`] if the store cannot be read.
    pub fn device_id(&self) -> Result<Option<DeviceId>> {
        Ok(self.record()?.device_id.clone())
    }

    /// Logs this user out here, then notifies the backend.
    ///
    /// When this returns, the tokens have been removed from disk, even if the backend was
    /// unreachable. With an encrypted store, the refresh token is kept until the backend has been
    /// notified. Profile and identities are kept. An anonymous user is removed instead, because it
    /// is not possible to log in as the same anonymous user again.
    ///
    /// Emits [`Event::LoggedOut`] or [`Event::Removed`]. If the user was current, emits
    /// [`Event::CurrentUserChanged`] too; the most recently used logged-in user then becomes
    /// current. If the user is already logged out, this does nothing, except that with an encrypted
    /// store it retries a pending revocation. Blocks for a commit and a request.
    ///
    /// # Errors
    /// - [`Error::Server`] or [`Error::Transport`] if the backend could not be notified. The user
    ///   is logged out here nevertheless, even if the error [`is_retryable`](Error::is_retryable):
    ///   no token is left to notify the backend with, so the server session stays valid until it
    ///   expires. With an encrypted store, a retryable failure is not an error: keyfob notifies the
    ///   backend with the next log-in or refresh of any user of that store.
    /// - [`Error::LocalState`] if the user was removed.
    /// - [`Error::Store`] if nothing was changed.
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
    /// user.log_out()?;
    /// assert_eq!(session.current_user()?, None);
    /// // The user stays known, and can log in again.
    /// assert_eq!(session.users()?, [user.clone()]);
    /// assert_eq!(session.log_in(&ada)?, user);
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "server"))]
    /// # fn main() {}
    /// ```
    ///
    /// Source: realm-core `app.cpp`, `App::log_out`.
    pub fn log_out(&self) -> Result<()> {
        self.session.within(|deadline| self.session.inner.log_out(&self.id, deadline))
    }

    /// Attaches another account to this user, and makes the user current.
    ///
    /// From then on the user can log in with either account. An anonymous user becomes a permanent
    /// one, which a log-out keeps. An e-mail address has to be registered before it can be linked,
    /// and confirmed if the app requires that.
    ///
    /// Profile and identities are fetched again. Emits [`Event::IdentityLinked`]. Emits
    /// [`Event::CurrentUserChanged`] too if another user, or none, was current before. Blocks for
    /// two requests, a refresh if it is due, and a commit.
    ///
    /// # Errors
    /// - [`Error::LocalState`] for anonymous credentials, or if the user is not logged in. If the
    ///   user logs out during the call, the account may be linked nevertheless.
    /// - [`Error::Server`] if the backend refused; [`Error::link_refusal`] says what the refusal
    ///   means.
    /// - [`Error::Decode`] if the backend does not support linking and logged in as the other user
    ///   instead; keyfob revokes that log-in.
    ///
    /// If the account was linked and only the new profile could not be fetched, the error [is
    /// ambiguous](Error::is_ambiguous). [`Error::Decode`] is the exception: its text says that the
    /// backend has completed the request.
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
    /// use keyfob::{Credentials, LinkRefusal};
    ///
    /// // An anonymous user creates an account, and keeps the same id.
    /// let id = user.id().clone();
    /// session.email_password().register("ada@example.org", "correct horse")?;
    /// let ada = Credentials::email_password("ada@example.org", "correct horse");
    /// user.link(&ada)?;
    /// assert_eq!(user.identities()?.len(), 2);
    /// user.log_out()?;
    /// assert_eq!(session.log_in(&ada)?.id(), &id);
    ///
    /// // An account belongs to one user only.
    /// let other = session.log_in(&Credentials::new_anonymous())?;
    /// let error = other.link(&ada).unwrap_err();
    /// assert_eq!(error.link_refusal(), Some(LinkRefusal::IdentityAlreadyInUse));
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "server"))]
    /// # fn main() {}
    /// ```
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

    /// Returns the events of this user from now on. See [`Events`].
    ///
    /// # Errors
    /// [`Error::Store`] if the store cannot be read or watched.
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
    /// use keyfob::Event;
    ///
    /// let mut changes = user.changes()?;
    /// user.refresh_access_token()?;
    /// assert!(matches!(changes.next(), Some(Event::TokenRefreshed { .. })));
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "server"))]
    /// # fn main() {}
    /// ```
    pub fn changes(&self) -> Result<Events> {
        self.session.within(|deadline| self.session.inner.events(Some(self.id.clone()), deadline))
    }

    /// Calls `listener` with each event of this user from now on; see [`Session::subscribe`].
    ///
    /// # Errors
    /// [`Error::Store`] if the store cannot be read or watched.
    pub fn subscribe(
        &self,
        listener: impl Fn(&Event) + Send + Sync + 'static,
    ) -> Result<Subscription> {
        self.changes()?.subscribe(listener)
    }

    /// Returns a builder that repeats a call of this user when repeating it can help; see
    /// [`Retry`].
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
    /// let sum: i64 = user.retry().run(|user| user.functions().call("sum", (1, 2)))?;
    /// assert_eq!(sum, 3);
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "server"))]
    /// # fn main() {}
    /// ```
    pub fn retry(&self) -> Retry<'_, Self> {
        Retry::new(self)
    }

    fn record(&self) -> Result<Arc<StoredUser>> {
        self.session.within(|deadline| self.session.inner.record(&self.id, deadline))
    }
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
