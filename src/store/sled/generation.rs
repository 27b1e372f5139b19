//! The file `generation`, from which a reader knows whether anything has changed, and a writer which
//! database is current.
//!
//! | offset | bytes | content |
//! | --- | --- | --- |
//! | 0 | 8 | count: even if the snapshot is up to date, odd while a writer is active or after it crashed |
//! | 8 | 8 | the number in the name of the current database |
//! | 16 | 8 | complement of the count |
//! | 24 | 8 | complement of the number |
//! | 32 | 16 | on Windows: the identity of the file, see [`FileId`] |
//!
//! All numbers are little-endian. The file is written in place and never replaced, so that a reader
//! keeps it open and needs one positioned read. The complements reveal a torn write.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use super::file_id::FileId;
use crate::clock::milliseconds;
use crate::error::{StoreError, failed};
use crate::owner::Owner;
use crate::private::{open_or_create, private};

const SIZE: usize = 32;
/// How often a reader checks that the file still has its name and that this process opened it. The
/// check takes about half as long as a read.
const CHECK: Duration = Duration::from_secs(1);

/// The content of the file.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Generation {
    pub(super) count: u64,
    /// The number in the name of the current database.
    pub(super) database: u64,
}

/// The open file.
#[derive(Debug)]
pub(super) struct GenerationFile {
    file: File,
    path: PathBuf,
    identity: FileId,
    /// The process that opened it. A forked child has another id.
    process: u32,
    /// When name and process were last checked, in milliseconds of [`uptime`].
    checked: AtomicI64,
}

impl Generation {
    /// Returns `true` if no writer is active or has crashed.
    pub(super) fn is_clean(self) -> bool {
        self.count.is_multiple_of(2)
    }

    /// Returns `true` if no commit was ever finished, so that no data can be lost.
    pub(super) fn is_first(self) -> bool {
        self.count <= 1
    }

    /// Returns the odd generation for a writer that starts now. The first generation is not counted
    /// further until a commit is finished.
    pub(super) fn begin_write(self) -> Self {
        let count = if self.is_first() { 1 } else { self.count.saturating_add(1) | 1 };
        Self { count, ..self }
    }

    /// Returns the even generation after this one.
    pub(super) fn end_write(self) -> Self {
        Self { count: self.count.saturating_add(1) & !1, ..self }
    }

    fn to_bytes(self) -> [u8; SIZE] {
        let mut bytes = [0; SIZE];
        let words = [self.count, self.database, !self.count, !self.database];
        for (to, word) in bytes.chunks_exact_mut(8).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// Returns `None` if the bytes are torn or corrupt.
    fn from_bytes(bytes: [u8; SIZE]) -> Option<Self> {
        let mut words = [0; 4];
        for (word, from) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_le_bytes(from.try_into().ok()?);
        }
        let [count, database, not_count, not_database] = words;
        // Half of all numbers is never reached, and there must be a next one.
        let is_valid = count == !not_count && database == !not_database && count <= u64::MAX / 2;
        is_valid.then_some(Self { count, database })
    }
}

impl GenerationFile {
    /// Opens the file for reading. `None` if it does not exist.
    pub(super) fn open(path: &Path) -> Result<Option<Self>, StoreError> {
        match File::open(path).and_then(|file| Self::new(file, path)) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            file => file.map(Some).map_err(|error| failed("open the generation", path, error)),
        }
    }

    /// Opens the file for reading and writing. `None` if it does not exist. If the store has another
    /// owner, the file must belong to that owner.
    pub(super) fn open_to_write(
        path: &Path,
        owner: Option<Owner>,
    ) -> Result<Option<Self>, StoreError> {
        let file = private().read(true).write(true).open(path).and_then(|file| {
            owner.map_or(Ok(()), |owner| owner.check(&file, path))?;
            Self::new(file, path)
        });
        match file {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            file => file.map(Some).map_err(|error| failed("open the generation", path, error)),
        }
    }

    /// Creates the file.
    pub(super) fn create(path: &Path, first: Generation) -> Result<Self, StoreError> {
        let file = open_or_create(private().read(true).write(true), path)
            .and_then(|file| {
                FileId::assign(&file)?;
                Self::new(file, path)
            })
            .map_err(|error| failed("create the generation", path, error))?;
        file.write(first, true)?;
        Ok(file)
    }

    fn new(file: File, path: &Path) -> io::Result<Self> {
        let identity = FileId::of(&file)?;
        let (process, checked) = (std::process::id(), AtomicI64::new(uptime()));
        Ok(Self { file, path: path.to_owned(), identity, process, checked })
    }

    /// Reads the file. `None` if it is torn.
    pub(super) fn read(&self) -> Result<Option<Generation>, StoreError> {
        self.try_read().map_err(|error| failed("read the generation", &self.path, error))
    }

    fn try_read(&self) -> io::Result<Option<Generation>> {
        let mut bytes = [0; SIZE];
        // A write of another process may be half done; the next read finds it complete.
        for _ in 0..3 {
            match read_at(&self.file, &mut bytes) {
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
                read => read?,
            }
            if let Some(generation) = Generation::from_bytes(bytes) {
                return Ok(Some(generation));
            }
        }
        Ok(None)
    }

    /// Writes the file in place. With `sync`, the write survives a power cut.
    pub(super) fn write(&self, generation: Generation, sync: bool) -> Result<(), StoreError> {
        let write = || {
            write_at(&self.file, &generation.to_bytes())?;
            if sync { self.file.sync_data() } else { Ok(()) }
        };
        write().map_err(|error| failed("write the generation", &self.path, error))
    }

    /// Returns `true` if the file still has its name, and was not deleted or replaced.
    pub(super) fn is_in_place(&self) -> bool {
        FileId::at(&self.path).is_ok_and(|now| now == self.identity)
    }

    /// Returns `true` if the file had its name and belonged to this process at the last check, which
    /// is repeated once a second.
    pub(super) fn was_in_place(&self) -> bool {
        let (now, checked) = (uptime(), self.checked.load(Ordering::Relaxed));
        if now.saturating_sub(checked) < milliseconds(CHECK) {
            return true;
        }
        let in_place = self.process == std::process::id() && self.is_in_place();
        if in_place {
            self.checked.store(now, Ordering::Relaxed);
        }
        in_place
    }

    pub(super) fn identity(&self) -> FileId {
        self.identity
    }

    /// Returns `true` if both are the same file.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.identity == other.identity
    }
}

/// Returns the milliseconds since the first call.
fn uptime() -> i64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    milliseconds(START.elapsed())
}

#[cfg(unix)]
fn read_at(file: &File, bytes: &mut [u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, 0)
}

#[cfg(unix)]
fn write_at(file: &File, bytes: &[u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, 0)
}

#[cfg(windows)]
fn read_at(file: &File, bytes: &mut [u8]) -> io::Result<()> {
    let read = std::os::windows::fs::FileExt::seek_read(file, bytes, 0)?;
    if read == bytes.len() { Ok(()) } else { Err(ErrorKind::UnexpectedEof.into()) }
}

#[cfg(windows)]
fn write_at(file: &File, bytes: &[u8]) -> io::Result<()> {
    let written = std::os::windows::fs::FileExt::seek_write(file, bytes, 0)?;
    if written == bytes.len() { Ok(()) } else { Err(ErrorKind::WriteZero.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flipped_bit_is_detected() {
        let bytes = Generation { count: 1234, database: 5 }.to_bytes();
        for bit in 0..SIZE * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Generation::from_bytes(flipped), None);
        }
        assert_eq!(Generation::from_bytes([0; SIZE]), None);
        assert_eq!(Generation::from_bytes(bytes).unwrap().count, 1234);
    }

    #[test]
    fn write_makes_count_odd_then_even() {
        for (before, during, after) in [(0, 1, 2), (1, 1, 2), (2, 3, 4), (3, 5, 6), (8, 9, 10)] {
            let before = Generation { count: before, database: 7 };
            assert_eq!(before.begin_write(), Generation { count: during, database: 7 });
            assert_eq!(before.begin_write().end_write(), Generation { count: after, database: 7 });
        }
    }
}
