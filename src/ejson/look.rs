//! Looking at a value before its type is asked for.
//!
//! Whether an option is there must be known before its type is asked for, and to know it the first
//! key of an object has to be read. So the value of an option is found first, and its type then
//! reads what was found.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::{
    BorrowedStrDeserializer, CowStrDeserializer, MapAccessDeserializer, MapDeserializer,
    SeqAccessDeserializer,
};
use serde::de::{
    DeserializeSeed, Deserializer, Error, IntoDeserializer, MapAccess, SeqAccess, Visitor,
};
use serde::forward_to_deserialize_any;
use serde_json::value::RawValue;

use super::de::{Extended, RAW_VALUE};

/// The name of the wrapper that stands for nothing.
pub(super) const UNDEFINED: &str = "$undefined";

/// Gives an option what it may be: nothing, or what its type is to be read from.
pub(super) struct Perhaps<V>(pub(super) V);

macro_rules! visits_some {
    ($($method:ident($type:ty))*) => {
        $(fn $method<E: Error>(self, value: $type) -> Result<V::Value, E> {
            self.some(value.into_deserializer())
        })*
    };
}

impl<V> Perhaps<V> {
    fn some<'de, D: Deserializer<'de>>(self, found: D) -> Result<V::Value, D::Error>
    where
        V: Visitor<'de>,
    {
        self.0.visit_some(Extended(Found(found)))
    }
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Perhaps<V> {
    type Value = V::Value;

    visits_some! {
        visit_bool(bool) visit_i64(i64) visit_u64(u64) visit_f64(f64) visit_string(String)
    }

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(f)
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<V::Value, E> {
        self.some(value.into_deserializer())
    }

    fn visit_borrowed_str<E: Error>(self, value: &'de str) -> Result<V::Value, E> {
        self.some(BorrowedStrDeserializer::new(value))
    }

    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.0.visit_none()
    }

    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        self.0.visit_none()
    }

    fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        inner.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<V::Value, A::Error> {
        self.some(SeqAccessDeserializer::new(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<V::Value, A::Error> {
        let first = fields.next_key::<Cow<'de, str>>()?;
        if first.as_deref() == Some(UNDEFINED) {
            undefined(&mut fields)?;
            return self.0.visit_none();
        }
        self.some(MapAccessDeserializer::new(Peeked { first, rest: fields }))
    }
}

/// What was found for an option. It can say what it is, whatever it is asked for.
struct Found<D>(D);

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Found<D> {
    type Error = D::Error;

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct seq tuple tuple_struct map struct identifier ignored_any
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_any(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        if name == RAW_VALUE {
            let text = self.0.deserialize_any(Text)?;
            return visitor.visit_map(MapDeserializer::new(std::iter::once((RAW_VALUE, text))));
        }
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_enum(name, variants, visitor)
    }
}

/// Writes what was found as JSON again, with the text of everything inside as it came.
struct Text;

macro_rules! visits_text {
    ($($method:ident($type:ty))*) => {
        $(fn $method<E: Error>(self, value: $type) -> Result<String, E> {
            serde_json::to_string(&value).map_err(E::custom)
        })*
    };
}

impl<'de> Visitor<'de> for Text {
    type Value = String;

    visits_text! { visit_bool(bool) visit_i64(i64) visit_u64(u64) visit_f64(f64) visit_str(&str) }

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<String, A::Error> {
        let mut text = String::from("[");
        while let Some(item) = items.next_element::<Box<RawValue>>()? {
            text.push_str(if text.len() > 1 { "," } else { "" });
            text.push_str(item.get());
        }
        Ok(text + "]")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<String, A::Error> {
        let mut text = String::from("{");
        while let Some((key, value)) = fields.next_entry::<Cow<'de, str>, Box<RawValue>>()? {
            text.push_str(if text.len() > 1 { "," } else { "" });
            text.push_str(&Text.visit_str::<A::Error>(&key)?);
            text.push(':');
            text.push_str(value.get());
        }
        Ok(text + "}")
    }
}

/// Reads the rest of `{"$undefined":true}`.
pub(super) fn undefined<'de, A: MapAccess<'de>>(fields: &mut A) -> Result<(), A::Error> {
    if !fields.next_value::<bool>()? || fields.next_key::<Cow<'de, str>>()?.is_some() {
        return Err(A::Error::custom("expected nothing but true in $undefined"));
    }
    Ok(())
}

/// The fields of an object.
pub(super) struct Peeked<'de, A> {
    /// A key that was read to see what the object is.
    pub(super) first: Option<Cow<'de, str>>,
    pub(super) rest: A,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Peeked<'de, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, A::Error> {
        match self.first.take() {
            Some(key) => seed.deserialize(Key { text: key, error: PhantomData }).map(Some),
            None => self.rest.next_key_seed(seed),
        }
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.rest.next_value_seed(seed)
    }
}

/// A key that was read as text. It may be wanted as a number or a truth value, as JSON has keys of
/// no other kind.
struct Key<'de, E> {
    text: Cow<'de, str>,
    error: PhantomData<E>,
}

macro_rules! parses {
    ($($method:ident as $type:ty => $visit:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, E> {
            match self.text.parse::<$type>() {
                Ok(value) => visitor.$visit(value),
                Err(_) => self.deserialize_any(visitor),
            }
        })*
    };
}

impl<'de, E: Error> Deserializer<'de> for Key<'de, E> {
    type Error = E;

    forward_to_deserialize_any! {
        char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map struct
        identifier ignored_any
    }

    parses! {
        deserialize_bool as bool => visit_bool
        deserialize_i8 as i64 => visit_i64
        deserialize_i16 as i64 => visit_i64
        deserialize_i32 as i64 => visit_i64
        deserialize_i64 as i64 => visit_i64
        deserialize_i128 as i128 => visit_i128
        deserialize_u8 as u64 => visit_u64
        deserialize_u16 as u64 => visit_u64
        deserialize_u32 as u64 => visit_u64
        deserialize_u64 as u64 => visit_u64
        deserialize_u128 as u128 => visit_u128
        deserialize_f32 as f64 => visit_f64
        deserialize_f64 as f64 => visit_f64
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, E> {
        CowStrDeserializer::new(self.text).deserialize_any(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, E> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, E> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, E> {
        CowStrDeserializer::new(self.text).deserialize_enum(name, variants, visitor)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;
    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};

    use super::*;
    use crate::ejson::{from_reader, from_slice};

    const NOTHING: &str = r#"{ "$undefined" : true }"#;

    fn read<T: DeserializeOwned>(text: &str) -> T {
        let read = from_slice(text.as_bytes()).unwrap_or_else(|error| panic!("{text}: {error}"));
        from_reader::<T>(text.as_bytes()).unwrap_or_else(|error| panic!("{text}: {error}"));
        read
    }

    #[derive(Debug, Deserialize, PartialEq)]
    struct Number(i64);

    #[derive(Debug, Deserialize, PartialEq)]
    enum Shape {
        Dot,
        Circle { r: f64 },
        Pair(i32, i32),
        One(Option<u64>),
    }

    #[derive(Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd)]
    enum Side {
        Left,
    }

    #[derive(Debug, Default, Deserialize, PartialEq)]
    struct Row {
        number: Option<i64>,
        text: Option<String>,
        row: Option<Box<Row>>,
        list: Option<Vec<Option<Number>>>,
        by_number: Option<BTreeMap<u16, i8>>,
        by_side: Option<BTreeMap<Side, bool>>,
        shapes: Option<Vec<Option<Shape>>>,
        value: Option<Value>,
        letter: Option<char>,
        twice: Option<Option<f32>>,
        fact: Option<bool>,
        pair: Option<(u8, Option<i128>)>,
    }

    #[test]
    fn undefined_is_nothing_wherever_there_may_be_nothing() {
        #[derive(Debug, Deserialize, PartialEq)]
        struct Unit;
        let fields = ["number", "text", "row", "list", "by_number", "value", "twice", "fact"];
        for nothing in ["null", NOTHING] {
            let row = fields.map(|field| format!("\"{field}\":{nothing}")).join(",");
            assert_eq!(read::<Row>(&format!("{{{row}}}")), Row::default());
            assert_eq!(read::<Vec<Option<u8>>>(&format!("[1,{nothing}]")), [Some(1), None]);
            assert_eq!(read::<(Unit, ())>(&format!("[{nothing},{nothing}]")), (Unit, ()));
            let shape = format!(r#"[{{"One":{nothing}}}]"#);
            assert_eq!(read::<Vec<Option<Shape>>>(&shape), [Some(Shape::One(None))]);
        }
        assert_eq!(read::<Value>(&format!("[{NOTHING}]")), json!([{"$undefined": true}]));
    }

    #[test]
    fn what_only_resembles_undefined_is_an_error_there() {
        for text in [
            r#"[{"$undefined":false}]"#,
            r#"[{"$undefined":1}]"#,
            r#"[{"$undefined":true,"more":1}]"#,
            r#"[{"$undefined":true"#,
            r#"[{"$undefined"]"#,
        ] {
            assert!(from_slice::<Vec<Option<Value>>>(text.as_bytes()).is_err(), "{text}");
            assert!(from_slice::<Vec<()>>(text.as_bytes()).is_err(), "{text}");
        }
        for text in ["[1]", r#"["x"]"#, "[{}]", "[[]]"] {
            assert!(from_slice::<Vec<()>>(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn an_option_is_read_as_its_type_is() {
        let text = r#"{"number":{"$numberLong":"5"},"text":"t\u00e4","row":{"row":{}},
            "list":[3.0,null],"by_number":{"7":{"$numberInt":"-1"},"8":2},"by_side":{"Left":true},
            "shapes":["Dot",{"Circle":{"r":{"$numberDouble":"1.5"}}},{"Pair":[1,2]},{"One":3}],
            "value":{"n":{"$numberInt":"1"},"o":{"$oid":"5f"}},"letter":"x","twice":1.5,
            "fact":false,"pair":[{"$numberInt":"1"},-2]}"#;
        assert_eq!(
            read::<Option<Row>>(text).unwrap(),
            Row {
                number: Some(5),
                text: Some("t\u{e4}".into()),
                row: Some(Box::new(Row { row: Some(Box::default()), ..Row::default() })),
                list: Some(vec![Some(Number(3)), None]),
                by_number: Some(BTreeMap::from([(7, -1), (8, 2)])),
                by_side: Some(BTreeMap::from([(Side::Left, true)])),
                shapes: Some(vec![
                    Some(Shape::Dot),
                    Some(Shape::Circle { r: 1.5 }),
                    Some(Shape::Pair(1, 2)),
                    Some(Shape::One(Some(3))),
                ]),
                value: Some(json!({"n": 1, "o": {"$oid": "5f"}})),
                letter: Some('x'),
                twice: Some(Some(1.5)),
                fact: Some(false),
                pair: Some((1, Some(-2))),
            }
        );
        assert!(from_slice::<Option<u8>>(b"256").is_err());
        assert!(from_slice::<Option<BTreeMap<u8, u8>>>(br#"{"256":1}"#).is_err());
        assert!(from_slice::<Option<Shape>>(br#"{"One":1,"Dot":null}"#).is_err());
    }

    #[test]
    fn the_keys_of_an_option_are_read_as_their_type_is() {
        assert_eq!(read::<Option<BTreeMap<bool, u8>>>(r#"{"true":1}"#).unwrap()[&true], 1);
        assert_eq!(read::<Option<BTreeMap<i128, u8>>>(r#"{"-1":1}"#).unwrap()[&-1], 1);
        assert_eq!(read::<Option<BTreeMap<u128, u8>>>(r#"{"1":1}"#).unwrap()[&1], 1);
        assert_eq!(read::<Option<BTreeMap<char, u8>>>(r#"{"x":1}"#).unwrap()[&'x'], 1);
        assert_eq!(read::<Option<BTreeMap<Option<i8>, u8>>>(r#"{"-1":1}"#).unwrap()[&Some(-1)], 1);
        let keys = read::<Option<BTreeMap<String, u8>>>(r#"{"a\"b":1,"c":2}"#).unwrap();
        assert_eq!(keys.into_keys().collect::<Vec<_>>(), ["a\"b", "c"]);
    }

    #[test]
    fn the_text_of_an_option_keeps_order_and_wrappers() {
        for text in [
            r#"{"z":{"$numberInt": "1"},"a\"":[1.50, 2],"m":null}"#,
            r#"[{"b":1, "a":2},1.50,"x"]"#,
            r#""x\"y""#,
            "[]",
            "{}",
            "true",
            "-7",
            "0.1",
            "18446744073709551615",
        ] {
            assert_eq!(read::<Option<Box<RawValue>>>(text).unwrap().get(), text);
        }
        assert!(read::<Vec<Option<Box<RawValue>>>>(&format!("[{NOTHING}]"))[0].is_none());
    }

    #[test]
    fn options_nest_as_deep_as_json_may() {
        let nested = |depth| format!("{}null{}", r#"{"row":"#.repeat(depth), "}".repeat(depth));
        read::<Row>(&nested(100));
        assert!(from_slice::<Row>(nested(100_000).as_bytes()).is_err());
    }
}
