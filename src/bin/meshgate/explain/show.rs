//! Values as people read them, and nothing that a terminal would obey.

use std::cmp::Ordering;
use std::time::Duration;

use meshgate::time::UnixTime;
use serde_json::Value;

/// Longest value that is shown in full, in characters.
const LONGEST: usize = 120;

/// A text of a stranger's, shortened, without control characters.
pub fn plain(text: &str) -> String {
    let mut shown = String::new();
    for sign in text.chars().take(LONGEST) {
        match sign {
            '"' | '\'' | '\\' => shown.push(sign),
            _ => shown.extend(sign.escape_debug()),
        }
    }
    if text.chars().count() > LONGEST { shown + "…" } else { shown }
}

/// The same between backticks.
pub fn quoted(text: &str) -> String {
    format!("`{}`", plain(text))
}

/// Bytes of a stranger's.
pub fn bytes(value: &[u8]) -> String {
    quoted(&String::from_utf8_lossy(value))
}

/// Texts, or that there are none.
pub fn list<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let shown: Vec<String> = texts.into_iter().map(quoted).collect();
    if shown.is_empty() { "none".to_owned() } else { shown.join(", ") }
}

/// A JSON value.
pub fn json(value: &Value) -> String {
    match value {
        Value::String(text) => quoted(text),
        other => quoted(&other.to_string()),
    }
}

/// A moment, as RFC 3339 has it.
pub fn time(at: UnixTime) -> String {
    let millis = i64::try_from(at.as_millis()).ok();
    let time = millis.and_then(|millis| jiff::Timestamp::from_millisecond(millis).ok());
    time.map_or_else(|| "the end of time".to_owned(), |time| time.to_string())
}

/// Where a moment is, seen from `now`.
pub fn relative(at: UnixTime, now: UnixTime) -> String {
    match at.cmp(&now) {
        Ordering::Equal => "now".to_owned(),
        Ordering::Greater => format!("in {}", span(at.since(now))),
        Ordering::Less => format!("{} ago", span(now.since(at))),
    }
}

/// A time span by its two largest units.
pub fn span(span: Duration) -> String {
    let secs = span.as_secs();
    let parts =
        [(secs / 86_400, "d"), (secs / 3_600 % 24, "h"), (secs / 60 % 60, "m"), (secs % 60, "s")];
    let from = parts.iter().skip_while(|(count, _)| *count == 0).take(2);
    let shown: Vec<String> = from
        .filter(|(count, _)| *count > 0)
        .map(|(count, unit)| format!("{count}{unit}"))
        .collect();
    if shown.is_empty() { format!("{}ms", span.as_millis()) } else { shown.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_two_units_at_most() {
        for (secs, text) in [
            (0, "0ms"),
            (1, "1s"),
            (60, "1m"),
            (7_380, "2h 3m"),
            (7_381, "2h 3m"),
            (3_601, "1h"),
            (90_000, "1d 1h"),
            (86_400, "1d"),
        ] {
            assert_eq!(span(Duration::from_secs(secs)), text);
        }
    }

    #[test]
    fn a_stranger_cannot_command_the_terminal() {
        assert_eq!(plain("a\u{1b}[2Jb\r\n"), "a\\u{1b}[2Jb\\r\\n");
        assert_eq!(plain(&"x".repeat(500)).chars().count(), LONGEST + 1);
    }
}
