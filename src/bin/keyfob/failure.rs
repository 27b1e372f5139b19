//! Failures of the command, their messages and their exit codes.

use std::error::Error as StdError;
use std::io;
use std::path::{Path, PathBuf};

use keyfob::{
    Error, ServerErrorCode, SignInErrorKind, StoreError, StoreErrorKind, TransportErrorKind,
};

/// The reason why the command ends without a result.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Several users match.
    Ambiguous(Vec<String>),
    /// A step of the demo failed.
    Demo(String),
    /// A signal interrupted the command.
    Interrupted(i32),
    /// The library returned an error.
    Keyfob(Error),
    /// The user to be deleted is logged out.
    LoggedOut(String),
    /// No user is named, and none is current.
    NoCurrentUser,
    /// No user of the store matches.
    NoSuchUser,
    /// The store was busy, and nothing was changed.
    NotBegun(Error),
    /// The local change is done, but the backend was not notified.
    NotNotified { done: String, error: Error, current: String },
    /// Standard output could not be written.
    Output(io::Error),
    /// The backend could not be started.
    Serve(Obstacle, io::Error),
    /// The command line, the environment or standard input is invalid.
    Usage(String),
}

/// The resource that prevented the backend from starting.
#[derive(Debug)]
pub(crate) enum Obstacle {
    Address,
    Data(PathBuf),
    Other,
}

/// The prefix of all store errors.
const STORE: &str = "the store cannot be used: ";

/// The start of the library's advice that names a method.
const RECOVER: &str = ", open the store with OnDamage::Recover";

impl Failure {
    /// Returns the exit code. An invalid response counts as a rejection.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Keyfob(error) | Self::NotBegun(error) | Self::NotNotified { error, .. } => {
                match error {
                    error if error.is_timeout() => 4,
                    Error::Config { .. } => 2,
                    Error::LocalState(_) | Error::LoginEnded(_) => 3,
                    Error::SignIn(error) => match error.kind {
                        SignInErrorKind::Listener
                        | SignInErrorKind::ResponseLost
                        | SignInErrorKind::Unavailable => 4,
                        _ => 1,
                    },
                    Error::Transport(_) => 4,
                    Error::Store(_) => 5,
                    _ => 1,
                }
            }
            // The reader closed the output, which is not an error.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
            Self::Demo(_) | Self::Output(_) | Self::Serve(Obstacle::Other, _) => 1,
            // The same as in shells.
            Self::Interrupted(signal) => u8::try_from(128 + signal).unwrap_or(1),
            Self::Serve(Obstacle::Address, _) => 4,
            Self::Serve(Obstacle::Data(_), _) => 5,
            Self::Usage(_) => 2,
            Self::Ambiguous(_) | Self::LoggedOut(_) | Self::NoCurrentUser | Self::NoSuchUser => 3,
        }
    }

    /// Returns a stable one-word kind for programs.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Ambiguous(_) | Self::LoggedOut(_) | Self::NoCurrentUser | Self::NoSuchUser => {
                "local_state"
            }
            Self::Demo(_) => "demo",
            Self::Interrupted(_) => "interrupted",
            Self::Keyfob(error) | Self::NotBegun(error) | Self::NotNotified { error, .. } => {
                match error {
                    Error::Config { .. } => "config",
                    Error::Decode(_) => "decode",
                    Error::LocalState(_) => "local_state",
                    Error::LoginEnded(_) => "login_ended",
                    Error::Server(_) => "server",
                    Error::SignIn(_) => "sign_in",
                    Error::Store(_) => "store",
                    Error::Transport(_) => "transport",
                    _ => "other",
                }
            }
            Self::Output(_) => "output",
            Self::Serve(..) => "serve",
            Self::Usage(_) => "usage",
        }
    }

    /// Returns the error of the library, if it is one.
    pub(crate) fn error(&self) -> Option<&Error> {
        match self {
            Self::Keyfob(error) | Self::NotBegun(error) | Self::NotNotified { error, .. } => {
                Some(error)
            }
            _ => None,
        }
    }

    /// Returns the error code from the backend or the identity provider, if there is one.
    pub(crate) fn code(&self) -> Option<&str> {
        match self.error()? {
            Error::SignIn(error) => error.code.as_deref(),
            error => error.server_code().map(|code| code.as_str()),
        }
    }

    /// Returns the message with all causes, without repetitions.
    pub(crate) fn message(&self) -> String {
        match self {
            Self::Ambiguous(users) => {
                format!("several users could be meant, name one by its id: {}", users.join(", "))
            }
            Self::Demo(what) | Self::Usage(what) => what.clone(),
            Self::LoggedOut(user) => format!(
                "{user} is logged out: log in to delete the account, or use `keyfob remove` to \
                 remove the user from this store only"
            ),
            Self::NoCurrentUser => {
                "no user is current: name one that `keyfob users` lists".to_owned()
            }
            Self::NoSuchUser => {
                "no user of this store has this e-mail address or an id that begins like this; \
                 `keyfob users` lists the users"
                    .to_owned()
            }
            Self::Interrupted(signal) => format!("interrupted by signal {signal}"),
            Self::Keyfob(error) => described(error),
            Self::NotBegun(error) => format!("nothing was done: {}", described(error)),
            Self::NotNotified { done, error, current } => format!(
                "{done} here, but the backend could not be notified: {}; {current}",
                described(error)
            ),
            Self::Output(error) => {
                format!("standard output cannot be written: {}", with_causes(error))
            }
            Self::Serve(obstacle, error) => {
                let error = with_causes(error);
                match obstacle {
                    // The error names the address.
                    Obstacle::Address => format!(
                        "the backend cannot start: {error}; choose another address with --addr"
                    ),
                    Obstacle::Data(dir) => {
                        format!("the backend cannot start with {} (--data): {error}", dir.display())
                    }
                    Obstacle::Other => format!("the backend cannot start: {error}"),
                }
            }
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Keyfob(error)
    }
}

/// Describes an error of the library, and what to do about it.
fn described(error: &Error) -> String {
    let mut text = match error {
        Error::Config { what, reason } => misconfigured(what, reason),
        Error::Store(error) if error.kind == StoreErrorKind::Damaged => damaged(error),
        Error::Store(error) if lacks_key(error) => format!(
            "{}; if the key is in another file, set KEYFOB_STORE_KEY_FILE to its path; without the \
             key, move {} away and log in again",
            with_causes(error),
            error
                .path
                .as_deref()
                .map_or("the store".into(), |path| directory(path).to_string_lossy())
        ),
        error => with_causes(error),
    };
    if matches!(error, Error::Store(error) if error.reason.contains("rediss://")) {
        text.push_str(
            "; check that the server speaks TLS on this port (redis:// connects without TLS)",
        );
    }
    if is_plain_http(error) {
        text.push_str("; the server does not speak TLS on this port: is its URL http://…?");
    }
    match error.server_code() {
        Some(ServerErrorCode::InvalidPassword) => {
            text.push_str("; check the e-mail address and the password");
        }
        _ if matches!(error, Error::Server(error) if error.message.starts_with("cannot find app")) =>
        {
            text.push_str("; check --app-id");
        }
        _ => {}
    }
    if is_foreign(error) {
        text = text.replace("check the base URL", "check --base-url and --app-id");
    }
    if let Some(pause) = error.retry_after() {
        // Round up, so that the next attempt is not too early.
        let seconds = pause.as_secs() + u64::from(pause.subsec_nanos() > 0);
        text.push_str(&format!("; try again in {seconds} s"));
    }
    // The text of a store error already says so.
    if error.is_ambiguous() && !matches!(error, Error::Store(_)) {
        text.push_str("; the backend may have done it nevertheless");
    }
    text
}

/// Returns `true` if the key of a store is missing or another one.
fn lacks_key(error: &StoreError) -> bool {
    let reason = &*error.reason;
    error.kind == StoreErrorKind::Key
        && (reason.contains("key is missing") || reason.contains("with another key"))
}

/// Returns `true` if a TLS handshake failed because the response was not TLS.
fn is_plain_http(error: &Error) -> bool {
    let is_tls = matches!(error, Error::Transport(error) if error.kind == TransportErrorKind::Tls);
    is_tls && with_causes(error).contains("InvalidContentType")
}

/// Returns `true` if something other than an App Services backend responded.
fn is_foreign(error: &Error) -> bool {
    use TransportErrorKind::{Intercepted, NotABackend};
    matches!(error, Error::Transport(error) if matches!(error.kind, Intercepted | NotABackend))
}

/// Describes an invalid setting by the name of its option or variable.
fn misconfigured(what: &str, reason: &str) -> String {
    // The library's advice names methods.
    let advice = [" (a program", ": set one with"];
    let reason = advice.iter().fold(reason, |reason, advice| {
        reason.split_once(advice).map_or(reason, |(reason, _)| reason)
    });
    let option = match what {
        "the Redis URL" | "the data directory" => "--store (or KEYFOB_STORE)",
        "the app id" => "--app-id (or KEYFOB_APP_ID)",
        "the base URL" => "--base-url (or KEYFOB_BASE_URL)",
        "the namespace" => "KEYFOB_REDIS_NAMESPACE",
        "the sentinel service" => "KEYFOB_REDIS_SENTINEL_SERVICE",
        what => what,
    };
    format!("{option} cannot be used: {reason}")
}

/// Describes a damaged store, and what to do about it.
fn damaged(error: &StoreError) -> String {
    let mut error = error.clone();
    if let Some((seen, _)) = error.reason.split_once(RECOVER) {
        error.reason = seen.to_owned().into();
    }
    let text = with_causes(&error);
    match error.path.as_deref().map(directory) {
        Some(dir) => format!(
            "{text}; run `keyfob recover` to go on with the users that can still be read, or move {} \
             away and log in again",
            dir.display()
        ),
        None => format!("{text}; run `keyfob recover`"),
    }
}

/// Returns the directory of a store from its own path or the path of a file in it.
fn directory(path: &Path) -> &Path {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let is_inside = name.starts_with("db.") || ["generation", "snapshot"].contains(&&*name);
    path.parent().filter(|_| is_inside).unwrap_or(path)
}

fn with_causes(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        // The cause of a store error is often another store error with the same prefix.
        let words = words.strip_prefix(STORE).filter(|_| text.contains(STORE)).unwrap_or(&words);
        // Some libraries repeat the text of their cause.
        if !text.ends_with(words) {
            text = format!("{text}: {words}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use keyfob::{LocalState, TransportError, UserId};

    use super::*;

    #[test]
    fn every_error_has_its_exit_code() {
        let code = |error: Error| Failure::from(error).exit_code();
        assert_eq!(code(LocalState::NoCurrentUser.into()), 3);
        assert_eq!(code(LocalState::UnknownUser(UserId::new("x")).into()), 3);
        assert_eq!(code(TransportError::new(TransportErrorKind::Tls, "https://a").into()), 4);
        assert_eq!(code(TransportError::new(TransportErrorKind::Timeout, "https://a").into()), 4);
        assert_eq!(code(StoreError::new(StoreErrorKind::Access, "no").into()), 5);
        assert_eq!(code(StoreError::new(StoreErrorKind::Busy, "no").into()), 4);
        let config = Error::Config { what: "the base URL", reason: "no".to_owned() };
        assert_eq!(code(config), 2);
        assert_eq!(Failure::Output(io::ErrorKind::BrokenPipe.into()).exit_code(), 0);
        assert_eq!(Failure::Output(io::ErrorKind::StorageFull.into()).exit_code(), 1);
    }

    #[test]
    fn causes_are_shown_once() {
        let error = TransportError::new(TransportErrorKind::Connect, "http://127.0.0.1:1")
            .because(io::Error::other("refused"));
        assert_eq!(
            Failure::from(Error::from(error)).message(),
            "cannot connect: http://127.0.0.1:1: refused"
        );
    }
}
