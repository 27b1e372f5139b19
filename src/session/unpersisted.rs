//! Rotated refresh tokens that could not be stored when they came: kept in memory until they are,
//! since the backend may accept no other.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::inner::Inner;
use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::id::UserId;
use crate::store::StoredUser;
use crate::token::{AccessToken, RefreshToken};
use crate::wire::RefreshResponse;

/// What a refresh brought, for the login that it set out for.
#[derive(Clone)]
pub(super) struct UnpersistedTokens {
    pub(super) epoch: u64,
    /// The refresh token that it was had with.
    pub(super) replaces: RefreshToken,
    pub(super) refreshed: RefreshResponse,
    pub(super) skew: i64,
}

impl UnpersistedTokens {
    /// Tells whether the record is still what it set out from: of the same login, and nobody else
    /// has replaced the refresh token meanwhile.
    pub(super) fn continues(&self, record: &StoredUser) -> bool {
        record.epoch == self.epoch && record.refresh_token.as_ref() == Some(&self.replaces)
    }
}

impl Inner {
    /// Remembers what a refresh brought until it is stored, since the backend may accept no other
    /// refresh token any more; or forgets it.
    pub(super) fn remember_unsaved(
        &self,
        user: &UserId,
        brought: UnpersistedTokens,
        is_unsaved: bool,
    ) {
        let mut unsaved = self.unsaved.lock().unwrap_or_else(PoisonError::into_inner);
        let own = &brought.refreshed.refresh_token;
        if is_unsaved {
            unsaved.insert(user.clone(), brought);
        } else if unsaved.get(user).is_some_and(|kept| kept.refreshed.refresh_token == *own) {
            unsaved.remove(user);
        }
        self.has_any_unsaved.store(!unsaved.is_empty(), Ordering::Relaxed);
    }

    /// Forgets it if it belongs to a login that is over, and not to a later one.
    pub(super) fn drop_unpersisted(&self, user: &UserId, epoch: u64) {
        let mut unsaved = self.unsaved.lock().unwrap_or_else(PoisonError::into_inner);
        if unsaved.get(user).is_some_and(|kept| kept.epoch <= epoch) {
            unsaved.remove(user);
        }
        self.has_any_unsaved.store(!unsaved.is_empty(), Ordering::Relaxed);
    }

    /// Tells whether there is a newer refresh token of this login than the store has.
    pub(super) fn has_unsaved(&self, record: &StoredUser) -> bool {
        if !self.has_any_unsaved.load(Ordering::Relaxed) {
            return false;
        }
        let unsaved = self.unsaved.lock().unwrap_or_else(PoisonError::into_inner);
        unsaved.get(&record.id).is_some_and(|kept| kept.continues(record))
    }

    /// Stores that one, if the user has one: before anything else is asked of the backend for this
    /// user, who may not accept the stored one any more. For whoever is alone at the user's refresh.
    pub(super) fn store_unsaved(
        &self,
        user: &UserId,
        deadline: Deadline,
    ) -> Result<Option<AccessToken>> {
        let unsaved = self.unsaved.lock().unwrap_or_else(PoisonError::into_inner);
        // It stays there until it is stored, so that nobody else goes by the stored one.
        let kept = unsaved.get(user).cloned();
        drop(unsaved);
        kept.map(|kept| self.store_refreshed(user, kept, deadline)).transpose()
    }

    /// Returns the refresh token that the store could not keep, for whoever leaves with it, if it is
    /// the newest one of the record's login.
    pub(super) fn unsaved_token(&self, record: &StoredUser) -> Option<RefreshToken> {
        let unsaved = self.unsaved.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = unsaved.get(&record.id).filter(|kept| kept.continues(record))?;
        kept.refreshed.refresh_token.clone()
    }

    /// Returns it if it is of an earlier login, which somebody else has ended without knowing it.
    pub(super) fn lost_token(&self, record: &StoredUser) -> Option<RefreshToken> {
        let unsaved = self.unsaved.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = unsaved.get(&record.id).filter(|kept| kept.epoch < record.epoch)?;
        let token = kept.refreshed.refresh_token.clone();
        // A backend may give the next login the same one.
        token.filter(|token| record.refresh_token.as_ref() != Some(token))
    }

    /// As [`logged_in`](Self::logged_in), where the network may be used: of a login that somebody
    /// else has ended here, the backend does not know yet that its newest token is over.
    pub(crate) fn logged_in_to_send(
        &self,
        user: &UserId,
        deadline: Deadline,
    ) -> Result<(Arc<StoredUser>, AccessToken)> {
        const LIMIT: Duration = Duration::from_secs(1);
        let found = self.logged_in(user, deadline);
        if matches!(found, Err(Error::LocalState(_)))
            && self.has_any_unsaved.load(Ordering::Relaxed)
        {
            // At little cost to the caller, who has the answer.
            let deadline = deadline.at_most(LIMIT.min(deadline.remaining() / 4));
            let _ = self.store_unsaved(user, deadline);
        }
        found
    }

    /// Stores what an earlier refresh brought and could not be stored, as well as it goes: a
    /// program must not end with it in memory alone.
    pub(super) fn try_to_store_unsaved(&self, record: &StoredUser, deadline: Deadline) {
        const LIMIT: Duration = Duration::from_secs(1);
        if self.has_unsaved(record) {
            let deadline = deadline.at_most(LIMIT.min(deadline.remaining() / 4));
            if let Ok(Some(_flight)) = self.store.lock_refresh(&record.id, deadline) {
                let _ = self.store_unsaved(&record.id, deadline);
            }
        }
    }
}
