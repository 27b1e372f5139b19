//! Going through all users page by page.

use std::sync::Arc;
use std::vec;

use super::{Store, StoredUser};
use crate::deadline::Deadline;
use crate::error::{StoreError, StoreErrorKind};
use crate::id::UserId;

/// How far a listing has come.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    page: vec::IntoIter<Arc<StoredUser>>,
    /// The last one that was shown: the number of the commit that created it, and its id.
    last: Option<(u64, UserId)>,
    /// Whether a page was read in time: then time that runs out ends the listing.
    was_in_time: bool,
    has_ended: bool,
}

impl Listing {
    /// Returns the next record. The deadline is that of the next page, if one has to be read. A
    /// listing that begins when it has passed is tried all the same. After an error there is no
    /// more.
    pub(crate) fn next(
        &mut self,
        store: &(impl Store + ?Sized),
        deadline: impl FnOnce() -> Deadline,
    ) -> Option<Result<Arc<StoredUser>, StoreError>> {
        if self.page.as_slice().is_empty() && !self.has_ended {
            let after = self.last.as_ref().map(|(created, id)| (*created, id));
            let goes_on = |page: &[Arc<StoredUser>]| {
                page.first()
                    .is_none_or(|user| after.is_none_or(|at| (user.created_commit, &user.id) > at))
            };
            let deadline = deadline();
            let in_time = !deadline.has_passed();
            let page = match self.was_in_time && !in_time {
                true => {
                    let reason = "listing users took longer than there was time, try again later";
                    Err(StoreError::new(StoreErrorKind::Busy, reason))
                }
                false => store.users_after(after, deadline),
            };
            self.was_in_time = in_time;
            match page {
                Ok(page) if goes_on(&page) => self.page = page.into_iter(),
                failed => {
                    self.has_ended = true;
                    let reason = "the store lists users in a circle";
                    let circle = StoreError::new(StoreErrorKind::Io, reason);
                    return Some(Err(failed.err().unwrap_or(circle)));
                }
            }
        }
        let next = self.page.next();
        match &next {
            Some(user) => self.last = Some((user.created_commit, user.id.clone())),
            None => self.has_ended = true,
        }
        next.map(Ok)
    }

    /// Ends it. `false` if it had ended already.
    pub(crate) fn end(&mut self) -> bool {
        self.page = Vec::new().into_iter();
        !std::mem::replace(&mut self.has_ended, true)
    }
}
