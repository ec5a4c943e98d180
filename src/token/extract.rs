//! Where in a request its token stands, and how it is taken out.

use std::borrow::Cow;

use super::TokenError;
use crate::config::{FromHeader, Places, Provider};
use crate::headers::{Edit, Field, Stripped, are_alike};

/// Looks into every place in which tokens of these providers stand. An empty place holds none.
///
/// # Errors
/// [`TokenError::Ambiguous`] where there are different tokens, or other credentials beside one in the
/// same header: the upstream could read what was not verified.
pub fn find<'a>(
    head: &'a Stripped,
    providers: impl Iterator<Item = &'a Provider>,
) -> Result<Option<Cow<'a, [u8]>>, TokenError> {
    let mut found: Option<Cow<'a, [u8]>> = None;
    for token in providers.flat_map(|provider| tokens(head, &provider.places)) {
        let token = token?;
        match &found {
            _ if token.is_empty() => {}
            Some(other) if !are_same(other, &token) => return Err(TokenError::Ambiguous),
            Some(_) => {}
            None => found = Some(token),
        }
    }
    Ok(found)
}

/// Whether `token` stands in one of these places: a provider's token counts only in its own.
#[must_use]
pub fn stands_in(head: &Stripped, places: &Places, token: &[u8]) -> bool {
    tokens(head, places).any(|found| found.is_ok_and(|found| are_same(&found, token)))
}

/// Whether two texts are the same, by eight bytes at a time: in a wasm module `==` looks at each by itself, and a
/// token is long.
#[must_use]
pub fn are_same(one: &[u8], other: &[u8]) -> bool {
    let ((words, rest), (others, other_rest)) = (one.as_chunks::<8>(), other.as_chunks::<8>());
    let mut pairs = words.iter().zip(others);
    one.len() == other.len()
        && pairs.all(|(one, other)| u64::from_ne_bytes(*one) == u64::from_ne_bytes(*other))
        && rest == other_rest
}

fn tokens<'a>(
    head: &'a Stripped,
    places: &'a Places,
) -> impl Iterator<Item = Result<Cow<'a, [u8]>, TokenError>> + 'a {
    let headers = head
        .fields()
        .filter_map(|field| in_header(field, &places.headers))
        .map(|token| token.map(Cow::Borrowed));
    let cookies = (!places.cookies.is_empty())
        .then(|| cookie_pairs(head))
        .into_iter()
        .flatten()
        .filter(|pair| is_named(pair, &places.cookies))
        .map(|pair| Ok(Cow::Borrowed(value_of(pair))));
    let params = (!places.params.is_empty())
        .then(|| query_pairs(head))
        .into_iter()
        .flatten()
        .filter(|pair| is_named(&decoded(name_of(pair)), &places.params))
        .map(|pair| Ok(decoded(value_of(pair))));
    headers.chain(cookies).chain(params)
}

/// How tokens are taken off a request, good or bad, wherever they stand.
#[derive(Debug, Default)]
pub struct Removals {
    /// Those that were looked at, and stay where the token is forwarded.
    pub read: Vec<Edit>,
    /// Those in headers whose names are only like the configured ones. Nobody here reads them; what
    /// does not tell `-` from `_` would.
    pub alike: Vec<Edit>,
}

impl Removals {
    /// What takes every token off `head` that stands in one of these places.
    #[must_use]
    pub fn of<'a>(head: &Stripped, all: &(impl Iterator<Item = &'a Places> + Clone)) -> Self {
        let mut removals = Self::default();
        for field in head.fields() {
            let places = || all.clone().flat_map(|places| &places.headers);
            if places().any(|place| place.name.as_str() == field.name && holds_token(field, place))
            {
                removals.read.push(Edit::Remove(field.name.clone()));
            } else if places().any(|place| {
                are_alike(place.name.as_str(), &field.name) && holds_token(field, place)
            }) {
                removals.alike.push(Edit::Remove(field.name.clone()));
            }
        }
        removals.read.extend(cookie_removal(head, all));
        removals.read.extend(param_removal(head, all));
        removals
    }
}

fn cookie_removal<'a>(
    head: &Stripped,
    all: &(impl Iterator<Item = &'a Places> + Clone),
) -> Option<Edit> {
    if all.clone().all(|places| places.cookies.is_empty()) {
        return None;
    }
    let named = |pair: &&[u8]| all.clone().any(|places| is_named(pair, &places.cookies));
    if !cookie_pairs(head).any(|pair| named(&pair)) {
        return None;
    }
    let rest: Vec<&[u8]> = cookie_pairs(head).filter(|pair| !named(pair)).collect();
    Some(if rest.is_empty() {
        Edit::Remove("cookie".to_owned())
    } else {
        Edit::Set("cookie".to_owned(), rest.join(&b"; "[..]))
    })
}

fn param_removal<'a>(
    head: &Stripped,
    all: &(impl Iterator<Item = &'a Places> + Clone),
) -> Option<Edit> {
    if all.clone().all(|places| places.params.is_empty()) {
        return None;
    }
    let named = |pair: &&[u8]| {
        let name = decoded(name_of(pair));
        all.clone().any(|places| is_named(&name, &places.params))
    };
    if !query_pairs(head).any(|pair| named(&pair)) {
        return None;
    }
    let rest: Vec<&[u8]> = query_pairs(head).filter(|pair| !named(pair)).collect();
    let mut target = path_and_query(head).0.to_vec();
    if !rest.is_empty() {
        target.push(b'?');
        target.extend(rest.join(&b'&'));
    }
    Some(Edit::Set(":path".to_owned(), target))
}

fn holds_token(field: &Field, place: &FromHeader) -> bool {
    token_in(field, place).is_some()
}

/// The token of a header that is one of these places.
fn in_header<'a>(field: &'a Field, places: &[FromHeader]) -> Option<Result<&'a [u8], TokenError>> {
    let named = places.iter().filter(|place| place.name.as_str() == field.name);
    named.into_iter().find_map(|place| token_in(field, place))
}

/// The token that stands in a header as it does in `place`. Envoy joins headers of one name by commas, so a
/// value may hold several credentials; a token beside anything else is ambiguous.
fn token_in<'a>(field: &'a Field, place: &FromHeader) -> Option<Result<&'a [u8], TokenError>> {
    let mut found = None;
    let mut is_alone = true;
    for part in credentials(&field.value, place) {
        let token = after_prefix(part, place);
        is_alone &= token.is_some() && (found.is_none() || token == found);
        found = found.or(token);
    }
    found.map(|token| if is_alone { Ok(token) } else { Err(TokenError::Ambiguous) })
}

/// The credentials of a header's value: its parts between commas, where a prefix tells them apart.
fn credentials<'a>(value: &'a [u8], place: &FromHeader) -> impl Iterator<Item = &'a [u8]> {
    let single = place.value_prefix.is_empty();
    let mut rest = Some(value);
    std::iter::from_fn(move || {
        let value = rest.take()?;
        // A token is long, and `split` looks at each byte by itself.
        let comma = if single { None } else { memchr::memchr(b',', value) };
        let (part, behind) = value.split_at_checked(comma.unwrap_or(value.len()))?;
        rest = behind.split_first().map(|(_, behind)| behind);
        Some(part.trim_ascii())
    })
}

/// What follows the prefix. The scheme's case is of no matter, and neither is how much white space
/// stands behind it, as long as there is some (RFC 9110 sections 11.1 and 11.4; tabs are taken for
/// spaces, since many readers do so).
fn after_prefix<'a>(value: &'a [u8], place: &FromHeader) -> Option<&'a [u8]> {
    let prefix = place.value_prefix.as_bytes();
    let scheme = prefix.trim_ascii_end();
    let (start, rest) = value.split_at_checked(scheme.len())?;
    let apart = scheme.len() == prefix.len() || rest.first().is_none_or(u8::is_ascii_whitespace);
    (apart && start.eq_ignore_ascii_case(scheme)).then(|| rest.trim_ascii())
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
