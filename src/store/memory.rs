//! A store in memory, for tests and for programs that store nothing on disk.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::ops::Bound;
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock, RwLockReadGuard};

use super::event_log::EventLog;
use super::fair_mutex::FairMutex;
use super::{Change, Decide, RecentEvents, RefreshLock, Store, StoreView, StoredUser, validate};
use crate::deadline::Deadline;
use crate::error::{StoreError, StoreErrorKind};
use crate::id::UserId;

/// How many users a page of a listing has.
const PAGE: usize = 256;

/// A store in memory, for tests and for programs that keep nothing. It is dropped with its last
/// clone; clones share everything. It fulfils the requirements of [`Store`], except that nothing survives the
/// process.
///
/// # Examples
///
/// ```
/// # #[cfg(feature = "server")]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let server = keyfob::server::Server::builder().built_in_functions().start()?;
/// use keyfob::store::MemoryStore;
/// use keyfob::{Credentials, Session};
///
/// let store = MemoryStore::new();
/// let open = || Session::builder(server.app_id(), server.base_url()).store(store.clone()).open();
/// let user = open()?.log_in(&Credentials::anonymous())?;
/// // Another session on the same store knows the same users.
/// assert_eq!(open()?.current_user()?, Some(user));
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "server"))]
/// # fn main() {}
/// ```
#[derive(Clone, Default)]
pub struct MemoryStore(Arc<Inner>);

#[derive(Default)]
struct Inner {
    writers: FairMutex,
    /// Written only while `writers` is locked and after the decision, so that readers never wait for
    /// a decision.
    state: RwLock<State>,
    refresh_locks: Arc<RefreshLocks>,
}

#[derive(Default)]
struct State {
    number: u64,
    current: Option<UserId>,
    location: Option<String>,
    users: BTreeMap<UserId, Arc<StoredUser>>,
    /// All users by `created_commit`.
    order: BTreeSet<(u64, UserId)>,
    events: EventLog,
}

/// The users whose refresh lock is held.
#[derive(Default)]
struct RefreshLocks {
    held: Mutex<HashSet<UserId>>,
    released: Condvar,
}

/// A user's refresh lock, released when it is dropped.
struct HeldLock {
    locks: Arc<RefreshLocks>,
    user: UserId,
}

impl MemoryStore {
    /// Creates an empty store.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Inner {
    fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for MemoryStore {
    fn current(&self, _: Deadline) -> Result<Option<UserId>, StoreError> {
        Ok(self.0.state().current.clone())
    }

    fn location(&self, _: Deadline) -> Result<Option<String>, StoreError> {
        Ok(self.0.state().location.clone())
    }

    fn user(&self, id: &UserId, _: Deadline) -> Result<Option<Arc<StoredUser>>, StoreError> {
        Ok(self.0.state().users.get(id).cloned())
    }

    fn users_after(
        &self,
        after: Option<(u64, &UserId)>,
        _: Deadline,
    ) -> Result<Vec<Arc<StoredUser>>, StoreError> {
        let after = after.map(|(created, id)| (created, id.clone()));
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let state = self.0.state();
        let page = state.order.range((from, Bound::Unbounded)).take(PAGE);
        Ok(page.filter_map(|(_, id)| state.users.get(id).cloned()).collect())
    }

    fn commit(&self, deadline: Deadline, decide: &mut Decide<'_>) -> Result<u64, StoreError> {
        let Some(_guard) = self.0.writers.enter(deadline) else {
            let reason = "another thread was committing until the deadline, try again later";
            return Err(StoreError::new(StoreErrorKind::Busy, reason));
        };
        let changes = decide(&*self.0)?;
        validate(&changes)?;
        let mut state = self.0.state.write().unwrap_or_else(PoisonError::into_inner);
        if !changes.is_empty() {
            state.apply(changes);
        }
        Ok(state.number)
    }

    fn recent(&self, number: Option<u64>, _: Deadline) -> Result<RecentEvents, StoreError> {
        let state = self.0.state();
        Ok(state.events.after(number, state.number))
    }

    fn lock_refresh(
        &self,
        user: &UserId,
        deadline: Deadline,
    ) -> Result<Option<RefreshLock>, StoreError> {
        let locks = &self.0.refresh_locks;
        let mut held = locks.held.lock().unwrap_or_else(PoisonError::into_inner);
        while held.contains(user) {
            let wait = deadline.poll_interval();
            if wait.is_zero() {
                return Ok(None);
            }
            let waited = locks.released.wait_timeout(held, wait);
            held = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        held.insert(user.clone());
        drop(held);
        Ok(Some(RefreshLock::new(HeldLock { locks: Arc::clone(locks), user: user.clone() })))
    }
}

impl StoreView for Inner {
    fn number(&self) -> u64 {
        self.state().number + 1
    }

    fn current(&self) -> Option<UserId> {
        self.state().current.clone()
    }

    fn location(&self) -> Option<String> {
        self.state().location.clone()
    }

    fn user(&self, id: &UserId) -> Result<Option<Arc<StoredUser>>, StoreError> {
        Ok(self.state().users.get(id).cloned())
    }

    fn last_used(
        &self,
        wanted: &dyn Fn(&StoredUser) -> bool,
    ) -> Result<Option<Arc<StoredUser>>, StoreError> {
        let state = self.state();
        let users = state.users.values().filter(|user| user.is_logged_in() && wanted(user));
        Ok(users.max_by_key(|user| (user.last_used_commit, &user.id)).cloned())
    }
}

impl State {
    fn apply(&mut self, changes: Vec<Change>) {
        self.number += 1;
        let mut events = Vec::new();
        for change in changes {
            match change {
                Change::Current(user) => self.current = user,
                Change::Location(location) => self.location = location,
                Change::Put(user) => {
                    self.remove(&user.id);
                    self.order.insert((user.created_commit, user.id.clone()));
                    self.users.insert(user.id.clone(), Arc::new(*user));
                }
                Change::Remove(user) => self.remove(&user),
                Change::Emit(event) => events.push(event),
            }
        }
        self.events.push_in_memory(self.number, &events);
    }

    fn remove(&mut self, user: &UserId) {
        if let Some(user) = self.users.remove(user) {
            self.order.remove(&(user.created_commit, user.id.clone()));
        }
    }
}

impl Drop for HeldLock {
    fn drop(&mut self) {
        let mut held = self.locks.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.remove(&self.user);
        // Notify all: a single notification could wake a thread that waits for another user.
        self.locks.released.notify_all();
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.0.state();
        f.debug_struct("MemoryStore")
            .field("number", &state.number)
            .field("users", &state.users.len())
            .finish_non_exhaustive()
    }
}
