//! Where in a request its token stands, and how it is taken out.

use std::borrow::Cow;

use super::TokenError;
use crate::config::{FromHeader, Places, Provider};
use crate::headers::{Edit, Field, Stripped};

/// Looks into every place in which any provider's tokens stand.
///
/// # Errors
/// [`TokenError::Ambiguous`] where two places hold different tokens: the upstream could read the
/// one that was not verified.
pub fn find<'a>(
    head: &'a Stripped,
    providers: &'a [Provider],
) -> Result<Option<Cow<'a, [u8]>>, TokenError> {
    let mut found: Option<Cow<'a, [u8]>> = None;
    for token in providers.iter().flat_map(|provider| tokens(head, &provider.places)) {
        match &found {
            Some(other) if *other != token => return Err(TokenError::Ambiguous),
            Some(_) => {}
            None => found = Some(token),
        }
    }
    Ok(found)
}

/// Whether `token` stands in one of these places: a provider's token counts only in its own.
#[must_use]
pub fn stands_in(head: &Stripped, places: &Places, token: &[u8]) -> bool {
    tokens(head, places).any(|found| found == token)
}

fn tokens<'a>(head: &'a Stripped, places: &'a Places) -> impl Iterator<Item = Cow<'a, [u8]>> + 'a {
    let headers =
        head.fields().filter_map(|field| in_header(field, &places.headers).map(Cow::Borrowed));
    let cookies = (!places.cookies.is_empty())
        .then(|| cookie_pairs(head))
        .into_iter()
        .flatten()
        .filter(|pair| is_named(pair, &places.cookies))
        .map(|pair| Cow::Borrowed(value_of(pair)));
    let params = (!places.params.is_empty())
        .then(|| query_pairs(head))
        .into_iter()
        .flatten()
        .filter(|pair| is_named(&decoded(name_of(pair)), &places.params))
        .map(|pair| decoded(value_of(pair)));
    headers.chain(cookies).chain(params)
}

/// The edits that take every token off the request, good or bad, wherever it stands.
#[must_use]
pub fn removals(head: &Stripped, providers: &[Provider]) -> Vec<Edit> {
    let mut edits = Vec::new();
    for field in head.fields() {
        let in_headers = |provider: &Provider| in_header(field, &provider.places.headers).is_some();
        if providers.iter().any(in_headers) {
            edits.push(Edit::Remove(field.name.clone()));
        }
    }
    let named_cookie =
        |pair: &&[u8]| providers.iter().any(|provider| is_named(pair, &provider.places.cookies));
    if cookie_pairs(head).any(|pair| named_cookie(&pair)) {
        let rest: Vec<&[u8]> = cookie_pairs(head).filter(|pair| !named_cookie(pair)).collect();
        edits.push(if rest.is_empty() {
            Edit::Remove("cookie".to_owned())
        } else {
            Edit::Set("cookie".to_owned(), rest.join(&b"; "[..]))
        });
    }
    let named_param = |pair: &&[u8]| {
        let name = decoded(name_of(pair));
        providers.iter().any(|provider| is_named(&name, &provider.places.params))
    };
    if query_pairs(head).any(|pair| named_param(&pair)) {
        let rest: Vec<&[u8]> = query_pairs(head).filter(|pair| !named_param(pair)).collect();
        let mut target = path_and_query(head).0.to_vec();
        if !rest.is_empty() {
            target.push(b'?');
            target.extend(rest.join(&b'&'));
        }
        edits.push(Edit::Set(":path".to_owned(), target));
    }
    edits
}

fn in_header<'a>(field: &'a Field, places: &[FromHeader]) -> Option<&'a [u8]> {
    places
        .iter()
        .filter(|place| place.name.as_str() == field.name)
        .find_map(|place| after_prefix(&field.value, place))
}

/// What follows the prefix. The scheme's case is of no matter, and neither is how many spaces stand
/// behind it (RFC 9110 sections 11.1 and 11.4).
fn after_prefix<'a>(value: &'a [u8], place: &FromHeader) -> Option<&'a [u8]> {
    let prefix = place.value_prefix.as_bytes();
    let (start, token) = value.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then(|| token.trim_ascii())
}

/// The `name=value` pairs of all cookies (RFC 6265 section 4.2.1).
fn cookie_pairs(head: &Stripped) -> impl Iterator<Item = &[u8]> {
    head.fields()
        .filter(|field| field.name == "cookie")
        .flat_map(|field| field.value.split(|byte| *byte == b';'))
        .map(<[u8]>::trim_ascii)
        .filter(|pair| !pair.is_empty())
}

/// The `name=value` pairs of the query.
fn query_pairs(head: &Stripped) -> impl Iterator<Item = &[u8]> {
    path_and_query(head).1.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty())
}

fn path_and_query(head: &Stripped) -> (&[u8], &[u8]) {
    let target = head.value(":path").unwrap_or_default();
    let mut parts = target.splitn(2, |byte| *byte == b'?');
    (parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
}

fn name_of(pair: &[u8]) -> &[u8] {
    pair.split(|byte| *byte == b'=').next().unwrap_or_default().trim_ascii()
}

fn value_of(pair: &[u8]) -> &[u8] {
    let value = pair.splitn(2, |byte| *byte == b'=').nth(1).unwrap_or_default().trim_ascii();
    // RFC 6265 section 4.1.1: a cookie's value may stand in quotes.
    value.strip_prefix(b"\"").and_then(|inner| inner.strip_suffix(b"\"")).unwrap_or(value)
}

fn is_named(pair: &[u8], names: &[String]) -> bool {
    names.iter().any(|name| name.as_bytes() == name_of(pair))
}

/// The text with its percent-escapes resolved.
fn decoded(text: &[u8]) -> Cow<'_, [u8]> {
    if text.contains(&b'%') {
        Cow::Owned(crate::rules::percent_decoded(text))
    } else {
        Cow::Borrowed(text)
    }
}
