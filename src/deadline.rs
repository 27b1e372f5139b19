//! How long a call may take. Always real time: a test that stops the [clock](crate::Clock) must not
//! hang with it.

use std::cmp::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::cancel::{CancelToken, Signal};
use crate::clock::START;
use crate::shutdown::Shutdown;

/// The moment by which a call must be over, waits for locks included. It comes at once when the
/// session that the call belongs to is [shut down](crate::Session::shut_down), or when the call is
/// [cancelled](crate::Session::with_cancel): a long wait has to look at
/// [`remaining`](Self::remaining) from time to time.
///
/// Compared by the moment alone.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    at: Instant,
    /// Ends the time at once: the shutdown of the session.
    shutdown: Option<Signal>,
    /// End the time at once: the tokens that cancel the call.
    cancels: [Option<Signal>; 2],
}

impl Deadline {
    /// Returns the deadline that lies `duration` from now. A duration beyond what the machine can
    /// count is cut to a century.
    pub fn after(duration: Duration) -> Self {
        const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
        let now = Instant::now();
        Self::new(now.checked_add(duration.min(CENTURY)).unwrap_or(now))
    }

    /// Returns a deadline that has passed: for what may be tried once and not waited for.
    pub fn passed() -> Self {
        Self::new(*START)
    }

    fn new(at: Instant) -> Self {
        Self { at, shutdown: None, cancels: [None; 2] }
    }

    /// Returns the time that is left, zero once it has passed or the session is shut down.
    pub fn remaining(&self) -> Duration {
        match self.was_interrupted() {
            true => Duration::ZERO,
            false => self.at.saturating_duration_since(Instant::now()),
        }
    }

    /// Tells whether the time is up.
    pub fn has_passed(&self) -> bool {
        self.remaining().is_zero()
    }

    /// Returns the nearer of this deadline and the one that lies `duration` from now.
    pub fn at_most(&self, duration: Duration) -> Self {
        Self { at: self.at.min(Self::after(duration).at), ..*self }
    }

    /// Returns this deadline for a call of a session, at whose shutdown it passes.
    pub(crate) fn with_shutdown(self, shutdown: &Shutdown) -> Self {
        Self { shutdown: Some(shutdown.signal()), ..self }
    }

    /// Returns this deadline for a call that a token cancels, beside the token that cancels it
    /// already.
    pub(crate) fn with_cancel(self, token: &CancelToken) -> Self {
        let [first, second] = self.cancels;
        Self { cancels: [Some(token.signal()), first.or(second)], ..self }
    }

    /// Returns this deadline for what must not be lost when the call is cancelled.
    pub(crate) fn without_cancel(self) -> Self {
        Self { cancels: [None; 2], ..self }
    }

    /// Returns this deadline for what must not be lost at a shutdown or a cancellation.
    pub(crate) fn without_shutdown(self) -> Self {
        Self::new(self.at)
    }

    /// Returns `true` if there is a token that cancels the call.
    pub(crate) fn can_be_cancelled(&self) -> bool {
        self.cancels.iter().any(Option::is_some)
    }

    /// Returns `true` if the call was cancelled.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancels().any(Signal::is_given)
    }

    /// Returns `true` if the time has ended early.
    pub(crate) fn was_interrupted(&self) -> bool {
        self.signals().any(Signal::is_given)
    }

    fn cancels(&self) -> impl Iterator<Item = Signal> {
        self.cancels.into_iter().flatten()
    }

    /// Returns the signals that end the time at once.
    pub(crate) fn signals(&self) -> impl Iterator<Item = Signal> {
        self.shutdown.into_iter().chain(self.cancels())
    }

    /// Returns how long to sleep before looking again, where nobody wakes who is asleep at a
    /// shutdown.
    pub(crate) fn poll_interval(&self) -> Duration {
        const LONGEST: Duration = Duration::from_millis(20);
        let left = self.remaining();
        if self.signals().next().is_some() { left.min(LONGEST) } else { left }
    }
}

/// Waits for a message, at most so long, and not beyond the end of a call.
pub(crate) fn receive<T>(
    messages: &Receiver<T>,
    at_most: Duration,
    call: Option<Deadline>,
) -> Result<T, RecvTimeoutError> {
    let Some(call) = call else { return messages.recv_timeout(at_most) };
    let began = Instant::now();
    loop {
        let left = at_most.saturating_sub(began.elapsed());
        match messages.recv_timeout(left.min(call.poll_interval())) {
            Err(RecvTimeoutError::Timeout) if !left.is_zero() && !call.has_passed() => {}
            received => return received,
        }
    }
}

impl Eq for Deadline {}

impl Ord for Deadline {
    fn cmp(&self, other: &Self) -> Ordering {
        self.at.cmp(&other.at)
    }
}

impl PartialEq for Deadline {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl PartialOrd for Deadline {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
