//! The deadline of a call. It always uses real time, so that a test that stops the
//! [clock](crate::Clock) does not hang.

use std::cmp::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::cancel::{CancelToken, Signal};
use crate::clock::START;
use crate::shutdown::Shutdown;

/// The moment by which a call must end, including waits for locks. The deadline passes at once when
/// the call's session is [shut down](crate::Session::shut_down), or when the call is
/// [cancelled](crate::Session::with_cancel). A long wait therefore has to check
/// [`remaining`](Self::remaining) repeatedly.
///
/// Comparisons consider only the moment.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    at: Instant,
    /// The session's shutdown, at which the deadline passes at once.
    shutdown: Option<Signal>,
    /// The tokens that cancel the call, at which the deadline passes at once.
    cancels: [Option<Signal>; 2],
}

impl Deadline {
    /// Returns the deadline `duration` from now. A duration of more than a century counts as a
    /// century.
    pub fn after(duration: Duration) -> Self {
        const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
        let now = Instant::now();
        Self::new(now.checked_add(duration.min(CENTURY)).unwrap_or(now))
    }

    /// Returns a deadline that has passed, for an attempt that must not wait.
    pub fn passed() -> Self {
        Self::new(*START)
    }

    fn new(at: Instant) -> Self {
        Self { at, shutdown: None, cancels: [None; 2] }
    }

    /// Returns the remaining time: zero if the deadline has passed or the call was interrupted.
    pub fn remaining(&self) -> Duration {
        match self.was_interrupted() {
            true => Duration::ZERO,
            false => self.at.saturating_duration_since(Instant::now()),
        }
    }

    /// Returns `true` if no time remains.
    pub fn has_passed(&self) -> bool {
        self.remaining().is_zero()
    }

    /// Returns the earlier of this deadline and the deadline `duration` from now.
    pub fn at_most(&self, duration: Duration) -> Self {
        Self { at: self.at.min(Self::after(duration).at), ..*self }
    }

    /// Returns the part of a call's deadline that the network may use. The rest is reserved for
    /// storing the result.
    pub(crate) fn for_network(&self) -> Self {
        self.at_most(self.remaining() * 9 / 10)
    }

    /// Returns this deadline, which then also passes when the session is shut down.
    pub(crate) fn with_shutdown(self, shutdown: &Shutdown) -> Self {
        Self { shutdown: Some(shutdown.signal()), ..self }
    }

    /// Returns this deadline, which then also passes when `token` is cancelled, in addition to an
    /// earlier token.
    pub(crate) fn with_cancel(self, token: &CancelToken) -> Self {
        let [first, second] = self.cancels;
        Self { cancels: [Some(token.signal()), first.or(second)], ..self }
    }

    /// Returns this deadline without the tokens, for work that a cancellation must not abort.
    pub(crate) fn without_cancel(self) -> Self {
        Self { cancels: [None; 2], ..self }
    }

    /// Returns this deadline for work that neither a shutdown nor a cancellation must abort.
    pub(crate) fn without_shutdown(self) -> Self {
        Self::new(self.at)
    }

    /// Returns `true` if a token can cancel the call.
    pub(crate) fn can_be_cancelled(&self) -> bool {
        self.cancels.iter().any(Option::is_some)
    }

    /// Returns `true` if the call was cancelled.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancels().any(Signal::is_given)
    }

    /// Returns `true` if a shutdown or a cancellation has ended the call early.
    pub(crate) fn was_interrupted(&self) -> bool {
        self.signals().any(Signal::is_given)
    }

    fn cancels(&self) -> impl Iterator<Item = Signal> {
        self.cancels.into_iter().flatten()
    }

    /// Returns the signals that end the call early.
    pub(crate) fn signals(&self) -> impl Iterator<Item = Signal> {
        self.shutdown.into_iter().chain(self.cancels())
    }

    /// Returns how long to sleep before the next check, for waits that a signal does not wake.
    pub(crate) fn poll_interval(&self) -> Duration {
        const LONGEST: Duration = Duration::from_millis(20);
        let left = self.remaining();
        if self.signals().next().is_some() { left.min(LONGEST) } else { left }
    }
}

/// Waits for a message, for at most `at_most` and not beyond the deadline of the call.
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
