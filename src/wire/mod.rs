//! The protocol: routes, bodies and answers. Pure, and the only place that knows the backend's
//! JSON.
//!
//! Source, unless an item names another: realm-core `src/realm/object-store/sync/app.cpp`.

pub(crate) mod date;
mod error;
mod redirect;
mod response;
mod route;

pub(crate) use self::error::*;
pub(crate) use self::redirect::*;
pub(crate) use self::response::*;
pub(crate) use self::route::*;
