//! The end of a session before its time, as the waits of its calls see it.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::error::{Error, Result};

/// Whether a session was shut down.
pub(crate) struct Shutdown(Signal);

/// What a wait looks at: it ends when the round is over.
///
/// A deadline is `Copy`, and so is this; so the place that it looks at lives as long as the
/// process. Places are used again, in a later round, so there are as many as there were ever
/// sessions at a time.
#[derive(Clone, Copy)]
pub(crate) struct Signal {
    place: &'static AtomicU64,
    round: u64,
}

/// Places that no session uses now.
static FREE: Mutex<Vec<&'static AtomicU64>> = Mutex::new(Vec::new());

impl Shutdown {
    pub(crate) fn new() -> Self {
        let free = FREE.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let place = free.unwrap_or_else(|| Box::leak(Box::default()));
        Self(Signal { place, round: place.load(Ordering::SeqCst) })
    }

    /// Says so to everybody.
    pub(crate) fn begin(&self) {
        let Signal { place, round } = self.0;
        // Once only: the next round belongs to another session.
        let _ = place.compare_exchange(round, round + 1, Ordering::SeqCst, Ordering::SeqCst);
    }

    pub(crate) fn signal(&self) -> Signal {
        self.0
    }

    /// Refuses what begins after it.
    pub(crate) fn check(&self) -> Result<()> {
        if self.0.is_given() { Err(Error::ShutDown { ambiguous: false }) } else { Ok(()) }
    }

    /// Tells what a call failed of: trouble that the shutdown itself made is called by its name.
    pub(crate) fn explain(&self, error: Error) -> Error {
        let is_its_work = match &error {
            Error::Transport(_) => true,
            Error::Store(_) => error.is_timeout(),
            _ => false,
        };
        match is_its_work && self.0.is_given() {
            true => Error::ShutDown { ambiguous: error.is_ambiguous() },
            false => error,
        }
    }
}

impl Drop for Shutdown {
    fn drop(&mut self) {
        self.begin();
        FREE.lock().unwrap_or_else(PoisonError::into_inner).push(self.0.place);
    }
}

impl Signal {
    pub(crate) fn is_given(self) -> bool {
        self.place.load(Ordering::SeqCst) != self.round
    }
}

impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signal").field("is_given", &self.is_given()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_that_is_over_shuts_down_no_other_one() {
        let first = Shutdown::new();
        let signal = first.signal();
        first.begin();
        first.begin();
        drop(first);
        let next: Vec<_> = (0..16).map(|_| Shutdown::new()).collect();
        assert!(signal.is_given());
        assert!(next.iter().all(|next| next.check().is_ok()));
        next[0].begin();
        assert!(next[0].check().is_err());
        assert!(next[1..].iter().all(|next| next.check().is_ok()));
    }
}
