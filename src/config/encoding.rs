//! The bytes of a config as JSON, however the proxy hands them over.
//!
//! Istio's `pluginConfig` and Envoy's `StringValue` arrive as JSON text. A `google.protobuf.Struct`
//! in Envoy's own config, which is the form that can be written as plain YAML, arrives as the
//! message's bytes (seen on Envoy 1.40).

use prost::Message;
use prost_types::value::Kind;
use serde_json::{Map, Number, Value};

use crate::json;

/// Reads JSON text or the bytes of a protobuf `Struct`.
///
/// # Errors
/// Where the bytes are neither: what is wrong with them as JSON.
pub fn decode(bytes: &[u8]) -> Result<Value, serde_json::Error> {
    json::parse(bytes).or_else(|error| {
        // Every message with a field begins with the tag of its first one.
        const TAG_OF_FIELDS: u8 = 0x0a;
        if bytes.first() != Some(&TAG_OF_FIELDS) {
            return Err(error);
        }
        prost_types::Struct::decode(bytes).map(|message| object(message.fields)).map_err(|_| error)
    })
}

fn object(fields: impl IntoIterator<Item = (String, prost_types::Value)>) -> Value {
    let members: Map<String, Value> =
        fields.into_iter().map(|(name, field)| (name, value(field))).collect();
    Value::Object(members)
}

fn value(message: prost_types::Value) -> Value {
    match message.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(flag)) => Value::Bool(flag),
        Some(Kind::NumberValue(number)) => {
            Number::from_f64(number).map_or(Value::Null, Value::Number)
        }
        Some(Kind::StringValue(text)) => Value::String(text),
        Some(Kind::ListValue(list)) => list.values.into_iter().map(value).collect(),
        Some(Kind::StructValue(inner)) => object(inner.fields),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn message(json: &Value) -> prost_types::Value {
        let kind = match json {
            Value::Null => Kind::NullValue(0),
            Value::Bool(flag) => Kind::BoolValue(*flag),
            Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap()),
            Value::String(text) => Kind::StringValue(text.clone()),
            Value::Array(items) => Kind::ListValue(prost_types::ListValue {
                values: items.iter().map(message).collect(),
            }),
            Value::Object(map) => Kind::StructValue(prost_types::Struct {
                fields: map.iter().map(|(name, v)| (name.clone(), message(v))).collect(),
            }),
        };
        prost_types::Value { kind: Some(kind) }
    }

    #[test]
    fn text_and_struct_are_the_same_config() {
        let config = json!({"mode": "gateway", "a": [1.0, true, null, {"b": "c"}], "d": {}});
        assert_eq!(decode(config.to_string().as_bytes()).unwrap(), config);
        assert_eq!(decode(format!("\n  {config}").as_bytes()).unwrap(), config);
        let Some(Kind::StructValue(message)) = message(&config).kind else {
            panic!("an object becomes a struct");
        };
        assert_eq!(decode(&message.encode_to_vec()).unwrap(), config);
    }

    #[test]
    fn bytes_that_are_neither_are_refused_with_the_error_of_the_text() {
        for bytes in [
            &b"\n{\"mode\": gateway}"[..],
            b"\n\x7f",
            b"\x0a\xff\xff\xff\xff\xff",
            b"mode: gateway",
        ] {
            assert!(decode(bytes).is_err());
        }
        let deep = (0..1_000).fold(json!(1), |inner, _| json!({ "a": inner }));
        let Some(Kind::StructValue(message)) = message(&deep).kind else {
            panic!("an object becomes a struct");
        };
        assert!(decode(&message.encode_to_vec()).is_err(), "nesting is bounded");
    }
}
