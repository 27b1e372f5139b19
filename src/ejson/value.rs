//! A JSON value with the original order of object fields.

use std::fmt;

use serde::de::{Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Number;

use super::de::NUMBER;

/// Any JSON value. Unlike `serde_json::Value`, which sorts fields by name, it keeps their order,
/// which matters in commands and sort orders.
///
/// As a function result, it has plain numbers in place of extended JSON's number wrappers.
///
/// # Examples
///
/// ```
/// use keyfob::ejson::Value;
///
/// let value: Value = serde_json::from_str(r#"{"z":1,"a":[null,true]}"#)?;
/// assert_eq!(serde_json::to_string(&value)?, r#"{"z":1,"a":[null,true]}"#);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// An array.
    Array(Vec<Value>),
    /// `true` or `false`.
    Bool(bool),
    /// `null`.
    Null,
    /// A number.
    Number(Number),
    /// Fields in their order. A name may occur more than once.
    Object(Vec<(String, Value)>),
    /// A string.
    String(String),
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Array(items) => out.collect_seq(items),
            Self::Bool(value) => out.serialize_bool(*value),
            Self::Null => out.serialize_unit(),
            Self::Number(number) => number.serialize(out),
            Self::Object(fields) => {
                out.collect_map(fields.iter().map(|(name, value)| (name, value)))
            }
            Self::String(text) => out.serialize_str(text),
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Any)
    }
}

struct Any;

impl<'de> Visitor<'de> for Any {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::String(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(Value::String(text))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = from.next_element()? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let mut fields = Vec::new();
        while let Some(name) = from.next_key::<String>()? {
            if name == NUMBER {
                let digits = from.next_value::<String>()?;
                return digits.parse().map(Value::Number).map_err(A::Error::custom);
            }
            fields.push((name, from.next_value()?));
        }
        Ok(Value::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ejson::{from_slice, to_vec};

    #[test]
    fn value_is_written_as_read() {
        let text = r#"{"z":[1,-2,18446744073709551615,0.5,null],"a":{"y":true,"b":"\"ä"},"":[]}"#;
        let value: Value = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&value).unwrap(), text);
        for text in ["", "{", "x", "[1", &"[".repeat(1000)] {
            assert!(serde_json::from_str::<Value>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn number_wrappers_are_plain_numbers() {
        let text = br#"{"z":{"$numberInt":"7"},"a":{"$oid":"5f"}}"#;
        let value: Value = from_slice(text).unwrap();
        assert_eq!(serde_json::to_string(&value).unwrap(), r#"{"z":7,"a":{"$oid":"5f"}}"#);
        assert_eq!(to_vec(&value).unwrap(), text);
    }
}
