//! Cancellation: a flag that a program sets from any thread and that waiting calls check.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Cancels calls from another thread; see [`Session::with_cancel`](crate::Session::with_cancel).
///
/// Clones share one state. A cancelled token stays cancelled: create a new one for the next call.
///
/// # Examples
///
/// ```
/// use keyfob::{CancelToken, Error, Session};
///
/// # fn main() -> keyfob::Result<()> {
/// # let store = keyfob::store::MemoryStore::new();
/// let session = Session::builder("my-app-id", "https://example.org").store(store).open()?;
/// let token = CancelToken::new();
/// let button = token.clone();
/// std::thread::spawn(move || button.cancel()).join().unwrap();
/// assert!(token.is_cancelled());
///
/// let outcome = session.with_cancel(&token).current_user();
/// assert!(matches!(outcome, Err(Error::Cancelled { ambiguous: false })));
/// assert!(session.current_user().is_ok());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct CancelToken(Arc<Flag>);

/// Owns a place as long as the token has clones.
struct Flag(Signal);

/// What a waiting call checks. The signal is given when the token is cancelled, or when its last
/// clone is dropped.
///
/// A [`Deadline`](crate::Deadline) is `Copy` and holds signals, so the place that a signal points
/// to is never freed. Places are reused with a higher round number. Their number is the highest
/// number of tokens that existed at a time.
#[derive(Clone, Copy)]
pub(crate) struct Signal {
    place: &'static Place,
    round: u64,
}

#[derive(Default)]
struct Place {
    round: AtomicU64,
    /// The waits for the signal of this round.
    waits: Mutex<Waits>,
}

#[derive(Default)]
struct Waits {
    next: u64,
    wakers: Vec<(u64, Waker)>,
}

/// Ends a wait; called by the thread that gives the signal.
type Waker = Arc<dyn Fn() + Send + Sync>;

/// A registered wait that a signal ends. Dropping this unregisters it.
pub(crate) struct Waking {
    place: &'static Place,
    number: u64,
}

/// Places that are currently unused.
static FREE: Mutex<Vec<&'static Place>> = Mutex::new(Vec::new());

impl CancelToken {
    /// Creates a token that is not cancelled.
    pub fn new() -> Self {
        let free = FREE.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let place = free.unwrap_or_else(|| Box::leak(Box::default()));
        Self(Arc::new(Flag(Signal { place, round: place.round.load(Ordering::SeqCst) })))
    }

    /// Cancels all calls that use this token, including later ones. Returns at once.
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
        let order = Ordering::SeqCst;
        if place.round.compare_exchange(round, round + 1, order, order).is_ok() {
            // Under the lock, so that a wait that has ended is not woken afterwards.
            let mut waits = place.waits();
            waits.wakers.drain(..).for_each(|(_, wake)| wake());
        }
    }
}

impl Place {
    fn waits(&self) -> MutexGuard<'_, Waits> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
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
        self.place.round.load(Ordering::SeqCst) != self.round
    }

    /// Registers `wake`, to be called when the signal is given. Calls it now if it was already
    /// given.
    pub(crate) fn wake(self, wake: Waker) -> Waking {
        let mut waits = self.place.waits();
        let number = waits.next;
        waits.next += 1;
        waits.wakers.push((number, Arc::clone(&wake)));
        drop(waits);
        if self.is_given() {
            wake();
        }
        Waking { place: self.place, number }
    }
}

impl Drop for Waking {
    fn drop(&mut self) {
        self.place.waits().wakers.retain(|(number, _)| *number != self.number);
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

    #[test]
    fn waits_are_woken_once_until_dropped() {
        let token = CancelToken::new();
        let woken = Arc::new(AtomicU64::new(0));
        let wake = || {
            let woken = Arc::clone(&woken);
            token.signal().wake(Arc::new(move || {
                woken.fetch_add(1, Ordering::SeqCst);
            }))
        };
        let (_first, second) = (wake(), wake());
        drop(second);
        token.cancel();
        token.cancel();
        assert_eq!(woken.load(Ordering::SeqCst), 1);
        drop(wake());
        assert_eq!(woken.load(Ordering::SeqCst), 2, "it was cancelled before the wait began");
        assert!(token.0.0.place.waits().wakers.is_empty());
    }
}
