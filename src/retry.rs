//! Repeats failed calls if a repetition may succeed and is harmless.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::thread;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::session::Session;
use crate::user::User;

/// Repeats a call that failed; returned by [`Session::retry`] and [`User::retry`].
///
/// A call is repeated if its error [`is_retryable`](Error::is_retryable) and is not
/// [ambiguous](Error::is_ambiguous). An ambiguous call may have taken effect, so a repetition could
/// apply it twice; [`idempotent`](Self::idempotent) declares that this is harmless.
///
/// Before each repetition `Retry` sleeps for a pause that doubles each time, less a random part of
/// up to a half. If the backend asked for a longer pause ([`Error::retry_after`]), `Retry` sleeps
/// for that instead.
///
/// All attempts and pauses together end within the deadline of the session
/// ([`Session::with_deadline`]). If the next pause exceeds the remaining time, the error is
/// returned at once. A pause also ends when the session is shut down.
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
/// use std::time::Duration;
///
/// use keyfob::server::{Fault, Route};
///
/// // The backend is busy twice, then it responds.
/// server.faults().add(Fault::status(503).on(Route::CallFunction).times(2));
/// let sum: i64 = user
///     .retry()
///     .first_pause(Duration::from_millis(1))
///     .run(|user| user.functions().call("sum", (1, 2)))?;
/// assert_eq!(sum, 3);
///
/// // The response is lost. An order must not be placed twice, so this returns the error.
/// server.faults().add(Fault::cut_after_commit().on(Route::CallFunction));
/// let order = user.retry().run(|user| user.functions().call::<String>("echo", ("tea",)));
/// assert!(order.unwrap_err().is_ambiguous());
///
/// // Reading twice is harmless.
/// server.faults().add(Fault::cut_after_commit().on(Route::CallFunction));
/// let rates: Vec<f64> = user
///     .retry()
///     .idempotent(true)
///     .first_pause(Duration::from_millis(1))
///     .run(|user| user.functions().call("echo", ([1.08, 0.93],)))?;
/// assert_eq!(rates, [1.08, 0.93]);
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "server"))]
/// # fn main() {}
/// ```
#[must_use = "nothing is called until `run`"]
pub struct Retry<'a, H> {
    handle: &'a H,
    attempts: u32,
    first_pause: Duration,
    longest_pause: Duration,
    idempotent: bool,
}

impl<'a, H: Handle> Retry<'a, H> {
    /// The default number of attempts, including the first one.
    pub const DEFAULT_ATTEMPTS: u32 = 5;
    /// The default pause before the second attempt.
    pub const DEFAULT_FIRST_PAUSE: Duration = Duration::from_millis(500);
    /// The default limit of a pause, unless the backend asked for a longer one.
    pub const DEFAULT_LONGEST_PAUSE: Duration = Duration::from_secs(10);

    pub(crate) fn new(handle: &'a H) -> Self {
        Self {
            handle,
            attempts: Self::DEFAULT_ATTEMPTS,
            first_pause: Self::DEFAULT_FIRST_PAUSE,
            longest_pause: Self::DEFAULT_LONGEST_PAUSE,
            idempotent: false,
        }
    }

    /// Sets the number of attempts, including the first one. Defaults to 5; zero counts as one.
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts;
        self
    }

    /// Sets the pause before the second attempt. Each further pause is twice as long as the
    /// previous one. Defaults to 0.5 s.
    pub fn first_pause(mut self, pause: Duration) -> Self {
        self.first_pause = pause;
        self
    }

    /// Sets the limit of pauses, unless the backend asks for a longer one. Defaults to 10 s.
    pub fn longest_pause(mut self, pause: Duration) -> Self {
        self.longest_pause = pause;
        self
    }

    /// Declares that repeating the call is harmless even if the backend has already completed it.
    /// Calls with ambiguous errors are then repeated too. Defaults to `false`.
    pub fn idempotent(mut self, idempotent: bool) -> Self {
        self.idempotent = idempotent;
        self
    }

    /// Calls `call` until it succeeds, until a repetition is not allowed or cannot help, or until
    /// attempts or time run out.
    ///
    /// `call` receives a handle with the remaining time as its deadline; make the calls with that
    /// handle. Blocks for at most the session's deadline if `call` does.
    ///
    /// # Errors
    /// The last error of `call`; [`Error::ShutDown`] if the session was shut down.
    pub fn run<T>(&self, mut call: impl FnMut(&H) -> Result<T>) -> Result<T> {
        let session = self.handle.session();
        let deadline = session.deadline();
        let mut pause = self.first_pause.min(self.longest_pause);
        let mut attempt = 1;
        loop {
            let error = match call(&self.handle.within(deadline.remaining())) {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            if attempt >= self.attempts || !self.may_repeat(&error) {
                return Err(error);
            }
            let wait = error.retry_after().unwrap_or_default().max(with_jitter(pause));
            if wait >= deadline.remaining() {
                // The deadline has also passed if the session was shut down.
                return session.within(|_| Err(error));
            }
            let end = deadline.at_most(wait);
            while !end.has_passed() {
                thread::sleep(end.poll_interval());
            }
            pause = pause.saturating_mul(2).min(self.longest_pause);
            attempt += 1;
        }
    }

    fn may_repeat(&self, error: &Error) -> bool {
        error.is_retryable() && (self.idempotent || !error.is_ambiguous())
    }
}

/// Shortens a pause by up to a half at random, so that clients that failed together do not retry at
/// the same moment.
fn with_jitter(pause: Duration) -> Duration {
    let random = RandomState::new().hash_one(());
    pause - pause / 2 * (random as u8).into() / 255
}

/// A handle whose calls can be repeated: a [`Session`] or a [`User`]. This trait is sealed.
pub trait Handle: Clone + sealed::Sealed {
    #[doc(hidden)]
    fn session(&self) -> &Session;

    #[doc(hidden)]
    fn within(&self, limit: Duration) -> Self;
}

mod sealed {
    pub trait Sealed {}
}

impl sealed::Sealed for Session {}

impl Handle for Session {
    fn session(&self) -> &Session {
        self
    }

    fn within(&self, limit: Duration) -> Self {
        self.with_deadline(limit)
    }
}

impl sealed::Sealed for User {}

impl Handle for User {
    fn session(&self) -> &Session {
        self.session()
    }

    fn within(&self, limit: Duration) -> Self {
        Self::new(self.session().with_deadline(limit), self.id().clone())
    }
}

impl<H: fmt::Debug> fmt::Debug for Retry<'_, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retry")
            .field("handle", &self.handle)
            .field("attempts", &self.attempts)
            .field("idempotent", &self.idempotent)
            .finish_non_exhaustive()
    }
}
