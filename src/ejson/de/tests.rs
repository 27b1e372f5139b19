//! Tests of the deserializer.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::*;

fn read<T: DeserializeOwned>(text: &str) -> T {
    from_slice(text.as_bytes()).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn numbers_are_parsed_in_all_forms() {
    for text in [
        "5",
        "5.0",
        r#"{"$numberInt":"5"}"#,
        r#" {"$numberLong":"5"} "#,
        r#"{"$numberDouble":"5.0"}"#,
        r#"{"$numberInt":5}"#,
        r#"{"$numberLong":5}"#,
        r#"{"$numberDouble":5}"#,
        r#"{"$numberDouble":5.0}"#,
    ] {
        assert_eq!(read::<i64>(text), 5, "{text}");
        assert_eq!(read::<u8>(text), 5, "{text}");
        assert_eq!(read::<f64>(text), 5.0, "{text}");
        assert_eq!(read::<Option<i32>>(text), Some(5), "{text}");
        assert_eq!(read::<i128>(text), 5, "{text}");
    }
    // Without serde_json's `float_roundtrip` it would be the next float.
    assert_eq!(read::<f64>("31.245270191439438"), 31.245270191439438);
    assert!(read::<f64>(r#"{"$numberDouble":"NaN"}"#).is_nan());
    assert_eq!(read::<f64>(r#"{"$numberDouble":"-Infinity"}"#), f64::NEG_INFINITY);
}

#[test]
fn float_beyond_2_53_is_not_integer() {
    assert_eq!(read::<i64>("9007199254740991.0"), 9_007_199_254_740_991);
    assert_eq!(read::<i64>("-9007199254740991.0"), -9_007_199_254_740_991);
    for text in [
        "9007199254740992.0",
        "9007199254740993.0",
        "-9007199254740993.0",
        r#"{"$numberDouble":"9007199254740993.0"}"#,
    ] {
        assert!(from_slice::<i64>(text.as_bytes()).is_err(), "{text}");
        assert!(read::<f64>(text).abs() > 9e15, "{text}");
    }
    assert_eq!(read::<i64>(r#"{"$numberLong":"9007199254740993"}"#), 9_007_199_254_740_993);
}

#[test]
fn number_beyond_floats_is_error() {
    for digits in ["1e400", "-1e400", "inf", "infinity", "+Infinity", "nan"] {
        let wrapped = format!(r#"{{"$numberDouble":"{digits}"}}"#);
        assert!(from_slice::<f64>(digits.as_bytes()).is_err(), "{digits}");
        assert!(from_slice::<f64>(wrapped.as_bytes()).is_err(), "{digits}");
    }
    assert_eq!(read::<f64>(r#"{"$numberDouble":"Infinity"}"#), f64::INFINITY);
}

#[test]
fn nested_types_are_parsed() {
    #[derive(Debug, Deserialize, PartialEq)]
    enum Shape {
        Dot,
        Circle { r: f64 },
        Pair(i32, i32),
        One(u64),
    }
    #[derive(Debug, Deserialize, PartialEq)]
    struct Deep {
        id: BTreeMap<String, String>,
        list: Vec<(i64, Option<f32>)>,
        shapes: Vec<Shape>,
        by_number: BTreeMap<u16, i8>,
        #[serde(flatten)]
        rest: BTreeMap<String, i64>,
    }
    let text = r#"{"id":{"$oid":"5f"},"list":[[{"$numberLong":"9007199254740993"},null]],
        "shapes":["Dot",{"Circle":{"r":{"$numberDouble":"1.5"}}},{"Pair":[{"$numberInt":"1"},2]},{"One":{"$numberInt":"3"}}],
        "by_number":{"7":{"$numberInt":"-1"}},"x":{"$numberInt":"1"}}"#;
    assert_eq!(
        read::<Deep>(text),
        Deep {
            id: BTreeMap::from([("$oid".into(), "5f".into())]),
            list: vec![(9_007_199_254_740_993, None)],
            shapes: vec![Shape::Dot, Shape::Circle { r: 1.5 }, Shape::Pair(1, 2), Shape::One(3)],
            by_number: BTreeMap::from([(7, -1)]),
            rest: BTreeMap::from([("x".into(), 1)]),
        }
    );
}

#[test]
fn value_keeps_wrappers_except_numbers() {
    let text =
        r#"{"n":{"$numberInt":"1"},"d":{"$date":{"$numberLong":"2"}},"o":{"$oid":"5f"},"e":{}}"#;
    assert_eq!(
        read::<Value>(text),
        json!({"n": 1, "d": {"$date": 2}, "o": {"$oid": "5f"}, "e": {}})
    );
    assert_eq!(read::<Box<RawValue>>(text).get(), text);
}

#[test]
fn empty_text_is_null() {
    read::<()>("");
    read::<()>("null");
    assert_eq!(read::<Option<i32>>(" \n"), None);
}

#[test]
fn unit_accepts_any_value() {
    for text in ["7", r#""text""#, r#"{"a":[1,{"b":null}]}"#, r#"{"$numberInt":"1"}"#, "true"] {
        read::<()>(text);
        assert_eq!(read::<(i64, ())>(&format!("[1,{text}]")), (1, ()));
    }
    assert!(from_slice::<()>(b"{").is_err());
    assert!(from_slice::<()>(b"1 2").is_err());
}

#[test]
fn wrong_wrappers_are_errors() {
    for text in [
        r#"{"$numberInt":"x"}"#,
        r#"{"$numberInt":true}"#,
        r#"{"$numberInt":1.5}"#,
        r#"{"$numberInt":{}}"#,
        r#"{"$numberLong":18446744073709551615}"#,
        r#"{"$numberInt":"1","more":1}"#,
        r#"{"$numberLong":"99999999999999999999"}"#,
        r#"{"$numberDouble":"1.5"}"#,
        "1 2",
        "[",
    ] {
        assert!(from_slice::<i64>(text.as_bytes()).is_err(), "{text}");
    }
}
