//! A local backend: the same protocol from the other side, for tests and for one machine.
//!
//! [`Server`] speaks what App Services clients speak (location, e-mail accounts, log-in with every
//! provider, linking, server sessions, profile, API keys, functions), in the process that starts it and on a port of this machine. It
//! shares nothing of the protocol with the client half of this crate, only ids, secrets and clocks,
//! so that each is a check on the other.
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
//! error; passwords are kept as argon2id hashes, API keys and mailed tokens as SHA-256 ones; refresh
//! tokens are kept as ids, not as texts. Up to 1,024 access tokens whose signature was checked are
//! in memory, as texts.
//!
//! Inside, `http` has the sockets, threads and limits; `endpoint` knows the paths; `service` sends
//! each request where it belongs and gives answers their form; `auth` and `functions` do what was
//! asked; `providers` asks other identity providers, and `test_provider` is one; `throttle` counts what is limited; `state`,
//! `token`, `password`, `outbox` and `journal` are what is known; `faults` and `clock` are for
//! tests.

mod auth;
mod budget;
mod builder;
mod client_address;
mod clock;
mod confirmation;
mod digest;
mod ejson;
mod endpoint;
mod error;
mod faults;
mod functions;
#[cfg(test)]
mod fuzz;
mod http;
mod journal;
mod json_body;
mod outbox;
mod pages;
mod password;
mod providers;
mod random;
mod rate_limits;
mod route;
mod service;
mod state;
mod test_provider;
mod text;
mod throttle;
mod token;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::Value;

pub use self::builder::ServerBuilder;
pub use self::clock::ServerClock;
pub use self::confirmation::{
    Confirmation, ConfirmationCall, ConfirmationFunction, Reset, ResetCall, ResetFunction, Verdict,
};
pub use self::faults::{ActiveFault, Fault, Faults};
pub use self::functions::{Context, FunctionError, UserIdentity};
use self::http::HttpServer;
pub use self::journal::{Journal, JournalEntry};
pub use self::outbox::{Mail, MailKind};
pub use self::providers::{
    Apple, AuthFunctionAnswer, AuthProvider, CustomJwt, Facebook, Google, JwtKeys, MetadataField,
    Oidc,
};
pub use self::rate_limits::{RateLimit, RateLimits};
pub use self::route::Route;
use self::service::Service;
use self::test_provider::TestProvider;
use crate::Deadline;

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
/// server.shut_down();
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

    /// Returns the URL that clients are given, without a slash at its end: the
    /// [public](ServerBuilder::public_url) one if there is one.
    pub fn base_url(&self) -> &str {
        &self.service.base_url
    }

    /// Returns the address that the server listens on.
    pub fn local_addr(&self) -> SocketAddr {
        self.service.local_addr
    }

    /// Returns the issuer of the [test identity
    /// provider](ServerBuilder::test_identity_provider), if there is one.
    pub fn test_issuer(&self) -> Option<&str> {
        self.service.test_provider.as_ref().map(TestProvider::issuer)
    }

    /// Returns the client app id.
    pub fn app_id(&self) -> &str {
        &self.service.app_id
    }

    /// Returns what was asked so far, in the order it was answered: the last 65,536 requests,
    /// fewer if their paths have more than 16 MiB.
    ///
    /// A request is in here before its answer goes out.
    pub fn journal(&self) -> Journal {
        self.service.recorder.journal()
    }

    /// Forgets what was asked so far.
    pub fn clear_journal(&self) {
        self.service.recorder.clear();
    }

    /// Returns what this server does wrong on purpose, to add to it.
    pub fn faults(&self) -> &Faults {
        &self.service.faults
    }

    /// Returns the clock that everything here expires by, to be set and advanced.
    pub fn clock(&self) -> ServerClock {
        self.service.clock.clone()
    }

    /// Ends all server sessions of a user and returns how many log-ins that ends. Refresh tokens are
    /// refused from here on; access tokens stay good until they expire.
    ///
    /// # Errors
    ///
    /// `NotFound` if there is no such user. Otherwise the data directory cannot be written.
    pub fn revoke_sessions(&self, user_id: impl AsRef<str>) -> io::Result<usize> {
        let state = &self.service.state;
        state.revoke_sessions(user_id.as_ref(), self.service.now())?.ok_or_else(no_such_user)
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

    /// Sets a user's custom data, or removes it with `None`. It is in the access tokens that are
    /// made from then on, and kept with the user.
    ///
    /// What is set here goes before what the [source](ServerBuilder::custom_data) has.
    ///
    /// # Errors
    ///
    /// `NotFound` if there is no such user; `InvalidInput` if the data is no object, or larger than
    /// 24 KiB as JSON. Otherwise the data directory cannot be written.
    pub fn set_custom_data(&self, user_id: impl AsRef<str>, data: Option<Value>) -> io::Result<()> {
        let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what);
        let data = match data {
            None | Some(Value::Null) => None,
            Some(Value::Object(data)) if auth::fits(&data) => Some(data),
            Some(Value::Object(_)) => return Err(invalid("custom user data is too large")),
            Some(_) => return Err(invalid("custom user data must be an object")),
        };
        let found = self.service.state.set_custom_data(user_id.as_ref(), data)?;
        found.then_some(()).ok_or_else(no_such_user)
    }

    /// Returns the mails that would have been sent and were not [taken](Self::wait_for_mail) yet,
    /// oldest first: the last 1024. They are in memory alone.
    ///
    /// A mail is in here before the request that caused it is answered.
    pub fn outbox(&self) -> Vec<Mail> {
        self.service.email.outbox.to_vec()
    }

    /// Takes the oldest mail of this kind to this address out of the outbox. Blocks until there is
    /// one, or the deadline has passed: then `None`.
    pub fn wait_for_mail(&self, to: &str, kind: MailKind, deadline: Deadline) -> Option<Mail> {
        self.service.email.outbox.take(to, kind, deadline)
    }

    /// Stops the server, as dropping it does: accepts no more connections, closes those that are
    /// idle, lets requests that are being answered end, and joins the threads.
    ///
    /// Blocks for at most the [shutdown time-out](ServerBuilder::shutdown_timeout) (5 s by default)
    /// and a moment more; what is not done by then loses its connection. The data directory is free
    /// for another server when this returns.
    pub fn shut_down(self) {
        drop(self);
    }

    fn set_disabled(&self, user_id: &str, disabled: bool) -> io::Result<()> {
        let found = self.service.state.set_disabled(user_id, disabled)?;
        found.then_some(()).ok_or_else(no_such_user)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.service.faults.stop();
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
