//! Serialises any type as canonical extended JSON.
//!
//! A serde_json formatter wraps each number, unless it is in a wrapper already. A float that is not
//! finite does not reach the formatter: serde_json writes `null`.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{CharEscape, CompactFormatter, Formatter};

/// Writes a value as canonical extended JSON.
pub(crate) fn to_vec(value: &(impl Serialize + ?Sized)) -> Result<Vec<u8>, serde_json::Error> {
    let mut text = Vec::with_capacity(128);
    let mut out = serde_json::Serializer::with_formatter(&mut text, Canonical::default());
    value.serialize(&mut out)?;
    Ok(text)
}

#[derive(Default)]
struct Canonical {
    /// Whether a key is being written. A number in a key is text already.
    in_key: bool,
    /// Where the next value is written.
    at: At,
    /// Whether a part of the key was written. serde_json splits a key at its escapes.
    key_has_begun: bool,
    /// How many objects are open inside a `$timestamp`, including its own.
    in_timestamp: usize,
}

/// The position of a number, as far as its form depends on it.
#[derive(Clone, Copy, Default, Eq, PartialEq)]
enum At {
    /// Right after `$minKey` or `$maxKey`: the 1 is not wrapped.
    Bound,
    /// Right after `$date`: the number is always `$numberLong`.
    Date,
    #[default]
    Elsewhere,
    /// Right after `$timestamp`: `t` and `i` are not wrapped.
    Timestamp,
}

impl Canonical {
    fn number<W>(&self, out: &mut W, kind: &str, value: impl std::fmt::Display) -> io::Result<()>
    where
        W: ?Sized + Write,
    {
        if self.in_key || self.at == At::Bound || self.in_timestamp == 1 {
            write!(out, "{value}")
        } else {
            write!(out, "{{\"${kind}\":\"{value}\"}}")
        }
    }

    fn integer<W: ?Sized + Write>(&self, out: &mut W, value: i64) -> io::Result<()> {
        let fits = self.at != At::Date && i32::try_from(value).is_ok();
        self.number(out, if fits { "numberInt" } else { "numberLong" }, value)
    }
}

macro_rules! integers {
    ($($write:ident($type:ty),)*) => {
        $(fn $write<W: ?Sized + Write>(&mut self, out: &mut W, value: $type) -> io::Result<()> {
            self.integer(out, value.into())
        })*
    };
}

impl Formatter for Canonical {
    integers! {
        write_i8(i8), write_i16(i16), write_i32(i32), write_i64(i64),
        write_u8(u8), write_u16(u16), write_u32(u32),
    }

    fn write_u64<W: ?Sized + Write>(&mut self, out: &mut W, value: u64) -> io::Result<()> {
        match i64::try_from(value) {
            Ok(value) => self.integer(out, value),
            Err(_) if self.in_key => write!(out, "{value}"),
            Err(_) => Err(too_large()),
        }
    }

    fn write_i128<W: ?Sized + Write>(&mut self, out: &mut W, value: i128) -> io::Result<()> {
        self.integer(out, i64::try_from(value).map_err(|_| too_large())?)
    }

    fn write_u128<W: ?Sized + Write>(&mut self, out: &mut W, value: u128) -> io::Result<()> {
        self.integer(out, i64::try_from(value).map_err(|_| too_large())?)
    }

    fn write_f32<W: ?Sized + Write>(&mut self, out: &mut W, value: f32) -> io::Result<()> {
        self.write_f64(out, value.into())
    }

    fn write_f64<W: ?Sized + Write>(&mut self, out: &mut W, value: f64) -> io::Result<()> {
        // `{:?}` is exact and writes `.0` after a whole number.
        self.number(out, "numberDouble", format_args!("{value:?}"))
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        (self.in_key, self.at, self.key_has_begun) = (true, At::Elsewhere, false);
        if first { Ok(()) } else { out.write_all(b",") }
    }

    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        out: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        if self.in_key {
            self.at = match fragment {
                _ if self.key_has_begun => At::Elsewhere,
                "$date" => At::Date,
                "$maxKey" | "$minKey" => At::Bound,
                "$timestamp" => At::Timestamp,
                _ => At::Elsewhere,
            };
            self.key_has_begun = true;
        }
        out.write_all(fragment.as_bytes())
    }

    fn write_char_escape<W: ?Sized + Write>(
        &mut self,
        out: &mut W,
        escape: CharEscape,
    ) -> io::Result<()> {
        if self.in_key {
            (self.at, self.key_has_begun) = (At::Elsewhere, true);
        }
        CompactFormatter.write_char_escape(out, escape)
    }

    fn end_object_key<W: ?Sized + Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.in_key = false;
        Ok(())
    }

    fn begin_object<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.in_timestamp += usize::from(self.at == At::Timestamp || self.in_timestamp > 0);
        self.at = At::Elsewhere;
        out.write_all(b"{")
    }

    fn end_object<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.in_timestamp = self.in_timestamp.saturating_sub(1);
        self.at = At::Elsewhere;
        out.write_all(b"}")
    }

    fn begin_array<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.at = At::Elsewhere;
        out.write_all(b"[")
    }
}

fn too_large() -> io::Error {
    let expected = "expected a whole number that fits a signed 64-bit integer";
    io::Error::new(io::ErrorKind::InvalidInput, expected)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;

    fn text(value: impl Serialize) -> String {
        String::from_utf8(to_vec(&value).unwrap()).unwrap()
    }

    #[test]
    fn numbers_are_wrapped_by_size() {
        assert_eq!(
            text((1u8, -5i64, 2_147_483_648u64, 1.0, 0.1f64)),
            concat!(
                r#"[{"$numberInt":"1"},{"$numberInt":"-5"},{"$numberLong":"2147483648"},"#,
                r#"{"$numberDouble":"1.0"},{"$numberDouble":"0.1"}]"#
            )
        );
    }

    #[test]
    fn number_beyond_64_bits_is_error() {
        assert!(to_vec(&u64::MAX).is_err());
        assert!(to_vec(&u128::MAX).is_err());
        assert_eq!(text(-5i128), r#"{"$numberInt":"-5"}"#);
    }

    #[test]
    fn keys_and_wrappers_are_unchanged() {
        assert_eq!(text(BTreeMap::from([(7, "x")])), r#"{"7":"x"}"#);
        let wrapped = json!({"a": {"$oid": "5f"}, "b": {"$numberLong": "3"}, "c": null});
        assert_eq!(text(&wrapped), wrapped.to_string());
    }

    #[test]
    fn numbers_inside_wrappers_are_not_wrapped() {
        for wrapper in [
            json!({"$minKey": 1}),
            json!({"a": {"$gt": {"$maxKey": 1}}}),
            json!({"$timestamp": {"i": 2, "t": 4_294_967_295_u32}}),
            json!({"$date": {"$numberLong": "0"}}),
            json!({"$date": "2020-01-01T00:00:00Z"}),
        ] {
            assert_eq!(text(&wrapper), wrapper.to_string());
        }
        // A `Value` that was parsed from the canonical form holds a plain number.
        assert_eq!(text(json!({"$date": -1})), r#"{"$date":{"$numberLong":"-1"}}"#);
        let after = json!([{"$minKey": 1}, 1, {"$timestamp": {"i": 2, "t": 1}, "x": 1}, {"x": 1}]);
        let expected = json!([
            {"$minKey": 1},
            {"$numberInt": "1"},
            {"$timestamp": {"i": 2, "t": 1}, "x": {"$numberInt": "1"}},
            {"x": {"$numberInt": "1"}},
        ]);
        assert_eq!(text(after), expected.to_string());
    }

    #[test]
    fn numbers_beside_wrappers_are_wrapped() {
        for value in [
            json!({"$timestamp": {"a": {"b": 1}}}),
            json!({"$timestamp": [1]}),
            json!({"$minKey": [1]}),
            json!({"$maxKey": {"a": 1}}),
            json!({"$date": {"a": 1}}),
            json!({"\n$minKey": 1}),
            json!({"x\n$minKey": 1}),
            json!({"$minKey\n": 1}),
            json!({"\"$date": 1}),
        ] {
            assert!(text(&value).contains(r#"{"$numberInt":"1"}"#), "{value}");
        }
    }
}
