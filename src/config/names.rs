//! The words of a config, each a type that cannot hold a wrong one.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde_json::Value;

/// Why a word of the config is not what it should be. Printed behind the field's path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadName(pub String);

impl fmt::Display for BadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn refuse<T>(why: impl Into<String>) -> Result<T, BadName> {
    Err(BadName(why.into()))
}

/// Whether `byte` may stand in a field name (`tchar` of RFC 9110 section 5.6.2).
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// The name of an HTTP header field, in lower case as Envoy holds it (RFC 9110 section 5.1).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HeaderName(String);

impl HeaderName {
    /// The name's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<HeaderName> for String {
    fn from(name: HeaderName) -> Self {
        name.0
    }
}

impl FromStr for HeaderName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        if text.starts_with(':') {
            return refuse(format!("`{text}` is a pseudo-header, name an ordinary header"));
        }
        if text.is_empty() || !text.bytes().all(is_token_byte) {
            return refuse(format!("`{text}` is not a header name (RFC 9110 section 5.1)"));
        }
        Ok(Self(text.to_ascii_lowercase()))
    }
}

/// Whether `value` may be the value of a header that meshgate sets: visible ASCII and, between it,
/// spaces and tabs (`field-value` of RFC 9110 section 5.5, without its obsolete bytes); not empty.
#[must_use]
pub fn is_header_value(value: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_graphic() || byte == b' ' || byte == b'\t';
    !value.is_empty()
        && value.bytes().all(inner)
        && value.trim_matches([' ', '\t']).len() == value.len()
}

/// The name of an Envoy cluster, such as `users` or `outbound|80||users.default.svc.cluster.local`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClusterName(String);

impl ClusterName {
    /// The name's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ClusterName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        if text.is_empty() || text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return refuse(format!("`{text}` is not the name of an Envoy cluster"));
        }
        Ok(Self(text.to_owned()))
    }
}

/// The value of `:authority` in a callout: a host and, where needed, a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority(String);

impl Authority {
    /// The authority's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Authority {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._~:[]%!$&'()*+,;=".contains(&b);
        if text.is_empty() || !text.bytes().all(allowed) {
            return refuse(format!(
                "`{text}` is not an authority, write a host such as `users.internal` or `users.internal:8080`"
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

/// An absolute `http` or `https` URI, taken apart as a callout needs it.
///
/// The scheme does not choose TLS: in Envoy the cluster does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpUri {
    /// `:scheme`.
    pub scheme: &'static str,
    /// `:authority`.
    pub authority: Authority,
    /// `:path`, with its query.
    pub path: String,
}

impl fmt::Display for HttpUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme, self.authority.as_str(), self.path)
    }
}

impl FromStr for HttpUri {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let (scheme, rest) = match text.split_once("://") {
            Some(("http", rest)) => ("http", rest),
            Some(("https", rest)) => ("https", rest),
            Some(_) | None => {
                return refuse(format!("`{text}` is not an absolute http or https URI"));
            }
        };
        let (authority, path) = match rest.split_once('/') {
            Some((authority, path)) => (authority, format!("/{path}")),
            None => (rest, "/".to_owned()),
        };
        if authority.contains('@') {
            return refuse(format!(
                "a URI with user information is refused, remove what stands before `@{}`",
                authority.rsplit('@').next().unwrap_or_default()
            ));
        }
        if !path.bytes().all(|b| b.is_ascii_graphic() && b != b'#') {
            return refuse(format!("the path of `{text}` has bytes that must be percent-encoded"));
        }
        Ok(Self { scheme, authority: authority.parse()?, path })
    }
}

/// A JSON Pointer (RFC 6901): `/a/b/0`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonPointer {
    text: String,
    segments: Vec<String>,
}

impl JsonPointer {
    /// The pointer's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The name of the member that it points to, where it points to one of the document itself.
    #[must_use]
    pub fn as_member(&self) -> Option<&str> {
        match self.segments.as_slice() {
            [member] => Some(member),
            _ => None,
        }
    }

    /// The value it points to within `members` of an object.
    #[must_use]
    pub fn find<'a>(&self, members: &'a serde_json::Map<String, Value>) -> Option<&'a Value> {
        let (first, rest) = self.segments.split_first()?;
        rest.iter().try_fold(members.get(first)?, step)
    }

    /// What holds the value that it points to within `document`, and that value if there is one.
    #[must_use]
    pub fn find_in<'a>(&self, document: &'a Value) -> Option<(&'a Value, Option<&'a Value>)> {
        let (last, way) = self.segments.split_last()?;
        let holder = way.iter().try_fold(document, step)?;
        Some((holder, step(holder, last)))
    }
}

/// One step into a value (RFC 6901 section 4: an index has no leading zeros).
fn step<'a>(value: &'a Value, segment: &String) -> Option<&'a Value> {
    match value {
        Value::Object(map) => map.get(segment),
        Value::Array(items) if segment == "0" || !segment.starts_with('0') => {
            items.get(segment.parse::<usize>().ok()?)
        }
        Value::Array(_) | Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            None
        }
    }
}

impl FromStr for JsonPointer {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let Some(tail) = text.strip_prefix('/') else {
            return refuse(format!("`{text}` is not a JSON Pointer, write `/{text}` (RFC 6901)"));
        };
        let mut segments = Vec::new();
        for raw in tail.split('/') {
            let unescaped = raw.replace("~1", "/").replace("~0", "~");
            if raw.split('~').skip(1).any(|behind| !behind.starts_with(['0', '1'])) {
                return refuse(format!(
                    "`{text}` has a `~` that is neither `~0` nor `~1` (RFC 6901)"
                ));
            }
            segments.push(unescaped);
        }
        Ok(Self { text: text.to_owned(), segments })
    }
}

/// A path with places for values: `/orgs/{claim:/org_id}/users/{key}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathTemplate(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Key,
    Claim(JsonPointer),
}

impl PathTemplate {
    /// Whether the user's key has a place in it.
    #[must_use]
    pub fn has_key(&self) -> bool {
        self.0.contains(&Part::Key)
    }

    /// The claims that have a place in it, in order.
    pub fn claims(&self) -> impl Iterator<Item = &JsonPointer> {
        self.0.iter().filter_map(|part| match part {
            Part::Claim(pointer) => Some(pointer),
            Part::Text(_) | Part::Key => None,
        })
    }

    /// The path with `key` and the values of its claims in their places, percent-encoded so that each
    /// stays one segment or one query value whatever it holds: all but the unreserved characters of
    /// RFC 3986 section 2.3.
    #[must_use]
    pub fn fill(&self, key: &str, claims: &[String]) -> String {
        let mut path = String::new();
        let mut claims = claims.iter();
        for part in &self.0 {
            match part {
                Part::Text(text) => path.push_str(text),
                Part::Key => push_value(key, &mut path),
                Part::Claim(_) => {
                    push_value(claims.next().map_or("", String::as_str), &mut path);
                }
            }
        }
        path
    }
}

/// A key in Redis with places for claims: `revoked:user:{sub}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyTemplate(Vec<KeyPart>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum KeyPart {
    Text(String),
    Claim(String),
}

impl KeyTemplate {
    /// The key with the values of its claims in their places; `None` where one of them has none.
    pub fn fill<'a>(&self, claim: impl Fn(&str) -> Option<&'a str>) -> Option<String> {
        self.0.iter().try_fold(String::new(), |key, part| match part {
            KeyPart::Text(text) => Some(key + text),
            KeyPart::Claim(name) => Some(key + claim(name).filter(|value| !value.is_empty())?),
        })
    }
}

impl FromStr for KeyTemplate {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let Some((name, after)) = after.split_once('}').filter(|(name, _)| !name.is_empty())
            else {
                return refuse(format!("`{text}` has a `{{` without a claim's name and a `}}`"));
            };
            parts.push(KeyPart::Text(before.to_owned()));
            parts.push(KeyPart::Claim(name.to_owned()));
            rest = after;
        }
        if parts.is_empty() || rest.contains('}') {
            return refuse(format!(
                "`{text}` names no claim, write a key such as `revoked:{{jti}}` or `revoked:user:{{sub}}`"
            ));
        }
        parts.push(KeyPart::Text(rest.to_owned()));
        Ok(Self(parts))
    }
}

/// Appends a value. One that is `.` or `..` cannot be said with escapes, since readers decode them
/// first (RFC 3986 section 6.2.2.2): its dots are encoded twice, so it names nobody and climbs nowhere.
fn push_value(value: &str, path: &mut String) {
    if matches!(value, "." | "..") {
        path.push_str(&value.replace('.', "%252E"));
    } else {
        percent_encode(value, path);
    }
}

impl FromStr for PathTemplate {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        if !text.starts_with('/') {
            return refuse(format!("`{text}` must start with `/`"));
        }
        if !text.bytes().all(|b| b.is_ascii_graphic() && b != b'#') {
            return refuse(format!("`{text}` has bytes that must be percent-encoded"));
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let Some((place, after)) = after.split_once('}') else {
                return refuse(format!("`{text}` has a `{{` without its `}}`"));
            };
            parts.push(Part::Text(before.to_owned()));
            parts.push(match place.strip_prefix("claim:") {
                _ if place == "key" => Part::Key,
                Some(pointer) => Part::Claim(pointer.parse()?),
                None => {
                    return refuse(format!(
                        "`{{{place}}}` is not a place, there are `{{key}}` and `{{claim:/name}}`"
                    ));
                }
            });
            rest = after;
        }
        if rest.contains('}') {
            return refuse(format!("`{text}` has a `}}` without its `{{`"));
        }
        parts.push(Part::Text(rest.to_owned()));
        Ok(Self(parts))
    }
}

/// Appends `text` with all but the unreserved characters of RFC 3986 section 2.3 percent-encoded.
pub fn percent_encode(text: &str, out: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            for digit in [byte >> 4, byte & 0xf] {
                let digit = char::from_digit(u32::from(digit), 16).unwrap_or('0');
                out.push(digit.to_ascii_uppercase());
            }
        }
    }
}

/// `text` as one segment of a path in which a dot means something, too.
#[must_use]
pub fn segment_encoded(text: &str) -> String {
    let mut out = String::new();
    percent_encode(text, &mut out);
    out.replace('.', "%2E")
}

/// `text` as a value of an `application/x-www-form-urlencoded` body. A space may stand there as
/// `%20` as well as `+`.
#[must_use]
pub fn form_encoded(text: &str) -> String {
    let mut out = String::new();
    percent_encode(text, &mut out);
    out
}

/// Reads a duration: a decimal number and one unit, `ms`, `s`, `m`, `h` or `d` (`250ms`, `1.5s`, `24h`).
///
/// # Errors
/// Where the text is not of that form, or is over 10,000 days.
pub fn duration(text: &str) -> Result<Duration, BadName> {
    const LONGEST: f64 = 10_000.0 * 86_400.0;
    let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let scale = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        "d" => 86_400.0,
        _ => {
            return refuse(format!(
                "`{text}` is not a duration, write a number and a unit such as `250ms`, `30s`, `10m` or `24h`"
            ));
        }
    };
    match number.parse::<f64>() {
        Ok(count) if count * scale <= LONGEST => Ok(Duration::from_secs_f64(count * scale)),
        Ok(_) => refuse(format!("`{text}` is longer than 10000d")),
        Err(_) => refuse(format!("`{text}` is not a duration, `{number}` is not a number")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn durations_have_a_unit_and_a_limit() {
        for (text, millis) in [
            ("300s", 300_000),
            ("10m", 600_000),
            ("250ms", 250),
            ("1.5s", 1_500),
            ("24h", 86_400_000),
            ("2d", 172_800_000),
            ("0s", 0),
        ] {
            assert_eq!(duration(text).unwrap(), Duration::from_millis(millis), "{text}");
        }
        for text in ["", "5", "s", "-1s", "1 s", "1m30s", "1.2.3s", "99999999999d", "1e3s", "1µs"]
        {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_key_stays_one_segment_whatever_it_holds() {
        let template: PathTemplate = "/u/{key}?full=1".parse().unwrap();
        for (key, path) in [
            ("user_2abc", "/u/user_2abc?full=1"),
            ("a/b?c#d e", "/u/a%2Fb%3Fc%23d%20e?full=1"),
            ("..", "/u/%252E%252E?full=1"),
            ("%2e", "/u/%252e?full=1"),
            ("é\r\n", "/u/%C3%A9%0D%0A?full=1"),
        ] {
            assert_eq!(template.fill(key, &[]), path);
        }
        let template: PathTemplate = "/o/{claim:/org/id}/u/{key}".parse().unwrap();
        assert_eq!(template.fill("k", &["a/b".to_owned()]), "/o/a%2Fb/u/k");
        for text in ["u/{key}", "/u/{id}", "/u/{key", "/u/key}", "/u /{key}", "/{claim:org}"] {
            assert!(text.parse::<PathTemplate>().is_err(), "{text}");
        }
    }

    #[test]
    fn pointers_follow_rfc_6901() {
        let document = json!({"a": {"b/c": [10, {"~": true}]}, "": 1});
        let map = document.as_object().unwrap();
        for (text, found) in [
            ("/a/b~1c/0", Some(json!(10))),
            ("/a/b~1c/1/~0", Some(json!(true))),
            ("/", Some(json!(1))),
            ("/a/b~1c/00", None),
            ("/a/b~1c/2", None),
            ("/a/x", None),
            ("/a/b~1c/0/x", None),
        ] {
            let pointer: JsonPointer = text.parse().unwrap();
            assert_eq!(pointer.find(map), found.as_ref(), "{text}");
        }
        for text in ["", "id", "/a~2", "/a~", "/~~01"] {
            assert!(text.parse::<JsonPointer>().is_err(), "{text}");
        }
    }

    #[test]
    fn header_names_are_tokens_in_lower_case() {
        assert_eq!("X-User-Id".parse::<HeaderName>().unwrap().as_str(), "x-user-id");
        for text in ["", ":path", "x user", "x:y", "é"] {
            assert!(text.parse::<HeaderName>().is_err(), "{text}");
        }
    }

    #[test]
    fn header_values_are_visible_ascii() {
        for value in ["a", "a b", "a\tb", "\"~\""] {
            assert!(is_header_value(value), "{value:?}");
        }
        for value in ["", " a", "a ", "a\r\nx: y", "a\0", "é", "\u{7f}"] {
            assert!(!is_header_value(value), "{value:?}");
        }
    }

    #[test]
    fn uris_are_absolute_and_without_user_information() {
        let uri: HttpUri = "https://idp.example:8443/keys?v=1".parse().unwrap();
        assert_eq!(uri.scheme, "https");
        assert_eq!(uri.authority.as_str(), "idp.example:8443");
        assert_eq!(uri.path, "/keys?v=1");
        assert_eq!("http://idp".parse::<HttpUri>().unwrap().path, "/");
        for text in ["idp/keys", "ftp://idp/", "http://", "http://a b/", "http://idp/a b"] {
            assert!(text.parse::<HttpUri>().is_err(), "{text}");
        }
        let error = "http://me:secret@idp/".parse::<HttpUri>().unwrap_err().0;
        assert!(!error.contains("secret"), "{error}");
    }
}
