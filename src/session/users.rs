//! The users known on this device: listing, switching, removing and deleting them.

use std::fmt;
use std::iter::FusedIterator;
use std::sync::Arc;

use super::Session;
use crate::account::{Identity, Profile, UserState};
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
#[cfg(doc)]
use crate::event::Event;
use crate::id::UserId;
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

impl Session {
    /// Returns the current user: the logged-in user who most recently logged in, linked an account
    /// or was switched to. Uses no network.
    ///
    /// # Errors
    /// [`Error::Store`] if the store cannot be read. An unreadable store is never reported as
    /// "nobody is logged in".
    ///
    /// # Examples
    ///
    /// ```
    /// # #[cfg(feature = "server")]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let server = keyfob::server::Server::builder().built_in_functions().start()?;
    /// # let session = keyfob::Session::builder(server.app_id(), server.base_url())
    /// #     .store(keyfob::store::MemoryStore::new())
    /// #     .open()?;
    /// use keyfob::Credentials;
    ///
    /// assert_eq!(session.current_user()?, None);
    /// let user = session.log_in(&Credentials::anonymous())?;
    /// assert_eq!(session.current_user()?, Some(user));
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "server"))]
    /// # fn main() {}
    /// ```
    pub fn current_user(&self) -> Result<Option<User>> {
        let current = self.within(|deadline| Ok(self.inner.store.current(deadline)?))?;
        Ok(current.map(|user| self.handle(user)))
    }

    /// Returns all users known here, including those who are logged out, in the order of their
    /// first log-in. Uses no network.
    ///
    /// This reads all users into memory at once; [`users_iter`](Self::users_iter) reads them page
    /// by page.
    ///
    /// # Errors
    /// [`Error::Store`] if the store cannot be read.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[cfg(feature = "server")]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let server = keyfob::server::Server::builder().built_in_functions().start()?;
    /// # let session = keyfob::Session::builder(server.app_id(), server.base_url())
    /// #     .store(keyfob::store::MemoryStore::new())
    /// #     .open()?;
    /// use keyfob::{Credentials, UserState};
    ///
    /// for email in ["ada@example.org", "bob@example.org"] {
    ///     session.email_password().register(email, "correct horse")?;
    ///     session.log_in(&Credentials::email_password(email, "correct horse"))?;
    /// }
    /// let users = session.users()?;
    /// assert_eq!(users[0].profile()?.email(), Some("ada@example.org"));
    /// assert_eq!(session.current_user()?.as_ref(), Some(&users[1]));
    ///
    /// users[1].log_out()?;
    /// assert_eq!(session.users()?[1].state()?, UserState::LoggedOut);
    /// assert_eq!(session.current_user()?.as_ref(), Some(&users[0]));
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "server"))]
    /// # fn main() {}
    /// ```
    pub fn users(&self) -> Result<Vec<User>> {
        self.within(|deadline| {
            let mut listing = Listing::default();
            let next = || listing.next(&*self.inner.store, || deadline);
            let users = std::iter::from_fn(next).map(|user| Ok(self.handle(user?.id.clone())));
            users.collect()
        })
    }

    /// Returns an iterator over all users known here, with the state, identities and profile of
    /// each. It reads them page by page, so it suits any number of users. Uses no network.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[cfg(feature = "server")]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let server = keyfob::server::Server::builder().built_in_functions().start()?;
    /// # let session = keyfob::Session::builder(server.app_id(), server.base_url())
    /// #     .store(keyfob::store::MemoryStore::new())
    /// #     .open()?;
    /// # session.email_password().register("ada@example.org", "correct horse")?;
    /// # let ada = keyfob::Credentials::email_password("ada@example.org", "correct horse");
    /// # let user = session.log_in(&ada)?;
    /// for listed in session.users_iter() {
    ///     let listed = listed?;
    ///     println!("{}: {}", listed.profile().email().unwrap_or("nobody"), listed.state().as_str());
    ///     assert_eq!(listed.user(), user);
    /// }
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "server"))]
    /// # fn main() {}
    /// ```
    pub fn users_iter(&self) -> Users {
        Users::new(self.clone())
    }

    /// Returns the user with this id, or `None` if the user is not known here. Uses no network.
    ///
    /// # Errors
    /// [`Error::Store`] if the store cannot be read.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[cfg(feature = "server")]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let server = keyfob::server::Server::builder().built_in_functions().start()?;
    /// # let session = keyfob::Session::builder(server.app_id(), server.base_url())
    /// #     .store(keyfob::store::MemoryStore::new())
    /// #     .open()?;
    /// # let user = session.log_in(&keyfob::Credentials::anonymous())?;
    /// use keyfob::UserId;
    ///
    /// let id = user.id().to_string(); // as a program may keep it in its settings
    /// assert_eq!(session.user(&UserId::new(id))?, Some(user));
    /// assert_eq!(session.user(&UserId::new("somebody else"))?, None);
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "server"))]
    /// # fn main() {}
    /// ```
    pub fn user(&self, id: &UserId) -> Result<Option<User>> {
        let record = self.within(|deadline| Ok(self.inner.store.user(id, deadline)?))?;
        Ok(record.map(|record| self.handle(record.id.clone())))
    }

    /// Makes a logged-in user current. Emits [`Event::CurrentUserChanged`] unless the user is
    /// already current. Uses no network; blocks for a commit.
    ///
    /// # Errors
    /// - [`Error::LocalState`] if the user is logged out or not known here.
    /// - [`Error::Store`] if nothing was changed.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[cfg(feature = "server")]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let server = keyfob::server::Server::builder().built_in_functions().start()?;
    /// # let session = keyfob::Session::builder(server.app_id(), server.base_url())
    /// #     .store(keyfob::store::MemoryStore::new())
    /// #     .open()?;
    /// use keyfob::Credentials;
    ///
    /// let first = session.log_in(&Credentials::new_anonymous())?;
    /// let second = session.log_in(&Credentials::new_anonymous())?;
    /// assert_eq!(session.current_user()?.as_ref(), Some(&second));
    ///
    /// session.switch_user(&first)?;
    /// assert_eq!(session.current_user()?.as_ref(), Some(&first));
    /// // A user need not be current to make calls.
    /// let sum: i64 = second.functions().call("sum", (1, 2))?;
    /// # assert_eq!(sum, 3);
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "server"))]
    /// # fn main() {}
    /// ```
    pub fn switch_user(&self, user: &User) -> Result<()> {
        self.within(|deadline| self.inner.switch_to(user.id(), deadline))
    }

    /// Removes a user from this device, whether logged in or not, and revokes its server session.
    /// The account stays on the backend.
    ///
    /// When this returns, the tokens, profile and identities have been removed from disk, even if
    /// the backend was unreachable. The id stays in the recent events. The directory of the user's
    /// synced realms stays until you delete it ([`unused_sync_dirs`](Self::unused_sync_dirs)).
    /// Emits [`Event::Removed`]. If the user was current, emits [`Event::CurrentUserChanged`] too;
    /// the most recently used logged-in user then becomes current. Blocks for a commit and a
    /// request.
    ///
    /// # Errors
    /// - [`Error::Server`] or [`Error::Transport`] if the backend could not be notified. The user
    ///   is removed here nevertheless, even if the error
    ///   [`is_retryable`](crate::Error::is_retryable): no token is left to notify the backend with,
    ///   so the server session stays valid until it expires.
    /// - [`Error::LocalState`] if the user is not known here.
    /// - [`Error::Store`] if nothing was changed.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[cfg(feature = "server")]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let server = keyfob::server::Server::builder().built_in_functions().start()?;
    /// # let session = keyfob::Session::builder(server.app_id(), server.base_url())
    /// #     .store(keyfob::store::MemoryStore::new())
    /// #     .open()?;
    /// # session.email_password().register("ada@example.org", "correct horse")?;
    /// # let ada = keyfob::Credentials::email_password("ada@example.org", "correct horse");
    /// # let user = session.log_in(&ada)?;
    /// use keyfob::UserState;
    ///
    /// session.remove_user(&user)?;
    /// assert_eq!(user.state()?, UserState::Removed);
    /// assert!(session.users()?.is_empty());
    /// // The account still exists, so Ada can log in again.
    /// assert_eq!(session.log_in(&ada)?, user);
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "server"))]
    /// # fn main() {}
    /// ```
    pub fn remove_user(&self, user: &User) -> Result<()> {
        self.within(|deadline| self.inner.remove(user.id(), deadline))
    }

    /// Deletes the user's account on the backend, with that user's own token, and then removes the
    /// user here, as [`remove_user`](Self::remove_user) does.
    ///
    /// Emits [`Event::Removed`], and [`Event::CurrentUserChanged`] if the user was current. Blocks
    /// for a request, a refresh if it is due, and a commit.
    ///
    /// # Errors
    /// As [`Functions::call`](crate::Functions::call); nothing has changed here in that case. If
    /// the error [`is_ambiguous`](crate::Error::is_ambiguous), the account may have been deleted;
    /// the next refresh then reports that the login has ended.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[cfg(feature = "server")]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let server = keyfob::server::Server::builder().built_in_functions().start()?;
    /// # let session = keyfob::Session::builder(server.app_id(), server.base_url())
    /// #     .store(keyfob::store::MemoryStore::new())
    /// #     .open()?;
    /// # session.email_password().register("ada@example.org", "correct horse")?;
    /// # let ada = keyfob::Credentials::email_password("ada@example.org", "correct horse");
    /// # let user = session.log_in(&ada)?;
    /// use keyfob::ServerErrorCode;
    ///
    /// session.delete_user(&user)?;
    /// assert!(session.users()?.is_empty());
    /// // The account is gone for good.
    /// let error = session.log_in(&ada).unwrap_err();
    /// assert_eq!(error.server_code(), Some(&ServerErrorCode::InvalidPassword));
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "server"))]
    /// # fn main() {}
    /// ```
    ///
    /// Source: realm-core `object-store/sync/app.cpp`, `App::delete_user`.
    pub fn delete_user(&self, user: &User) -> Result<()> {
        self.within(|deadline| self.inner.delete(user.id(), deadline))
    }
}

impl Users {
    fn new(session: Session) -> Self {
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
