//! Reads, from memory while nothing has changed.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::SledStore;
use super::generation::{Generation, GenerationFile};
use super::snapshot::{LoadScope, Snapshot};
use super::writer::{WriteLock, Writer};
use crate::deadline::Deadline;
use crate::error::{StoreError, StoreErrorKind};
use crate::id::UserId;
use crate::poll::Poll;
use crate::store::StoredUser;
use crate::store::encryption::RecordCodec;

/// How often a reader retries at once, because a writer changed the files, before it sleeps.
const MAX_RETRIES: u32 = 100;
/// The largest number of users in a [`UserCache`].
const MAX_CACHED_USERS: usize = 1024;

/// Users that the snapshot has no room for.
type UserCache = HashMap<UserId, Option<Arc<StoredUser>>>;

/// The state that was read last, and how to check that it is current.
#[derive(Debug)]
pub(super) struct View {
    /// The open file; `None` while the store is empty.
    file: Option<Arc<GenerationFile>>,
    /// The generation, read before the snapshot and therefore never newer.
    seen: Generation,
    snapshot: Arc<Snapshot>,
    /// Users from the database, as long as this view is current.
    users: Mutex<UserCache>,
}

/// The result of one attempt to read the files.
enum ReadAttempt {
    /// The current state.
    Ready(Arc<View>),
    /// The files changed meanwhile: retry at once.
    Retry,
    /// A writer is active and there is no older state to return: retry later.
    Blocked(StoreError),
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

    pub(super) fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
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
    fn is_current(&self) -> bool {
        let Some(file) = &self.file else { return false };
        self.seen.is_clean()
            && file.was_in_place()
            && matches!(file.read(), Ok(Some(stored)) if stored == self.seen)
    }

    /// Returns the snapshot, if it belongs to this file.
    pub(super) fn snapshot_of(&self, file: &GenerationFile) -> Option<Arc<Snapshot>> {
        self.is_of(file).then(|| Arc::clone(&self.snapshot))
    }

    fn is_of(&self, file: &GenerationFile) -> bool {
        self.file.as_ref().is_some_and(|own| own.is_same(file))
    }
}

impl SledStore {
    /// Returns the current state, at least as far as `scope`.
    pub(super) fn view(
        &self,
        scope: LoadScope,
        deadline: Deadline,
    ) -> Result<Arc<View>, StoreError> {
        let view = self.remembered();
        if view.snapshot.has(scope) && view.is_current() {
            return Ok(view);
        }
        self.check_process()?;
        let mut poll = Poll::until(deadline);
        let mut retries = 0;
        loop {
            let error = match self.attempt(scope, deadline)? {
                ReadAttempt::Ready(view) => return Ok(view),
                ReadAttempt::Retry if retries < MAX_RETRIES => {
                    retries += 1;
                    continue;
                }
                ReadAttempt::Retry => self.busy("others kept writing"),
                ReadAttempt::Blocked(error) => error,
            };
            if !poll.wait() {
                return Err(error);
            }
        }
    }

    /// Returns the view that was read last.
    pub(super) fn remembered(&self) -> Arc<View> {
        Arc::clone(&self.view.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Stores a view, unless a newer one of the same store is stored already, and returns the stored
    /// one.
    pub(super) fn install(&self, view: View) -> Arc<View> {
        if view.snapshot.number > 0 {
            self.encryption.decide(&view.snapshot.codec);
        }
        let mut slot = self.view.write().unwrap_or_else(PoisonError::into_inner);
        let age = |view: &View| {
            (view.snapshot.generation, view.seen.count, view.snapshot.has(LoadScope::Full))
        };
        // Views of different files cannot be compared: the latest reader is right. But a reader that
        // saw no store may have run before another process created it.
        let (newer, is_another) = match (&slot.file, &view.file) {
            (Some(_), Some(file)) if slot.is_of(file) => (age(&view) > age(&slot), false),
            (Some(before), None) if before.is_in_place() => (false, false),
            (before, _) => (true, before.is_some()),
        };
        if newer {
            *slot = Arc::new(view);
        }
        if is_another {
            self.instances.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(file) = &slot.file {
            self.shared.note(file, slot.snapshot.generation);
        }
        Arc::clone(&slot)
    }

    /// Reads the files once, and repairs them if needed.
    fn attempt(&self, scope: LoadScope, deadline: Deadline) -> Result<ReadAttempt, StoreError> {
        let memory = self.remembered();
        let file = match &memory.file {
            Some(file) if file.is_in_place() => Some(Arc::clone(file)),
            _ => GenerationFile::open(&self.files.generation())?.map(Arc::new),
        };
        let Some(file) = file else {
            return if self.files.is_fresh()? {
                Ok(ReadAttempt::Ready(self.install(View::nothing())))
            } else if self.files.generation().exists() {
                Ok(ReadAttempt::Retry)
            } else {
                self.repair(None, deadline)
            };
        };
        // Another process may have created the store, and the key with it, since this one was opened.
        self.load_key(false, deadline)?;
        let stored = file.read()?;
        let remembered = memory.snapshot_of(&file);
        let end_write = stored.filter(|stored| stored.is_clean());
        if let Some(seen) = end_write {
            let enough =
                |snapshot: &Arc<Snapshot>| snapshot.generation >= seen.count && snapshot.has(scope);
            let (snapshot, key_error) = match remembered.filter(enough) {
                None => self.load_own(scope)?,
                enough => (enough, None),
            };
            // The generation was read before the snapshot, so the next attempt notices a commit in
            // between.
            if let Some(snapshot) = snapshot.filter(enough) {
                return Ok(ReadAttempt::Ready(self.install(View::new(Some(file), seen, snapshot))));
            }
            // The database decides whether the key or the snapshot is wrong.
            return match self.repair(Some((&file, stored)), deadline) {
                Err(error) if allows_stale_read(error.kind) => Err(key_error.unwrap_or(error)),
                Ok(ReadAttempt::Blocked(error)) => {
                    Ok(ReadAttempt::Blocked(key_error.unwrap_or(error)))
                }
                look => look,
            };
        }
        // A writer is active, or crashed during a commit.
        match self.repair(Some((&file, stored)), deadline) {
            Ok(ReadAttempt::Blocked(error)) => {
                self.read_without_repair(file, stored, remembered, scope, error)
            }
            Err(error) if allows_stale_read(error.kind) => {
                self.read_without_repair(file, stored, remembered, scope, error)
            }
            look => look,
        }
    }

    /// Returns the newest complete state while a writer is active, or while the files cannot be
    /// repaired: the one in memory, unless the file has a newer one.
    fn read_without_repair(
        &self,
        file: Arc<GenerationFile>,
        stored: Option<Generation>,
        remembered: Option<Arc<Snapshot>>,
        scope: LoadScope,
        error: StoreError,
    ) -> Result<ReadAttempt, StoreError> {
        let count = stored.map_or(u64::MAX, |stored| stored.count);
        let remembered = remembered.filter(|snapshot| snapshot.has(scope));
        // A writer may already have published its snapshot. Once one reader of this process has
        // returned it, the others must not return an older one.
        let seen = self.shared.seen(&file);
        let is_newest = |snapshot: &Arc<Snapshot>| {
            snapshot.generation.saturating_add(1) >= count && snapshot.generation >= seen
        };
        let newest = match remembered {
            Some(snapshot) if is_newest(&snapshot) => Some(snapshot),
            older => {
                let (own, key_error) = self.load_own(scope)?;
                if let Some(key_error) = key_error {
                    // The store was encrypted or replaced meanwhile: the view in memory is outdated.
                    return Ok(ReadAttempt::Blocked(key_error));
                }
                let both = older.into_iter().chain(own);
                let newest = both.max_by_key(|snapshot| snapshot.generation);
                // Rather none than one older than what was already read.
                newest.filter(|snapshot| snapshot.generation >= seen)
            }
        };
        let nothing_yet = stored.is_some_and(Generation::is_first);
        let newest =
            newest.or_else(|| nothing_yet.then(|| Snapshot::empty(RecordCodec::default()).into()));
        Ok(match newest {
            Some(snapshot) => {
                let seen = stored.unwrap_or(Generation { count: 1, database: 0 });
                ReadAttempt::Ready(self.install(View::new(Some(file), seen, snapshot)))
            }
            None => ReadAttempt::Blocked(error),
        })
    }

    /// Recovers the store, if the lock is free and the generation has not changed since it was
    /// read. Waits only for the key, at most until the deadline.
    fn repair(
        &self,
        read: Option<(&GenerationFile, Option<Generation>)>,
        deadline: Deadline,
    ) -> Result<ReadAttempt, StoreError> {
        let now = Deadline::after(Duration::ZERO);
        let lock = match WriteLock::acquire(self, now) {
            Err(error) if error.kind == StoreErrorKind::Busy => {
                return Ok(ReadAttempt::Blocked(error));
            }
            lock => lock?,
        };
        let unchanged = match read {
            Some((file, stored)) => file.is_in_place() && file.read()? == stored,
            None => !self.files.generation().exists(),
        };
        if !unchanged {
            return Ok(ReadAttempt::Retry);
        }
        self.load_key(true, deadline)?;
        match Writer::recover(lock, now) {
            Err(error) if error.kind == StoreErrorKind::Busy => Ok(ReadAttempt::Blocked(error)),
            Err(error) => Err(error),
            Ok(writer) => Ok(ReadAttempt::Ready(self.install(writer.view()))),
        }
    }

    /// Loads the snapshot if it is encrypted in the way this store was opened, and otherwise returns
    /// the error.
    pub(super) fn load_own(
        &self,
        scope: LoadScope,
    ) -> Result<(Option<Arc<Snapshot>>, Option<StoreError>), StoreError> {
        match Snapshot::load(&self.files.snapshot(), &self.app, &self.encryption, scope) {
            Err(error) if error.kind == StoreErrorKind::Key => Ok((None, Some(error))),
            loaded => Ok((loaded?.map(Arc::new), None)),
        }
    }

    /// Returns the error for a deadline that passed while the store was in use.
    pub(super) fn busy(&self, what: &str) -> StoreError {
        let reason = format!("{what} until the deadline, try again later");
        StoreError::new(StoreErrorKind::Busy, reason).at(self.files.dir())
    }
}

/// Returns `true` if the newest complete state may be returned although the files could not be
/// repaired.
fn allows_stale_read(kind: StoreErrorKind) -> bool {
    use StoreErrorKind::{Access, Forked, Full, Io};
    matches!(kind, Access | Forked | Full | Io)
}
