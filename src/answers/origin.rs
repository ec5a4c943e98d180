//! Web origins: which site a script or a page is of.

use std::fmt;
use std::str::FromStr;

use crate::config::names::BadName;

/// Origins as a config names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origins {
    /// All, with `*`.
    Any,
    /// `null`: what has no origin, such as a file, or anybody's page in a sandboxed frame.
    Null,
    /// One: `https://www.example.com`.
    One(String),
    /// Those of all hosts below one: `https://*.example.com`.
    Below {
        /// What the origin begins with: `https://`.
        scheme: String,
        /// What it ends with: `.example.com`, or `.example.com:8443`.
        end: String,
    },
}

impl Origins {
    /// Whether `origin`, as a browser writes it, is one of these (RFC 6454 section 6.2). Browsers write it in
    /// one way only, so it is compared byte for byte.
    #[must_use]
    pub fn hold(&self, origin: &[u8]) -> bool {
        match self {
            Self::Any => !origin.is_empty() && origin != b"null",
            Self::Null => origin == b"null",
            Self::One(one) => one.as_bytes() == origin,
            Self::Below { scheme, end } => origin
                .strip_prefix(scheme.as_bytes())
                .and_then(|rest| rest.strip_suffix(end.as_bytes()))
                .is_some_and(|labels| labels.split(|byte| *byte == b'.').all(is_label)),
        }
    }

    /// The origin of these that a request to `authority` is for.
    #[must_use]
    pub fn of_authority(&self, authority: &str) -> Option<String> {
        let (Self::One(text) | Self::Below { scheme: text, .. }) = self else {
            return None;
        };
        let (scheme, _) = text.split_once("://")?;
        let host = authority.to_ascii_lowercase();
        let host = default_port(scheme).and_then(|port| host.strip_suffix(port)).unwrap_or(&host);
        let origin = format!("{scheme}://{host}");
        self.hold(origin.as_bytes()).then_some(origin)
    }
}

impl fmt::Display for Origins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Null => f.write_str("null"),
            Self::One(one) => f.write_str(one),
            Self::Below { scheme, end } => write!(f, "{scheme}*{end}"),
        }
    }
}

/// The port that browsers leave out of an origin.
fn default_port(scheme: &str) -> Option<&'static str> {
    match scheme {
        "https" => Some(":443"),
        "http" => Some(":80"),
        _ => None,
    }
}

/// One label of a host name in lower case; Punycode for what is not ASCII.
fn is_label(label: &[u8]) -> bool {
    let legal = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
    !label.is_empty() && label.iter().all(legal)
}

fn is_scheme(scheme: &str) -> bool {
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b);
    scheme.starts_with(|c: char| c.is_ascii_lowercase()) && scheme.bytes().all(legal)
}

fn is_host(host: &str) -> bool {
    match host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')) {
        Some(inner) => {
            !inner.is_empty() && inner.bytes().all(|b| b.is_ascii_hexdigit() || b":.".contains(&b))
        }
        None => host.as_bytes().split(|byte| *byte == b'.').all(is_label),
    }
}

impl FromStr for Origins {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        match text {
            "*" => return Ok(Self::Any),
            "null" => return Ok(Self::Null),
            _ => {}
        }
        let refuse = |why: &str| Err(BadName(format!("`{text}` {why}")));
        if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return refuse("never matches: browsers write origins in lower case");
        }
        let Some((scheme, authority)) = text.split_once("://").filter(|(s, _)| is_scheme(s)) else {
            return refuse("is not an origin, write one such as `https://www.example.com`");
        };
        if authority.contains(['/', '?', '#', '@']) {
            return refuse(
                "is not an origin, which is a scheme, a host and a port only, without a `/` at the end",
            );
        }
        if default_port(scheme).is_some_and(|port| authority.ends_with(port)) {
            return refuse("never matches: browsers leave the default port out, do so too");
        }
        let is_port = |port: &str| {
            port.bytes().all(|b| b.is_ascii_digit()) && port.parse().is_ok_and(|port: u16| port > 0)
        };
        let host = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                if !is_port(port) {
                    return refuse("has a port that is none");
                }
                host
            }
            Some(_) | None => authority,
        };
        let below = host.strip_prefix("*.");
        if !is_host(below.unwrap_or(host)) || below.is_some_and(|host| host.starts_with('[')) {
            return refuse(
                "has no host that could match: write its name in lower case (Punycode for other scripts), and `*.` for all below it only at its beginning",
            );
        }
        Ok(match authority.strip_prefix('*') {
            Some(end) => Self::Below { scheme: format!("{scheme}://"), end: end.to_owned() },
            None => Self::One(text.to_owned()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_compared_as_a_whole_and_a_pattern_over_whole_labels() {
        for (pattern, yes, no) in [
            (
                "https://www.example.com",
                &["https://www.example.com"][..],
                &[
                    "http://www.example.com",
                    "https://www.example.com:8443",
                    "https://www.example.com.evil.example",
                    "https://wwwxexample.com",
                    "https://evil.example/https://www.example.com",
                    "https://WWW.example.com",
                    "https://www.example.com/",
                    "https://www.example.com, https://evil.example",
                    "null",
                    "",
                ][..],
            ),
            (
                "https://*.example.com",
                &[
                    "https://a.example.com",
                    "https://a.b-1.example.com",
                    "https://xn--9ca.example.com",
                ],
                &[
                    "https://example.com",
                    "https://.example.com",
                    "https://a..example.com",
                    "https://evilexample.com",
                    "https://a.example.com:8443",
                    "https://a.example.com.evil.example",
                    "https://evil.example/.example.com",
                    "https://evil.example#.example.com",
                    "https://evil.example:1.example.com",
                    "https://me@a.example.com",
                    "https://A.example.com",
                    "https://a\\.example.com",
                    "http://a.example.com",
                    "null",
                ],
            ),
            (
                "http://*.localhost:3000",
                &["http://app.localhost:3000"],
                &["http://app.localhost", "http://localhost:3000", "http://app.localhost:30000"],
            ),
            ("http://[::1]:8080", &["http://[::1]:8080"], &["http://[::1]"]),
            ("capacitor://localhost", &["capacitor://localhost"], &["http://localhost"]),
            ("*", &["https://any.example", "http://x:1"], &["null", ""]),
            ("null", &["null"], &["https://null", "", "NULL"]),
        ] {
            let origins: Origins = pattern.parse().unwrap();
            assert_eq!(origins.to_string(), pattern);
            for origin in yes {
                assert!(origins.hold(origin.as_bytes()), "{pattern} {origin}");
            }
            for origin in no {
                assert!(!origins.hold(origin.as_bytes()), "{pattern} {origin}");
            }
        }
    }

    #[test]
    fn what_no_browser_would_ever_write_is_no_origin() {
        for (text, why) in [
            ("", "is not an origin"),
            ("www.example.com", "is not an origin"),
            ("//www.example.com", "is not an origin"),
            ("https://", "has no host"),
            ("https://www.example.com/", "without a `/`"),
            ("https://me@www.example.com", "a scheme, a host and a port only"),
            ("https://www.example.com:443", "leave the default port out"),
            ("http://www.example.com:80", "leave the default port out"),
            ("https://www.example.com:", "has a port that is none"),
            ("https://www.example.com:0", "has a port that is none"),
            ("https://www.example.com:+1", "has a port that is none"),
            ("https://www.example.com:70000", "has a port that is none"),
            ("https://WWW.example.com", "in lower case"),
            ("https://b\u{fc}cher.example", "Punycode"),
            ("https://www.*.com", "only at its beginning"),
            ("https://*example.com", "only at its beginning"),
            ("https://*", "only at its beginning"),
            ("https://*.*.example.com", "only at its beginning"),
            ("https://*.[::1]", "only at its beginning"),
            ("https://a b", "has no host"),
            ("https://a..b", "has no host"),
        ] {
            let error = text.parse::<Origins>().unwrap_err().0;
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn an_authority_has_the_origin_that_the_config_gives_it() {
        for (pattern, authority, origin) in [
            ("https://www.example.com", "www.example.com", Some("https://www.example.com")),
            ("https://www.example.com", "WWW.Example.com:443", Some("https://www.example.com")),
            ("https://www.example.com", "www.example.com:80", None),
            ("https://www.example.com", "evil.example", None),
            ("https://www.example.com", "www.example.com@evil.example", None),
            ("https://*.example.com", "a.example.com", Some("https://a.example.com")),
            ("https://*.example.com", "evil.example/.example.com", None),
            ("https://*.example.com", "evil.example\\.example.com", None),
            ("http://localhost:8080", "localhost:8080", Some("http://localhost:8080")),
            ("*", "evil.example", None),
            ("null", "null", None),
        ] {
            let origins: Origins = pattern.parse().unwrap();
            assert_eq!(origins.of_authority(authority).as_deref(), origin, "{pattern} {authority}");
        }
    }
}
