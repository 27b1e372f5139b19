//! The protocol: routes, request bodies and response bodies.
//!
//! This is the only client module that knows the backend's JSON. It does no I/O, takes no lock and
//! reads no clock.
//!
//! Source, unless an item names another: realm-core `src/realm/object-store/sync/app.cpp`.

mod error;
mod redirect;
mod response;
mod route;

pub(crate) use self::error::*;
pub(crate) use self::redirect::*;
pub(crate) use self::response::*;
pub(crate) use self::route::*;
