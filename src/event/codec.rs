//! Serde enums as typed events: the variant's name is the event type, its content the payload.

use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer as _, EnumAccess, IntoDeserializer, VariantAccess,
    Visitor,
};
use serde::ser::{self, Error as _, Impossible, Serialize};
use serde_json::Error;

use crate::error::DecodeError;

/// The name of the value's variant, and the JSON text of its content.
pub(crate) fn encode<T: Serialize + ?Sized>(value: &T) -> Result<(String, String), Error> {
    value.serialize(VariantSerializer)
}

/// The inverse of [`encode`]. A type that is not an enum is decoded from the payload alone.
pub(crate) fn decode<T: DeserializeOwned>(name: &str, payload: &str) -> Result<T, DecodeError> {
    let event = TypedEvent { name, payload };
    T::deserialize(event).map_err(DecodeError::new)
}

/// Accepts the variant of an enum and nothing else.
struct VariantSerializer;

type Encoded = (String, String);

fn not_an_enum<T>(found: &str) -> Result<T, Error> {
    Err(Error::custom(format_args!(
        "found {found}; derive `Serialize` on an enum without `tag` or `untagged`, or use `NewEvent::new`"
    )))
}

/// The methods of a serializer for values that are no variants.
macro_rules! refuse {
    ($($method:ident($($argument:ty),*) as $found:literal;)*) => {
        $(fn $method(self, $(_: $argument),*) -> Result<Encoded, Error> { not_an_enum($found) })*
    };
}

impl ser::Serializer for VariantSerializer {
    type Ok = Encoded;
    type Error = Error;
    type SerializeSeq = Impossible<Encoded, Error>;
    type SerializeTuple = Impossible<Encoded, Error>;
    type SerializeTupleStruct = Impossible<Encoded, Error>;
    type SerializeTupleVariant = Elements;
    type SerializeMap = Impossible<Encoded, Error>;
    type SerializeStruct = Impossible<Encoded, Error>;
    type SerializeStructVariant = Members;

    refuse! {
        serialize_bool(bool) as "a boolean";
        serialize_i8(i8) as "a number";
        serialize_i16(i16) as "a number";
        serialize_i32(i32) as "a number";
        serialize_i64(i64) as "a number";
        serialize_u8(u8) as "a number";
        serialize_u16(u16) as "a number";
        serialize_u32(u32) as "a number";
        serialize_u64(u64) as "a number";
        serialize_f32(f32) as "a number";
        serialize_f64(f64) as "a number";
        serialize_char(char) as "a character";
        serialize_str(&str) as "a text";
        serialize_bytes(&[u8]) as "bytes";
        serialize_none() as "an option";
        serialize_unit() as "the unit";
        serialize_unit_struct(&'static str) as "a unit struct";
    }

    fn serialize_some<T: Serialize + ?Sized>(self, _: &T) -> Result<Encoded, Error> {
        not_an_enum("an option")
    }

    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
    ) -> Result<Encoded, Error> {
        Ok((variant.to_owned(), String::from("null")))
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<Encoded, Error> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<Encoded, Error> {
        Ok((variant.to_owned(), serde_json::to_string(value)?))
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Self::SerializeSeq, Error> {
        not_an_enum("a sequence")
    }

    fn serialize_tuple(self, _: usize) -> Result<Self::SerializeTuple, Error> {
        not_an_enum("a tuple")
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self::SerializeTupleStruct, Error> {
        not_an_enum("a tuple struct")
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Elements, Error> {
        Ok(Elements {
            variant,
            text: String::from("["),
        })
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Self::SerializeMap, Error> {
        not_an_enum("a map")
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self::SerializeStruct, Error> {
        not_an_enum("a struct")
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Members, Error> {
        Ok(Members {
            variant,
            text: String::from("{"),
        })
    }
}

/// The content of a tuple variant: a JSON array in the making.
struct Elements {
    variant: &'static str,
    text: String,
}

impl ser::SerializeTupleVariant for Elements {
    type Ok = Encoded;
    type Error = Error;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        push(&mut self.text, None, value)
    }

    fn end(mut self) -> Result<Encoded, Error> {
        self.text.push(']');
        Ok((self.variant.to_owned(), self.text))
    }
}

/// The content of a struct variant: a JSON object in the making.
struct Members {
    variant: &'static str,
    text: String,
}

impl ser::SerializeStructVariant for Members {
    type Ok = Encoded;
    type Error = Error;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<(), Error> {
        push(&mut self.text, Some(key), value)
    }

    fn end(mut self) -> Result<Encoded, Error> {
        self.text.push('}');
        Ok((self.variant.to_owned(), self.text))
    }
}

/// Adds one element, or one member, to the JSON text of a container.
fn push<T: Serialize + ?Sized>(text: &mut String, key: Option<&str>, value: &T) -> Result<(), Error> {
    if text.len() > 1 {
        text.push(',');
    }
    if let Some(key) = key {
        text.push_str(&serde_json::to_string(key)?);
        text.push(':');
    }
    text.push_str(&serde_json::to_string(value)?);
    Ok(())
}

/// An event as serde's data model sees it: a variant with a name and a content.
#[derive(Clone, Copy)]
struct TypedEvent<'a> {
    name: &'a str,
    payload: &'a str,
}

impl<'a> TypedEvent<'a> {
    /// Lets `read` take the content, and demands that nothing is left over.
    fn content<T>(
        self,
        read: impl FnOnce(&mut serde_json::Deserializer<serde_json::de::StrRead<'a>>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut content = serde_json::Deserializer::from_str(self.payload);
        let value = read(&mut content)?;
        content.end()?;
        Ok(value)
    }
}

impl<'de> serde::Deserializer<'de> for TypedEvent<'de> {
    type Error = Error;

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_enum(self)
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.content(|content| content.deserialize_any(visitor))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.content(|content| content.deserialize_option(visitor))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        seq tuple tuple_struct map struct identifier ignored_any
    }
}

impl<'de> EnumAccess<'de> for TypedEvent<'de> {
    type Error = Error;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Error> {
        let name: StrDeserializer<'_, Error> = self.name.into_deserializer();
        Ok((seed.deserialize(name)?, self))
    }
}

impl<'de> VariantAccess<'de> for TypedEvent<'de> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        self.content(|content| serde::Deserialize::deserialize(content))
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Error> {
        self.content(|content| seed.deserialize(content))
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Error> {
        self.content(|content| content.deserialize_tuple(len, visitor))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.content(|content| content.deserialize_struct("", fields, visitor))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Clone, Debug, PartialEq, Deserialize, serde::Serialize)]
    #[serde(rename_all = "kebab-case")]
    enum Fact {
        Opened,
        Renamed(String),
        Moved(i32, i32),
        Paid { cents: u64, note: Option<String> },
        Empty {},
        Wrapped(Option<u8>),
    }

    #[derive(Debug, PartialEq, Deserialize, serde::Serialize)]
    struct Wrapper(Fact);

    #[test]
    fn every_kind_of_variant_comes_back_as_it_went() {
        let cases = [
            (Fact::Opened, "opened", "null"),
            (Fact::Renamed("a\"b".into()), "renamed", r#""a\"b""#),
            (Fact::Moved(1, -2), "moved", "[1,-2]"),
            (
                Fact::Paid { cents: 5, note: None },
                "paid",
                r#"{"cents":5,"note":null}"#,
            ),
            (Fact::Empty {}, "empty", "{}"),
            (Fact::Wrapped(None), "wrapped", "null"),
            (Fact::Wrapped(Some(1)), "wrapped", "1"),
        ];
        for (fact, name, payload) in cases {
            assert_eq!(encode(&fact).unwrap(), (name.into(), payload.into()));
            assert_eq!(decode::<Fact>(name, payload).unwrap(), fact);
            let wrapper = Wrapper(fact);
            assert_eq!(encode(&wrapper).unwrap(), (name.into(), payload.into()));
            assert_eq!(decode::<Wrapper>(name, payload).unwrap(), wrapper);
        }
    }

    #[test]
    fn other_types_are_refused_on_the_way_in_and_read_from_the_payload_on_the_way_out() {
        #[derive(Debug, PartialEq, Deserialize)]
        struct Paid {
            cents: u64,
        }
        assert!(encode(&7).is_err());
        assert!(encode("text").is_err());
        assert!(encode(&Some(Fact::Opened)).is_err());
        assert_eq!(
            decode::<Paid>("paid", r#"{"cents":5}"#).unwrap(),
            Paid { cents: 5 }
        );
        assert_eq!(decode::<Option<u8>>("x", "null").unwrap(), None);
    }

    #[test]
    fn a_wrong_name_or_shape_is_an_error() {
        assert!(decode::<Fact>("closed", "null").is_err());
        assert!(decode::<Fact>("paid", "null").is_err());
        assert!(decode::<Fact>("opened", "{}").is_err());
        assert!(decode::<Fact>("moved", "[1,2,3]").is_err());
    }
}
