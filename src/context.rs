//! Claims and the user's record in, the values of the context headers out.
//!
//! One rule for every value: a string stands as it is, a number and a boolean as JSON writes them,
//! an array as its items' texts with `join` between them. What is not there, `null`, and what is
//! empty leave the header unset. Objects, arrays without `join`, items that hold `join` themselves,
//! and texts that are not legal header values are refused: no header is better than a wrong one.

use serde_json::{Map, Value};

use crate::boundary::AssertedContext;
use crate::boundary::txn_token::TxnToken;
use crate::config::names::{HeaderName, is_header_value};
use crate::config::{Context, ContextHeader, ValueSource};
use crate::token::claims::Claims;
use crate::user::UserRecord;

/// The context headers of one request, with their values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserContext {
    headers: Vec<(HeaderName, Option<String>)>,
    /// The same as a text that a gateway signed, where there is one.
    signed: Option<TxnToken>,
}

/// Why no context can be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContextError {
    /// The token lacks a required claim, or has a value there that no header can carry.
    Claim,
    /// The same of the user's record.
    Record,
}

impl UserContext {
    /// The context for these claims and this record.
    ///
    /// # Errors
    /// Where a required value is missing, or one that is there cannot be a header's.
    pub fn assemble(
        config: &Context,
        claims: &Claims,
        record: &UserRecord,
    ) -> Result<Self, ContextError> {
        config
            .headers
            .iter()
            .map(|header| Ok((header.name.clone(), value(header, claims, record)?)))
            .collect::<Result<Vec<_>, ContextError>>()
            .map(|headers| Self { headers, signed: None })
    }

    /// The value of one context header alone, where it has one.
    #[must_use]
    pub fn value_of(
        config: &Context,
        name: &str,
        claims: &Claims,
        record: &UserRecord,
    ) -> Option<String> {
        let header = config.headers.iter().find(|header| header.name.as_str() == name)?;
        value(header, claims, record).ok().flatten()
    }

    /// The context that a hop asserted which may do so.
    #[must_use]
    pub fn asserted(config: &Context, asserted: &AssertedContext) -> Self {
        let value = |name: &HeaderName| asserted.value(name.as_str()).map(str::to_owned);
        let headers = config.headers.iter();
        let headers = headers.map(|header| (header.name.clone(), value(&header.name))).collect();
        Self { headers, signed: None }
    }

    /// The context of a request without a user: every header unset.
    #[must_use]
    pub fn nobody(config: &Context) -> Self {
        let headers = config.headers.iter().map(|header| (header.name.clone(), None)).collect();
        Self { headers, signed: None }
    }

    /// The same with the text that says it, signed.
    #[must_use]
    pub fn signed_as(self, token: TxnToken) -> Self {
        Self { signed: Some(token), ..self }
    }

    /// The text that says it, signed, where there is one.
    #[must_use]
    pub fn signed(&self) -> Option<&TxnToken> {
        self.signed.as_ref()
    }

    /// Each context header with its value, if it has one, and the text that says it, signed.
    #[must_use]
    pub fn into_parts(self) -> (Vec<(HeaderName, Option<String>)>, Option<TxnToken>) {
        (self.headers, self.signed)
    }

    /// Each context header and its value, if it has one.
    pub fn headers(&self) -> impl Iterator<Item = (&HeaderName, Option<&str>)> {
        self.headers.iter().map(|(name, value)| (name, value.as_deref()))
    }
}

fn value(
    header: &ContextHeader,
    claims: &Claims,
    record: &UserRecord,
) -> Result<Option<String>, ContextError> {
    let (found, error) = match &header.source {
        ValueSource::User(pointer) => (pointer.find(record.members()), ContextError::Record),
        ValueSource::Claim(pointer) => (pointer.find(claims.members()), ContextError::Claim),
    };
    let text = match found {
        None => None,
        Some(value) => header_text(value, header.join.as_deref()).map_err(|NoText| error)?,
    };
    if text.is_none() && header.required {
        return Err(error);
    }
    Ok(text)
}

/// A JSON value that no header value can stand for.
#[derive(Debug, PartialEq, Eq)]
struct NoText;

/// The header value that stands for a JSON value; none where there is nothing to say.
fn header_text(value: &Value, join: Option<&str>) -> Result<Option<String>, NoText> {
    let text = match (value, join) {
        (Value::Null, _) => return Ok(None),
        (Value::Array(items), Some(join)) => {
            let items: Vec<String> = items.iter().map(scalar_text).collect::<Result<_, _>>()?;
            let text = items.join(join);
            // Who splits it again must find the same items: none with the separator in it, or a part of it
            // at an end.
            if !join.is_empty() && !items.is_empty() && !text.split(join).eq(&items) {
                return Err(NoText);
            }
            text
        }
        (other, _) => scalar_text(other)?,
    };
    match text {
        text if text.is_empty() => Ok(None),
        text if is_header_value(&text) => Ok(Some(text)),
        _ => Err(NoText),
    }
}

fn scalar_text(value: &Value) -> Result<String, NoText> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(flag) => Ok(flag.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => Err(NoText),
    }
}

/// The texts of a JSON string or array of strings; what roles and permissions are written as.
pub fn texts<'a>(
    members: &'a Map<String, Value>,
    name: &str,
) -> impl Iterator<Item = &'a str> + Clone {
    let values = match members.get(name) {
        Some(text @ Value::String(_)) => std::slice::from_ref(text),
        Some(Value::Array(items)) => items.as_slice(),
        Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_)) | None => &[],
    };
    values.iter().filter_map(Value::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_become_headers_by_one_rule() {
        for (value, join, text) in [
            (json!("USER"), None, Ok(Some("USER"))),
            (json!(42), None, Ok(Some("42"))),
            (json!(-1.5), None, Ok(Some("-1.5"))),
            (json!(true), None, Ok(Some("true"))),
            (json!(["a", 1, false]), Some(","), Ok(Some("a,1,false"))),
            (json!(null), None, Ok(None)),
            (json!(""), None, Ok(None)),
            (json!([]), Some(","), Ok(None)),
            (json!(["a"]), None, Err(NoText)),
            (json!(["a", "b,ADMIN"]), Some(","), Err(NoText)),
            (json!(["a,", "b"]), Some(",,"), Err(NoText)),
            (json!(["a", " b"]), Some(","), Ok(Some("a, b"))),
            (json!("a\tb"), None, Ok(Some("a\tb"))),
            (json!("a\t"), None, Err(NoText)),
            (json!(["a", "\t"]), Some(","), Err(NoText)),
            (json!([["a"]]), Some(","), Err(NoText)),
            (json!({"a": 1}), Some(","), Err(NoText)),
            (json!("a\r\nx-user-role: ADMIN"), None, Err(NoText)),
            (json!("a\u{0}"), None, Err(NoText)),
            (json!("é"), None, Err(NoText)),
            (json!(["a\n"]), Some(","), Err(NoText)),
        ] {
            let expected = text.map(|text| text.map(str::to_owned));
            assert_eq!(header_text(&value, join), expected, "{value}");
        }
    }
}
