//! Blocking user sessions for App Services-compatible backends.
//!
//! So far: what is known of users, and the stores that keep it.

mod account;
mod clock;
mod credentials;
pub mod ejson;
mod error;
mod event;
mod id;
mod secret;
pub mod store;
mod token;

pub use account::{Identity, Profile, UserState};
pub use clock::{Clock, Deadline, SystemClock};
pub use credentials::{Credentials, Provider};
pub use error::{
    DecodeError, Error, LinkRefusal, LocalState, Result, ServerError, ServerErrorCode, StoreError,
    StoreErrorKind, TransportError, TransportErrorKind,
};
pub use event::{Event, LogoutReason, RemovalReason};
pub use id::{ApiKeyId, DeviceId, UserId};
pub use secret::Secret;
pub use token::{AccessToken, RefreshToken};
