//! Second implementations: slow, obvious, and sharing nothing with the first ones but `serde_json`.

use meshgate::headers::{Edit, Field};
use serde_json::{Map, Value};

/// What unpadded base64url text stands for, where it is the one text that does (RFC 4648 sections 3.5 and 5).
#[must_use]
pub fn base64url(text: &[u8]) -> Option<Vec<u8>> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut bits = Vec::new();
    for sign in text {
        let value = ALPHABET.iter().position(|letter| letter == sign)?;
        bits.extend((0..6).rev().map(|place| value >> place & 1));
    }
    let (bytes, rest) = bits.split_at(bits.len() / 8 * 8);
    let canonical = rest.len() < 6 && rest.iter().all(|bit| *bit == 0);
    let byte = |bits: &[usize]| bits.iter().fold(0, |byte, bit| byte << 1 | u8::from(*bit == 1));
    canonical.then(|| bytes.chunks(8).map(byte).collect())
}

/// A JSON value in which no object has two members of one name. Each member has one colon outside of texts, and
/// of two with one name `serde_json` keeps one.
#[must_use]
pub fn json(text: &[u8]) -> Option<Value> {
    fn members(value: &Value) -> usize {
        match value {
            Value::Array(items) => items.iter().map(members).sum(),
            Value::Object(map) => map.len() + map.values().map(members).sum::<usize>(),
            _ => 0,
        }
    }
    let value: Value = serde_json::from_slice(text).ok()?;
    let (mut colons, mut in_text, mut escaped) = (0, false, false);
    for byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => in_text = !in_text,
            b':' if !in_text => colons += 1,
            _ => {}
        }
    }
    (colons == members(&value)).then_some(value)
}

/// The same where it is an object.
#[must_use]
pub fn object(text: &[u8]) -> Option<Map<String, Value>> {
    match json(text)? {
        Value::Object(members) => Some(members),
        _ => None,
    }
}

/// Whether somebody may take `name` for `managed`: cases are one, and so are all signs that CGI or PHP would turn
/// into `_`.
#[must_use]
pub fn is_like(name: &str, managed: &str) -> bool {
    let seen = |name: &str| {
        let low = name.to_ascii_lowercase();
        low.bytes()
            .map(|byte| if byte.is_ascii_alphanumeric() { byte } else { b'_' })
            .collect::<Vec<u8>>()
    };
    seen(name) == seen(managed)
}

/// A head after these edits, as Envoy makes them.
#[must_use]
pub fn edited(mut head: Vec<Field>, edits: &[Edit]) -> Vec<Field> {
    for edit in edits {
        let (Edit::Set(name, _) | Edit::Remove(name)) = edit;
        head.retain(|field| !field.name.eq_ignore_ascii_case(name));
        if let Edit::Set(name, value) = edit {
            head.push(Field { name: name.clone(), value: value.clone() });
        }
    }
    head
}

/// Whether a proxy can send this as the value of a header, and everybody reads the same: one line of visible ASCII,
/// with spaces and tabs inside only.
#[must_use]
pub fn is_header_value(value: &[u8]) -> bool {
    let blank = |byte: Option<&u8>| byte.is_some_and(|byte| matches!(byte, b' ' | b'\t'));
    !value.is_empty()
        && !blank(value.first())
        && !blank(value.last())
        && value.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~'))
}
