//! A SPIFFE pattern and an ID in two lines: `*` stands for one whole segment of the path and nothing else.

#![no_main]

use libfuzzer_sys::fuzz_target;
use meshgate::boundary::peer::{SpiffeId, SpiffePattern};
use meshgate_fuzz::world::line;

/// The trust domain and the segments of the path, where `text` is an ID (SPIFFE-ID section 2).
fn parts<'a>(text: &'a str, is_part: &dyn Fn(usize, &str) -> bool) -> Option<Vec<&'a str>> {
    if !text.starts_with("spiffe://") {
        return None;
    }
    let parts: Vec<&str> = text["spiffe://".len()..].split('/').collect();
    let fits =
        parts.len() >= 2 && parts.iter().enumerate().all(|(place, part)| is_part(place, part));
    fits.then_some(parts)
}

fn is_plain(part: &str) -> bool {
    const ALLOWED: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._";
    !part.is_empty()
        && part != "."
        && part != ".."
        && part.chars().all(|sign| ALLOWED.contains(sign))
}

fuzz_target!(|data: &[u8]| {
    let (pattern_text, id_text) = line(data);
    let (Ok(pattern_text), Ok(id_text)) =
        (std::str::from_utf8(pattern_text), std::str::from_utf8(id_text))
    else {
        return;
    };
    let pattern = pattern_text.parse::<SpiffePattern>();
    let id = id_text.parse::<SpiffeId>();
    let patterns = parts(pattern_text, &|place, part| is_plain(part) || (part == "*" && place > 0));
    let segments = parts(id_text, &|_, part| is_plain(part)).filter(|_| id_text.len() <= 2048);
    assert_eq!(pattern.is_ok(), patterns.is_some(), "{pattern_text}");
    assert_eq!(id.is_ok(), segments.is_some(), "{id_text}");
    if let (Ok(id), Some(segments)) = (&id, &segments) {
        // It is one of a config as it stands, and that fits it alone.
        let own: SpiffePattern = id_text.parse().unwrap_or_else(|_| panic!("{id_text}"));
        assert_eq!((own.wildcards(), own.matches(id)), (0, Some("")));
        assert_eq!(id.to_string(), id_text);
        // With a segment more or less it fits nothing that it fitted.
        let longer: SpiffeId = format!("{id_text}/x").parse().unwrap_or_else(|_| id.clone());
        if let Ok(pattern) = &pattern
            && longer != *id
        {
            assert!(pattern.matches(id).is_none() || pattern.matches(&longer).is_none());
        }
        assert_eq!(segments.join("/"), id_text["spiffe://".len()..]);
    }
    let (Ok(pattern), Ok(id), Some(patterns), Some(segments)) = (pattern, id, patterns, segments)
    else {
        return;
    };
    let fits = patterns.len() == segments.len()
        && patterns
            .iter()
            .zip(&segments)
            .all(|(pattern, segment)| *pattern == "*" || pattern == segment);
    let first = patterns.iter().position(|part| *part == "*");
    let wildcard = first.map_or("", |place| segments.get(place).copied().unwrap_or_default());
    assert_eq!(pattern.matches(&id), fits.then_some(wildcard), "{pattern_text} {id_text}");
    assert_eq!(pattern.wildcards(), patterns.iter().filter(|part| **part == "*").count());
});
