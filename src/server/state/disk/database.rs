//! The records on disk, by their keys, and a head that reveals when some of them are lost.
//!
//! The `head` contains a checksum of all other values and the number of the newest write, which
//! updates it. The lock file also stores that number.
//!
//! A key in the [`kv`](crate::kv) database is the key of the record, which is text, and the byte `ff`,
//! which is not in any text. So no key is a prefix of another.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write;
use std::io::{self, ErrorKind};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::deadline::Deadline;
use crate::error::{StoreError, StoreErrorKind};
use crate::hash::checksum;
use crate::kv::{Batch, Kv};
use crate::owner::Owner;
use crate::private::{create_private_dir, restrict};

/// Ends a key.
const END: u8 = 0xff;
const HEAD: &str = "head";
/// How long a starting child process may hold a copy of an open file.
const LONGEST_COPY: Duration = Duration::from_secs(5);

/// Values by their keys.
pub(super) type Values = BTreeMap<String, Vec<u8>>;

pub(super) struct Database {
    kv: Kv,
    /// `None` in a database that was never written to.
    head: Option<Head>,
}

/// Metadata of the newest write.
#[derive(Clone, Copy, Default, Deserialize, Serialize)]
struct Head {
    /// The number of that write.
    number: u64,
    /// The sum of the hashes of all values but this one.
    sum: u64,
}

impl Database {
    /// Opens the database, creating it if necessary. Gives its files to the owner, if there is one.
    pub(super) fn open(path: &Path, owner: Option<Owner>) -> io::Result<Self> {
        create_private_dir(path)?;
        restrict(path, 0o700)?;
        let open = || {
            let kv = Kv::open(path, owner, Deadline::after(LONGEST_COPY))?;
            let head = match kv.value(&kv_key(HEAD))? {
                Some(head) => match serde_json::from_slice(&head) {
                    Ok(head) => Some(head),
                    Err(_) => return Err(kv.damage_error("its head cannot be read")),
                },
                None => {
                    kv.sync_config()?;
                    None
                }
            };
            Ok(Self { kv, head })
        };
        open().map_err(io_error)
    }

    /// Checks that `values`, which are all values in the database, are complete, and that they
    /// include the write with this number.
    pub(super) fn check(&self, values: &Values, number: u64) -> io::Result<()> {
        let lost = match self.head {
            Some(head) if head.sum != sum(values) => "something in it is lost",
            Some(head) if head.number < number => {
                "its newest changes are lost, copy it and remove the file `lock` beside it to go on without \
                 them"
            }
            None if !values.is_empty() => "its head is lost",
            None if number > 0 => "everything in it is lost",
            _ => {
                self.kv.mark_verified();
                return Ok(());
            }
        };
        Err(io_error(self.kv.damage_error(lost)))
    }

    /// Returns a value.
    pub(super) fn value(&self, key: &str) -> io::Result<Option<Vec<u8>>> {
        self.kv.value(&kv_key(key)).map_err(io_error)
    }

    /// Returns all values but the head, by their keys.
    pub(super) fn values(&self) -> io::Result<Values> {
        let mut values = Values::new();
        let read = self.kv.each_value(b"", &mut |key, value| {
            let key = key.strip_suffix(&[END]).and_then(|key| std::str::from_utf8(key).ok());
            let Some(key) = key else {
                return Err(self.kv.damage_error("a record has an invalid key"));
            };
            values.insert(key.to_owned(), value);
            Ok(ControlFlow::Continue(()))
        });
        read.map_err(io_error)?;
        values.remove(HEAD);
        Ok(values)
    }

    /// Sets all values, or none; `None` removes a value. Returns the number of this write. The
    /// values are on disk when this returns. After an error, they may or may not be on disk.
    pub(super) fn write(&mut self, values: BTreeMap<String, Option<Vec<u8>>>) -> io::Result<u64> {
        let mut head = self.head.unwrap_or_default();
        head.number += 1;
        let mut batch = Batch::default();
        for (key, value) in values {
            if let Some(before) = self.value(&key)? {
                head.sum = head.sum.wrapping_sub(hash(&key, &before));
            }
            if let Some(value) = &value {
                head.sum = head.sum.wrapping_add(hash(&key, value));
            }
            self.kv.put(&mut batch, &kv_key(&key), value.as_deref()).map_err(io_error)?;
        }
        let bytes = serde_json::to_vec(&head)?;
        let write = |mut batch| {
            self.kv.put(&mut batch, &kv_key(HEAD), Some(&bytes))?;
            self.kv.apply(batch)?;
            self.kv.sync()
        };
        write(batch).map_err(io_error)?;
        self.head = Some(head);
        Ok(head.number)
    }
}

fn kv_key(key: &str) -> Vec<u8> {
    [key.as_bytes(), &[END]].concat()
}

fn sum(values: &Values) -> u64 {
    values.iter().fold(0, |sum, (key, value)| sum.wrapping_add(hash(key, value)))
}

/// Hashes a key and its value. The hash is stored, so its algorithm must not change.
fn hash(key: &str, value: &[u8]) -> u64 {
    checksum(&[key.as_bytes(), value])
}

fn io_error(error: StoreError) -> io::Error {
    let kind = match error.kind {
        StoreErrorKind::Access => ErrorKind::PermissionDenied,
        StoreErrorKind::Busy => ErrorKind::ResourceBusy,
        StoreErrorKind::Damaged => ErrorKind::InvalidData,
        StoreErrorKind::Full => ErrorKind::StorageFull,
        _ => ErrorKind::Other,
    };
    let mut message = error.reason.to_string();
    if kind == ErrorKind::InvalidData {
        message +=
            ", restore the data directory from a backup, or move it away to start without users";
    }
    if let Some(path) = &error.path {
        let _ = write!(message, ": {}", path.display());
    }
    if let Some(cause) = error.source() {
        let _ = write!(message, ": {cause}");
    }
    io::Error::new(kind, message)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;

    /// A database in a temporary directory, which is removed on drop.
    struct Temp(Database, PathBuf);

    impl Temp {
        fn new(name: &str) -> Self {
            let name = format!("keyfob-database-{name}-{}", std::process::id());
            let path = std::env::temp_dir().join(name);
            let _ = fs::remove_dir_all(&path);
            Self(Database::open(&path, None).unwrap(), path)
        }

        fn set(&mut self, values: &[(&str, Option<usize>)]) {
            let value = |length: Option<usize>| length.map(|length| vec![b'x'; length]);
            let values = values.iter().map(|(key, length)| ((*key).to_owned(), value(*length)));
            self.0.write(values.collect()).unwrap();
        }

        fn check(&self, number: u64) -> io::Result<Values> {
            let values = self.0.values()?;
            self.0.check(&values, number).map(|()| values)
        }

        /// The keys of the entries, several of which a long value has.
        fn entries(&self) -> Vec<Vec<u8>> {
            let mut entries = Vec::new();
            let mut add = |key: &[u8]| {
                entries.push(key.to_vec());
                Ok(ControlFlow::Continue(()))
            };
            self.0.kv.each_key(b"", b"", &mut add).unwrap();
            entries
        }
    }

    impl Drop for Temp {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.1);
        }
    }

    /// Values are replaced by shorter and longer ones.
    #[test]
    fn replaced_values_leave_no_pieces() {
        let mut database = Temp::new("lengths");
        // The second key must not be mistaken for that of a piece of the first.
        let (key, other) = ("a/a", "a/a\0\0\u{1}");
        database.set(&[(other, Some(9000))]);
        for length in [1, 3999, 4000, 4001, 8000, 12_001, 24_576, 8001, 4000, 0, 1] {
            database.set(&[(key, Some(length))]);
            let values = database.check(0).unwrap();
            let lengths: Vec<_> = values.iter().map(|(key, value)| (&**key, value.len())).collect();
            assert_eq!(lengths, [(key, length), (other, 9000)]);
            assert_eq!(database.0.value(key).unwrap().unwrap().len(), length);
        }
        database.set(&[(key, Some(24_576))]);
        database.set(&[(key, None), (other, None), ("nobody", None)]);
        assert!(database.check(0).unwrap().is_empty());
        assert_eq!(database.0.value(key).unwrap(), None);
        assert_eq!(database.entries().len(), 1, "the head");
    }

    #[test]
    fn missing_keys_and_writes_are_detected() {
        let filled = || {
            let mut database = Temp::new("lost");
            database.set(&[("a", Some(1)), ("b", Some(9000))]);
            database.set(&[("c", Some(1))]);
            database
        };
        let database = filled();
        assert!(database.check(2).is_ok());
        let error = database.check(3).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData, "there was one more write");
        let entries = database.entries();
        assert_eq!(entries.len(), 6);
        drop(database);
        for entry in entries {
            let mut database = filled();
            let mut batch = Batch::default();
            batch.remove(&*entry);
            database.0.kv.apply(batch).unwrap();
            if entry.starts_with(HEAD.as_bytes()) {
                database.0.head = None;
            }
            let error = database.check(0).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidData, "{entry:?}: {error}");
        }
    }
}
