//! The queue of one listener, filled by the dispatcher.

use std::collections::VecDeque;
use std::sync::atomic::AtomicU64;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::event::Event;
use crate::id::UserId;

/// Maximum number of events in a listener's queue. After that, the listener gets [`Event::Lagged`].
const QUEUE: usize = 1024;

/// The undelivered events of one listener.
pub(super) struct Queue {
    /// The number of the last commit before the listener subscribed.
    pub(super) since: AtomicU64,
    of: Option<UserId>,
    state: Mutex<QueueState>,
    filled: Condvar,
    /// Notified when a listener has returned from a call.
    returned: Condvar,
}

#[derive(Default)]
struct QueueState {
    events: VecDeque<Event>,
    closed: bool,
    /// The number of events taken so far.
    taken: u64,
    /// Set while the listener handles the last event that it took.
    is_called: bool,
}

impl Queue {
    /// Creates a queue for all events, or those of a user, after the commit with this number.
    pub(super) fn new(since: u64, of: Option<UserId>) -> Self {
        Self {
            since: since.into(),
            of,
            state: Mutex::default(),
            filled: Condvar::new(),
            returned: Condvar::new(),
        }
    }

    pub(super) fn of(&self) -> Option<&UserId> {
        self.of.as_ref()
    }

    pub(super) fn push(&self, event: &Event) {
        if !self.concerns(event) {
            return;
        }
        let mut state = self.lock();
        if state.closed {
            return;
        }
        if state.events.len() < QUEUE {
            state.events.push_back(event.clone());
        } else if state.events.back() != Some(&Event::Lagged) {
            state.events.push_back(Event::Lagged);
        }
        self.filled.notify_one();
    }

    fn concerns(&self, event: &Event) -> bool {
        let Some(of) = &self.of else { return true };
        match event {
            Event::CurrentUserChanged { from, to } => {
                from.as_ref() == Some(of) || to.as_ref() == Some(of)
            }
            event => event.user().is_none_or(|user| user == of),
        }
    }

    /// Removes and returns the next event. Waits for it until `until`, or without a limit if
    /// `until` is `None`.
    pub(super) fn take(&self, until: Option<Instant>) -> Option<Event> {
        let mut state = self.lock();
        state.is_called = false;
        self.returned.notify_all();
        loop {
            if let Some(event) = state.events.pop_front() {
                state.taken += 1;
                state.is_called = true;
                return Some(event);
            }
            if state.closed {
                return None;
            }
            state = wait_until(&self.filled, state, until)?;
        }
    }

    /// Waits until the listener has returned from its calls for all events that are in the queue
    /// now. Returns `false` if the time runs out first.
    pub(super) fn wait_for_calls(&self, until: Option<Instant>) -> bool {
        let mut state = self.lock();
        let last = state.taken + state.events.len() as u64;
        while state.taken < last || state.taken == last && state.is_called {
            match wait_until(&self.returned, state, until) {
                Some(woken) => state = woken,
                None => return false,
            }
        }
        true
    }

    /// Closes the queue; the listener still gets the remaining events.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_all();
    }

    /// Closes the queue and drops the remaining events.
    pub(super) fn abandon(&self) {
        self.lock().events.clear();
        self.close();
    }

    /// Returns `true` if the queue is closed and empty.
    pub(super) fn has_ended(&self) -> bool {
        let state = self.lock();
        state.closed && state.events.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for a notification. Returns `None` if `until` has passed.
pub(super) fn wait_until<'a, T>(
    condvar: &Condvar,
    guard: MutexGuard<'a, T>,
    until: Option<Instant>,
) -> Option<MutexGuard<'a, T>> {
    let Some(until) = until else {
        return Some(condvar.wait(guard).unwrap_or_else(PoisonError::into_inner));
    };
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return None;
    }
    Some(condvar.wait_timeout(guard, left).unwrap_or_else(PoisonError::into_inner).0)
}
