//! The state that was read last, kept in memory.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::generation::{Generation, GenerationFile};
use super::snapshot::{LoadScope, Snapshot};
use crate::error::StoreError;
use crate::id::UserId;
use crate::store::StoredUser;
use crate::store::encryption::RecordCodec;

/// The largest number of users in a [`UserCache`].
const MAX_CACHED_USERS: usize = 1024;

/// Users that the snapshot has no room for.
type UserCache = HashMap<UserId, Option<Arc<StoredUser>>>;

/// The state that was read last, and how to check that it is current.
#[derive(Debug)]
pub(super) struct View {
    /// The open file; `None` while the store is empty.
    pub(super) file: Option<Arc<GenerationFile>>,
    /// The generation, read before the snapshot and therefore never newer.
    pub(super) seen: Generation,
    pub(super) snapshot: Arc<Snapshot>,
    /// Users from the database, as long as this view is current.
    users: Mutex<UserCache>,
}

impl View {
    /// Returns the view of an empty directory.
    pub(super) fn nothing() -> Self {
        let snapshot = Snapshot::empty(RecordCodec::default());
        Self::new(None, Generation::default(), Arc::new(snapshot))
    }

    pub(super) fn new(
        file: Option<Arc<GenerationFile>>,
        seen: Generation,
        snapshot: Arc<Snapshot>,
    ) -> Self {
        Self { file, seen, snapshot, users: Mutex::default() }
    }

    /// Returns a user, or that it does not exist. `None` if that can only be read from the rest of
    /// the snapshot, if only its header was loaded, or from the database.
    pub(super) fn user(&self, id: &UserId) -> Option<Result<Option<Arc<StoredUser>>, StoreError>> {
        match self.snapshot.user(id) {
            Ok(None) if !self.snapshot.complete || !self.snapshot.has(LoadScope::Full) => {
                self.users().get(id).cloned().map(Ok)
            }
            cached => Some(cached),
        }
    }

    /// Caches a user from the database.
    pub(super) fn remember(&self, id: &UserId, user: Option<Arc<StoredUser>>) {
        let mut users = self.users();
        if users.len() < MAX_CACHED_USERS {
            users.insert(id.clone(), user);
        }
    }

    fn users(&self) -> MutexGuard<'_, UserCache> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns `true` if nothing has changed since. Costs one positioned read, and once a second a
    /// check of the file's name and of the process.
    pub(super) fn is_current(&self) -> bool {
        let Some(file) = &self.file else { return false };
        self.seen.is_clean()
            && file.was_in_place()
            && matches!(file.read(), Ok(Some(stored)) if stored == self.seen)
    }

    /// Returns the snapshot, if it belongs to this file.
    pub(super) fn snapshot_of(&self, file: &GenerationFile) -> Option<Arc<Snapshot>> {
        self.is_of(file).then(|| Arc::clone(&self.snapshot))
    }

    pub(super) fn is_of(&self, file: &GenerationFile) -> bool {
        self.file.as_ref().is_some_and(|own| own.is_same(file))
    }
}
