//! Extended JSON, in which function arguments and results are written, and types for the values
//! that JSON lacks.
//!
//! keyfob writes the canonical form (`{"$numberInt":"1"}`), which every backend accepts, and reads
//! both the canonical and the relaxed form. Both work with any serde type, without an intermediate
//! tree.
//!
//! - A whole number may be written as a float such as `3.0`, up to 2^53 - 1. Larger floats are
//!   errors, because they may be rounded.
//! - `()` accepts any value and ignores it.
//! - `{"$undefined":true}` is `null`, even in a `serde_json::Value` or a `RawValue`.
//! - [`Value`] is any value. It keeps the order of fields, which `serde_json::Value` does not.
//! - A `Value` of either kind cannot hold NaN and infinities: they become `null` in it.
//! - Fields behind `#[serde(flatten)]` and values of untagged enums are buffered by serde, without
//!   the wrappers of numbers. An `i64` does not accept `3.0` there; [`Int64`] does.
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
mod value;

use serde::Serialize;

#[cfg(feature = "bson")]
pub(crate) use self::bson::bson_list;
pub(crate) use self::de::from_slice;
pub(crate) use self::explain::explain;
pub(crate) use self::ser::to_vec;
pub use self::types::{Binary, DateTime, Decimal128, Double, Int64, ObjectId};
pub(crate) use self::undefined::without_undefined;
pub use self::value::Value;
use crate::error::{Error, Result};

/// Returns `true` if a field marks its object as a value of another type, such as `{"$oid":"…"}`.
///
/// Source: the MongoDB Extended JSON v2 specification. `$uuid` is parsed and never written.
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

/// Serialises the arguments of a function: a list, or `()` for none.
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
    fn limits_are_as_documented() {
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
