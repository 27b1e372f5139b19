//! Stores in memory that do one thing in another way.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use keyfob::store::{Change, Decide, Flight, MemoryStore, Recent, Store, StoredUser};
use keyfob::{Deadline, Event, StoreError, StoreErrorKind, UserId};

/// What is done in another way: everything that is not implemented is passed on to the store.
pub trait Twist: Send + Sync + 'static {
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
    ) -> Result<Recent, StoreError> {
        store.recent(number, deadline)
    }

    fn is_sealed(&self, store: &dyn Store) -> bool {
        store.is_sealed()
    }

    fn refresh_flight(
        &self,
        store: &dyn Store,
        user: &UserId,
        deadline: Deadline,
    ) -> Result<Option<Flight>, StoreError> {
        store.refresh_flight(user, deadline)
    }
}

/// A store in memory with a twist. Clones share the store.
#[derive(Clone, Default)]
pub struct Twisted<T> {
    pub store: MemoryStore,
    pub twist: T,
}

impl<T: Twist> Store for Twisted<T> {
    fn current(&self, deadline: Deadline) -> Result<Option<UserId>, StoreError> {
        self.twist.current(&self.store, deadline)
    }

    fn location(&self, deadline: Deadline) -> Result<Option<String>, StoreError> {
        self.twist.location(&self.store, deadline)
    }

    fn user(&self, id: &UserId, deadline: Deadline) -> Result<Option<Arc<StoredUser>>, StoreError> {
        self.twist.user(&self.store, id, deadline)
    }

    fn users_after(
        &self,
        after: Option<(u64, &UserId)>,
        deadline: Deadline,
    ) -> Result<Vec<Arc<StoredUser>>, StoreError> {
        self.twist.users_after(&self.store, after, deadline)
    }

    fn commit(&self, deadline: Deadline, decide: &mut Decide<'_>) -> Result<u64, StoreError> {
        self.twist.commit(&self.store, deadline, decide)
    }

    fn recent(&self, number: Option<u64>, deadline: Deadline) -> Result<Recent, StoreError> {
        self.twist.recent(&self.store, number, deadline)
    }

    fn is_sealed(&self) -> bool {
        self.twist.is_sealed(&self.store)
    }

    fn refresh_flight(
        &self,
        user: &UserId,
        deadline: Deadline,
    ) -> Result<Option<Flight>, StoreError> {
        self.twist.refresh_flight(&self.store, user, deadline)
    }
}

/// A store that can be made to say it is sealed, and to be busy.
pub type Awkward = Twisted<Awkwardness>;

#[derive(Clone, Default)]
pub struct Awkwardness {
    is_sealed: bool,
    is_busy: Arc<AtomicBool>,
}

impl Awkward {
    /// Returns an empty store that says it is sealed.
    pub fn sealed() -> Self {
        let twist = Awkwardness { is_sealed: true, ..Awkwardness::default() };
        Self { twist, ..Self::default() }
    }

    /// Lets commits fail from now on, or no longer.
    pub fn be_busy(&self, busy: bool) {
        self.twist.is_busy.store(busy, Ordering::SeqCst);
    }
}

impl Twist for Awkwardness {
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

    fn is_sealed(&self, _: &dyn Store) -> bool {
        self.is_sealed
    }
}

/// A store that writes down what each commit told.
pub type Recorder = Twisted<Told>;

#[derive(Clone, Default)]
pub struct Told(Arc<Mutex<Vec<Event>>>);

impl Recorder {
    /// Returns all events so far, in the order of the commits.
    pub fn told(&self) -> MutexGuard<'_, Vec<Event>> {
        self.twist.0.lock().unwrap()
    }
}

impl Twist for Told {
    fn commit(
        &self,
        store: &dyn Store,
        deadline: Deadline,
        decide: &mut Decide<'_>,
    ) -> Result<u64, StoreError> {
        store.commit(deadline, &mut |tables| {
            let changes = decide(tables)?;
            let told = changes.iter().filter_map(|change| match change {
                Change::Tell(event) => Some(event.clone()),
                _ => None,
            });
            self.0.lock().unwrap().extend(told);
            Ok(changes)
        })
    }
}
