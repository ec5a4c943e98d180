//! What must be in no log: every token that the harness makes, every private key, every secret that Envoy is given.
//!
//! An [`Envoy`](crate::envoy::Envoy) that ends is held to it: what it printed and its stats are searched.

use std::collections::HashSet;
use std::sync::{LazyLock, Mutex};

use crate::lock;

/// Shorter ones would be found by chance.
const LONG_ENOUGH: usize = 12;

static KEPT: LazyLock<Mutex<HashSet<String>>> = LazyLock::new(Mutex::default);

/// Has this text looked for from now on, in whole and, where it is several words, in each of them that is long enough.
pub fn keep(secret: &str) {
    let words = words(secret).filter(|word| word.len() >= LONG_ENOUGH);
    lock(&KEPT).extend(words.map(str::to_owned));
}

/// Has this token looked for: its claims, which name the user, and its signature. Its header is that of many.
pub fn keep_token(token: &str) {
    token.split('.').skip(1).for_each(keep);
}

/// The line with a secret in it, if there is one. Nothing of the secret is quoted but where it stands.
///
/// Of Envoy's own components only the module's lines are searched: at their debug levels, others write headers.
pub fn leak(printed: &str) -> Option<String> {
    let kept = lock(&KEPT);
    for (number, line) in printed.lines().enumerate() {
        let is_anothers = line.starts_with('[') && !line.contains("[wasm]");
        // A JSON object in base64url: the header or the claims of a token that nobody told us of.
        let is_secret = |word: &str| {
            kept.contains(word) || (word.starts_with("eyJ") && word.len() >= 2 * LONG_ENOUGH)
        };
        if !is_anothers && words(line).any(is_secret) {
            let head: String = line.chars().take(48).collect();
            return Some(format!("line {} ({head}...)", number + 1));
        }
    }
    None
}

/// The runs of base64url's signs.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let is_sign = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    text.split(move |c| !is_sign(c)).filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::{keep, keep_token, leak};

    #[test]
    fn a_secret_is_found_wherever_it_stands_and_is_not_quoted() {
        keep("Bearer a-secret-of-a-test");
        keep_token("eyJhbGciOiJub25lIn0.eyJzdWIiOiJuYXRhbGllIn0.c2lnbmF0dXJlLW9mLWEtdGVzdA");
        for line in [
            "key=a-secret-of-a-test",
            r#"{"path":"/?token=c2lnbmF0dXJlLW9mLWEtdGVzdA"}"#,
            "[2026-01-01][1][debug][wasm] wasm log: x eyJzdWIiOiJuYXRhbGllIn0",
            "Bearer eyJhbGciOiJSUzI1NiIsImtpZCI6Im5vYm9keSdzIn0.e30.",
        ] {
            let found = leak(&format!("ok\n{line}\n")).expect(line);
            assert!(found.starts_with("line 2"), "{found}");
        }
        for line in [
            "[2026-01-01][1][debug][http] 'authorization', 'a-secret-of-a-test'",
            "not-a-secret-of-a-test-but-longer",
            "eyJ",
        ] {
            assert_eq!(leak(line), None, "{line}");
        }
    }
}
