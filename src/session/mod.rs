//! The [`Session`]: logs users in and out, and keeps track of the users known on this device.

mod backend_clock;
mod backoff;
mod builder;
mod commit;
mod event_queue;
mod events;
mod inner;
mod location;
mod location_cache;
mod login;
mod pending_revocations;
mod refresh;
mod send;
#[cfg(feature = "browser")]
mod sign_in;
mod single_flight;
mod unpersisted;
mod users;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub use self::builder::{DEFAULT_DEADLINE, SessionBuilder};
pub use self::events::{Events, Subscription};
pub(crate) use self::inner::Inner;
pub(crate) use self::refresh::RefreshReason;
pub use self::users::{ListedUser, Users};
use crate::cancel::CancelToken;
use crate::credentials::Credentials;
use crate::deadline::Deadline;
use crate::email_password::EmailPassword;
use crate::error::{Error, Result};
use crate::event::Event;
use crate::id::UserId;
use crate::retry::Retry;
use crate::user::User;

/// The handle to one app on one backend: its users on this device, and everything that they do.
///
/// Cloning is cheap. All clones, and every [`User`] that they return, share one state, which is
/// dropped with the last of them. A session may be used from any number of threads, and any number
/// of sessions and processes may share one data directory. A session keeps a thread running only
/// while a program listens for events.
///
/// Every call ends within the session's deadline: 60 s unless [`SessionBuilder::deadline`] or
/// [`Session::with_deadline`] set another one. The deadline includes waits for locks, the look-up
/// of the backend's location, a refresh of the token, and a repeated request. Opening a session and
/// reading its users use no network.
///
/// # Examples
///
/// ```
/// # #[cfg(feature = "server")]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let server = keyfob::server::Server::builder().built_in_functions().start()?;
/// use keyfob::{Credentials, Session};
///
/// # let dir = std::env::temp_dir().join(format!("keyfob-doc-session-{}", std::process::id()));
/// # let open = || Session::builder(server.app_id(), server.base_url()).data_dir(&dir).open();
/// # let session = open()?;
/// // At every start: `Session::builder(APP_ID, BASE_URL).open()?`
/// let user = match session.current_user()? {
///     Some(user) => user, // from the disk, without network
///     None => session.log_in(&Credentials::anonymous())?,
/// };
/// let sum: i64 = user.functions().call("sum", (1, 2))?;
/// assert_eq!(sum, 3);
/// # assert_eq!(open()?.current_user()?, Some(user));
/// # std::fs::remove_dir_all(&dir)?;
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "server"))]
/// # fn main() {}
/// ```
#[derive(Clone)]
pub struct Session {
    pub(crate) inner: Arc<Inner>,
    pub(crate) limit: Duration,
    cancel: Option<CancelToken>,
}

impl Session {
    /// Creates a builder for a session with the app `app_id` on the backend at `base_url`.
    ///
    /// The app id is the client app id of the deployment. The base URL is the address of the
    /// backend, such as `https://example.org`, or the address that `keyfob serve` prints.
    ///
    /// # Examples
    ///
    /// ```
    /// use keyfob::Session;
    /// use keyfob::store::MemoryStore;
    ///
    /// let session = Session::builder("my-app-id", "https://example.org/")
    ///     .store(MemoryStore::new())
    ///     .open()?;
    /// assert_eq!(session.app_id(), "my-app-id");
    /// assert_eq!(session.base_url(), "https://example.org");
    /// # Ok::<(), keyfob::Error>(())
    /// ```
    pub fn builder(app_id: impl Into<String>, base_url: impl Into<String>) -> SessionBuilder {
        SessionBuilder::new(app_id.into(), base_url.into())
    }

    /// Returns a handle to the same session with another deadline. The deadline applies to calls of
    /// the handle and of the users that it returns.
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
    /// use std::time::Duration;
    ///
    /// use keyfob::Credentials;
    ///
    /// let impatient = session.with_deadline(Duration::from_secs(5));
    /// let user = impatient.log_in(&Credentials::anonymous())?; // at most 5 s
    /// let sum: i64 = user.functions().call("sum", (1, 2))?; // at most 5 s
    /// # assert_eq!(sum, 3);
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "server"))]
    /// # fn main() {}
    /// ```
    #[must_use]
    pub fn with_deadline(&self, deadline: Duration) -> Self {
        Self { limit: deadline, ..self.clone() }
    }

    /// Returns a handle to the same session whose calls end when `token` is cancelled. This
    /// includes the calls of the users that it returns. The token replaces an earlier token of this
    /// handle.
    ///
    /// If another thread cancels the token during a call, the call returns [`Error::Cancelled`]
    /// within about 50 ms. It does so whatever it waits for: a name, a connection, a response, a
    /// refresh by another thread or process, or the store. Every later call with this handle
    /// returns the same error. If the request may have arrived and changes something, the error
    /// [`is_ambiguous`](crate::Error::is_ambiguous). Other handles of the session are not affected.
    ///
    /// A refresh of the access token is not aborted, because other callers may share it and because
    /// the backend may already have replaced the refresh token. It continues in the background,
    /// within the deadline of the call that started it, and keyfob stores its result. If a log-in
    /// is cancelled after the backend created a server session, keyfob revokes that session in the
    /// background, best effort.
    ///
    /// A custom transport or store ends a cancelled call when it checks the [`Deadline`].
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use keyfob::{CancelToken, Error, User};
    ///
    /// fn report(user: &User, cancel: &CancelToken) -> keyfob::Result<Option<String>> {
    ///     let session = user.session().with_cancel(cancel);
    ///     let Some(user) = session.user(user.id())? else { return Ok(None) };
    ///     match user.functions().call("slow_report", ()) {
    ///         Ok(report) => Ok(Some(report)),
    ///         Err(Error::Cancelled { .. }) => Ok(None),
    ///         Err(error) => Err(error),
    ///     }
    /// }
    /// ```
    #[must_use]
    pub fn with_cancel(&self, token: &CancelToken) -> Self {
        Self { cancel: Some(token.clone()), ..self.clone() }
    }

    /// Returns the client app id.
    pub fn app_id(&self) -> &str {
        &self.inner.app_id
    }

    /// Returns the base URL in its normal form: lower-case scheme and host, no default port, no
    /// slash at the end.
    pub fn base_url(&self) -> &str {
        self.inner.base_url()
    }

    /// Logs in with `credentials`, and makes the user current.
    ///
    /// When this returns, the tokens, the identities, the profile and the choice of the current
    /// user are on disk. If the user is already known here, by any provider, the same user is
    /// logged in again. Emits [`Event::LoggedIn`]. Emits [`Event::CurrentUserChanged`] too if
    /// another user, or none, was current before.
    ///
    /// [`Credentials::anonymous`] returns an anonymous user who is already logged in, without
    /// network and without `LoggedIn`. Concurrent log-ins with it, in any number of threads and
    /// processes, wait for each other and return one user.
    ///
    /// Blocks for up to three requests (a fourth one if the log-in fails after the first) and a
    /// commit. With an encrypted store it also retries pending revocations, for at most 5 s. If the
    /// user was already logged in, keyfob does not revoke the server session of that earlier login:
    /// it stays valid on the backend until it expires.
    ///
    /// # Errors
    /// - [`Error::Server`] if the backend refused. The code is `InvalidPassword` for a wrong
    ///   password or an unknown address; `AuthError` for an address that is not confirmed, for a
    ///   refused key or token, or if the function refused; `UserDisabled`; or
    ///   `AuthProviderNotFound` if the app does not offer the provider. The status is 429 after too
    ///   many failures, and 404 for an unknown app.
    /// - [`Error::Transport`] if the backend could not be reached or its response was lost;
    ///   [`is_ambiguous`](crate::Error::is_ambiguous) distinguishes the two.
    /// - [`Error::Store`] if the log-in could not be stored.
    ///
    /// After an error nothing is stored. If a server session was already created, keyfob tries to
    /// revoke it (best effort).
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
    /// use keyfob::{Credentials, ServerErrorCode};
    ///
    /// session.email_password().register("ada@example.org", "correct horse")?;
    /// let user = session.log_in(&Credentials::email_password("ada@example.org", "correct horse"))?;
    /// assert_eq!(session.current_user()?, Some(user));
    ///
    /// let wrong = Credentials::email_password("ada@example.org", "wrong horse");
    /// let error = session.log_in(&wrong).unwrap_err();
    /// assert_eq!(error.server_code(), Some(&ServerErrorCode::InvalidPassword));
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "server"))]
    /// # fn main() {}
    /// ```
    ///
    /// Source: realm-core `object-store/sync/app.cpp`, `App::log_in_with_credentials`.
    pub fn log_in(&self, credentials: &Credentials) -> Result<User> {
        let user = self.within(|deadline| self.inner.log_in(credentials, deadline))?;
        Ok(self.handle(user))
    }

    /// Returns the client for accounts with an e-mail address and a password: registration,
    /// confirmation and password reset.
    pub fn email_password(&self) -> EmailPassword<'_> {
        EmailPassword::new(self)
    }

    /// Returns the events of this session from now on, including events of other processes that
    /// share its store. See [`Events`].
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
    /// use keyfob::{Credentials, Event};
    ///
    /// let mut events = session.events()?;
    /// let user = session.log_in(&Credentials::anonymous())?;
    /// match events.next() {
    ///     Some(Event::LoggedIn { user: id, .. }) => assert_eq!(&id, user.id()),
    ///     other => panic!("{other:?}"),
    /// }
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "server"))]
    /// # fn main() {}
    /// ```
    pub fn events(&self) -> Result<Events> {
        self.within(|deadline| self.inner.events(None, deadline))
    }

    /// Calls `listener` with each event from now on, on a thread of its own, until the returned
    /// subscription is dropped or the session ends.
    ///
    /// No lock is held during a call, so the listener may call anything in this library. If the
    /// listener panics, the panic hook reports it and the subscription continues. A listener that
    /// holds a clone of the session keeps the session alive.
    ///
    /// Neither dropping the subscription nor ending the program waits for a call in progress or for
    /// undelivered events: call [`Subscription::drain`] to wait for both. The manual page
    /// [`listening`](crate::manual::guide::listening) shows how.
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
    /// use std::sync::mpsc;
    ///
    /// use keyfob::{Credentials, Event};
    ///
    /// let (sender, receiver) = mpsc::channel();
    /// let subscription = session.subscribe(move |event| {
    ///     let _ = sender.send(event.clone());
    /// })?;
    /// session.log_in(&Credentials::anonymous())?;
    /// assert!(matches!(receiver.recv()?, Event::LoggedIn { .. }));
    /// drop(subscription); // the listener is not called any more
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "server"))]
    /// # fn main() {}
    /// ```
    pub fn subscribe(
        &self,
        listener: impl Fn(&Event) + Send + Sync + 'static,
    ) -> Result<Subscription> {
        self.events()?.subscribe(listener)
    }

    /// Ends all calls in progress, for all handles of this session, so that a program can stop
    /// without waiting for its deadlines.
    ///
    /// Returns at once. A call in progress ends with [`Error::ShutDown`], whether it waits for a
    /// response, for a refresh or a look-up by another thread, or for another process that holds
    /// the store. Every later call returns the same error. [`Events`] return what was emitted
    /// before the shutdown and then end. Threads of subscriptions end in the same way, after the
    /// current call of their listener. Stored data stays stored, no user is logged out, and other
    /// sessions on the same store continue.
    ///
    /// With [`UreqTransport`](crate::transport::UreqTransport), a call that waits for a response
    /// ends at once, unless a clone of the transport is in use elsewhere. A call that is connecting
    /// or looking up a name ends when that step is done (15 s at most). For other transports,
    /// [`Transport::shut_down`](crate::transport::Transport::shut_down) decides. If a request that
    /// changes something may have arrived, the error [`is_ambiguous`](crate::Error::is_ambiguous).
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
    /// use keyfob::{Credentials, Error};
    ///
    /// session.shut_down();
    /// let error = session.log_in(&Credentials::anonymous()).unwrap_err();
    /// assert!(matches!(error, Error::ShutDown { .. }));
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "server"))]
    /// # fn main() {}
    /// ```
    pub fn shut_down(&self) {
        self.inner.shut_down();
    }

    /// Returns a builder that repeats a call of this session when repeating it can help; see
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
    /// use keyfob::Credentials;
    ///
    /// let user = session.retry().run(|session| session.log_in(&Credentials::anonymous()))?;
    /// # assert_eq!(session.current_user()?, Some(user));
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "server"))]
    /// # fn main() {}
    /// ```
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

    /// Runs an empty commit, which changes no user: it completes the recovery after a crash, and
    /// finds damage that reads do not notice. With
    /// [`OnDamage::Recover`](crate::store::OnDamage::Recover), it replaces a damaged database.
    /// Blocks for a commit.
    ///
    /// # Errors
    /// [`Error::Store`] if the store is damaged or cannot be written.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> keyfob::Result<()> {
    /// let session = keyfob::Session::builder("my-app-id", "https://example.org")
    ///     .store(keyfob::store::MemoryStore::new())
    ///     .open()?;
    /// session.check_store()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn check_store(&self) -> Result<()> {
        self.within(|deadline| {
            self.inner.store.commit(deadline, &mut |_| Ok(Vec::new()))?;
            Ok(())
        })
    }

    /// Runs a call within the session's deadline, unless the session was shut down or the handle's
    /// token was cancelled.
    pub(crate) fn within<T>(&self, call: impl FnOnce(Deadline) -> Result<T>) -> Result<T> {
        self.check()?;
        call(self.deadline()).map_err(|error| self.explain(error))
    }

    pub(crate) fn check(&self) -> Result<()> {
        self.inner.shutdown.check()?;
        match &self.cancel {
            Some(token) if token.is_cancelled() => Err(Error::Cancelled { ambiguous: false }),
            _ => Ok(()),
        }
    }

    pub(crate) fn deadline(&self) -> Deadline {
        self.interruptible(Deadline::after(self.limit))
    }

    /// Adds the session's shutdown and the handle's cancellation to a deadline.
    fn interruptible(&self, deadline: Deadline) -> Deadline {
        let deadline = deadline.with_shutdown(&self.inner.shutdown);
        self.cancel.as_ref().map_or(deadline, |token| deadline.with_cancel(token))
    }

    /// Replaces an error that a shutdown or a cancellation caused with [`Error::ShutDown`] or
    /// [`Error::Cancelled`].
    fn explain(&self, error: Error) -> Error {
        let ambiguous = error.is_ambiguous();
        if !error.is_interruption() {
            error
        } else if self.inner.shutdown.has_begun() {
            Error::ShutDown { ambiguous }
        } else if self.cancel.as_ref().is_some_and(CancelToken::is_cancelled) {
            Error::Cancelled { ambiguous }
        } else {
            error
        }
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
