//! serde helpers for values that backends write in more than one form: `null` or no field for an
//! empty value, numbers and `{"$oid":"…"}` for ids, any JSON number for a time.
//!
//! For `#[serde(default, deserialize_with = "…")]`. An unexpected value in one field does not fail
//! the whole response, unless the response is useless without that field.

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

/// Parses a value of a type. Any other value, including `null`, becomes the type's default.
pub(crate) fn or_default<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + DeserializeOwned,
{
    let value = Value::deserialize(from)?;
    Ok(serde_json::from_value(value).unwrap_or_default())
}

/// Parses an id or a name: a string, a number, or a value of extended JSON such as `{"$oid":"…"}`.
/// Any other value becomes an empty string.
pub(crate) fn text<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let mut value = Value::deserialize(from)?;
    if let Value::Object(fields) = &mut value
        && fields.len() == 1
        && let Some((_, inner)) = fields.iter_mut().find(|(name, _)| name.starts_with('$'))
    {
        value = inner.take();
    }
    Ok(match value {
        Value::Number(number) => number.to_string(),
        Value::String(text) => text,
        _ => String::new(),
    })
}

/// Parses a flag: `true`, `"true"`, or a number other than zero. Any other value is `false`.
pub(crate) fn flag<'de, D: Deserializer<'de>>(from: D) -> Result<bool, D::Error> {
    Ok(match Value::deserialize(from)? {
        Value::Bool(flag) => flag,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => text.eq_ignore_ascii_case("true"),
        _ => false,
    })
}

/// Parses a number of seconds and rounds it down. A number beyond 64 bits is clamped.
///
/// Source: RFC 7519, section 2, "NumericDate".
pub(crate) fn seconds<'de, D: Deserializer<'de>>(from: D) -> Result<i64, D::Error> {
    // From the text, because serde_json rejects `1e400`.
    let text = Box::<RawValue>::deserialize(from)?;
    let text = text.get();
    if let Ok(whole) = text.parse() {
        return Ok(whole);
    }
    let is_number = text.starts_with(|first: char| first == '-' || first.is_ascii_digit());
    let number: Option<f64> = text.parse().ok().filter(|_| is_number);
    #[allow(clippy::cast_possible_truncation, reason = "the cast saturates")]
    number.map(|number| number.floor() as i64).ok_or_else(|| D::Error::custom("expected a number"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[derive(Debug, Default, Deserialize, PartialEq)]
    #[serde(default)]
    struct All {
        #[serde(deserialize_with = "or_default")]
        list: Vec<i64>,
        #[serde(deserialize_with = "text")]
        text: String,
        #[serde(deserialize_with = "flag")]
        flag: bool,
        #[serde(deserialize_with = "seconds")]
        seconds: i64,
    }

    fn read(text: &str) -> All {
        serde_json::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn null_and_wrong_values_are_defaults() {
        assert_eq!(read("{}"), All::default());
        for odd in ["null", "{}", "[[]]", "false", "{\"a\":1}", "\"\""] {
            assert_eq!(
                read(&format!(r#"{{"list":{odd},"text":null,"flag":{odd}}}"#)),
                All::default()
            );
        }
        assert_eq!(read(r#"{"list":[1]}"#).list, [1]);
    }

    #[test]
    fn ids_are_parsed_in_every_form() {
        for (id, expected) in [
            (json!("a"), "a"),
            (json!(7), "7"),
            (json!(18_446_744_073_709_551_615_u64), "18446744073709551615"),
            (json!({"$oid": "5f"}), "5f"),
            (json!({"$numberLong": "7"}), "7"),
            (json!({"$numberInt": 7}), "7"),
            (json!({"$oid": null}), ""),
            (json!({"a": "x"}), ""),
            (json!({"$oid": "5f", "a": 1}), ""),
            (json!(null), ""),
            (json!(true), ""),
            (json!(["x"]), ""),
        ] {
            assert_eq!(read(&json!({"text": id}).to_string()).text, expected, "{id}");
        }
    }

    #[test]
    fn flags_are_parsed_in_every_form() {
        for (flag, expected) in [
            (json!(true), true),
            (json!("true"), true),
            (json!(1), true),
            (json!(false), false),
            (json!("false"), false),
            (json!(0), false),
            (json!(0.0), false),
        ] {
            assert_eq!(read(&json!({"flag": flag}).to_string()).flag, expected, "{flag}");
        }
    }

    #[test]
    fn seconds_are_any_number() {
        for (text, expected) in [
            ("7", 7),
            ("7.0", 7),
            ("7.999", 7),
            ("-0.5", -1),
            ("7e2", 700),
            ("1.8E+9", 1_800_000_000),
            ("9223372036854775807", i64::MAX),
            ("9223372036854775808", i64::MAX),
            ("-9223372036854775809", i64::MIN),
            ("99999999999999999999999999", i64::MAX),
            ("1e400", i64::MAX),
            ("-1e400", i64::MIN),
            ("1e-400", 0),
        ] {
            assert_eq!(read(&format!(r#"{{"seconds":{text}}}"#)).seconds, expected, "{text}");
        }
        for text in ["null", "true", "\"\"", "\"x\"", "\"inf\"", "\"NaN\"", "{}", "[7]", "\"7\""] {
            let text = format!(r#"{{"seconds":{text}}}"#);
            assert!(serde_json::from_str::<All>(&text).is_err(), "{text}");
        }
    }
}
