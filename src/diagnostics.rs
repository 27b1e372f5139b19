//! Diagnostics through the `log` facade, with feature `log`; without it they cost nothing.
//!
//! Never a secret, and nothing in a backend's or a proxy's words, which may repeat one: ids,
//! origins and what is ours to say.

use std::fmt;

use crate::error::Error;

/// Says something at a level of `log`, such as `debug`.
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

/// An error without anything that others wrote: its kind and its status.
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
            Error::Store(error) => write!(f, "store trouble ({:?})", error.kind),
            Error::Transport(error) => write!(f, "network trouble ({:?})", error.kind),
        }
    }
}
