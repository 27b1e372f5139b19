//! Conversion to relaxed extended JSON, with plain numbers and readable dates.
//!
//! Source: the MongoDB specification "Extended JSON (v2)", relaxed format.

use keyfob::ejson::{DateTime, Value};
use serde_json::Number;

/// The last millisecond of the year 9999.
const LAST_MILLISECOND: i64 = 253_402_300_799_999;

/// Converts canonical extended JSON to relaxed extended JSON.
pub(crate) fn relaxed(value: Value) -> Value {
    match value {
        Value::Array(items) => Value::Array(items.into_iter().map(relaxed).collect()),
        Value::Object(fields) => match &fields[..] {
            [(name, inner)] => match plain(name, inner) {
                Some(plain) => plain,
                None => object(fields),
            },
            _ => object(fields),
        },
        value => value,
    }
}

fn object(fields: Vec<(String, Value)>) -> Value {
    Value::Object(fields.into_iter().map(|(name, value)| (name, relaxed(value))).collect())
}

/// Returns the relaxed form of a type wrapper, if it differs.
fn plain(name: &str, inner: &Value) -> Option<Value> {
    if let ("$date", Value::Object(fields)) = (name, inner) {
        let [(name, Value::String(milliseconds))] = &fields[..] else { return None };
        let milliseconds = milliseconds.parse().ok().filter(|_| name == "$numberLong")?;
        // A date outside the years 1970 to 9999 is not changed.
        let date = match milliseconds {
            0..=LAST_MILLISECOND => Value::String(DateTime::from_millis(milliseconds).to_string()),
            _ => inner.clone(),
        };
        return Some(Value::Object(vec![("$date".to_owned(), date)]));
    }
    let Value::String(text) = inner else { return None };
    let number = match name {
        "$numberInt" => text.parse::<i32>().ok()?.into(),
        "$numberLong" => text.parse::<i64>().ok()?.into(),
        // NaN and infinity are not changed.
        "$numberDouble" => Number::from_f64(text.parse().ok()?)?,
        _ => return None,
    };
    Some(Value::Number(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_becomes_relaxed() {
        for (canonical, expected) in [
            (r#"{"$numberInt":"-7"}"#, "-7"),
            (r#"[{"$numberLong":"9007199254740993"}]"#, "[9007199254740993]"),
            (
                r#"{"z":{"$numberDouble":"0.5"},"a":{"$numberDouble":"3.0"}}"#,
                r#"{"z":0.5,"a":3.0}"#,
            ),
            (r#"{"$numberDouble":"NaN"}"#, r#"{"$numberDouble":"NaN"}"#),
            (r#"{"$date":{"$numberLong":"0"}}"#, r#"{"$date":"1970-01-01T00:00:00Z"}"#),
            (
                r#"{"$date":{"$numberLong":"951782400123"}}"#,
                r#"{"$date":"2000-02-29T00:00:00.123Z"}"#,
            ),
            (
                r#"{"$date":{"$numberLong":"253402300799999"}}"#,
                r#"{"$date":"9999-12-31T23:59:59.999Z"}"#,
            ),
            (
                r#"{"$date":{"$numberLong":"253402300800000"}}"#,
                r#"{"$date":{"$numberLong":"253402300800000"}}"#,
            ),
            (r#"{"$date":{"$numberLong":"-1"}}"#, r#"{"$date":{"$numberLong":"-1"}}"#),
            (r#"{"$oid":"507f1f77bcf86cd799439011"}"#, r#"{"$oid":"507f1f77bcf86cd799439011"}"#),
            (r#"{"$numberInt":"x"}"#, r#"{"$numberInt":"x"}"#),
            (r#"{"$numberInt":"1","b":2}"#, r#"{"$numberInt":"1","b":2}"#),
        ] {
            let value = relaxed(serde_json::from_str(canonical).unwrap());
            assert_eq!(serde_json::to_string(&value).unwrap(), expected, "{canonical}");
        }
    }
}
