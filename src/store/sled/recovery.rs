//! Crash recovery: before each write, make the database, the snapshot and the generation file
//! consistent.
//!
//! Recovery finds the current database, verifies that it is not truncated, completes the commit of a
//! writer that crashed, and removes its leftovers. A damaged database is renamed, and [`OnDamage`]
//! decides what happens next.

use std::path::Path;
use std::sync::Arc;

use super::database::Database;
use super::generation::{Generation, GenerationFile};
use super::schema::CommitHeader;
use super::sled_store::{OnDamage, SledStore};
use super::snapshot::{LoadScope, Snapshot};
use super::snapshot_file::check_app;
use super::writer::{CommitPlan, Open, WriteLock, Writer};
use crate::deadline::Deadline;
use crate::diagnostics::note;
use crate::error::{StoreError, StoreErrorKind, failed};
use crate::event::Event;
use crate::fs::remove_dir_all;
use crate::private::sync_dir;
use crate::store::event_log::EventLog;

/// How far a generation that replaces a lost one is above all that readers may have seen.
const JUMP: u64 = 1 << 20;

/// What is known before the database is opened.
struct StoreProbe {
    file: GenerationFile,
    generation: Generation,
    /// The newest complete snapshot.
    latest: Option<Arc<Snapshot>>,
    /// Why it cannot be read, if it is encrypted in another way than the store was opened.
    key_error: Option<StoreError>,
}

impl<'a> Writer<'a> {
    /// Recovers the store. The caller has already looked for the key.
    pub(super) fn recover(lock: WriteLock<'a>, deadline: Deadline) -> Result<Self, StoreError> {
        let StoreProbe { file, generation, latest, key_error } = StoreProbe::new(&lock, deadline)?;
        let file = Arc::new(file);
        let recovered = false;
        let mut writer =
            Self { open: None, latest, key_error, file, generation, deadline, recovered, lock };
        writer.open_database()?;
        Ok(writer)
    }

    /// Recovers the store from its files alone. The database must be closed.
    pub(super) fn recover_again(&mut self) -> Result<(), StoreError> {
        let StoreProbe { file, generation, latest, key_error } =
            StoreProbe::new(&self.lock, self.deadline)?;
        (self.file, self.generation) = (Arc::new(file), generation);
        (self.latest, self.key_error) = (latest, key_error);
        self.open_database()
    }

    fn open_database(&mut self) -> Result<(), StoreError> {
        match self.open_and_repair() {
            Err(error) if error.kind == StoreErrorKind::Damaged => self.quarantine(error),
            done => done,
        }
    }

    fn open_and_repair(&mut self) -> Result<(), StoreError> {
        let store = self.lock.store;
        let generation = self.generation;
        let open = self.open.insert(open(&self.lock, generation, self.deadline)?);
        let head = &open.head;
        self.key_error = None;
        // Drop the snapshot of another store at this path.
        self.latest =
            self.latest.take().filter(|latest| latest.codec.is_same(open.database.codec()));
        verify_not_truncated(head, generation, self.latest.as_deref())
            .map_err(|why| damaged(&open.database, &why))?;
        open.database.mark_verified();
        store.files.remove_stale(generation.database);
        let agreed = self.latest.as_ref().is_some_and(|latest| {
            generation.is_clean()
                && (latest.generation, head.generation) == (generation.count, generation.count)
                && (latest.number, latest.database) == (head.number, generation.database)
        });
        if agreed && !self.latest.as_ref().is_some_and(|latest| latest.has_spare_room()) {
            return Ok(());
        }
        let mut snapshot = Snapshot::build_from(&open.database, generation.database, head)
            .map_err(|error| error.at(open.database.path()))?;
        let mut seen = head.generation;
        if let Some(latest) = &self.latest {
            seen = seen.max(latest.generation);
            if latest.number == head.number {
                snapshot.events = latest.events.clone();
            }
        }
        if agreed {
            self.latest = Some(Arc::new(snapshot));
            return Ok(());
        }
        if !generation.is_clean() {
            note!(
                warn,
                "recovering from a crash during a commit in {}",
                store.files.dir().display()
            );
        }
        let (head, edits) = (head.clone(), Vec::new());
        self.generation.count = generation.count.max(seen);
        self.publish(CommitPlan { head, edits, snapshot, new_database: false })
    }

    /// Renames a damaged database, and creates a new one from the snapshot if [`OnDamage`] allows
    /// it.
    ///
    /// # Errors
    /// `error`, with the name of the damaged database, if it does not.
    pub(super) fn quarantine(&mut self, error: StoreError) -> Result<(), StoreError> {
        // Close it first.
        self.open = None;
        let store = self.lock.store;
        // With the wrong key nothing is changed: with the right one the snapshot can be used.
        if let Some(key_error) = &self.key_error {
            return Err(key_error.clone().because(error));
        }
        let latest = match self.latest.as_deref() {
            Some(latest) => latest.clone(),
            None => Snapshot::empty(store.encryption.begin(&store.app)?),
        };
        let number = self.generation.database;
        let kept = store.files.quarantine(number)?;
        let mut path = kept.clone().unwrap_or_else(|| store.files.database(number));
        note!(error, "the database of the store is damaged or missing: {}", path.display());
        if store.on_damage == OnDamage::Refuse {
            let what = if kept.is_some() {
                "the database is damaged and kept under this name"
            } else {
                "the database is missing"
            };
            let reason = format!(
                "{what}, open the store with OnDamage::Recover to go on with the users in its \
                 snapshot"
            );
            return Err(StoreError::new(StoreErrorKind::Damaged, reason).at(path).because(error));
        }
        if kept.is_none() {
            // The generation may name the wrong one, and recovery removes all others.
            for other in store.files.databases()? {
                path = store.files.quarantine(other)?.unwrap_or(path);
            }
        }
        // If the snapshot is not the newest one, the generation limits how many commits there were:
        // each commit increases it by two.
        let up_to_date = |latest: &&Arc<Snapshot>| {
            latest.generation.saturating_add(u64::from(!self.generation.is_clean()))
                >= self.generation.count
        };
        let current = self.latest.as_ref().filter(up_to_date).is_some();
        let mut snapshot = latest;
        if !current {
            snapshot.number = snapshot.number.max(self.generation.count.div_ceil(2));
            snapshot.events = EventLog::since(snapshot.number);
        }
        snapshot.number = snapshot.number.saturating_add(1);
        snapshot.complete = true;
        let kept = path.to_string_lossy().into_owned();
        snapshot.events.push(snapshot.number, &[Event::StoreDamaged { kept }]);
        self.generation.count = self.generation.count.max(snapshot.generation);
        let head = snapshot.commit_header();
        let edits = snapshot.edits()?;
        self.publish(CommitPlan { head, edits, snapshot, new_database: true })?;
        self.recovered = true;
        Ok(())
    }
}

impl StoreProbe {
    fn new(lock: &WriteLock<'_>, deadline: Deadline) -> Result<Self, StoreError> {
        let store = lock.store;
        let files = &store.files;
        let file = GenerationFile::open_to_write(&files.generation(), lock.owner)?;
        let said = match &file {
            Some(file) => file.read()?,
            None => None,
        };
        let memory = store.remembered();
        let memory = file
            .as_ref()
            .and_then(|file| memory.snapshot_of(file))
            .filter(|memory| memory.has(LoadScope::Full));
        let enough = |memory: &Arc<Snapshot>| {
            said.is_some_and(|said| said.is_clean() && memory.generation >= said.count)
        };
        let (latest, key_error) = match memory {
            Some(memory) if enough(&memory) => (Some(memory), None),
            older => {
                let (own, key_error) = store.load_own(LoadScope::Full)?;
                let both = older.into_iter().chain(own);
                (both.max_by_key(|snapshot| snapshot.generation), key_error)
            }
        };
        match (file, said) {
            (Some(file), Some(generation)) => {
                // The writer may have crashed before it synced the file. Sync it before anything is
                // created or removed because of it.
                if !generation.is_clean() {
                    file.write(generation, true)?;
                }
                Ok(Self { file, generation, latest, key_error })
            }
            _ if files.is_fresh()? => {
                let generation = Generation { count: 1, database: 0 };
                let file = GenerationFile::create(&files.generation(), generation)?;
                Ok(Self { file, generation, latest: None, key_error: None })
            }
            _ => Self::without_generation(lock, latest, key_error, deadline),
        }
    }

    /// Finds the current database although the generation file is lost. It is the one with the
    /// highest number that was finished, because leftovers of a crash are removed before the next
    /// commit.
    fn without_generation(
        lock: &WriteLock<'_>,
        latest: Option<Arc<Snapshot>>,
        key_error: Option<StoreError>,
        deadline: Deadline,
    ) -> Result<Self, StoreError> {
        let files = &lock.store.files;
        let mut seen = latest.as_ref().map_or(0, |latest| latest.generation);
        let mut truth = None;
        let mut damaged = Vec::new();
        for number in files.databases()? {
            let open = Database::open(&files.database(number), lock.owner, deadline);
            match open.and_then(|database| database.head()) {
                Ok(Some(head)) => {
                    seen = seen.max(head.generation);
                    truth = Some(number);
                    break;
                }
                Ok(None) => {}
                Err(error) if error.kind == StoreErrorKind::Damaged => damaged.push(number),
                Err(error) => return Err(error),
            }
        }
        let last = latest.as_ref().map(|latest| latest.database);
        let database = truth.or(damaged.first().copied()).or(last).unwrap_or_default();
        for number in damaged {
            if number != database {
                files.quarantine(number)?;
            }
        }
        let count = seen.saturating_add(JUMP) | 1;
        let generation = Generation { count, database };
        let file = GenerationFile::create(&files.generation(), generation)?;
        files.sync()?;
        Ok(Self { file, generation, latest, key_error })
    }
}

/// Opens the database that the generation names, or creates the first one.
fn open(
    lock: &WriteLock<'_>,
    generation: Generation,
    deadline: Deadline,
) -> Result<Open, StoreError> {
    let store = lock.store;
    let path = store.files.database(generation.database);
    let first = generation.is_first();
    let is_there = path.join("db").try_exists();
    if !first && !is_there.map_err(|error| failed("look for the database", &path, error))? {
        return Err(missing(&path));
    }
    let opened = Database::open(&path, lock.owner, deadline);
    let opened = opened.and_then(|database| Ok((database.head()?, database)));
    let (head, mut database) = match opened {
        // Nothing was ever committed: these are leftovers of a crash during the first commit.
        Err(StoreError { kind: StoreErrorKind::Access | StoreErrorKind::Damaged, .. }) if first => {
            let _ = remove_dir_all(&path);
            (None, Database::open(&path, lock.owner, deadline)?)
        }
        opened => opened?,
    };
    let mut head = match head {
        // Nothing was ever committed, so the encryption can still change.
        _ if first && head.as_ref().is_none_or(|head| head.number == 0) => {
            begin(store, &mut database)?
        }
        Some(head) => head,
        None => return Err(damaged(&database, "it has lost everything")),
    };
    if first {
        // This includes names from a crashed writer, which no later commit syncs.
        store.files.sync()?;
        if let Some(parent) = store.files.dir().parent() {
            // Best effort: a process that may not read it cannot sync it.
            let _ = sync_dir(parent);
        }
    }
    match database.app()? {
        Some(app) => check_app(&app, &store.app, &path)?,
        None => return Err(damaged(&database, "it does not name its app")),
    }
    database.unlock(&store.encryption, &store.app)?;
    let codec = database.codec();
    head.location = head.location.take().and_then(|kept| codec.decrypt_location(kept));
    Ok(Open { database, head })
}

/// Initialises an empty database.
fn begin(store: &SledStore, database: &mut Database) -> Result<CommitHeader, StoreError> {
    database.begin(&store.app, store.encryption.begin(&store.app)?)?;
    let head = CommitHeader::first();
    database.write(&head, &[])?;
    database.sync()?;
    Ok(head)
}

/// Checks that a database has the commit of the snapshot and the generation of the file. sled opens
/// a truncated database without an error.
///
/// # Errors
/// What is missing.
fn verify_not_truncated(
    head: &CommitHeader,
    generation: Generation,
    latest: Option<&Snapshot>,
) -> Result<(), String> {
    let newest = latest.map_or(0, |latest| latest.number);
    if newest > head.number {
        return Err(format!("it ends at commit {} of {newest}", head.number));
    }
    if generation.is_clean() && head.generation < generation.count {
        return Err(format!("it ends at generation {} of {}", head.generation, generation.count));
    }
    Ok(())
}

/// Marks an open database as damaged, and returns the error.
fn damaged(database: &Database, why: &str) -> StoreError {
    database.mark_damaged(why);
    StoreError::new(StoreErrorKind::Damaged, why.to_owned()).at(database.path())
}

fn missing(path: &Path) -> StoreError {
    StoreError::new(StoreErrorKind::Damaged, "it is missing").at(path)
}
