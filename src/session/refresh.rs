//! When to get a new access token, who does it, and what its failure means.
//!
//! The rules are those of the manual, page `refresh`: one flight per user across threads and
//! processes, checked at use and never by a timer; a log-out wins; only a definite answer ends a
//! login.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::backend_clock::ClockReading;
use super::inner::{Inner, out_of_time};
use super::send::{is_success, network_part};
use super::single_flight::{Leader, Role, WaitResult};
use super::unpersisted::UnpersistedTokens;
use crate::deadline::Deadline;
use crate::diagnostics::{Brief, note};
use crate::error::{
    Error, LocalState, Result, ServerError, ServerErrorCode, StoreError, TransportError,
    TransportErrorKind,
};
use crate::event::{Event, LogoutReason};
use crate::id::UserId;
use crate::store::{RefreshLock, StoredUser};
use crate::token::{AccessToken, Freshness, RefreshToken};
use crate::wire::{self, Route};

/// The longest that a refresh may hold up a call whose token is still good.
const EARLY_LIMIT: Duration = Duration::from_secs(5);

/// How long implicit refreshes of a user wait after a failure, at least; up to as much again is
/// added as jitter.
const COOLDOWN: Duration = Duration::from_secs(2);

/// The longest that a backend's `Retry-After` holds up implicit refreshes.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// How often a refresh lock may be lost in one call.
const MOST_LOST: u32 = 3;

/// The longest that a session which ends waits for the store to keep its unpersisted tokens.
pub(super) const LAST_LIMIT: Duration = Duration::from_secs(5);

/// The outcome of a flight, as its passengers get it.
#[derive(Clone)]
pub(super) struct RefreshOutcome {
    outcome: Result<AccessToken>,
    attempt: Attempt,
}

/// How a refresh was tried.
#[derive(Clone, Copy)]
struct Attempt {
    /// Whether it was short, on behalf of a token that was still good.
    early: bool,
    /// How long it could take.
    time: Duration,
}

impl Attempt {
    /// Tells whether somebody who has this much time may do better than an attempt that failed: one
    /// that ran out of time says nothing to those who have twice as much. A little more is only
    /// another moment.
    fn may_succeed_with(self, error: &Error, time: Duration) -> bool {
        error.is_timeout() && time / 2 >= self.time
    }
}

/// Until when no implicit refresh of a user is tried, and why.
pub(super) struct Cooldown {
    /// By the monotonic clock.
    until: Duration,
    error: Error,
    attempt: Attempt,
}

/// Why a caller wants another token than it has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum RefreshReason {
    /// The program asked for one: it is tried even shortly after a failure.
    Explicit,
    /// It is old, by the clocks as they were a moment ago.
    Due,
    /// The backend refused it.
    Rejected,
}

/// A refresh that is to be run.
struct Job {
    user: UserId,
    stale: AccessToken,
    why: RefreshReason,
    attempt: Attempt,
    /// The time that the refresh may take.
    soon: Deadline,
    /// The time of the whole call.
    call: Deadline,
}

impl Job {
    /// Refreshes for all who wait, and then sends pending revocations.
    fn run(self, inner: &Inner, lead: Leader<UserId, RefreshOutcome>) -> Result<AccessToken> {
        let Self { user, stale, why, attempt, soon, call } = self;
        let outcome = inner.run_refresh(&user, &stale, why, soon, call);
        inner.note_outcome(&user, &outcome, attempt);
        lead.done(RefreshOutcome { outcome: outcome.clone(), attempt });
        if outcome.is_ok() {
            inner.send_pending_revocations(soon);
        }
        outcome
    }
}

/// What became of a refresh token that the backend refused.
pub(super) enum LogoutCheck {
    LoggedOut,
    /// The store holds another one by now.
    TokenReplaced,
}

impl Inner {
    /// Returns an access token that the backend will accept, refreshing it if it is due.
    ///
    /// A fresh token costs one look into the store. A due one is refreshed by one thread, for at
    /// most 5 s or a quarter of what is left of it, while it goes on serving the others; a failure
    /// there is none. An expired one is waited for.
    pub(crate) fn valid_access_token(
        &self,
        user: &UserId,
        deadline: Deadline,
    ) -> Result<AccessToken> {
        let (record, token) = self.logged_in_for_request(user, deadline)?;
        match self.freshness(&record, &token, self.moment()) {
            Freshness::Fresh => Ok(token),
            Freshness::Due(left) => self.refresh_early(user, token, left, deadline),
            Freshness::Expired => self.refresh(user, &token, RefreshReason::Due, deadline),
        }
    }

    /// Returns the access token if nothing is to be done or waited for to know it and it is fresh.
    pub(crate) fn fresh_token(&self, user: &UserId) -> Option<AccessToken> {
        if !self.unpersisted.is_empty() {
            return None;
        }
        let record = self.store.user(user, Deadline::passed()).ok()??;
        let token = record.access_token.as_ref().filter(|_| record.is_logged_in())?;
        (self.freshness(&record, token, self.moment()) == Freshness::Fresh).then(|| token.clone())
    }

    fn freshness(&self, record: &StoredUser, token: &AccessToken, now: ClockReading) -> Freshness {
        if self.has_refused.load(Ordering::Relaxed) && self.was_refused(&record.id, token) {
            return Freshness::Expired;
        }
        token.claims().freshness(self.backend_time(now, record.clock_skew_ms), self.early)
    }

    /// Remembers that the backend refused a token, so that it is not sent again if the refresh
    /// fails: for the backend it has expired, whatever the clock here says.
    pub(super) fn note_refused(&self, user: &UserId, token: &AccessToken) {
        // A slow answer about a token that was replaced meanwhile says nothing of its successor.
        let record = self.user(user, Deadline::passed()).ok().flatten();
        if record.is_some_and(|record| record.access_token.as_ref() != Some(token)) {
            return;
        }
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.insert(user.clone(), token.clone());
        self.has_refused.store(true, Ordering::Relaxed);
    }

    fn was_refused(&self, user: &UserId, token: &AccessToken) -> bool {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.get(user) == Some(token)
    }

    /// The token was replaced, by `now` if it is known, or its login is over.
    fn forget_refused(&self, user: &UserId, now: Option<&AccessToken>) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if now.is_none_or(|now| refused.get(user) != Some(now)) {
            refused.remove(user);
        }
        self.has_refused.store(!refused.is_empty(), Ordering::Relaxed);
    }

    fn refresh_early(
        &self,
        user: &UserId,
        token: AccessToken,
        left: Duration,
        deadline: Deadline,
    ) -> Result<AccessToken> {
        // Most of the caller's time is for what it wants the token for.
        let time = EARLY_LIMIT.min(left / 4).min(deadline.remaining() / 4);
        let (attempt, soon) = (Attempt { early: true, time }, deadline.at_most(time));
        let Role::Leader(lead) = self.refreshes.join(user) else { return Ok(token) };
        // Asked by the leader, so that no failure can come between the response and the refresh.
        if self.cooling_down(user, attempt).is_some() {
            return Ok(token);
        }
        let stale = token.clone();
        let user_id = user.clone();
        let job =
            Job { user: user_id, stale, why: RefreshReason::Due, attempt, soon, call: deadline };
        match self.lead_refresh(lead, job) {
            Ok(token) => Ok(token),
            Err(error) if error.needs_login() => Err(error),
            // The token serves on, unless it has expired, was refused or is gone by now.
            Err(_) => {
                let (record, token) = self.logged_in(user, deadline)?;
                match self.freshness(&record, &token, self.moment()) {
                    Freshness::Expired => self.refresh(user, &token, RefreshReason::Due, deadline),
                    Freshness::Due(_) | Freshness::Fresh => Ok(token),
                }
            }
        }
    }

    /// Gets a token other than `stale`, or shares the outcome of whoever is getting one.
    pub(crate) fn refresh(
        &self,
        user: &UserId,
        stale: &AccessToken,
        why: RefreshReason,
        deadline: Deadline,
    ) -> Result<AccessToken> {
        loop {
            let attempt = Attempt { early: false, time: deadline.remaining() };
            match self.refreshes.join(user) {
                Role::Leader(lead) => {
                    if why != RefreshReason::Explicit
                        && let Some(error) = self.cooling_down(user, attempt)
                    {
                        drop(lead);
                        // Another process may have had more luck meanwhile.
                        return self.usable_stored_token(user, stale, why, deadline)?.ok_or(error);
                    }
                    let (user, stale) = (user.clone(), stale.clone());
                    let job = Job { user, stale, why, attempt, soon: deadline, call: deadline };
                    return self.lead_refresh(lead, job);
                }
                Role::Follower(flight) => match flight.wait(deadline) {
                    WaitResult::Done(RefreshOutcome { outcome, attempt }) => match outcome {
                        // It had less time than this caller has.
                        Err(error) if attempt.early && !error.needs_login() => {}
                        Err(error) if attempt.may_succeed_with(&error, deadline.remaining()) => {}
                        Err(error) if timed_out_after_send(&error) && !deadline.has_passed() => {}
                        // It found this caller's token good, which only one who goes by the clock
                        // can use.
                        Ok(token)
                            if token == *stale
                                && (why != RefreshReason::Due
                                    || self.was_refused(user, &token)) => {}
                        outcome => return outcome,
                    },
                    WaitResult::Abandoned => {}
                    WaitResult::TimedOut => {
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

    /// Refreshes for all who wait, and returns the outcome. If the call is cancelled it returns at
    /// once and the refresh goes on: others share it, and a rotated refresh token must not be lost.
    fn lead_refresh(&self, lead: Leader<UserId, RefreshOutcome>, job: Job) -> Result<AccessToken> {
        let call = job.call;
        if !call.can_be_cancelled() {
            return job.run(self, lead);
        }
        let flight = lead.follow();
        let job = Job { soon: job.soon.without_cancel(), call: call.without_cancel(), ..job };
        let started = self.run_apart(move |inner| drop(job.run(inner, lead)));
        started.map_err(|error| {
            let kind = TransportErrorKind::Connect;
            TransportError::new(kind, self.base_url()).before_sending().because(error)
        })?;
        match flight.wait(call) {
            WaitResult::Done(RefreshOutcome { outcome, .. }) => outcome,
            WaitResult::Abandoned | WaitResult::TimedOut => {
                Err(out_of_time(&self.base_url, "a refresh").into())
            }
        }
    }

    /// Returns the stored token if it is good enough for a caller who had `stale`.
    fn usable_stored_token(
        &self,
        user: &UserId,
        stale: &AccessToken,
        why: RefreshReason,
        deadline: Deadline,
    ) -> Result<Option<AccessToken>> {
        let (record, token) = self.logged_in(user, deadline)?;
        let usable_stored_token = self.is_usable(&record, &token, stale, why, self.moment());
        Ok(usable_stored_token.then_some(token))
    }

    fn is_usable(
        &self,
        record: &StoredUser,
        token: &AccessToken,
        stale: &AccessToken,
        why: RefreshReason,
        now: ClockReading,
    ) -> bool {
        match self.freshness(record, token, now) {
            Freshness::Expired => false,
            Freshness::Fresh if why == RefreshReason::Due => true,
            _ => token != stale,
        }
    }

    /// One flight: alone for this user among all processes, with the newest record. A rotated
    /// refresh token may take part of the time of the whole call to be stored.
    fn run_refresh(
        &self,
        user: &UserId,
        stale: &AccessToken,
        why: RefreshReason,
        deadline: Deadline,
        call: Deadline,
    ) -> Result<AccessToken> {
        let mut lock = self.lock_refresh(user, deadline)?;
        let (mut last_chance, mut times_lost) = (false, 0);
        loop {
            let (record, token) = self.logged_in(user, deadline)?;
            // What is learned from the answer is learned for this moment: by no other may the token
            // be found old, or a clock that is set for moments could do so again and again.
            let now = self.moment();
            if self.is_usable(&record, &token, stale, why, now) {
                return Ok(token);
            }
            if let Err(error) = &lock
                && why == RefreshReason::Due
                && self.freshness(&record, &token, now) != Freshness::Expired
            {
                // Without the lock many processes would refresh: only when the token is of no use.
                return Err(error.clone().into());
            }
            self.protect_stored_token(&record, &lock, deadline)?;
            // Nothing that takes long may come between this question and the request.
            self.location(deadline)?;
            if lock.as_ref().is_ok_and(|lock| !lock.is_held()) {
                note!(warn, "the refresh lock of {user:?} was lost, taking it again");
                drop(lock);
                times_lost += 1;
                if times_lost > MOST_LOST {
                    return Err(out_of_time(&self.base_url, "a refresh by another process").into());
                }
                lock = self.lock_refresh(user, deadline)?;
                continue;
            }
            match self.request_tokens(&record, now, deadline)? {
                Ok(tokens) => return self.persist_refreshed(tokens, deadline, call),
                Err(refusal) if last_chance => return Err(refusal.into()),
                Err(_) => last_chance = true,
            }
        }
    }

    /// Waits for the right to refresh, alone among all processes. The inner error says why a store
    /// that cannot be written cannot grant it.
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

    /// Refuses to use up the refresh token in the store while the store cannot keep its successor:
    /// the next process would be logged out.
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

    /// Sends the refresh token, and returns the new tokens. A definite refusal ends the login; it
    /// is returned if the store has another refresh token by now.
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
        let answer = self.send(&route, Some(token.expose()), network_part(deadline))?;
        if is_success(&answer) {
            let response = wire::refreshed(answer.body(), &record.id)?;
            let claims = response.access_token.claims();
            let skew = self.record_token_time(claims, now, Some(record.clock_skew_ms));
            return Ok(Ok(UnpersistedTokens::new(Arc::clone(record), response, skew)));
        }
        let error = wire::refusal(&route, &answer);
        let expired = self.has_definitely_expired(token.claims(), record.clock_skew_ms, &answer);
        if !wire::ends_login(&answer, expired) {
            return Err(error.into());
        }
        match self.end_login(record, token, &error, deadline)? {
            LogoutCheck::LoggedOut => Err(Error::LoginEnded(Box::new(error))),
            LogoutCheck::TokenReplaced => Ok(Err(error)),
        }
    }

    /// Stores new tokens within half of the time, which leaves the call the other half if the store
    /// is busy.
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
            // No later call of this session can do it.
            self.persist_all(call.without_shutdown().at_most(LAST_LIMIT));
        }
        token
    }

    /// Forgets what is remembered of a login that is over.
    pub(super) fn clear_login_state(&self, user: &UserId) {
        self.cooldowns.lock().unwrap_or_else(PoisonError::into_inner).remove(user);
        self.forget_refused(user, None);
    }

    /// Returns the event for a login that will end soon, once a day.
    pub(super) fn expiry_warning(&self, record: &mut StoredUser) -> Option<Event> {
        const DAY: i64 = 24 * 3600 * 1000;
        let token = record.refresh_token.as_ref()?;
        let now = self.now().saturating_add(record.clock_skew_ms);
        let was_warned = record
            .expiry_warned_at
            .is_some_and(|warned| now.saturating_sub(warned).saturating_abs() < DAY);
        if was_warned || !token.claims().is_ending(now) {
            return None;
        }
        record.expiry_warned_at = Some(now);
        Some(Event::LoginEnding { user: record.id.clone(), ends_at: token.expires_at() })
    }

    /// Logs a user out whose refresh token the backend refused for good, if that is still the token
    /// that the store holds.
    pub(super) fn end_login(
        &self,
        refused: &StoredUser,
        refresh_token: &RefreshToken,
        error: &ServerError,
        deadline: Deadline,
    ) -> Result<LogoutCheck> {
        let reason = match error.code {
            Some(ServerErrorCode::UserDisabled) => LogoutReason::UserDisabled,
            _ => LogoutReason::SessionEnded,
        };
        let ended = self.commit(deadline, |tables| {
            let Some(record) = tables.user(&refused.id)? else {
                return Ok((Vec::new(), LogoutCheck::LoggedOut));
            };
            if record.epoch != refused.epoch && !record.is_logged_in() {
                return Ok((Vec::new(), LogoutCheck::LoggedOut));
            }
            if record.refresh_token.as_ref() != Some(refresh_token) {
                return Ok((Vec::new(), LogoutCheck::TokenReplaced));
            }
            Ok((super::login::log_out(tables, &record, reason)?, LogoutCheck::LoggedOut))
        });
        if matches!(ended, Ok(LogoutCheck::LoggedOut)) {
            self.clear_login_state(&refused.id);
            note!(warn, "the login of {:?} has ended (status {})", refused.id, error.status);
        }
        ended
    }

    /// Returns the failure on whose account no implicit refresh is tried now, if there is one. A
    /// failure to replace a token that was still good holds up only more of the same, unless the
    /// backend asked to be left alone.
    fn cooling_down(&self, user: &UserId, attempt: Attempt) -> Option<Error> {
        let cooldowns = self.cooldowns.lock().unwrap_or_else(PoisonError::into_inner);
        let Cooldown { until, error, attempt: failed } = cooldowns.get(user)?;
        let applies = attempt.early || !failed.early || error.retry_after().is_some();
        let holds = applies && !failed.may_succeed_with(error, attempt.time);
        (holds && self.clock.monotonic() < *until).then(|| error.clone())
    }

    fn note_outcome(&self, user: &UserId, outcome: &Result<AccessToken>, attempt: Attempt) {
        let mut cooldowns = self.cooldowns.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            // No pause: a lost answer is asked for again at once, while the backend still gives it to
            // whoever asks with the token that it has rotated.
            Err(error) if timed_out_after_send(error) && !attempt.early => {}
            Err(error) if !error.needs_login() && !matches!(error, Error::LocalState(_)) => {
                note!(
                    warn,
                    "the access token of {user:?} could not be refreshed: {}",
                    Brief(error)
                );
                let now = self.clock.monotonic();
                let jitter = COOLDOWN * u32::from(self.early) / 255;
                let asked = error.retry_after().unwrap_or_default().min(LONGEST_PAUSE);
                let until = now.saturating_add((COOLDOWN + jitter).max(asked));
                // Also of users who left meanwhile.
                cooldowns.retain(|_, cooldown| now < cooldown.until);
                cooldowns.insert(user.clone(), Cooldown { until, error: error.clone(), attempt });
            }
            _ => {
                cooldowns.remove(user);
                self.forget_refused(user, outcome.as_ref().ok());
            }
        }
    }
}

/// Tells whether the time was up with an answer on its way, or with the store held by somebody; not
/// if the backend could not even be reached in time.
fn timed_out_after_send(error: &Error) -> bool {
    match error {
        Error::Transport(trouble) => error.is_timeout() && trouble.may_have_arrived(),
        _ => error.is_timeout(),
    }
}
