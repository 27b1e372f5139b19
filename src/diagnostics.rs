//! Diagnostics through the `log` facade, with feature `log`. Without it they cost nothing.
//!
//! A message contains ids, origins and texts of this crate. It never contains a secret, nor text of a
//! backend or a proxy, which may repeat one.

use std::fmt;

use crate::error::Error;

/// Logs a message at a level of `log`, such as `debug`.
macro_rules! note {
    ($level:ident, $($what:tt)+) => {{
        #[cfg(feature = "log")]
        log::$level!(target: "keyfob", $($what)+);
        #[cfg(not(feature = "log"))]
        if false {
            let _ = format_args!($($what)+);
        }
    }};
}

pub(crate) use note;

/// Formats the kind and the status of an error, without its texts.
pub(crate) struct Brief<'a>(pub(crate) &'a Error);

impl fmt::Display for Brief<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Error::Cancelled { .. } => f.write_str("the call was cancelled"),
            Error::Config { what, .. } => write!(f, "{what} cannot be used"),
            Error::Decode(error) => write!(f, "{} cannot be read", error.what),
            Error::LocalState(_) => f.write_str("another state of the user"),
            Error::LoginEnded(error) | Error::Server(error) => {
                write!(f, "the backend refused to {} (status {})", error.attempt, error.status)
            }
            Error::ShutDown { .. } => f.write_str("the session was shut down"),
            Error::SignIn(error) => write!(f, "sign-in failed ({:?})", error.kind),
            Error::Store(error) => write!(f, "store error ({:?})", error.kind),
            Error::Transport(error) => write!(f, "network error ({:?})", error.kind),
        }
    }
}
