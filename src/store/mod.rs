//! Storage of users and tokens: the [`Store`] trait with its requirements, and its implementations.
//!
//! A store knows neither routes nor clocks. It makes four promises:
//!
//! - A commit is atomic, and durable when it returns.
//! - A commit decides on the newest state, without concurrent commits.
//! - All who share the store see the commits in one order.
//! - At most one holder at a time has a user's refresh lock.

#[cfg(feature = "testing")]
pub mod contract;
mod encryption;
mod event_log;
mod fair_mutex;
mod memory;
mod paging;
mod record;
#[cfg(feature = "redis")]
mod redis;
mod sled;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

#[cfg(feature = "encryption")]
pub use self::encryption::EncryptionKey;
pub use self::memory::MemoryStore;
pub(crate) use self::paging::Listing;
#[cfg(feature = "redis")]
pub use self::redis::{OnRollback, RedisStore, RedisStoreBuilder};
pub use self::sled::{OnDamage, SledStore};
use crate::account::{Identity, Profile, UserState};
use crate::deadline::Deadline;
use crate::error::{StoreError, StoreErrorKind};
use crate::event::Event;
use crate::id::{DeviceId, UserId};
use crate::token::{AccessToken, RefreshToken};

/// A user's record in a store.
///
/// Serialising it with serde writes the tokens unencrypted: a store has to protect them. Fields of a
/// newer version are kept in `unknown_fields` and written back.
#[derive(Clone, Deserialize, PartialEq, Serialize)]
#[non_exhaustive]
pub struct StoredUser {
    /// The user's id, which is the key of the record.
    pub id: UserId,
    /// Logged in or logged out. A removed user has no record.
    pub state: UserState,
    /// The number of log-ins and log-outs. A request that started before the latest one is
    /// recognised by it.
    pub epoch: u64,
    /// The number of the commit that created the record.
    pub created_commit: u64,
    /// The number of the commit that last made this user current.
    pub last_used_commit: u64,
    /// Present while logged in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_token: Option<AccessToken>,
    /// Present while logged in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh_token: Option<RefreshToken>,
    /// Whether the last refresh of this login replaced the refresh token. `None` before the first
    /// one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh_token_rotated: Option<bool>,
    /// How many milliseconds the backend's clock is ahead of the wall clock here.
    #[serde(default)]
    pub clock_skew_ms: i64,
    /// The device id that the backend assigned at log-in. Kept at log-out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_id: Option<DeviceId>,
    /// The accounts attached to the user, in the order in which they were linked. Kept at log-out.
    #[serde(default)]
    pub identities: Vec<Identity>,
    /// The user's profile on the backend. Kept at log-out.
    #[serde(default)]
    pub profile: Profile,
    /// When the event that this login will end soon was last emitted, in milliseconds since the
    /// epoch by the backend's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expiry_warned_at: Option<i64>,
    /// The refresh token of a login that has ended here, while its revocation is pending because the
    /// backend could not be notified. Only in an [encrypted](Store::is_encrypted) store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending_revocation: Option<RefreshToken>,
    /// Whether an account was linked to an anonymous user and is missing in `identities`, because
    /// the profile could not be fetched. Such a user is no longer anonymous.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_unlisted_identity: bool,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub unknown_fields: Map<String, Value>,
}

/// One step of a commit.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Change {
    /// Sets (`Some`) or clears the current user.
    Current(Option<UserId>),
    /// Sets (`Some`) or clears the location of the backend.
    Location(Option<String>),
    /// Inserts the user or replaces its record. An id has at most 1,024 bytes.
    Put(Box<StoredUser>),
    /// Removes the user's record.
    Remove(UserId),
    /// Emits an event to all who share the store. The events of one commit stay together, in order.
    Emit(Event),
}

/// The state on which a commit decides. It cannot change until the commit is complete.
pub trait StoreView {
    /// Returns the number that this commit will have.
    fn number(&self) -> u64;

    /// Returns the current user's id.
    fn current(&self) -> Option<UserId>;

    /// Returns the stored location of the backend.
    fn location(&self) -> Option<String>;

    /// Returns a user's record.
    fn user(&self, id: &UserId) -> Result<Option<Arc<StoredUser>>, StoreError>;

    /// Returns the logged-in user with the highest `last_used_commit` that `wanted` accepts.
    fn last_used(
        &self,
        wanted: &dyn Fn(&StoredUser) -> bool,
    ) -> Result<Option<Arc<StoredUser>>, StoreError>;
}

/// Decides on the changes of a commit. An empty list commits nothing. It may be called more than
/// once, and must do no I/O.
pub type Decide<'a> = dyn FnMut(&dyn StoreView) -> Result<Vec<Change>, StoreError> + 'a;

/// The events of the commits after a given one.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct RecentEvents {
    /// The number of the newest commit, for the next call of [`Store::recent`].
    pub number: u64,
    /// The events, oldest first, each with its commit's number.
    pub events: Vec<(u64, Event)>,
    /// Whether older events after the given commit are lost.
    pub lagged: bool,
    /// Changes if another store, with commit numbers of its own, has replaced this one. Always zero
    /// if that cannot happen.
    pub instance: u64,
}

/// A user's refresh lock, which is released when it is dropped, even by a panic or the end of the
/// process.
#[must_use = "dropping it releases the lock"]
pub struct RefreshLock(Hold);

enum Hold {
    UntilDropped(#[allow(dead_code, reason = "held for its drop")] Box<dyn Send>),
    Leased(Box<dyn Lease>),
}

/// A refresh lock that can be lost while it is held, such as one that expires.
pub trait Lease: Send {
    /// Returns `true` if the lock is still held, and will be held for long enough to send a request.
    ///
    /// It may ask a server, within the deadline of the lock. Returns `false` if the answer is
    /// unknown.
    fn is_held(&self) -> bool;
}

/// A store of users and tokens, shared by any number of threads and, if it supports that, processes.
///
/// # Requirements
///
/// 1. **Commits are atomic and durable.** `commit` calls `decide` on the newest state while no other
///    commit can run. It applies all returned changes or none, and returns when they would survive a
///    power cut (if the store is durable at all). An error means that nothing was changed, unless its
///    kind is [`Unconfirmed`](StoreErrorKind::Unconfirmed).
/// 2. **Commits are ordered.** Each commit with changes has the number of the previous one plus one,
///    across all who share the store. Reads through one handle never return an older state than one
///    that was committed or read through it. Other commits are visible after
///    [`staleness`](Self::staleness) at the latest, and always once `lock_refresh` has returned a
///    lock. If the staleness is zero, this holds for all handles of a process together.
/// 3. **Reads do not wait** for writers if they can avoid it, and never longer than the deadline. With
///    a deadline that has passed they try once, and return what is in memory or fail.
/// 4. **A refresh lock has one holder** at a time, across all who share the store, and a holder that
///    dies loses it. Locks of different users may exclude each other.
/// 5. **No error and no `Debug`** shows a token.
/// 6. **Listings are consistent.** A page of users is from one state. Whatever is committed between
///    two pages, a listing returns each user that exists throughout, with the same `created_commit`,
///    exactly once.
///
/// `store::contract` (feature `testing`) is a test suite for these requirements. The stores of this
/// crate pass it.
///
/// Advice for a store of your own on a server that many machines share: Reject a commit with a
/// [`Change`] that the store does not know. Call [`validate`], which rejects what no store accepts.
/// Implement the refresh lock as a [`Lease`] that is renewed while it is held, because a server does
/// not notice when a machine dies. [`is_encrypted`](Self::is_encrypted) decides whether tokens of
/// ended logins may be stored.
pub trait Store: Send + Sync + 'static {
    /// Returns the current user's id.
    fn current(&self, deadline: Deadline) -> Result<Option<UserId>, StoreError>;

    /// Returns the stored location of the backend.
    fn location(&self, deadline: Deadline) -> Result<Option<String>, StoreError>;

    /// Returns a user's record, or `None` if there is none.
    fn user(&self, id: &UserId, deadline: Deadline) -> Result<Option<Arc<StoredUser>>, StoreError>;

    /// Returns the next records in the order of `created_commit` and `id`: those after a position in
    /// that order, or the first ones. An empty list is the end.
    ///
    /// The store decides how many records a page has, so that a listing of any number of users needs
    /// little memory and does not block others for long.
    fn users_after(
        &self,
        after: Option<(u64, &UserId)>,
        deadline: Deadline,
    ) -> Result<Vec<Arc<StoredUser>>, StoreError>;

    /// Returns all records, in the order of [`users_after`](Self::users_after). All of them are in
    /// memory at once: use this in tests, or if there are few users.
    fn users(&self, deadline: Deadline) -> Result<Vec<Arc<StoredUser>>, StoreError> {
        let mut listing = Listing::default();
        std::iter::from_fn(|| listing.next(self, || deadline)).collect()
    }

    /// Commits the changes that `decide` returns; see the requirements. Returns the number of the
    /// newest commit.
    fn commit(&self, deadline: Deadline, decide: &mut Decide<'_>) -> Result<u64, StoreError>;

    /// Returns the events of the commits after `number`. `None` asks only for the newest number.
    fn recent(&self, number: Option<u64>, deadline: Deadline) -> Result<RecentEvents, StoreError>;

    /// Returns `true` if the store is encrypted, so that someone who reads the disk cannot read
    /// tokens. Only then does the session store tokens of ended logins. Defaults to `false`.
    fn is_encrypted(&self) -> bool {
        false
    }

    /// Returns the largest age of a state that a read returns; see requirement 2. Defaults to zero.
    fn staleness(&self) -> Duration {
        Duration::ZERO
    }

    /// Returns how often the session polls [recent](Self::recent) events while a program listens for
    /// them. Defaults to 100 ms.
    fn poll_interval(&self) -> Duration {
        Duration::from_millis(100)
    }

    /// Calls `notify` soon after commits of other processes, from any thread, until the returned
    /// value is dropped. Returns `None`, the default, if the store does not support that. Then the
    /// session polls.
    ///
    /// `notify` returns at once. It may be called once for several commits, and without any commit.
    fn watch(&self, notify: Box<dyn Fn() + Send + Sync>) -> Option<Box<dyn Send>> {
        let _ = notify;
        None
    }

    /// Checks, at little cost, that a commit is likely to succeed: it acquires the same locks, opens
    /// the same files, and checks that the disk has room.
    ///
    /// The session calls this before it sends a refresh token that the backend may replace. Defaults
    /// to a commit without changes.
    fn check_writable(&self, deadline: Deadline) -> Result<(), StoreError> {
        self.commit(deadline, &mut |_| Ok(Vec::new())).map(drop)
    }

    /// Acquires the user's refresh lock, for which it waits until the deadline. With a deadline that
    /// has passed this tries once. Returns `None` if another holder kept the lock.
    fn lock_refresh(
        &self,
        user: &UserId,
        deadline: Deadline,
    ) -> Result<Option<RefreshLock>, StoreError>;
}

impl StoredUser {
    /// Returns a new record of a user that is logged out, with only its id.
    pub fn new(id: UserId) -> Self {
        Self {
            id,
            state: UserState::LoggedOut,
            epoch: 0,
            created_commit: 0,
            last_used_commit: 0,
            access_token: None,
            refresh_token: None,
            refresh_token_rotated: None,
            clock_skew_ms: 0,
            device_id: None,
            identities: Vec::new(),
            profile: Profile::default(),
            expiry_warned_at: None,
            has_unlisted_identity: false,
            pending_revocation: None,
            unknown_fields: Map::new(),
        }
    }

    /// Returns `true` if the user is logged in and has both tokens.
    pub fn is_logged_in(&self) -> bool {
        self.state == UserState::LoggedIn
            && self.access_token.is_some()
            && self.refresh_token.is_some()
    }
}

impl RefreshLock {
    /// Wraps a value that holds the lock until it is dropped.
    pub fn new(hold: impl Send + 'static) -> Self {
        Self(Hold::UntilDropped(Box::new(hold)))
    }

    /// Wraps a value that holds the lock until it is dropped or loses it.
    pub fn leased(lease: impl Lease + 'static) -> Self {
        Self(Hold::Leased(Box::new(lease)))
    }

    /// Returns `true` if the lock is still held. The session checks this right before it sends a
    /// refresh request.
    pub fn is_held(&self) -> bool {
        match &self.0 {
            Hold::UntilDropped(_) => true,
            Hold::Leased(lease) => lease.is_held(),
        }
    }
}

impl fmt::Debug for StoredUser {
    /// Shows only the names of unknown fields, which may contain tokens of a new kind.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredUser")
            .field("id", &self.id)
            .field("state", &self.state)
            .field("epoch", &self.epoch)
            .field("created_commit", &self.created_commit)
            .field("last_used_commit", &self.last_used_commit)
            .field("access_token", &self.access_token)
            .field("refresh_token", &self.refresh_token)
            .field("refresh_token_rotated", &self.refresh_token_rotated)
            .field("clock_skew_ms", &self.clock_skew_ms)
            .field("device_id", &self.device_id)
            .field("identities", &self.identities)
            .field("profile", &self.profile)
            .field("expiry_warned_at", &self.expiry_warned_at)
            .field("has_unlisted_identity", &self.has_unlisted_identity)
            .field("pending_revocation", &self.pending_revocation)
            .field("unknown_fields", &self.unknown_fields.keys())
            .finish()
    }
}

impl fmt::Debug for RefreshLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RefreshLock")
    }
}

/// Rejects changes that no store accepts.
///
/// # Errors
/// [`StoreErrorKind::Io`] if the id of a user is longer than 1,024 bytes.
pub fn validate(changes: &[Change]) -> Result<(), StoreError> {
    const LONGEST_ID: usize = 1024;
    for change in changes {
        if let Change::Put(user) = change
            && user.id.as_str().len() > LONGEST_ID
        {
            let reason = format!("a user id of more than {LONGEST_ID} bytes cannot be stored");
            return Err(StoreError::new(StoreErrorKind::Io, reason));
        }
    }
    Ok(())
}
