//! A local backend: the same protocol from the other side, for tests and for one machine.
//!
//! [`Server`] speaks what App Services clients speak (location, registration, log-in, server
//! sessions, profile, functions), in the process that starts it and on a port of this machine. It
//! shares no code with the client half of this crate, so that each is a check on the other.
//!
//! ```no_run
//! use keyfob::server::Server;
//! use serde_json::json;
//!
//! let server = Server::builder()
//!     .app_id("my-app-abcde")
//!     .function("greet", |context, _| Ok(json!(format!("hello, {}", context.user_id()))))
//!     .start()?;
//! println!("{} at {}", server.app_id(), server.base_url());
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! What it holds on to: no token, password or key appears in `Debug`, in the journal or in an
//! error; passwords are kept as argon2id hashes; refresh tokens are kept as ids, not as texts.
//!
//! Inside, `http` has the sockets, threads and limits; `routes` decides which request goes where and
//! gives answers their form; `auth` and `functions` do what was asked; `state`, `token`, `password`,
//! `throttle` and `journal` are what is known.

mod auth;
mod builder;
mod ejson;
mod functions;
mod http;
mod journal;
mod password;
mod random;
mod refusal;
mod routes;
mod state;
mod throttle;
mod token;

use std::fmt;
use std::io;
use std::sync::Arc;

pub use self::builder::ServerBuilder;
pub use self::functions::{Context, FunctionError, UserIdentity};
use self::http::HttpServer;
pub use self::journal::JournalEntry;
use self::routes::Service;

/// A running backend. It stops when this is dropped.
///
/// # Examples
///
/// ```
/// use keyfob::server::Server;
///
/// let server = Server::builder().start()?;
/// assert!(server.base_url().starts_with("http://127.0.0.1:"));
/// assert_eq!(server.app_id(), "keyfob-local");
/// server.shutdown();
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Server {
    service: Arc<Service>,
    http: HttpServer,
}

impl Server {
    /// Returns the settings of a server, all at their defaults.
    pub fn builder() -> ServerBuilder {
        ServerBuilder::new()
    }

    /// Returns the URL that clients are given, without a slash at its end.
    pub fn base_url(&self) -> &str {
        &self.service.base_url
    }

    /// Returns the client app id.
    pub fn app_id(&self) -> &str {
        &self.service.app_id
    }

    /// Returns what was asked so far, in the order it was answered: the last 65 536 requests.
    ///
    /// A request is in here before its answer goes out.
    pub fn journal(&self) -> Vec<JournalEntry> {
        self.service.journal.to_vec()
    }

    /// Returns how many requests with this method and path are in the [journal](Self::journal).
    pub fn count(&self, method: &str, path: &str) -> usize {
        self.service.journal.count(method, path)
    }

    /// Ends all server sessions of a user and returns how many there were. Refresh tokens are
    /// refused from here on; access tokens stay good until they expire.
    ///
    /// # Errors
    ///
    /// `NotFound` if there is no such user. Otherwise the data directory cannot be written.
    pub fn revoke_sessions(&self, user_id: impl AsRef<str>) -> io::Result<usize> {
        self.service.state.revoke_sessions(user_id.as_ref())?.ok_or_else(no_such_user)
    }

    /// Disables a user: log-ins, refreshes and access tokens are refused until
    /// [`enable_user`](Self::enable_user).
    ///
    /// # Errors
    ///
    /// `NotFound` if there is no such user. Otherwise the data directory cannot be written.
    pub fn disable_user(&self, user_id: impl AsRef<str>) -> io::Result<()> {
        self.set_disabled(user_id.as_ref(), true)
    }

    /// Enables a user that was disabled. Its sessions are good again.
    ///
    /// # Errors
    ///
    /// `NotFound` if there is no such user. Otherwise the data directory cannot be written.
    pub fn enable_user(&self, user_id: impl AsRef<str>) -> io::Result<()> {
        self.set_disabled(user_id.as_ref(), false)
    }

    /// Stops the server, as dropping it does: accepts no more connections, closes those that are
    /// idle, lets requests that are being answered end, and joins the threads.
    ///
    /// Blocks for at most the [shutdown time-out](ServerBuilder::shutdown_timeout) (5 s by default)
    /// and a moment more; what is not done by then loses its connection. The data directory is free
    /// for another server when this returns.
    pub fn shutdown(self) {
        drop(self);
    }

    fn set_disabled(&self, user_id: &str, disabled: bool) -> io::Result<()> {
        let found = self.service.state.set_disabled(user_id, disabled)?;
        found.then_some(()).ok_or_else(no_such_user)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.http.stop();
        // A function that is stuck keeps the state alive, but not the data directory.
        self.service.state.close();
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("base_url", &self.service.base_url)
            .field("app_id", &self.service.app_id)
            .finish_non_exhaustive()
    }
}

fn no_such_user() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "there is no user with this id")
}
