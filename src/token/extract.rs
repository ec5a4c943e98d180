//! Where in a request its token stands.

use super::TokenError;
use crate::config::{FromHeader, Provider};
use crate::headers::{Field, Stripped};

/// Looks into every place in which any provider's tokens stand.
///
/// # Errors
/// [`TokenError::Ambiguous`] where two places hold different tokens: the upstream could read the
/// one that was not verified.
pub fn find<'a>(
    head: &'a Stripped,
    providers: &[Provider],
) -> Result<Option<&'a [u8]>, TokenError> {
    let mut found: Option<&[u8]> = None;
    for field in head.fields() {
        let Some(token) = token_in(field, providers) else {
            continue;
        };
        match found {
            Some(other) if other != token => return Err(TokenError::Ambiguous),
            Some(_) | None => found = Some(token),
        }
    }
    Ok(found)
}

/// The names of the headers of `head` that hold a token; they go unless the token is forwarded.
pub fn carriers<'a>(
    head: &'a Stripped,
    providers: &'a [Provider],
) -> impl Iterator<Item = &'a str> {
    head.fields()
        .filter(|field| token_in(field, providers).is_some())
        .map(|field| field.name.as_str())
}

fn token_in<'a>(field: &'a Field, providers: &[Provider]) -> Option<&'a [u8]> {
    providers
        .iter()
        .flat_map(|provider| &provider.from_headers)
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
