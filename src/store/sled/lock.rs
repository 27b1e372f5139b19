//! Locks between processes, with a deadline.

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

/// The sleep after a first attempt.
const FIRST_SLEEP: Duration = Duration::from_micros(50);

/// The longest sleep between two attempts.
const LONGEST_SLEEP: Duration = Duration::from_millis(2);

/// The same for the one whose turn is next, of whom there is only one.
const SHORT_SLEEP: Duration = Duration::from_micros(200);

/// An exclusive lock on a file, released when it is dropped or when the process ends.
#[derive(Debug)]
pub(super) struct FileLock(File);

impl FileLock {
    /// Locks the file, which is made if need be. `None` means that somebody else held it until
    /// the deadline; with one that has passed it is tried once.
    pub(super) fn take(path: &Path, deadline: Deadline) -> Result<Option<Self>, StoreError> {
        Self::take_backing_off(path, Backoff::until(deadline))
    }

    /// Locks a file that many take again and again. Whoever waits for it holds `turn` meanwhile,
    /// and who has just had it must get that first: the holder of `turn` is never overtaken. Among
    /// those who wait for `turn`, who has waited longest is the likeliest to get it.
    pub(super) fn take_in_turn(
        path: &Path,
        turn: &Path,
        deadline: Deadline,
    ) -> Result<Option<Self>, StoreError> {
        let backoff = Backoff { pace: Pace::Aging(Instant::now()), deadline };
        let Some(_turn) = Self::take_backing_off(turn, backoff)? else { return Ok(None) };
        let (next, longest) = (FIRST_SLEEP, SHORT_SLEEP);
        Self::take_backing_off(
            path,
            Backoff { pace: Pace::Exponential { next, longest }, deadline },
        )
    }

    fn take_backing_off(path: &Path, mut backoff: Backoff) -> Result<Option<Self>, StoreError> {
        let mut opened = None;
        loop {
            match Self::attempt(path, &mut opened) {
                Ok(Some(lock)) => return Ok(Some(lock)),
                Ok(None) => {}
                Err(error) => return Err(failed("take the lock", path, error)),
            }
            if !backoff.wait() {
                return Ok(None);
            }
        }
    }

    /// Tries to lock the file once. Where a file that is open here cannot lose its name, it stays in
    /// `opened` for the next attempt.
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

    /// Tells whether the locked file still has its name: a lock on another one excludes nobody.
    #[cfg(unix)]
    fn is_named(&self, path: &Path) -> io::Result<bool> {
        match FileId::at(path) {
            Ok(named) => Ok(named == FileId::of(&self.0)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// It has: no open lock file can lose it.
    #[cfg(windows)]
    fn is_named(&self, _: &Path) -> io::Result<bool> {
        Ok(true)
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        // Closing is not enough: a child that is being started may hold a copy for a moment.
        let _ = self.0.unlock();
    }
}

/// Opens a lock file, which is made if need be. On Windows nobody can remove or rename it while it
/// is open.
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

/// How long the sleeps are.
enum Pace {
    /// Longer and longer.
    Exponential { next: Duration, longest: Duration },
    /// Shorter and shorter, since the wait began: among many who wait for one thing, who has waited
    /// longest looks most often, and is the likeliest to get it.
    Aging(Instant),
}

impl Backoff {
    /// Sleeps that grow, up to two milliseconds.
    pub(super) fn until(deadline: Deadline) -> Self {
        let (next, longest) = (FIRST_SLEEP, LONGEST_SLEEP);
        Self { pace: Pace::Exponential { next, longest }, deadline }
    }

    /// Sleeps a little; `false` means that the time is up.
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

/// Returns how long to sleep after so much waiting: 2 ms at first, 200 us from 200 ms on.
fn after_waiting(waited: Duration) -> Duration {
    const YOUNG: Duration = Duration::from_millis(20);
    let share = YOUNG.as_secs_f64() / waited.max(YOUNG).as_secs_f64();
    LONGEST_SLEEP.mul_f64(share).max(SHORT_SLEEP)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_waited_longer_looks_more_often() {
        let poll_interval = |millis| after_waiting(Duration::from_millis(millis)).as_micros();
        assert_eq!(
            [0, 20, 40, 200, 1000, 1 << 40].map(poll_interval),
            [2000, 2000, 1000, 200, 200, 200]
        );
    }
}
