//! Locks between processes, with a deadline.

use std::fs::{File, TryLockError};
use std::io::{self, ErrorKind};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::layout::{FileId, failed};
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
        loop {
            // Opened anew each time: the file may have been deleted, and a lock on a file that
            // has lost its name excludes nobody.
            match Self::attempt(path) {
                Ok(Some(lock)) => return Ok(Some(lock)),
                Ok(None) => {}
                Err(error) => return Err(failed("take the lock", path, error)),
            }
            if !backoff.wait() {
                return Ok(None);
            }
        }
    }

    fn attempt(path: &Path) -> io::Result<Option<Self>> {
        let file = open_or_create(private().read(true).write(true), path)?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
            Ok(()) => {}
        }
        let lock = Self(file);
        match std::fs::metadata(path) {
            Ok(named) => {
                let same = FileId::of(&lock.0.metadata()?) == FileId::of(&named);
                Ok(same.then_some(lock))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        // Closing is not enough: a child that is being started may hold a copy for a moment.
        let _ = self.0.unlock();
    }
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
