//! What a failed refresh or a rejected access token means for later calls of the user.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::diagnostics::{Brief, note};
use crate::error::{Error, Result};
use crate::id::UserId;
use crate::token::AccessToken;

/// The minimum back-off of a user's implicit refreshes after a failure. Jitter of up to the same
/// length is added.
const BACKOFF: Duration = Duration::from_secs(2);

/// The maximum time that a backend's `Retry-After` delays implicit refreshes.
const MAX_BACKOFF: Duration = Duration::from_secs(300);

/// The failures of all users. Those of a user are dropped after a success, at a log-in, and when
/// the login ends.
#[derive(Default)]
pub(super) struct Failures {
    users: Mutex<HashMap<UserId, Failure>>,
    /// Fast check: `users` may be non-empty.
    any: AtomicBool,
}

#[derive(Default)]
struct Failure {
    /// The access token that the backend rejected, until it is replaced.
    rejected: Option<AccessToken>,
    backoff: Option<Backoff>,
}

/// The back-off of a user's implicit refreshes.
struct Backoff {
    /// By the monotonic clock.
    until: Duration,
    /// Why the refresh failed.
    error: Error,
    /// The time that the refresh had.
    time: Duration,
}

impl Failures {
    /// Returns `true` if the backend rejected this token.
    pub(super) fn is_rejected(&self, user: &UserId, token: &AccessToken) -> bool {
        let rejected = |failure: &Failure| failure.rejected.as_ref() == Some(token);
        self.any.load(Ordering::Relaxed) && self.lock().get(user).is_some_and(rejected)
    }

    /// Forgets the failures of a user. A rejected token that is still the newest one stays
    /// rejected.
    pub(super) fn clear(&self, user: &UserId, newest: Option<&AccessToken>) {
        self.update(|users| {
            if let Some(mut failure) = users.remove(user)
                && newest.is_some()
                && failure.rejected.as_ref() == newest
            {
                failure.backoff = None;
                users.insert(user.clone(), failure);
            }
        });
    }

    /// Records that the backend rejected a token.
    pub(super) fn reject(&self, user: &UserId, token: &AccessToken) {
        self.update(|users| {
            users.entry(user.clone()).or_default().rejected = Some(token.clone());
        });
    }

    /// Returns the failure that an implicit refresh has to back off for, if it has `time` left. A
    /// refresh that ran out of time holds up only those that have less than twice its time. `now`
    /// is the monotonic time.
    pub(super) fn backing_off(
        &self,
        user: &UserId,
        time: Duration,
        now: Duration,
    ) -> Option<Error> {
        let users = self.lock();
        let Backoff { until, error, time: failed } = users.get(user)?.backoff.as_ref()?;
        let holds = !error.is_timeout() || time / 2 < *failed;
        (holds && now < *until).then(|| error.clone())
    }

    /// Records the outcome of a refresh that had `time`. `now` is the monotonic time; `jitter`
    /// lengthens the back-off.
    pub(super) fn record_outcome(
        &self,
        user: &UserId,
        outcome: &Result<AccessToken>,
        time: Duration,
        now: Duration,
        jitter: u8,
    ) {
        let error = match outcome {
            Err(error) if !error.needs_login() && !matches!(error, Error::LocalState(_)) => error,
            _ => return self.clear(user, outcome.as_ref().ok()),
        };
        note!(warn, "the access token of {user:?} could not be refreshed: {}", Brief(error));
        let jitter = BACKOFF * u32::from(jitter) / 255;
        let asked = error.retry_after().unwrap_or_default().min(MAX_BACKOFF);
        let until = now.saturating_add((BACKOFF + jitter).max(asked));
        self.update(|users| {
            // Drop all expired entries, including those of removed users.
            users.retain(|_, Failure { rejected, backoff }| {
                rejected.is_some() || backoff.as_ref().is_some_and(|backoff| now < backoff.until)
            });
            let backoff = Backoff { until, error: error.clone(), time };
            users.entry(user.clone()).or_default().backoff = Some(backoff);
        });
    }

    fn update(&self, change: impl FnOnce(&mut HashMap<UserId, Failure>)) {
        let mut users = self.lock();
        change(&mut users);
        self.any.store(!users.is_empty(), Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<UserId, Failure>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
