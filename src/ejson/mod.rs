//! Extended JSON: how function arguments are written and results are read, and the types that JSON
//! has no word for.
//!
//! Written in canonical form (`{"$numberInt":"1"}`), which every backend reads; read in canonical
//! and relaxed form alike. Both work through serde on any type, without a tree in between.
//!
//! - Where a whole number is wanted, `3.0` is 3, up to 2^53 - 1: from there on a float may stand for
//!   another number too, and is an error.
//! - `()` takes any value and ignores it.
//! - `{"$undefined":true}` is `null`, also in a `serde_json::Value` or a `RawValue`.
//! - A `serde_json::Value` has no NaN and no infinities: they become `null` in it.
//! - What lies behind `#[serde(flatten)]` or in an untagged enum is read by serde's own buffer,
//!   after the numbers have lost their wrappers: an `i64` takes no `3.0` there. [`Int64`] takes both
//!   forms of a number there as well.
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

#[cfg(feature = "bson")]
mod bson;
mod date;
mod de;
mod explain;
mod ser;
mod types;
mod undefined;

use serde::Serialize;

#[cfg(feature = "bson")]
pub(crate) use self::bson::{Tree, bson_list};
pub(crate) use self::de::{from_reader, from_slice};
pub(crate) use self::explain::explain;
pub(crate) use self::ser::to_vec;
pub use self::types::{Binary, DateTime, Decimal128, Double, Int64, ObjectId};
pub(crate) use self::undefined::without_undefined;
use crate::error::{Error, Result};

/// Tells whether a field marks an object as a value of another type, such as `{"$oid":"…"}`.
///
/// Source: the MongoDB Extended JSON v2 specification; `$uuid` is read there and never written.
pub(crate) fn is_wrapper(field: &str) -> bool {
    matches!(
        field,
        "$binary"
            | "$code"
            | "$date"
            | "$dbPointer"
            | "$maxKey"
            | "$minKey"
            | "$numberDecimal"
            | "$numberDouble"
            | "$numberInt"
            | "$numberLong"
            | "$oid"
            | "$regularExpression"
            | "$symbol"
            | "$timestamp"
            | "$undefined"
            | "$uuid"
    )
}

/// Writes the arguments of a function: a list, or nothing for none.
pub(crate) fn list(arguments: &(impl Serialize + ?Sized)) -> Result<Vec<u8>> {
    let wrong = |reason: &str| Error::decode("the arguments of a function", reason);
    let list = to_vec(arguments).map_err(|error| wrong(&error.to_string()))?;
    match list.first() {
        Some(b'[') => Ok(list),
        _ if list == b"null" => Ok(b"[]".to_vec()),
        _ => Err(wrong("expected a list: a tuple, a slice, or () for none")),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;
    use serde_json::Value;

    use super::*;

    #[test]
    fn the_limits_in_the_docs_are_what_they_are() {
        #[derive(Debug, Deserialize)]
        struct Row<T> {
            #[serde(flatten)]
            rest: BTreeMap<String, T>,
        }
        for number in ["NaN", "Infinity", "-Infinity"] {
            let text = format!(r#"{{"$numberDouble":"{number}"}}"#);
            assert!(from_slice::<Value>(text.as_bytes()).unwrap().is_null(), "{number}");
        }
        let wrapped = br#"{"n":{"$numberInt":"3"}}"#;
        assert_eq!(from_slice::<Row<i64>>(wrapped).unwrap().rest["n"], 3);
        assert!(from_slice::<Row<i64>>(br#"{"n":3.0}"#).is_err());
        assert_eq!(from_slice::<Row<Int64>>(br#"{"n":3.0}"#).unwrap().rest["n"], Int64(3));
    }
}
