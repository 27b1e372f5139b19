//! The end of a session before its time, as the waits of its calls see it.

use crate::cancel::{CancelToken, Signal};
use crate::error::{Error, Result};

/// Whether a session was shut down.
pub(crate) struct Shutdown(CancelToken);

impl Shutdown {
    pub(crate) fn new() -> Self {
        Self(CancelToken::new())
    }

    /// Says so to everybody.
    pub(crate) fn begin(&self) {
        self.0.cancel();
    }

    pub(crate) fn signal(&self) -> Signal {
        self.0.signal()
    }

    /// Refuses what begins after it.
    pub(crate) fn check(&self) -> Result<()> {
        if self.0.is_cancelled() { Err(Error::ShutDown { ambiguous: false }) } else { Ok(()) }
    }

    /// Tells what a call failed of: trouble that the shutdown itself made is called by its name.
    pub(crate) fn explain(&self, error: Error) -> Error {
        let is_its_work = match &error {
            Error::Transport(_) => true,
            Error::Store(_) => error.is_timeout(),
            _ => false,
        };
        match is_its_work && self.0.is_cancelled() {
            true => Error::ShutDown { ambiguous: error.is_ambiguous() },
            false => error,
        }
    }
}
