//! Deserialises extended JSON, canonical or relaxed, into any type.
//!
//! [`Extended`] is an adapter around a deserializer. Where a type expects a number, it reads
//! `{"$numberInt":"1"}` and the other number wrappers as that number. Where a type accepts anything,
//! number wrappers become numbers and all other objects stay as they are.

use std::borrow::Cow;
use std::fmt;

use serde::de::value::CowStrDeserializer;
use serde::de::{
    Deserialize, DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Error, IgnoredAny,
    MapAccess, SeqAccess, VariantAccess, Visitor,
};

/// Parses a value. An empty text is `null`. [`without_undefined`](super::without_undefined) has to
/// be called before.
pub(crate) fn from_slice<T: DeserializeOwned>(text: &[u8]) -> Result<T, serde_json::Error> {
    let text = match text.trim_ascii() {
        b"" => b"null",
        text => text,
    };
    let mut json = serde_json::Deserializer::from_slice(text);
    let value = T::deserialize(Extended(&mut json))?;
    json.end()?;
    Ok(value)
}

/// A deserializer that reads number wrappers as numbers.
pub(super) struct Extended<D>(pub(super) D);

/// The name with which serde_json asks itself for the text of a value.
const RAW_VALUE: &str = "$serde_json::private::RawValue";

/// The name with which serde_json passes a number on as text, if its feature `arbitrary_precision`
/// is enabled in the program.
pub(super) const NUMBER: &str = "$serde_json::private::Number";

macro_rules! pass {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            self.0.$method(visitor)
        })*
    };
}

macro_rules! pass_wrapped {
    ($($method:ident($($name:ident: $type:ty),*))*) => {
        $(fn $method<V: Visitor<'de>>(self, $($name: $type,)* visitor: V) -> Result<V::Value, D::Error> {
            self.0.$method($($name,)* Inside { visitor, wanted: Wanted::Itself })
        })*
    };
}

macro_rules! numbers {
    ($wanted:expr, $($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            self.0.deserialize_any(Inside { visitor, wanted: $wanted })
        })*
    };
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Extended<D> {
    type Error = D::Error;

    pass! {
        deserialize_bool deserialize_char deserialize_str deserialize_string deserialize_bytes
        deserialize_byte_buf deserialize_identifier deserialize_ignored_any
    }

    pass_wrapped! {
        deserialize_option() deserialize_seq() deserialize_map()
        deserialize_unit_struct(name: &'static str)
        deserialize_tuple(len: usize)
        deserialize_tuple_struct(name: &'static str, len: usize)
        deserialize_struct(name: &'static str, fields: &'static [&'static str])
        deserialize_enum(name: &'static str, variants: &'static [&'static str])
    }

    numbers! { Wanted::Integer,
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_i128 deserialize_u128
    }
    numbers! { Wanted::Anything, deserialize_any deserialize_f32 deserialize_f64 }

    /// `()` accepts any value: the caller does not need it.
    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        IgnoredAny::deserialize(self.0)?;
        visitor.visit_unit()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        if name == RAW_VALUE {
            return self.0.deserialize_newtype_struct(name, visitor);
        }
        visitor.visit_newtype_struct(self)
    }
}

/// What a visitor expects in place of an object.
#[derive(Clone, Copy)]
enum Wanted {
    /// The number of a number wrapper, or any other object unchanged.
    Anything,
    /// A whole number. A float without a fraction is accepted.
    Integer,
    /// The object unchanged.
    Itself,
}

/// Passes values on to a visitor, and reads what is inside them as extended JSON too.
struct Inside<V> {
    visitor: V,
    wanted: Wanted,
}

macro_rules! visits {
    ($($method:ident($type:ty))*) => {
        $(fn $method<E: Error>(self, value: $type) -> Result<V::Value, E> {
            self.visitor.$method(value)
        })*
    };
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Inside<V> {
    type Value = V::Value;

    visits! {
        visit_bool(bool) visit_i64(i64) visit_u64(u64) visit_str(&str) visit_string(String)
        visit_borrowed_str(&'de str)
    }

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.visitor.expecting(f)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<V::Value, E> {
        number(self, value)
    }

    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.visitor.visit_none()
    }

    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        self.visitor.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        self.visitor.visit_some(Extended(inner))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        self.visitor.visit_newtype_struct(Extended(inner))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_seq(ExtendedSeq(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<V::Value, A::Error> {
        if matches!(self.wanted, Wanted::Itself) {
            return self.visitor.visit_map(ExtendedMap { first: None, rest: fields });
        }
        let Some(key) = fields.next_key::<Cow<'de, str>>()? else {
            return self.visitor.visit_map(ExtendedMap { first: None, rest: fields });
        };
        if !matches!(&*key, "$numberInt" | "$numberLong" | "$numberDouble" | NUMBER) {
            return self.visitor.visit_map(ExtendedMap { first: Some(key), rest: fields });
        }
        let Digits(digits) = fields.next_value()?;
        if fields.next_key::<Cow<'de, str>>()?.is_some() {
            return Err(A::Error::custom(format_args!("expected nothing beside {key}")));
        }
        let wrong =
            || A::Error::custom(format_args!("expected a number, or one as text, in {key}"));
        if key == NUMBER
            && let Ok(whole) = digits.parse::<u64>()
        {
            return self.visitor.visit_u64(whole);
        }
        if key == "$numberDouble" || key == NUMBER && digits.parse::<i64>().is_err() {
            number(self, float(&digits).ok_or_else(wrong)?)
        } else {
            self.visitor.visit_i64(integer(&digits).ok_or_else(wrong)?)
        }
    }

    fn visit_enum<A: EnumAccess<'de>>(self, data: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_enum(ExtendedEnum(data))
    }
}

/// Passes a float to a visitor, as a whole number if the visitor expects one. JavaScript has only
/// floats, so a backend may send `3.0` for 3.
fn number<'de, V: Visitor<'de>, E: Error>(to: Inside<V>, value: f64) -> Result<V::Value, E> {
    /// The first float to which a neighbouring whole number is rounded.
    const UNSURE: f64 = 9_007_199_254_740_992.0;
    if matches!(to.wanted, Wanted::Integer) && value.trunc() == value && value.abs() < UNSURE {
        #[allow(clippy::cast_possible_truncation, reason = "checked to be whole and in range")]
        return to.visitor.visit_i64(value as i64);
    }
    to.visitor.visit_f64(value)
}

/// The number in a wrapper, as text. Older servers write a JSON number.
struct Digits<'de>(Cow<'de, str>);

impl<'de> Deserialize<'de> for Digits<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Digits<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, or one as text")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Digits<'de>, E> {
                Ok(Digits(text.into()))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Digits<'de>, E> {
                Ok(Digits(text.to_owned().into()))
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Digits<'de>, E> {
                Ok(Digits(number.to_string().into()))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Digits<'de>, E> {
                Ok(Digits(number.to_string().into()))
            }

            fn visit_f64<E: Error>(self, number: f64) -> Result<Digits<'de>, E> {
                Ok(Digits(number.to_string().into()))
            }

            // A number, if serde_json's feature `arbitrary_precision` is enabled.
            fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Digits<'de>, A::Error> {
                match fields.next_key::<Cow<'de, str>>()? {
                    Some(key) if key == NUMBER => fields.next_value().map(Digits),
                    _ => Err(A::Error::custom("expected a number, or one as text")),
                }
            }
        }

        from.deserialize_any(Any)
    }
}

/// Parses a whole number.
fn integer(digits: &str) -> Option<i64> {
    digits.strip_suffix(".0").unwrap_or(digits).parse().ok()
}

/// Parses a float. Digits beyond the largest float are an error, as in plain JSON.
fn float(digits: &str) -> Option<f64> {
    let value: f64 = digits.parse().ok()?;
    (value.is_finite() || matches!(digits, "Infinity" | "-Infinity" | "NaN")).then_some(value)
}

struct ExtendedSeed<S>(S);

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for ExtendedSeed<S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<S::Value, D::Error> {
        self.0.deserialize(Extended(from))
    }
}

struct ExtendedSeq<A>(A);

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for ExtendedSeq<A> {
    type Error = A::Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, A::Error> {
        self.0.next_element_seed(ExtendedSeed(seed))
    }

    fn size_hint(&self) -> Option<usize> {
        self.0.size_hint()
    }
}

struct ExtendedMap<'de, A> {
    /// The first key, if it was read to recognise a wrapper.
    first: Option<Cow<'de, str>>,
    rest: A,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for ExtendedMap<'de, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, A::Error> {
        match self.first.take() {
            Some(key) => seed.deserialize(CowStrDeserializer::new(key)).map(Some),
            None => self.rest.next_key_seed(seed),
        }
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.rest.next_value_seed(ExtendedSeed(seed))
    }
}

struct ExtendedEnum<A>(A);

impl<'de, A: EnumAccess<'de>> EnumAccess<'de> for ExtendedEnum<A> {
    type Error = A::Error;
    type Variant = ExtendedVariant<A::Variant>;

    fn variant_seed<S: DeserializeSeed<'de>>(
        self,
        seed: S,
    ) -> Result<(S::Value, Self::Variant), A::Error> {
        let (name, variant) = self.0.variant_seed(seed)?;
        Ok((name, ExtendedVariant(variant)))
    }
}

struct ExtendedVariant<A>(A);

impl<'de, A: VariantAccess<'de>> VariantAccess<'de> for ExtendedVariant<A> {
    type Error = A::Error;

    fn unit_variant(self) -> Result<(), A::Error> {
        self.0.unit_variant()
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, A::Error> {
        self.0.newtype_variant_seed(ExtendedSeed(seed))
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, A::Error> {
        self.0.tuple_variant(len, Inside { visitor, wanted: Wanted::Itself })
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        self.0.struct_variant(fields, Inside { visitor, wanted: Wanted::Itself })
    }
}

#[cfg(test)]
mod tests;
