//! The [`Session`]: who is known on this device, who is current, and everything done as one of
//! them.

mod backend_clock;
mod builder;
mod commit;
mod events;
mod inner;
mod location;
mod login;
mod pending_revocations;
mod refresh;
mod send;
#[cfg(feature = "browser")]
mod sign_in;
mod single_flight;
mod unpersisted;
mod user_iter;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub use self::builder::{DEFAULT_DEADLINE, SessionBuilder};
pub use self::events::{Events, Subscription};
pub(crate) use self::inner::Inner;
pub(crate) use self::refresh::RefreshReason;
pub use self::user_iter::{ListedUser, Users};
use crate::credentials::Credentials;
use crate::deadline::Deadline;
use crate::email_password::EmailPassword;
use crate::error::Result;
use crate::event::Event;
use crate::id::UserId;
use crate::retry::Retry;
use crate::store::Listing;
use crate::user::User;

/// The users of one app on one backend, as they are known on this device.
///
/// Cloning is cheap: all clones, and every [`User`] that one of them returned, share one state, which goes when
/// the last of them does. A session may be used from any number of threads, and any number of
/// sessions and processes may share one data directory. It starts no thread of its own unless
/// somebody listens for events.
///
/// Every call that may wait ends within the session's deadline (60 s unless
/// [`SessionBuilder::deadline`] or [`Session::with_deadline`] say otherwise): waits for locks, the
/// look-up of the host, a refresh of the token and a repeated request are all inside it. Opening a
/// session, and reading who is there, use no network.
///
/// # Examples
///
/// ```no_run
/// use keyfob::{Credentials, Session};
///
/// # fn main() -> keyfob::Result<()> {
/// let session = Session::builder("my-app-id", "https://example.org").open()?;
/// let user = match session.current_user()? {
///     Some(user) => user, // from the device, also without network
///     None => session.log_in(&Credentials::email_password("ada@example.org", "hunter22"))?,
/// };
/// let sum: i64 = user.functions().call("sum", (1, 2))?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Session {
    pub(crate) inner: Arc<Inner>,
    pub(crate) limit: Duration,
}

impl Session {
    /// Begins to describe a session with an app, by its client app id, on the backend at a base
    /// URL, such as `https://example.org` or the address that `keyfob serve` prints.
    pub fn builder(app_id: impl Into<String>, base_url: impl Into<String>) -> SessionBuilder {
        SessionBuilder::new(app_id.into(), base_url.into())
    }

    /// Returns a handle to the same session whose calls have another deadline, and those of the
    /// users that it returns.
    #[must_use]
    pub fn with_deadline(&self, deadline: Duration) -> Self {
        Self { inner: self.inner.clone(), limit: deadline }
    }

    /// Returns the client app id.
    pub fn app_id(&self) -> &str {
        &self.inner.app_id
    }

    /// Returns the base URL, as it was configured but for its case and trailing slashes.
    pub fn base_url(&self) -> &str {
        self.inner.base_url()
    }

    /// Logs in, and makes the user current.
    ///
    /// Tokens, identities, profile and the choice of the current user are on disk when this
    /// returns. A user who is known here already, by whatever provider, is the same user
    /// afterwards. Emits [`Event::LoggedIn`], and [`Event::CurrentUserChanged`] if another user, or
    /// nobody, was current before. [`Credentials::anonymous`] reuses an anonymous user who is
    /// logged in, without network and without `LoggedIn`. Concurrent log-ins with it, in any number
    /// of threads and processes, wait for each other and return one user.
    ///
    /// Blocks for three requests (one more if it fails after the first) and a commit, and in a store
    /// that is sealed for as long as it takes to tell the backend of earlier log-outs, five seconds
    /// at most; all within the deadline. If the user is logged in already, the server session of
    /// that login is not ended: it lives on the backend until its own end, and nobody has it here.
    ///
    /// # Errors
    /// [`Error::Server`](crate::Error::Server) if the backend refused, with code `InvalidPassword`
    /// for a wrong password or an unknown address, `AuthError` for an address that is not confirmed
    /// or a key, token or function that says no, `UserDisabled`, or `AuthProviderNotFound` if the
    /// app does not offer the provider; with status 429 after too many failures, 404 for an unknown
    /// app;
    /// [`Error::Transport`](crate::Error::Transport) if it could not be reached or the answer was
    /// lost, which [`is_ambiguous`](crate::Error::is_ambiguous) tells apart;
    /// [`Error::Store`](crate::Error::Store) if the log-in could not be kept. Nothing is stored
    /// after an error, and a server session that was made already is ended as well as it goes.
    ///
    /// Source: realm-core `object-store/sync/app.cpp`, `App::log_in_with_credentials`.
    pub fn log_in(&self, credentials: &Credentials) -> Result<User> {
        let user = self.within(|deadline| self.inner.log_in(credentials, deadline))?;
        Ok(self.handle(user))
    }

    /// Returns the current user: the one who logged in, linked an account or was switched to last
    /// and is still logged in. Uses no network.
    ///
    /// # Errors
    /// [`Error::Store`](crate::Error::Store) if the store cannot be read; never "nobody" then.
    pub fn current_user(&self) -> Result<Option<User>> {
        let current = self.within(|deadline| Ok(self.inner.store.current(deadline)?))?;
        Ok(current.map(|user| self.handle(user)))
    }

    /// Returns all users known here, logged out ones too, in the order in which they first logged
    /// in. Uses no network. See [`users_iter`](Self::users_iter) for many of them.
    ///
    /// # Errors
    /// [`Error::Store`](crate::Error::Store) if the store cannot be read.
    pub fn users(&self) -> Result<Vec<User>> {
        self.within(|deadline| {
            let mut listing = Listing::default();
            let next = || listing.next(&*self.inner.store, || deadline);
            let users = std::iter::from_fn(next).map(|user| Ok(self.handle(user?.id.clone())));
            users.collect()
        })
    }

    /// Goes through all users known here, as [`users`](Self::users) does, with what is known of
    /// each, without having them all in memory. Uses no network.
    pub fn users_iter(&self) -> Users {
        Users::new(self.clone())
    }

    /// Returns the user with this id if it is known here. Uses no network.
    ///
    /// # Errors
    /// [`Error::Store`](crate::Error::Store) if the store cannot be read.
    pub fn user(&self, id: &UserId) -> Result<Option<User>> {
        let record = self.within(|deadline| Ok(self.inner.store.user(id, deadline)?))?;
        Ok(record.map(|record| self.handle(record.id.clone())))
    }

    /// Makes a logged-in user current. Emits [`Event::CurrentUserChanged`] unless it was already.
    /// Uses no network; blocks for a commit.
    ///
    /// # Errors
    /// [`Error::LocalState`](crate::Error::LocalState) if the user is logged out or not known here;
    /// [`Error::Store`](crate::Error::Store) if nothing was changed.
    pub fn switch_user(&self, user: &User) -> Result<()> {
        self.within(|deadline| self.inner.switch_to(user.id(), deadline))
    }

    /// Forgets a user on this device, logged in or not, and ends its server session. The account
    /// stays on the backend.
    ///
    /// Tokens, profile and identities are gone from disk when this returns, also when the backend
    /// could not be reached; the id stays in the recent events, and the directory of the user's
    /// synced realms until you delete it ([`unused_sync_dirs`](Self::unused_sync_dirs)). Blocks for
    /// a commit and a request. Emits [`Event::Removed`], and [`Event::CurrentUserChanged`] if the user was
    /// current; of those who are logged in, the one who was used last becomes current then.
    ///
    /// # Errors
    /// [`Error::Server`](crate::Error::Server) or [`Error::Transport`](crate::Error::Transport) if
    /// the backend was not told. The removal stands, whatever
    /// [`is_retryable`](crate::Error::is_retryable) says: there is nothing left here to tell it
    /// with, and the server session lives on until its own end.
    /// [`Error::LocalState`](crate::Error::LocalState) if the user is not known here,
    /// [`Error::Store`](crate::Error::Store) if nothing was changed.
    pub fn remove_user(&self, user: &User) -> Result<()> {
        self.within(|deadline| self.inner.remove(user.id(), deadline))
    }

    /// Deletes a user: the account on the backend, with that user's own token, then everything
    /// about it here, as [`remove_user`](Self::remove_user) does. Blocks for a request, a refresh if
    /// need be, and a commit. Emits [`Event::Removed`], and [`Event::CurrentUserChanged`] if the user was
    /// current.
    ///
    /// # Errors
    /// As [`Functions::call`](crate::Functions::call); nothing has changed here then. If
    /// [`is_ambiguous`](crate::Error::is_ambiguous), the account may be gone; if it is, the next
    /// refresh finds the login ended.
    ///
    /// Source: realm-core `object-store/sync/app.cpp`, `App::delete_user`.
    pub fn delete_user(&self, user: &User) -> Result<()> {
        self.within(|deadline| self.inner.delete(user.id(), deadline))
    }

    /// Returns the client for accounts with e-mail address and password: registration,
    /// confirmation, password reset.
    pub fn email_password(&self) -> EmailPassword<'_> {
        EmailPassword::new(self)
    }

    /// Returns the events of this session from now on, those of other processes that share its
    /// store included. See [`Events`].
    ///
    /// # Errors
    /// [`Error::Store`](crate::Error::Store) if the store cannot be read or watched.
    pub fn events(&self) -> Result<Events> {
        self.within(|deadline| self.inner.events(None, deadline))
    }

    /// Calls `listener` with each event from now on, on a thread of its own, until the returned
    /// subscription is dropped or the session ends.
    ///
    /// Neither dropping the subscription nor the end of the program waits for a call that is under
    /// way: whoever must see it through reads [`events`](Self::events) on a thread of its own and
    /// joins that.
    ///
    /// No lock is held: anything of this library may be called in it. A panic in it is reported
    /// like any other and does not end the subscription. A listener that holds a clone of the
    /// session keeps the session alive until it is unsubscribed.
    ///
    /// # Errors
    /// [`Error::Store`](crate::Error::Store) if the store cannot be read or watched.
    pub fn subscribe(
        &self,
        listener: impl Fn(&Event) + Send + Sync + 'static,
    ) -> Result<Subscription> {
        self.events()?.subscribe(listener)
    }

    /// Ends what waits, for all handles of this session: a program that is to stop need not wait
    /// for its deadlines.
    ///
    /// Returns at once. Calls that wait end with [`Error::ShutDown`](crate::Error::ShutDown): for a
    /// refresh or a look-up by another thread, for another process that holds the store, for an
    /// answer. So does every call after it. [`Events`] end once they have given what was told
    /// by then, and with them the threads of subscriptions, each after the call of its listener
    /// that is under way. What was stored by then stands; nothing is logged out, and another
    /// session on the same store goes on.
    ///
    /// With [`UreqTransport`](crate::transport::UreqTransport), a call that waits for an answer
    /// ends at once, unless a clone of the transport is in use elsewhere; one that is connecting or
    /// looking up a name ends when that is done (15 s at most). Another transport decides in
    /// [`Transport::shut_down`](crate::transport::Transport::shut_down). If the request may have
    /// arrived and changes something, the error [`is_ambiguous`](crate::Error::is_ambiguous).
    pub fn shut_down(&self) {
        self.inner.shut_down();
    }

    /// Returns a builder that repeats a call of this session when that can help; see [`Retry`].
    pub fn retry(&self) -> Retry<'_, Self> {
        Retry::new(self)
    }

    pub(crate) fn app_dir(&self) -> Option<&Path> {
        self.inner.app_dir.as_deref()
    }

    pub(crate) fn websocket_url(&self) -> Result<String> {
        let location = self.within(|deadline| self.inner.location(deadline))?;
        Ok(location.websocket.clone())
    }

    /// Runs a call within the session's deadline, unless the session was shut down.
    pub(crate) fn within<T>(&self, call: impl FnOnce(Deadline) -> Result<T>) -> Result<T> {
        self.inner.shutdown.check()?;
        call(self.deadline()).map_err(|error| self.inner.shutdown.explain(error))
    }

    pub(crate) fn deadline(&self) -> Deadline {
        Deadline::after(self.limit).with_shutdown(&self.inner.shutdown)
    }

    fn handle(&self, id: UserId) -> User {
        User::new(self.clone(), id)
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("app_id", &self.app_id())
            .field("base_url", &self.base_url())
            .field("deadline", &self.limit)
            .finish_non_exhaustive()
    }
}
