//! The call that this thread sends a request for, as the layers below ureq see it: ureq has time-outs
//! and no way to end one request before them.

use std::cell::Cell;
use std::sync::{Arc, Weak};

use ureq::unversioned::transport::ShutdownHandle;

use crate::cancel::Waking;
use crate::deadline::Deadline;

thread_local! {
    static CURRENT: Cell<Option<Deadline>> = const { Cell::new(None) };
}

/// A call of this thread, until it is dropped.
pub(super) struct Call(Option<Deadline>);

impl Call {
    pub(super) fn begin(deadline: Deadline) -> Self {
        Self(CURRENT.replace(Some(deadline)))
    }

    /// Returns the deadline of this thread's call if a token can cancel the call.
    pub(super) fn cancellable() -> Option<Deadline> {
        CURRENT.get().filter(Deadline::can_be_cancelled)
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        CURRENT.set(self.0);
    }
}

/// Ends the connection when the call is cancelled or its session is shut down, until the result is
/// dropped.
pub(super) fn end_with(call: Deadline, connection: &Weak<dyn ShutdownHandle>) -> Vec<Waking> {
    let end = |connection: Weak<dyn ShutdownHandle>| {
        move || {
            if let Some(connection) = connection.upgrade() {
                connection.shutdown();
            }
        }
    };
    call.signals().map(|signal| signal.wake(Arc::new(end(connection.clone())))).collect()
}
