//! Commits: a caller's changes or the tokens of a refresh, together with unpersisted tokens and a new
//! location.

use std::collections::HashMap;
use std::sync::{Arc, TryLockError};
use std::time::Duration;

use super::inner::{Inner, logged_in};
use super::location_cache::Location;
use super::unpersisted::{UnpersistedTokens, Validity, renew};
use crate::deadline::Deadline;
use crate::diagnostics::{Brief, note};
use crate::error::{Error, Result, StoreError, StoreErrorKind};
use crate::event::Event;
use crate::id::UserId;
use crate::store::{Change, StoreView, StoredUser};
use crate::token::{AccessToken, RefreshToken};

/// Maximum time that a call waits to store tokens of an earlier call.
const RETRY_LIMIT: Duration = Duration::from_millis(100);

/// Maximum time that a call waits to revoke the tokens of a login that ended elsewhere.
const REVOKE_LIMIT: Duration = Duration::from_secs(1);

/// The data that a commit stores in addition to its caller's changes.
#[derive(Default)]
struct Extra {
    tokens: HashMap<UserId, UnpersistedTokens>,
    location: Option<Arc<Location>>,
    /// Rotated refresh tokens whose login has ended, to be revoked.
    orphans: Vec<RefreshToken>,
    /// The records with tokens, including the caller's, each with the record that it replaces.
    logged_in: Vec<(Option<Arc<StoredUser>>, StoredUser)>,
}

/// The view of a store in which the records have their unpersisted tokens.
struct RenewedView<'a> {
    stored: &'a dyn StoreView,
    tokens: &'a HashMap<UserId, UnpersistedTokens>,
}

impl Inner {
    /// Commits the changes that `decide` returns for the newest state, and returns its value. If
    /// `decide` returns an error, nothing is changed.
    pub(super) fn commit<T>(
        &self,
        deadline: Deadline,
        decide: impl FnMut(&dyn StoreView) -> Result<(Vec<Change>, T)>,
    ) -> Result<T> {
        self.commit_with(None, deadline, decide)
    }

    /// As [`commit`](Self::commit), and also stores new tokens of a user; `decide` sees them.
    pub(super) fn commit_with<T>(
        &self,
        new: Option<&UnpersistedTokens>,
        deadline: Deadline,
        mut decide: impl FnMut(&dyn StoreView) -> Result<(Vec<Change>, T)>,
    ) -> Result<T> {
        let (mut decided, mut extra) = (None, Extra::default());
        let committed = self.store.commit(deadline, &mut |stored| {
            extra = Extra { tokens: self.unpersisted.tokens_and(new), ..Extra::default() };
            match decide(&RenewedView { stored, tokens: &extra.tokens }) {
                Ok((changes, value)) => {
                    decided = Some(Ok(value));
                    self.add_extra(&mut extra, stored, changes)
                }
                Err(Error::Store(error)) => Err(*error),
                Err(error) => {
                    decided = Some(Err(error));
                    extra = Extra::default();
                    Ok(Vec::new())
                }
            }
        });
        match committed {
            Ok(_) => self.unpersisted.remove(&extra.tokens, extra.orphans),
            // The changes are applied but may still be lost if the store fails.
            Err(error) if error.kind == StoreErrorKind::Unconfirmed => {
                let error = Error::from(error);
                for (before, record) in extra.logged_in {
                    let tokens = UnpersistedTokens::unconfirmed(before, record);
                    self.keep_unpersisted(tokens, &error);
                }
            }
            Err(error) => return Err(error.into()),
        }
        if let Some(location) = extra.location {
            location.mark_stored();
        }
        self.dispatcher.wake();
        decided.unwrap_or_else(|| {
            let reason = "it committed without asking for the changes";
            Err(StoreError::new(StoreErrorKind::Io, reason).into())
        })
    }

    /// Returns the changes of a commit: unpersisted tokens, the caller's changes, and the location.
    fn add_extra(
        &self,
        extra: &mut Extra,
        stored: &dyn StoreView,
        decided: Vec<Change>,
    ) -> Result<Vec<Change>, StoreError> {
        let mut changes = Vec::new();
        for (user, tokens) in &extra.tokens {
            let record = stored.user(user)?;
            match tokens.validity(record.as_deref()) {
                Validity::Newest(renewed) => {
                    let is_new = record.as_deref() != Some(&renewed);
                    changes.extend(self.renewal(renewed, is_new));
                }
                Validity::Superseded => {}
                Validity::LoginEnded => extra.orphans.extend(tokens.rotated().cloned()),
            }
        }
        changes.extend(decided);
        for record in changes.iter().filter_map(with_tokens) {
            extra.logged_in.push((stored.user(&record.id)?, record.clone()));
        }
        if !changes.is_empty() {
            extra.location = self.unstored_location();
            changes.extend(extra.location.as_ref().and_then(|location| location.change(stored)));
        }
        Ok(changes)
    }

    /// Returns the changes that store new tokens.
    fn renewal(&self, mut record: Box<StoredUser>, is_new: bool) -> Vec<Change> {
        let mut events = Vec::new();
        if let Some(token) = record.access_token.as_ref().filter(|_| is_new) {
            let (user, expires_at) = (record.id.clone(), token.expires_at());
            events.push(Change::Emit(Event::TokenRefreshed { user, expires_at }));
            events.extend(self.expiry_warning(&mut record).map(Change::Emit));
        }
        events.insert(0, Change::Put(record));
        events
    }

    /// Returns the event for a login that will end soon, at most once a day.
    fn expiry_warning(&self, record: &mut StoredUser) -> Option<Event> {
        const DAY: i64 = 24 * 3600 * 1000;
        let token = record.refresh_token.as_ref()?;
        let now = self.clock.wall().saturating_add(record.clock_skew_ms);
        let was_warned = record
            .expiry_warned_at
            .is_some_and(|warned| now.saturating_sub(warned).saturating_abs() < DAY);
        if was_warned || !token.claims().is_ending(now) {
            return None;
        }
        record.expiry_warned_at = Some(now);
        Some(Event::LoginEnding { user: record.id.clone(), ends_at: token.expires_at() })
    }

    /// Stores new tokens and returns the user's current access token: another one if newer tokens
    /// were stored in the meantime. A log-out takes precedence.
    ///
    /// If the tokens cannot be stored, they become unpersisted tokens.
    pub(super) fn persist(
        &self,
        tokens: UnpersistedTokens,
        deadline: Deadline,
    ) -> Result<AccessToken> {
        let user = &tokens.user().clone();
        let current = |record| logged_in(user, record).map(|(_, token)| token);
        let persisted = self.commit_with(Some(&tokens), deadline, |view| {
            Ok((Vec::new(), current(view.user(user)?)))
        });
        match persisted {
            Ok(token) => {
                note!(debug, "the access token of {user:?} was refreshed");
                self.revoke_orphans(deadline);
                token
            }
            Err(error @ Error::Store(_)) => {
                let record = Arc::clone(tokens.renewed());
                self.keep_unpersisted(tokens, &error);
                current(Some(record))
            }
            Err(error) => Err(error),
        }
    }

    /// Keeps tokens in memory because the store could not persist them. Emits one event until they
    /// are stored.
    pub(super) fn keep_unpersisted(&self, tokens: UnpersistedTokens, error: &Error) {
        let user = tokens.user().clone();
        note!(warn, "new tokens of {user:?} are kept in memory: {}", Brief(error));
        if self.unpersisted.add(tokens) {
            let reason = error.to_string();
            self.dispatcher.push_to_all(&Event::TokensUnpersisted { user, reason });
        }
    }

    /// Tries to store the tokens that an earlier call could not store, best effort. One call at a
    /// time does so, for at most 100 ms or a quarter of its time.
    pub(super) fn retry_persist(&self, deadline: Deadline) {
        if self.unpersisted.is_empty() {
            return;
        }
        let quarter = deadline.remaining() / 4;
        match self.unpersisted.retrying.try_lock() {
            Err(TryLockError::WouldBlock) => return,
            _retrying => self.persist_all(deadline.at_most(RETRY_LIMIT.min(quarter))),
        }
        self.revoke_orphans(deadline.at_most(REVOKE_LIMIT.min(quarter)));
    }

    /// Stores all unpersisted tokens, best effort.
    pub(super) fn persist_all(&self, deadline: Deadline) {
        if !self.unpersisted.is_empty() {
            let _ = self.commit(deadline, |_| Ok((Vec::new(), ())));
        }
    }

    /// Revokes refresh tokens whose login was ended by a caller that did not know them, best
    /// effort.
    pub(super) fn revoke_orphans(&self, deadline: Deadline) {
        if self.unpersisted.is_empty() {
            return;
        }
        for token in self.unpersisted.take_orphans() {
            let _ = self.end_server_session(&token, deadline);
        }
    }
}

impl StoreView for RenewedView<'_> {
    fn number(&self) -> u64 {
        self.stored.number()
    }

    fn current(&self) -> Option<UserId> {
        self.stored.current()
    }

    fn location(&self) -> Option<String> {
        self.stored.location()
    }

    fn user(&self, id: &UserId) -> Result<Option<Arc<StoredUser>>, StoreError> {
        Ok(self.stored.user(id)?.map(|record| renew(self.tokens, record)))
    }

    fn last_used(
        &self,
        wanted: &dyn Fn(&StoredUser) -> bool,
    ) -> Result<Option<Arc<StoredUser>>, StoreError> {
        Ok(self.stored.last_used(wanted)?.map(|record| renew(self.tokens, record)))
    }
}

/// Returns the record that a change stores, if the user is logged in.
fn with_tokens(change: &Change) -> Option<&StoredUser> {
    match change {
        Change::Put(record) if record.is_logged_in() => Some(record),
        _ => None,
    }
}
