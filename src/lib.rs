//! User sessions for App Services-compatible backends, as a blocking library: log people and
//! machines in, keep them logged in, and send requests on their behalf.
//!
//! A program that acts for a user needs an access token for each request, a refresh token to get
//! the next one, and a safe place for both. keyfob manages them for backends that speak the client
//! protocol of MongoDB Atlas App Services, the backend of the Realm SDKs. It is meant for threaded
//! programs, command-line tools, build scripts and small desktop utilities. No feature adds an
//! async runtime.
//!
//! ```
//! # #[cfg(feature = "server")]
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use keyfob::server::Server;
//! use keyfob::store::MemoryStore;
//! use keyfob::{Credentials, Session};
//!
//! // A backend in this process, for this example: feature `server`.
//! let server = Server::builder().built_in_functions().start()?;
//!
//! let session = Session::builder(server.app_id(), server.base_url())
//!     .store(MemoryStore::new()) // without this line, users are kept on disk
//!     .open()?;
//! session.email_password().register("ada@example.org", "correct horse")?;
//! let user = session.log_in(&Credentials::email_password("ada@example.org", "correct horse"))?;
//! let sum: i64 = user.functions().call("sum", (1, 2))?;
//! assert_eq!(sum, 3);
//! assert_eq!(session.current_user()?, Some(user));
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "server"))]
//! # fn main() {}
//! ```
//!
//! The manual page [`getting_started`](manual::guide::getting_started) shows how to set up a
//! backend and write a first program.
//!
//! # Concepts
//!
//! - A [`Session`] is the handle to one app on one backend. It is cheap to clone and may be used
//!   from any thread. It knows the users of this device, even after a restart and without network.
//! - A [`User`] is an account that this device knows. Its calls carry an access token. keyfob
//!   refreshes a token when it is used and due: once, however many threads and processes need it.
//! - A user has one or more *identities*, each an account with a [`Provider`]. [`Credentials`] are
//!   the input of one log-in with a provider.
//! - One logged-in user is the *current* user. Programs with one user need only
//!   [`Session::current_user`].
//! - Only a definite response of the backend ends a login. A timeout, a proxy or a server error
//!   never does.
//!
//! The page [`concepts`](manual::guide::concepts) explains these terms and has a glossary.
//!
//! # Where to find what
//!
//! | task | item |
//! | --- | --- |
//! | open a session, log in, switch, remove users | [`Session`], [`SessionBuilder`] |
//! | register, confirm an address, reset a password | [`EmailPassword`] |
//! | profile, identities, custom user data, tokens, log-out | [`User`] |
//! | call functions of the app | [`Functions`], [`ejson`] for dates, ids, decimals and bytes |
//! | log-ins for machines | [`ApiKeys`], [`Credentials::api_key`] |
//! | sign in with Google or OpenID Connect in the browser | [`browser`] |
//! | listen for changes | [`Events`], [`Subscription`] |
//! | decide how to handle an error, retry | [`Error`], [`Retry`] |
//! | test without a network | [`server`], [`store::MemoryStore`] |
//! | choose where users are stored, encrypt them | [`store`], `EncryptionKey` |
//! | proxies, certificates, a custom transport | [`transport`] |
//! | hand a user to a sync engine | [`SyncConfiguration`] |
//! | how-tos, migration from the Realm SDKs, troubleshooting | [`manual::guide`] |
//! | how it works, how fast it is, what changed | [`manual::design`] |
//!
//! # Features
//!
//! | feature | adds | dependencies |
//! | --- | --- | --- |
//! | `tls` (default) | https with rustls | ureq's own |
//! | `log` | diagnostics through the log facade | log |
//! | `platform-verifier` | the operating system's certificate store: `UreqTransportBuilder::platform_verifier` | ureq's own |
//! | `bson` | `bson::Bson` arguments and results of functions: `Functions::call_bson` | bson |
//! | `encryption` | users and tokens encrypted on disk: `SessionBuilder::encryption` | chacha20poly1305, getrandom |
//! | `keyring` | the key in the operating system's keyring: `EncryptionKey::keyring` | keyring-core and a store for each system |
//! | `browser` | sign-in in the system browser or on another device; implies `tls` | open, ring |
//! | `redis` | a store that many machines share: `store::RedisStore`; implies `encryption` and `tls` | redis, rustls, webpki-roots |
//! | `server` | a local backend that speaks the same protocol | argon2, aws-lc-rs, getrandom, httparse, jsonwebtoken |
//! | `testing` | the conformance test suite for stores: `store::contract` | |
//! | `cli` | the `keyfob` command; implies `browser`, `encryption` and `server` | clap, clap_complete, clap_mangen, signal-hook, rustix (Unix), rpassword (Windows) |

mod account;
mod api_keys;
mod arguments;
mod base_url;
#[cfg(feature = "browser")]
pub mod browser;
mod cancel;
mod clock;
mod credentials;
mod data_dir;
mod deadline;
mod diagnostics;
pub mod ejson;
mod email_password;
mod error;
mod event;
#[cfg(any(feature = "browser", feature = "server"))]
mod form;
mod fs;
mod functions;
mod happy_eyeballs;
mod hash;
#[cfg(any(feature = "browser", feature = "server"))]
mod html;
mod http_date;
mod id;
mod kv;
mod lenient;
pub mod manual;
#[cfg_attr(not(unix), path = "no_owner.rs")]
mod owner;
mod poll;
#[cfg(any(windows, test))]
mod polled_stream;
mod private;
mod retry;
mod secret;
#[cfg(feature = "server")]
pub mod server;
mod session;
mod shutdown;
pub mod store;
mod sync;
mod token;
pub mod transport;
mod unprintable;
mod untrusted_json;
mod user;
mod wire;

pub use account::{ApiKey, Identity, Profile, RequestOutcome, UserState};
pub use api_keys::ApiKeys;
pub use arguments::Arguments;
pub use cancel::CancelToken;
pub use clock::{Clock, SystemClock};
pub use credentials::{Credentials, Provider};
pub use deadline::Deadline;
pub use email_password::EmailPassword;
pub use error::{
    DecodeError, Error, LinkRefusal, LocalState, Result, ServerError, ServerErrorCode, SignInError,
    SignInErrorKind, StoreError, StoreErrorKind, TransportError, TransportErrorKind,
};
pub use event::{Event, LogoutReason, RemovalReason};
pub use functions::Functions;
pub use id::{ApiKeyId, DeviceId, UserId};
pub use retry::Retry;
pub use secret::Secret;
pub use session::{
    DEFAULT_DEADLINE, Events, ListedUser, Session, SessionBuilder, Subscription, Users,
};
#[cfg(feature = "encryption")]
#[doc(inline)]
pub use store::EncryptionKey;
pub use sync::SyncConfiguration;
pub use token::{AccessToken, RefreshToken};
pub use user::User;

// Compiles the README's programs with the tests, and runs those that can run.
#[cfg(all(doctest, feature = "server"))]
#[doc = include_str!("../README.md")]
mod readme {}
