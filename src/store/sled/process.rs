//! The process in which sled runs: it has threads of its own, which a forked child has not.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::{io, thread};

use crate::error::{StoreError, StoreErrorKind};

/// The process in which sled ran first; 0 while it has not.
static FIRST: AtomicU32 = AtomicU32::new(0);

/// Tells whether sled ran before this process was forked off, so that it cannot run here.
pub(super) fn ran_in_parent() -> bool {
    let first = FIRST.load(Ordering::Relaxed);
    first != 0 && first != std::process::id()
}

/// Refuses to let sled run in a forked child of a process where it ran: it would wait for ever for
/// threads that only the parent has.
pub(super) fn check_process(path: &Path) -> Result<(), StoreError> {
    if runs_in(&FIRST, std::process::id()) {
        return Ok(());
    }
    let reason = "the database was used before this process was forked off and cannot be used \
                  here, start a new program (exec) that opens the store";
    Err(StoreError::new(StoreErrorKind::Forked, reason).at(path))
}

/// Makes sure that threads can be started, the first time that sled opens a database: where none
/// can, it waits for ever for those that it needs.
pub(super) fn check_threads() -> io::Result<()> {
    /// As many as sled may want at once.
    const THREADS: usize = 8;
    static DONE: AtomicBool = AtomicBool::new(false);
    if DONE.load(Ordering::Relaxed) {
        return Ok(());
    }
    // All at the same time: they end when this is dropped.
    let (hold, ends) = mpsc::channel::<()>();
    let ends = Arc::new(Mutex::new(ends));
    let wait = || {
        let ends = Arc::clone(&ends);
        thread::Builder::new().spawn(move || {
            let _ = ends.lock().map(|ends| ends.recv());
        })
    };
    let started: io::Result<Vec<_>> = (0..THREADS).map(|_| wait()).collect();
    drop(hold);
    for thread in started? {
        let _ = thread.join();
    }
    DONE.store(true, Ordering::Relaxed);
    Ok(())
}

/// Remembers the first process that asks, and tells whether this one is it.
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
    fn sled_runs_in_the_process_where_it_ran_first_and_in_no_other() {
        let first = AtomicU32::new(0);
        assert!(runs_in(&first, 7));
        assert!(runs_in(&first, 7));
        assert!(!runs_in(&first, 8));
    }
}
