//! Log-outs that the backend could not be told of: where the store is sealed their tokens are kept,
//! and it is told when it answers again.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::inner::Inner;
use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::id::UserId;
use crate::store::{Change, Cursor, Listing, StoredUser};
use crate::token::RefreshToken;

/// How far a session has come with telling the backend of log-outs.
#[derive(Default)]
pub(super) struct PendingRevocations {
    /// After whom to go on.
    from: Option<Cursor>,
    /// Whether there were some that have to be told again.
    missed: bool,
    /// How often it had to begin all over again.
    round: u64,
}

impl Inner {
    /// Has the backend told of a log-out later: from the first user on, since this one may be before
    /// where telling came to.
    pub(super) fn defer_revocation(&self) {
        let mut untold = self.untold.lock().unwrap_or_else(PoisonError::into_inner);
        *untold = PendingRevocations {
            round: untold.round.wrapping_add(1),
            ..PendingRevocations::default()
        };
        self.has_untold.store(true, Ordering::Relaxed);
    }

    /// Forgets the refresh token of a log-out that the backend need not be told of any more.
    pub(super) fn clear_pending_revocation(
        &self,
        user: &UserId,
        token: &RefreshToken,
        deadline: Deadline,
    ) -> Result<()> {
        self.commit(deadline, |tables| match tables.user(user)? {
            Some(newest) if newest.pending_revocation.as_ref() == Some(token) => {
                let mut record = StoredUser::clone(&newest);
                record.pending_revocation = None;
                Ok((vec![Change::Put(Box::new(record))], ()))
            }
            _ => Ok((Vec::new(), ())),
        })
    }

    /// Tells the backend of log-outs that it could not be told of, now that it answers: for at most
    /// five seconds or a quarter of the call's time, and as well as it goes.
    pub(super) fn send_pending_revocations(&self, deadline: Deadline) {
        const LIMIT: Duration = Duration::from_secs(5);
        if !self.store.is_sealed()
            || deadline.has_passed()
            || !self.has_untold.swap(false, Ordering::Relaxed)
        {
            return;
        }
        let deadline = deadline.at_most(LIMIT.min(deadline.remaining() / 4));
        let lock = || self.untold.lock().unwrap_or_else(PoisonError::into_inner);
        let begins = |kept: &mut PendingRevocations| {
            let next = PendingRevocations { round: kept.round, ..PendingRevocations::default() };
            std::mem::replace(kept, next)
        };
        let mut untold = begins(&mut lock());
        let has_ended = self.tell_all_untold(&mut untold, deadline);
        let mut kept = lock();
        // Else somebody has left meanwhile, perhaps before where this came to: all over again.
        if kept.round == untold.round && (!has_ended || untold.missed) {
            if !has_ended {
                *kept = untold;
            }
            self.has_untold.store(true, Ordering::Relaxed);
        }
    }

    /// Goes through the users from where it came to the last time, and returns whether it has come
    /// to the end. Too short a time does not hold up those at the end for ever, nor does one that
    /// the backend fails at.
    fn tell_all_untold(&self, untold: &mut PendingRevocations, deadline: Deadline) -> bool {
        let mut listing = Listing::after(untold.from.take());
        loop {
            let before = listing.cursor();
            let Some(record) = listing.next(&*self.store, || deadline) else { return true };
            let told = match &record {
                Ok(record) => self.tell_one_untold(record, deadline),
                Err(error) => Err(error.clone().into()),
            };
            match told {
                Ok(()) => {}
                Err(Error::Server(_)) => untold.missed = true,
                // The backend cannot be reached, or the store not be used.
                Err(_) => {
                    untold.from = before;
                    return false;
                }
            }
        }
    }

    /// Tells the backend of one that has logged out, if it has to be told.
    fn tell_one_untold(&self, record: &StoredUser, deadline: Deadline) -> Result<()> {
        let Some(token) = &record.pending_revocation else { return Ok(()) };
        match self.end_server_session(token, deadline) {
            Err(error) if error.is_retryable() => Err(error),
            // Told, or refused for good.
            _ => self.clear_pending_revocation(&record.id, token, deadline),
        }
    }
}
