//! The queue of one listener, filled by the dispatcher.

use std::collections::VecDeque;
use std::sync::atomic::AtomicU64;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::event::Event;
use crate::id::UserId;

/// How many events wait for one listener; beyond that it gets [`Event::Lagged`] in their place.
const QUEUE: usize = 1024;

/// The events that wait for one listener.
pub(super) struct Queue {
    /// Events of commits up to this one happened before the listener came.
    pub(super) since: AtomicU64,
    of: Option<UserId>,
    state: Mutex<QueueState>,
    filled: Condvar,
    /// A listener has returned from a call.
    returned: Condvar,
}

#[derive(Default)]
struct QueueState {
    events: VecDeque<Event>,
    closed: bool,
    /// How many events were taken.
    taken: u64,
    /// Whether a listener is being called with the last of them.
    is_called: bool,
}

impl Queue {
    /// A queue for what concerns a user, or everything, after the commit with this number.
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

    /// Takes the next event; waits for it until `until`, for ever without.
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

    /// Waits until a listener has returned from its calls with the events that are here now; `false`
    /// if the time is up before.
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

    /// Lets the listener end after what is here.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_all();
    }

    /// Lets the listener end now.
    pub(super) fn abandon(&self) {
        self.lock().events.clear();
        self.close();
    }

    /// Returns `true` if it is closed and everything was taken.
    pub(super) fn has_ended(&self) -> bool {
        let state = self.lock();
        state.closed && state.events.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits until it is woken; nothing if the time was up before.
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
