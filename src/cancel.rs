//! Cancellation: one flag that a program sets from any thread, and that waits look at.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Cancels calls from another thread.
///
/// Clones are one token. A token that was cancelled stays cancelled: create a new one for the next
/// call.
///
/// # Examples
///
/// ```
/// use keyfob::CancelToken;
///
/// let token = CancelToken::new();
/// let button = token.clone();
/// std::thread::spawn(move || button.cancel()).join().unwrap();
/// assert!(token.is_cancelled());
/// ```
#[derive(Clone)]
pub struct CancelToken(Arc<Flag>);

/// Owns a place while a token has clones.
struct Flag(Signal);

/// What a wait looks at. It is given once the token was cancelled, or has no clones left.
///
/// A [`Deadline`](crate::Deadline) is `Copy` and holds signals, so the place that a signal looks at
/// is never freed. Places are used again, in a later round: there are as many as there were ever
/// tokens at a time.
#[derive(Clone, Copy)]
pub(crate) struct Signal {
    place: &'static AtomicU64,
    round: u64,
}

/// Places that no token uses now.
static FREE: Mutex<Vec<&'static AtomicU64>> = Mutex::new(Vec::new());

impl CancelToken {
    /// Creates a token that is not cancelled.
    pub fn new() -> Self {
        let free = FREE.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let place = free.unwrap_or_else(|| Box::leak(Box::default()));
        Self(Arc::new(Flag(Signal { place, round: place.load(Ordering::SeqCst) })))
    }

    /// Cancels the calls that use this token, those in progress and those to come. Returns at once.
    pub fn cancel(&self) {
        self.0.give();
    }

    /// Returns `true` if the token was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.0.0.is_given()
    }

    pub(crate) fn signal(&self) -> Signal {
        self.0.0
    }
}

impl Default for CancelToken {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for CancelToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancelToken").field("is_cancelled", &self.is_cancelled()).finish()
    }
}

impl Flag {
    fn give(&self) {
        let Signal { place, round } = self.0;
        // Once only: the next round belongs to another token.
        let _ = place.compare_exchange(round, round + 1, Ordering::SeqCst, Ordering::SeqCst);
    }
}

impl Drop for Flag {
    fn drop(&mut self) {
        self.give();
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
    fn cancelled_token_cancels_no_other() {
        let first = CancelToken::new();
        let (clone, signal) = (first.clone(), first.signal());
        assert!(!first.is_cancelled() && !signal.is_given());
        clone.cancel();
        clone.cancel();
        assert!(first.is_cancelled());
        drop((first, clone));
        let next: Vec<_> = (0..16).map(|_| CancelToken::new()).collect();
        assert!(signal.is_given());
        assert!(next.iter().all(|next| !next.is_cancelled()));
        next[0].cancel();
        assert!(next[0].is_cancelled());
        assert!(next[1..].iter().all(|next| !next.is_cancelled()));
    }
}
