//! Extended JSON, limited to what function results and `sum` need.
//!
//! Source: the Extended JSON v2 specification, canonical form.

use std::io::{self, Write};

use serde::{Serialize, Serializer};
use serde_json::{Map, Number, Value};

use crate::ejson::DateTime;

/// The keys that mark an object as a value of another type.
const WRAPPERS: [&str; 16] = [
    "$binary",
    "$code",
    "$date",
    "$dbPointer",
    "$maxKey",
    "$minKey",
    "$numberDecimal",
    "$numberDouble",
    "$numberInt",
    "$numberLong",
    "$oid",
    "$regularExpression",
    "$symbol",
    "$timestamp",
    "$undefined",
    "$uuid",
];

/// A number of any wire type except decimal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum AnyNumber {
    Double(f64),
    Int(i64),
}

/// Serialises a value in canonical form, into a buffer of exactly the necessary size.
pub(super) fn to_canonical(value: &Value) -> serde_json::Result<Vec<u8>> {
    /// Counts what is written.
    struct Counter(usize);

    impl Write for Counter {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    let mut counter = Counter(0);
    serde_json::to_writer(&mut counter, &Canonical(value))?;
    let mut json = Vec::with_capacity(counter.0);
    serde_json::to_writer(&mut json, &Canonical(value))?;
    Ok(json)
}

/// A value that is serialised in canonical form: plain numbers get wrappers, dates become
/// milliseconds, and objects that are already wrappers stay unchanged.
///
/// The canonical value is never built in memory, because wrappers of numbers would take a hundred
/// times the memory.
struct Canonical<'a>(&'a Value);

impl Serialize for Canonical<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Array(values) => serializer.collect_seq(values.iter().map(Canonical)),
            Value::Number(number) => canonical_number(number).serialize(serializer),
            Value::Object(fields) if is_wrapper(fields) => match canonical_date(fields) {
                Some(date) => date.serialize(serializer),
                None => fields.serialize(serializer),
            },
            Value::Object(fields) => {
                serializer.collect_map(fields.iter().map(|(name, value)| (name, Canonical(value))))
            }
            other => other.serialize(serializer),
        }
    }
}

/// Returns a double as a wrapper. Unlike a plain number, it can be infinite or NaN.
pub(super) fn double(value: f64) -> Value {
    let text = if value.is_nan() {
        "NaN".to_owned()
    } else if value.is_infinite() {
        if value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned()
    } else {
        // The shortest text that parses to the same number, with `.0` if it is whole.
        format!("{value:?}")
    };
    wrap("$numberDouble", text)
}

/// Parses a number, plain or wrapped.
pub(super) fn number(value: &Value) -> Option<AnyNumber> {
    match value {
        Value::Number(number) => {
            number.as_i64().map(AnyNumber::Int).or_else(|| number.as_f64().map(AnyNumber::Double))
        }
        Value::Object(fields) if fields.len() == 1 => {
            let (name, text) = fields.iter().next()?;
            let text = text.as_str()?;
            match name.as_str() {
                "$numberInt" => text.parse::<i32>().ok().map(|int| AnyNumber::Int(int.into())),
                "$numberLong" => text.parse().ok().map(AnyNumber::Int),
                "$numberDouble" => match text {
                    "Infinity" => Some(f64::INFINITY),
                    "-Infinity" => Some(f64::NEG_INFINITY),
                    "NaN" => Some(f64::NAN),
                    _ => text.parse().ok().filter(|double: &f64| double.is_finite()),
                }
                .map(AnyNumber::Double),
                _ => None,
            }
        }
        _ => None,
    }
}

fn canonical_number(number: &Number) -> Value {
    match (number.as_i64(), number.as_f64()) {
        (Some(int), _) if i32::try_from(int).is_ok() => wrap("$numberInt", int.to_string()),
        (Some(int), _) => wrap("$numberLong", int.to_string()),
        // Too large for a signed 64-bit integer; a decimal holds 34 digits.
        (None, _) if number.is_u64() => wrap("$numberDecimal", number.to_string()),
        (None, value) => double(value.unwrap_or(f64::NAN)),
    }
}

/// Converts a non-canonical date to canonical form, because realm-core aborts the program on a date
/// that is a text.
///
/// Source: realm-core `util/bson/bson.cpp`, the parser of `$date`.
fn canonical_date(fields: &Map<String, Value>) -> Option<Value> {
    let date = fields.get("$date").filter(|date| date.is_number() || date.is_string())?;
    let date = serde_json::from_value::<DateTime>(wrap("$date", date.clone())).ok()?;
    Some(wrap("$date", wrap("$numberLong", date.millis().to_string())))
}

fn wrap(name: &str, value: impl Into<Value>) -> Value {
    Value::Object(Map::from_iter([(name.to_owned(), value.into())]))
}

/// Returns `true` if an object is a wrapper: a value of another type. All wrappers have one field,
/// except code with a scope.
fn is_wrapper(fields: &Map<String, Value>) -> bool {
    match fields.len() {
        1 => fields.keys().all(|name| WRAPPERS.contains(&name.as_str())),
        2 => fields.contains_key("$code") && fields.contains_key("$scope"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn canonical(value: Value) -> Value {
        serde_json::to_value(Canonical(&value)).unwrap()
    }

    #[test]
    fn plain_numbers_get_narrowest_wrapper() {
        assert_eq!(
            canonical(json!([1, -1, 2_147_483_647, 2_147_483_648_i64, u64::MAX, 1.5, 1.0, 1e300])),
            json!([
                {"$numberInt": "1"},
                {"$numberInt": "-1"},
                {"$numberInt": "2147483647"},
                {"$numberLong": "2147483648"},
                {"$numberDecimal": "18446744073709551615"},
                {"$numberDouble": "1.5"},
                {"$numberDouble": "1.0"},
                {"$numberDouble": "1e300"},
            ])
        );
        assert_eq!(canonical(json!({"a": {"b": [null, true, "x", 0]}})), {
            json!({"a": {"b": [null, true, "x", {"$numberInt": "0"}]}})
        });
    }

    #[test]
    fn wrappers_stay_untouched() {
        let wrappers = json!([
            {"$numberLong": "5"},
            {"$oid": "5f0000000000000000000000"},
            {"$date": {"$numberLong": "0"}},
            {"$timestamp": {"t": 1, "i": 1}},
            {"$minKey": 1},
            {"$binary": {"base64": "aGk=", "subType": "00"}},
            {"$code": "x", "$scope": {"a": 1}},
        ]);
        assert_eq!(canonical(wrappers.clone()), wrappers);
        let epoch = json!({"$date": {"$numberLong": "1500"}});
        for relaxed in [json!({"$date": "1970-01-01T00:00:01.5Z"}), json!({"$date": 1500})] {
            assert_eq!(canonical(relaxed), epoch);
        }
        assert_eq!(canonical(json!({"$numberInt": 1, "b": 1}))["b"], json!({"$numberInt": "1"}));
    }

    #[test]
    fn numbers_are_read_in_both_forms() {
        assert_eq!(number(&json!(7)), Some(AnyNumber::Int(7)));
        assert_eq!(number(&json!(0.5)), Some(AnyNumber::Double(0.5)));
        assert_eq!(number(&json!({"$numberInt": "7"})), Some(AnyNumber::Int(7)));
        assert_eq!(number(&json!({"$numberLong": "-7"})), Some(AnyNumber::Int(-7)));
        assert_eq!(number(&json!({"$numberDouble": "1E2"})), Some(AnyNumber::Double(100.0)));
        assert_eq!(
            number(&json!({"$numberDouble": "-Infinity"})),
            Some(AnyNumber::Double(f64::NEG_INFINITY))
        );
        for bad in [
            json!("7"),
            json!({"$numberInt": 7}),
            json!({"$numberInt": "2147483648"}),
            json!({"$numberDouble": "inf"}),
            json!({"$numberDecimal": "1"}),
            json!({"$numberInt": "1", "$numberLong": "1"}),
            json!(null),
        ] {
            assert_eq!(number(&bad), None, "{bad}");
        }
    }

    #[test]
    fn non_finite_doubles_have_names() {
        assert_eq!(double(f64::NAN), json!({"$numberDouble": "NaN"}));
        assert_eq!(double(f64::NEG_INFINITY), json!({"$numberDouble": "-Infinity"}));
        assert_eq!(double(-0.0), json!({"$numberDouble": "-0.0"}));
    }
}
