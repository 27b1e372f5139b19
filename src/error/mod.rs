//! The error types of this crate: one [`Error`] with predicates for what a caller asks about it.
//!
//! A message is one lower-case clause without a full stop. It does not repeat its causes, which
//! [`source`](std::error::Error::source) returns. No message holds a secret, and control characters
//! from a backend are escaped.

mod codes;
mod display;
mod server;
mod sign_in;
mod store;
mod transport;

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

pub use codes::ServerErrorCode;
pub(crate) use display::Printable;
pub use server::{LinkRefusal, ServerError};
pub use sign_in::{SignInError, SignInErrorKind};
pub(crate) use store::failed;
pub use store::{StoreError, StoreErrorKind};
pub use transport::{TransportError, TransportErrorKind};

use crate::id::UserId;

/// The [`attempt`](ServerError::attempt) of a [`link`](crate::User::link), for
/// [`Error::link_refusal`].
pub(crate) const LINK: &str = "link the account";

/// The result of nearly all calls in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The error of nearly all calls in this crate.
///
/// The variant says where a call failed. The predicates say what the caller can do:
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
/// | [`Store`](Self::Store) | for kind `Busy` | no | if the backend had already carried out the request | none |
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
    /// A setting or an argument is invalid. Nothing was sent or stored.
    Config {
        /// Which setting or argument.
        what: &'static str,
        /// What is wrong with it, and what is expected.
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
    /// The user is logged out.
    NotLoggedIn(UserId),
    /// The store has no such user: it never logged in here, was removed, or belongs to another
    /// session.
    UnknownUser(UserId),
}

/// A response or an argument does not have the expected form.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DecodeError {
    /// What was parsed, such as "the log-in response".
    pub what: Cow<'static, str>,
    /// What was expected and what was seen. Never the text itself, which may contain a secret.
    pub reason: String,
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

    /// Marks that the backend had already carried out the request when this error occurred.
    pub(crate) fn mark_backend_changed(mut self) -> Self {
        match &mut self {
            Self::Decode(error) => {
                error.what =
                    format!("{}, after the backend had carried out the request,", error.what)
                        .into();
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
mod tests;
