//! Reads, from memory while nothing has changed.

use std::sync::Arc;
use std::time::Duration;

use super::generation::{Generation, GenerationFile};
use super::sled_store::SledStore;
use super::snapshot::{LoadScope, Snapshot};
use super::view::View;
use super::writer::{WriteLock, Writer};
use crate::deadline::Deadline;
use crate::error::{StoreError, StoreErrorKind};
use crate::poll::Poller;
use crate::store::encryption::RecordCodec;

/// How often a reader retries at once, because a writer changed the files, before it sleeps.
const MAX_RETRIES: u32 = 100;

/// The result of one attempt to read the files.
enum ReadAttempt {
    /// The current state.
    Ready(Arc<View>),
    /// The files changed meanwhile: retry at once.
    Retry,
    /// A writer is active and there is no older state to return: retry later.
    Blocked(StoreError),
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
        let mut poll = Poller::until(deadline);
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
}

/// Returns `true` if the newest complete state may be returned although the files could not be
/// repaired.
fn allows_stale_read(kind: StoreErrorKind) -> bool {
    use StoreErrorKind::{Access, Forked, Full, Io};
    matches!(kind, Access | Forked | Full | Io)
}
