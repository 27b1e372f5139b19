//! Refreshing access tokens: when a refresh is due, which caller does it, and what ends a login.
//!
//! The manual page `refresh` defines the rules. Each user has one refresh at a time across threads
//! and processes. Tokens are checked when they are used, never by a timer. A log-out takes
//! precedence over a refresh. Only a definite response ends a login.

use std::sync::Arc;
use std::time::Duration;

use super::backend_clock::ClockReading;
use super::inner::{Inner, LAST_LIMIT, out_of_time};
use super::single_flight::{Leader, Outcome, Role};
use super::unpersisted::UnpersistedTokens;
use crate::deadline::Deadline;
use crate::diagnostics::note;
use crate::error::{
    Error, LocalState, Result, ServerError, ServerErrorCode, StoreError, TransportError,
    TransportErrorKind,
};
use crate::event::LogoutReason;
use crate::id::UserId;
use crate::store::{RefreshLock, StoredUser};
use crate::token::{AccessToken, Freshness, RefreshToken};
use crate::wire::{self, Route};

/// Maximum time that a refresh may delay a call whose token is still valid.
const EARLY_LIMIT: Duration = Duration::from_secs(5);

/// How many times a call may lose the refresh lock.
const MAX_LOCK_LOSSES: u32 = 3;

/// Why a caller needs another token.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum RefreshReason {
    /// The program requested one. This ignores a back-off.
    Explicit,
    /// The token is due, has expired or was rejected, as far as the caller knows.
    Due,
}

impl RefreshReason {
    /// Returns `true` if the stored token suffices. `is_new` is set if the caller had another one.
    fn is_met(self, freshness: Freshness, is_new: bool) -> bool {
        match freshness {
            Freshness::Expired => false,
            Freshness::Fresh if self == Self::Due => true,
            Freshness::Due(_) | Freshness::Fresh => is_new,
        }
    }
}

/// A refresh to be run.
struct Job {
    user: UserId,
    /// The token to replace.
    stale: AccessToken,
    reason: RefreshReason,
    /// The deadline of the refresh.
    soon: Deadline,
    /// The deadline of the whole call.
    call: Deadline,
}

impl Inner {
    /// Returns an access token that the backend will accept, refreshing it if it is due.
    ///
    /// A fresh token costs one read of the store. A due token is refreshed by one thread, for at
    /// most 5 s or a quarter of its remaining validity; other threads continue to use the old
    /// token. A failure of such a refresh is not an error. All callers wait for the refresh of an
    /// expired token.
    pub(crate) fn valid_access_token(
        &self,
        user: &UserId,
        deadline: Deadline,
    ) -> Result<AccessToken> {
        let (record, token) = self.logged_in_for_request(user, deadline)?;
        match self.freshness(&record, &token, self.clock.read()) {
            Freshness::Fresh => Ok(token),
            Freshness::Due(left) => self.refresh_early(user, token, left, deadline),
            Freshness::Expired => self.refresh(user, &token, RefreshReason::Due, deadline),
        }
    }

    /// Returns the access token if it is fresh and can be read without waiting.
    pub(crate) fn fresh_token(&self, user: &UserId) -> Option<AccessToken> {
        if !self.unpersisted.is_empty() {
            return None;
        }
        let record = self.store.user(user, Deadline::passed()).ok()??;
        let token = record.access_token.as_ref().filter(|_| record.is_logged_in())?;
        (self.freshness(&record, token, self.clock.read()) == Freshness::Fresh)
            .then(|| token.clone())
    }

    /// Gets a token other than `rejected`, which the backend rejected. That one is not sent again,
    /// even if the refresh fails: it counts as expired, whatever the clocks show.
    pub(super) fn refresh_rejected(
        &self,
        user: &UserId,
        rejected: &AccessToken,
        deadline: Deadline,
    ) -> Result<AccessToken> {
        // If the token was replaced before the response arrived, the rejection does not apply to
        // the new one.
        let record = self.user(user, Deadline::passed()).ok().flatten();
        if record.is_none_or(|record| record.access_token.as_ref() == Some(rejected)) {
            self.failures.reject(user, rejected);
        }
        self.refresh(user, rejected, RefreshReason::Due, deadline)
    }

    fn backing_off(&self, user: &UserId, time: Duration) -> Option<Error> {
        self.failures.backing_off(user, time, self.clock.monotonic())
    }

    fn freshness(&self, record: &StoredUser, token: &AccessToken, now: ClockReading) -> Freshness {
        if self.failures.is_rejected(&record.id, token) {
            return Freshness::Expired;
        }
        token.claims().freshness(self.clock.at(now, record.clock_skew_ms), self.jitter)
    }

    fn refresh_early(
        &self,
        user: &UserId,
        token: AccessToken,
        left: Duration,
        deadline: Deadline,
    ) -> Result<AccessToken> {
        // Leave most of the caller's time for the request that needs the token.
        let time = EARLY_LIMIT.min(left / 4).min(deadline.remaining() / 4);
        let Role::Leader(lead) = self.refreshes.join(user) else { return Ok(token) };
        // The leader checks the back-off, so that no other failure can be recorded before the
        // refresh starts.
        if self.backing_off(user, time).is_some() {
            return Ok(token);
        }
        let (reason, soon) = (RefreshReason::Due, deadline.at_most(time));
        let job = Job { user: user.clone(), stale: token, reason, soon, call: deadline };
        match self.lead_refresh(lead, job) {
            Err(error) if !error.needs_login() => {}
            outcome => return outcome,
        }
        // Use the stored token, unless it has expired, was rejected or was removed.
        let (record, token) = self.logged_in(user, deadline)?;
        match self.freshness(&record, &token, self.clock.read()) {
            Freshness::Expired => self.refresh(user, &token, reason, deadline),
            Freshness::Due(_) | Freshness::Fresh => Ok(token),
        }
    }

    /// Gets a token other than `stale`, or waits for a refresh in progress and shares its outcome.
    pub(crate) fn refresh(
        &self,
        user: &UserId,
        stale: &AccessToken,
        reason: RefreshReason,
        deadline: Deadline,
    ) -> Result<AccessToken> {
        // After a wait for a refresh that failed, its back-off applies to explicit requests too.
        let mut ignores_backoff = reason == RefreshReason::Explicit;
        loop {
            match self.refreshes.join(user) {
                Role::Leader(lead) => {
                    let failure = self.backing_off(user, deadline.remaining());
                    if !ignores_backoff
                        && let Some(error) = failure.filter(|error| !timed_out_after_send(error))
                    {
                        drop(lead);
                        // Another process may have refreshed successfully in the meantime.
                        let (record, token) = self.logged_in(user, deadline)?;
                        let freshness = self.freshness(&record, &token, self.clock.read());
                        let is_usable = reason.is_met(freshness, token != *stale);
                        return if is_usable { Ok(token) } else { Err(error) };
                    }
                    let (user, stale) = (user.clone(), stale.clone());
                    let job = Job { user, stale, reason, soon: deadline, call: deadline };
                    return self.lead_refresh(lead, job);
                }
                Role::Follower(flight) => match flight.wait(deadline) {
                    Outcome::Done(Ok(token)) if token != *stale => return Ok(token),
                    Outcome::Done(Err(error)) if error.needs_login() => return Err(error),
                    Outcome::Done(_) => ignores_backoff = false,
                    Outcome::Abandoned => {}
                    Outcome::Pending => {
                        let what = "a refresh by another thread";
                        return Err(out_of_time(&self.base_url, what).into());
                    }
                },
            }
            if deadline.has_passed() {
                return Err(out_of_time(&self.base_url, "a refresh").into());
            }
        }
    }

    /// Runs a refresh as the leader, and returns the outcome. If the call is cancelled, this
    /// returns at once and the refresh continues: followers share it, and a rotated refresh token
    /// must not be lost.
    fn lead_refresh(
        &self,
        lead: Leader<UserId, Result<AccessToken>>,
        job: Job,
    ) -> Result<AccessToken> {
        let call = job.call;
        if !call.can_be_cancelled() {
            return self.run_job(lead, &job);
        }
        let flight = lead.follow();
        let job = Job { soon: job.soon.without_cancel(), call: call.without_cancel(), ..job };
        let started = self.run_apart(move |inner| drop(inner.run_job(lead, &job)));
        started.map_err(|error| {
            let kind = TransportErrorKind::Connect;
            TransportError::new(kind, self.base_url()).before_sending().because(error)
        })?;
        match flight.wait(call) {
            Outcome::Done(outcome) => outcome,
            Outcome::Abandoned | Outcome::Pending => {
                Err(out_of_time(&self.base_url, "a refresh").into())
            }
        }
    }

    /// Refreshes, publishes the outcome to the followers, and then sends pending revocations.
    fn run_job(&self, lead: Leader<UserId, Result<AccessToken>>, job: &Job) -> Result<AccessToken> {
        let time = job.soon.remaining();
        let outcome = self.run_refresh(job);
        let now = self.clock.monotonic();
        self.failures.record_outcome(&job.user, &outcome, time, now, self.jitter);
        lead.done(outcome.clone());
        if outcome.is_ok() {
            self.send_pending_revocations(job.soon);
        }
        outcome
    }

    /// Runs one refresh, exclusively for this user among all processes, with the newest record. To
    /// store a rotated refresh token, it may use the time of the whole call.
    fn run_refresh(&self, job: &Job) -> Result<AccessToken> {
        let Job { user, stale, reason, soon: deadline, call } = job;
        let (reason, deadline) = (*reason, *deadline);
        let mut lock = self.lock_refresh(user, deadline)?;
        let (mut last_chance, mut times_lost) = (false, 0);
        loop {
            let (record, token) = self.logged_in(user, deadline)?;
            // Use one clock reading for the check and for the response. Otherwise a wall clock that
            // is briefly set wrong could make the new token appear old again and again.
            let now = self.clock.read();
            let freshness = self.freshness(&record, &token, now);
            if reason.is_met(freshness, token != *stale) {
                return Ok(token);
            }
            if let Err(error) = &lock
                && reason == RefreshReason::Due
                && freshness != Freshness::Expired
            {
                // Without the lock many processes would refresh. Do so only if the token has
                // expired.
                return Err(error.clone().into());
            }
            self.protect_stored_token(&record, &lock, deadline)?;
            // No slow step may come between this check of the lock and the request.
            self.location(deadline)?;
            if lock.as_ref().is_ok_and(|lock| !lock.is_held()) {
                note!(warn, "the refresh lock of {user:?} was lost, taking it again");
                drop(lock);
                times_lost += 1;
                if times_lost > MAX_LOCK_LOSSES {
                    return Err(out_of_time(&self.base_url, "a refresh by another process").into());
                }
                lock = self.lock_refresh(user, deadline)?;
                continue;
            }
            match self.request_tokens(&record, now, deadline)? {
                Ok(tokens) => return self.persist_refreshed(tokens, deadline, *call),
                Err(refusal) if last_chance => return Err(refusal.into()),
                Err(_) => last_chance = true,
            }
        }
    }

    /// Acquires the user's refresh lock across all processes. The inner error is that of a store
    /// that cannot be written and therefore has no lock.
    pub(super) fn lock_refresh(
        &self,
        user: &UserId,
        deadline: Deadline,
    ) -> Result<Result<RefreshLock, StoreError>> {
        match self.store.lock_refresh(user, deadline) {
            Ok(Some(lock)) => Ok(Ok(lock)),
            Ok(None) => Err(out_of_time(&self.base_url, "a refresh by another process").into()),
            Err(error) if error.kind.is_unwritable() => Ok(Err(error)),
            Err(error) => Err(error.into()),
        }
    }

    /// Fails if the refresh would consume the stored refresh token while the store cannot keep its
    /// successor: the next process would be logged out.
    fn protect_stored_token(
        &self,
        record: &StoredUser,
        lock: &Result<RefreshLock, StoreError>,
        deadline: Deadline,
    ) -> Result<()> {
        if record.refresh_token_rotated == Some(false) || self.unpersisted.has_rotated(&record.id) {
            return Ok(());
        }
        let writable = match lock {
            Ok(_) => self.store.check_writable(deadline),
            Err(error) => Err(error.clone()),
        };
        writable.map_err(|error| {
            let reason = "the access token was not refreshed, since the backend may replace the \
                          refresh token and the store cannot keep a new one, make the store \
                          writable";
            let mut refused = StoreError::new(error.kind, reason);
            refused.path.clone_from(&error.path);
            refused.because(error).into()
        })
    }

    /// Sends the refresh token and returns the new tokens. A definite refusal ends the login. If
    /// the store has another refresh token by now, returns the refusal instead.
    fn request_tokens(
        &self,
        record: &Arc<StoredUser>,
        now: ClockReading,
        deadline: Deadline,
    ) -> Result<Result<UnpersistedTokens, ServerError>> {
        let Some(token) = &record.refresh_token else {
            return Err(LocalState::NotLoggedIn(record.id.clone()).into());
        };
        let route = Route::refresh();
        let response = self.send(&route, Some(token.expose()), deadline.for_network())?;
        if response.is_success() {
            let refreshed = wire::refreshed(response.body(), &record.id)?;
            let claims = refreshed.access_token.claims();
            let skew = self.clock.record_token(claims, now, Some(record.clock_skew_ms));
            return Ok(Ok(UnpersistedTokens::new(Arc::clone(record), refreshed, skew)));
        }
        let error = wire::refusal(&route, &response);
        let expired =
            self.clock.has_definitely_expired(token.claims(), record.clock_skew_ms, &response);
        if !wire::ends_login(&response, expired) {
            return Err(error.into());
        }
        self.end_login(record, token, error, deadline).map(Err)
    }

    /// Stores new tokens within half of the remaining time. If the store is busy, the other half is
    /// left to the call.
    fn persist_refreshed(
        &self,
        tokens: UnpersistedTokens,
        deadline: Deadline,
        call: Deadline,
    ) -> Result<AccessToken> {
        let is_rotated = tokens.rotated().is_some();
        let until = if is_rotated { call } else { deadline };
        let token = self.persist(tokens, until.at_most(until.remaining() / 2));
        if is_rotated && self.shutdown.check().is_err() {
            // No later call of this session can store them.
            self.persist_all(call.without_shutdown().at_most(LAST_LIMIT));
        }
        token
    }

    /// Logs out a user whose refresh token the backend definitely refused, and returns
    /// [`Error::LoginEnded`]. If the store has another refresh token by now, returns the refusal.
    pub(super) fn end_login(
        &self,
        refused: &StoredUser,
        refresh_token: &RefreshToken,
        error: ServerError,
        deadline: Deadline,
    ) -> Result<ServerError> {
        let reason = match error.code {
            Some(ServerErrorCode::UserDisabled) => LogoutReason::UserDisabled,
            _ => LogoutReason::SessionEnded,
        };
        let was_replaced = self.commit(deadline, |view| {
            let record = view.user(&refused.id)?;
            match record.filter(|now| now.epoch == refused.epoch || now.is_logged_in()) {
                None => Ok((Vec::new(), false)),
                Some(record) if record.refresh_token.as_ref() != Some(refresh_token) => {
                    Ok((Vec::new(), true))
                }
                Some(record) => {
                    let pending = record.pending_revocation.clone();
                    Ok((super::login::log_out(view, &record, reason, pending)?, false))
                }
            }
        })?;
        if was_replaced {
            return Ok(error);
        }
        self.failures.clear(&refused.id, None);
        note!(warn, "the login of {:?} has ended (status {})", refused.id, error.status);
        Err(Error::LoginEnded(Box::new(error)))
    }
}

/// Returns `true` if the time ran out while a response was pending or the store was locked. Returns
/// `false` if the backend could not be reached in time.
fn timed_out_after_send(error: &Error) -> bool {
    match error {
        Error::Transport(trouble) => error.is_timeout() && trouble.may_have_arrived(),
        _ => error.is_timeout(),
    }
}
