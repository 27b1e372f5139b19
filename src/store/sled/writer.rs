//! Writing: the commit, and the order that makes it survive a kill and a power cut at any point.
//!
//! 1. The gate of the process, then the file `lock`.
//! 2. The database is opened and the store settled; see [`recovery`](super::recovery).
//! 3. The decision.
//! 4. The next snapshot is written beside the one in use.
//! 5. The generation becomes odd, on disk: who reads it odd lets the writer work, or repairs.
//! 6. The database is written and synced: now the commit has happened. If nothing of a removed
//!    token may stay on disk, a new database is made, and it happens when the generation names it.
//! 7. The next snapshot takes the place of the old one, and an old database is removed.
//! 8. The generation becomes even. The database is closed, the locks are given back.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::SledStore;
use super::database::{CommitHeader, Database, SortKeys, UserEdit};
use super::generation::{Generation, GenerationFile};
use super::layout::{failed, next};
use super::lock::FileLock;
use super::reader::View;
use super::snapshot::Snapshot;
use crate::deadline::Deadline;
use crate::error::{StoreError, StoreErrorKind};
use crate::fs::{remove_dir_all, rename};
use crate::id::UserId;
use crate::owner::Owner;
use crate::store::encryption::RecordCodec;
use crate::store::fair_mutex::FairMutexGuard;
use crate::store::record::{decode, encode};
use crate::store::{Change, Decide, StoreView, StoredUser, validate};

/// How many bytes of records are listed before others get a turn at the database. To open it again
/// costs more with each user that there is: 10,000 users are read in about as long as it takes.
const PAGE: usize = 4 * 1024 * 1024;

/// The right to write: nobody else has it, in this process or another.
pub(super) struct WriteLock<'a> {
    pub(super) store: &'a SledStore,
    /// To whom files are given, if that is not the user of this process.
    pub(super) owner: Option<Owner>,
    // In this order: the lock is given back before the gate opens.
    _lock: FileLock,
    _pass: FairMutexGuard<'a>,
}

/// A writer whose store is settled: database, snapshot and generation agree.
pub(super) struct Writer<'a> {
    /// None while a damaged database has not been replaced.
    pub(super) open: Option<Open>,
    /// The newest whole snapshot; there is one once the store is settled.
    pub(super) known: Option<Arc<Snapshot>>,
    /// Why the snapshot cannot be read, if it is sealed in another way than the store was opened.
    pub(super) foreign: Option<StoreError>,
    pub(super) file: Arc<GenerationFile>,
    /// What the generation says.
    pub(super) place: Generation,
    pub(super) deadline: Deadline,
    /// Whether it went on with what the snapshot held.
    pub(super) recovered: bool,
    // Last, so that the database is closed before the locks are given back.
    pub(super) hold: WriteLock<'a>,
}

/// An open database, and what its newest commit left.
pub(super) struct Open {
    pub(super) database: Database,
    pub(super) head: CommitHeader,
}

/// What a commit or a repair is going to leave.
pub(super) struct CommitPlan {
    pub(super) head: CommitHeader,
    pub(super) edits: Vec<UserEdit>,
    pub(super) snapshot: Snapshot,
    /// Whether it goes into a new database.
    pub(super) anew: bool,
}

/// The state that a decision sees.
struct CommitView<'a> {
    open: &'a Open,
}

impl<'a> WriteLock<'a> {
    /// Waits for the right to write at most until the deadline; with one that has passed it is
    /// tried once.
    pub(super) fn take(store: &'a SledStore, deadline: Deadline) -> Result<Self, StoreError> {
        let Some(pass) = store.shared.gate.enter(deadline) else {
            return Err(store.busy("another thread of this process was writing"));
        };
        store.files.create_dir()?;
        match FileLock::take_in_turn(&store.files.lock(), &store.files.turn(), deadline)? {
            Some(lock) => {
                let (dir, find) = (store.files.dir(), "write to the data directory");
                let owner = Owner::find(dir).map_err(|error| failed(find, dir, error))?;
                Ok(Self { store, owner, _lock: lock, _pass: pass })
            }
            None => Err(store.busy("another process held the lock on the data directory")),
        }
    }
}

impl<'a> Writer<'a> {
    /// Takes the locks, opens the database, and repairs what there is to repair.
    pub(super) fn open(store: &'a SledStore, deadline: Deadline) -> Result<Self, StoreError> {
        Self::recover(WriteLock::take(store, deadline)?, deadline)
    }

    /// Returns what there is to read now.
    pub(super) fn view(&self) -> View {
        let nothing = || Snapshot::empty(RecordCodec::default()).into();
        let snapshot = self.known.clone().unwrap_or_else(nothing);
        View::new(Some(Arc::clone(&self.file)), self.place, snapshot)
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

    /// Does something with the database; if it turns out to be damaged meanwhile, once more with
    /// the one that takes its place, if one may.
    fn retry_after_recovery<T>(
        &mut self,
        mut work: impl FnMut(&mut Self) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.recovered = false;
        match work(self) {
            Err(error) if self.is_damaged() => self.quarantine(error)?,
            Err(_) if self.recovered => {}
            done => return done,
        }
        self.recovered = false;
        work(self)
    }

    /// Returns what the changes come to; `None` if there are none.
    fn plan(&self, changes: Vec<Change>) -> Result<Option<CommitPlan>, StoreError> {
        if changes.is_empty() {
            return Ok(None);
        }
        let store = self.hold.store;
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
        let mut anew = false;
        for (id, user) in users {
            let before = newest.user(&id)?;
            anew |= before.as_ref().is_some_and(|before| removes_tokens(before, user.as_deref()));
            let encode = |user: Box<StoredUser>| {
                let record = encode(&user).map_err(|error| error.at(store.files.dir()))?;
                Ok((SortKeys::of(&user), record))
            };
            let before = before.as_deref().map(SortKeys::of);
            edits.push(UserEdit { id, before, after: user.map(encode).transpose()? });
        }
        let codec = open.database.codec();
        let mut snapshot =
            self.known.as_deref().cloned().unwrap_or_else(|| Snapshot::empty(codec.clone()));
        for edit in &edits {
            snapshot.edit(edit)?;
        }
        snapshot.current.clone_from(&head.current);
        snapshot.location.clone_from(&head.location);
        if edits.iter().all(|edit| Some(&edit.id) != head.current.as_ref()) {
            snapshot.take_current(&open.database)?;
        }
        snapshot.evict_to_limit();
        snapshot.ring.push(head.number, &events);
        Ok(Some(CommitPlan { head, edits, snapshot, anew: anew && codec.is_plaintext() }))
    }

    /// Makes a plan come true, in the order described above. After an error it may have happened
    /// nevertheless, or half of it, to be repaired.
    pub(super) fn publish(&mut self, plan: CommitPlan) -> Result<(), StoreError> {
        let CommitPlan { mut head, edits, mut snapshot, anew } = plan;
        let store = self.hold.store;
        let old = self.place.database;
        let new = if anew { store.files.free_number(old)? } else { old };
        let mut working = self.place.begin_write();
        let count = working.end_write().count;
        head.generation = count;
        snapshot.generation = count;
        snapshot.number = head.number;
        snapshot.database = new;
        let codec = snapshot.codec.clone();
        store.files.write_next_snapshot(&snapshot.encode(&store.app)?)?;
        self.file.write(working, true)?;
        if anew {
            let database = self.make_database(new, &head, &edits, codec)?;
            working.database = new;
            self.file.write(working, true)?;
            self.open = Some(Open { database, head });
        } else {
            let open = self.open.as_mut().ok_or_else(closed)?;
            open.database.write(&head, &edits)?;
            open.database.sync()?;
            open.head = head;
        }
        // It has happened. What fails from here on is no error: the generation stays odd, and the
        // next one who reads it repairs.
        self.place = working.end_write();
        self.known = Some(Arc::new(snapshot));
        let renamed = rename(&store.files.next_snapshot(), &store.files.snapshot());
        // What may not stay on disk is in there.
        let removed = !anew || store.files.remove_database(old).is_ok();
        if renamed.is_ok() && removed {
            let _ = self.file.write(self.place, false);
        }
        Ok(())
    }

    /// Makes a database with what the old one has, if there is one, and the edits.
    fn make_database(
        &self,
        number: u64,
        head: &CommitHeader,
        edits: &[UserEdit],
        codec: RecordCodec,
    ) -> Result<Database, StoreError> {
        let store = self.hold.store;
        let path = store.files.database(number);
        let make = || {
            let mut database = Database::open(&path, self.hold.owner, self.deadline)?;
            database.begin(&store.app, codec)?;
            if let Some(old) = &self.open {
                old.database.copy_to(&database, edits)?;
            }
            database.write(head, edits)?;
            database.sync()?;
            store.files.sync()?;
            Ok(database)
        };
        make().inspect_err(|_| {
            let _ = remove_dir_all(&path);
        })
    }

    /// Finds out whether a commit has happened although it failed: what is in the database when
    /// it is opened again will stay.
    fn check_commit_applied(&mut self, number: u64, error: StoreError) -> Result<u64, StoreError> {
        let untouched = matches!(self.file.read(), Ok(Some(said)) if said == self.place);
        if untouched || self.is_damaged() {
            return Err(error);
        }
        // Closed, because a full disk sticks to it; and it takes room to open it again.
        self.open = None;
        self.hold.store.files.discard_next_snapshot();
        let end_write = self.recover_again();
        match &self.open {
            // It may have the same number, of the recovery's own commit.
            _ if self.recovered => Err(error),
            Some(open) if open.head.number == number => {
                if end_write.is_err() {
                    // It could not be published, but this process knows it from here on.
                    open.database.sync()?;
                    self.known = Some(self.take_snapshot(open)?);
                }
                Ok(number)
            }
            _ => Err(error),
        }
    }

    fn take_snapshot(&self, open: &Open) -> Result<Arc<Snapshot>, StoreError> {
        Snapshot::take(&open.database, self.place.database, &open.head).map(Arc::new)
    }

    pub(super) fn is_damaged(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.database.damage().is_some())
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

/// Tells whether tokens, or a whole user, go away for good.
fn removes_tokens(before: &StoredUser, after: Option<&StoredUser>) -> bool {
    after.is_none_or(|after| {
        before.access_token.is_some() && after.access_token.is_none()
            || before.refresh_token.is_some() && after.refresh_token.is_none()
    })
}

/// Not to be seen: a writer without a database is not used.
fn closed() -> StoreError {
    StoreError::new(StoreErrorKind::Io, "the database is closed")
}
