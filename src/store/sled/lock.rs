//! Locks between processes, with a deadline, and the gate of each directory within this one.

use std::collections::HashMap;
use std::fs::{File, TryLockError};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use super::files::{Identity, failed, private};
use crate::clock::Deadline;
use crate::error::StoreError;
use crate::store::gate::Gate;

/// The longest sleep between two attempts.
const LONGEST_SLEEP: Duration = Duration::from_millis(2);

/// An exclusive lock on a file, released when it is dropped or when the process ends.
#[derive(Debug)]
pub(super) struct FileLock(File);

impl FileLock {
    /// Locks the file, which is made if need be. `None` means that somebody else held it until
    /// the deadline; with one that has passed it is tried once.
    pub(super) fn take(path: &Path, deadline: Deadline) -> Result<Option<Self>, StoreError> {
        let mut naps = Naps::until(deadline);
        loop {
            // Opened anew each time: the file may have been deleted, and a lock on a file that
            // has lost its name excludes nobody.
            match Self::attempt(path) {
                Ok(Some(lock)) => return Ok(Some(lock)),
                Ok(None) => {}
                Err(error) => return Err(failed("take the lock", path, error)),
            }
            if !naps.nap() {
                return Ok(None);
            }
        }
    }

    fn attempt(path: &Path) -> io::Result<Option<Self>> {
        let file = private().read(true).write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
            Ok(()) => {}
        }
        let lock = Self(file);
        match std::fs::metadata(path) {
            Ok(named) => {
                let same = Identity::of(&lock.0.metadata()?) == Identity::of(&named);
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

/// Sleeps that grow up to two milliseconds, until a deadline.
pub(super) struct Naps {
    deadline: Deadline,
    next: Duration,
}

impl Naps {
    pub(super) fn until(deadline: Deadline) -> Self {
        Self { deadline, next: Duration::from_micros(50) }
    }

    /// Sleeps a little; `false` means that the time is up.
    pub(super) fn nap(&mut self) -> bool {
        let left = self.deadline.remaining();
        if left.is_zero() {
            return false;
        }
        thread::sleep(self.next.min(left));
        self.next = (self.next * 2).min(LONGEST_SLEEP);
        true
    }
}

/// Returns the gate that all stores of this process on one directory pass through. A forked child
/// has its own: the parent's may be closed for ever.
pub(super) fn gate(dir: &Path, process: u32) -> Arc<Gate> {
    type Gates = HashMap<(u32, PathBuf), Weak<Gate>>;
    static GATES: LazyLock<Mutex<Gates>> = LazyLock::new(Mutex::default);
    let mut gates = GATES.lock().unwrap_or_else(PoisonError::into_inner);
    gates.retain(|_, gate| gate.strong_count() > 0);
    let entry = gates.entry((process, dir.to_owned())).or_default();
    entry.upgrade().unwrap_or_else(|| {
        let gate = Arc::default();
        *entry = Arc::downgrade(&gate);
        gate
    })
}
