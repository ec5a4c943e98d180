//! What a request must show.

use super::super::raw;
use super::super::read::At;
use super::ModeWord;
use super::providers::check_claims;
use crate::rules::{HostPattern, Match, Needs, PathMatch, Requirement, Rule, Rules, Segment};

/// Checks the rules.
pub(super) fn check_rules(
    raw: Option<Vec<raw::Rule>>,
    mode: Option<ModeWord>,
    at: &At<'_>,
) -> Option<Rules> {
    at.each(raw.unwrap_or_default(), |raw, at| check_rule(raw, mode, at)).map(Rules::new)
}

fn check_rule(raw: raw::Rule, mode: Option<ModeWord>, at: &At<'_>) -> Option<Rule> {
    let raw::Rule { matches, require, roles, permissions, scopes, claims, max_age, forward_token } =
        raw;

    let at_match = at.field("match");
    let matched = match matches {
        Some(raw) => check_match(raw, &at_match),
        None => {
            at_match.problem("is required, write `match: {path_prefix: /}` to match everything")
        }
    };
    let list = |name: &str, texts: Option<Vec<String>>| match texts {
        Some(texts) => at.field(name).texts(texts),
        None => Some(Vec::new()),
    };
    let (roles, permissions) = (list("roles", roles), list("permissions", permissions));
    let scopes =
        list("scopes", scopes).and_then(|scopes| check_scopes(scopes, &at.field("scopes")));
    let claims = check_claims(claims.unwrap_or_default(), &at.field("claims"));
    let max_age = match max_age {
        Some(text) => at.field("max_age").duration(Some(&text), "0s", "1s", "365d").map(Some),
        None => Some(None),
    };
    let inside = matches!(mode, Some(ModeWord::Service));
    let at_require = at.field("require");
    let require = at_require.required(require)?;
    let needs = Needs {
        roles: roles?,
        permissions: permissions?,
        scopes: scopes?,
        claims: claims?,
        max_age: max_age?,
    };
    let requirement = match require.as_str() {
        "user" => Some(Requirement::User(needs)),
        "anonymous" | "optional" | "service" if needs != Needs::default() => at_require
            .problem("roles, permissions, scopes, claims and max_age need `require: user`"),
        "anonymous" => Some(Requirement::Anonymous),
        "optional" => Some(Requirement::Optional),
        "service" if inside => Some(Requirement::Service),
        "service" => {
            let mode = mode.map_or("gateway", ModeWord::name);
            at_require.problem(format!("`service` has no use with `mode: {mode}`"))
        }
        other if inside => at_require.problem(format!(
            "`{other}` is not a requirement, write `anonymous`, `optional`, `user` or `service`"
        )),
        other => at_require.problem(format!(
            "`{other}` is not a requirement, write `anonymous`, `optional` or `user`"
        )),
    };
    Some(Rule { matches: matched?, requirement: requirement?, forward_token })
}

/// RFC 6749 section 3.3: a scope is visible ASCII without quotes and backslashes. So it can stand in a
/// challenge as it is.
fn check_scopes(scopes: Vec<String>, at: &At<'_>) -> Option<Vec<String>> {
    at.each(scopes, |scope, at| {
        if scope.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\')) {
            Some(scope)
        } else {
            at.problem(format!("`{scope}` is not a scope, which has neither spaces nor quotes"))
        }
    })
}

fn check_match(raw: raw::Match, at: &At<'_>) -> Option<Match> {
    let raw::Match { path, path_prefix, path_template, methods, hosts } = raw;

    let path = match (path, path_prefix, path_template) {
        (Some(path), None, None) => plain_path(path, &at.field("path")).map(PathMatch::Exact),
        (None, Some(prefix), None) => {
            plain_path(prefix, &at.field("path_prefix")).map(|prefix| PathMatch::prefix(&prefix))
        }
        (None, None, Some(template)) => check_template(template, &at.field("path_template")),
        (None, None, None) => at.problem("says no path, add `path_prefix: /` to match every one"),
        _ => at.problem("has more than one of `path`, `path_prefix` and `path_template`, keep one"),
    };
    let methods = match methods {
        Some(methods) => at.field("methods").texts(methods),
        None => Some(Vec::new()),
    };
    let hosts: Option<Vec<HostPattern>> = match hosts {
        Some(hosts) => at.field("hosts").parsed_list(&hosts),
        None => Some(Vec::new()),
    };
    if let Some(lower) =
        methods.iter().flatten().find(|m| m.bytes().any(|b| b.is_ascii_lowercase()))
    {
        // RFC 9110 section 9.1: methods are case-sensitive.
        return at
            .field("methods")
            .problem(format!("`{lower}` never matches, write `{}`", lower.to_ascii_uppercase()));
    }
    Some(Match { path: path?, methods: methods?, hosts: hosts? })
}

/// `/videos/{id}/comments`, `/files/**`.
fn check_template(text: String, at: &At<'_>) -> Option<PathMatch> {
    let text = plain_path(text, at)?;
    let mut segments = Vec::new();
    let mut parts = text.split('/').skip(1).peekable();
    while let Some(part) = parts.next() {
        let name = part.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
        let is_name = |name: &str| {
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        };
        segments.push(match name {
            _ if part == "**" && parts.peek().is_none() => Segment::Rest,
            Some(name) if is_name(name) => Segment::Any,
            None if !part.contains(['{', '}', '*']) => Segment::Text(part.to_owned()),
            Some(_) | None => {
                return at.problem(format!(
                    "`{part}` cannot be part of a template, write a text, `{{name}}` for any segment, or `**` as the last one for all that follows"
                ));
            }
        });
    }
    Some(PathMatch::Template(segments))
}

/// A path that can be read in one way only.
pub(super) fn plain_path(text: String, at: &At<'_>) -> Option<String> {
    if !text.starts_with('/') {
        at.problem(format!("`{text}` must start with `/`"))
    } else if text.contains(['?', '#', '%', ';', '\\'])
        || text.contains("//")
        || text.split('/').any(|s| matches!(s, "." | ".."))
    {
        at.problem(format!(
            "`{text}` must be a plain path: no query, no escapes, no `//`, `.` or `..`"
        ))
    } else {
        Some(text)
    }
}
