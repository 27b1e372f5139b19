//! Settling: what a writer does before it writes, so that database, snapshot and generation agree.
//!
//! It finds the database that holds the truth, proves that it has lost nothing, completes what a
//! dead writer began, and removes what a dead writer left. A database that is damaged is kept
//! under another name, and what happens then is for [`OnDamage`] to say.

use std::path::Path;
use std::sync::Arc;

use super::database::{CommitHeader, Database};
use super::generation::{Generation, GenerationFile};
use super::layout::failed;
use super::snapshot::{LoadScope, Snapshot, check_app};
use super::writer::{CommitPlan, Open, WriteLock, Writer};
use super::{OnDamage, SledStore};
use crate::deadline::Deadline;
use crate::diagnostics::note;
use crate::error::{StoreError, StoreErrorKind};
use crate::event::Event;
use crate::fs::remove_dir_all;
use crate::private::sync_dir;
use crate::store::encryption::EncryptionMode;
use crate::store::event_log::EventLog;

/// How far a generation that had to be made up lies above every one that may have been seen.
const JUMP: u64 = 1 << 20;

/// What can be known before the database is opened.
struct Found {
    file: GenerationFile,
    place: Generation,
    /// The newest whole snapshot.
    known: Option<Arc<Snapshot>>,
    /// Why it cannot be read, if it is sealed in another way than the store was opened.
    foreign: Option<StoreError>,
}

impl<'a> Writer<'a> {
    /// Settles the store.
    pub(super) fn recover(hold: WriteLock<'a>, deadline: Deadline) -> Result<Self, StoreError> {
        hold.store.load_key(true, deadline)?;
        let Found { file, place, known, foreign } = Found::look(&hold, deadline)?;
        let file = Arc::new(file);
        let recovered = false;
        let mut writer =
            Self { open: None, known, foreign, file, place, deadline, recovered, hold };
        writer.open_database()?;
        Ok(writer)
    }

    /// Settles the store as if nothing were known of it. The database must be closed.
    pub(super) fn recover_again(&mut self) -> Result<(), StoreError> {
        let Found { file, place, known, foreign } = Found::look(&self.hold, self.deadline)?;
        (self.file, self.place) = (Arc::new(file), place);
        (self.known, self.foreign) = (known, foreign);
        self.open_database()
    }

    fn open_database(&mut self) -> Result<(), StoreError> {
        match self.open_and_repair() {
            Err(error) if error.kind == StoreErrorKind::Damaged => self.quarantine(error),
            done => done,
        }
    }

    fn open_and_repair(&mut self) -> Result<(), StoreError> {
        let store = self.hold.store;
        let place = self.place;
        let open = self.open.insert(open(&self.hold, place, self.deadline)?);
        let head = &open.head;
        let converts = store.secrecy.is_sealed() && open.database.codec().check().is_none();
        if converts {
            // It stays the truth until there is another one, and has to prove that it is whole.
            let clear = EncryptionMode::default();
            let known =
                Snapshot::load(&store.files.snapshot(), &store.app, &clear, LoadScope::Full)?;
            self.known = known.map(Arc::new);
        } else {
            self.foreign = None;
        }
        // Of another store, or of an earlier life of this one.
        self.known = self.known.take().filter(|known| known.codec.is_same(open.database.codec()));
        verify_not_truncated(head, place, self.known.as_deref())
            .map_err(|why| doubted(&open.database, &why))?;
        open.database.is_whole();
        store.files.remove_stale(place.database);
        let agreed = self.known.as_ref().is_some_and(|known| {
            place.is_clean()
                && !converts
                && (known.generation, head.generation) == (place.count, place.count)
                && (known.number, known.database) == (head.number, place.database)
        });
        if agreed && !self.known.as_ref().is_some_and(|known| known.has_spare_room()) {
            return Ok(());
        }
        let mut snapshot = Snapshot::take(&open.database, place.database, head)
            .map_err(|error| error.at(open.database.path()))?;
        let mut seen = head.generation;
        if let Some(known) = &self.known {
            seen = seen.max(known.generation);
            if known.number == head.number {
                snapshot.ring = known.ring.clone();
            }
        }
        if agreed {
            self.known = Some(Arc::new(snapshot));
            return Ok(());
        }
        if !place.is_clean() {
            note!(
                warn,
                "repairing what a writer left unfinished in {}",
                store.files.dir().display()
            );
        }
        let (head, edits) = (head.clone(), Vec::new());
        self.place.count = place.count.max(seen);
        if converts {
            snapshot.codec = store.secrecy.begin(&store.app)?;
        }
        self.publish(CommitPlan { head, edits, snapshot, anew: converts })
    }

    /// Keeps a damaged database under another name, and goes on with what the snapshot holds if
    /// it may. Otherwise, or if that fails, returns an error.
    pub(super) fn quarantine(&mut self, error: StoreError) -> Result<(), StoreError> {
        // Closed first, and whatever it holds is let go.
        self.open = None;
        let store = self.hold.store;
        // With the wrong key nothing is touched: what the snapshot holds is needed with the right
        // one.
        if let Some(foreign) = &self.foreign {
            return Err(foreign.clone().because(error));
        }
        let number = self.place.database;
        let kept = store.files.quarantine(number)?;
        let mut path = kept.clone().unwrap_or_else(|| store.files.database(number));
        note!(error, "the database of the store is damaged or gone: {}", path.display());
        if store.on_damage == OnDamage::Refuse {
            let what = if kept.is_some() {
                "the database is damaged and kept under this name"
            } else {
                "the database is gone"
            };
            let reason = format!(
                "{what}, open the store with OnDamage::Recover to go on with what its snapshot \
                 still holds"
            );
            return Err(StoreError::new(StoreErrorKind::Damaged, reason).at(path).because(error));
        }
        if kept.is_none() {
            // Which one it was may be a mistake: the others would be swept away.
            for other in store.files.databases()? {
                path = store.files.quarantine(other)?.unwrap_or(path);
            }
        }
        // Where the snapshot is not the newest one, or is gone, the generation tells how far the
        // numbers may have come: each commit takes two.
        let up_to_date = |known: &&Arc<Snapshot>| {
            known.generation.saturating_add(u64::from(!self.place.is_clean())) >= self.place.count
        };
        let current = self.known.as_ref().filter(up_to_date).is_some();
        let mut snapshot = match self.known.as_deref() {
            Some(known) => known.clone(),
            None => Snapshot::empty(store.secrecy.begin(&store.app)?),
        };
        if !current {
            snapshot.number = snapshot.number.max(self.place.count.div_ceil(2));
            snapshot.ring = EventLog::since(snapshot.number);
        }
        snapshot.number = snapshot.number.saturating_add(1);
        snapshot.complete = true;
        let kept = path.to_string_lossy().into_owned();
        snapshot.ring.push(snapshot.number, &[Event::StoreDamaged { kept }]);
        self.place.count = self.place.count.max(snapshot.generation);
        let head = CommitHeader::of(&snapshot);
        let edits = snapshot.edits()?;
        self.publish(CommitPlan { head, edits, snapshot, anew: true })?;
        self.recovered = true;
        Ok(())
    }
}

impl Found {
    fn look(hold: &WriteLock<'_>, deadline: Deadline) -> Result<Self, StoreError> {
        let store = hold.store;
        let files = &store.files;
        let file = GenerationFile::open_to_write(&files.generation(), hold.owner)?;
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
        let (known, foreign) = match memory {
            Some(memory) if enough(&memory) => (Some(memory), None),
            older => {
                let (own, foreign) = store.load_own(LoadScope::Full)?;
                let both = older.into_iter().chain(own);
                (both.max_by_key(|snapshot| snapshot.generation), foreign)
            }
        };
        match (file, said) {
            (Some(file), Some(place)) => {
                // Who wrote it may have died before it was synced. It is, before anything is made
                // or removed because of what it says.
                if !place.is_clean() {
                    file.write(place, true)?;
                }
                Ok(Self { file, place, known, foreign })
            }
            _ if files.is_fresh()? => {
                let place = Generation { count: 1, database: 0 };
                let file = GenerationFile::create(&files.generation(), place)?;
                Ok(Self { file, place, known: None, foreign: None })
            }
            _ => Self::without_generation(hold, known, foreign, deadline),
        }
    }

    /// Finds the database that holds the truth although the generation is gone. Of several it is
    /// the highest one that was finished: what a dead writer left is removed before anybody
    /// commits again.
    fn without_generation(
        hold: &WriteLock<'_>,
        known: Option<Arc<Snapshot>>,
        foreign: Option<StoreError>,
        deadline: Deadline,
    ) -> Result<Self, StoreError> {
        let files = &hold.store.files;
        let mut seen = known.as_ref().map_or(0, |known| known.generation);
        let mut truth = None;
        let mut damaged = Vec::new();
        for number in files.databases()? {
            let open = Database::open(&files.database(number), hold.owner, deadline);
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
        let last = known.as_ref().map(|known| known.database);
        let database = truth.or(damaged.first().copied()).or(last).unwrap_or_default();
        for number in damaged {
            if number != database {
                files.quarantine(number)?;
            }
        }
        let count = seen.saturating_add(JUMP) | 1;
        let place = Generation { count, database };
        let file = GenerationFile::create(&files.generation(), place)?;
        files.sync()?;
        Ok(Self { file, place, known, foreign })
    }
}

/// Opens the database that the generation names, or makes the first one.
fn open(hold: &WriteLock<'_>, place: Generation, deadline: Deadline) -> Result<Open, StoreError> {
    let store = hold.store;
    let path = store.files.database(place.database);
    let first = place.is_first();
    let is_there = path.join("db").try_exists();
    if !first && !is_there.map_err(|error| failed("look for the database", &path, error))? {
        return Err(lost(&path, "it is not there"));
    }
    let opened = Database::open(&path, hold.owner, deadline);
    let opened = opened.and_then(|database| Ok((database.head()?, database)));
    let (head, mut database) = match opened {
        // Nothing was ever committed, so this is what is left of a writer that died early.
        Err(StoreError { kind: StoreErrorKind::Access | StoreErrorKind::Damaged, .. }) if first => {
            let _ = remove_dir_all(&path);
            (None, Database::open(&path, hold.owner, deadline)?)
        }
        opened => opened?,
    };
    let mut head = match head {
        Some(head) => head,
        None if first => begin(store, &mut database)?,
        None => return Err(doubted(&database, "it has lost everything")),
    };
    if first {
        // Also what a writer that died made before: nobody syncs these names again.
        store.files.sync()?;
        if let Some(parent) = store.files.dir().parent() {
            // Best effort: who may not read it cannot sync it.
            let _ = sync_dir(parent);
        }
    }
    match database.app()? {
        Some(app) => check_app(&app, &store.app, &path)?,
        None => return Err(doubted(&database, "it does not say whose it is")),
    }
    match database.unlock(&store.secrecy, &store.app) {
        Ok(()) => {}
        Err(error) if error.kind != StoreErrorKind::Key => return Err(error),
        // Nothing was ever committed with the other key, or without one.
        Err(_) if first && head.number == 0 => {
            let head = begin(store, &mut database)?;
            return Ok(Open { database, head });
        }
        Err(error) => {
            let clear =
                store.converts && database.unlock(&EncryptionMode::default(), &store.app).is_ok();
            if !clear {
                return Err(error);
            }
        }
    }
    let codec = database.codec();
    head.location = head.location.take().and_then(|kept| codec.open_location(kept));
    Ok(Open { database, head })
}

/// Makes a database out of an empty one.
fn begin(store: &SledStore, database: &mut Database) -> Result<CommitHeader, StoreError> {
    database.begin(&store.app, store.secrecy.begin(&store.app)?)?;
    let head = CommitHeader::first();
    database.write(&head, &[])?;
    database.sync()?;
    Ok(head)
}

/// Demands that a database has all that it must have: at least the commits that the snapshot knows
/// of, and the generation that its file says. sled opens one that lost its end without a word.
fn verify_not_truncated(
    head: &CommitHeader,
    place: Generation,
    known: Option<&Snapshot>,
) -> Result<(), String> {
    let newest = known.map_or(0, |known| known.number);
    if newest > head.number {
        return Err(format!("it ends at commit {} of {newest}", head.number));
    }
    if place.is_clean() && head.generation < place.count {
        return Err(format!("it ends at generation {} of {}", head.generation, place.count));
    }
    Ok(())
}

/// Says that an open database is not what it was.
fn doubted(database: &Database, why: &str) -> StoreError {
    database.doubt(why);
    StoreError::new(StoreErrorKind::Damaged, why.to_owned()).at(database.path())
}

/// Says that the database is not what it was.
fn lost(path: &Path, why: &'static str) -> StoreError {
    StoreError::new(StoreErrorKind::Damaged, why).at(path)
}
