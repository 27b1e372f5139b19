//! Stores in memory that do one thing in another way.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use keyfob::store::{Change, Decide, MemoryStore, RecentEvents, RefreshLock, Store, StoredUser};
use keyfob::{Deadline, Event, StoreError, StoreErrorKind, UserId};

/// What is done in another way: everything that is not implemented is passed on to the store.
pub trait StoreHooks: Send + Sync + 'static {
    fn current(&self, store: &dyn Store, deadline: Deadline) -> Result<Option<UserId>, StoreError> {
        store.current(deadline)
    }

    fn location(
        &self,
        store: &dyn Store,
        deadline: Deadline,
    ) -> Result<Option<String>, StoreError> {
        store.location(deadline)
    }

    fn user(
        &self,
        store: &dyn Store,
        id: &UserId,
        deadline: Deadline,
    ) -> Result<Option<Arc<StoredUser>>, StoreError> {
        store.user(id, deadline)
    }

    fn users_after(
        &self,
        store: &dyn Store,
        after: Option<(u64, &UserId)>,
        deadline: Deadline,
    ) -> Result<Vec<Arc<StoredUser>>, StoreError> {
        store.users_after(after, deadline)
    }

    fn commit(
        &self,
        store: &dyn Store,
        deadline: Deadline,
        decide: &mut Decide<'_>,
    ) -> Result<u64, StoreError> {
        store.commit(deadline, decide)
    }

    fn recent(
        &self,
        store: &dyn Store,
        number: Option<u64>,
        deadline: Deadline,
    ) -> Result<RecentEvents, StoreError> {
        store.recent(number, deadline)
    }

    fn is_encrypted(&self, store: &dyn Store) -> bool {
        store.is_encrypted()
    }

    fn staleness(&self, store: &dyn Store) -> Duration {
        store.staleness()
    }

    fn poll_interval(&self, store: &dyn Store) -> Duration {
        store.poll_interval()
    }

    fn watch(
        &self,
        store: &dyn Store,
        notify: Box<dyn Fn() + Send + Sync>,
    ) -> Option<Box<dyn Send>> {
        store.watch(notify)
    }

    fn lock_refresh(
        &self,
        store: &dyn Store,
        user: &UserId,
        deadline: Deadline,
    ) -> Result<Option<RefreshLock>, StoreError> {
        store.lock_refresh(user, deadline)
    }
}

/// A store in memory whose operations call hooks. Clones share the store.
#[derive(Clone, Default)]
pub struct HookedStore<T> {
    pub store: MemoryStore,
    pub hooks: T,
}

impl<T: StoreHooks> Store for HookedStore<T> {
    fn current(&self, deadline: Deadline) -> Result<Option<UserId>, StoreError> {
        self.hooks.current(&self.store, deadline)
    }

    fn location(&self, deadline: Deadline) -> Result<Option<String>, StoreError> {
        self.hooks.location(&self.store, deadline)
    }

    fn user(&self, id: &UserId, deadline: Deadline) -> Result<Option<Arc<StoredUser>>, StoreError> {
        self.hooks.user(&self.store, id, deadline)
    }

    fn users_after(
        &self,
        after: Option<(u64, &UserId)>,
        deadline: Deadline,
    ) -> Result<Vec<Arc<StoredUser>>, StoreError> {
        self.hooks.users_after(&self.store, after, deadline)
    }

    fn commit(&self, deadline: Deadline, decide: &mut Decide<'_>) -> Result<u64, StoreError> {
        self.hooks.commit(&self.store, deadline, decide)
    }

    fn recent(&self, number: Option<u64>, deadline: Deadline) -> Result<RecentEvents, StoreError> {
        self.hooks.recent(&self.store, number, deadline)
    }

    fn is_encrypted(&self) -> bool {
        self.hooks.is_encrypted(&self.store)
    }

    fn staleness(&self) -> Duration {
        self.hooks.staleness(&self.store)
    }

    fn poll_interval(&self) -> Duration {
        self.hooks.poll_interval(&self.store)
    }

    fn watch(&self, notify: Box<dyn Fn() + Send + Sync>) -> Option<Box<dyn Send>> {
        self.hooks.watch(&self.store, notify)
    }

    fn lock_refresh(
        &self,
        user: &UserId,
        deadline: Deadline,
    ) -> Result<Option<RefreshLock>, StoreError> {
        self.hooks.lock_refresh(&self.store, user, deadline)
    }
}

/// A store that can be made to say it is encrypted, and to be busy.
pub type FailingStore = HookedStore<InjectedFailures>;

#[derive(Clone, Default)]
pub struct InjectedFailures {
    is_encrypted: bool,
    is_busy: Arc<AtomicBool>,
}

impl FailingStore {
    /// Returns an empty store that says it is encrypted.
    pub fn encrypted() -> Self {
        let hooks = InjectedFailures { is_encrypted: true, ..InjectedFailures::default() };
        Self { hooks, ..Self::default() }
    }

    /// Lets commits fail from now on, or no longer.
    pub fn set_busy(&self, busy: bool) {
        self.hooks.is_busy.store(busy, Ordering::SeqCst);
    }
}

impl StoreHooks for InjectedFailures {
    fn commit(
        &self,
        store: &dyn Store,
        deadline: Deadline,
        decide: &mut Decide<'_>,
    ) -> Result<u64, StoreError> {
        if self.is_busy.load(Ordering::SeqCst) {
            return Err(StoreError::new(StoreErrorKind::Busy, "a test keeps it busy"));
        }
        store.commit(deadline, decide)
    }

    fn is_encrypted(&self, _: &dyn Store) -> bool {
        self.is_encrypted
    }
}

/// A store that records the events of each commit.
pub type EventRecorder = HookedStore<RecordedEvents>;

#[derive(Clone, Default)]
pub struct RecordedEvents(Arc<Mutex<Vec<Event>>>);

impl EventRecorder {
    /// Returns all events so far, in the order of the commits.
    pub fn recorded(&self) -> MutexGuard<'_, Vec<Event>> {
        self.hooks.0.lock().unwrap()
    }
}

impl StoreHooks for RecordedEvents {
    fn commit(
        &self,
        store: &dyn Store,
        deadline: Deadline,
        decide: &mut Decide<'_>,
    ) -> Result<u64, StoreError> {
        store.commit(deadline, &mut |tables| {
            let changes = decide(tables)?;
            let emitted = changes.iter().filter_map(|change| match change {
                Change::Emit(event) => Some(event.clone()),
                _ => None,
            });
            self.0.lock().unwrap().extend(emitted);
            Ok(changes)
        })
    }
}
