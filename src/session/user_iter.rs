//! Iterates over users page by page, without loading all of them into memory.

use std::fmt;
use std::iter::FusedIterator;
use std::sync::Arc;

use super::Session;
use crate::account::{Identity, Profile, UserState};
use crate::error::Result;
use crate::store::{Listing, StoredUser};
use crate::user::User;

/// An iterator over all users known here, in the order of their first log-in. Returned by
/// [`Session::users_iter`].
///
/// It reads users in pages of a few megabytes at most. It holds no lock between two pages, and each
/// page may take as long as a call of the session. A user who stays known during the iteration is
/// returned once, as stored when its page was read. A user who logs in for the first time or is
/// removed during the iteration may be returned or not. After an error the iterator has ended.
pub struct Users {
    session: Session,
    listing: Listing,
}

/// A user as [`Users`] read it from the store. Its data does not change afterwards; its [`User`]
/// handle reads the store again.
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
