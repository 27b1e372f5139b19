//! Converts `bson::Bson` to and from extended JSON, and keeps the order of fields, which matters in
//! commands and sort orders. `serde_json::Value` sorts fields by name.

use bson::{Bson, Document, JavaScriptCodeWithScope};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::{Value, is_wrapper};

/// Serialises values as a list in canonical extended JSON.
pub(crate) fn bson_list(values: &[Bson]) -> Result<Vec<u8>, serde_json::Error> {
    struct List<'a>(&'a [Bson]);

    impl Serialize for List<'_> {
        fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
            out.collect_seq(self.0.iter().map(Canonical))
        }
    }

    serde_json::to_vec(&List(values))
}

struct Canonical<'a>(&'a Bson);

struct Fields<'a>(&'a Document);

impl Serialize for Canonical<'_> {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Bson::Array(items) => out.collect_seq(items.iter().map(Canonical)),
            Bson::Document(fields) => Fields(fields).serialize(out),
            Bson::JavaScriptCodeWithScope(JavaScriptCodeWithScope { code, scope }) => {
                let mut map = out.serialize_map(Some(2))?;
                map.serialize_entry("$code", code)?;
                map.serialize_entry("$scope", &Fields(scope))?;
                map.end()
            }
            leaf => leaf.clone().into_canonical_extjson().serialize(out),
        }
    }
}

impl Serialize for Fields<'_> {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_map(self.0.iter().map(|(name, value)| (name, Canonical(value))))
    }
}

impl Value {
    /// Converts extended JSON, canonical or relaxed, to BSON. `None` if it is invalid; bson's own
    /// error may quote the value.
    pub(crate) fn into_bson(self) -> Option<Bson> {
        match self {
            Self::Array(items) => items.into_iter().map(Self::into_bson).collect(),
            Self::Object(fields) if fields.iter().any(|(name, _)| is_wrapper(name)) => {
                wrapped(current_form(fields))
            }
            Self::Object(fields) if is_legacy_regex(&fields) => wrapped(current_form(fields)),
            Self::Object(fields) => document(fields).map(Bson::Document),
            leaf => Bson::try_from(leaf.into_json()).ok(),
        }
    }

    fn into_json(self) -> serde_json::Value {
        match self {
            Self::Array(items) => items.into_iter().map(Self::into_json).collect(),
            Self::Bool(value) => value.into(),
            Self::Null => serde_json::Value::Null,
            Self::Number(number) => number.into(),
            Self::Object(fields) => {
                fields.into_iter().map(|(name, value)| (name, value.into_json())).collect()
            }
            Self::String(text) => text.into(),
        }
    }
}

/// Returns `true` for a regular expression as MongoDB wrote it up to version 4.0.
fn is_legacy_regex(fields: &[(String, Value)]) -> bool {
    let is_text = |(name, value): &(String, Value)| {
        matches!(name.as_str(), "$regex" | "$options") && matches!(value, Value::String(_))
    };
    fields.len() == 2 && fields.iter().all(is_text) && fields[0].0 != fields[1].0
}

/// Converts a wrapper of an older server to the form in the specification.
fn current_form(fields: Vec<(String, Value)>) -> Vec<(String, Value)> {
    let text = |text: &str| Value::String(text.to_owned());
    match fields.as_slice() {
        [(name, Value::Number(number))]
            if matches!(
                name.as_str(),
                "$numberDecimal" | "$numberDouble" | "$numberInt" | "$numberLong"
            ) =>
        {
            vec![(name.clone(), text(&number.to_string()))]
        }
        [(first, a), (second, b)] => {
            let legacy = |one: &str, two: &str| match () {
                () if first == one && second == two => Some((a, b)),
                () if first == two && second == one => Some((b, a)),
                () => None,
            };
            if let Some((Value::String(base64), subtype)) = legacy("$binary", "$type") {
                let subtype = match subtype {
                    Value::String(subtype) => subtype.clone(),
                    Value::Number(number) => {
                        number.as_u64().map(|number| format!("{number:02x}")).unwrap_or_default()
                    }
                    _ => String::new(),
                };
                let inner = vec![
                    ("base64".to_owned(), text(base64)),
                    ("subType".to_owned(), text(&subtype)),
                ];
                return vec![("$binary".to_owned(), Value::Object(inner))];
            }
            if let Some((Value::String(pattern), Value::String(options))) =
                legacy("$regex", "$options")
            {
                let inner = vec![
                    ("pattern".to_owned(), text(pattern)),
                    ("options".to_owned(), text(options)),
                ];
                return vec![("$regularExpression".to_owned(), Value::Object(inner))];
            }
            fields
        }
        _ => fields,
    }
}

fn document(fields: Vec<(String, Value)>) -> Option<Document> {
    fields.into_iter().map(|(name, value)| Some((name, value.into_bson()?))).collect()
}

fn wrapped(mut fields: Vec<(String, Value)>) -> Option<Bson> {
    let at = |wanted| fields.iter().position(|(name, _)| name == wanted);
    // The only wrapper with a document inside.
    let scope = match at("$code").and(at("$scope")).map(|at| fields.remove(at).1) {
        Some(Value::Object(scope)) => Some(document(scope)?),
        Some(Value::Null) | None => None,
        Some(_) => return None,
    };
    match (Bson::try_from(Value::Object(fields).into_json()).ok()?, scope) {
        (Bson::JavaScriptCode(code), Some(scope)) => {
            Some(JavaScriptCodeWithScope { code, scope }.into())
        }
        (value, None) => Some(value),
        (_, Some(_)) => None,
    }
}

#[cfg(test)]
mod tests {
    use bson::{Timestamp, doc, oid::ObjectId};

    use super::*;

    fn read(text: &str) -> Option<Bson> {
        serde_json::from_str::<Value>(text).unwrap().into_bson()
    }

    #[test]
    fn documents_keep_field_order_both_ways() {
        let scope = doc! {"z": 1, "a": {"y": 2_i64, "b": [{"x": 1, "c": null}]}};
        let code = JavaScriptCodeWithScope { code: "f()".into(), scope: scope.clone() };
        let values = [Bson::Document(scope), code.into()];
        let text = String::from_utf8(bson_list(&values).unwrap()).unwrap();
        let scope = concat!(
            r#"{"z":{"$numberInt":"1"},"a":{"y":{"$numberLong":"2"},"#,
            r#""b":[{"x":{"$numberInt":"1"},"c":null}]}}"#
        );
        assert_eq!(text, format!(r#"[{scope},{{"$code":"f()","$scope":{scope}}}]"#));
        let Some(Bson::Array(read)) = read(&text) else { panic!("{text}") };
        // Documents with another order of fields are equal.
        assert_eq!(bson_list(&read).unwrap(), text.as_bytes());
        assert_eq!(read, values);
    }

    #[test]
    fn conversion_matches_bson_crate() {
        for value in [
            doc! {"min": Bson::MinKey, "max": Bson::MaxKey, "undefined": Bson::Undefined},
            doc! {"symbol": Bson::Symbol("s".into()), "code": Bson::JavaScriptCode("x".into())},
            doc! {"time": Timestamp { time: u32::MAX, increment: 7 }},
            doc! {"id": ObjectId::from_bytes([7; 12]), "date": bson::DateTime::from_millis(-5)},
            doc! {"doubles": [0.1, -0.0, 5e-324, 1e300, f64::INFINITY]},
            doc! {"longs": [i64::MIN, 5_i64], "ints": [-1, i32::MAX], "empty": {}, "none": []},
            doc! {"decimal": Bson::Decimal128("1E+6144".parse().unwrap())},
            doc! {"$set": {"b": 1, "a": 2}, "no": Bson::Null, "yes": true, "text": "\u{e4}\""},
        ] {
            let value = Bson::Document(value);
            let theirs = serde_json::Value::Array(vec![value.clone().into_canonical_extjson()]);
            let text = bson_list(std::slice::from_ref(&value)).unwrap();
            assert_eq!(serde_json::from_slice::<serde_json::Value>(&text).unwrap(), theirs);
            assert_eq!(read(&theirs.to_string()), Bson::try_from(theirs).ok());
            assert_eq!(
                serde_json::from_slice::<Value>(&text).unwrap().into_bson(),
                Some(Bson::Array(vec![value]))
            );
        }
        for text in [
            "5",
            "2147483648",
            "18446744073709551615",
            "1.5",
            "null",
            r#"{"$uuid":"00112233-4455-6677-8899-aabbccddeeff"}"#,
            r#"{"$date":"2026-01-31T12:00:00Z"}"#,
            r#"{"$oid":"SECRET"}"#,
            r#"{"$numberInt":"1","more":1}"#,
            r#"{"$code":"x","$scope":1}"#,
            r#"{"$code":"x","$scope":null}"#,
            r#"{"$oid":"070707070707070707070707","$scope":null}"#,
            r#"{"$code":"x","$scope":{"a":{"$oid":1}}}"#,
            r#"{"$oid":"070707070707070707070707","$scope":{}}"#,
            r#"{"$scope":{"a":1}}"#,
            r#"{"$ref":"x","$id":1}"#,
        ] {
            let theirs =
                Bson::try_from(serde_json::from_str::<serde_json::Value>(text).unwrap()).ok();
            assert_eq!(read(text), theirs, "{text}");
        }
    }

    /// What MongoDB wrote up to version 4.0.
    #[test]
    fn legacy_forms_are_parsed() {
        for (legacy, current) in [
            (r#"{"$numberInt":5}"#, r#"{"$numberInt":"5"}"#),
            (r#"{"$numberLong":5}"#, r#"{"$numberLong":"5"}"#),
            (r#"{"$numberDouble":1.5}"#, r#"{"$numberDouble":"1.5"}"#),
            (
                r#"{"$binary":"AQI=","$type":"05"}"#,
                r#"{"$binary":{"base64":"AQI=","subType":"05"}}"#,
            ),
            (r#"{"$type":5,"$binary":"AQI="}"#, r#"{"$binary":{"base64":"AQI=","subType":"05"}}"#),
            (
                r#"{"$options":"i","$regex":"^a"}"#,
                r#"{"$regularExpression":{"pattern":"^a","options":"i"}}"#,
            ),
        ] {
            assert!(read(current).is_some(), "{current}");
            assert_eq!(read(legacy), read(current), "{legacy}");
        }
        assert_eq!(read(r#"{"$binary":"AQI=","$type":-1}"#), None);
        let query = read(r#"{"$regex":{"a":1},"$options":"i"}"#);
        assert!(matches!(query, Some(Bson::Document(_))), "{query:?}");
    }
}
