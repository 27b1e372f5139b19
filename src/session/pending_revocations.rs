//! Pending revocations: refresh tokens of logins that ended here while the backend could not be
//! reached. An encrypted store keeps them, and they are revoked when the backend responds again.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::inner::Inner;
use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::id::UserId;
use crate::store::{Change, Listing, StoredUser};
use crate::token::RefreshToken;

impl Inner {
    /// Revokes a token that the store keeps until then. After a retryable failure, a later log-in
    /// or refresh tries again.
    pub(super) fn revoke_pending(
        &self,
        user: &UserId,
        token: &RefreshToken,
        deadline: Deadline,
    ) -> Result<()> {
        let revoked = self.end_server_session(token, deadline);
        if revoked.as_ref().is_err_and(Error::is_retryable)
            // Revoking a token again is harmless.
            || self.clear_pending_revocation(user, token, deadline).is_err()
        {
            self.may_have_revocations.store(true, Ordering::Relaxed);
        }
        revoked
    }

    /// Removes a pending revocation from the store, after it was sent or was definitely refused.
    fn clear_pending_revocation(
        &self,
        user: &UserId,
        token: &RefreshToken,
        deadline: Deadline,
    ) -> Result<()> {
        self.commit(deadline, |view| match view.user(user)? {
            Some(newest) if newest.pending_revocation.as_ref() == Some(token) => {
                let mut record = StoredUser::clone(&newest);
                record.pending_revocation = None;
                Ok((vec![Change::Put(Box::new(record))], ()))
            }
            _ => Ok((Vec::new(), ())),
        })
    }

    /// Sends each pending revocation once, best effort, for at most 5 s or a quarter of the call's
    /// time. Failed ones are retried after the next log-in or refresh.
    pub(super) fn send_pending_revocations(&self, deadline: Deadline) {
        const LIMIT: Duration = Duration::from_secs(5);
        if !self.store.is_encrypted()
            || deadline.has_passed()
            || !self.may_have_revocations.swap(false, Ordering::Relaxed)
        {
            return;
        }
        let deadline = deadline.at_most(LIMIT.min(deadline.remaining() / 4));
        let mut listing = Listing::default();
        while let Some(record) = listing.next(&*self.store, || deadline) {
            let Ok(record) = record else {
                return self.may_have_revocations.store(true, Ordering::Relaxed);
            };
            let Some(token) = &record.pending_revocation else { continue };
            match self.revoke_pending(&record.id, token, deadline) {
                // The backend failed for this token; it may succeed for others.
                Ok(()) | Err(Error::Server(_)) => {}
                Err(error) if error.is_retryable() => return,
                Err(_) => {}
            }
        }
    }
}
