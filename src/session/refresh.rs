//! When to get a new access token, who does it, and what its failure means.
//!
//! The rules are those of the manual, page `refresh`: one flight per user across threads and
//! processes, checked at use and never by a timer; a log-out wins; only a definite answer ends a
//! login.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::backend_clock::ClockReading;
use super::inner::{Inner, out_of_time};
use super::send::{is_success, network_part};
use super::single_flight::{Role, WaitResult};
use super::unpersisted::UnpersistedTokens;
use crate::deadline::Deadline;
use crate::diagnostics::{Brief, note};
use crate::error::{Error, LocalState, Result, ServerError, ServerErrorCode};
use crate::event::{Event, LogoutReason};
use crate::id::UserId;
use crate::store::{Change, RefreshLock, StoredUser};
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

/// How long a refresh whose answer has come may still wait for the store, although the session is
/// shut down meanwhile.
const LAST_RESPITE: Duration = Duration::from_secs(5);

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
        let (record, token) = self.logged_in_to_send(user, deadline)?;
        self.try_to_store_unsaved(&record, deadline);
        match self.freshness(&record, &token, self.moment()) {
            Freshness::Fresh => Ok(token),
            Freshness::Due(left) => self.refresh_early(user, token, left, deadline),
            Freshness::Expired => self.refresh(user, &token, RefreshReason::Due, deadline),
        }
    }

    /// Returns the access token if nothing is to be done or waited for to know it and it is fresh.
    pub(crate) fn fresh_token(&self, user: &UserId) -> Option<AccessToken> {
        self.shutdown.check().ok()?;
        if self.has_any_unsaved.load(Ordering::Relaxed) {
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
        let record = self.store.user(user, Deadline::passed()).ok().flatten();
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
        // Asked by whoever leads, so that no failure can come between the answer and the flight.
        if self.cooling_down(user, attempt).is_some() {
            return Ok(token);
        }
        let outcome = self.run_refresh(user, &token, RefreshReason::Due, soon, deadline);
        self.note_outcome(user, &outcome, attempt);
        lead.done(RefreshOutcome { outcome: outcome.clone(), attempt });
        match outcome {
            Ok(token) => {
                self.send_pending_revocations(soon);
                Ok(token)
            }
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
                    let outcome = self.run_refresh(user, stale, why, deadline, deadline);
                    self.note_outcome(user, &outcome, attempt);
                    lead.done(RefreshOutcome { outcome: outcome.clone(), attempt });
                    // Nobody waits for this flight any more.
                    if outcome.is_ok() {
                        self.send_pending_revocations(deadline);
                    }
                    return outcome;
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
    /// refresh token, without which the login would be lost, is stored until `at_last`.
    fn run_refresh(
        &self,
        user: &UserId,
        stale: &AccessToken,
        why: RefreshReason,
        deadline: Deadline,
        at_last: Deadline,
    ) -> Result<AccessToken> {
        let mut lock = self.lock_refresh(user, deadline)?;
        let (mut last_chance, mut times_lost, mut stale) = (false, 0, stale.clone());
        loop {
            let (record, token) = self.logged_in_to_send(user, deadline)?;
            // What is learned from the answer is learned for this moment: by no other may the token
            // be found old, or a clock that is set for moments could do so again and again.
            let now = self.moment();
            if self.is_usable(&record, &token, &stale, why, now) {
                return Ok(token);
            }
            let Some(refresh_token) = &record.refresh_token else {
                return Err(LocalState::NotLoggedIn(user.clone()).into());
            };
            if let Some(stored) = self.store_unsaved(user, deadline)? {
                // It may have waited for hours, and is judged like any other. Whoever asked for
                // another one did not mean this.
                if why == RefreshReason::Explicit {
                    stale = stored;
                }
                continue;
            }
            let route = Route::refresh();
            // Nothing that takes long may come between this question and the request.
            self.location(deadline)?;
            if !lock.is_held() {
                note!(warn, "the refresh lock of {user:?} was lost, taking it again");
                drop(lock);
                times_lost += 1;
                if times_lost > MOST_LOST {
                    return Err(out_of_time(&self.base_url, "a refresh by another process").into());
                }
                lock = self.lock_refresh(user, deadline)?;
                continue;
            }
            let answer = self.send(&route, Some(refresh_token.expose()), network_part(deadline))?;
            if is_success(&answer) {
                let refreshed = wire::refreshed(answer.body(), user)?;
                let claims = refreshed.access_token.claims();
                let skew = self.record_token_time(claims, now, Some(record.clock_skew_ms));
                let is_rotated = refreshed.refresh_token.is_some();
                let (epoch, replaces) = (record.epoch, refresh_token.clone());
                let brought = UnpersistedTokens { epoch, replaces, refreshed, skew };
                if !is_rotated {
                    return self.store_refreshed(user, brought, deadline);
                }
                let stored = self.store_refreshed(user, brought, at_last);
                if stored.is_err() && self.shutdown.check().is_err() {
                    // No call after this one can store it.
                    let last = at_last.without_shutdown().at_most(LAST_RESPITE);
                    if let Some(token) = self.store_unsaved(user, last)? {
                        return Ok(token);
                    }
                }
                return stored;
            }
            let error = wire::refusal(&route, &answer);
            let expired =
                self.has_definitely_expired(refresh_token.claims(), record.clock_skew_ms, &answer);
            if !wire::ends_login(&answer, expired) {
                return Err(error.into());
            }
            match self.end_login(&record, refresh_token, &error, deadline)? {
                LogoutCheck::LoggedOut => return Err(Error::LoginEnded(Box::new(error))),
                LogoutCheck::TokenReplaced if last_chance => return Err(error.into()),
                LogoutCheck::TokenReplaced => last_chance = true,
            }
        }
    }

    fn lock_refresh(&self, user: &UserId, deadline: Deadline) -> Result<RefreshLock> {
        let lock = self.store.lock_refresh(user, deadline)?;
        lock.ok_or_else(|| out_of_time(&self.base_url, "a refresh by another process").into())
    }

    /// Stores what a refresh brought, unless the user has logged out or in since it set out, or
    /// somebody else has stored a newer refresh token.
    pub(super) fn store_refreshed(
        &self,
        user: &UserId,
        brought: UnpersistedTokens,
        deadline: Deadline,
    ) -> Result<AccessToken> {
        let UnpersistedTokens { refreshed, skew, epoch, .. } = &brought;
        let mut is_over = false;
        let stored = self.commit(deadline, |tables| {
            let record = tables.user(user)?;
            is_over = record.as_ref().is_none_or(|record| {
                // A backend may give the next login the same token.
                let is_held = record.refresh_token == refreshed.refresh_token;
                !record.is_logged_in() || record.epoch != *epoch && !is_held
            });
            let record = record.ok_or_else(|| LocalState::UnknownUser(user.clone()))?;
            if !record.is_logged_in() {
                return Err(LocalState::NotLoggedIn(user.clone()).into());
            }
            if !brought.continues(&record) {
                // What this flight brought belongs to a login that is over, or is older than what
                // is here, which has an access token of its own.
                let token = record.access_token.clone();
                return Ok((
                    Vec::new(),
                    token.ok_or_else(|| Error::from(LocalState::NotLoggedIn(user.clone())))?,
                ));
            }
            let token = refreshed.access_token.clone();
            let event =
                Event::TokenRefreshed { user: user.clone(), expires_at: token.expires_at() };
            let mut record = StoredUser::clone(&record);
            record.access_token = Some(token.clone());
            record.clock_skew_ms = *skew;
            if let Some(rotated) = &refreshed.refresh_token {
                record.refresh_token = Some(rotated.clone());
            }
            let warning = self.warning(&mut record);
            let mut changes = vec![Change::Put(Box::new(record)), Change::Emit(event)];
            changes.extend(warning.map(Change::Emit));
            Ok((changes, token))
        });
        match &stored {
            Ok(_) => note!(debug, "the access token of {user:?} was refreshed"),
            Err(error) => {
                note!(warn, "a refreshed token of {user:?} was not kept: {}", Brief(error))
            }
        }
        if let Some(rotated) = &refreshed.refresh_token {
            let is_unsaved = matches!(stored, Err(Error::Store(_)));
            let rotated = rotated.clone();
            self.remember_unsaved(user, brought, is_unsaved);
            if is_over && !is_unsaved {
                // Who ended the login told the backend of the one that this has replaced.
                let _ = self.end_server_session(&rotated, deadline);
            }
        }
        stored
    }

    /// Forgets what is remembered of a login that is over, and of no later one of the same user.
    pub(super) fn clear_login_state(&self, user: &UserId, epoch: u64) {
        self.drop_unpersisted(user, epoch);
        self.cooldowns.lock().unwrap_or_else(PoisonError::into_inner).remove(user);
        self.forget_refused(user, None);
    }

    /// Returns what to tell about a login that will end soon, once a day.
    fn warning(&self, record: &mut StoredUser) -> Option<Event> {
        const DAY: i64 = 24 * 3600 * 1000;
        let token = record.refresh_token.as_ref()?;
        let now = self.now().saturating_add(record.clock_skew_ms);
        let told = record
            .expiry_warned_at
            .is_some_and(|told| now.saturating_sub(told).saturating_abs() < DAY);
        if told || !token.claims().is_ending(now) {
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
            self.clear_login_state(&refused.id, refused.epoch);
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
