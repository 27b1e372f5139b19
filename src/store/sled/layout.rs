//! The files of a store and their names.
//!
//! | name | content |
//! | --- | --- |
//! | `generation` | the number of the newest commit, see [`generation`](super::generation) |
//! | `snapshot` | the state for readers, see [`snapshot_file`](super::snapshot_file) |
//! | `snapshot.tmp` | the next snapshot, during a commit |
//! | `db.N` | the database, a directory of sled, see [`schema`](super::schema) |
//! | `db.N.damaged`, `db.N.damaged.M` | a damaged database |
//! | `lock`, `lock.next` | locked by the writer, and by the next one, see [`lock`](super::lock) |
//! | `refresh.0` to `refresh.15` | locked during a refresh |
//! | `key`, `key.lock`, `key.tmp`, `keyring.lock` | the encryption key, and locked while it is created |

use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf, absolute};

use crate::error::{StoreError, StoreErrorKind, failed};
use crate::hash::fnv1a;
use crate::id::UserId;
use crate::private::{create_private_dir, create_private_dir_in, sync_dir, write_private};

/// How many refresh locks there are. Users whose ids have the same hash share one.
const REFRESH_LOCKS: u64 = 16;

/// The directory of a store, and the names in it.
#[derive(Debug)]
pub(super) struct Files {
    dir: PathBuf,
    /// The data directory around it, which must belong to the same owner.
    pub(super) data_dir: Option<PathBuf>,
}

impl Files {
    /// Returns the names in a directory. Creates nothing.
    pub(super) fn new(dir: &Path) -> Result<Self, StoreError> {
        // Absolute, so that a change of the working directory does not change the store.
        let dir = absolute(dir).map_err(|error| failed("find the directory", dir, error))?;
        if leads_through_file(&dir) {
            let error = ErrorKind::NotADirectory.into();
            return Err(failed("use the data directory", &dir, error));
        }
        Ok(Self { dir, data_dir: None })
    }

    /// Creates the directory, private to its owner, unless it exists. An existing directory keeps
    /// its mode: what is created inside is private in itself.
    pub(super) fn create_dir(&self) -> Result<(), StoreError> {
        let created = match &self.data_dir {
            Some(data_dir) => create_private_dir_in(&self.dir, data_dir),
            None => create_private_dir(&self.dir),
        };
        created.map_err(|error| failed("create the data directory", &self.dir, error))
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn generation(&self) -> PathBuf {
        self.dir.join("generation")
    }

    pub(super) fn lock(&self) -> PathBuf {
        self.dir.join("lock")
    }

    pub(super) fn turn(&self) -> PathBuf {
        self.dir.join("lock.next")
    }

    pub(super) fn snapshot(&self) -> PathBuf {
        self.dir.join("snapshot")
    }

    pub(super) fn next_snapshot(&self) -> PathBuf {
        self.dir.join("snapshot.tmp")
    }

    pub(super) fn database(&self, number: u64) -> PathBuf {
        self.dir.join(format!("db.{number}"))
    }

    pub(super) fn refresh_lock(&self, user: &UserId) -> PathBuf {
        self.dir.join(format!("refresh.{}", fnv1a(&[user.as_str().as_bytes()]) % REFRESH_LOCKS))
    }

    /// Returns the numbers of all databases, the highest first.
    pub(super) fn databases(&self) -> Result<Vec<u64>, StoreError> {
        let mut numbers: Vec<u64> = self
            .names()?
            .iter()
            .filter_map(|name| name.to_str()?.strip_prefix("db.")?.parse().ok())
            .collect();
        numbers.sort_unstable_by(|a, b| b.cmp(a));
        Ok(numbers)
    }

    /// Returns `true` if there is neither a database nor a snapshot, so that no data can be lost.
    pub(super) fn is_fresh(&self) -> Result<bool, StoreError> {
        let is_data =
            |name: &OsStr| name == "snapshot" || name.to_string_lossy().starts_with("db.");
        Ok(!self.names()?.iter().any(|name| is_data(name)))
    }

    /// Returns a number above `number` that no database has. On Windows a database whose removal is
    /// pending keeps its name.
    pub(super) fn free_number(&self, number: u64) -> Result<u64, StoreError> {
        let highest = self.databases()?.first().copied().unwrap_or_default();
        next(highest.max(number)).map_err(|error| error.at(&self.dir))
    }

    /// Renames a damaged database, and returns its new path, even if it was renamed before. `None`
    /// if there is no such database.
    pub(super) fn quarantine(&self, number: u64) -> Result<Option<PathBuf>, StoreError> {
        let from = self.database(number);
        let kept = |attempt: u32| match attempt {
            0 => self.dir.join(format!("db.{number}.damaged")),
            _ => self.dir.join(format!("db.{number}.damaged.{attempt}")),
        };
        let exists = from.try_exists();
        if !exists.map_err(|error| failed("look for the database", &from, error))? {
            return Ok(Some(kept(0)).filter(|path| path.exists()));
        }
        let Some(to) = (0..1000).map(kept).find(|path| !path.exists()) else {
            let reason = "there are too many damaged databases, remove some";
            return Err(StoreError::new(StoreErrorKind::Damaged, reason).at(&self.dir));
        };
        crate::fs::rename(&from, &to).map_err(|e| failed("keep the damaged database", &from, e))?;
        self.sync()?;
        Ok(Some(to))
    }

    /// Removes a database, if it exists.
    pub(super) fn remove_database(&self, number: u64) -> io::Result<()> {
        match crate::fs::remove_dir_all(&self.database(number)) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }

    /// Removes leftovers of crashed writers: every database except `number`, and an unfinished
    /// snapshot. Errors are ignored: the next writer tries again.
    pub(super) fn remove_stale(&self, number: u64) {
        for stale in self.databases().unwrap_or_default() {
            // A higher one would be taken for the newest if the generation file is lost.
            if stale > number {
                let _ = self.remove_database(stale);
            } else if stale < number {
                let _ = std::fs::remove_dir_all(self.database(stale));
            }
        }
        self.discard_next_snapshot();
    }

    /// Writes the next snapshot beside the one in use.
    pub(super) fn write_next_snapshot(&self, bytes: &[u8]) -> Result<(), StoreError> {
        let path = self.next_snapshot();
        write_private(&path, bytes).map_err(|error| failed("write the snapshot", &path, error))
    }

    /// Checks that the disk has room for a commit, which writes a segment of the database and the
    /// snapshot.
    pub(super) fn check_room(&self) -> Result<(), StoreError> {
        const ROOM: usize = 1024 * 1024;
        let written = self.write_next_snapshot(&vec![0xa5; ROOM]);
        self.discard_next_snapshot();
        written
    }

    /// Removes the next snapshot.
    pub(super) fn discard_next_snapshot(&self) {
        let _ = std::fs::remove_file(self.next_snapshot());
    }

    /// Syncs the directory, so that the names in it survive a power cut.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        sync_dir(&self.dir).map_err(|error| failed("sync the directory", &self.dir, error))
    }

    fn names(&self) -> Result<Vec<OsString>, StoreError> {
        let list = || -> io::Result<Vec<OsString>> {
            std::fs::read_dir(&self.dir)?.map(|entry| Ok(entry?.file_name())).collect()
        };
        match list() {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            names => names.map_err(|error| failed("list the directory", &self.dir, error)),
        }
    }
}

/// Returns `true` if the path or one of its parents is a file. Windows reports a path below a file as
/// not found, so that a store there would look like a new one. Other systems report the file.
fn leads_through_file(path: &Path) -> bool {
    let nearest = || path.ancestors().find_map(|path| std::fs::metadata(path).ok());
    cfg!(windows) && nearest().is_some_and(|nearest| !nearest.is_dir())
}

/// Returns the next number. An overflow is only possible in a file that keyfob did not write.
pub(super) fn next(number: u64) -> Result<u64, StoreError> {
    number.checked_add(1).ok_or_else(|| {
        StoreError::new(StoreErrorKind::Damaged, "a number in the store is too large")
    })
}
