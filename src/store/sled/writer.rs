//! Commits. The order of their steps makes them survive a kill or a power cut at any point.
//!
//! 1. Lock the mutex of the process, then the file `lock`.
//! 2. Open the database, and recover from a crash; see [`recovery`](super::recovery).
//! 3. Call the decision.
//! 4. Write the next snapshot to `snapshot.tmp`.
//! 5. Make the generation odd, and sync it. A reader that finds it odd waits or recovers.
//! 6. Write and sync the database. This is the commit point. If a token is removed and the store is
//!    not encrypted, create a new database without it instead. Then the commit point is when the
//!    generation names that database.
//! 7. Rename `snapshot.tmp` to `snapshot`, and remove an old database.
//! 8. Make the generation even. Close the database and release the locks.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::database::Database;
use super::generation::{Generation, GenerationFile};
use super::layout::next;
use super::lock::FileLock;
use super::schema::{CommitHeader, SortKeys, UserEdit};
use super::sled_store::SledStore;
use super::snapshot::Snapshot;
use super::view::View;
use crate::deadline::Deadline;
use crate::error::{StoreError, StoreErrorKind, failed};
use crate::fs::{remove_dir_all, rename};
use crate::id::UserId;
use crate::owner::Owner;
#[cfg(feature = "encryption")]
use crate::store::encryption::EncryptionMode;
use crate::store::encryption::RecordCodec;
use crate::store::fair_mutex::FairMutexGuard;
use crate::store::record::{decode, encode};
use crate::store::{Change, Decide, StoreView, StoredUser, validate};

/// How many bytes of records a page of a listing has, before other writers can lock the store.
/// Opening the database for the next page takes about as long as reading 10,000 users.
const PAGE: usize = 4 * 1024 * 1024;

/// The exclusive right to write, in this process and among processes.
pub(super) struct WriteLock<'a> {
    pub(super) store: &'a SledStore,
    /// The owner of new files, if that is not the user of this process.
    pub(super) owner: Option<Owner>,
    // Dropped in this order: the file is unlocked before the mutex.
    _file: FileLock,
    _guard: FairMutexGuard<'a>,
}

/// A writer, after recovery: database, snapshot and generation are consistent.
pub(super) struct Writer<'a> {
    /// `None` while a damaged database has not been replaced.
    pub(super) open: Option<Open>,
    /// The newest complete snapshot; `Some` after recovery.
    pub(super) latest: Option<Arc<Snapshot>>,
    /// Why the snapshot cannot be read, if it is encrypted in another way than the store was opened.
    pub(super) key_error: Option<StoreError>,
    pub(super) file: Arc<GenerationFile>,
    /// The content of the generation file.
    pub(super) generation: Generation,
    pub(super) deadline: Deadline,
    /// Whether a damaged database was replaced by the users of the snapshot.
    pub(super) recovered: bool,
    // Last, so that the database is closed before the locks are released.
    pub(super) lock: WriteLock<'a>,
}

/// An open database and the header of its newest commit.
pub(super) struct Open {
    pub(super) database: Database,
    pub(super) head: CommitHeader,
}

/// The state after a commit or a repair, before it is written.
pub(super) struct CommitPlan {
    pub(super) head: CommitHeader,
    pub(super) edits: Vec<UserEdit>,
    pub(super) snapshot: Snapshot,
    /// Whether it is written to a new database.
    pub(super) new_database: bool,
}

/// The [`StoreView`] that a decision gets.
struct CommitView<'a> {
    open: &'a Open,
}

impl<'a> WriteLock<'a> {
    /// Waits for the locks until the deadline. With a deadline that has passed this tries once.
    pub(super) fn acquire(store: &'a SledStore, deadline: Deadline) -> Result<Self, StoreError> {
        let Some(guard) = store.shared.writers.enter(deadline) else {
            return Err(store.busy("another thread of this process was writing"));
        };
        store.files.create_dir()?;
        match FileLock::acquire_in_turn(&store.files.lock(), &store.files.turn(), deadline)? {
            Some(lock) => {
                let (dir, find) = (store.files.dir(), "write to the data directory");
                let owner = Owner::find(dir).map_err(|error| failed(find, dir, error))?;
                Ok(Self { store, owner, _file: lock, _guard: guard })
            }
            None => Err(store.busy("another process held the lock on the data directory")),
        }
    }
}

impl<'a> Writer<'a> {
    /// Acquires the locks, opens the database, and recovers.
    pub(super) fn open(store: &'a SledStore, deadline: Deadline) -> Result<Self, StoreError> {
        let lock = WriteLock::acquire(store, deadline)?;
        store.load_key(true, deadline)?;
        Self::recover(lock, deadline)
    }

    /// Returns the current state for readers.
    pub(super) fn view(&self) -> View {
        let nothing = || Snapshot::empty(RecordCodec::default()).into();
        let snapshot = self.latest.clone().unwrap_or_else(nothing);
        View::new(Some(Arc::clone(&self.file)), self.generation, snapshot)
    }

    /// Returns a user, from the database.
    pub(super) fn user(&mut self, id: &UserId) -> Result<Option<Arc<StoredUser>>, StoreError> {
        self.retry_after_recovery(|writer| writer.newest()?.user(id))
    }

    /// Returns the next users by `created_commit`, from the database.
    pub(super) fn users_after(
        &mut self,
        after: Option<(u64, &UserId)>,
    ) -> Result<Vec<Arc<StoredUser>>, StoreError> {
        self.retry_after_recovery(|writer| writer.newest()?.users_after(after))
    }

    /// Commits what `decide` returns, and returns the number of the newest commit.
    pub(super) fn commit(&mut self, decide: &mut Decide<'_>) -> Result<u64, StoreError> {
        self.retry_after_recovery(|writer| {
            let changes = decide(&writer.newest()?)?;
            validate(&changes)?;
            let Some(plan) = writer.plan(changes)? else {
                return Ok(writer.opened()?.head.number);
            };
            let number = plan.head.number;
            match writer.publish(plan) {
                Ok(()) => Ok(number),
                Err(error) => writer.check_commit_applied(number, error),
            }
        })
    }

    /// Encrypts the unencrypted store: copies it into a new database, and removes the old one.
    #[cfg(feature = "encryption")]
    pub(super) fn encrypt(&mut self, mode: &EncryptionMode) -> Result<(), StoreError> {
        self.retry_after_recovery(|writer| {
            let (head, edits) = (writer.opened()?.head.clone(), Vec::new());
            let mut snapshot = writer.latest.as_deref().ok_or_else(closed)?.clone();
            snapshot.codec = mode.begin(&writer.lock.store.app)?;
            writer.publish(CommitPlan { head, edits, snapshot, new_database: true })
        })
    }

    /// Runs an operation on the database. If the database turns out to be damaged and may be
    /// replaced, runs it once more on the new one.
    fn retry_after_recovery<T>(
        &mut self,
        mut operation: impl FnMut(&mut Self) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.recovered = false;
        match operation(self) {
            Err(error) if self.is_damaged() => self.quarantine(error)?,
            Err(_) if self.recovered => {}
            done => return done,
        }
        self.recovered = false;
        operation(self)
    }

    /// Returns the state after the changes; `None` if there are none.
    fn plan(&self, changes: Vec<Change>) -> Result<Option<CommitPlan>, StoreError> {
        if changes.is_empty() {
            return Ok(None);
        }
        let store = self.lock.store;
        let open = self.opened()?;
        let mut head = open.head.clone();
        head.number = next(head.number).map_err(|error| error.at(store.files.dir()))?;
        let mut users = BTreeMap::new();
        let mut events = Vec::new();
        for change in changes {
            match change {
                Change::Current(user) => head.current = user,
                Change::Location(location) => head.location = location,
                Change::Put(user) => {
                    users.insert(user.id.clone(), Some(user));
                }
                Change::Remove(id) => {
                    users.insert(id, None);
                }
                Change::Emit(event) => events.push(event),
            }
        }
        let newest = self.newest()?;
        let mut edits = Vec::new();
        let mut new_database = false;
        for (id, user) in users {
            let before = newest.user(&id)?;
            new_database |=
                before.as_ref().is_some_and(|before| removes_tokens(before, user.as_deref()));
            let encode = |user: Box<StoredUser>| {
                let record = encode(&user).map_err(|error| error.at(store.files.dir()))?;
                Ok((SortKeys::of(&user), record))
            };
            let before = before.as_deref().map(SortKeys::of);
            edits.push(UserEdit { id, before, after: user.map(encode).transpose()? });
        }
        let codec = open.database.codec();
        let mut snapshot =
            self.latest.as_deref().cloned().unwrap_or_else(|| Snapshot::empty(codec.clone()));
        for edit in &edits {
            snapshot.edit(edit)?;
        }
        snapshot.current.clone_from(&head.current);
        snapshot.location.clone_from(&head.location);
        if edits.iter().all(|edit| Some(&edit.id) != head.current.as_ref()) {
            snapshot.add_current(&open.database)?;
        }
        snapshot.evict_to_limit();
        snapshot.events.push(head.number, &events);
        Ok(Some(CommitPlan {
            head,
            edits,
            snapshot,
            new_database: new_database && codec.is_plaintext(),
        }))
    }

    /// Writes a plan, in the order described above.
    ///
    /// # Errors
    /// The commit may have happened nevertheless, or recovery has to complete or discard it.
    pub(super) fn publish(&mut self, plan: CommitPlan) -> Result<(), StoreError> {
        let CommitPlan { mut head, edits, mut snapshot, new_database } = plan;
        let store = self.lock.store;
        let old = self.generation.database;
        let new = if new_database { store.files.free_number(old)? } else { old };
        let mut working = self.generation.begin_write();
        let count = working.end_write().count;
        head.generation = count;
        snapshot.generation = count;
        snapshot.number = head.number;
        snapshot.database = new;
        let codec = snapshot.codec.clone();
        store.files.write_next_snapshot(&snapshot.encode(&store.app)?)?;
        self.file.write(working, true)?;
        if new_database {
            let database = self.create_database(new, &head, &edits, codec)?;
            working.database = new;
            self.file.write(working, true)?;
            self.open = Some(Open { database, head });
        } else {
            let open = self.open.as_mut().ok_or_else(closed)?;
            open.database.write(&head, &edits)?;
            open.database.sync()?;
            open.head = head;
        }
        // The commit has happened. A failure from here on is not an error: the generation stays odd,
        // and the next reader or writer recovers.
        self.generation = working.end_write();
        self.latest = Some(Arc::new(snapshot));
        let renamed = rename(&store.files.next_snapshot(), &store.files.snapshot());
        // It contains the tokens that must be removed.
        let removed = !new_database || store.files.remove_database(old).is_ok();
        if renamed.is_ok() && removed {
            let _ = self.file.write(self.generation, false);
        }
        Ok(())
    }

    /// Creates a database with the content of the old one, if any, and the edits.
    fn create_database(
        &self,
        number: u64,
        head: &CommitHeader,
        edits: &[UserEdit],
        codec: RecordCodec,
    ) -> Result<Database, StoreError> {
        let store = self.lock.store;
        let path = store.files.database(number);
        let create = || {
            let mut database = Database::open(&path, self.lock.owner, self.deadline)?;
            database.begin(&store.app, codec)?;
            if let Some(old) = &self.open {
                old.database.copy_to(&database, edits)?;
            }
            database.write(head, edits)?;
            database.sync()?;
            store.files.sync()?;
            Ok(database)
        };
        create().inspect_err(|_| {
            let _ = remove_dir_all(&path);
        })
    }

    /// Finds out whether a commit that failed has happened nevertheless: the database is opened
    /// again, and its content is durable.
    fn check_commit_applied(&mut self, number: u64, error: StoreError) -> Result<u64, StoreError> {
        let untouched = matches!(self.file.read(), Ok(Some(said)) if said == self.generation);
        if untouched || self.is_damaged() {
            return Err(error);
        }
        // Close it, because sled does not recover from a full disk, and free room to open it again.
        self.open = None;
        self.lock.store.files.discard_next_snapshot();
        let end_write = self.recover_again();
        match &self.open {
            // The commit of the recovery may have the same number.
            _ if self.recovered => Err(error),
            Some(open) if open.head.number == number => {
                if end_write.is_err() {
                    // The snapshot could not be published, but this process can use the commit.
                    open.database.sync()?;
                    self.latest = Some(self.build_snapshot(open)?);
                }
                Ok(number)
            }
            _ => Err(error),
        }
    }

    fn build_snapshot(&self, open: &Open) -> Result<Arc<Snapshot>, StoreError> {
        Snapshot::build_from(&open.database, self.generation.database, &open.head).map(Arc::new)
    }

    pub(super) fn is_damaged(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.database.is_damaged())
    }

    fn opened(&self) -> Result<&Open, StoreError> {
        self.open.as_ref().ok_or_else(closed)
    }

    fn newest(&self) -> Result<CommitView<'_>, StoreError> {
        Ok(CommitView { open: self.opened()? })
    }
}

impl CommitView<'_> {
    fn decode(&self, record: &[u8]) -> Result<Arc<StoredUser>, StoreError> {
        let user = decode(record);
        user.map(Arc::new).map_err(|error| error.at(self.open.database.path()))
    }

    fn users_after(
        &self,
        after: Option<(u64, &UserId)>,
    ) -> Result<Vec<Arc<StoredUser>>, StoreError> {
        let mut users = Vec::new();
        let mut bytes = 0;
        self.open.database.each_by_created(after, &mut |_, record| {
            users.push(self.decode(&record)?);
            bytes += record.len();
            Ok(if bytes < PAGE { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        })?;
        Ok(users)
    }
}

impl StoreView for CommitView<'_> {
    fn number(&self) -> u64 {
        self.open.head.number.saturating_add(1)
    }

    fn current(&self) -> Option<UserId> {
        self.open.head.current.clone()
    }

    fn location(&self) -> Option<String> {
        self.open.head.location.clone()
    }

    fn user(&self, id: &UserId) -> Result<Option<Arc<StoredUser>>, StoreError> {
        let record = self.open.database.record(id)?;
        record.map(|record| self.decode(&record)).transpose()
    }

    fn last_used(
        &self,
        wanted: &dyn Fn(&StoredUser) -> bool,
    ) -> Result<Option<Arc<StoredUser>>, StoreError> {
        let mut found = None;
        self.open.database.each_by_use(&mut |id| {
            found = self.user(&id)?.filter(|user| user.is_logged_in() && wanted(user));
            Ok(match found {
                Some(_) => ControlFlow::Break(()),
                None => ControlFlow::Continue(()),
            })
        })?;
        Ok(found)
    }
}

/// Returns `true` if a change removes a token or a user.
fn removes_tokens(before: &StoredUser, after: Option<&StoredUser>) -> bool {
    after.is_none_or(|after| {
        before.access_token.is_some() && after.access_token.is_none()
            || before.refresh_token.is_some() && after.refresh_token.is_none()
    })
}

/// The error for a database that is not open, which is not reachable.
fn closed() -> StoreError {
    StoreError::new(StoreErrorKind::Io, "the database is closed")
}
