//! The database: the only place that names sled.
//!
//! One tree. `meta/app` says whose users these are, `meta/seal` is there if they are sealed,
//! `meta/head` says what the newest commit left, `u/…` are the records, `c/…` orders them by
//! `created_commit`, `r/…` those that are logged in by their last use. Records are opened and sealed here.
//! Values longer than 4,000 bytes lie in several pieces, so that no page grows to the size from
//! which sled writes it to a file of its own, which it never syncs.
//!
//! sled reports damage as an error, as a panic or not at all; the first two are caught here and
//! remembered, the third is for the writer, who knows what should be there.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashSet;
use std::error::Error as StdError;
use std::fs::File;
use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::layout::{failed, make_private};
use super::lock::Backoff;
use super::original::Original;
use super::process::{check_process, check_threads};
use super::snapshot::Snapshot;
use crate::deadline::Deadline;
use crate::error::{StoreError, StoreErrorKind};
use crate::id::UserId;
use crate::owner::Owner;
use crate::private::{create_private_dir, sync_dir};
use crate::secret::wipe;
use crate::store::StoredUser;
use crate::store::encryption::{EncryptionMode, RecordCodec};
use crate::store::record::VERSION;
use crate::store::record::{check_version, decode};
use crate::untrusted_json;

/// Frozen when a database is made, so it must not follow sled's default. With half of it an open
/// is 15 % faster, but pages would have to be smaller too.
const SEGMENT: usize = 512 * 1024;
/// Only a hint: sled takes more when it needs it.
const CACHE: u64 = 16 * 1024 * 1024;
/// A page holds up to 17 entries and goes to a file of its own from a quarter of a segment.
const PIECE: usize = 4000;
/// How many entries are copied in one step.
const COPY: usize = 512;

const APP: &[u8] = b"meta/app";
const HEAD: &[u8] = b"meta/head";
const SEAL: &[u8] = b"meta/seal";
const RECORDS: &[u8] = b"u/";
const BY_CREATED: &[u8] = b"c/";
const BY_USE: &[u8] = b"r/";

/// What the newest commit left behind, users aside.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(super) struct CommitHeader {
    v: u32,
    /// The number of the newest commit.
    pub(super) number: u64,
    /// The count of the generation that the newest commit, or the newest repair, ended.
    pub(super) generation: u64,
    pub(super) current: Option<UserId>,
    pub(super) location: Option<String>,
    #[serde(flatten)]
    more: Map<String, Value>,
}

/// What a commit does to one user.
pub(super) struct UserEdit {
    pub(super) id: UserId,
    /// Where the user is before, if it is there.
    pub(super) before: Option<SortKeys>,
    /// The record and where the user is from now on, or `None` to remove it.
    pub(super) after: Option<(SortKeys, Vec<u8>)>,
}

/// Where a user is in the orders by which users are found.
#[derive(Clone, Copy, Debug)]
pub(super) struct SortKeys {
    created: u64,
    /// None while the user is logged out.
    used: Option<u64>,
}

impl Drop for UserEdit {
    fn drop(&mut self) {
        if let Some((_, record)) = &mut self.after {
            wipe(record);
        }
    }
}

impl SortKeys {
    pub(super) fn of(user: &StoredUser) -> Self {
        Self {
            created: user.created_commit,
            used: user.is_logged_in().then_some(user.last_used_commit),
        }
    }

    fn keys(self, id: &UserId) -> impl Iterator<Item = Vec<u8>> {
        // Complemented, so that the one used last comes first: walking backwards would link a
        // key of 1 MiB from sled into every program.
        let by_use = self.used.map(|used| order_key(BY_USE, !used, id));
        [order_key(BY_CREATED, self.created, id)].into_iter().chain(by_use)
    }
}

/// An open database. Nobody else can open it meanwhile.
#[derive(Debug)]
pub(super) struct Database {
    path: PathBuf,
    /// Taken out when it is closed.
    db: Option<sled::Db>,
    damage: OnceCell<String>,
    codec: RecordCodec,
    /// What the file was before it was opened, as long as nothing was written.
    original: RefCell<Option<Original>>,
    /// Whether it is known to have lost nothing while it was opened.
    is_proved: Cell<bool>,
    /// To whom sled's files are given, if that is not the user of this process.
    owner: Option<Owner>,
}

impl CommitHeader {
    /// Returns the head of a database without commits.
    pub(super) fn first() -> Self {
        let (current, location, more) = (None, None, Map::new());
        Self { v: VERSION, number: 0, generation: 0, current, location, more }
    }

    /// Returns the head of a database with the state of a snapshot.
    pub(super) fn of(snapshot: &Snapshot) -> Self {
        Self {
            number: snapshot.number,
            generation: snapshot.generation,
            current: snapshot.current.clone(),
            location: snapshot.location.clone(),
            ..Self::first()
        }
    }
}

impl Database {
    /// Opens the database, and makes it if there is none. A damaged one is an error of that kind.
    ///
    /// Nobody else may be at it: sled does not expect company while it opens.
    pub(super) fn open(
        path: &Path,
        owner: Option<Owner>,
        deadline: Deadline,
    ) -> Result<Self, StoreError> {
        check_process(path)?;
        check_threads().map_err(|error| failed("start threads for the database", path, error))?;
        create_private_dir(path).map_err(|error| failed("make the database", path, error))?;
        if let Some(owner) = owner {
            // sled follows links.
            owner.check_tree(path).map_err(|error| failed("open the database", path, error))?;
        }
        remove_unfinished(path)?;
        let config = sled::Config::new()
            .path(path)
            .segment_size(SEGMENT)
            .cache_capacity(CACHE)
            .flush_every_ms(None);
        let read =
            || Original::read(path).map_err(|error| failed("read the database", path, error));
        let original = read()?;
        let mut database = Self {
            path: path.to_owned(),
            db: None,
            damage: OnceCell::new(),
            codec: RecordCodec::default(),
            original: original.into(),
            is_proved: Cell::new(false),
            owner,
        };
        let mut backoff = Backoff::until(deadline);
        let mut panicked = false;
        let db = loop {
            match catch_unwind(AssertUnwindSafe(|| config.open())) {
                Ok(Ok(db)) => break db,
                // A child that is being started holds a copy of the file, and sled's lock with
                // it, until it has become another program.
                Ok(Err(error)) if is_locked(&error) => {
                    if !backoff.wait() {
                        let reason = "another process, forked off while the database was open, held \
                                      its lock until the time was up, try again later";
                        return Err(StoreError::new(StoreErrorKind::Busy, reason).at(path));
                    }
                    // Whoever had it may have written.
                    database.original = read()?.into();
                }
                Ok(Err(error)) => {
                    // Whatever it was of: sled takes what it could not read for damage as well.
                    database.restore_backup();
                    return Err(database.error("open", error));
                }
                // Once may be the lack of a thread. Damage panics again.
                Err(_) if !panicked => {
                    database.restore_backup();
                    panicked = true;
                }
                Err(panic) => return Err(database.panicked("open", &*panic)),
            }
        };
        database.db = Some(db);
        make_private(path).map_err(|error| failed("protect the database", path, error))?;
        database.give_files()?;
        Ok(database)
    }

    /// Gives what sled has made to the owner of the store.
    fn give_files(&self) -> Result<(), StoreError> {
        let give = |owner: Owner| owner.give_tree(&self.path);
        let given = self.owner.map_or(Ok(()), give);
        given.map_err(|error| failed("give the database to its owner", &self.path, error))
    }

    /// Makes the file what it was before it was opened, if nothing was written to it. It is closed.
    fn restore_backup(&self) {
        if let Some(original) = &*self.original.borrow() {
            original.restore_backup();
        }
    }

    /// Remembers that the database has all that it should have.
    pub(super) fn is_whole(&self) {
        self.is_proved.set(true);
    }

    /// Remembers that the database is not what it should be.
    pub(super) fn doubt(&self, why: &str) {
        let _ = self.damage.set(why.to_owned());
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns why sled cannot go on with this database, if that was seen.
    pub(super) fn damage(&self) -> Option<&str> {
        self.damage.get().map(String::as_str)
    }

    /// Returns what `meta/app` says.
    pub(super) fn app(&self) -> Result<Option<String>, StoreError> {
        let app = self.value(APP)?;
        Ok(app.map(|app| String::from_utf8_lossy(&app).into_owned()))
    }

    /// Returns the head; `None` if the database was never finished, or lost everything. Its location
    /// is as it is kept, to be opened with the codec.
    pub(super) fn head(&self) -> Result<Option<CommitHeader>, StoreError> {
        let Some(bytes) = self.value(HEAD)? else { return Ok(None) };
        check_version("this store", &bytes).map_err(|error| error.at(&self.path))?;
        match untrusted_json::from_slice(&bytes) {
            Ok(head) => Ok(Some(head)),
            Err(_) => Err(self.damaged("its head cannot be read")),
        }
    }

    /// Finds out whether the records are sealed and can be opened in this way; an error of kind
    /// `Key` says that they cannot.
    pub(super) fn unlock(&mut self, secrecy: &EncryptionMode, app: &str) -> Result<(), StoreError> {
        let check = self.value(SEAL)?;
        let codec = secrecy.fit(app, check.as_deref());
        self.codec = codec.map_err(|error| error.at(&self.path))?;
        Ok(())
    }

    /// Returns what the records pass through.
    pub(super) fn codec(&self) -> &RecordCodec {
        &self.codec
    }

    /// Returns a user's record.
    pub(super) fn record(&self, id: &UserId) -> Result<Option<Vec<u8>>, StoreError> {
        self.value(&record_key(id))?.map(|bytes| self.open_record(id, bytes)).transpose()
    }

    fn open_record(&self, id: &UserId, bytes: Vec<u8>) -> Result<Vec<u8>, StoreError> {
        let record = self.codec.open_record(id, bytes);
        record.ok_or_else(|| self.damaged("a record is not what was sealed"))
    }

    /// Shows all records, in no useful order, until told to stop.
    pub(super) fn each_record(
        &self,
        show: &mut dyn FnMut(UserId, Vec<u8>) -> Result<ControlFlow<()>, StoreError>,
    ) -> Result<(), StoreError> {
        let mut entries = self.scan(RECORDS)?;
        while let Some((key, first)) = self.next("list users", || entries.next())? {
            let Some((id, 0)) = parse_record_key(&key) else {
                return Err(self.damaged("a record has no beginning"));
            };
            let (pieces, first) = self.split_first(&first)?;
            let mut record = first.to_vec();
            for piece in 1..pieces {
                match self.next("list users", || entries.next())? {
                    Some((key, more)) if parse_record_key(&key) == Some((id.clone(), piece)) => {
                        record.extend_from_slice(&more);
                    }
                    _ => return Err(self.damaged("a record is not whole")),
                }
            }
            let record = self.open_record(&id, record)?;
            if show(id, record)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Shows the ids of the logged-in users, the one used last first, until told to stop.
    pub(super) fn each_by_use(
        &self,
        show: &mut dyn FnMut(UserId) -> Result<ControlFlow<()>, StoreError>,
    ) -> Result<(), StoreError> {
        let mut entries = self.scan(BY_USE)?;
        while let Some((key, _)) = self.next("list users", || entries.next())? {
            let Some(id) = parse_order_key(&key) else {
                return Err(self.damaged("the order of use is broken"));
            };
            if show(id)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Shows the records by `created_commit`, those after a place in that order or all, until told to
    /// stop.
    pub(super) fn each_by_created(
        &self,
        after: Option<(u64, &UserId)>,
        show: &mut dyn FnMut(UserId, Vec<u8>) -> Result<ControlFlow<()>, StoreError>,
    ) -> Result<(), StoreError> {
        let from = match after {
            // The next key there can be.
            Some((created, id)) => [&*order_key(BY_CREATED, created, id), b"\0"].concat(),
            None => BY_CREATED.to_vec(),
        };
        let mut entries = self.guard("list", |db| Ok(db.range(from..)))?;
        while let Some((key, _)) = self.next("list users", || entries.next())?
            && key.starts_with(BY_CREATED)
        {
            let id = parse_order_key(&key);
            let record = id.as_ref().map(|id| self.record(id)).transpose()?.flatten();
            let (Some(id), Some(record)) = (id, record) else {
                return Err(self.damaged("the order of users is broken"));
            };
            if show(id, record)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Writes the head and the edits, all or nothing. It is not on disk before [`Self::sync`].
    pub(super) fn write(&self, head: &CommitHeader, edits: &[UserEdit]) -> Result<(), StoreError> {
        let mut batch = self.batch(edits)?;
        let location = head.location.as_ref().map(|location| self.codec.seal_location(location));
        let location = location.transpose().map_err(|error| error.at(&self.path))?;
        let Ok(head) = serde_json::to_vec(&CommitHeader { location, ..head.clone() }) else {
            let reason = "the head of the database cannot be written as JSON";
            return Err(StoreError::new(StoreErrorKind::Io, reason).at(&self.path));
        };
        self.put(&mut batch, HEAD, Some(&head))?;
        self.original.take();
        self.guard("write", |db| db.apply_batch(batch))
    }

    fn batch(&self, edits: &[UserEdit]) -> Result<sled::Batch, StoreError> {
        let mut batch = sled::Batch::default();
        for edit in edits {
            let id = &edit.id;
            let record = edit.after.as_ref().map(|(_, record)| self.codec.seal_record(id, record));
            let record = record.transpose().map_err(|error| error.at(&self.path))?;
            self.put(&mut batch, &record_key(id), record.as_deref())?;
            for key in edit.before.into_iter().flat_map(|rank| rank.keys(id)) {
                batch.remove(key);
            }
            for key in edit.after.iter().flat_map(|(rank, _)| rank.keys(id)) {
                batch.insert(key, &[]);
            }
        }
        Ok(batch)
    }

    /// Writes whose users these are, and whether they are sealed, into a database without any.
    pub(super) fn begin(&mut self, app: &str, codec: RecordCodec) -> Result<(), StoreError> {
        // sled writes it once, never syncs it, and refuses to open a database where it is torn.
        let conf = self.path.join("conf");
        let sync = File::options().write(true).open(&conf).and_then(|conf| conf.sync_all());
        sync.map_err(|error| failed("sync the database", &conf, error))?;
        let mut batch = sled::Batch::default();
        self.put(&mut batch, APP, Some(app.as_bytes()))?;
        self.put(&mut batch, SEAL, codec.check())?;
        self.codec = codec;
        self.original.take();
        self.guard("write", |db| db.apply_batch(batch))
    }

    /// Copies everything into a database that was just begun but the head and the users that are
    /// edited.
    pub(super) fn copy_to(&self, to: &Self, edits: &[UserEdit]) -> Result<(), StoreError> {
        if !self.codec.is_same(&to.codec) {
            return self.copy_records_to(to, edits);
        }
        let edited: HashSet<_> = edits.iter().map(|edit| &edit.id).collect();
        let left_out = |key: &[u8]| {
            let id = parse_record_key(key).map(|(id, _)| id).or_else(|| parse_order_key(key));
            key.starts_with(HEAD) || id.is_some_and(|id| edited.contains(&id))
        };
        let mut entries = self.scan(b"")?;
        loop {
            let mut batch = sled::Batch::default();
            let mut copied = 0;
            while copied < COPY
                && let Some((key, value)) = self.next("copy", || entries.next())?
            {
                copied += 1;
                if !left_out(&key) {
                    batch.insert(key, value);
                }
            }
            if copied == 0 {
                return Ok(());
            }
            to.guard("copy", |db| db.apply_batch(batch))?;
        }
    }

    /// The same for a database that is sealed in another way.
    fn copy_records_to(&self, to: &Self, edits: &[UserEdit]) -> Result<(), StoreError> {
        let mut copied = Vec::new();
        let copy = |copied: &mut Vec<UserEdit>| {
            let batch = to.batch(copied)?;
            copied.clear();
            to.guard("copy", |db| db.apply_batch(batch))
        };
        self.each_record(&mut |id, record| {
            if edits.iter().all(|edit| edit.id != id) {
                let user = decode(&record).map_err(|error| error.at(&self.path))?;
                copied.push(UserEdit {
                    id,
                    before: None,
                    after: Some((SortKeys::of(&user), record)),
                });
            }
            if copied.len() == COPY {
                copy(&mut copied)?;
            }
            Ok(ControlFlow::Continue(()))
        })?;
        copy(&mut copied)
    }

    /// Puts everything on disk. sled's `flush` alone does not on Linux, where it leaves the size
    /// of its file and the disk's own cache to chance.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        self.guard("flush", |db| db.flush())?;
        self.give_files()?;
        let sync = || {
            File::options().write(true).open(self.path.join("db"))?.sync_all()?;
            sync_dir(&self.path)
        };
        sync().map_err(|error| failed("sync the database", &self.path, error))
    }

    /// Returns a value, put together from its pieces. The first one begins with their number.
    fn value(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(first) = self.guard("read", |db| db.get(piece_key(key, 0)))? else {
            return Ok(None);
        };
        let (pieces, first) = self.split_first(&first)?;
        let mut value = first.to_vec();
        for piece in 1..pieces {
            match self.guard("read", |db| db.get(piece_key(key, piece)))? {
                Some(more) => value.extend_from_slice(&more),
                None => return Err(self.damaged("a value is not whole")),
            }
        }
        Ok(Some(value))
    }

    /// Sets or removes a value, and removes what is left of a longer one that was there.
    fn put(
        &self,
        batch: &mut sled::Batch,
        key: &[u8],
        value: Option<&[u8]>,
    ) -> Result<(), StoreError> {
        let before = match self.guard("read", |db| db.get(piece_key(key, 0)))? {
            Some(first) => self.split_first(&first)?.0,
            None => 0,
        };
        let value = value.map(|value| (value, value.len().div_ceil(PIECE).max(1)));
        let after = match value.map_or(Ok(0), |(_, pieces)| u16::try_from(pieces)) {
            Ok(after) => after,
            Err(_) => {
                let reason = "a record of more than 262 million bytes cannot be stored";
                return Err(StoreError::new(StoreErrorKind::Io, reason).at(&self.path));
            }
        };
        if let Some((value, _)) = value {
            let (first, rest) = value.split_at(value.len().min(PIECE));
            batch.insert(piece_key(key, 0), [&after.to_be_bytes()[..], first].concat());
            for (piece, more) in (1..after).zip(rest.chunks(PIECE)) {
                batch.insert(piece_key(key, piece), more);
            }
        }
        for piece in after..before {
            batch.remove(piece_key(key, piece));
        }
        Ok(())
    }

    fn split_first<'a>(&self, first: &'a [u8]) -> Result<(u16, &'a [u8]), StoreError> {
        match first.split_first_chunk() {
            Some((pieces, first)) => Ok((u16::from_be_bytes(*pieces), first)),
            None => Err(self.damaged("a value has no beginning")),
        }
    }

    fn scan(&self, prefix: &[u8]) -> Result<sled::Iter, StoreError> {
        self.guard("list", |db| Ok(db.scan_prefix(prefix)))
    }

    /// Takes one entry. After an error there is no next one: sled would repeat it for ever.
    fn next<T>(
        &self,
        attempt: &str,
        next: impl FnOnce() -> Option<sled::Result<T>>,
    ) -> Result<Option<T>, StoreError> {
        self.guard(attempt, |_| next().transpose())
    }

    /// Lets sled work, and turns its errors and panics into ours.
    fn guard<T>(
        &self,
        attempt: &str,
        work: impl FnOnce(&sled::Db) -> sled::Result<T>,
    ) -> Result<T, StoreError> {
        let Some(db) = &self.db else {
            let reason = "the database is closed";
            return Err(StoreError::new(StoreErrorKind::Io, reason).at(&self.path));
        };
        match catch_unwind(AssertUnwindSafe(|| work(db))) {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => Err(self.error(attempt, error)),
            Err(panic) => Err(self.panicked(attempt, &*panic)),
        }
    }

    fn error(&self, attempt: &str, error: sled::Error) -> StoreError {
        match error {
            sled::Error::Io(error)
                if !matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof) =>
            {
                failed(&format!("{attempt} the database"), &self.path, error)
            }
            error => self.damaged(&error.to_string()).because(error),
        }
    }

    fn panicked(&self, attempt: &str, panic: &(dyn std::any::Any + Send)) -> StoreError {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no text");
        self.damaged(&format!("sled panicked ({attempt}): {text}"))
    }

    fn damaged(&self, why: &str) -> StoreError {
        self.doubt(why);
        let cause: Box<dyn StdError + Send + Sync> = why.into();
        StoreError::new(StoreErrorKind::Damaged, "the database is damaged")
            .at(&self.path)
            .because(cause)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // A damaged one may panic once more.
        let db = self.db.take();
        let _ = catch_unwind(AssertUnwindSafe(|| drop(db)));
        if self.damage().is_some() || !self.is_proved.get() {
            self.restore_backup();
        }
    }
}

/// Removes sled's own unfinished files: it would take one for finished, and refuse to open.
fn remove_unfinished(path: &Path) -> Result<(), StoreError> {
    let remove = || {
        for entry in std::fs::read_dir(path)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with("snap.") && name.ends_with(".generating") {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    };
    remove().map_err(|error| failed("tidy the database", path, error))
}

fn is_locked(error: &sled::Error) -> bool {
    // There is no kind for it, only the text.
    matches!(error, sled::Error::Io(error) if error.to_string().contains("could not acquire lock"))
}

/// The length comes first, so that no id is the beginning of another one's key.
fn record_key(id: &UserId) -> Vec<u8> {
    let id = id.as_str().as_bytes();
    let length = u16::try_from(id.len()).unwrap_or(u16::MAX);
    [RECORDS, &length.to_be_bytes(), id].concat()
}

fn piece_key(key: &[u8], piece: u16) -> Vec<u8> {
    [key, &piece.to_be_bytes()].concat()
}

fn parse_record_key(key: &[u8]) -> Option<(UserId, u16)> {
    let (length, rest) = key.strip_prefix(RECORDS)?.split_first_chunk()?;
    let (id, piece) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
    Some((UserId::new(std::str::from_utf8(id).ok()?), u16::from_be_bytes(piece.try_into().ok()?)))
}

fn order_key(order: &[u8], place: u64, id: &UserId) -> Vec<u8> {
    [order, &place.to_be_bytes(), id.as_str().as_bytes()].concat()
}

fn parse_order_key(key: &[u8]) -> Option<UserId> {
    let rest = key.strip_prefix(BY_USE).or_else(|| key.strip_prefix(BY_CREATED))?;
    std::str::from_utf8(rest.get(8..)?).ok().map(UserId::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_keys_are_read_back_and_none_begins_another() {
        let ids = ["", "a", "a\0", "a\0\0\0", "ab", "u/"];
        for id in ids.map(UserId::new) {
            let key = record_key(&id);
            assert_eq!(parse_record_key(&piece_key(&key, 258)), Some((id.clone(), 258)));
            for other in ids.map(UserId::new) {
                assert_eq!(record_key(&other).starts_with(&key), other == id);
            }
        }
        assert_eq!(parse_record_key(b"u/\0\x05a\0\0"), None);
        assert_eq!(parse_record_key(b"meta/head\0\0"), None);
    }
}
