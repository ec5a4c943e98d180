//! Bodies of the operator's own, with places for what is known of the refusal.

use std::borrow::Cow;

use serde_json::Value;

use crate::denial::Code;

/// Longest body in a config, in bytes: a page with its style and an inline logo. Each refusal copies it.
pub const MAX_BODY_BYTES: usize = 16 * 1024;

/// An answer of the operator's own.
#[derive(Debug)]
pub struct Custom {
    /// The status instead of the code's own: 400 to 599, and not 401.
    pub status: Option<u16>,
    /// The body instead of the problem document.
    pub body: Option<Body>,
}

/// A body of the operator's own.
#[derive(Debug)]
pub struct Body {
    /// `content-type`.
    pub content_type: String,
    /// What stands in it.
    pub content: Content,
}

/// What stands in a body.
#[derive(Debug)]
pub enum Content {
    /// JSON, with places in its texts.
    Json(Value),
    /// Text with places, and how values are written there.
    Text(String, Escape),
}

/// How a value is written into a text so that it is nothing but a text there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Escape {
    /// As it is.
    None,
    /// Within a JSON string (RFC 8259 section 7).
    Json,
    /// As text or within a quoted attribute.
    Html,
}

/// Which refusals an answer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Selector {
    /// Those of one code.
    Code(Code),
    /// Those that have this status.
    Status(u16),
    /// Those whose status begins with this digit.
    Class(u16),
}

impl Selector {
    /// `token_expired`, `403` or `5xx`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(class) = text.strip_suffix("xx") {
            return match class {
                "4" => Some(Self::Class(4)),
                "5" => Some(Self::Class(5)),
                _ => None,
            };
        }
        // A status that no refusal has would never be used.
        let status = Code::ALL.iter().map(|code| code.status()).find(|s| s.to_string() == text);
        status.map(Self::Status).or_else(|| Code::named(text).map(Self::Code))
    }

    fn fits(self, code: Code) -> bool {
        match self {
            Self::Code(own) => own == code,
            Self::Status(status) => status == code.status(),
            Self::Class(class) => class == code.status() / 100,
        }
    }

    /// The more exact one has the say.
    const fn rank(self) -> u8 {
        match self {
            Self::Code(_) => 0,
            Self::Status(_) => 1,
            Self::Class(_) => 2,
        }
    }
}

/// The answers of the operator's own.
#[derive(Debug, Default)]
pub struct Customs(Vec<(Selector, Custom)>);

impl Customs {
    /// These, of which the most exact holds.
    #[must_use]
    pub fn new(mut customs: Vec<(Selector, Custom)>) -> Self {
        customs.sort_by_key(|(selector, _)| selector.rank());
        Self(customs)
    }

    /// The one for `code`.
    #[must_use]
    pub fn of(&self, code: Code) -> Option<&Custom> {
        self.0.iter().find(|(selector, _)| selector.fits(code)).map(|(_, custom)| custom)
    }
}

/// What has a place in a body. `request_id` may be the client's word, so it is never written as it is.
#[derive(Debug, Clone, Copy)]
pub struct Values<'a> {
    /// `{code}`
    pub code: &'a str,
    /// `{status}`
    pub status: u16,
    /// `{detail}`
    pub detail: &'a str,
    /// `{request_id}`
    pub request_id: &'a str,
}

impl<'a> Values<'a> {
    fn named(&self, name: &str) -> Option<Cow<'a, str>> {
        match name {
            "code" => Some(Cow::Borrowed(self.code)),
            "status" => Some(Cow::Owned(self.status.to_string())),
            "detail" => Some(Cow::Borrowed(self.detail)),
            "request_id" => Some(Cow::Borrowed(self.request_id)),
            _ => None,
        }
    }
}

/// Stands for all values where a body is looked at before there are any.
pub const PROBE: Values<'static> =
    Values { code: "code", status: 400, detail: "detail", request_id: "id" };

impl Content {
    /// The body with `values` in their places.
    #[must_use]
    pub fn fill(&self, values: Values<'_>) -> String {
        match self {
            Self::Json(document) => fill_json(document, values).to_string(),
            Self::Text(text, escape) => fill(text, *escape, values),
        }
    }
}

fn fill_json(document: &Value, values: Values<'_>) -> Value {
    match document {
        // A number stays one where it stands alone.
        Value::String(text) if text == "{status}" => values.status.into(),
        Value::String(text) => fill(text, Escape::None, values).into(),
        Value::Array(items) => items.iter().map(|item| fill_json(item, values)).collect(),
        Value::Object(members) => {
            members.iter().map(|(name, member)| (name.clone(), fill_json(member, values))).collect()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => document.clone(),
    }
}

/// In one go, so that what looks like a place in a value stays text.
fn fill(text: &str, escape: Escape, values: Values<'_>) -> String {
    let mut out = String::with_capacity(text.len() + 64);
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        out.push_str(before);
        let place =
            after.split_once('}').and_then(|(name, tail)| Some((values.named(name)?, tail)));
        if let Some((value, tail)) = place {
            escape.push(&value, &mut out);
            rest = tail;
        } else {
            out.push('{');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

impl Escape {
    fn push(self, value: &str, out: &mut String) {
        match self {
            Self::None => out.push_str(value),
            Self::Json => {
                let quoted = Value::from(value).to_string();
                let inner = quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
                out.push_str(inner.unwrap_or_default());
            }
            Self::Html => {
                for c in value.chars() {
                    match c {
                        '&' => out.push_str("&amp;"),
                        '<' => out.push_str("&lt;"),
                        '>' => out.push_str("&gt;"),
                        '"' => out.push_str("&quot;"),
                        '\'' => out.push_str("&#39;"),
                        '`' => out.push_str("&#96;"),
                        other => out.push(other),
                    }
                }
            }
        }
    }
}

/// Whether `text` has a place in it; where it has one of a name that there is not, that name.
///
/// # Errors
/// The name.
pub fn places(text: &str) -> Result<bool, &str> {
    let mut found = false;
    let mut rest = text;
    while let Some((_, after)) = rest.split_once('{') {
        rest = after;
        let Some((name, _)) = after.split_once('}') else { break };
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') {
            // Braces of JSON, CSS or a script.
            continue;
        }
        if PROBE.named(name).is_none() {
            return Err(name);
        }
        found = true;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const HOSTILE: Values<'static> = Values {
        code: "token_expired",
        status: 401,
        detail: "the token's end",
        request_id: r#"a"\<script>{code}&'`"#,
    };

    #[test]
    fn a_value_is_nothing_but_text_where_it_stands() {
        let json = Content::Json(json!({
            "error": {"code": "{code}", "text": "{code}: {detail}", "id": "{request_id}"},
            "status": "{status}", "of": ["{status}.", 1, true, null, "{other}"],
        }));
        let filled: Value = serde_json::from_str(&json.fill(HOSTILE)).unwrap();
        assert_eq!(
            filled,
            json!({
                "error": {
                    "code": "token_expired", "text": "token_expired: the token's end",
                    "id": HOSTILE.request_id,
                },
                "status": 401, "of": ["401.", 1, true, null, "{other}"],
            })
        );
        let text = Content::Text(r#"{"id": "{request_id}", "x": {}}"#.to_owned(), Escape::Json);
        let filled: Value = serde_json::from_str(&text.fill(HOSTILE)).unwrap();
        assert_eq!(filled, json!({"id": HOSTILE.request_id, "x": {}}));
        let html = Content::Text("<b title='{request_id}'>{detail}</b> {".to_owned(), Escape::Html);
        assert_eq!(
            html.fill(HOSTILE),
            "<b title='a&quot;\\&lt;script&gt;{code}&amp;&#39;&#96;'>the token&#39;s end</b> {"
        );
        let plain = Content::Text("{status} {code}\n".to_owned(), Escape::None);
        assert_eq!(plain.fill(HOSTILE), "401 token_expired\n");
    }

    #[test]
    fn a_place_must_be_one_that_there_is() {
        for (text, found) in [
            ("", Ok(false)),
            ("{}{ }{\"a\": 1} a{color: red} {", Ok(false)),
            ("{\"a\": \"{code}\"}", Ok(true)),
            ("{code} {reqest_id}", Err("reqest_id")),
        ] {
            assert_eq!(places(text), found, "{text}");
        }
    }

    #[test]
    fn the_most_exact_answer_holds() {
        let custom = |status| Custom { status: Some(status), body: None };
        let selector = |text| Selector::parse(text).unwrap();
        let customs = Customs::new(vec![
            (selector("4xx"), custom(400)),
            (selector("403"), custom(404)),
            (selector("role_required"), custom(410)),
        ]);
        for (code, status) in [
            (Code::RoleRequired, Some(410)),
            (Code::UserUnknown, Some(404)),
            (Code::TokenExpired, Some(400)),
            (Code::KeysUnavailable, None),
        ] {
            assert_eq!(customs.of(code).and_then(|custom| custom.status), status, "{code:?}");
        }
        for text in ["2xx", "3xx", "xx", "200", "404", "+403", "token", "", "4XX"] {
            assert_eq!(Selector::parse(text), None, "{text}");
        }
    }
}
