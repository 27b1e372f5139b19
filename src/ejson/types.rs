//! Types for the values that JSON lacks. Each is serialised in canonical form, and parsed from every
//! form that a backend sends.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::Error as _;
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::date;
use super::de::Extended;
use crate::clock::milliseconds;
use crate::http_date;

/// The id of a document: 12 bytes, written as 24 hexadecimal digits in `{"$oid":"…"}`.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ObjectId([u8; 12]);

/// A date in milliseconds since the epoch, negative before it, written as
/// `{"$date":{"$numberLong":"…"}}`. The relaxed form `{"$date":"2026-01-31T12:00:00.5Z"}` is accepted
/// too.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct DateTime(i64);

/// An integer that has 64 bits on the backend, written as `{"$numberLong":"…"}`. A plain `i64` is
/// written with 32 bits if it fits.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Int64(pub i64);

/// A floating-point number, written as `{"$numberDouble":"…"}` even if it is not finite. A plain
/// `f64` that is not finite is written as `null`.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd)]
pub struct Double(pub f64);

/// A decimal number of up to 34 digits as text, written as `{"$numberDecimal":"…"}`.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Decimal128(pub String);

/// Bytes, written as `{"$binary":{"base64":"…","subType":"00"}}`. `{"$uuid":"…"}` and
/// `{"$binary":"…","$type":"00"}`, the form of MongoDB up to version 4.0, are accepted too.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Binary {
    /// The kind of bytes: 0 is generic, 4 is a UUID.
    pub subtype: u8,
    /// The bytes.
    pub bytes: Vec<u8>,
}

impl ObjectId {
    /// Wraps 12 bytes.
    pub fn new(bytes: [u8; 12]) -> Self {
        Self(bytes)
    }

    /// Parses 24 hexadecimal digits. `None` for any other text.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != 24 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        let mut bytes = [0; 12];
        for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        }
        Some(Self(bytes))
    }

    /// Returns the bytes.
    pub fn bytes(&self) -> [u8; 12] {
        self.0
    }
}

impl DateTime {
    /// Creates a date from milliseconds since the epoch.
    pub fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Returns the milliseconds since the epoch.
    pub fn millis(self) -> i64 {
        self.0
    }

    /// Returns the time, or `None` if `SystemTime` cannot represent it.
    pub fn to_system_time(self) -> Option<SystemTime> {
        let distance = Duration::from_millis(self.0.unsigned_abs());
        match self.0 < 0 {
            true => UNIX_EPOCH.checked_sub(distance),
            false => UNIX_EPOCH.checked_add(distance),
        }
    }
}

impl From<SystemTime> for DateTime {
    fn from(time: SystemTime) -> Self {
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => Self(milliseconds(after)),
            Err(before) => Self(-milliseconds(before.duration())),
        }
    }
}

/// Writes the relaxed form, such as `2026-01-31T12:00:00.500Z`.
impl fmt::Display for DateTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DAY: i64 = 24 * 60 * 60 * 1000;
        let (days, time) = (self.0.div_euclid(DAY), self.0.rem_euclid(DAY));
        let (year, month, day) = http_date::date(days);
        let (hour, minute, second) = (time / 3_600_000, time / 60_000 % 60, time / 1000 % 60);
        write!(f, "{year:04}-{:02}-{day:02}T{hour:02}:{minute:02}:{second:02}", month + 1)?;
        match time % 1000 {
            0 => f.write_str("Z"),
            millis => write!(f, ".{millis:03}Z"),
        }
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ObjectId({self})")
    }
}

/// Serialises `{key: value}`.
fn wrap<S: Serializer>(
    out: S,
    key: &'static str,
    value: &impl Serialize,
) -> Result<S::Ok, S::Error> {
    let mut map = out.serialize_map(Some(1))?;
    map.serialize_entry(key, value)?;
    map.end()
}

impl Serialize for ObjectId {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        wrap(out, "$oid", &self.to_string())
    }
}

impl Serialize for DateTime {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        wrap(out, "$date", &Int64(self.0))
    }
}

impl Serialize for Int64 {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        wrap(out, "$numberLong", &self.0.to_string())
    }
}

impl Serialize for Double {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        let text = match self.0 {
            f64::INFINITY => "Infinity".to_owned(),
            f64::NEG_INFINITY => "-Infinity".to_owned(),
            number => format!("{number:?}"),
        };
        wrap(out, "$numberDouble", &text)
    }
}

impl Serialize for Decimal128 {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        wrap(out, "$numberDecimal", &self.0)
    }
}

impl Serialize for Binary {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Inner {
            base64: String,
            #[serde(rename = "subType")]
            subtype: String,
        }
        let inner = Inner {
            base64: STANDARD.encode(&self.bytes),
            subtype: format!("{:02x}", self.subtype),
        };
        wrap(out, "$binary", &inner)
    }
}

impl<'de> Deserialize<'de> for ObjectId {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Wrapper {
            #[serde(rename = "$oid")]
            oid: String,
        }
        let text = Wrapper::deserialize(from)?.oid;
        Self::parse(&text).ok_or_else(|| D::Error::custom("expected 24 hexadecimal digits in $oid"))
    }
}

impl<'de> Deserialize<'de> for DateTime {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Inner {
            Millis(Int64),
            Text(String),
        }
        #[derive(Deserialize)]
        struct Wrapper {
            #[serde(rename = "$date")]
            date: Inner,
        }
        match Wrapper::deserialize(from)?.date {
            Inner::Millis(millis) => Ok(Self(millis.0)),
            Inner::Text(text) => date::parse(&text)
                .map(Self)
                .ok_or_else(|| D::Error::custom("expected a date such as 2026-01-31T12:00:00Z")),
        }
    }
}

// Through `Extended`, so that both accept number wrappers even inside plain JSON.

impl<'de> Deserialize<'de> for Int64 {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        i64::deserialize(Extended(from)).map(Self)
    }
}

impl<'de> Deserialize<'de> for Double {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        f64::deserialize(Extended(from)).map(Self)
    }
}

impl<'de> Deserialize<'de> for Decimal128 {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Wrapper {
            #[serde(rename = "$numberDecimal")]
            digits: TextOrNumber,
        }
        Wrapper::deserialize(from).map(|wrapper| Self(wrapper.digits.into_text()))
    }
}

/// A value that the specification writes as text and that older servers also write as a number.
#[derive(Deserialize)]
#[serde(untagged)]
enum TextOrNumber {
    Text(String),
    Whole(Int64),
    Number(Double),
}

impl TextOrNumber {
    fn into_text(self) -> String {
        match self {
            Self::Text(text) => text,
            Self::Whole(number) => number.0.to_string(),
            Self::Number(number) => number.0.to_string(),
        }
    }

    /// Returns the subtype of binary data: hexadecimal in text, decimal in a number.
    fn into_subtype(self) -> Option<u8> {
        match self {
            Self::Text(text) => u8::from_str_radix(&text, 16).ok(),
            Self::Whole(number) => number.0.try_into().ok(),
            Self::Number(_) => None,
        }
    }
}

impl<'de> Deserialize<'de> for Binary {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Content {
            /// The form of MongoDB up to version 4.0, with `$type` beside it.
            Legacy(String),
            Current {
                base64: String,
                #[serde(rename = "subType")]
                subtype: TextOrNumber,
            },
        }
        #[derive(Deserialize)]
        struct Wrapper {
            #[serde(rename = "$binary")]
            binary: Option<Content>,
            #[serde(rename = "$type")]
            subtype: Option<TextOrNumber>,
            #[serde(rename = "$uuid")]
            uuid: Option<String>,
        }
        let wrong =
            || D::Error::custom("expected $binary with base64 and a subtype, or $uuid with a UUID");
        let Wrapper { binary, subtype, uuid } = Wrapper::deserialize(from)?;
        let (base64, subtype) = match (binary, subtype, uuid) {
            (Some(Content::Current { base64, subtype }), None, None) => (base64, Some(subtype)),
            (Some(Content::Legacy(base64)), subtype, None) => (base64, subtype),
            (None, None, Some(uuid)) => {
                let bytes = uuid_bytes(&uuid).ok_or_else(wrong)?;
                return Ok(Self { subtype: UUID, bytes });
            }
            _ => return Err(wrong()),
        };
        let subtype = subtype.map_or(Some(0), TextOrNumber::into_subtype);
        let bytes = STANDARD.decode(base64).map_err(|_| wrong())?;
        Ok(Self { subtype: subtype.ok_or_else(wrong)?, bytes })
    }
}

/// The subtype of a UUID.
const UUID: u8 = 4;

/// Reads a UUID: 32 hexadecimal digits, in groups or not.
fn uuid_bytes(text: &str) -> Option<Vec<u8>> {
    let grouped = text.split('-').map(str::len).eq([8, 4, 4, 4, 12]);
    let digits: String = text.chars().filter(|c| !grouped || *c != '-').collect();
    if digits.len() != 32 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).ok();
    (0..32).step_by(2).map(byte).collect()
}

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;

    use super::*;
    use crate::ejson::{from_slice, to_vec};

    fn round<T: Serialize + DeserializeOwned + PartialEq + fmt::Debug>(value: T, text: &str) {
        assert_eq!(String::from_utf8(to_vec(&value).unwrap()).unwrap(), text);
        assert_eq!(from_slice::<T>(text.as_bytes()).unwrap(), value);
        assert_eq!(serde_json::from_str::<T>(text).unwrap(), value, "as plain JSON");
    }

    #[test]
    fn types_round_trip_in_canonical_form() {
        round(ObjectId::new([0x5f; 12]), r#"{"$oid":"5f5f5f5f5f5f5f5f5f5f5f5f"}"#);
        round(DateTime::from_millis(-1), r#"{"$date":{"$numberLong":"-1"}}"#);
        round(Int64(5), r#"{"$numberLong":"5"}"#);
        round(Double(1.0), r#"{"$numberDouble":"1.0"}"#);
        round(Double(f64::NEG_INFINITY), r#"{"$numberDouble":"-Infinity"}"#);
        round(Decimal128("1.50".into()), r#"{"$numberDecimal":"1.50"}"#);
        round(
            Binary { subtype: 4, bytes: vec![1, 2] },
            r#"{"$binary":{"base64":"AQI=","subType":"04"}}"#,
        );
    }

    #[test]
    fn relaxed_forms_are_parsed() {
        let date = |text: &str| from_slice::<DateTime>(text.as_bytes()).unwrap().millis();
        assert_eq!(date(r#"{"$date":"1970-01-01T00:00:01.5Z"}"#), 1500);
        assert_eq!(date(r#"{"$date":1500}"#), 1500);
        assert_eq!(date(r#"{"$date":{"$numberDouble":"1500.0"}}"#), 1500);
        assert_eq!(from_slice::<Double>(b"2").unwrap(), Double(2.0));
    }

    #[test]
    fn date_is_displayed_in_relaxed_form() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
            (951_782_400_123, "2000-02-29T00:00:00.123Z"),
            (-62_135_596_800_000, "0001-01-01T00:00:00Z"),
            (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(DateTime::from_millis(millis).to_string(), text);
            assert_eq!(date::parse(text), Some(millis));
        }
        assert!(!DateTime::from_millis(i64::MIN).to_string().is_empty());
    }

    /// What MongoDB wrote up to version 4.0, and what tools write.
    #[test]
    fn legacy_forms_are_parsed() {
        let date = |text: &str| from_slice::<DateTime>(text.as_bytes()).unwrap().millis();
        assert_eq!(date(r#"{"$date":{"$numberLong":1500}}"#), 1500);
        assert_eq!(date(r#"{"$date":"1970-01-01T00:00:01.500+0000"}"#), 1500);
        let decimal = |text: &str| from_slice::<Decimal128>(text.as_bytes()).unwrap().0;
        assert_eq!(decimal(r#"{"$numberDecimal":1.5}"#), "1.5");
        assert_eq!(decimal(r#"{"$numberDecimal":7}"#), "7");
        let binary = |text: &str| from_slice::<Binary>(text.as_bytes());
        for text in [
            r#"{"$binary":"AQI=","$type":"05"}"#,
            r#"{"$type":"5","$binary":"AQI="}"#,
            r#"{"$binary":"AQI=","$type":5}"#,
            r#"{"$binary":{"base64":"AQI=","subType":5}}"#,
            r#"{"$binary":{"base64":"AQI=","subType":{"$numberInt":"5"}}}"#,
        ] {
            assert_eq!(binary(text).unwrap(), Binary { subtype: 5, bytes: vec![1, 2] }, "{text}");
        }
        for text in [
            r#"{"$uuid":"00112233-4455-6677-8899-aabbccddeeff"}"#,
            r#"{"$uuid":"00112233445566778899AABBCCDDEEFF"}"#,
        ] {
            let bytes = (0..16).map(|n| n * 0x11).collect();
            assert_eq!(binary(text).unwrap(), Binary { subtype: 4, bytes }, "{text}");
        }
        for text in [
            "{}",
            r#"{"$type":"00"}"#,
            r#"{"$uuid":"0011"}"#,
            r#"{"$uuid":"0-0112233445566778899aabbccddeeff"}"#,
            r#"{"$uuid":"\u00e4\u00e4\u00e4\u00e4\u00e4\u00e4\u00e4\u00e4\u00e4\u00e4\u00e4\u00e4\u00e4\u00e4\u00e4\u00e4"}"#,
            r#"{"$binary":"AQI=","$type":300}"#,
            r#"{"$binary":"AQI=","$uuid":"00112233445566778899aabbccddeeff"}"#,
        ] {
            assert!(binary(text).is_err(), "{text}");
        }
    }

    #[test]
    fn int64_and_double_accept_bare_numbers() {
        #[derive(Debug, Deserialize, PartialEq)]
        struct Inner {
            n: Int64,
        }
        #[derive(Debug, Deserialize, PartialEq)]
        struct Outer {
            #[serde(flatten)]
            inner: Inner,
        }
        for text in [
            "7",
            "7.0",
            r#"{"$numberInt":"7"}"#,
            r#"{"$numberLong":"7"}"#,
            r#"{"$numberDouble":"7.0"}"#,
        ] {
            let read = |from: Result<Int64, _>| from.unwrap_or_else(|_| panic!("{text}"));
            assert_eq!(from_slice::<i64>(text.as_bytes()).unwrap(), 7, "{text}");
            assert_eq!(read(from_slice(text.as_bytes())), Int64(7));
            assert_eq!(read(serde_json::from_str(text)), Int64(7));
            let outer = from_slice::<Outer>(format!(r#"{{"n":{text}}}"#).as_bytes());
            assert_eq!(outer.unwrap().inner.n, Int64(7), "{text}");
            assert_eq!(from_slice::<Double>(text.as_bytes()).unwrap(), Double(7.0), "{text}");
        }
        for text in ["7.5", r#"{"$numberDouble":"1e400"}"#, r#""7""#, "9007199254740993.0"] {
            assert!(from_slice::<i64>(text.as_bytes()).is_err(), "{text}");
            assert!(from_slice::<Int64>(text.as_bytes()).is_err(), "{text}");
        }
        assert!(from_slice::<Double>(br#"{"$numberDouble":"1e400"}"#).is_err());
    }

    #[test]
    fn wrong_values_are_errors() {
        assert!(from_slice::<ObjectId>(br#"{"$oid":"xyz"}"#).is_err());
        assert!(from_slice::<ObjectId>("{\"$oid\":\"ääääääääääää\"}".as_bytes()).is_err());
        assert!(from_slice::<DateTime>(br#"{"$date":"tomorrow"}"#).is_err());
        assert!(from_slice::<Binary>(br#"{"$binary":{"base64":"?","subType":"0"}}"#).is_err());
    }

    #[test]
    fn dates_and_times_convert_both_ways() {
        for millis in [0, 1, -1, 1_800_000_000_000] {
            let date = DateTime::from_millis(millis);
            assert_eq!(DateTime::from(date.to_system_time().unwrap()), date);
        }
    }
}
