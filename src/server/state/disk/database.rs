//! The database. This is the only module of the server that uses sled.
//!
//! Values longer than 4,000 bytes are stored in several pieces. Otherwise a page could grow so
//! large that sled writes it to a separate file, which sled never syncs. The first piece is stored
//! under the value's key. The key of each later piece is the value's key, a byte that does not
//! occur in text, and the number of the piece. A piece that is shorter than 4,000 bytes is the last
//! one. A piece that is longer is also the last one; earlier versions wrote such pieces.
//!
//! sled reports damage as an error, as a panic or not at all, when it opens the database or later.
//! [`guard`] converts panics into errors, and wraps all work in this module. Unreported damage is
//! detected with the `head`, which every write updates. It contains a checksum of all other values
//! and the number of the write. The lock file also stores that number.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::files::private_file;
use crate::hash::fnv1a;
use crate::owner::Owner;
use crate::private::{create_private_dir, restrict, sync_dir};

/// Fixed when a database is created, so it must not follow sled's default.
const SEGMENT: usize = 512 * 1024;
/// A page holds up to 17 entries. From a quarter of a segment on, sled writes it to a separate
/// file.
const PIECE: usize = 4000;
/// Separates a key from the number of a piece. Keys are text, so no key equals the key of a piece.
const NO_TEXT: u8 = 0xff;
const HEAD: &str = "head";
/// The first version of records that has a head.
const HEADED: u32 = 3;
/// How long a starting child process may hold a copy of an open file.
const LONGEST_COPY: Duration = Duration::from_secs(5);

/// Values by their keys.
pub(super) type Values = BTreeMap<String, Vec<u8>>;

pub(super) struct Database {
    path: PathBuf,
    sled: sled::Db,
    /// A second handle on sled's log, to sync it.
    log: File,
    /// `None` in a database that only earlier versions have written to.
    head: Option<Head>,
}

/// Metadata of the newest write.
#[derive(Clone, Copy, Deserialize, Serialize)]
struct Head {
    /// The number of that write.
    number: u64,
    /// The sum of the hashes of all values but this one.
    sum: u64,
}

impl Database {
    /// Opens the database, creating it if necessary. Gives its files to the owner, if there is one.
    pub(super) fn open(path: PathBuf, owner: Option<Owner>) -> io::Result<Self> {
        create_private_dir(&path)?;
        restrict(&path, 0o700)?;
        // sled follows symbolic links.
        owner.map_or(Ok(()), |owner| owner.check_tree(&path))?;
        // A process that is killed at the wrong moment leaves these files behind. sled then takes
        // them for snapshots and can never open the database again.
        for entry in fs::read_dir(&path)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().ends_with(".generating") {
                fs::remove_file(entry.path())?;
            }
        }
        let config = sled::Config::new()
            .path(&path)
            .segment_size(SEGMENT)
            .flush_every_ms(None)
            .cache_capacity(8 * 1024 * 1024);
        let deadline = Instant::now() + LONGEST_COPY;
        let sled = loop {
            match config.open() {
                Ok(sled) => break sled,
                // No other server uses the database. A starting child process holds a copy of the
                // file, and with it sled's lock, until it calls `exec`.
                Err(sled::Error::Io(error))
                    if error.to_string().contains("could not acquire lock")
                        && Instant::now() < deadline =>
                {
                    thread::sleep(Duration::from_millis(2));
                }
                Err(error) => return Err(from_sled(&path, error)),
            }
        };
        let log = private_file().open(path.join("db"))?;
        for entry in fs::read_dir(&path)? {
            let path = entry?.path();
            if path.is_file() {
                restrict(&path, 0o600)?;
            }
        }
        owner.map_or(Ok(()), |owner| owner.give_tree(&path))?;
        // sled writes this file once and never syncs it, and cannot open a database if it is
        // truncated.
        private_file().open(path.join("conf"))?.sync_all()?;
        sync_dir(&path)?;
        let mut database = Self { path, sled, log, head: None };
        if let Some(head) = database.value(HEAD)? {
            let head = serde_json::from_slice(&head);
            database.head =
                Some(head.map_err(|_| damaged(&database.path, "its head cannot be read"))?);
        }
        Ok(database)
    }

    /// Checks that `values`, which are all values in the database, are complete, and that they
    /// include the write with this number.
    pub(super) fn check(&self, values: &Values, number: u64) -> io::Result<()> {
        #[derive(Deserialize)]
        struct Version {
            v: u32,
        }
        let has_head =
            |value: &Vec<u8>| serde_json::from_slice(value).is_ok_and(|Version { v }| v >= HEADED);
        match self.head {
            Some(head) if head.sum != sum(values) => {
                Err(damaged(&self.path, "something in it is lost"))
            }
            None if values.values().any(has_head) => Err(damaged(&self.path, "its head is lost")),
            None if values.is_empty() && number > 0 => {
                Err(damaged(&self.path, "everything in it is lost"))
            }
            head if head.map_or(0, |head| head.number) < number => Err(damaged(
                &self.path,
                "its newest changes are lost, copy it and remove the file `lock` beside it to go on without \
                 them",
            )),
            _ => Ok(()),
        }
    }

    /// Returns a value.
    pub(super) fn value(&self, key: &str) -> io::Result<Option<Vec<u8>>> {
        let pieces = self.pieces(key)?;
        Ok((!pieces.is_empty()).then(|| pieces.concat()))
    }

    /// Returns all values but the head, by their keys.
    pub(super) fn values(&self) -> io::Result<Values> {
        let mut values = Values::new();
        for entry in self.sled.iter() {
            // sled repeats an error forever, so the first error ends the loop.
            let (key, value) = entry.map_err(|error| from_sled(&self.path, error))?;
            // The pieces of a value follow its beginning in order.
            let (of, is_beginning) = match key.as_ref() {
                [of @ .., NO_TEXT, _, _] => (of, false),
                key => (key, true),
            };
            let of = String::from_utf8_lossy(of).into_owned();
            match values.get_mut(&of) {
                None if is_beginning => {
                    values.insert(of, value.to_vec());
                }
                Some(begun) if !is_beginning => begun.extend_from_slice(&value),
                _ => return Err(damaged(&self.path, "a value has no beginning")),
            }
        }
        values.remove(HEAD);
        Ok(values)
    }

    /// Sets all values, or none; `None` removes a value. Returns the number of this write. The
    /// values are on disk when this returns. After an error, they may or may not be on disk.
    pub(super) fn write(&mut self, values: BTreeMap<String, Option<Vec<u8>>>) -> io::Result<u64> {
        let mut head = match self.head {
            Some(head) => head,
            None => Head { number: 0, sum: sum(&self.values()?) },
        };
        head.number += 1;
        let mut batch = sled::Batch::default();
        for (key, value) in values {
            let before = self.pieces(&key)?;
            if !before.is_empty() {
                head.sum = head.sum.wrapping_sub(hash(&key, &before.concat()));
            }
            if let Some(value) = &value {
                head.sum = head.sum.wrapping_add(hash(&key, value));
            }
            // A removed value has no pieces.
            let value = value.unwrap_or_default();
            for (number, piece) in value.chunks(PIECE).enumerate() {
                batch.insert(piece_key(&key, number)?, piece);
            }
            for left_over in value.len().div_ceil(PIECE)..before.len() {
                batch.remove(piece_key(&key, left_over)?);
            }
        }
        batch.insert(HEAD, serde_json::to_vec(&head)?);
        self.sled.apply_batch(batch).map_err(|error| from_sled(&self.path, error))?;
        self.sled.flush().map_err(|error| from_sled(&self.path, error))?;
        // On Linux, sled's flush does not call fsync.
        self.log.sync_all()?;
        self.head = Some(head);
        Ok(head.number)
    }

    /// Returns the pieces of a value, or none if the value does not exist.
    fn pieces(&self, key: &str) -> io::Result<Vec<sled::IVec>> {
        let mut pieces = Vec::new();
        let mut next = self.get(key.as_bytes())?;
        while let Some(piece) = next {
            let is_last = piece.len() != PIECE;
            pieces.push(piece);
            next = if is_last { None } else { self.get(&piece_key(key, pieces.len())?)? };
        }
        Ok(pieces)
    }

    fn get(&self, key: &[u8]) -> io::Result<Option<sled::IVec>> {
        self.sled.get(key).map_err(|error| from_sled(&self.path, error))
    }
}

/// Runs `work` on the database at `path`, and converts a panic into an error. After that, the
/// database cannot be used.
pub(super) fn guard<T>(path: &Path, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no text");
        Err(damaged(path, &format!("sled panicked: {text}")))
    })
}

fn piece_key(key: &str, number: usize) -> io::Result<Vec<u8>> {
    match u16::try_from(number) {
        Ok(0) => Ok(key.as_bytes().to_vec()),
        Ok(number) => Ok([key.as_bytes(), &[NO_TEXT], &number.to_be_bytes()].concat()),
        Err(_) => Err(io::Error::other("a record of more than 262 million bytes cannot be stored")),
    }
}

fn sum(values: &Values) -> u64 {
    values.iter().fold(0, |sum, (key, value)| sum.wrapping_add(hash(key, value)))
}

/// Hashes a key and its value. The hash is stored, so its algorithm must not change.
fn hash(key: &str, value: &[u8]) -> u64 {
    fnv1a(&[key.as_bytes(), &[NO_TEXT], value])
}

fn from_sled(path: &Path, error: sled::Error) -> io::Error {
    match error {
        // sled cannot find data that it wrote, or finds it truncated.
        sled::Error::Io(error)
            if matches!(
                error.kind(),
                ErrorKind::InvalidData | ErrorKind::NotFound | ErrorKind::UnexpectedEof
            ) =>
        {
            damaged(path, &error.to_string())
        }
        sled::Error::Io(error) => {
            let message = format!("the database {} cannot be used: {error}", path.display());
            io::Error::new(error.kind(), message)
        }
        error => damaged(path, &error.to_string()),
    }
}

fn damaged(path: &Path, what: &str) -> io::Error {
    let message = format!("the database {} is damaged: {what}", path.display());
    io::Error::new(ErrorKind::InvalidData, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A database in a temporary directory, which is removed on drop.
    struct Temp(Database);

    impl Temp {
        fn new(name: &str) -> Self {
            let name = format!("keyfob-database-{name}-{}", std::process::id());
            let path = std::env::temp_dir().join(name);
            let _ = fs::remove_dir_all(&path);
            Self(Database::open(path, None).unwrap())
        }

        fn set(&mut self, values: &[(&str, Option<usize>)]) {
            let value = |length: Option<usize>| length.map(|length| vec![b'x'; length]);
            let values = values.iter().map(|(key, length)| ((*key).to_owned(), value(*length)));
            self.0.write(values.collect()).unwrap();
        }

        fn lengths(&self) -> Vec<(String, usize)> {
            let values = self.0.values().unwrap();
            self.0.check(&values, 0).unwrap();
            values.into_iter().map(|(key, value)| (key, value.len())).collect()
        }
    }

    impl Drop for Temp {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0.path);
        }
    }

    /// Values are replaced by shorter and longer ones, up to several pieces.
    #[test]
    fn replaced_values_leave_no_pieces() {
        let mut database = Temp::new("lengths");
        // The second key must not be mistaken for the key of a piece.
        let (key, other) = ("a/a", "a/a\0\0\u{1}");
        database.set(&[(other, Some(9000))]);
        let lengths = [1, 3999, 4000, 4001, 8000, 12_001, 24_576, 8001, 4000, 1];
        for length in lengths {
            database.set(&[(key, Some(length))]);
            assert_eq!(database.lengths(), [(key.to_owned(), length), (other.to_owned(), 9000)]);
            let value = database.0.value(key).unwrap().unwrap();
            assert_eq!(value.len(), length);
            let longest = database.0.sled.iter().map(|entry| entry.unwrap().1.len()).max();
            assert!(longest.unwrap() <= PIECE, "{longest:?}");
        }
        database.set(&[(key, Some(24_576))]);
        database.set(&[(key, None), (other, None), ("nobody", None)]);
        assert_eq!(database.lengths(), []);
        assert_eq!(database.0.value(key).unwrap(), None);
        assert_eq!(database.0.sled.len(), 1, "the head");
    }

    #[test]
    fn missing_keys_and_writes_are_detected() {
        let mut database = Temp::new("lost");
        database.set(&[("a", Some(1)), ("b", Some(9000))]);
        database.set(&[("c", Some(1))]);
        let whole = |database: &Temp, number| {
            let values = database.0.values()?;
            database.0.check(&values, number)
        };
        assert!(whole(&database, 2).is_ok());
        let error = whole(&database, 3).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData, "somebody knows of one more write");
        let keys: Vec<_> = database.0.sled.iter().keys().map(Result::unwrap).collect();
        assert_eq!(keys.len(), 6);
        for key in keys.iter().filter(|key| **key != HEAD) {
            let value = database.0.sled.remove(key).unwrap().unwrap();
            assert!(whole(&database, 0).is_err(), "{key:?}");
            database.0.sled.insert(key, value).unwrap();
        }
        assert!(whole(&database, 0).is_ok());
    }

    #[test]
    fn sled_panic_is_reported_as_damage() {
        let path = Path::new("/x/db");
        assert!(matches!(guard(path, || Ok(1)), Ok(1)));
        let error = guard(path, || -> io::Result<()> { panic!("at {}", 7) }).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        assert_eq!(error.to_string(), "the database /x/db is damaged: sled panicked: at 7");
    }
}
