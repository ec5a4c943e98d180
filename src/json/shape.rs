//! JSON as the types that serde derives want it, and where it is not so.
//!
//! One deserializer for the config and for all documents: what serde derives is compiled anew for each that
//! it meets. It knows where it is, tells nothing of the values it met, which may be secrets, and takes an
//! object for an object only: to `serde_json` an array of its values in their order would be one too.

use std::fmt;
use std::iter::Enumerate;
use std::vec;

use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Error, Expected, IntoDeserializer, MapAccess,
    SeqAccess, Unexpected, Visitor,
};
use serde::forward_to_deserialize_any;
use serde_json::Value;

/// Reads a value as a `T`.
///
/// # Errors
/// The first thing in it that a `T` has not, or has otherwise.
pub fn read<T: DeserializeOwned>(value: Value) -> Result<T, Misfit> {
    T::deserialize(Reader(value)).map_err(|Inward(mut misfit)| {
        misfit.place.reverse();
        *misfit
    })
}

/// Why a value has not the shape it should have.
#[derive(Debug)]
pub struct Misfit {
    /// The way to where that is; with an unknown name, to the object that has it.
    pub place: Vec<Step>,
    /// What it is.
    pub fault: Fault,
}

/// One step into a value.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// To the member of that name.
    Name(String),
    /// To the item at that place.
    Index(usize),
}

/// What is wrong with a value.
#[derive(Debug)]
pub enum Fault {
    /// It has a member that its type has not.
    UnknownName {
        /// The member's.
        name: String,
        /// Those that there are.
        known: &'static [&'static str],
    },
    /// Anything else, in words, without the value.
    Other(String),
}

/// A misfit on its way out, its place still from the inside. In a box, since every field of every type
/// has code that hands it on.
#[derive(Debug)]
struct Inward(Box<Misfit>);

impl Inward {
    fn at_hand(fault: Fault) -> Self {
        Self(Box::new(Misfit { place: Vec::new(), fault }))
    }

    fn unexpected(what: &str, found: Unexpected<'_>, wanted: &dyn Expected) -> Self {
        let found = match found {
            Unexpected::Unit => "null",
            Unexpected::Bool(_) => "boolean",
            Unexpected::Unsigned(_) | Unexpected::Signed(_) => "integer",
            Unexpected::Float(_) => "floating point",
            Unexpected::Str(_) => "string",
            Unexpected::Seq => "sequence",
            Unexpected::Map => "map",
            // JSON has no more kinds.
            _ => "value",
        };
        let wanted = wanted.to_string().replace("struct ", "an object of ");
        Self::at_hand(Fault::Other(format!("invalid {what}: {found}, expected {wanted}")))
    }

    /// The same seen from one step further out.
    fn after(mut self, step: Step) -> Self {
        self.0.place.push(step);
        self
    }
}

impl fmt::Display for Inward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.fault {
            Fault::UnknownName { name, .. } => write!(f, "unknown field `{name}`"),
            Fault::Other(message) => f.write_str(message),
        }
    }
}

impl std::error::Error for Inward {}

impl Error for Inward {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::at_hand(Fault::Other(message.to_string()))
    }

    fn invalid_type(found: Unexpected<'_>, wanted: &dyn Expected) -> Self {
        Self::unexpected("type", found, wanted)
    }

    fn invalid_value(found: Unexpected<'_>, wanted: &dyn Expected) -> Self {
        Self::unexpected("value", found, wanted)
    }

    fn unknown_field(name: &str, known: &'static [&'static str]) -> Self {
        Self::at_hand(Fault::UnknownName { name: name.to_owned(), known })
    }
}

struct Reader(Value);

impl<'de> Deserializer<'de> for Reader {
    type Error = Inward;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Inward> {
        match self.0 {
            Value::Null => visitor.visit_unit(),
            Value::Bool(flag) => visitor.visit_bool(flag),
            Value::Number(number) => {
                if let Some(whole) = number.as_u64() {
                    visitor.visit_u64(whole)
                } else if let Some(whole) = number.as_i64() {
                    visitor.visit_i64(whole)
                } else {
                    // Whatever is neither is a double.
                    visitor.visit_f64(number.as_f64().unwrap_or(f64::NAN))
                }
            }
            Value::String(text) => visitor.visit_string(text),
            Value::Array(items) => visitor.visit_seq(Items(items.into_iter().enumerate())),
            Value::Object(map) => visitor.visit_map(Members::of(map)),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Inward> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Inward> {
        let found = match self.0 {
            Value::Object(map) => return visitor.visit_map(Members::of(map)),
            Value::Null => Unexpected::Unit,
            Value::Bool(flag) => Unexpected::Bool(flag),
            Value::Number(number) if number.is_f64() => Unexpected::Float(0.0),
            Value::Number(_) => Unexpected::Signed(0),
            Value::String(_) => Unexpected::Str(""),
            Value::Array(_) => Unexpected::Seq,
        };
        Err(Inward::invalid_type(found, &visitor))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

struct Items(Enumerate<vec::IntoIter<Value>>);

impl<'de> SeqAccess<'de> for Items {
    type Error = Inward;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Inward> {
        let Some((index, item)) = self.0.next() else {
            return Ok(None);
        };
        let read = seed.deserialize(Reader(item));
        read.map(Some).map_err(|misfit| misfit.after(Step::Index(index)))
    }
}

struct Members {
    rest: serde_json::map::IntoIter,
    /// The one whose name was read last.
    current: Option<(String, Value)>,
}

impl Members {
    fn of(map: serde_json::Map<String, Value>) -> Self {
        Self { rest: map.into_iter(), current: None }
    }
}

impl<'de> MapAccess<'de> for Members {
    type Error = Inward;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Inward> {
        self.current = self.rest.next();
        let Some((name, _)) = &self.current else {
            return Ok(None);
        };
        let name: StrDeserializer<'_, Inward> = name.as_str().into_deserializer();
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Inward> {
        let Some((name, value)) = self.current.take() else {
            return Err(Inward::custom("a value was asked for before its name"));
        };
        let read = seed.deserialize(Reader(value));
        read.map_err(|misfit| misfit.after(Step::Name(name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use serde_json::json;
    use std::collections::BTreeMap;

    #[derive(Deserialize, Debug, Default, PartialEq)]
    #[serde(deny_unknown_fields, default)]
    struct Outer {
        inner: Option<Inner>,
        many: Vec<Inner>,
        named: BTreeMap<String, Inner>,
        any: Value,
    }

    #[derive(Deserialize, Debug, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        whole: Option<u8>,
        text: String,
    }

    #[test]
    fn what_fits_is_read() {
        let any = json!({"a": [null, true, -1, 1.5, "b"]});
        let value = json!({
            "inner": null,
            "many": [{"text": "a", "whole": 255}],
            "named": {"x": {"text": "b", "whole": null}},
            "any": any,
        });
        let inner = |text: &str, whole| Inner { whole, text: text.to_owned() };
        let outer = Outer {
            inner: None,
            many: vec![inner("a", Some(255))],
            named: BTreeMap::from([("x".to_owned(), inner("b", None))]),
            any,
        };
        assert_eq!(read::<Outer>(value).unwrap(), outer);
    }

    #[test]
    fn what_does_not_fit_is_told_with_its_place_and_without_its_value() {
        let (name, index) = (|name: &str| Step::Name(name.to_owned()), Step::Index);
        for (value, place, message) in [
            (json!("x"), vec![], "invalid type: string, expected an object of Outer"),
            (
                json!({"inner": ["x", 1]}),
                vec![name("inner")],
                "invalid type: sequence, expected an object of Inner",
            ),
            (json!({"inner": {}}), vec![name("inner")], "missing field `text`"),
            (
                json!({"many": [{"text": "a"}, {"text": 1.5}]}),
                vec![name("many"), index(1), name("text")],
                "invalid type: floating point, expected a string",
            ),
            (
                json!({"named": {"x": {"text": "", "whole": 256}}}),
                vec![name("named"), name("x"), name("whole")],
                "invalid value: integer, expected u8",
            ),
            (
                json!({"named": {"x": {"text": null}}}),
                vec![name("named"), name("x"), name("text")],
                "invalid type: null, expected a string",
            ),
            (
                json!({"named": {"x": {"texts": "a"}}}),
                vec![name("named"), name("x")],
                "unknown field `texts`",
            ),
        ] {
            let misfit = read::<Outer>(value).unwrap_err();
            let told = match misfit.fault {
                Fault::UnknownName { name, .. } => format!("unknown field `{name}`"),
                Fault::Other(told) => told,
            };
            assert_eq!((told.as_str(), misfit.place), (message, place));
        }
    }
}
