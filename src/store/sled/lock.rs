//! File locks between processes, with a deadline.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;

#[cfg(unix)]
use super::file_id::FileId;
use crate::deadline::Deadline;
use crate::error::{StoreError, failed};
use crate::poll::Poller;
use crate::private::{open_or_create, private};

/// An exclusive lock on a file, released when it is dropped or the process ends.
#[derive(Debug)]
pub(super) struct FileLock(File);

impl FileLock {
    /// Locks a file, and creates it if it does not exist. `None` if another holder kept the lock
    /// until the deadline. With a deadline that has passed this tries once.
    pub(super) fn acquire(path: &Path, deadline: Deadline) -> Result<Option<Self>, StoreError> {
        Self::acquire_with(path, Poller::until(deadline))
    }

    /// Locks a file that many processes lock repeatedly, and keeps the waiting times fair.
    ///
    /// A process that waits for the file holds `turn` meanwhile. A process that has just released the
    /// file has to lock `turn` first, so it cannot overtake the holder of `turn`. Among those that
    /// wait for `turn`, the longest waiting one is the likeliest to lock it.
    pub(super) fn acquire_in_turn(
        path: &Path,
        turn: &Path,
        deadline: Deadline,
    ) -> Result<Option<Self>, StoreError> {
        match Self::acquire_with(turn, Poller::aging(deadline))? {
            Some(_turn) => Self::acquire_with(path, Poller::often(deadline)),
            None => Ok(None),
        }
    }

    fn acquire_with(path: &Path, mut poll: Poller) -> Result<Option<Self>, StoreError> {
        let mut opened = None;
        loop {
            match Self::attempt(path, &mut opened) {
                Ok(Some(lock)) => return Ok(Some(lock)),
                Ok(None) => {}
                Err(error) => return Err(failed("lock the file", path, error)),
            }
            if !poll.wait() {
                return Ok(None);
            }
        }
    }

    /// Tries to lock the file once. On Windows, where an open file cannot lose its name, it stays
    /// open in `opened` for the next attempt.
    fn attempt(path: &Path, opened: &mut Option<File>) -> io::Result<Option<Self>> {
        let file = match opened.take() {
            Some(file) => file,
            None => open(path)?,
        };
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                *opened = Some(file).filter(|_| cfg!(windows));
                return Ok(None);
            }
            Err(TryLockError::Error(error)) => return Err(error),
            Ok(()) => {}
        }
        let lock = Self(file);
        Ok(lock.is_named(path)?.then_some(lock))
    }

    /// Returns `true` if the locked file still has its name. If not, other processes lock another
    /// file.
    #[cfg(unix)]
    fn is_named(&self, path: &Path) -> io::Result<bool> {
        match FileId::at(path) {
            Ok(named) => Ok(named == FileId::of(&self.0)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Returns `true`: an open lock file cannot lose its name.
    #[cfg(windows)]
    fn is_named(&self, _: &Path) -> io::Result<bool> {
        Ok(true)
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        // Closing is not enough: a child of this process has a copy between fork and exec.
        let _ = self.0.unlock();
    }
}

/// Opens a lock file, and creates it if it does not exist. On Windows it cannot be removed or renamed
/// while it is open.
fn open(path: &Path) -> io::Result<File> {
    let mut options = private();
    #[cfg(windows)]
    {
        /// `FILE_SHARE_READ | FILE_SHARE_WRITE`, without `FILE_SHARE_DELETE`.
        const SHARED: u32 = 1 | 2;
        std::os::windows::fs::OpenOptionsExt::share_mode(&mut options, SHARED);
    }
    open_or_create(options.read(true).write(true), path)
}
