//! A local backend that implements the App Services client protocol, for tests and for one machine.
//!
//! [`Server`] supports location requests, e-mail accounts, log-in with every provider, linking,
//! server sessions, profiles, API keys and functions. It runs in the process that starts it and
//! listens on a port of this machine. It shares no protocol code with the client half of this
//! crate, only ids, secrets and clocks, so that each half is a check on the other.
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
//! No token, password or key appears in `Debug` output, in the journal or in an error. The server
//! stores passwords as argon2id hashes, and API keys and mailed tokens as SHA-256 hashes. It stores
//! the ids of refresh tokens, not their texts. It keeps up to 1,024 verified access tokens in
//! memory as texts.
//!
//! [`manual::guide::server_limits`](crate::manual::guide::server_limits) lists what the server
//! limits, and which attacks remain possible.
//!
//! Modules: `http` contains the sockets, threads and limits. `endpoint` defines the paths.
//! `service` dispatches each request and formats the response. `auth` and `functions` handle
//! requests. `providers` contacts other identity providers, and `test_provider` is an identity
//! provider. `throttle` counts requests for the rate limits. `state`, `token`, `password`, `outbox`
//! and `journal` hold the data. `faults` and `clock` are for tests.

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
mod function_call;
mod functions;
#[cfg(test)]
mod fuzz;
mod http;
mod journal;
mod json_body;
mod json_memory;
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

/// A running backend. Dropping it stops the server, as [`shut_down`](Self::shut_down) does.
///
/// # Examples
///
/// ```
/// use keyfob::server::{Route, Server};
/// use keyfob::store::MemoryStore;
/// use keyfob::{Credentials, Session};
///
/// let server = Server::builder().built_in_functions().start()?;
/// assert!(server.base_url().starts_with("http://127.0.0.1:"));
/// assert_eq!(server.app_id(), "keyfob-local");
///
/// let session = Session::builder(server.app_id(), server.base_url())
///     .store(MemoryStore::new())
///     .open()?;
/// let user = session.log_in(&Credentials::anonymous())?;
/// let sum: i64 = user.functions().call("sum", (1, 2))?;
/// assert_eq!(sum, 3);
/// server.journal().assert_count(Route::CallFunction, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Server {
    service: Arc<Service>,
    http: HttpServer,
}

impl Server {
    /// Creates a builder with default settings.
    pub fn builder() -> ServerBuilder {
        ServerBuilder::new()
    }

    /// Returns the URL for clients, without a trailing slash. It is the [public
    /// URL](ServerBuilder::public_url) if one was set.
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

    /// Returns the requests so far, in the order of their responses. The journal keeps the last
    /// 65,536 requests, or fewer if their paths take more than 16 MiB. The server records a request
    /// before it sends the response.
    ///
    /// # Examples
    ///
    /// ```
    /// # use keyfob::server::{Route, Server};
    /// # use keyfob::store::MemoryStore;
    /// # use keyfob::{Credentials, Session};
    /// # let server = Server::builder().start()?;
    /// # let session = Session::builder(server.app_id(), server.base_url())
    /// #     .store(MemoryStore::new())
    /// #     .open()?;
    /// session.log_in(&Credentials::anonymous())?;
    /// server.journal().assert_routes(&[Route::Location, Route::LogIn, Route::Profile]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn journal(&self) -> Journal {
        self.service.recorder.journal()
    }

    /// Empties the journal.
    pub fn clear_journal(&self) {
        self.service.recorder.clear();
    }

    /// Returns the faults that this server injects. Use it to add faults; see [`Faults`].
    pub fn faults(&self) -> &Faults {
        &self.service.faults
    }

    /// Returns the clock that the server uses for all expiry. It can be set and advanced. See
    /// [`ServerClock`].
    pub fn clock(&self) -> ServerClock {
        self.service.clock.clone()
    }

    /// Revokes all server sessions of a user, and returns the number of log-ins that were ended.
    /// The server rejects their refresh tokens from then on. Access tokens stay valid until they
    /// expire.
    ///
    /// # Errors
    /// `NotFound` if there is no such user. Other kinds if the data directory cannot be written.
    ///
    /// # Examples
    ///
    /// ```
    /// # use keyfob::server::Server;
    /// # use keyfob::store::MemoryStore;
    /// # use keyfob::{Credentials, Session};
    /// # let server = Server::builder().start()?;
    /// # let session = Session::builder(server.app_id(), server.base_url())
    /// #     .store(MemoryStore::new())
    /// #     .open()?;
    /// let user = session.log_in(&Credentials::anonymous())?;
    /// assert_eq!(server.revoke_sessions(user.id())?, 1);
    /// assert!(user.refresh_access_token().unwrap_err().needs_login());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn revoke_sessions(&self, user_id: impl AsRef<str>) -> io::Result<usize> {
        let state = &self.service.state;
        state.revoke_sessions(user_id.as_ref(), self.service.now())?.ok_or_else(no_such_user)
    }

    /// Disables a user. The server rejects the user's log-ins, refreshes and access tokens until
    /// [`enable_user`](Self::enable_user) is called.
    ///
    /// # Errors
    /// `NotFound` if there is no such user. Other kinds if the data directory cannot be written.
    ///
    /// # Examples
    ///
    /// ```
    /// # use keyfob::server::Server;
    /// # use keyfob::store::MemoryStore;
    /// # use keyfob::{Credentials, Session};
    /// # let server = Server::builder().start()?;
    /// # let session = Session::builder(server.app_id(), server.base_url())
    /// #     .store(MemoryStore::new())
    /// #     .open()?;
    /// let user = session.log_in(&Credentials::anonymous())?;
    /// server.disable_user(user.id())?;
    /// assert!(user.refresh_access_token().unwrap_err().needs_login());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn disable_user(&self, user_id: impl AsRef<str>) -> io::Result<()> {
        self.set_disabled(user_id.as_ref(), true)
    }

    /// Enables a disabled user. The user's sessions are valid again.
    ///
    /// # Errors
    /// `NotFound` if there is no such user. Other kinds if the data directory cannot be written.
    pub fn enable_user(&self, user_id: impl AsRef<str>) -> io::Result<()> {
        self.set_disabled(user_id.as_ref(), false)
    }

    /// Sets a user's custom data, or removes it with `None`. Access tokens issued from then on
    /// contain the data. It is stored with the user, and takes precedence over the
    /// [source](ServerBuilder::custom_data).
    ///
    /// # Errors
    /// `NotFound` if there is no such user; `InvalidInput` if the data is not an object, or larger
    /// than 24 KiB as JSON. Other kinds if the data directory cannot be written.
    ///
    /// # Examples
    ///
    /// ```
    /// # use keyfob::server::Server;
    /// # use keyfob::store::MemoryStore;
    /// # use keyfob::{Credentials, Session};
    /// # let server = Server::builder().start()?;
    /// # let session = Session::builder(server.app_id(), server.base_url())
    /// #     .store(MemoryStore::new())
    /// #     .open()?;
    /// use serde_json::{Value, json};
    ///
    /// let user = session.log_in(&Credentials::anonymous())?;
    /// server.set_custom_data(user.id(), Some(json!({"language": "en"})))?;
    /// let data: Option<Value> = user.refresh_custom_data()?;
    /// assert_eq!(data, Some(json!({"language": "en"})));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
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

    /// Returns the mails in the outbox, oldest first. The server sends no mail; it adds each mail
    /// to the outbox, which keeps the last 1,024 in memory. A mail stays there until it is
    /// [taken](Self::wait_for_mail). It is in the outbox before the server responds to the request
    /// that caused it.
    pub fn outbox(&self) -> Vec<Mail> {
        self.service.email.outbox.to_vec()
    }

    /// Removes the oldest mail of this kind to this address from the outbox, and returns it. Blocks
    /// until there is one. Returns `None` if the deadline passes first.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use keyfob::server::{Confirmation, MailKind, Server};
    /// use keyfob::store::MemoryStore;
    /// use keyfob::{Deadline, Session};
    ///
    /// let server = Server::builder().confirmation(Confirmation::Email).start()?;
    /// let session = Session::builder(server.app_id(), server.base_url())
    ///     .store(MemoryStore::new())
    ///     .open()?;
    /// session.email_password().register("ada@example.org", "correct horse")?;
    /// let deadline = Deadline::after(Duration::from_secs(5));
    /// let mail = server.wait_for_mail("ada@example.org", MailKind::Confirmation, deadline).unwrap();
    /// session.email_password().confirm(mail.token, &mail.token_id)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn wait_for_mail(&self, to: &str, kind: MailKind, deadline: Deadline) -> Option<Mail> {
        self.service.email.outbox.take(to, kind, deadline)
    }

    /// Stops the server, as dropping it does. The server stops accepting connections, closes idle
    /// ones, lets requests in progress complete, and joins its threads.
    ///
    /// Blocks for at most the [shutdown time-out](ServerBuilder::shutdown_timeout) (5 s by default)
    /// and a moment more. Requests that are not complete by then lose their connection. When this
    /// returns, another server can open the data directory.
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
        // A function that does not return keeps the state alive, but not the data directory.
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
