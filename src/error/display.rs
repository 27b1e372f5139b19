//! The messages of [`Error`], and how foreign text is shown in them.

use std::error::Error as StdError;
use std::fmt;

use super::{DecodeError, Error, LocalState};
use crate::unprintable::is_unprintable;

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cancelled { ambiguous: false } => f.write_str("the call was cancelled"),
            Self::Cancelled { ambiguous: true } => {
                f.write_str("the call was cancelled before the response to a request arrived")
            }
            Self::Config { what, reason } => {
                write!(f, "{what} cannot be used: {}", Printable(reason))
            }
            Self::Decode(error) => error.fmt(f),
            Self::LocalState(state) => state.fmt(f),
            Self::LoginEnded(error) => write!(f, "the login has ended, log in again: {error}"),
            Self::Server(error) => error.fmt(f),
            Self::ShutDown { ambiguous: false } => f.write_str("the session was shut down"),
            Self::ShutDown { ambiguous: true } => {
                f.write_str("the session was shut down before the response to a request arrived")
            }
            Self::SignIn(error) => error.fmt(f),
            Self::Store(error) => error.fmt(f),
            Self::Transport(error) => error.fmt(f),
        }
    }
}

/// Prints the message and its causes in one line, because `fn main() -> keyfob::Result<()>` shows
/// this text to people.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)?;
        let mut cause = self.source();
        while let Some(error) = cause {
            write!(f, ": {}", Printable(&error.to_string()))?;
            cause = error.source();
        }
        Ok(())
    }
}

impl fmt::Display for LocalState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CannotLinkAnonymous => {
                f.write_str("anonymous credentials cannot be linked to a user")
            }
            Self::NoCurrentUser => f.write_str("nobody is logged in, log in first"),
            Self::NotLoggedIn(user) => {
                write!(f, "user {} is logged out, log in again", Printable(user.as_str()))
            }
            Self::UnknownUser(user) => {
                write!(f, "user {} is not known here", Printable(user.as_str()))
            }
        }
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // `what` may contain the name of a function.
        write!(f, "{} cannot be read: {}", Printable(&self.what), Printable(&self.reason))
    }
}

/// Text from outside this crate: its first 500 characters, with control characters escaped.
pub(crate) struct Printable<'a>(pub(crate) &'a str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LIMIT: usize = 500;
        for (count, character) in self.0.chars().enumerate() {
            if count == LIMIT {
                return f.write_str("…");
            }
            if is_unprintable(character) {
                write!(f, "{}", character.escape_unicode())?;
            } else {
                write!(f, "{character}")?;
            }
        }
        Ok(())
    }
}
