//! How refusals are answered: `answers`, `cors` and `login`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::super::names::{Authority, HeaderName, is_header_value};
use super::super::read::At;
use super::super::{Provider, raw};
use crate::answers::body::{
    Body, Content, Custom, Customs, Escape, MAX_BODY_BYTES, PROBE, Selector, places,
};
use crate::answers::cors::{Cors, Permission, Preflight};
use crate::answers::login::{Login, LoginUri};
use crate::answers::origin::Origins;
use crate::answers::{Answers, Words};
use crate::denial::Code;

/// Longest realm and `type_prefix`, in bytes: they go into each answer.
const MAX_WORD_BYTES: usize = 256;

/// Checks all that is said of answers.
pub(super) fn check_answers(
    answers: Option<raw::Answers>,
    cors: Option<raw::Cors>,
    login: Option<raw::Login>,
    providers: Option<&[Provider]>,
    at: &At<'_>,
) -> Option<Answers> {
    let words = check_words(answers.unwrap_or_default(), &at.field("answers"));
    let cors = match cors {
        Some(cors) => check_cors(cors, &at.field("cors")).map(Some),
        None => Some(None),
    };
    let login = match login {
        Some(login) => check_login(login, providers, &at.field("login")).map(Some),
        None => Some(None),
    };
    Some(Answers { words: words?, cors: cors?, login: login? })
}

fn check_words(raw: raw::Answers, at: &At<'_>) -> Option<Words> {
    let raw::Answers { realm, type_prefix, bodies } = raw;
    let default = Words::default();
    let realm = match realm {
        Some(realm)
            if !is_header_value(&realm)
                || realm.contains(['"', '\\', '\t'])
                || realm.len() > MAX_WORD_BYTES =>
        {
            at.field("realm").problem(format!(
                "must be visible ASCII and inner spaces without `\"` and `\\`, {MAX_WORD_BYTES} bytes at most"
            ))
        }
        Some(realm) => Some(realm),
        None => Some(default.realm),
    };
    let type_prefix = match type_prefix {
        Some(prefix)
            if !prefix.bytes().all(|b| b.is_ascii_graphic())
                || !prefix.contains(':')
                || prefix.len() > MAX_WORD_BYTES =>
        {
            at.field("type_prefix").problem(format!(
                "must be the beginning of a URI such as `https://errors.example.com/`, {MAX_WORD_BYTES} bytes at most"
            ))
        }
        Some(prefix) => Some(prefix),
        None => Some(default.type_prefix),
    };
    let customs = check_bodies(bodies.unwrap_or_default(), &at.field("bodies"));
    Some(Words { realm: realm?, type_prefix: type_prefix?, customs: customs? })
}

fn check_bodies(raw: BTreeMap<String, raw::Body>, at: &At<'_>) -> Option<Customs> {
    let mut customs = Vec::new();
    let mut complete = true;
    for (name, raw) in raw {
        let at = at.field(&name);
        let selector = Selector::parse(&name).or_else(|| {
            at.problem(
                "is no code of a refusal such as `token_expired`, no status of one such as `403`, and neither `4xx` nor `5xx`",
            )
        });
        match (selector, check_body(raw, &at)) {
            (Some(selector), Some(custom)) => customs.push((selector, custom)),
            (None, _) | (_, None) => complete = false,
        }
    }
    complete.then(|| Customs::new(customs))
}

fn check_body(raw: raw::Body, at: &At<'_>) -> Option<Custom> {
    let raw::Body { json, text, content_type, status } = raw;
    let status = match status {
        None => Some(None),
        Some(status @ (400 | 402..=599)) => Some(Some(status)),
        // RFC 9110 section 15.5.2: a 401 has a challenge. The codes that have one are 401 already.
        Some(401) => at.field("status").problem("cannot be made 401, which needs a challenge"),
        Some(_) => at.field("status").problem("must be from 400 to 599: a refusal stays one"),
    };
    let body = match (json, text) {
        (Some(json), None) => check_json(json, content_type, at).map(Some),
        (None, Some(text)) => check_text(text, content_type, at).map(Some),
        (Some(_), Some(_)) => at.problem("has `json` and `text`, keep one of them"),
        (None, None) if content_type.is_some() => {
            at.field("content_type").problem("is of a body, add `json` or `text`")
        }
        (None, None) if matches!(status, Some(None)) => {
            at.problem("changes nothing, add `json`, `text` or `status`")
        }
        (None, None) => Some(None),
    };
    Some(Custom { status: status?, body: body? })
}

fn check_json(json: Value, content_type: Option<String>, at: &At<'_>) -> Option<Body> {
    let at_json = at.field("json");
    check_length(&json.to_string(), &at_json)?;
    check_json_places(&json, &at_json)?;
    let content_type = content_type.unwrap_or_else(|| "application/json".to_owned());
    if escape_for(&content_type) != Some(Escape::Json) {
        return at.field("content_type").problem(
            "must be a type of JSON, such as `application/json` or `application/problem+json`",
        );
    }
    Some(Body { content_type, content: Content::Json(json) })
}

/// Places stand in texts: the names of members are taken as they are.
fn check_json_places(json: &Value, at: &At<'_>) -> Option<()> {
    match json {
        Value::String(text) => check_places(text, at).map(drop),
        Value::Array(items) => {
            at.each(items.iter().collect(), |item, at| check_json_places(item, at)).map(drop)
        }
        Value::Object(members) => {
            let each = members.iter().map(|(name, item)| check_json_places(item, &at.field(name)));
            each.collect::<Vec<_>>().into_iter().collect()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => Some(()),
    }
}

fn check_text(text: String, content_type: Option<String>, at: &At<'_>) -> Option<Body> {
    let at_text = at.field("text");
    check_length(&text, &at_text)?;
    let has_places = check_places(&text, &at_text)?;
    let content_type = content_type.unwrap_or_else(|| "text/plain; charset=utf-8".to_owned());
    let at_type = at.field("content_type");
    if !is_header_value(&content_type) || !content_type.contains('/') {
        return at_type
            .problem("is not a media type, write one such as `text/html; charset=utf-8`");
    }
    let escape = match escape_for(&content_type) {
        Some(escape) => escape,
        None if !has_places => Escape::None,
        None => {
            return at_type.problem(
                "it is not known how a value is escaped in this type: write JSON, `text/html` or `text/plain`, or a text without places",
            );
        }
    };
    let content = Content::Text(text, escape);
    if escape == Escape::Json
        && serde_json::from_slice::<Value>(content.fill(PROBE).as_bytes()).is_err()
    {
        return at_text.problem("is not JSON, as its `content_type` says, write it as `json: ...`");
    }
    Some(Body { content_type, content })
}

fn check_length(text: &str, at: &At<'_>) -> Option<()> {
    if text.len() > MAX_BODY_BYTES {
        return at.problem(format!("is longer than {MAX_BODY_BYTES} bytes"));
    }
    Some(())
}

fn check_places(text: &str, at: &At<'_>) -> Option<bool> {
    match places(text) {
        Ok(found) => Some(found),
        Err(name) => at.problem(format!(
            "`{{{name}}}` is not a place, there are `{{code}}`, `{{status}}`, `{{detail}}` and `{{request_id}}`"
        )),
    }
}

/// How values are written into a body of this type, where that is known.
fn escape_for(content_type: &str) -> Option<Escape> {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence.as_str() {
        "text/plain" => Some(Escape::None),
        "text/html" => Some(Escape::Html),
        json if json.ends_with("/json") || json.ends_with("+json") => {
            is_header_value(content_type).then_some(Escape::Json)
        }
        _ => None,
    }
}

fn check_cors(raw: raw::Cors, at: &At<'_>) -> Option<Cors> {
    let raw::Cors {
        allow_origins,
        allow_credentials,
        allow_methods,
        allow_headers,
        expose_headers,
        max_age,
        preflight,
    } = raw;
    let at_origins = at.field("allow_origins");
    let origins = at_origins
        .required(allow_origins)
        .and_then(|origins| at_origins.parsed_list::<Origins>(&origins));
    let allow_credentials = allow_credentials.unwrap_or(false);
    let anybody = |origins: &&Origins| matches!(origins, Origins::Any | Origins::Null);
    if let Some(anybody) = origins.iter().flatten().find(anybody)
        && allow_credentials
    {
        at_origins.problem::<()>(format!(
            "`{anybody}` with `allow_credentials: true` lets any site act as the user, name the origins"
        ));
    }
    let preflight = match preflight.as_deref() {
        None | Some("answer") => {
            let methods = check_methods(allow_methods, &at.field("allow_methods"));
            let headers = header_list(
                allow_headers,
                &["authorization", "content-type"],
                &at.field("allow_headers"),
            );
            let max_age = at.field("max_age").duration(max_age.as_deref(), "10m", "0s", "1d");
            methods.zip(headers).zip(max_age).map(|((methods, headers), max_age)| {
                Preflight::Answer(Permission { methods, headers, max_age: max_age.as_secs() })
            })
        }
        Some("pass") => {
            for (name, there) in [
                ("allow_methods", allow_methods.is_some()),
                ("allow_headers", allow_headers.is_some()),
                ("max_age", max_age.is_some()),
            ] {
                if there {
                    at.field(name).problem::<()>(
                        "has no use with `preflight: pass`, where the upstream answers, remove it",
                    );
                }
            }
            Some(Preflight::Pass)
        }
        Some(other) => at.field("preflight").problem(format!(
            "`{other}` is nothing that becomes of preflights, write `answer` or `pass`"
        )),
    };
    let exposed = header_list(
        expose_headers,
        &["www-authenticate", "retry-after", "x-request-id"],
        &at.field("expose_headers"),
    );
    Some(Cors {
        allow_origins: origins?,
        allow_credentials,
        expose_headers: exposed?,
        preflight: preflight?,
    })
}

fn check_methods(methods: Option<Vec<String>>, at: &At<'_>) -> Option<String> {
    let Some(methods) = methods else {
        return Some("GET, HEAD, POST, PUT, PATCH, DELETE".to_owned());
    };
    let methods = at.texts(methods)?;
    for method in &methods {
        if !method.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-') {
            // Fetch compares them byte for byte, and takes `*` for one where credentials come along.
            return at.problem(format!(
                "`{method}` is not a method, write its name in upper case, such as `PATCH`"
            ));
        }
    }
    Some(methods.join(", "))
}

/// Names of headers as the one list that a browser reads. None at all is a list, too.
fn header_list(names: Option<Vec<String>>, default: &[&str], at: &At<'_>) -> Option<String> {
    let Some(names) = names else {
        return Some(default.join(", "));
    };
    let names = at.each(names, |name, at| match name.as_str() {
        // In Fetch it does not stand for `authorization`, nor for anything with credentials.
        "*" => at.problem("`*` is not what browsers take for all headers, name them"),
        _ => at.parsed::<HeaderName>(Some(name)),
    })?;
    Some(names.iter().map(HeaderName::as_str).collect::<Vec<_>>().join(", "))
}

fn check_login(raw: raw::Login, providers: Option<&[Provider]>, at: &At<'_>) -> Option<Login> {
    let raw::Login { uri, origins, codes } = raw;
    let at_uri = at.field("uri");
    let uri = at_uri.required_text(uri).and_then(|uri| check_login_uri(&uri, &at_uri));
    let at_origins = at.field("origins");
    let origins = match (origins, &uri) {
        (Some(origins), _) => at_origins.parsed_list::<Origins>(&origins),
        (None, Some(LoginUri::Back(..))) => at_origins.problem(
            "is required with `{original_url}`, name the origins of this site, such as `https://www.example.com`",
        ),
        (None, Some(LoginUri::Plain(_)) | None) => Some(Vec::new()),
    };
    if let Some(anybody) =
        origins.iter().flatten().find(|origins| matches!(origins, Origins::Any | Origins::Null))
    {
        at_origins.problem::<()>(format!(
            "`{anybody}` would let people be sent anywhere once they signed in, name the origins of this site"
        ));
    }
    let codes = match codes {
        Some(codes) => check_login_codes(codes, &at.field("codes")),
        None => Some(Login::CODES.to_vec()),
    };
    let places = providers.into_iter().flatten().map(|provider| provider.places.clone()).collect();
    Some(Login { uri: uri?, origins: origins?, codes: codes?, places })
}

fn check_login_codes(codes: Vec<String>, at: &At<'_>) -> Option<Vec<Code>> {
    let codes = at.texts(codes)?;
    at.each(codes, |name, at| match Code::named(&name) {
        Some(code) if code.status() == 401 => Some(code),
        Some(_) => at.problem(format!(
            "`{name}` is not mended by signing in, write codes of 401 such as `token_expired`"
        )),
        None => at.problem(format!("`{name}` is no code, write one such as `token_expired`")),
    })
}

fn check_login_uri(text: &str, at: &At<'_>) -> Option<LoginUri> {
    const PLACE: &str = "{original_url}";
    let (before, behind) = match text.split_once(PLACE) {
        Some((before, behind)) => (before, Some(behind)),
        None => (text, None),
    };
    let legal = |part: &str| {
        part.bytes().all(|byte| byte.is_ascii_graphic() && !b"{}\"<>\\^`|".contains(&byte))
    };
    if !legal(before) || !behind.is_none_or(legal) {
        return at.problem(
            "has a byte that must be percent-encoded, or a place that is not the one `{original_url}`",
        );
    }
    // `//host` is a host, not a path (RFC 3986 section 4.2).
    let is_path = before.starts_with('/') && !before.starts_with("//");
    if !is_path && !is_absolute(before) {
        return at.problem(
            "is neither an http or https URI nor a path of this site, write `https://accounts.example.com/sign-in?redirect_url={original_url}` or `/sign-in?next={original_url}`",
        );
    }
    match behind {
        None => Some(LoginUri::Plain(before.to_owned())),
        Some(_) if !before.contains(['?', '#']) => at.problem(
            "has `{original_url}` before its `?`, give it a parameter such as `?redirect_url={original_url}`",
        ),
        Some(behind) => Some(LoginUri::Back(before.to_owned(), behind.to_owned())),
    }
}

/// Whether `uri` begins with `http` or `https` and a host.
fn is_absolute(uri: &str) -> bool {
    let rest = uri.strip_prefix("https://").or_else(|| uri.strip_prefix("http://"));
    rest.and_then(|rest| rest.split(['/', '?', '#']).next())
        .is_some_and(|host| !host.contains('@') && host.parse::<Authority>().is_ok())
}
