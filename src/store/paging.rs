//! Listing all users, page by page.

use std::sync::Arc;
use std::vec;

use super::{Store, StoredUser};
use crate::deadline::Deadline;
use crate::error::{StoreError, StoreErrorKind};
use crate::id::UserId;

/// A listing of users and its position.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    page: vec::IntoIter<Arc<StoredUser>>,
    /// The last user that was returned: the number of the commit that created it, and its id.
    last: Option<(u64, UserId)>,
    /// Whether the last page was read before the deadline. If so, a deadline that passes ends the
    /// listing.
    was_in_time: bool,
    has_ended: bool,
}

impl Listing {
    /// Returns the next record. `deadline` is called if the next page has to be read. If the deadline
    /// has passed before the first page, the listing tries once. After an error it ends.
    pub(crate) fn next(
        &mut self,
        store: &(impl Store + ?Sized),
        deadline: impl FnOnce() -> Deadline,
    ) -> Option<Result<Arc<StoredUser>, StoreError>> {
        if self.page.as_slice().is_empty() && !self.has_ended {
            let after = self.last.as_ref().map(|(created, id)| (*created, id));
            let advances = |page: &[Arc<StoredUser>]| {
                page.first()
                    .is_none_or(|user| after.is_none_or(|at| (user.created_commit, &user.id) > at))
            };
            let deadline = deadline();
            let in_time = !deadline.has_passed();
            let page = match self.was_in_time && !in_time {
                true => {
                    let reason = "the deadline passed while users were listed, try again later";
                    Err(StoreError::new(StoreErrorKind::Busy, reason))
                }
                false => store.users_after(after, deadline),
            };
            self.was_in_time = in_time;
            match page {
                Ok(page) if advances(&page) => self.page = page.into_iter(),
                failed => {
                    self.has_ended = true;
                    let reason = "the store lists users in the wrong order";
                    let wrong_order = StoreError::new(StoreErrorKind::Io, reason);
                    return Some(Err(failed.err().unwrap_or(wrong_order)));
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

    /// Ends the listing. Returns `false` if it had ended already.
    pub(crate) fn end(&mut self) -> bool {
        self.page = Vec::new().into_iter();
        !std::mem::replace(&mut self.has_ended, true)
    }
}
