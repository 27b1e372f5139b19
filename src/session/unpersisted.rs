//! Unpersisted tokens: the result of a refresh that could not be stored.
//!
//! This process uses them in place of the stored tokens. Its next successful commit stores them,
//! whatever else that commit does. They are dropped if another process has stored newer tokens or
//! has ended the login.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::id::UserId;
use crate::store::StoredUser;
use crate::token::RefreshToken;
use crate::wire::RefreshResponse;

/// The new tokens of a login, until the store has confirmed them.
#[derive(Clone)]
pub(super) struct UnpersistedTokens {
    /// The record that the refresh started from.
    base: Arc<StoredUser>,
    /// The same record with the new tokens.
    renewed: Arc<StoredUser>,
}

/// The result of comparing new tokens with the stored record.
pub(super) enum Validity {
    /// They are the newest tokens of this login. Contains the record with them.
    Newest(Box<StoredUser>),
    /// The store has newer tokens.
    Superseded,
    /// The login has ended.
    LoginEnded,
}

/// The unpersisted tokens of a session.
#[derive(Default)]
pub(super) struct Unpersisted {
    state: Mutex<State>,
    /// Fast check: `state` may be non-empty.
    any: AtomicBool,
    /// Held by the one call that tries to store the tokens.
    pub(super) retrying: Mutex<()>,
}

#[derive(Default)]
struct State {
    tokens: HashMap<UserId, UnpersistedTokens>,
    /// Rotated refresh tokens of logins that ended elsewhere, to be revoked.
    orphans: Vec<RefreshToken>,
}

impl UnpersistedTokens {
    pub(super) fn new(base: Arc<StoredUser>, refreshed: RefreshResponse, skew: i64) -> Self {
        let mut renewed = StoredUser::clone(&base);
        renewed.access_token = Some(refreshed.access_token);
        renewed.refresh_token = refreshed.refresh_token.or(renewed.refresh_token);
        renewed.refresh_token_rotated = Some(renewed.refresh_token != base.refresh_token);
        renewed.clock_skew_ms = skew;
        Self { base, renewed: Arc::new(renewed) }
    }

    /// Returns the tokens of a record that the store has applied but not confirmed. The store may
    /// revert to the record `before`.
    pub(super) fn unconfirmed(before: Option<Arc<StoredUser>>, record: StoredUser) -> Self {
        let renewed = Arc::new(record);
        let before = before.filter(|before| before.epoch == renewed.epoch && before.is_logged_in());
        Self { base: before.unwrap_or_else(|| Arc::clone(&renewed)), renewed }
    }

    pub(super) fn user(&self) -> &UserId {
        &self.base.id
    }

    /// Returns the record with the new tokens.
    pub(super) fn renewed(&self) -> &Arc<StoredUser> {
        &self.renewed
    }

    /// Returns the new refresh token if the backend replaced the stored one.
    pub(super) fn rotated(&self) -> Option<&RefreshToken> {
        let token = &self.renewed.refresh_token;
        token.as_ref().filter(|_| *token != self.base.refresh_token)
    }

    /// Compares the tokens with the record that the store has now.
    pub(super) fn validity(&self, stored: Option<&StoredUser>) -> Validity {
        let Self { base, renewed } = self;
        let Some(stored) = stored.filter(|stored| stored.is_logged_in()) else {
            return Validity::LoginEnded;
        };
        let has_new = stored.refresh_token == renewed.refresh_token;
        if stored.epoch != base.epoch {
            // A backend may return the same refresh token for the next login.
            return if has_new { Validity::Superseded } else { Validity::LoginEnded };
        }
        // A link replaces the access token alone.
        let keeps_access =
            [&base.access_token, &renewed.access_token].contains(&&stored.access_token);
        if has_new && !keeps_access || !has_new && stored.refresh_token != base.refresh_token {
            return Validity::Superseded;
        }
        let mut record = stored.clone();
        record.refresh_token.clone_from(&renewed.refresh_token);
        record.refresh_token_rotated = renewed.refresh_token_rotated;
        if keeps_access {
            record.access_token.clone_from(&renewed.access_token);
            record.clock_skew_ms = renewed.clock_skew_ms;
        }
        Validity::Newest(Box::new(record))
    }
}

impl Unpersisted {
    pub(super) fn is_empty(&self) -> bool {
        !self.any.load(Ordering::Relaxed)
    }

    /// Returns a stored record with its unpersisted tokens, as this process uses it.
    pub(super) fn renew(&self, stored: Arc<StoredUser>) -> Arc<StoredUser> {
        match self.is_empty() {
            true => stored,
            false => renew(&self.state().tokens, stored),
        }
    }

    /// Returns `true` if the backend has replaced the refresh token that is in the store.
    pub(super) fn has_rotated(&self, user: &UserId) -> bool {
        self.state().tokens.get(user).is_some_and(|tokens| tokens.rotated().is_some())
    }

    /// Returns the tokens that a commit has to store: all unpersisted ones, and `new`.
    pub(super) fn tokens_and(
        &self,
        new: Option<&UnpersistedTokens>,
    ) -> HashMap<UserId, UnpersistedTokens> {
        let mut tokens = match self.is_empty() {
            true => HashMap::new(),
            false => self.state().tokens.clone(),
        };
        if let Some(new) = new {
            insert(&mut tokens, new.clone());
        }
        tokens
    }

    /// Removes tokens that a commit has stored or found outdated, unless they were replaced
    /// meanwhile.
    pub(super) fn remove(
        &self,
        done: &HashMap<UserId, UnpersistedTokens>,
        orphans: Vec<RefreshToken>,
    ) {
        if done.is_empty() {
            return;
        }
        let mut state = self.state();
        state.tokens.retain(|user, tokens| {
            done.get(user).is_none_or(|done| !Arc::ptr_eq(&done.renewed, &tokens.renewed))
        });
        state.orphans.extend(orphans);
        self.update_any(&state);
    }

    /// Adds tokens of a user. Returns `true` if the user had no unpersisted tokens.
    pub(super) fn add(&self, tokens: UnpersistedTokens) -> bool {
        let mut state = self.state();
        let is_first = insert(&mut state.tokens, tokens);
        self.update_any(&state);
        is_first
    }

    pub(super) fn take_orphans(&self) -> Vec<RefreshToken> {
        let mut state = self.state();
        let orphans = std::mem::take(&mut state.orphans);
        self.update_any(&state);
        orphans
    }

    fn update_any(&self, state: &State) {
        let any = !state.tokens.is_empty() || !state.orphans.is_empty();
        self.any.store(any, Ordering::Relaxed);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns a stored record with the user's unpersisted tokens, if they are its newest ones.
pub(super) fn renew(
    tokens: &HashMap<UserId, UnpersistedTokens>,
    stored: Arc<StoredUser>,
) -> Arc<StoredUser> {
    match tokens.get(&stored.id).map(|tokens| tokens.validity(Some(&stored))) {
        Some(Validity::Newest(record)) => Arc::new(*record),
        _ => stored,
    }
}

/// Inserts tokens of a user. Returns `true` if the user had none.
fn insert(all: &mut HashMap<UserId, UnpersistedTokens>, mut tokens: UnpersistedTokens) -> bool {
    let user = tokens.base.id.clone();
    let earlier = all.remove(&user);
    if let Some(earlier) = &earlier
        && earlier.renewed.epoch == tokens.base.epoch
        && earlier.renewed.refresh_token == tokens.base.refresh_token
    {
        // The store still has the record that the earlier refresh started from.
        tokens.base = Arc::clone(&earlier.base);
    }
    all.insert(user, tokens);
    earlier.is_none()
}
