//! Hosts: which of them a rule is for. As Envoy's virtual hosts name them: without regard to case, a port
//! counts, and `*.` stands for one label or more.

use std::str::FromStr;

use crate::config::names::BadName;

/// The hosts a rule is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPattern {
    /// What stands behind `*`, or all of it. In lower case.
    text: String,
    /// Whether a `*` stands before it.
    wildcard: bool,
}

/// Whether a request's host is one of a rule's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fit {
    /// It is not.
    No,
    /// Some would say so: with a port, a dot at its end or signs that no host has, it depends on who reads it.
    Maybe,
    /// It is.
    Yes,
}

impl HostPattern {
    pub(super) fn fits(&self, host: &Host) -> Fit {
        if self.is(&host.text) && host.is_plain {
            Fit::Yes
        } else if !host.is_plain || (host.text != host.name && self.is(&host.name)) {
            Fit::Maybe
        } else {
            Fit::No
        }
    }

    fn is(&self, text: &str) -> bool {
        if self.wildcard {
            text.strip_suffix(self.text.as_str()).is_some_and(|label| !label.is_empty())
        } else {
            text == self.text
        }
    }

    /// Whether every host of `other` is one of this pattern's.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self == other || (self.wildcard && other.text.ends_with(&self.text))
    }
}

impl FromStr for HostPattern {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let lower = text.to_ascii_lowercase();
        let (wildcard, rest) = match lower.strip_prefix('*') {
            Some(rest) => (true, rest),
            None => (false, lower.as_str()),
        };
        let labels = if wildcard { rest.strip_prefix('.').unwrap_or_default() } else { rest };
        let host = Host::of(labels.as_bytes());
        if host.is_plain && !host.name.is_empty() {
            Ok(Self { text: rest.to_owned(), wildcard })
        } else {
            Err(BadName(format!(
                "`{text}` is not a host, write one such as `api.example.com`, `*.example.com` or `localhost:8080`"
            )))
        }
    }
}

/// The host of a request.
#[derive(Debug)]
pub(super) struct Host {
    /// In lower case.
    text: String,
    /// The same without a port and the dots at its end.
    name: String,
    /// Whether it has only signs that hosts have.
    is_plain: bool,
}

impl Host {
    pub(super) fn of(authority: &[u8]) -> Self {
        let text = String::from_utf8_lossy(authority).to_ascii_lowercase();
        let name = match text.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) => name,
            // An IPv6 address without a port ends with a bracket.
            Some(_) | None => text.as_str(),
        };
        let name = name.trim_end_matches('.').to_owned();
        let is_address =
            name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).is_some_and(|inner| {
                inner.bytes().all(|b| b.is_ascii_hexdigit() || b":.".contains(&b))
            });
        let is_name =
            name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
        Self { is_plain: !name.is_empty() && (is_name || is_address), text, name }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_fit_as_envoys_domains_do_and_odd_ones_fit_perhaps() {
        use Fit::{Maybe, No, Yes};
        for (pattern, host, fit) in [
            ("api.example.com", "api.example.com", Yes),
            ("API.example.com", "api.EXAMPLE.com", Yes),
            ("api.example.com", "api.example.com:8443", Maybe),
            ("api.example.com", "api.example.com.", Maybe),
            ("api.example.com", "api.example.com.:443", Maybe),
            ("api.example.com", "api.example.com..", Maybe),
            ("api.example.com:8443", "api.example.com:8443", Yes),
            ("api.example.com:8443", "api.example.com:8444", No),
            ("api.example.com:8443", "api.example.com", No),
            ("api.example.com", "x@api.example.com", Maybe),
            ("api.example.com", "evil.com/api.example.com", Maybe),
            ("api.example.com", "api.example.com\0", Maybe),
            ("api.example.com", "", Maybe),
            ("api.example.com", "evil.com", No),
            ("api.example.com", "xapi.example.com", No),
            ("*.example.com", "api.example.com", Yes),
            ("*.example.com", "a.b.example.com", Yes),
            ("*.example.com", "example.com", No),
            ("*.example.com", ".example.com", No),
            ("*.example.com", "api.example.com:80", Maybe),
            ("*.example.com", "api.example.org", No),
            ("[::1]:8080", "[::1]:8080", Yes),
            ("[::1]", "[::1]:8080", Maybe),
            ("[::1]", "[::1]", Yes),
        ] {
            let pattern: HostPattern = pattern.parse().unwrap();
            assert_eq!(pattern.fits(&Host::of(host.as_bytes())), fit, "{pattern:?} {host}");
        }
        for text in
            ["", "*", "*.", "*example.com", "a b", "https://a", "a/b", "a*b", "*.*.com", "é"]
        {
            assert!(text.parse::<HostPattern>().is_err(), "{text}");
        }
    }
}
