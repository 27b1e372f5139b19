//! A store that misbehaves on request.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use keyfob::store::{Decide, Flight, MemoryStore, Recent, Store, StoredUser};
use keyfob::{Deadline, StoreError, StoreErrorKind, UserId};

/// A store in memory that can be made to say it is sealed, and to be busy. Clones share everything.
#[derive(Clone, Default)]
pub struct Awkward {
    inner: MemoryStore,
    is_sealed: bool,
    is_busy: Arc<AtomicBool>,
}

impl Awkward {
    /// Returns an empty store that says it is sealed.
    pub fn sealed() -> Self {
        Self { is_sealed: true, ..Self::default() }
    }

    /// Lets commits fail from now on, or no longer.
    pub fn be_busy(&self, busy: bool) {
        self.is_busy.store(busy, Ordering::SeqCst);
    }
}

impl Store for Awkward {
    fn current(&self, deadline: Deadline) -> Result<Option<UserId>, StoreError> {
        self.inner.current(deadline)
    }

    fn location(&self, deadline: Deadline) -> Result<Option<String>, StoreError> {
        self.inner.location(deadline)
    }

    fn user(&self, id: &UserId, deadline: Deadline) -> Result<Option<Arc<StoredUser>>, StoreError> {
        self.inner.user(id, deadline)
    }

    fn users(&self, deadline: Deadline) -> Result<Vec<Arc<StoredUser>>, StoreError> {
        self.inner.users(deadline)
    }

    fn commit(&self, deadline: Deadline, decide: &mut Decide<'_>) -> Result<u64, StoreError> {
        if self.is_busy.load(Ordering::SeqCst) {
            return Err(StoreError::new(StoreErrorKind::Busy, "a test keeps it busy"));
        }
        self.inner.commit(deadline, decide)
    }

    fn recent(&self, number: Option<u64>, deadline: Deadline) -> Result<Recent, StoreError> {
        self.inner.recent(number, deadline)
    }

    fn is_sealed(&self) -> bool {
        self.is_sealed
    }

    fn refresh_flight(
        &self,
        user: &UserId,
        deadline: Deadline,
    ) -> Result<Option<Flight>, StoreError> {
        self.inner.refresh_flight(user, deadline)
    }
}
