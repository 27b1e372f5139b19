//! Reading: what the store says now, from memory while nothing has changed.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::SledStore;
use super::generation::{Generation, GenerationFile};
use super::lock::Backoff;
use super::snapshot::{LoadScope, Snapshot};
use super::writer::{WriteLock, Writer};
use crate::deadline::Deadline;
use crate::error::{StoreError, StoreErrorKind};
use crate::id::UserId;
use crate::store::StoredUser;
use crate::store::encryption::RecordCodec;

/// How often a reader looks again at once because a writer was faster, before it waits.
const TURNS: u32 = 100;
/// How many users from outside the snapshot are remembered.
const FOUND: usize = 1024;

type Found = HashMap<UserId, Option<Arc<StoredUser>>>;

/// What was read last, and how to tell that it is still so.
#[derive(Debug)]
pub(super) struct View {
    /// Kept open; none as long as the store is empty.
    file: Option<Arc<GenerationFile>>,
    /// What the file said before the snapshot was read: never newer than the snapshot.
    seen: Generation,
    snapshot: Arc<Snapshot>,
    /// Users that the snapshot had no room for.
    found: Mutex<Found>,
}

/// What one look at the files came to.
enum ReadAttempt {
    /// This is how it is.
    Is(Arc<View>),
    /// Look again at once: it changed meanwhile.
    Changed,
    /// Look again when the writer has got somewhere; there is nothing to go by until then.
    Wait(StoreError),
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
        Self { file, seen, snapshot, found: Mutex::default() }
    }

    pub(super) fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// Returns what is known of a user: its record or that there is none; `None` if that is in the
    /// rest of the snapshot, if not all of it was read, or in the database.
    pub(super) fn user(&self, id: &UserId) -> Option<Result<Option<Arc<StoredUser>>, StoreError>> {
        match self.snapshot.user(id) {
            Ok(None) if !self.snapshot.complete || !self.snapshot.has(LoadScope::Full) => {
                self.found().get(id).cloned().map(Ok)
            }
            known => Some(known),
        }
    }

    /// Remembers what the database said, which holds as long as this view does.
    pub(super) fn remember(&self, id: &UserId, user: Option<Arc<StoredUser>>) {
        let mut found = self.found();
        if found.len() < FOUND {
            found.insert(id.clone(), user);
        }
    }

    fn found(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells whether nothing has changed since: one positioned read, and once a second a look at
    /// the name of the file and at which process this is.
    fn is_current(&self) -> bool {
        let Some(file) = &self.file else { return false };
        self.seen.is_clean()
            && file.was_in_place()
            && matches!(file.read(), Ok(Some(said)) if said == self.seen)
    }

    /// Returns the snapshot, if it belongs to this very file.
    pub(super) fn snapshot_of(&self, file: &GenerationFile) -> Option<Arc<Snapshot>> {
        self.is_of(file).then(|| Arc::clone(&self.snapshot))
    }

    fn is_of(&self, file: &GenerationFile) -> bool {
        self.file.as_ref().is_some_and(|own| own.is_same(file))
    }
}

impl SledStore {
    /// Returns what the store says now, as much of it as is asked for.
    pub(super) fn view(
        &self,
        part: LoadScope,
        deadline: Deadline,
    ) -> Result<Arc<View>, StoreError> {
        let view = self.remembered();
        if view.snapshot.has(part) && view.is_current() {
            return Ok(view);
        }
        self.check_process()?;
        let mut backoff = Backoff::until(deadline);
        let mut turns = 0;
        loop {
            let error = match self.look(part, deadline)? {
                ReadAttempt::Is(view) => return Ok(view),
                ReadAttempt::Changed if turns < TURNS => {
                    turns += 1;
                    continue;
                }
                ReadAttempt::Changed => self.busy("others kept writing"),
                ReadAttempt::Wait(error) => error,
            };
            if !backoff.wait() {
                return Err(error);
            }
        }
    }

    /// Returns what was read last.
    pub(super) fn remembered(&self) -> Arc<View> {
        Arc::clone(&self.view.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Remembers a view, unless a newer one of the same store is remembered already, and returns
    /// the one that is remembered then.
    pub(super) fn install(&self, view: View) -> Arc<View> {
        let mut slot = self.view.write().unwrap_or_else(PoisonError::into_inner);
        let age = |view: &View| {
            (view.snapshot.generation, view.seen.count, view.snapshot.has(LoadScope::Full))
        };
        // Views of different files cannot be compared: the last one to look is right.
        // Whoever found nothing may have looked before somebody made the store.
        let (newer, is_another) = match (&slot.file, &view.file) {
            (Some(_), Some(file)) if slot.is_of(file) => (age(&view) > age(&slot), false),
            (Some(before), None) if before.is_in_place() => (false, false),
            (before, _) => (true, before.is_some()),
        };
        if newer {
            *slot = Arc::new(view);
        }
        if is_another {
            self.lives.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(file) = &slot.file {
            self.shared.note(file, slot.snapshot.generation);
        }
        Arc::clone(&slot)
    }

    fn look(&self, part: LoadScope, deadline: Deadline) -> Result<ReadAttempt, StoreError> {
        let memory = self.remembered();
        let file = match &memory.file {
            Some(file) if file.is_in_place() => Some(Arc::clone(file)),
            _ => GenerationFile::open(&self.files.generation())?.map(Arc::new),
        };
        let Some(file) = file else {
            return if self.files.is_fresh()? {
                Ok(ReadAttempt::Is(self.install(View::nothing())))
            } else if self.files.generation().exists() {
                Ok(ReadAttempt::Changed)
            } else {
                self.repair(None)
            };
        };
        // Another process may have created the store, and the key with it, since this one was opened.
        self.load_key(false, deadline)?;
        let said = file.read()?;
        let remembered = memory.snapshot_of(&file);
        let end_write = said.filter(|said| said.is_clean());
        if let Some(seen) = end_write {
            let enough =
                |snapshot: &Arc<Snapshot>| snapshot.generation >= seen.count && snapshot.has(part);
            let (snapshot, foreign) = match remembered.filter(enough) {
                None => self.load_own(part)?,
                enough => (enough, None),
            };
            // One that is to be sealed is in the clear until then, which is no trouble.
            let foreign = foreign.filter(|_| !self.converts);
            // The generation was read before the snapshot, so what came in between is noticed at
            // the next look.
            if let Some(snapshot) = snapshot.filter(enough) {
                return Ok(ReadAttempt::Is(self.install(View::new(Some(file), seen, snapshot))));
            }
            // The database says whether the key is wrong, or the snapshot.
            return match self.repair(Some((&file, said))) {
                Err(error) if allows_stale_read(error.kind) => Err(foreign.unwrap_or(error)),
                Ok(ReadAttempt::Wait(error)) => Ok(ReadAttempt::Wait(foreign.unwrap_or(error))),
                look => look,
            };
        }
        // Somebody writes, or died writing.
        match self.repair(Some((&file, said))) {
            Ok(ReadAttempt::Wait(error)) => {
                self.read_without_repair(file, said, remembered, part, error)
            }
            Err(error) if allows_stale_read(error.kind) => {
                self.read_without_repair(file, said, remembered, part, error)
            }
            look => look,
        }
    }

    /// Returns the newest whole state while a writer is at work, or while it cannot be repaired:
    /// the one in memory, unless the file has a newer one.
    fn read_without_repair(
        &self,
        file: Arc<GenerationFile>,
        said: Option<Generation>,
        remembered: Option<Arc<Snapshot>>,
        part: LoadScope,
        error: StoreError,
    ) -> Result<ReadAttempt, StoreError> {
        let count = said.map_or(u64::MAX, |said| said.count);
        let remembered = remembered.filter(|snapshot| snapshot.has(part));
        // A writer that is nearly done may have published a newer one, which counts from when it
        // was first read.
        let seen = self.shared.seen(&file);
        let is_newest = |snapshot: &Arc<Snapshot>| {
            snapshot.generation.saturating_add(1) >= count && snapshot.generation >= seen
        };
        let newest = match remembered {
            Some(snapshot) if is_newest(&snapshot) => Some(snapshot),
            older => {
                let (own, foreign) = self.load_own(part)?;
                if let Some(foreign) = foreign.filter(|_| !self.converts) {
                    // It was sealed meanwhile, or made anew: what is in memory is over.
                    return Ok(ReadAttempt::Wait(foreign));
                }
                let both = older.into_iter().chain(own);
                let newest = both.max_by_key(|snapshot| snapshot.generation);
                // None at all rather than one from before what was read already.
                newest.filter(|snapshot| snapshot.generation >= seen)
            }
        };
        let nothing_yet = said.is_some_and(Generation::is_first);
        let newest =
            newest.or_else(|| nothing_yet.then(|| Snapshot::empty(RecordCodec::default()).into()));
        Ok(match newest {
            Some(snapshot) => {
                let seen = said.unwrap_or(Generation { count: 1, database: 0 });
                ReadAttempt::Is(self.install(View::new(Some(file), seen, snapshot)))
            }
            None => ReadAttempt::Wait(error),
        })
    }

    /// Repairs what the files have come to, if nobody else holds the lock and nothing has changed
    /// since the generation was read.
    fn repair(
        &self,
        read: Option<(&GenerationFile, Option<Generation>)>,
    ) -> Result<ReadAttempt, StoreError> {
        let now = Deadline::after(Duration::ZERO);
        let hold = match WriteLock::take(self, now) {
            Err(error) if error.kind == StoreErrorKind::Busy => {
                return Ok(ReadAttempt::Wait(error));
            }
            hold => hold?,
        };
        let unchanged = match read {
            Some((file, said)) => file.is_in_place() && file.read()? == said,
            None => !self.files.generation().exists(),
        };
        if !unchanged {
            return Ok(ReadAttempt::Changed);
        }
        match Writer::recover(hold, now) {
            Err(error) if error.kind == StoreErrorKind::Busy => Ok(ReadAttempt::Wait(error)),
            Err(error) => Err(error),
            Ok(writer) => Ok(ReadAttempt::Is(self.install(writer.view()))),
        }
    }

    /// Reads the snapshot, if it is sealed as this store was opened; else why it cannot be read.
    pub(super) fn load_own(
        &self,
        part: LoadScope,
    ) -> Result<(Option<Arc<Snapshot>>, Option<StoreError>), StoreError> {
        match Snapshot::load(&self.files.snapshot(), &self.app, &self.secrecy, part) {
            Err(error) if error.kind == StoreErrorKind::Key => Ok((None, Some(error))),
            loaded => Ok((loaded?.map(Arc::new), None)),
        }
    }

    /// Says what kept the store busy.
    pub(super) fn busy(&self, what: &str) -> StoreError {
        let reason = format!("{what} until the time was up, try again later");
        StoreError::new(StoreErrorKind::Busy, reason).at(self.files.dir())
    }
}

/// Tells whether a whole state may be read although it cannot be repaired.
fn allows_stale_read(kind: StoreErrorKind) -> bool {
    use StoreErrorKind::{Access, Forked, Full, Io};
    matches!(kind, Access | Forked | Full | Io)
}
