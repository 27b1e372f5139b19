//! A key-value database in sled. The store on disk and the server each keep their data in one; no other
//! module uses sled.
//!
//! It adds to sled what both need:
//!
//! - Damage is an error and is remembered. sled reports damage as an error, as a panic or not at all;
//!   [`Kv::mark_damaged`] is for the third case, which only the caller can detect.
//! - The file of a database that turns out to be damaged is restored as it was before it was opened;
//!   see [`Backup`].
//! - [`Kv::sync`] makes changes survive a power cut.
//! - A value of any length is stored in pieces, because sled writes a large page to a file of its
//!   own, which it never syncs.
//! - The files are private, and belong to the owner of the directory.
//!
//! | bytes of a key | bytes of its entry |
//! | --- | --- |
//! | KEY, `00 00` | number of pieces (2 bytes, big-endian), up to 4,000 bytes of the value |
//! | KEY, piece from 1 (2 bytes, big-endian) | the next 4,000 bytes of the value, or the rest |
//! | KEY of an entry without a value | nothing |
//!
//! The key of a value must not be a prefix of another key.

mod backup;
mod process;

use std::cell::{Cell, OnceCell, RefCell};
use std::error::Error as StdError;
use std::fs::File;
use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

pub(crate) use sled::Batch;

use self::backup::Backup;
pub(crate) use self::process::ran_in_parent;
use self::process::{check_process, check_threads};
use crate::deadline::Deadline;
use crate::error::{StoreError, StoreErrorKind, failed};
use crate::owner::Owner;
use crate::poll::Poller;
use crate::private::{create_private_dir, make_private, sync_dir};

/// sled fixes it when it creates a database, so it must not follow sled's default. Half of it makes
/// opening 15 % faster, but would require smaller pages.
const SEGMENT: usize = 512 * 1024;
/// Only a hint: sled uses more if it needs more.
const CACHE: u64 = 16 * 1024 * 1024;
/// A page holds up to 17 entries, and gets a file of its own from a quarter of a segment.
const PIECE: usize = 4000;
/// How many entries are copied in one batch.
const COPY: usize = 512;

/// What a visitor of keys or values returns: whether to continue.
pub(crate) type Visited = Result<ControlFlow<()>, StoreError>;

/// An open database, which no other thread or process can open meanwhile.
#[derive(Debug)]
pub(crate) struct Kv {
    path: PathBuf,
    /// `None` once it is being dropped.
    db: Option<sled::Db>,
    damage: OnceCell<String>,
    /// The file before it was opened, until the first write.
    backup: RefCell<Option<Backup>>,
    /// Whether the database is known to be complete.
    is_verified: Cell<bool>,
    /// The owner of the files, if that is not the user of this process.
    owner: Option<Owner>,
}

impl Kv {
    /// Opens the database, and creates it if there is none.
    ///
    /// The caller must hold a lock: sled does not allow for other processes while it opens.
    ///
    /// # Errors
    /// Of kind `Damaged` if the database is damaged.
    pub(crate) fn open(
        path: &Path,
        owner: Option<Owner>,
        deadline: Deadline,
    ) -> Result<Self, StoreError> {
        check_process(path)?;
        check_threads().map_err(|error| failed("start threads for the database", path, error))?;
        create_private_dir(path).map_err(|error| failed("create the database", path, error))?;
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
        let read = || Backup::read(path).map_err(|error| failed("read the database", path, error));
        let backup = read()?;
        let mut kv = Self {
            path: path.to_owned(),
            db: None,
            damage: OnceCell::new(),
            backup: backup.into(),
            is_verified: Cell::new(false),
            owner,
        };
        let mut poll = Poller::until(deadline);
        let mut panicked = false;
        let db = loop {
            match catch_unwind(AssertUnwindSafe(|| config.open())) {
                Ok(Ok(db)) => break db,
                // A child of this process has a copy of the open file, and with it sled's lock,
                // between fork and exec.
                Ok(Err(error)) if is_locked(&error) => {
                    if !poll.wait() {
                        let reason = "another process, forked while the database was open, held \
                                      its lock until the deadline, try again later";
                        return Err(StoreError::new(StoreErrorKind::Busy, reason).at(path));
                    }
                    // The holder of the lock may have written.
                    kv.backup = read()?.into();
                }
                Ok(Err(error)) => {
                    // Whatever the error: sled zeroes bytes that it could not read, too.
                    kv.restore_backup();
                    return Err(kv.error("open", error));
                }
                // One panic may be due to a thread that could not be started. Damage panics again.
                Err(_) if !panicked => {
                    kv.restore_backup();
                    panicked = true;
                }
                Err(panic) => return Err(kv.panicked("open", &*panic)),
            }
        };
        kv.db = Some(db);
        make_private(path).map_err(|error| failed("protect the database", path, error))?;
        kv.give_files()?;
        Ok(kv)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns why sled cannot go on with this database, if damage was found.
    pub(crate) fn damage(&self) -> Option<&str> {
        self.damage.get().map(String::as_str)
    }

    /// Remembers that the database is complete.
    pub(crate) fn mark_verified(&self) {
        self.is_verified.set(true);
    }

    /// Remembers that the database is damaged.
    pub(crate) fn mark_damaged(&self, why: &str) {
        let _ = self.damage.set(why.to_owned());
    }

    /// Returns a value.
    pub(crate) fn value(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(first) = self.guard("read", |db| db.get(piece_key(key, 0)))? else {
            return Ok(None);
        };
        let (pieces, first) = self.split_first(&first)?;
        let mut value = first.to_vec();
        for piece in 1..pieces {
            match self.guard("read", |db| db.get(piece_key(key, piece)))? {
                Some(more) => value.extend_from_slice(&more),
                None => return Err(self.damage_error("a value is incomplete")),
            }
        }
        Ok(Some(value))
    }

    /// Adds to a batch what sets or removes a value, including the rest of a longer one before it.
    pub(crate) fn put(
        &self,
        batch: &mut Batch,
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

    /// Splits the first piece of a value into the number of its pieces and its bytes.
    fn split_first<'a>(&self, first: &'a [u8]) -> Result<(u16, &'a [u8]), StoreError> {
        match first.split_first_chunk() {
            Some((pieces, first)) => Ok((u16::from_be_bytes(*pieces), first)),
            None => Err(self.damage_error("a value has no first piece")),
        }
    }

    /// Passes the values whose keys begin with `prefix` to `visit`, in the order of their keys, until
    /// it breaks.
    pub(crate) fn each_value(
        &self,
        prefix: &[u8],
        visit: &mut dyn FnMut(&[u8], Vec<u8>) -> Visited,
    ) -> Result<(), StoreError> {
        let mut entries = self.guard("read", |db| Ok(db.scan_prefix(prefix)))?;
        while let Some((entry, first)) = self.next(&mut entries)? {
            let Some(key) = entry.strip_suffix(&[0, 0]) else {
                return Err(self.damage_error("a value has no first piece"));
            };
            let (pieces, first) = self.split_first(&first)?;
            let mut value = first.to_vec();
            for piece in 1..pieces {
                match self.next(&mut entries)? {
                    Some((entry, more)) if *entry == *piece_key(key, piece) => {
                        value.extend_from_slice(&more);
                    }
                    _ => return Err(self.damage_error("a value is incomplete")),
                }
            }
            if visit(key, value)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Passes the keys that begin with `prefix`, of entries without values, to `visit`, in their
    /// order from the key `from` on, until it breaks.
    pub(crate) fn each_key(
        &self,
        prefix: &[u8],
        from: &[u8],
        visit: &mut dyn FnMut(&[u8]) -> Visited,
    ) -> Result<(), StoreError> {
        let mut entries = self.guard("read", |db| Ok(db.range(from..)))?;
        while let Some((key, _)) = self.next(&mut entries)?
            && key.starts_with(prefix)
        {
            if visit(&key)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Copies all entries into another database, except those that `is_excluded`.
    pub(crate) fn copy_to(
        &self,
        to: &Self,
        is_excluded: impl Fn(&[u8]) -> bool,
    ) -> Result<(), StoreError> {
        let mut entries = self.guard("read", |db| Ok(db.iter()))?;
        loop {
            let mut batch = Batch::default();
            let mut copied = 0;
            while copied < COPY
                && let Some((key, value)) = self.next(&mut entries)?
            {
                copied += 1;
                if !is_excluded(&key) {
                    batch.insert(key, value);
                }
            }
            if copied == 0 {
                return Ok(());
            }
            to.apply(batch)?;
        }
    }

    /// Returns the next entry. Do not call it again after an error, which sled would repeat for
    /// ever.
    fn next(
        &self,
        entries: &mut sled::Iter,
    ) -> Result<Option<(sled::IVec, sled::IVec)>, StoreError> {
        self.guard("read", |_| entries.next().transpose())
    }

    /// Applies a batch, all or nothing. It is not on disk before [`Self::sync`].
    pub(crate) fn apply(&self, batch: Batch) -> Result<(), StoreError> {
        self.backup.take();
        self.guard("write", |db| db.apply_batch(batch))
    }

    /// Syncs the configuration file of a new database, which sled writes once and never syncs. sled
    /// refuses to open a database where it is torn.
    pub(crate) fn sync_config(&self) -> Result<(), StoreError> {
        let conf = self.path.join("conf");
        let sync = File::options().write(true).open(&conf).and_then(|conf| conf.sync_all());
        sync.map_err(|error| failed("sync the database", &conf, error))
    }

    /// Makes all changes survive a power cut. sled's `flush` alone does not on Linux: it syncs
    /// neither the size of the file nor the cache of the disk.
    pub(crate) fn sync(&self) -> Result<(), StoreError> {
        self.guard("flush", |db| db.flush())?;
        self.give_files()?;
        let sync = || {
            File::options().write(true).open(self.path.join("db"))?.sync_all()?;
            sync_dir(&self.path)
        };
        sync().map_err(|error| failed("sync the database", &self.path, error))
    }

    /// Gives the files of sled to the owner of the store.
    fn give_files(&self) -> Result<(), StoreError> {
        let give = |owner: Owner| owner.give_tree(&self.path);
        let given = self.owner.map_or(Ok(()), give);
        given.map_err(|error| failed("give the database to its owner", &self.path, error))
    }

    /// Restores the file as it was before it was opened, unless it was written to. It must be
    /// closed.
    fn restore_backup(&self) {
        if let Some(backup) = &*self.backup.borrow() {
            backup.restore();
        }
    }

    /// Runs an operation of sled, and converts its errors and panics.
    fn guard<T>(
        &self,
        attempt: &str,
        operation: impl FnOnce(&sled::Db) -> sled::Result<T>,
    ) -> Result<T, StoreError> {
        let Some(db) = &self.db else {
            let reason = "the database is closed";
            return Err(StoreError::new(StoreErrorKind::Io, reason).at(&self.path));
        };
        match catch_unwind(AssertUnwindSafe(|| operation(db))) {
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
            error => self.damage_error(&error.to_string()).because(error),
        }
    }

    fn panicked(&self, attempt: &str, panic: &(dyn std::any::Any + Send)) -> StoreError {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no text");
        self.damage_error(&format!("sled panicked ({attempt}): {text}"))
    }

    /// Remembers damage, and returns the error that reports it.
    pub(crate) fn damage_error(&self, why: &str) -> StoreError {
        self.mark_damaged(why);
        let cause: Box<dyn StdError + Send + Sync> = why.into();
        StoreError::new(StoreErrorKind::Damaged, "the database is damaged")
            .at(&self.path)
            .because(cause)
    }
}

impl Drop for Kv {
    fn drop(&mut self) {
        // Closing a damaged database may panic again.
        let db = self.db.take();
        let _ = catch_unwind(AssertUnwindSafe(|| drop(db)));
        if self.damage().is_some() || !self.is_verified.get() {
            self.restore_backup();
        }
    }
}

/// Removes unfinished files of sled, which would take one for finished and refuse to open.
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
    // sled has no kind for it, only a text.
    matches!(error, sled::Error::Io(error) if error.to_string().contains("could not acquire lock"))
}

fn piece_key(key: &[u8], piece: u16) -> Vec<u8> {
    [key, &piece.to_be_bytes()].concat()
}
