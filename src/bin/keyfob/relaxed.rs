//! Conversion to relaxed extended JSON, with plain numbers and readable dates.
//!
//! Source: the MongoDB specification "Extended JSON (v2)", relaxed format.

use keyfob::ejson::Value;
use serde_json::Number;

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
        // A date outside the range of the text format is not changed.
        let date = date(milliseconds).map_or_else(|| inner.clone(), Value::String);
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

/// Formats milliseconds since the epoch, for the years 1970 to 9999.
fn date(milliseconds: i64) -> Option<String> {
    const DAY: i64 = 24 * 60 * 60 * 1000;
    const LAST_DAY: i64 = 2_932_896;
    let (days, time) = (milliseconds.div_euclid(DAY), milliseconds.rem_euclid(DAY));
    if !(0..=LAST_DAY).contains(&days) {
        return None;
    }
    // Days since 0000-03-01, so that a leap day is the last day of its year; see Howard Hinnant,
    // "chrono-Compatible Low-Level Date Algorithms".
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    let (seconds, fraction) = (time / 1000, time % 1000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let fraction = if fraction == 0 { String::new() } else { format!(".{fraction:03}") };
    Some(format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z"))
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
