//! A backup of a database file before sled opens it. While sled opens a damaged file, it zeroes the
//! bytes after the damage up to the end of the segment: in a small database, nearly all of them.

use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::fs::rename;
use crate::private::{private, sync_dir, write_private};
use crate::secret::wipe;

/// The largest database that is backed up. sled zeroes only a part of a larger one.
const MAX_SIZE: u64 = 2 * 1024 * 1024;

/// Reused, because allocating so much memory takes as long as reading the file.
static BUFFER: Mutex<Vec<u8>> = Mutex::new(Vec::new());

/// The bytes of a file.
pub(super) struct Backup {
    file: PathBuf,
    bytes: Vec<u8>,
}

impl Backup {
    /// Reads the file of a database that is not open. `None` if it does not exist or is too large.
    pub(super) fn read(database: &Path) -> io::Result<Option<Self>> {
        let path = database.join("db");
        let file = match File::open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let size = file.metadata()?.len();
        if size > MAX_SIZE {
            return Ok(None);
        }
        let buffer = std::mem::take(&mut *BUFFER.lock().unwrap_or_else(PoisonError::into_inner));
        let mut backup = Self { file: path, bytes: buffer };
        backup.bytes.reserve_exact(usize::try_from(size).unwrap_or_default());
        file.take(MAX_SIZE).read_to_end(&mut backup.bytes)?;
        Ok(Some(backup))
    }

    /// Restores the file if bytes of it were zeroed. The database must be closed and must not have
    /// been written to.
    pub(super) fn restore(&self) {
        if std::fs::read(&self.file).is_ok_and(|now| !self.has_lost_bytes(&now)) {
            return;
        }
        let restore = || {
            let draft = self.file.with_extension("original");
            write_private(&draft, &self.bytes)?;
            // Windows cannot sync a file that is open for reading only.
            private().write(true).open(&draft)?.sync_all()?;
            rename(&draft, &self.file)?;
            self.file.parent().map_or(Ok(()), sync_dir)
        };
        // Best effort: the damage is reported anyway.
        let _ = restore();
    }

    fn has_lost_bytes(&self, now: &[u8]) -> bool {
        let mut bytes = self.bytes.iter().zip(now);
        now.len() < self.bytes.len() || bytes.any(|(before, now)| *before != 0 && *now == 0)
    }
}

// By hand: the bytes contain tokens.
impl fmt::Debug for Backup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backup").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Drop for Backup {
    fn drop(&mut self) {
        wipe(&mut self.bytes);
        self.bytes.clear();
        let bytes = std::mem::take(&mut self.bytes);
        *BUFFER.lock().unwrap_or_else(PoisonError::into_inner) = bytes;
    }
}
