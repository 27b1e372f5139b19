//! The shutdown of a session, as a signal to its calls.

use crate::cancel::{CancelToken, Signal};
use crate::error::{Error, Result};

/// Whether a session was shut down.
pub(crate) struct Shutdown(CancelToken);

impl Shutdown {
    pub(crate) fn new() -> Self {
        Self(CancelToken::new())
    }

    /// Signals the shutdown.
    pub(crate) fn begin(&self) {
        self.0.cancel();
    }

    pub(crate) fn signal(&self) -> Signal {
        self.0.signal()
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Rejects a call that begins after the shutdown.
    pub(crate) fn check(&self) -> Result<()> {
        if self.has_begun() { Err(Error::ShutDown { ambiguous: false }) } else { Ok(()) }
    }
}
