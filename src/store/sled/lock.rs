//! File locks between processes, with a deadline.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

#[cfg(unix)]
use super::file_id::FileId;
use super::layout::failed;
use crate::deadline::Deadline;
use crate::error::StoreError;
use crate::private::{open_or_create, private};

/// The sleep after the first attempt.
const FIRST_SLEEP: Duration = Duration::from_micros(50);

/// The longest sleep between two attempts.
const LONGEST_SLEEP: Duration = Duration::from_millis(2);

/// The longest sleep of the next process in line.
const SHORT_SLEEP: Duration = Duration::from_micros(200);

/// An exclusive lock on a file, released when it is dropped or the process ends.
#[derive(Debug)]
pub(super) struct FileLock(File);

impl FileLock {
    /// Locks a file, and creates it if it does not exist. `None` if another holder kept the lock
    /// until the deadline. With a deadline that has passed this tries once.
    pub(super) fn acquire(path: &Path, deadline: Deadline) -> Result<Option<Self>, StoreError> {
        Self::acquire_with(path, Backoff::until(deadline))
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
        let backoff = Backoff { pace: Pace::Aging(Instant::now()), deadline };
        let Some(_turn) = Self::acquire_with(turn, backoff)? else { return Ok(None) };
        let (next, longest) = (FIRST_SLEEP, SHORT_SLEEP);
        Self::acquire_with(path, Backoff { pace: Pace::Exponential { next, longest }, deadline })
    }

    fn acquire_with(path: &Path, mut backoff: Backoff) -> Result<Option<Self>, StoreError> {
        let mut opened = None;
        loop {
            match Self::attempt(path, &mut opened) {
                Ok(Some(lock)) => return Ok(Some(lock)),
                Ok(None) => {}
                Err(error) => return Err(failed("lock the file", path, error)),
            }
            if !backoff.wait() {
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

/// Sleeps between attempts, until a deadline.
pub(super) struct Backoff {
    pace: Pace,
    deadline: Deadline,
}

/// The lengths of the sleeps.
enum Pace {
    /// Doubled each time.
    Exponential { next: Duration, longest: Duration },
    /// Shorter the longer the wait, which began at this time. So among many processes that wait for
    /// one lock, the longest waiting one tries most often.
    Aging(Instant),
}

impl Backoff {
    /// Sleeps that grow, up to two milliseconds.
    pub(super) fn until(deadline: Deadline) -> Self {
        let (next, longest) = (FIRST_SLEEP, LONGEST_SLEEP);
        Self { pace: Pace::Exponential { next, longest }, deadline }
    }

    /// Sleeps. Returns `false`, without a sleep, if the deadline has passed.
    pub(super) fn wait(&mut self) -> bool {
        let left = self.deadline.remaining();
        if left.is_zero() {
            return false;
        }
        let time = match &mut self.pace {
            Pace::Exponential { next, longest } => {
                let time = *next;
                *next = (time * 2).min(*longest);
                time
            }
            Pace::Aging(since) => after_waiting(since.elapsed()),
        };
        thread::sleep(time.min(left));
        true
    }
}

/// Returns the length of the next sleep: 2 ms at first, 200 us after a wait of 200 ms.
fn after_waiting(waited: Duration) -> Duration {
    const YOUNG: Duration = Duration::from_millis(20);
    let share = YOUNG.as_secs_f64() / waited.max(YOUNG).as_secs_f64();
    LONGEST_SLEEP.mul_f64(share).max(SHORT_SLEEP)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleep_is_shorter_after_longer_wait() {
        let poll_interval = |millis| after_waiting(Duration::from_millis(millis)).as_micros();
        assert_eq!(
            [0, 20, 40, 200, 1000, 1 << 40].map(poll_interval),
            [2000, 2000, 1000, 200, 200, 200]
        );
    }
}
