//! JSON bodies of requests, parsed with no more memory than necessary.
//!
//! A `serde_json::Value` takes up to a hundred times the memory of its text. Bodies are therefore
//! parsed into types that skip unknown fields, or a single field is looked up. Where a tree of
//! values is part of the API, its memory is estimated before it is built.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{
    DeserializeOwned, DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde::{Deserialize, Deserializer};

use super::error::ApiError;
use super::http::Request;
use super::json_memory::memory_as_values;
use crate::{Secret, untrusted_json};

/// Maximum memory of values from clients without a token.
const MAX_ANONYMOUS_VALUES: usize = 512 * 1024;

/// What a body contains at a path.
#[derive(Debug)]
pub(super) enum Field {
    /// Nothing, or null.
    Missing,
    Text(Secret),
    /// Another value.
    Other,
}

/// Parses a body. Unknown fields are skipped. An empty body counts as `{}`, because clients send a
/// JSON content type even with an empty body.
pub(super) fn body<T: DeserializeOwned>(request: &Request) -> Result<T, ApiError> {
    parse(request, PhantomData::<T>)
}

/// Returns the field of a body at a path of field names.
pub(super) fn field(request: &Request, path: &[&str]) -> Result<Field, ApiError> {
    parse(request, Lookup(path))
}

/// Deserialises a field for which null means the same as a missing field.
pub(super) fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// Rejects a body that takes too much memory as values, for routes that need no token.
pub(super) fn check_values(request: &Request) -> Result<(), ApiError> {
    if memory_as_values(&request.body) <= MAX_ANONYMOUS_VALUES {
        return Ok(());
    }
    let message = "the request body has too many values";
    Err(ApiError::new(413, "ReadSizeLimitExceeded", message))
}

fn parse<T, S>(request: &Request, seed: S) -> Result<T, ApiError>
where
    S: for<'de> DeserializeSeed<'de, Value = T>,
{
    let text = untrusted_json::without_mark(&request.body).trim_ascii();
    let text = if text.is_empty() { b"{}" } else { text };
    if !text.starts_with(b"{") {
        return Err(ApiError::bad_request("the request body must be a JSON object"));
    }
    let text = untrusted_json::repair(text).map_err(ApiError::bad_request)?;
    let mut deserializer = serde_json::Deserializer::from_slice(&text);
    let value = seed.deserialize(&mut deserializer);
    value.and_then(|value| deserializer.end().map(|()| value)).map_err(|error| refusal(&error))
}

/// Describes what is wrong with a body. The parser's own message is not used, because it may quote
/// the body, and with it a password.
fn refusal(error: &serde_json::Error) -> ApiError {
    let text = error.to_string();
    // This message names only a field that the server knows.
    let what = if error.is_data() && text.starts_with("duplicate field `") {
        text.split(" at line ").next().unwrap_or_default()
    } else if error.is_data() {
        "unexpected value"
    } else if text.starts_with("recursion limit exceeded") {
        "too deeply nested value"
    } else if text.starts_with("number out of range") {
        "number out of range"
    } else {
        "malformed JSON"
    };
    ApiError::bad_request(format!("{what} at line {} column {}", error.line(), error.column()))
}

/// Looks up a path of field names.
struct Lookup<'p>(&'p [&'p str]);

impl<'de> DeserializeSeed<'de> for Lookup<'_> {
    type Value = Field;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Field, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Lookup<'_> {
    type Value = Field;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Field, E> {
        Ok(Field::Missing)
    }
    fn visit_bool<E>(self, _: bool) -> Result<Field, E> {
        Ok(Field::Other)
    }
    fn visit_i64<E>(self, _: i64) -> Result<Field, E> {
        Ok(Field::Other)
    }
    fn visit_u64<E>(self, _: u64) -> Result<Field, E> {
        Ok(Field::Other)
    }
    fn visit_f64<E>(self, _: f64) -> Result<Field, E> {
        Ok(Field::Other)
    }
    fn visit_str<E>(self, text: &str) -> Result<Field, E> {
        Ok(if self.0.is_empty() { Field::Text(Secret::new(text)) } else { Field::Other })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Field, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Field::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Field, A::Error> {
        let Some((first, rest)) = self.0.split_first() else {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return Ok(Field::Other);
        };
        let mut found = None;
        while let Some(name) = map.next_key::<Cow<'_, str>>()? {
            if name != *first {
                map.next_value::<IgnoredAny>()?;
            } else if found.is_some() {
                // A proxy in front of the server may have used the other one.
                return Err(A::Error::custom(format_args!("duplicate field `{first}`")));
            } else {
                found = Some(map.next_value_seed(Lookup(rest))?);
            }
        }
        Ok(found.unwrap_or(Field::Missing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(body: &str) -> Request {
        Request {
            method: String::new(),
            path: String::new(),
            query: None,
            headers: Vec::new(),
            body: body.into(),
            peer: std::net::Ipv4Addr::LOCALHOST.into(),
        }
    }

    fn shown(body: &str, path: &[&str]) -> String {
        match field(&request(body), path) {
            Ok(Field::Missing) => "missing".to_owned(),
            Ok(Field::Text(text)) => format!("text {}", text.expose()),
            Ok(Field::Other) => "other".to_owned(),
            Err(error) => error.message,
        }
    }

    #[test]
    fn field_is_found_by_its_path() {
        let body =
            r#" {"a":"x","b":{"c":"y","d":[{"c":1}]},"e":null,"f":[1],"g":1.5,"\u0068":"z"} "#;
        assert_eq!(shown(body, &["a"]), "text x");
        assert_eq!(shown(body, &["b", "c"]), "text y");
        assert_eq!(shown(body, &["h"]), "text z");
        for missing in [&["e"][..], &["x"], &["b", "x"]] {
            assert_eq!(shown(body, missing), "missing");
        }
        for other in [&["b"][..], &["f"], &["g"], &["a", "b"], &["f", "a"], &["b", "d"]] {
            assert_eq!(shown(body, other), "other", "{other:?}");
        }
        assert_eq!(shown("", &["a"]), "missing");
        assert_eq!(shown(r#"{"b":"1","b":"2"}"#, &["a"]), "missing");
    }

    #[test]
    fn malformed_body_is_refused_without_quoting_it() {
        for (body, message) in [
            ("[]", "the request body must be a JSON object"),
            (r#"{"a":"secret""#, "malformed JSON at line 1 column 13"),
            (r#"{"a":"secret"} x"#, "malformed JSON at line 1 column 16"),
            (r#"{"b":[[[[,"#, "malformed JSON at line 1 column 10"),
            (r#"{"a":"1","a":"secret"}"#, "duplicate field `a` at line 1 column 12"),
        ] {
            assert_eq!(shown(body, &["a"]), message);
        }
    }

    /// A deeply nested body is skipped without recursion.
    #[test]
    fn deep_value_of_unknown_field_is_skipped() {
        let deep = format!(r#"{{"x":{}{},"a":"b"}}"#, "[".repeat(1 << 20), "]".repeat(1 << 20));
        assert_eq!(shown(&deep, &["a"]), "text b");
    }

    #[test]
    fn body_with_many_values_is_refused() {
        let many = format!("[{}]", vec![r#"{"a":0}"#; 1000].join(","));
        assert!(check_values(&request(&many)).is_err_and(|error| error.status == 413));
        assert!(check_values(&request(r#"{"username":"a","secret":"b"}"#)).is_ok());
    }
}
