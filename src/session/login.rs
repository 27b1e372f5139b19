//! Commits of log-in, log-out, linking, switching, removal and deletion.
//!
//! When the current user is logged out or removed, the most recently used logged-in user becomes
//! current, or none if no user is logged in. A user is used by logging in, by linking and by
//! switching. The same commit applies this rule, so it also holds after a restart.

use std::sync::Arc;

use super::inner::{Inner, LAST_LIMIT, known, out_of_time};
use super::send::{not_a_backend, success};
use crate::account::{Identity, Profile, UserState};
use crate::credentials::{Credentials, Kind, Provider};
use crate::deadline::Deadline;
use crate::diagnostics::{Brief, note};
use crate::error::{Error, LocalState, Result, StoreError};
use crate::event::{Event, LogoutReason, RemovalReason};
use crate::id::UserId;
use crate::store::{Change, Listing, RefreshLock, StoreView, StoredUser};
use crate::token::{AccessToken, RefreshToken};
use crate::wire::{self, LoginResponse, Route};

/// What the backend returns as a user's profile.
type Details = (Vec<Identity>, Profile);

impl Inner {
    /// Logs in and makes the user current.
    pub(super) fn log_in(&self, credentials: &Credentials, deadline: Deadline) -> Result<UserId> {
        let mut lock = None;
        if reuses_anonymous(credentials) {
            if let Some(user) = self.find_anonymous(deadline)? {
                return Ok(user);
            }
            lock = Some(self.lock_anonymous_login(deadline)?);
            // The previous holder of the lock may have logged in an anonymous user.
            if let Some(user) = self.find_anonymous(deadline)? {
                return Ok(user);
            }
        }
        let route = Route::log_in(&self.app_id, credentials, &self.device);
        let sent = self.clock.read();
        let response = self.send_plain(&route, deadline)?;
        let login = wire::login(response.body()).map_err(|error| {
            let is_doubtful =
                self.location(deadline).is_ok_and(|location| self.is_doubtful(&location));
            match is_doubtful && !wire::resembles_login(response.body()) {
                true => not_a_backend(&self.base_url, "its response to a log-in has no tokens"),
                false => error,
            }
        })?;
        let skew = self.clock.record_token(login.access_token.claims(), sent, None);
        // Reserve time to revoke the server session if the profile cannot be fetched.
        let network = deadline.for_network();
        let attempt = "give the profile after the log-in, so that nothing was stored";
        let stored = self
            .fetch_profile(&login.user, &login.access_token, attempt, network)
            .and_then(|details| self.store_login(credentials, &login, details, skew, deadline));
        drop(lock);
        if stored.as_ref().ok() != Some(&login.user) {
            self.revoke_unstored(login.refresh_token, deadline);
        }
        let user = stored?;
        self.failures.clear(&user, None);
        note!(info, "{user:?} has logged in by {:?}", credentials.provider());
        self.send_pending_revocations(deadline);
        Ok(user)
    }

    /// Revokes a server session that is not stored, best effort. No other code path will do so. A
    /// cancelled call does not wait for this.
    fn revoke_unstored(&self, token: RefreshToken, deadline: Deadline) {
        if !deadline.is_cancelled() {
            let _ = self.end_server_session(&token, deadline);
            return;
        }
        let _ = self.run_apart(move |inner| {
            let deadline = deadline.without_cancel().at_most(LAST_LIMIT);
            let _ = inner.end_server_session(&token, deadline);
        });
    }

    /// Waits for anonymous log-ins by other threads and processes, so that all of them create only
    /// one user.
    fn lock_anonymous_login(&self, deadline: Deadline) -> Result<RefreshLock> {
        // No user has this id.
        let lock = self.store.lock_refresh(&UserId::new(""), deadline)?;
        lock.ok_or_else(|| {
            out_of_time(&self.base_url, "an anonymous log-in by another thread or process").into()
        })
    }

    /// Finds the most recently used anonymous user who is logged in, and makes it current.
    fn find_anonymous(&self, deadline: Deadline) -> Result<Option<UserId>> {
        if let Some(current) = self.store.current(deadline)?
            && let Some(record) = self.store.user(&current, deadline)?
            && is_anonymous(&record)
        {
            return Ok(Some(current));
        }
        if !self.has_anonymous(deadline)? {
            return Ok(None);
        }
        self.commit(deadline, |view| match view.last_used(&is_anonymous)? {
            Some(record) => Ok((switch_to(view, &record), Some(record.id.clone()))),
            None => Ok((Vec::new(), None)),
        })
    }

    fn has_anonymous(&self, deadline: Deadline) -> Result<bool> {
        let mut listing = Listing::default();
        while let Some(record) = listing.next(&*self.store, || deadline) {
            if is_anonymous(&*record?) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Fetches the profile with an access token that is not stored yet. `attempt` describes the
    /// request in errors.
    fn fetch_profile(
        &self,
        user: &UserId,
        token: &AccessToken,
        attempt: &'static str,
        deadline: Deadline,
    ) -> Result<Details> {
        let route = Route { attempt, ..Route::profile() };
        let response = self.send(&route, Some(token.expose()), deadline)?;
        wire::profile(success(&route, response)?.body(), user)
    }

    /// Stores tokens, identities, profile and current user in one commit, and returns the logged-in
    /// user. For anonymous credentials this may be another anonymous user who has logged in in the
    /// meantime.
    fn store_login(
        &self,
        credentials: &Credentials,
        login: &LoginResponse,
        details: Details,
        skew: i64,
        deadline: Deadline,
    ) -> Result<UserId> {
        self.commit(deadline, |view| {
            // A process without access to the lock may have logged in first.
            if reuses_anonymous(credentials)
                && let Some(other) = view.last_used(&is_anonymous)?
                && other.id != login.user
            {
                return Ok((switch_to(view, &other), other.id.clone()));
            }
            let mut record = match view.user(&login.user)? {
                Some(record) => StoredUser::clone(&record),
                None => {
                    let mut record = StoredUser::new(login.user.clone());
                    record.created_commit = view.number();
                    // Higher than every epoch of a removed record with this id.
                    record.epoch = view.number();
                    record
                }
            };
            record.state = UserState::LoggedIn;
            record.epoch = record.epoch.saturating_add(1);
            record.last_used_commit = view.number();
            record.access_token = Some(login.access_token.clone());
            record.refresh_token = Some(login.refresh_token.clone());
            record.refresh_token_rotated = None;
            // If the backend returns the same token again, an earlier log-out must not revoke it.
            record.pending_revocation.take_if(|ended| *ended == login.refresh_token);
            record.clock_skew_ms = skew;
            record.expiry_warned_at = None;
            record.device_id = login.device_id.clone().or(record.device_id);
            set_details(&mut record, &details);
            let user = login.user.clone();
            let mut changes = vec![
                Change::Put(Box::new(record)),
                Change::Emit(Event::LoggedIn {
                    user: user.clone(),
                    provider: credentials.provider(),
                }),
            ];
            changes.extend(make_current(view, Some(user.clone())));
            Ok((changes, user))
        })
    }

    /// Attaches an account to a user and makes the user current.
    pub(crate) fn link(
        &self,
        user: &UserId,
        credentials: &Credentials,
        deadline: Deadline,
    ) -> Result<()> {
        if matches!(credentials.0, Kind::Anonymous { .. }) {
            return Err(LocalState::CannotLinkAnonymous.into());
        }
        let (before, _) = self.logged_in(user, deadline)?;
        let route = Route::link(&self.app_id, credentials, &self.device);
        let sent = self.clock.read();
        let response = self.send_as(user, &route, deadline.for_network())?;
        let token = match wire::linked(response.body(), user)? {
            Ok(token) => token,
            Err(stranger) => {
                self.revoke_unstored(stranger.refresh_token, deadline);
                let reason = "it is a log-in of another user: this backend does not link accounts";
                return Err(Error::decode("the link response", reason));
            }
        };
        let skew = self.clock.record_token(token.claims(), sent, Some(before.clock_skew_ms));
        let attempt = "give the profile after linking, which stands";
        let details = self.fetch_profile(user, &token, attempt, deadline.for_network());
        let newest = |view: &dyn StoreView| {
            let record = known(user, view.user(user)?)?;
            if record.epoch != before.epoch {
                return Err(Error::from(LocalState::NotLoggedIn(user.clone())));
            }
            Ok(StoredUser::clone(&record))
        };
        let store = |details: Details| {
            self.commit(deadline, |view| {
                let mut record = newest(view)?;
                record.access_token = Some(token.clone());
                record.clock_skew_ms = skew;
                record.last_used_commit = view.number();
                set_details(&mut record, &details);
                let event =
                    Event::IdentityLinked { user: user.clone(), provider: credentials.provider() };
                let mut changes = vec![Change::Put(Box::new(record)), Change::Emit(event)];
                changes.extend(make_current(view, Some(user.clone())));
                Ok((changes, ()))
            })
        };
        details.and_then(store).map_err(|error| {
            if is_anonymous(&before) {
                // From now on a log-out must keep the user, although the stored identities do not
                // list the new account.
                let _ = self.commit(deadline, |view| {
                    let mut record = newest(view)?;
                    record.has_unlisted_identity = true;
                    Ok((vec![Change::Put(Box::new(record))], ()))
                });
            }
            error.mark_backend_changed()
        })
    }

    /// Deletes a user on the backend with that user's own token, and then here.
    pub(super) fn delete(&self, user: &UserId, deadline: Deadline) -> Result<()> {
        self.send_as(user, &Route::delete_user(), deadline.for_network())?;
        let deleted = self.commit(deadline, |view| match view.user(user)? {
            Some(record) => Ok((remove(view, &record, RemovalReason::Deleted)?, ())),
            None => Ok((Vec::new(), ())),
        });
        deleted.map_err(Error::mark_backend_changed)?;
        self.failures.clear(user, None);
        Ok(())
    }

    /// Logs a user out here, then notifies the backend. Returns the result of the notification.
    pub(crate) fn log_out(&self, user: &UserId, deadline: Deadline) -> Result<()> {
        self.log_out_or_remove(user, None, deadline)
    }

    /// Removes a user here, then notifies the backend if the user was logged in.
    pub(super) fn remove(&self, user: &UserId, deadline: Deadline) -> Result<()> {
        self.log_out_or_remove(user, Some(RemovalReason::Requested), deadline)
    }

    /// Commits the local change first: it stays in effect whatever the network does.
    fn log_out_or_remove(
        &self,
        user: &UserId,
        removal: Option<RemovalReason>,
        deadline: Deadline,
    ) -> Result<()> {
        let encrypted = self.store.is_encrypted();
        let (tokens, kept) = self.commit(deadline, |view| {
            let record = known(user, view.user(user)?)?;
            let (earlier, token) = (&record.pending_revocation, &record.refresh_token);
            // It is not possible to log in as the same anonymous user again.
            let anonymous = is_anonymous(&record).then_some(RemovalReason::AnonymousLogout);
            let (changes, kept) = match removal.or(anonymous) {
                Some(reason) => (remove(view, &record, reason)?, None),
                None if record.is_logged_in() => {
                    // Keep the token until it is revoked, in case this process ends first.
                    let kept = token.clone().filter(|_| encrypted);
                    (log_out(view, &record, LogoutReason::Requested, kept.clone())?, kept)
                }
                // The revocation may be pending.
                None => (Vec::new(), earlier.clone()),
            };
            // Also revoke the token of an earlier log-out; no other code path will.
            Ok((changes, (Vec::from_iter(earlier.iter().chain(token).cloned()), kept)))
        })?;
        self.failures.clear(user, None);
        self.revoke_orphans(deadline);
        let mut outcome = Ok(());
        for token in &tokens {
            let is_kept = kept.as_ref() == Some(token);
            let revoked = match is_kept {
                true => self.revoke_pending(user, token, deadline),
                false => self.end_server_session(token, deadline),
            };
            match &revoked {
                Ok(()) => note!(info, "{user:?} has logged out"),
                Err(error) => {
                    note!(warn, "the login of {user:?} was not revoked: {}", Brief(error))
                }
            }
            if !(is_kept && revoked.as_ref().is_err_and(Error::is_retryable)) {
                outcome = outcome.and(revoked);
            }
        }
        outcome
    }

    /// Makes a logged-in user current.
    pub(super) fn switch_to(&self, user: &UserId, deadline: Deadline) -> Result<()> {
        self.commit(deadline, |view| {
            let record = known(user, view.user(user)?)?;
            if !record.is_logged_in() {
                return Err(LocalState::NotLoggedIn(user.clone()).into());
            }
            Ok((switch_to(view, &record), ()))
        })
    }

    /// Fetches the profile and stores it with the identities.
    pub(crate) fn refresh_profile(&self, user: &UserId, deadline: Deadline) -> Result<Profile> {
        let mut last_chance = false;
        loop {
            let (before, _) = self.logged_in(user, deadline)?;
            let response = self.send_as(user, &Route::profile(), deadline)?;
            let details = wire::profile(response.body(), user)?;
            let is_newest = self.commit(deadline, |view| {
                let Some(record) = view.user(user)?.filter(|record| record.epoch == before.epoch)
                else {
                    return Ok((Vec::new(), true));
                };
                if record.identities != before.identities
                    || record.has_unlisted_identity != before.has_unlisted_identity
                    || record.profile != before.profile
                {
                    return Ok((Vec::new(), false));
                }
                if (&record.identities, &record.profile) == (&details.0, &details.1) {
                    return Ok((Vec::new(), true));
                }
                let mut record = StoredUser::clone(&record);
                set_details(&mut record, &details);
                let event = Event::ProfileChanged { user: user.clone() };
                Ok((vec![Change::Put(Box::new(record)), Change::Emit(event)], true))
            })?;
            // A link or another fetch that was stored in the meantime may be newer or older than
            // this profile.
            if is_newest || last_chance {
                return Ok(details.1);
            }
            last_chance = true;
        }
    }
}

/// Stores the identities and the profile that the backend returned in a record.
fn set_details(record: &mut StoredUser, (identities, profile): &Details) {
    record.identities.clone_from(identities);
    record.profile.clone_from(profile);
    record.has_unlisted_identity = false;
}

/// Returns `true` for anonymous credentials that accept an anonymous user who is already logged in.
fn reuses_anonymous(credentials: &Credentials) -> bool {
    matches!(credentials.0, Kind::Anonymous { reuse: true })
}

/// Returns `true` if a user is logged in and has only anonymous identities.
fn is_anonymous(record: &StoredUser) -> bool {
    record.is_logged_in()
        && !record.has_unlisted_identity
        && !record.identities.is_empty()
        && record.identities.iter().all(|identity| identity.provider == Provider::Anonymous)
}

/// Returns the changes that make a logged-in user current; none if the user is already current.
fn switch_to(view: &dyn StoreView, record: &Arc<StoredUser>) -> Vec<Change> {
    let mut changes = make_current(view, Some(record.id.clone()));
    if !changes.is_empty() {
        let mut record = StoredUser::clone(record);
        record.last_used_commit = view.number();
        changes.push(Change::Put(Box::new(record)));
    }
    changes
}

fn make_current(view: &dyn StoreView, to: Option<UserId>) -> Vec<Change> {
    let from = view.current();
    if from == to {
        return Vec::new();
    }
    let event = Event::CurrentUserChanged { from, to: to.clone() };
    vec![Change::Current(to), Change::Emit(event)]
}

/// Returns the changes that log a user out, and that elect a new current user if this user was
/// current. `pending` is the token that the store keeps until it is revoked.
pub(super) fn log_out(
    view: &dyn StoreView,
    record: &StoredUser,
    reason: LogoutReason,
    pending: Option<RefreshToken>,
) -> Result<Vec<Change>, StoreError> {
    let mut without_tokens = record.clone();
    without_tokens.state = UserState::LoggedOut;
    without_tokens.epoch = without_tokens.epoch.saturating_add(1);
    without_tokens.access_token = None;
    without_tokens.refresh_token = None;
    without_tokens.pending_revocation = pending;
    let mut changes = vec![
        Change::Put(Box::new(without_tokens)),
        Change::Emit(Event::LoggedOut { user: record.id.clone(), reason }),
    ];
    changes.extend(elect_current_user(view, record)?);
    Ok(changes)
}

/// Returns the changes that remove a user, and that elect a new current user if this user was
/// current.
fn remove(
    view: &dyn StoreView,
    record: &StoredUser,
    reason: RemovalReason,
) -> Result<Vec<Change>, StoreError> {
    let mut changes = vec![
        Change::Remove(record.id.clone()),
        Change::Emit(Event::Removed { user: record.id.clone(), reason }),
    ];
    changes.extend(elect_current_user(view, record)?);
    Ok(changes)
}

fn elect_current_user(
    view: &dyn StoreView,
    leaving: &StoredUser,
) -> Result<Vec<Change>, StoreError> {
    if view.current().as_ref() != Some(&leaving.id) {
        return Ok(Vec::new());
    }
    let successor = view.last_used(&|record| record.is_logged_in() && record.id != leaving.id)?;
    Ok(make_current(view, successor.map(|record| record.id.clone())))
}
