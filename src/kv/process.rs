//! Checks before sled runs: it starts threads of its own, which a forked child does not have.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::{io, thread};

use crate::error::{StoreError, StoreErrorKind};

/// The process in which sled ran first; 0 if it has not run.
static FIRST: AtomicU32 = AtomicU32::new(0);

/// Returns `true` if sled ran before this process was forked, so that it cannot run here.
pub(crate) fn ran_in_parent() -> bool {
    let first = FIRST.load(Ordering::Relaxed);
    first != 0 && first != std::process::id()
}

/// Rejects a forked child of a process in which sled ran: sled would wait for ever for threads that
/// only the parent has.
pub(super) fn check_process(path: &Path) -> Result<(), StoreError> {
    if runs_in(&FIRST, std::process::id()) {
        return Ok(());
    }
    let reason = "the database was used before this process was forked and cannot be used here, \
                  start a new program (exec) that opens the store";
    Err(StoreError::new(StoreErrorKind::Forked, reason).at(path))
}

/// Checks, before sled opens a database for the first time, that threads can be started. If not, sled
/// would wait for them for ever.
pub(super) fn check_threads() -> io::Result<()> {
    /// The largest number that sled starts at once.
    const THREADS: usize = 8;
    static DONE: AtomicBool = AtomicBool::new(false);
    if DONE.load(Ordering::Relaxed) {
        return Ok(());
    }
    // All run at the same time: they end when the sender is dropped.
    let (sender, receiver) = mpsc::channel::<()>();
    let receiver = Arc::new(Mutex::new(receiver));
    let start = || {
        let receiver = Arc::clone(&receiver);
        thread::Builder::new().spawn(move || {
            let _ = receiver.lock().map(|receiver| receiver.recv());
        })
    };
    let started: io::Result<Vec<_>> = (0..THREADS).map(|_| start()).collect();
    drop(sender);
    for thread in started? {
        let _ = thread.join();
    }
    DONE.store(true, Ordering::Relaxed);
    Ok(())
}

/// Stores the first process that calls this, and returns `true` for that process.
fn runs_in(first: &AtomicU32, process: u32) -> bool {
    match first.compare_exchange(0, process, Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => true,
        Err(first) => first == process,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sled_runs_in_first_process_only() {
        let first = AtomicU32::new(0);
        assert!(runs_in(&first, 7));
        assert!(runs_in(&first, 7));
        assert!(!runs_in(&first, 8));
    }
}
