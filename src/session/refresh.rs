//! When to get a new access token, who does it, and what its failure means.
//!
//! The rules are those of the manual, page `refresh`: one flight per user across threads and
//! processes, checked at use and never by a timer; a log-out wins; only a definite answer ends a
//! login.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::delivery::is_success;
use super::inner::{Inner, known, out_of_time};
use super::single::{Role, Waited};
use super::time::Moment;
use super::users::network_part;
use crate::clock::Deadline;
use crate::diagnostics::{Brief, note};
use crate::error::{Error, LocalState, Result, ServerError, ServerErrorCode};
use crate::event::{Event, LogoutReason};
use crate::id::UserId;
use crate::store::{Change, StoredUser};
use crate::token::{AccessToken, Freshness, RefreshToken};
use crate::wire::{self, Refreshed, Route};

/// The longest that a refresh may hold up a call whose token is still good.
const EARLY_LIMIT: Duration = Duration::from_secs(5);

/// How long implicit refreshes of a user wait after a failure, at least; up to as much again is
/// added as jitter.
const COOLDOWN: Duration = Duration::from_secs(2);

/// The longest that a backend's `Retry-After` holds up implicit refreshes.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// The outcome of a flight, as its passengers get it.
#[derive(Clone)]
pub(super) struct Landed {
    outcome: Result<AccessToken>,
    /// Whether it was short, on behalf of a token that was still good.
    early: bool,
}

/// What a refresh brought, for the login that it set out for.
pub(super) struct Brought {
    epoch: u64,
    refreshed: Refreshed,
    skew: i64,
}

/// Until when no implicit refresh of a user is tried, and why.
pub(super) struct Cooldown {
    /// By the monotonic clock.
    until: Duration,
    error: Error,
    early: bool,
    /// How long the attempt could take. Its time-out says nothing to those who have more.
    budget: Duration,
}

/// Why a caller wants another token than it has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Why {
    /// The program asked for one: it is tried even shortly after a failure.
    Asked,
    /// It is old, by the clocks as they were a moment ago.
    Old,
    /// The backend refused it.
    Refused,
}

/// What became of a refresh token that the backend refused.
pub(super) enum Ended {
    Yes,
    /// The store holds another one by now.
    Changed,
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
        let (record, token) = self.logged_in(user, deadline)?;
        self.try_to_store_unsaved(user, record.epoch, deadline);
        match self.freshness(&record, &token, self.moment()) {
            Freshness::Fresh => Ok(token),
            Freshness::Due(left) => self.refresh_early(user, token, left, deadline),
            Freshness::Expired => self.refresh(user, &token, Why::Old, deadline),
        }
    }

    /// Returns the access token if nothing is to be done or waited for to know it and it is fresh.
    pub(crate) fn fresh_token(&self, user: &UserId) -> Option<AccessToken> {
        self.shutdown.check().ok()?;
        let record = self.store.user(user, Deadline::passed()).ok()??;
        let token = record.access_token.as_ref().filter(|_| record.is_logged_in())?;
        (self.freshness(&record, token, self.moment()) == Freshness::Fresh).then(|| token.clone())
    }

    fn freshness(&self, record: &StoredUser, token: &AccessToken, now: Moment) -> Freshness {
        if self.has_refused.load(Ordering::Relaxed) && self.was_refused(&record.id, token) {
            return Freshness::Expired;
        }
        token.claims().freshness(self.backend_time(now, record.skew), self.early)
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
        let budget = EARLY_LIMIT.min(left / 4).min(deadline.remaining() / 4);
        let Role::Lead(lead) = self.refreshes.join(user) else { return Ok(token) };
        // Asked by whoever leads, so that no failure can come between the answer and the flight.
        if self.cooling_down(user, Some(budget)).is_some() {
            return Ok(token);
        }
        let outcome = self.fly(user, &token, Why::Old, deadline.at_most(budget), deadline);
        self.note_outcome(user, &outcome, Some(budget));
        lead.done(Landed { outcome: outcome.clone(), early: true });
        if outcome.is_ok() {
            self.tell_untold(deadline.at_most(budget));
        }
        match outcome {
            Err(error) if !error.needs_login() => Ok(token),
            outcome => outcome,
        }
    }

    /// Gets a token other than `stale`, or shares the outcome of whoever is getting one.
    pub(crate) fn refresh(
        &self,
        user: &UserId,
        stale: &AccessToken,
        why: Why,
        deadline: Deadline,
    ) -> Result<AccessToken> {
        loop {
            match self.refreshes.join(user) {
                Role::Lead(lead) => {
                    if why != Why::Asked
                        && let Some(error) = self.cooling_down(user, None)
                    {
                        drop(lead);
                        // Another process may have had more luck meanwhile.
                        return self.suffices(user, stale, why, deadline)?.ok_or(error);
                    }
                    let outcome = self.fly(user, stale, why, deadline, deadline);
                    self.note_outcome(user, &outcome, None);
                    lead.done(Landed { outcome: outcome.clone(), early: false });
                    // Nobody waits for this flight any more.
                    if outcome.is_ok() {
                        self.tell_untold(deadline);
                    }
                    return outcome;
                }
                Role::Follow(flight) => match flight.wait(deadline) {
                    Waited::Done(landed) => match landed.outcome {
                        // It had less time than this caller has.
                        Err(error) if landed.early && !error.needs_login() => {}
                        Err(error) if error.is_timeout() && !deadline.has_passed() => {}
                        // It found this caller's token good, which only one who goes by the clock
                        // can use.
                        Ok(token)
                            if token == *stale
                                && (why != Why::Old || self.was_refused(user, &token)) => {}
                        outcome => return outcome,
                    },
                    Waited::Abandoned => {}
                    Waited::TimedOut => {
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
    fn suffices(
        &self,
        user: &UserId,
        stale: &AccessToken,
        why: Why,
        deadline: Deadline,
    ) -> Result<Option<AccessToken>> {
        let (record, token) = self.logged_in(user, deadline)?;
        let suffices = self.is_enough(&record, &token, stale, why, self.moment());
        Ok(suffices.then_some(token))
    }

    fn is_enough(
        &self,
        record: &StoredUser,
        token: &AccessToken,
        stale: &AccessToken,
        why: Why,
        now: Moment,
    ) -> bool {
        match self.freshness(record, token, now) {
            Freshness::Expired => false,
            Freshness::Fresh if why == Why::Old => true,
            _ => token != stale,
        }
    }

    /// One flight: alone for this user among all processes, with the newest record. A rotated
    /// refresh token, without which the login would be lost, is stored until `at_last`.
    fn fly(
        &self,
        user: &UserId,
        stale: &AccessToken,
        why: Why,
        deadline: Deadline,
        at_last: Deadline,
    ) -> Result<AccessToken> {
        let Some(_flight) = self.store.refresh_flight(user, deadline)? else {
            return Err(out_of_time(&self.base_url, "a refresh by another process").into());
        };
        let mut last_chance = false;
        loop {
            let (record, token) = self.logged_in(user, deadline)?;
            // What is learned from the answer is learned for this moment: by no other may the token
            // be found old, or a clock that is set for moments could do so again and again.
            let now = self.moment();
            if self.is_enough(&record, &token, stale, why, now) {
                return Ok(token);
            }
            let Some(refresh_token) = &record.refresh_token else {
                return Err(LocalState::NotLoggedIn(user.clone()).into());
            };
            if self.store_unsaved(user, record.epoch, at_last)?.is_some() {
                // It may have waited for hours, and is judged like any other.
                continue;
            }
            let route = Route::refresh();
            let answer = self.send(&route, Some(refresh_token.expose()), network_part(deadline))?;
            if is_success(&answer) {
                let refreshed = wire::refreshed(answer.body())?;
                let claims = refreshed.access_token.claims();
                let skew = self.learn_time(claims, now, Some(record.skew));
                let brought = Brought { epoch: record.epoch, refreshed, skew };
                let is_rotated = brought.refreshed.refresh_token.is_some();
                let until = if is_rotated { at_last } else { deadline };
                return self.store_refreshed(user, brought, until);
            }
            let error = wire::refusal(&route, &answer);
            let expired = self.is_surely_over(refresh_token.claims(), record.skew, &answer);
            if !wire::ends_login(&answer, expired) {
                return Err(error.into());
            }
            match self.end_login(&record, refresh_token, &error, deadline)? {
                Ended::Yes => return Err(Error::LoginEnded(Box::new(error))),
                Ended::Changed if last_chance => return Err(error.into()),
                Ended::Changed => last_chance = true,
            }
        }
    }

    /// Stores what a refresh brought, unless the user has logged out or in since it set out.
    fn store_refreshed(
        &self,
        user: &UserId,
        brought: Brought,
        deadline: Deadline,
    ) -> Result<AccessToken> {
        let Brought { epoch, refreshed, skew } = &brought;
        let stored = self.commit(deadline, |tables| {
            let record = known(tables, user)?;
            if !record.is_logged_in() {
                return Err(LocalState::NotLoggedIn(user.clone()).into());
            }
            if record.epoch != *epoch {
                // Logged in again meanwhile: what this flight brought belongs to a login that is
                // over, and the new one has a token of its own.
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
            record.skew = *skew;
            if let Some(rotated) = &refreshed.refresh_token {
                record.refresh_token = Some(rotated.clone());
            }
            let warning = self.warning(&mut record);
            let mut changes = vec![Change::Put(Box::new(record)), Change::Tell(event)];
            changes.extend(warning.map(Change::Tell));
            Ok((changes, token))
        });
        match &stored {
            Ok(_) => note!(debug, "the access token of {user:?} was refreshed"),
            Err(error) => {
                note!(warn, "a refreshed token of {user:?} was not kept: {}", Brief(error))
            }
        }
        if matches!(stored, Err(Error::Store(_))) && brought.refreshed.refresh_token.is_some() {
            // The backend may accept no other refresh token any more.
            let mut unsaved = self.unsaved.lock().unwrap_or_else(PoisonError::into_inner);
            unsaved.insert(user.clone(), brought);
        }
        stored
    }

    /// Tells whether there is a newer refresh token of this login than the store has.
    pub(super) fn has_unsaved(&self, user: &UserId, epoch: u64) -> bool {
        let unsaved = self.unsaved.lock().unwrap_or_else(PoisonError::into_inner);
        unsaved.get(user).is_some_and(|kept| kept.epoch == epoch)
    }

    /// Stores that one: before anything else is asked of the backend for this user, who may not
    /// accept the stored one any more. For whoever is alone at the user's refresh.
    pub(super) fn store_unsaved(
        &self,
        user: &UserId,
        epoch: u64,
        deadline: Deadline,
    ) -> Result<Option<AccessToken>> {
        let Some(kept) = self.take_unsaved(user, epoch) else { return Ok(None) };
        self.store_refreshed(user, kept, deadline).map(Some)
    }

    /// Returns the refresh token that the store could not keep, for who leaves with it.
    pub(super) fn unsaved_token(&self, user: &UserId, epoch: u64) -> Option<RefreshToken> {
        let unsaved = self.unsaved.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = unsaved.get(user).filter(|kept| kept.epoch == epoch)?;
        kept.refreshed.refresh_token.clone()
    }

    /// Forgets it: the login that it belongs to is over.
    pub(super) fn forget_unsaved(&self, user: &UserId) {
        self.unsaved.lock().unwrap_or_else(PoisonError::into_inner).remove(user);
    }

    /// Stores what an earlier refresh brought and could not be stored, as well as it goes: a
    /// program must not end with it in memory alone.
    fn try_to_store_unsaved(&self, user: &UserId, epoch: u64, deadline: Deadline) {
        const LIMIT: Duration = Duration::from_secs(1);
        if self.has_unsaved(user, epoch) {
            let deadline = deadline.at_most(LIMIT.min(deadline.remaining() / 4));
            if let Ok(Some(_flight)) = self.store.refresh_flight(user, deadline) {
                let _ = self.store_unsaved(user, epoch, deadline);
            }
        }
    }

    /// Takes what an earlier refresh brought and could not be stored, if it belongs to this login.
    fn take_unsaved(&self, user: &UserId, epoch: u64) -> Option<Brought> {
        let mut unsaved = self.unsaved.lock().unwrap_or_else(PoisonError::into_inner);
        unsaved.remove(user).filter(|kept| kept.epoch == epoch)
    }

    /// Returns what to tell about a login that will end soon, once a day.
    fn warning(&self, record: &mut StoredUser) -> Option<Event> {
        const DAY: i64 = 24 * 3600 * 1000;
        let token = record.refresh_token.as_ref()?;
        let now = self.now().saturating_add(record.skew);
        let told =
            record.warned.is_some_and(|told| now.saturating_sub(told).saturating_abs() < DAY);
        if told || !token.claims().is_ending(now) {
            return None;
        }
        record.warned = Some(now);
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
    ) -> Result<Ended> {
        let reason = match error.code {
            Some(ServerErrorCode::UserDisabled) => LogoutReason::UserDisabled,
            _ => LogoutReason::SessionEnded,
        };
        let ended = self.commit(deadline, |tables| {
            let Some(record) = tables.user(&refused.id)? else {
                return Ok((Vec::new(), Ended::Yes));
            };
            if record.epoch != refused.epoch && !record.is_logged_in() {
                return Ok((Vec::new(), Ended::Yes));
            }
            if record.refresh_token.as_ref() != Some(refresh_token) {
                return Ok((Vec::new(), Ended::Changed));
            }
            Ok((super::users::log_out(tables, &record, reason)?, Ended::Yes))
        });
        if matches!(ended, Ok(Ended::Yes)) {
            note!(warn, "the login of {:?} has ended (status {})", refused.id, error.status);
        }
        ended
    }

    /// Returns the failure on whose account no implicit refresh is tried now, if there is one. A
    /// failure to replace a token that was still good holds up only more of the same, and a
    /// time-out only those who have no more time; `early` is the time of such a one.
    fn cooling_down(&self, user: &UserId, early: Option<Duration>) -> Option<Error> {
        let cooldowns = self.cooldowns.lock().unwrap_or_else(PoisonError::into_inner);
        let cooldown = cooldowns.get(user)?;
        let applies = match early {
            // Twice as much is more; a little more is only another moment.
            Some(budget) => !cooldown.error.is_timeout() || budget / 2 < cooldown.budget,
            None => !cooldown.early,
        };
        (applies && self.clock.monotonic() < cooldown.until).then(|| cooldown.error.clone())
    }

    fn note_outcome(&self, user: &UserId, outcome: &Result<AccessToken>, early: Option<Duration>) {
        let mut cooldowns = self.cooldowns.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            // A caller in a hurry must not hold up the patient ones.
            Err(error) if error.is_timeout() && early.is_none() => {}
            Err(error) if !error.needs_login() && !matches!(error, Error::LocalState(_)) => {
                note!(
                    warn,
                    "the access token of {user:?} could not be refreshed: {}",
                    Brief(error)
                );
                let jitter = COOLDOWN * u32::from(self.early) / 255;
                let asked = error.retry_after().unwrap_or_default().min(LONGEST_PAUSE);
                let until = self.clock.monotonic().saturating_add((COOLDOWN + jitter).max(asked));
                let cooldown = Cooldown {
                    until,
                    error: error.clone(),
                    early: early.is_some(),
                    budget: early.unwrap_or_default(),
                };
                cooldowns.insert(user.clone(), cooldown);
            }
            _ => {
                cooldowns.remove(user);
                self.forget_refused(user, outcome.as_ref().ok());
            }
        }
    }
}
