//! The lock file of a data directory. It also stores the number of the newest change.

use std::fs::{File, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::Path;

use super::files::private_file;
use crate::owner::Owner;
use crate::private::open_or_create;

/// The lock, held until this is dropped.
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

    /// Rejects a lock file that does not belong to the owner of the directory.
    pub(super) fn check(&self, owner: Owner, dir: &Path) -> io::Result<()> {
        owner.check(&self.0, &dir.join("lock"))
    }

    /// Stores the number of a change that is on disk, so that a database without the change is
    /// recognised as damaged. The file is not synced, because a missing or older number does no
    /// harm.
    pub(super) fn note(&self, number: u64) {
        let mut file = &self.0;
        let _ = file
            .seek(SeekFrom::Start(0))
            .and_then(|_| file.write_all(format!("{number:020}\n").as_bytes()));
    }

    /// Returns the stored number, or zero if it is unknown.
    pub(super) fn noted(&self) -> u64 {
        let (mut file, mut text) = (&self.0, String::new());
        let read = file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_string(&mut text));
        read.ok().and_then(|_| text.trim().parse().ok()).unwrap_or_default()
    }
}
