//! `generation`: 32 bytes that tell a reader whether anything changed, and a writer where the
//! database is.
//!
//! The file is written in place and never replaced, so a reader keeps it open and needs one
//! positioned read. An even count means that the snapshot is up to date, an odd one that a writer
//! is at work, or was.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use super::file_id::FileId;
use super::layout::failed;
use crate::clock::milliseconds;
use crate::error::StoreError;
use crate::owner::Owner;
use crate::private::{open_or_create, private};

const SIZE: usize = 32;
/// How often it is checked that the file is still the one under its name, and this process the one
/// that opened it, which costs as much as half a look at the file.
const CHECK: Duration = Duration::from_secs(1);

/// What the file says.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Generation {
    pub(super) count: u64,
    /// The number in the name of the database that holds the truth.
    pub(super) database: u64,
}

/// The open file.
#[derive(Debug)]
pub(super) struct GenerationFile {
    file: File,
    path: PathBuf,
    identity: FileId,
    /// The process that opened it, and no child forked off.
    process: u32,
    /// When name and process were last checked, in milliseconds of this process's life.
    checked: AtomicI64,
}

impl Generation {
    /// Tells whether the snapshot of this generation is up to date.
    pub(super) fn is_clean(self) -> bool {
        self.count.is_multiple_of(2)
    }

    /// Tells whether no commit was ever finished: there is nothing that could be lost.
    pub(super) fn is_first(self) -> bool {
        self.count <= 1
    }

    /// Returns the generation of a writer at work that comes after this one. The very first one
    /// is not counted on, so that it stays the first until it is finished.
    pub(super) fn begin_write(self) -> Self {
        let count = if self.is_first() { 1 } else { self.count.saturating_add(1) | 1 };
        Self { count, ..self }
    }

    /// Returns the generation that ends this one.
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

    /// Returns `None` for what no writer wrote: a torn or a flipped one.
    fn from_bytes(bytes: [u8; SIZE]) -> Option<Self> {
        let mut words = [0; 4];
        for (word, from) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_le_bytes(from.try_into().ok()?);
        }
        let [count, database, not_count, not_database] = words;
        // Nobody has come to the half of all numbers, and there must be a next one.
        let is_whole = count == !not_count && database == !not_database && count <= u64::MAX / 2;
        is_whole.then_some(Self { count, database })
    }
}

impl GenerationFile {
    /// Opens the file to read; `None` if there is none.
    pub(super) fn open(path: &Path) -> Result<Option<Self>, StoreError> {
        match File::open(path).and_then(|file| Self::new(file, path)) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            file => file.map(Some).map_err(|error| failed("open the generation", path, error)),
        }
    }

    /// Opens the file to read and write; `None` if there is none. It must belong to the owner of
    /// the store, if there is one.
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

    /// Makes the file, with this in it.
    pub(super) fn create(path: &Path, first: Generation) -> Result<Self, StoreError> {
        let file = open_or_create(private().read(true).write(true), path)
            .and_then(|file| {
                FileId::assign(&file)?;
                Self::new(file, path)
            })
            .map_err(|error| failed("make the generation", path, error))?;
        file.write(first, true)?;
        Ok(file)
    }

    fn new(file: File, path: &Path) -> io::Result<Self> {
        let identity = FileId::of(&file)?;
        let (process, checked) = (std::process::id(), AtomicI64::new(uptime()));
        Ok(Self { file, path: path.to_owned(), identity, process, checked })
    }

    /// Reads what the file says now; `None` if it is torn.
    pub(super) fn read(&self) -> Result<Option<Generation>, StoreError> {
        self.look().map_err(|error| failed("read the generation", &self.path, error))
    }

    fn look(&self) -> io::Result<Option<Generation>> {
        let mut bytes = [0; SIZE];
        // A write of another process may be seen half done; it is over at the next look.
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

    /// Writes in place; with `sync`, what was written survives a power cut.
    pub(super) fn write(&self, generation: Generation, sync: bool) -> Result<(), StoreError> {
        let write = || {
            write_at(&self.file, &generation.to_bytes())?;
            if sync { self.file.sync_data() } else { Ok(()) }
        };
        write().map_err(|error| failed("write the generation", &self.path, error))
    }

    /// Tells whether this is the file under its name, and not one that was deleted or replaced.
    pub(super) fn is_in_place(&self) -> bool {
        FileId::at(&self.path).is_ok_and(|now| now == self.identity)
    }

    /// Like [`Self::is_in_place`], and that no child is asking; but looks only once a second.
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

    /// Tells whether both are the same file.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.identity == other.identity
    }
}

/// Returns the milliseconds since this was first asked.
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
    fn any_flipped_bit_is_seen() {
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
    fn a_writer_makes_it_odd_and_then_even() {
        for (now, working, done) in [(0, 1, 2), (1, 1, 2), (2, 3, 4), (3, 5, 6), (8, 9, 10)] {
            let now = Generation { count: now, database: 7 };
            assert_eq!(now.begin_write(), Generation { count: working, database: 7 });
            assert_eq!(now.begin_write().end_write(), Generation { count: done, database: 7 });
        }
    }
}
