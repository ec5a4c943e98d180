//! JSON from outside, read strictly: a member name that stands twice in one object is refused.
//!
//! RFC 7515 section 4 and RFC 7519 section 4 leave a choice between refusing duplicates and taking
//! the last one. Two readers that choose differently see two different tokens, so meshgate refuses.
//! Nesting is bounded by `serde_json`'s own limit of 128 levels.

pub mod shape;

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Reads one JSON value that fills `bytes`.
///
/// # Errors
/// Where `bytes` are not UTF-8 JSON, or an object names a member twice.
pub fn parse(bytes: &[u8]) -> Result<Value, serde_json::Error> {
    serde_json::from_slice::<Strict>(bytes).map(|strict| strict.0)
}

/// Reads one JSON object that fills `bytes`.
///
/// # Errors
/// As [`parse`], and where the value is not an object.
pub fn parse_object(bytes: &[u8]) -> Result<Map<String, Value>, serde_json::Error> {
    match parse(bytes)? {
        Value::Object(map) => Ok(map),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            Err(serde_json::Error::custom("not a JSON object"))
        }
    }
}

struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Self)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number out of range"))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Strict(value)) = seq.next_element()? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(name) = access.next_key::<String>()? {
            let Strict(value) = access.next_value()?;
            if map.insert(name, value).is_some() {
                // The name is not repeated here: in a token it is the sender's text.
                return Err(A::Error::custom("an object has two members of one name"));
            }
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_of_every_kind_are_read() {
        let text = br#"{"a":null,"b":[true,-1,1.5,18446744073709551615],"c":{"d":"\u00e9"}}"#;
        let expected =
            json!({"a":null,"b":[true,-1,1.5,18_446_744_073_709_551_615_u64],"c":{"d":"é"}});
        assert_eq!(parse(text).unwrap(), expected);
    }

    #[test]
    fn duplicates_are_refused_at_every_depth() {
        for text in [r#"{"a":1,"a":2}"#, r#"{"x":{"a":1,"a":1}}"#, r#"[{"a":1,"\u0061":2}]"#] {
            let error = parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains("two members of one name"), "{text}: {error}");
        }
    }

    #[test]
    fn garbage_trailing_text_and_deep_nesting_are_errors() {
        let deep = "[".repeat(100_000);
        for text in [&b"\xff\xfe"[..], b"", b"{", b"{} {}", b"nan", deep.as_bytes()] {
            assert!(parse(text).is_err());
        }
        assert!(parse_object(b"[]").is_err());
    }
}
