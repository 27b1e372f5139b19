//! What can go wrong, as types: one [`Error`] that answers the questions a caller asks of it.
//!
//! Texts are one lower-case clause without a full stop. Causes are in
//! [`source`](std::error::Error::source) and not repeated. No text holds a secret, and control
//! characters from a backend are escaped.

mod codes;
mod sign_in;

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use codes::ServerErrorCode;
pub use sign_in::{SignInError, SignInErrorKind};

use crate::id::UserId;
use crate::unprintable::is_unprintable;

/// What is attempted by a [`link`](crate::User::link), whose refusals have a meaning of their own.
pub(crate) const LINK: &str = "link the account";

/// The result of nearly all calls in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The error of nearly all calls in this crate.
///
/// The variant says where a call failed. The predicates answer what a caller wants to know:
///
/// | | [`is_retryable`](Self::is_retryable) | [`needs_login`](Self::needs_login) | [`is_ambiguous`](Self::is_ambiguous) | [`status`](Self::status) |
/// | --- | --- | --- | --- | --- |
/// | [`Cancelled`](Self::Cancelled) | no | no | if a request that changes something may have arrived | none |
/// | [`Config`](Self::Config) | no | no | no | none |
/// | [`Decode`](Self::Decode) | no | no | no | none |
/// | [`LocalState`](Self::LocalState) | no | for `NoCurrentUser`, `NotLoggedIn` | no | none |
/// | [`LoginEnded`](Self::LoginEnded) | no | yes | no | the backend's |
/// | [`Server`](Self::Server) | by status, see below | no | sometimes, see below | the backend's |
/// | [`ShutDown`](Self::ShutDown) | no | no | if a request that changes something may have arrived | none |
/// | [`SignIn`](Self::SignIn) | if it failed before the person was asked to sign in, and may succeed later | no | no | none |
/// | [`Store`](Self::Store) | for kind `Busy` | no | if the backend had already done what was asked | none |
/// | [`Transport`](Self::Transport) | unless the kind is `BodyTooLarge`, `InvalidUrl`, `NotABackend`, `Proxy` or `Tls` | no | if a request that changes something may have arrived | none |
///
/// A `Server` error is retryable for the statuses 302, 303, 307, 408, 429, 502, 503 and 504; for
/// any other 5xx if the request is harmless to repeat; and for a web page with a 5xx or with a 4xx
/// other than 404, 405 and 410, because a proxy sent that page. It is ambiguous if the request
/// changes something and a proxy answered without a response of the backend, a web page came with a
/// 5xx, or the response was a redirect.
///
/// `Debug` prints the message and its causes, in one line, because `fn main() ->
/// keyfob::Result<()>` shows that text to people. Cloning is cheap: threads that waited for one
/// refresh share its error.
///
/// # Examples
///
/// ```
/// # #[cfg(feature = "server")]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let server = keyfob::server::Server::builder().built_in_functions().start()?;
/// # let session = keyfob::Session::builder(server.app_id(), server.base_url())
/// #     .store(keyfob::store::MemoryStore::new())
/// #     .open()?;
/// use keyfob::{Credentials, Error, ServerErrorCode};
///
/// let credentials = Credentials::email_password("ada@example.org", "wrong horse");
/// match session.log_in(&credentials) {
///     Ok(user) => println!("welcome, {}", user.id()),
///     Err(error) if error.server_code() == Some(&ServerErrorCode::InvalidPassword) => {
///         println!("wrong address or password");
///     }
///     Err(error) if error.is_retryable() => println!("try again later: {error}"),
///     Err(error) => return Err(error.into()),
/// }
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "server"))]
/// # fn main() {}
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub enum Error {
    /// The call was cancelled with a [`CancelToken`](crate::CancelToken).
    Cancelled {
        /// Whether a request that changes something was sent and may have arrived.
        ambiguous: bool,
    },
    /// A setting or an argument cannot be used. Nothing was sent or stored.
    Config {
        /// Which setting or argument.
        what: &'static str,
        /// What is wrong with it, and what would be right.
        reason: String,
    },
    /// A response or an argument does not have the expected form.
    Decode(Box<DecodeError>),
    /// The operation does not fit the state of the user here. Nothing was sent, unless the user
    /// logged out during the call.
    LocalState(LocalState),
    /// The backend ended this login: it definitely refused the refresh token. The user is logged
    /// out and stays known; only another log-in helps.
    LoginEnded(Box<ServerError>),
    /// The backend refused the request.
    Server(Box<ServerError>),
    /// The session was shut down, before the call or during it; see
    /// [`Session::shut_down`](crate::Session::shut_down).
    ShutDown {
        /// Whether a request that changes something was on its way and may have arrived.
        ambiguous: bool,
    },
    /// A sign-in with an identity provider failed, in the browser or on another device.
    SignIn(Box<SignInError>),
    /// The store could not be read or written.
    Store(Box<StoreError>),
    /// No usable response came back.
    Transport(Box<TransportError>),
}

/// Why an operation does not fit the state of a user here.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum LocalState {
    /// Anonymous credentials cannot be linked to a user.
    CannotLinkAnonymous,
    /// No user is current. keyfob itself never returns this ([`Session::current_user`] returns
    /// `None`): it is for programs that need a current user.
    ///
    /// [`Session::current_user`]: crate::Session::current_user
    NoCurrentUser,
    /// The user is known here and logged out.
    NotLoggedIn(UserId),
    /// The user is not known here: never logged in, removed, or another session's.
    UnknownUser(UserId),
}

/// Why an account could not be linked; see [`Error::link_refusal`].
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum LinkRefusal {
    /// The account belongs to another user. Log in with it instead.
    IdentityAlreadyInUse,
    /// Accounts of this provider cannot be linked.
    NotLinkable,
    /// The e-mail address is not registered or not confirmed, or the password is wrong.
    RegisterFirst,
}

/// The backend refused a request.
///
/// Source: realm-core `object-store/sync/app_utils.cpp` for the error body.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct ServerError {
    /// What was attempted, such as "log in".
    pub attempt: &'static str,
    /// The HTTP status.
    pub status: u16,
    /// The backend's symbolic code, if it sent one.
    pub code: Option<ServerErrorCode>,
    /// The backend's message, unchanged; `Display` escapes control characters.
    pub message: String,
    /// The URL of the backend's log of this request, if the backend sent one.
    pub log_link: Option<String>,
    /// How long to wait before retrying, from the `Retry-After` header.
    pub retry_after: Option<Duration>,
    /// The origin that a redirect pointed to, such as `https://example.org`, if keyfob did not
    /// follow it.
    pub sends_to: Option<String>,
    /// Whether the request changes something and may have taken effect: a proxy had no response of
    /// the backend (502 or 504 without a JSON object), a web page came with a 5xx other than 501,
    /// 503 and 511, or the response was a redirect (301, 302, 303).
    pub ambiguous: bool,
    /// Whether the same request may succeed later: the backend, or a proxy in front of it, is busy
    /// or down (302, 303, 307, 408, 429, 502, 503, 504; any 5xx if the request is harmless to
    /// repeat), or a web page came with a 4xx other than 404, 405 and 410, or with any 5xx.
    pub retryable: bool,
}

/// A response or an argument does not have the expected form.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DecodeError {
    /// What was being decoded, such as "the log-in answer".
    pub what: Cow<'static, str>,
    /// What was expected and what was seen. Never the text itself, which may contain a secret.
    pub reason: String,
}

/// No usable response came back.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TransportError {
    /// What kind of failure it was.
    pub kind: TransportErrorKind,
    /// The origin that the request was for, such as `https://example.org`.
    pub origin: String,
    /// Whether the request changes something and may have reached the backend, so that repeating
    /// it could do it twice.
    pub ambiguous: bool,
    unsent: bool,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

/// The kinds of [`TransportError`].
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum TransportErrorKind {
    /// The response to a request that succeeded is larger than the limit.
    BodyTooLarge,
    /// The host could not be reached, or ended the TLS handshake. Nothing was sent.
    Connect,
    /// A web page came as if it were a success: something between here and the backend, such as the
    /// sign-on page of a network, responded in its place.
    Intercepted,
    /// The connection broke after at least a part of the request had been sent.
    Interrupted,
    /// The URL cannot be requested: malformed, or plain http to another machine.
    InvalidUrl,
    /// What responded to a log-in, a registration or another request without a token does not look
    /// like an App Services backend: the base URL is probably another service's. The
    /// [`source`](StdError::source) says what was seen.
    NotABackend,
    /// The response is not HTTP, or has an encoding that keyfob did not ask for.
    Protocol,
    /// The proxy refused to connect, with a status such as 407 (user name or password missing or
    /// wrong). Nothing was sent.
    Proxy,
    /// The host name could not be resolved. Nothing was sent.
    Resolve,
    /// The deadline passed.
    Timeout,
    /// The server's certificate or its TLS version was rejected. Nothing was sent.
    Tls,
}

/// The store could not be read or written.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StoreError {
    /// What kind of failure it was.
    pub kind: StoreErrorKind,
    /// The file or directory concerned.
    pub path: Option<PathBuf>,
    /// What was attempted or seen.
    pub reason: Cow<'static, str>,
    /// Whether the backend had done what was asked, such as deleting a user, before the store
    /// failed to keep it.
    pub ambiguous: bool,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

/// The kinds of [`StoreError`].
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// The directory may not be used: its permissions or its owner forbid it, or it is not a
    /// directory.
    Access,
    /// Another thread or process held a lock until the deadline.
    Busy,
    /// The data is damaged. keyfob keeps the old bytes; the error names where.
    Damaged,
    /// The session was opened before this process was forked. The child may open a session of its
    /// own. If the parent had written to any store before the fork, that session can only read;
    /// start a new program (`exec`) to write.
    Forked,
    /// The disk is full.
    Full,
    /// Reading or writing failed.
    Io,
    /// The encryption key is wrong or not available, a key was given for an unencrypted store that
    /// the key must not encrypt, or no key was given for an encrypted store. Nothing was changed;
    /// with the right key the store opens.
    Key,
    /// The directory holds the users of another app or backend.
    Mismatch,
    /// A newer version of keyfob wrote this.
    NewerVersion,
    /// The data directory is on a network file system, where locks and syncs are not reliable.
    NotLocal,
    /// The store has lost commits that this process had seen. The call changed nothing.
    RolledBack,
    /// The changes were made, and would not survive a failure of the store yet, for example because
    /// too few replicas have acknowledged them. The session goes on with them, and keeps new tokens
    /// as unpersisted tokens, so that later commits store them again.
    Unconfirmed,
}

impl StoreErrorKind {
    /// Returns `true` if a store of this process's own users cannot be written at present, and can
    /// perhaps be read.
    pub(crate) fn is_unwritable(self) -> bool {
        matches!(self, Self::Access | Self::Busy | Self::Full | Self::Io)
    }
}

impl Error {
    pub(crate) fn config(what: &'static str, reason: impl Into<String>) -> Self {
        Self::Config { what, reason: reason.into() }
    }

    pub(crate) fn decode(what: impl Into<Cow<'static, str>>, reason: impl fmt::Display) -> Self {
        Self::Decode(Box::new(DecodeError { what: what.into(), reason: reason.to_string() }))
    }

    /// Returns `true` if the same call may succeed later although nothing has changed here: a
    /// network failure, a busy backend, a busy store. A [log-out](crate::User::log_out) or a
    /// [removal](crate::Session::remove_user) has been done here even then.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[cfg(feature = "server")]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let server = keyfob::server::Server::builder().built_in_functions().start()?;
    /// # let session = keyfob::Session::builder(server.app_id(), server.base_url())
    /// #     .store(keyfob::store::MemoryStore::new())
    /// #     .open()?;
    /// use keyfob::Credentials;
    /// use keyfob::server::{Fault, Route};
    ///
    /// server.faults().add(Fault::status(503).on(Route::LogIn));
    /// let error = session.log_in(&Credentials::anonymous()).unwrap_err();
    /// assert!(error.is_retryable());
    /// session.log_in(&Credentials::anonymous())?;
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "server"))]
    /// # fn main() {}
    /// ```
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Server(error) => error.retryable,
            Self::SignIn(error) => error.is_retryable(),
            Self::Store(error) => error.kind == StoreErrorKind::Busy,
            Self::Transport(error) => !matches!(
                error.kind,
                TransportErrorKind::BodyTooLarge
                    | TransportErrorKind::InvalidUrl
                    | TransportErrorKind::NotABackend
                    | TransportErrorKind::Proxy
                    | TransportErrorKind::Tls
            ),
            _ => false,
        }
    }

    /// Returns `true` if the user has to log in (again) before the call can succeed. Returns
    /// `false` for a removed user, because the removal was intentional.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[cfg(feature = "server")]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let server = keyfob::server::Server::builder().built_in_functions().start()?;
    /// # let session = keyfob::Session::builder(server.app_id(), server.base_url())
    /// #     .store(keyfob::store::MemoryStore::new())
    /// #     .open()?;
    /// # session.email_password().register("ada@example.org", "correct horse")?;
    /// # let ada = keyfob::Credentials::email_password("ada@example.org", "correct horse");
    /// # let user = session.log_in(&ada)?;
    /// server.revoke_sessions(user.id())?; // the operator ends all logins of this user
    /// let error = user.refresh_access_token().unwrap_err();
    /// assert!(error.needs_login());
    /// session.log_in(&ada)?;
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "server"))]
    /// # fn main() {}
    /// ```
    pub fn needs_login(&self) -> bool {
        matches!(
            self,
            Self::LoginEnded(_)
                | Self::LocalState(LocalState::NoCurrentUser | LocalState::NotLoggedIn(_))
        )
    }

    /// Returns `true` if the backend may have done what was asked although the call failed. For
    /// example, a log-in whose response was lost may have created a server session, a registration
    /// may have created the account, and a deletion stands even if the store could not record it.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[cfg(feature = "server")]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let server = keyfob::server::Server::builder().built_in_functions().start()?;
    /// # let session = keyfob::Session::builder(server.app_id(), server.base_url())
    /// #     .store(keyfob::store::MemoryStore::new())
    /// #     .open()?;
    /// # let user = session.log_in(&keyfob::Credentials::anonymous())?;
    /// use keyfob::server::{Fault, Route};
    ///
    /// server.faults().add(Fault::cut_after_commit().on(Route::CallFunction));
    /// let error = user.functions().call::<i64>("sum", (1, 2)).unwrap_err();
    /// assert!(error.is_ambiguous()); // the function may have run
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "server"))]
    /// # fn main() {}
    /// ```
    pub fn is_ambiguous(&self) -> bool {
        match self {
            Self::Server(error) => error.ambiguous,
            Self::Cancelled { ambiguous } | Self::ShutDown { ambiguous } => *ambiguous,
            Self::Store(error) => error.ambiguous,
            Self::Transport(error) => error.ambiguous,
            _ => false,
        }
    }

    /// Says that the backend had done what was asked when this happened.
    pub(crate) fn mark_backend_changed(mut self) -> Self {
        match &mut self {
            Self::Decode(error) => {
                error.what =
                    format!("{}, after the backend had done what was asked,", error.what).into();
            }
            Self::Server(error) => error.ambiguous = true,
            Self::Store(error) => error.ambiguous = true,
            Self::Transport(error) => error.ambiguous = true,
            _ => {}
        }
        self
    }

    /// Returns `true` if the deadline passed: on the network, while waiting for the store, or while
    /// waiting for a person to sign in.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[cfg(feature = "server")]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let server = keyfob::server::Server::builder().built_in_functions().start()?;
    /// # let session = keyfob::Session::builder(server.app_id(), server.base_url())
    /// #     .store(keyfob::store::MemoryStore::new())
    /// #     .open()?;
    /// # let user = session.log_in(&keyfob::Credentials::anonymous())?;
    /// use std::time::Duration;
    ///
    /// use keyfob::server::{Fault, Route};
    ///
    /// server.faults().add(Fault::hold().on(Route::Refresh));
    /// let impatient = session.with_deadline(Duration::from_millis(100)).user(user.id())?.unwrap();
    /// let error = impatient.refresh_access_token().unwrap_err();
    /// assert!(error.is_timeout() && error.is_retryable());
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "server"))]
    /// # fn main() {}
    /// ```
    pub fn is_timeout(&self) -> bool {
        match self {
            Self::SignIn(error) => error.kind == SignInErrorKind::TimedOut,
            Self::Transport(error) => error.kind == TransportErrorKind::Timeout,
            Self::Store(error) => error.kind == StoreErrorKind::Busy,
            _ => false,
        }
    }

    /// Returns `true` if the early end of a call's time may have caused this.
    pub(crate) fn is_interruption(&self) -> bool {
        matches!(self, Self::Transport(_)) || self.is_timeout()
    }

    /// Returns the HTTP status, if the backend responded.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[cfg(feature = "server")]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let server = keyfob::server::Server::builder().built_in_functions().start()?;
    /// # let session = keyfob::Session::builder(server.app_id(), server.base_url())
    /// #     .store(keyfob::store::MemoryStore::new())
    /// #     .open()?;
    /// # let user = session.log_in(&keyfob::Credentials::anonymous())?;
    /// let error = user.functions().call::<()>("missing", ()).unwrap_err();
    /// assert_eq!(error.status(), Some(404));
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "server"))]
    /// # fn main() {}
    /// ```
    pub fn status(&self) -> Option<u16> {
        self.server().map(|error| error.status)
    }

    /// Returns the backend's error code, if it sent one.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[cfg(feature = "server")]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let server = keyfob::server::Server::builder().built_in_functions().start()?;
    /// # let session = keyfob::Session::builder(server.app_id(), server.base_url())
    /// #     .store(keyfob::store::MemoryStore::new())
    /// #     .open()?;
    /// # let user = session.log_in(&keyfob::Credentials::anonymous())?;
    /// use keyfob::ServerErrorCode;
    ///
    /// let error = user.functions().call::<()>("missing", ()).unwrap_err();
    /// assert_eq!(error.server_code(), Some(&ServerErrorCode::FunctionNotFound));
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "server"))]
    /// # fn main() {}
    /// ```
    pub fn server_code(&self) -> Option<&ServerErrorCode> {
        self.server()?.code.as_ref()
    }

    /// Returns how long to wait before retrying, if the backend sent a `Retry-After` header.
    /// [`Retry`](crate::Retry) obeys it.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[cfg(feature = "server")]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let server = keyfob::server::Server::builder().built_in_functions().start()?;
    /// # let session = keyfob::Session::builder(server.app_id(), server.base_url())
    /// #     .store(keyfob::store::MemoryStore::new())
    /// #     .open()?;
    /// # let user = session.log_in(&keyfob::Credentials::anonymous())?;
    /// use std::time::Duration;
    ///
    /// use keyfob::server::{Fault, Route};
    ///
    /// let pause = Duration::from_secs(30);
    /// server.faults().add(Fault::status(429).retry_after(pause).on(Route::CallFunction));
    /// let error = user.functions().call::<i64>("sum", (1, 2)).unwrap_err();
    /// assert_eq!(error.retry_after(), Some(pause));
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "server"))]
    /// # fn main() {}
    /// ```
    pub fn retry_after(&self) -> Option<Duration> {
        self.server()?.retry_after
    }

    /// Returns what the refusal of a [`link`](crate::User::link) means, if the response says so.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[cfg(feature = "server")]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let server = keyfob::server::Server::builder().built_in_functions().start()?;
    /// # let session = keyfob::Session::builder(server.app_id(), server.base_url())
    /// #     .store(keyfob::store::MemoryStore::new())
    /// #     .open()?;
    /// # let user = session.log_in(&keyfob::Credentials::anonymous())?;
    /// use keyfob::{Credentials, LinkRefusal};
    ///
    /// let unknown = Credentials::email_password("ada@example.org", "correct horse");
    /// let error = user.link(&unknown).unwrap_err();
    /// assert_eq!(error.link_refusal(), Some(LinkRefusal::RegisterFirst));
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "server"))]
    /// # fn main() {}
    /// ```
    pub fn link_refusal(&self) -> Option<LinkRefusal> {
        use ServerErrorCode as Code;
        let error = self.server().filter(|error| error.attempt == LINK)?;
        match &error.code {
            Some(Code::Other(code)) if code == "IdentityAlreadyInUse" => {
                Some(LinkRefusal::IdentityAlreadyInUse)
            }
            Some(Code::AccountNameInUse) => Some(LinkRefusal::IdentityAlreadyInUse),
            Some(Code::InvalidPassword) => Some(LinkRefusal::RegisterFirst),
            _ if error.message.contains("invalid user link request") => {
                Some(LinkRefusal::NotLinkable)
            }
            _ => None,
        }
    }

    fn server(&self) -> Option<&ServerError> {
        match self {
            Self::LoginEnded(error) | Self::Server(error) => Some(error),
            _ => None,
        }
    }
}

impl TransportError {
    /// Creates an error of a kind. It becomes ambiguous only if the session, which knows what the
    /// request was for, marks it so.
    pub fn new(kind: TransportErrorKind, origin: impl Into<String>) -> Self {
        Self { kind, origin: origin.into(), ambiguous: false, unsent: false, source: None }
    }

    /// Marks that the failure happened before anything was sent, where the kind alone does not say
    /// so.
    #[must_use]
    pub fn before_sending(mut self) -> Self {
        self.unsent = true;
        self
    }

    /// Adds the cause, for [`source`](StdError::source).
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(Arc::from(source.into()));
        self
    }

    /// Returns `true` if the backend may have received the request.
    pub fn may_have_arrived(&self) -> bool {
        !self.unsent
            && matches!(
                self.kind,
                TransportErrorKind::BodyTooLarge
                    | TransportErrorKind::Intercepted
                    | TransportErrorKind::Interrupted
                    | TransportErrorKind::Protocol
                    | TransportErrorKind::Timeout
            )
    }
}

impl StoreError {
    /// Creates an error of a kind; `reason` says what was attempted or seen.
    pub fn new(kind: StoreErrorKind, reason: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, path: None, reason: reason.into(), ambiguous: false, source: None }
    }

    /// Names the file or directory concerned.
    #[must_use]
    pub fn at(mut self, path: impl AsRef<Path>) -> Self {
        self.path = Some(path.as_ref().to_owned());
        self
    }

    /// Adds the cause, for [`source`](StdError::source).
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(Arc::from(source.into()));
        self
    }
}

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
                f.write_str("the session was shut down before the answer to a request came")
            }
            Self::SignIn(error) => error.fmt(f),
            Self::Store(error) => error.fmt(f),
            Self::Transport(error) => error.fmt(f),
        }
    }
}

/// The message and its causes, in one line, since `fn main() -> keyfob::Result<()>` shows this text to
/// people.
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

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the backend refused to {}: ", self.attempt)?;
        if !self.message.is_empty() {
            let end = if self.sends_to.is_some() { ", and " } else { " " };
            write!(f, "{}{end}", Printable(&self.message))?;
        }
        if let Some(origin) = &self.sends_to {
            write!(f, "it sends to {}, which is not followed ", Printable(origin))?;
        }
        match &self.code {
            Some(code) => write!(f, "(status {}, {})", self.status, Printable(code.as_str())),
            None => write!(f, "(status {})", self.status),
        }
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // It may have the name of a function in it.
        write!(f, "{} cannot be read: {}", Printable(&self.what), Printable(&self.reason))
    }
}

impl fmt::Display for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            TransportErrorKind::BodyTooLarge => "the answer is larger than the limit",
            TransportErrorKind::Connect => "cannot connect",
            TransportErrorKind::Intercepted => {
                "what responded does not look like an App Services backend, it returned a web page, \
                 check the base URL and whether this network wants a sign-on"
            }
            TransportErrorKind::Interrupted => "the connection broke before the answer was whole",
            TransportErrorKind::InvalidUrl => "the URL cannot be requested",
            TransportErrorKind::NotABackend => {
                "what responded does not look like an App Services backend, check the base URL"
            }
            TransportErrorKind::Protocol => "the answer cannot be read as HTTP",
            TransportErrorKind::Proxy => {
                "the proxy refused to connect, check its URL, user name and password"
            }
            TransportErrorKind::Resolve => "the host name cannot be resolved",
            TransportErrorKind::Timeout => "the time was up before an answer came",
            TransportErrorKind::Tls => "TLS was refused",
        };
        write!(f, "{what}: {}", Printable(&self.origin))
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the store cannot be used: {}", Printable(&self.reason))?;
        if let Some(path) = &self.path {
            write!(f, ": {}", Printable(&path.to_string_lossy()))?;
        }
        match self.ambiguous {
            true => f.write_str("; the backend had done what was asked"),
            false => Ok(()),
        }
    }
}

/// Text from elsewhere, with control characters escaped and at most 500 characters of it.
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

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::SignIn(error) => error.source(),
            Self::Store(error) => error.source(),
            Self::Transport(error) => error.source(),
            _ => None,
        }
    }
}

impl StdError for DecodeError {}
impl StdError for LocalState {}
impl StdError for ServerError {}

impl StdError for StoreError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

impl StdError for TransportError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

impl From<LocalState> for Error {
    fn from(state: LocalState) -> Self {
        Self::LocalState(state)
    }
}

impl From<ServerError> for Error {
    fn from(error: ServerError) -> Self {
        Self::Server(Box::new(error))
    }
}

impl From<SignInError> for Error {
    fn from(error: SignInError) -> Self {
        Self::SignIn(Box::new(error))
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        Self::Store(Box::new(error))
    }
}

impl From<TransportError> for Error {
    fn from(error: TransportError) -> Self {
        Self::Transport(Box::new(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_stay_small() {
        assert!(size_of::<Error>() <= 64, "{}", size_of::<Error>());
    }

    #[test]
    fn control_characters_are_never_printed_raw() {
        let error = ServerError {
            attempt: "log in",
            status: 401,
            code: Some("Bad\u{7}Code".into()),
            message: "no\u{1b}[2Jway".into(),
            log_link: None,
            retry_after: None,
            sends_to: None,
            ambiguous: false,
            retryable: false,
        };
        assert_eq!(
            Error::from(error).to_string(),
            "the backend refused to log in: no\\u{1b}[2Jway (status 401, Bad\\u{7}Code)"
        );
        let error = Error::decode("the answer", "a\u{202e}b\n");
        assert_eq!(error.to_string(), "the answer cannot be read: a\\u{202e}b\\u{a}");
    }

    #[test]
    fn long_messages_are_cut() {
        let error = Error::decode("the answer", "x".repeat(10_000));
        assert!(error.to_string().len() < 600);
    }
}
