//! Extended JSON: how function arguments are written and results are read, and the types that JSON
//! has no word for.
//!
//! Written in canonical form (`{"$numberInt":"1"}`), which every backend reads; read in canonical
//! and relaxed form alike. Both work through serde on any type, without a tree in between.
//!
//! # Examples
//!
//! ```no_run
//! use keyfob::ejson::{DateTime, ObjectId};
//!
//! #[derive(serde::Deserialize)]
//! struct Order {
//!     _id: ObjectId,
//!     placed: DateTime,
//!     total: i64,
//! }
//!
//! # fn example(user: keyfob::User) -> keyfob::Result<()> {
//! let since = DateTime::from(std::time::SystemTime::now());
//! let orders: Vec<Order> = user.functions().call("orders", (since,))?;
//! # Ok(())
//! # }
//! ```
//!
//! Source: the MongoDB Extended JSON v2 specification; realm-core `util/bson/bson.cpp`.

mod date;
mod de;
mod ser;
mod types;

use serde::Serialize;

pub(crate) use self::de::from_slice;
pub(crate) use self::ser::to_vec;
pub use self::types::{Binary, DateTime, Decimal128, Double, Int64, ObjectId};
use crate::error::{Error, Result};

/// Writes the arguments of a function: a list, or nothing for none.
pub(crate) fn list(arguments: &impl Serialize) -> Result<Vec<u8>> {
    let wrong = |reason: &str| Error::decode("the arguments of a function", reason);
    let list = to_vec(arguments).map_err(|error| wrong(&error.to_string()))?;
    match list.first() {
        Some(b'[') => Ok(list),
        _ if list == b"null" => Ok(b"[]".to_vec()),
        _ => Err(wrong("expected a list: a tuple, a slice, or () for none")),
    }
}
