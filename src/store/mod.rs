//! Where users and tokens are kept: the [`Store`] trait with its laws, and what it stores.
//!
//! A store knows neither routes nor clocks. It owns four promises: a commit is all or nothing and
//! on disk when it returns; a commit decides on the newest state, alone; everybody who shares the
//! store sees commits in one order; and at most one holder at a time has a user's refresh flight.

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
pub(crate) use self::sled::failed;
pub use self::sled::{OnDamage, SledStore};
use crate::account::{Identity, Profile, UserState};
use crate::deadline::Deadline;
use crate::error::{StoreError, StoreErrorKind};
use crate::event::Event;
use crate::id::{DeviceId, UserId};
use crate::token::{AccessToken, RefreshToken};

/// What a store keeps of one user.
///
/// Serialised with serde, its tokens in the clear: whoever writes it somewhere protects it there.
/// Fields of a newer version are kept in `unknown_fields` and written back.
#[derive(Clone, Deserialize, PartialEq, Serialize)]
#[non_exhaustive]
pub struct StoredUser {
    /// The user's id; the key.
    pub id: UserId,
    /// Logged in or logged out. A removed user has no record.
    pub state: UserState,
    /// Counts log-ins and log-outs, so that what began before one of them can be recognised.
    pub epoch: u64,
    /// The number of the commit that made the record: who was here first.
    pub created_commit: u64,
    /// The number of the commit that last made this user current: who was used last.
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
    /// The device id the backend gave at log-in. Kept at log-out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_id: Option<DeviceId>,
    /// The accounts attached to the user, in the order they were linked. Kept at log-out.
    #[serde(default)]
    pub identities: Vec<Identity>,
    /// What the backend keeps about the user. Kept at log-out.
    #[serde(default)]
    pub profile: Profile,
    /// When it was last told that this login will end soon, in milliseconds since the epoch by the
    /// backend's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expiry_warned_at: Option<i64>,
    /// The refresh token of a login that has ended here and of which the backend could not be told
    /// yet. Only in a store that [is sealed](Store::is_sealed).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending_revocation: Option<RefreshToken>,
    /// Whether an account was linked to an anonymous user that `identities` does not name, since the
    /// profile could not be had: the user is not an anonymous one any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_unlisted_identity: bool,
    /// Fields this version does not know.
    #[serde(flatten)]
    pub unknown_fields: Map<String, Value>,
}

/// One step of a commit.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Change {
    /// Sets (`Some`) or clears the current user.
    Current(Option<UserId>),
    /// Remembers the location of the backend, or forgets it.
    Location(Option<String>),
    /// Inserts the user or replaces its record. An id has at most 1,024 bytes.
    Put(Box<StoredUser>),
    /// Removes the user's record.
    Remove(UserId),
    /// Tells everybody who shares the store. The events of one commit stay together, in order.
    Emit(Event),
}

/// What a commit's decision sees: the state that the commit will change, as nobody else can
/// change it meanwhile.
pub trait StoreView {
    /// Returns the number this commit will have.
    fn number(&self) -> u64;

    /// Returns the current user's id.
    fn current(&self) -> Option<UserId>;

    /// Returns the location that was remembered.
    fn location(&self) -> Option<String>;

    /// Returns a user's record.
    fn user(&self, id: &UserId) -> Result<Option<Arc<StoredUser>>, StoreError>;

    /// Returns the logged-in user with the highest `last_used_commit` that `wanted` accepts.
    fn last_used(
        &self,
        wanted: &dyn Fn(&StoredUser) -> bool,
    ) -> Result<Option<Arc<StoredUser>>, StoreError>;
}

/// Decides what a commit does. No changes means that there is nothing to commit. It may be called
/// more than once, and does no I/O of its own.
pub type Decide<'a> = dyn FnMut(&dyn StoreView) -> Result<Vec<Change>, StoreError> + 'a;

/// The events of the commits after a given one.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct RecentEvents {
    /// The number of the newest commit; ask for what came after it next time.
    pub number: u64,
    /// The events, oldest first, each with its commit's number.
    pub events: Vec<(u64, Event)>,
    /// Whether events between the given commit and the first one here are no longer known.
    pub lagged: bool,
    /// Another number than before if another store has taken this one's place, whose commits have
    /// nothing to do with those that were counted before. Zero where that cannot be.
    pub instance: u64,
}

/// Holds a user's refresh lock until it is dropped, even by a panic or the end of the process.
#[must_use = "dropping it releases the lock"]
pub struct RefreshLock(Hold);

enum Hold {
    UntilDropped(#[allow(dead_code, reason = "held for its drop")] Box<dyn Send>),
    Leased(Box<dyn Lease>),
}

/// A refresh lock that can be lost while it is held, such as one that expires.
pub trait Lease: Send {
    /// Returns `true` if the lock is still held, and will be for long enough to send a request.
    ///
    /// It may ask a server, within the deadline of the lock. If it cannot know, it returns `false`.
    fn is_held(&self) -> bool;
}

/// A place for users and tokens, shared by any number of threads and, where it can be, processes.
///
/// # Laws
///
/// 1. `commit` calls `decide` on the newest state while nobody else can commit, applies what it
///    returns as a whole or not at all, and returns when that would survive a power cut (as far as
///    the store keeps anything). An error means that nothing was changed, unless its kind is
///    [`Unconfirmed`](StoreErrorKind::Unconfirmed).
/// 2. Each commit that changes something has the number of the one before plus one, across all who
///    share the store. Reads through one handle never go back behind a commit that was made or seen
///    through it. Other commits are seen after [`staleness`](Self::staleness) at the latest, and in
///    any case once `lock_refresh` has returned a lock. Where the staleness is zero, this holds for
///    all handles of a process together.
/// 3. Reads wait for no writer where they can help it, and never longer than the deadline. With one
///    that has passed they are tried once, and say what is at hand or fail.
/// 4. `lock_refresh` gives a user's flight to one holder at a time, across all who share the
///    store, and a holder that dies loses it. Flights of different users may exclude each other.
/// 5. No error and no `Debug` shows a token.
/// 6. A page of users is of one state. Whatever is committed between two pages, a listing shows
///    each user that is there all the while, and keeps its `created_commit`, exactly once.
///
/// `store::contract` (feature `testing`) holds a store to them, and has held the ones here.
///
/// For a store of your own, in a server that many machines share: a change of a kind that it does
/// not know is an error, and refuses the commit; [`validate`] refuses what no store accepts. A
/// refresh lock is best a [`Lease`] that is renewed while it is held, since nobody tells a server
/// that a machine has died. What [`is_sealed`](Self::is_sealed) answers decides whether tokens of
/// ended logins may be kept.
pub trait Store: Send + Sync + 'static {
    /// Returns the current user's id.
    fn current(&self, deadline: Deadline) -> Result<Option<UserId>, StoreError>;

    /// Returns the location that was remembered.
    fn location(&self, deadline: Deadline) -> Result<Option<String>, StoreError>;

    /// Returns a user's record, or `None` if there is none.
    fn user(&self, id: &UserId, deadline: Deadline) -> Result<Option<Arc<StoredUser>>, StoreError>;

    /// Returns the next records in the order of `created_commit`, and of `id` where that is the same:
    /// those after a place in that order, or the first ones. None means that there are no more.
    ///
    /// How many are returned at once is for the store to say, so that listing any number of users
    /// takes little memory and holds nobody up for long.
    fn users_after(
        &self,
        after: Option<(u64, &UserId)>,
        deadline: Deadline,
    ) -> Result<Vec<Arc<StoredUser>>, StoreError>;

    /// Returns all records, in the order of [`users_after`](Self::users_after), page by page, and
    /// all of them in memory: for tests, and where they are known to be few.
    fn users(&self, deadline: Deadline) -> Result<Vec<Arc<StoredUser>>, StoreError> {
        let mut listing = Listing::default();
        std::iter::from_fn(|| listing.next(self, || deadline)).collect()
    }

    /// Commits what `decide` returns; see the laws. Returns the newest commit's number.
    fn commit(&self, deadline: Deadline, decide: &mut Decide<'_>) -> Result<u64, StoreError>;

    /// Returns the events of the commits after `number`; `None` asks for the newest number alone.
    fn recent(&self, number: Option<u64>, deadline: Deadline) -> Result<RecentEvents, StoreError>;

    /// Tells whether what is stored is protected from whoever reads the disk, so that a token may
    /// be kept although nobody is logged in with it. Defaults to `false`.
    fn is_sealed(&self) -> bool {
        false
    }

    /// Returns how old a read may be, at most: the commits that were made before that are seen; see
    /// law 2. Defaults to zero.
    fn staleness(&self) -> Duration {
        Duration::ZERO
    }

    /// Returns how often the session asks for [recent](Self::recent) events while a program listens
    /// for them. Defaults to 100 ms.
    fn poll_interval(&self) -> Duration {
        Duration::from_millis(100)
    }

    /// Calls `notify` soon after commits of other processes, from any thread, until the returned
    /// value is dropped. `None`, the default, if the store cannot do that; then the session polls.
    ///
    /// `notify` returns at once. It may be called once for several commits, and without any.
    fn watch(&self, notify: Box<dyn Fn() + Send + Sync>) -> Option<Box<dyn Send>> {
        let _ = notify;
        None
    }

    /// Checks, at little cost, that a commit is likely to succeed: a commit has to be able to wait
    /// for the same locks, open the same files and find room on the disk.
    ///
    /// The session asks before it sends a refresh token that the backend may replace. Defaults to a
    /// commit without changes.
    fn check_writable(&self, deadline: Deadline) -> Result<(), StoreError> {
        self.commit(deadline, &mut |_| Ok(Vec::new())).map(drop)
    }

    /// Takes the user's refresh flight, waiting for it at most until the deadline; with a deadline
    /// that has passed it is tried once. `None` means that somebody else held it all the time.
    fn lock_refresh(
        &self,
        user: &UserId,
        deadline: Deadline,
    ) -> Result<Option<RefreshLock>, StoreError>;
}

impl StoredUser {
    /// Returns a new record of a user that is logged out and has nothing but its id.
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

    /// Tells whether the user has tokens here.
    pub fn is_logged_in(&self) -> bool {
        self.state == UserState::LoggedIn
            && self.access_token.is_some()
            && self.refresh_token.is_some()
    }
}

impl RefreshLock {
    /// Wraps a value that releases the lock when it is dropped, and holds it until then.
    pub fn new(hold: impl Send + 'static) -> Self {
        Self(Hold::UntilDropped(Box::new(hold)))
    }

    /// Wraps a value that releases the lock when it is dropped, and may lose it before.
    pub fn leased(lease: impl Lease + 'static) -> Self {
        Self(Hold::Leased(Box::new(lease)))
    }

    /// Returns `true` if the lock is still held. The session asks right before it sends a refresh
    /// request.
    pub fn is_held(&self) -> bool {
        match &self.0 {
            Hold::UntilDropped(_) => true,
            Hold::Leased(lease) => lease.is_held(),
        }
    }
}

impl fmt::Debug for StoredUser {
    /// Of fields that this version does not know only the names: they may hold tokens of a new
    /// kind.
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

/// Refuses changes that no store accepts, so that all stores refuse the same.
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
