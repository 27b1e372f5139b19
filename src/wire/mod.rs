//! The protocol: routes, bodies and answers. Pure, and the only place that knows the backend's
//! JSON.
//!
//! Source, unless an item names another: realm-core `src/realm/object-store/sync/app.cpp`.

mod answer;
mod date;
mod redirect;
mod refusal;
mod route;

pub(crate) use self::answer::*;
pub(crate) use self::redirect::*;
pub(crate) use self::refusal::*;
pub(crate) use self::route::*;
