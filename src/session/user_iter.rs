//! Listing users, any number of them, without having them all in memory.

use std::fmt;
use std::iter::FusedIterator;
use std::sync::Arc;

use super::Session;
use crate::account::{Identity, Profile, UserState};
use crate::error::Result;
use crate::store::{Listing, StoredUser};
use crate::user::User;

/// All users known here, one after the other, in the order in which they first logged in. From
/// [`Session::users_iter`].
///
/// They are read in pages of some megabytes at most; nothing is locked between two pages, and
/// each page may take as long as a call of the session. A user who is there all the while is shown
/// once, as the store had it when its page was read. One who logs in for the first time, or is
/// removed, meanwhile may be shown or not. After an error the listing has ended.
pub struct Users {
    session: Session,
    listing: Listing,
}

/// A user as a listing found it. What it says of the user stays as it was then; the [`User`] reads
/// the store anew.
pub struct ListedUser {
    session: Session,
    record: Arc<StoredUser>,
}

impl Users {
    pub(super) fn new(session: Session) -> Self {
        Self { session, listing: Listing::default() }
    }
}

impl Iterator for Users {
    type Item = Result<ListedUser>;

    fn next(&mut self) -> Option<Self::Item> {
        let session = &self.session;
        if let Err(error) = session.check() {
            return self.listing.end().then_some(Err(error));
        }
        let record = self.listing.next(&*session.inner.store, || session.deadline())?;
        let listed = record.map(|record| ListedUser { session: session.clone(), record });
        Some(listed.map_err(|error| session.explain(error.into())))
    }
}

impl FusedIterator for Users {}

impl ListedUser {
    /// Returns the handle of the user.
    pub fn user(&self) -> User {
        self.session.handle(self.record.id.clone())
    }

    /// Returns whether the user was logged in or logged out.
    pub fn state(&self) -> UserState {
        if self.record.is_logged_in() { UserState::LoggedIn } else { UserState::LoggedOut }
    }

    /// Returns the accounts that were attached to the user; see [`User::identities`].
    pub fn identities(&self) -> &[Identity] {
        &self.record.identities
    }

    /// Returns the profile; see [`User::profile`].
    pub fn profile(&self) -> &Profile {
        &self.record.profile
    }
}

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Users").field("session", &self.session).finish_non_exhaustive()
    }
}

impl fmt::Debug for ListedUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ListedUser")
            .field("id", &self.record.id)
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}
