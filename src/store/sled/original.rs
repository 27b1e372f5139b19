//! The bytes of a database as they were before sled opened it. While it opens one it zeroes what
//! comes after damage, up to the end of the segment: of a small database, nearly everything.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::fs::rename;
use crate::private::{private, sync_dir, write_private};
use crate::secret::wipe;

/// The largest database that is remembered. Of a larger one sled spoils a part.
const MOST: u64 = 2 * 1024 * 1024;

/// Used again and again, since to get as much memory anew costs as much as to read the file.
static BUFFER: Mutex<Vec<u8>> = Mutex::new(Vec::new());

/// The bytes, and where they were.
#[derive(Debug)]
pub(super) struct Original {
    file: PathBuf,
    bytes: Vec<u8>,
}

impl Original {
    /// Reads a database that is not open; `None` if there is none, or too large a one.
    pub(super) fn read(database: &Path) -> io::Result<Option<Self>> {
        let path = database.join("db");
        let file = match File::open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let size = file.metadata()?.len();
        if size > MOST {
            return Ok(None);
        }
        let buffer = std::mem::take(&mut *BUFFER.lock().unwrap_or_else(PoisonError::into_inner));
        let mut original = Self { file: path, bytes: buffer };
        original.bytes.reserve_exact(usize::try_from(size).unwrap_or_default());
        file.take(MOST).read_to_end(&mut original.bytes)?;
        Ok(Some(original))
    }

    /// Makes the file what it was, if bytes of it were zeroed. The database must be closed, and
    /// nothing written to it since.
    pub(super) fn restore_backup(&self) {
        if std::fs::read(&self.file).is_ok_and(|now| !self.is_spoilt(&now)) {
            return;
        }
        let restore_backup = || {
            let draft = self.file.with_extension("original");
            write_private(&draft, &self.bytes)?;
            // Windows syncs no file that is open for reading alone.
            private().write(true).open(&draft)?.sync_all()?;
            rename(&draft, &self.file)?;
            self.file.parent().map_or(Ok(()), sync_dir)
        };
        // Best effort: that the database is damaged is told all the same.
        let _ = restore_backup();
    }

    fn is_spoilt(&self, now: &[u8]) -> bool {
        let mut bytes = self.bytes.iter().zip(now);
        now.len() < self.bytes.len() || bytes.any(|(before, now)| *before != 0 && *now == 0)
    }
}

impl Drop for Original {
    fn drop(&mut self) {
        // Tokens are in there.
        wipe(&mut self.bytes);
        self.bytes.clear();
        let bytes = std::mem::take(&mut self.bytes);
        *BUFFER.lock().unwrap_or_else(PoisonError::into_inner) = bytes;
    }
}
