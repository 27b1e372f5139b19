//! The lock of a data directory, in which the number of the newest change is noted.

use std::fs::{File, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::Path;

use super::files::private_file;
use crate::owner::Owner;
use crate::private::open_or_create;

/// Held for as long as it lives.
pub(super) struct Lock(File);

impl Lock {
    pub(super) fn take(dir: &Path) -> io::Result<Self> {
        let file = open_or_create(&private_file(), &dir.join("lock"))?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => {
                let message =
                    format!("the data directory {} is in use by another server", dir.display());
                Err(io::Error::new(ErrorKind::ResourceBusy, message))
            }
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Refuses a lock file that does not belong to the owner of the directory.
    pub(super) fn check(&self, owner: Owner, dir: &Path) -> io::Result<()> {
        owner.check(&self.0, &dir.join("lock"))
    }

    /// Notes that the change with this number is on disk, so that a database without it is known
    /// for damaged. A note that is lost or too old does no harm, so it is not synced.
    pub(super) fn note(&self, number: u64) {
        let mut file = &self.0;
        let _ = file
            .seek(SeekFrom::Start(0))
            .and_then(|_| file.write_all(format!("{number:020}\n").as_bytes()));
    }

    /// Returns the number that was noted last, zero if that is not known.
    pub(super) fn noted(&self) -> u64 {
        let (mut file, mut text) = (&self.0, String::new());
        let read = file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_string(&mut text));
        read.ok().and_then(|_| text.trim().parse().ok()).unwrap_or_default()
    }
}
