//! Blocking user sessions for App Services-compatible backends: log people (or machines) in, keep
//! them logged in, and make calls as them.
//!
//! A [`Session`] is the one handle: cheap to clone, usable from any thread, with no async runtime
//! anywhere. It keeps users and tokens in an embedded database that any number of processes may
//! share, so a program that was closed knows its users when it is opened again, without network.
//! Each [`User`] of it makes calls with an access token that is refreshed when it is due,
//! once, however many threads and processes ask.
//!
//! ```no_run
//! use keyfob::{Credentials, Secret, Session};
//!
//! # fn main() -> keyfob::Result<()> {
//! let session = Session::builder("my-app-id", "https://example.org").open()?;
//! session.email_password().register("ada@example.org", "hunter22")?;
//! let user = session.log_in(&Credentials::email_password("ada@example.org", "hunter22"))?;
//! let sum: i64 = user.functions().call("sum", (1, 2))?;
//! assert_eq!(session.current_user()?, Some(user));
//! # Ok(())
//! # }
//! ```
//!
//! # A tour
//!
//! - [`Session`]: log in, who is current, switch, remove. Built by [`SessionBuilder`].
//! - [`User`]: state, identities, profile, custom user data, tokens, log-out,
//!   [functions](User::functions).
//! - [`Credentials`]: one log-in attempt's input, one constructor per [`Provider`].
//! - [`EmailPassword`]: registration, confirmation, password reset. [`ApiKeys`]: log-ins for machines.
//! - [`SyncConfiguration`]: what a sync engine needs to open a user's realm.
//! - [`ejson`]: dates, ids, decimals and bytes in function calls.
//! - [`Events`] and [`Subscription`]: what happened, here or in another process.
//! - [`Error`]: one type with the questions callers ask: is it worth a retry, does the user have to
//!   log in, may it have happened all the same.
//! - [`store`], [`transport`] and [`Clock`]: what a session stands on, as traits.
//! - [`manual`]: how it works underneath, and what changed when.
//!
//! # Features
//!
//! | feature | adds | dependencies |
//! | --- | --- | --- |
//! | `tls` (default) | https with rustls | ureq's own |
//! | `log` | diagnostics through the log facade | log |
//! | `platform-verifier` | trust in what this machine trusts: `UreqTransportBuilder::platform_verifier` | ureq's own |
//! | `bson` | `Functions::call_bson`: `bson::Bson` in and out | bson |
//! | `encryption` | users and tokens sealed on disk: `SessionBuilder::encryption` | chacha20poly1305, getrandom |
//! | `keyring` | that key from the keyring of the system: `EncryptionKey::keyring` | keyring-core, and a store for it by system |
//! | `browser` | [`browser`]: sign-in with Google or any OpenID Connect provider, in the browser or on another device; implies `tls` | open, ring |
//! | `server` | [`server`]: a local backend that speaks the same protocol | argon2, aws-lc-rs, getrandom, httparse, jsonwebtoken |
//! | `testing` | `store::contract`: the laws of a store as a test suite | |
//! | `cli` | the `keyfob` command | clap, clap_complete, clap_mangen, signal-hook; rustix, on Windows rpassword |

#![cfg_attr(
    not(all(feature = "browser", feature = "server")),
    allow(rustdoc::broken_intra_doc_links)
)]

mod account;
mod api_keys;
mod arguments;
mod base_url;
#[cfg(feature = "browser")]
pub mod browser;
mod calendar;
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
mod hash;
mod id;
mod lenient;
pub mod manual;
#[cfg_attr(not(unix), path = "no_owner.rs")]
mod owner;
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
pub use store::EncryptionKey;
pub use sync::SyncConfiguration;
pub use token::{AccessToken, RefreshToken};
pub use user::User;

// The README's programs are compiled, and run where they can be, with the tests.
#[cfg(all(doctest, feature = "server"))]
#[doc = include_str!("../README.md")]
mod readme {}
