//! Where a request of a service's own goes, and what may go there with it.

use std::str::FromStr;

use super::service_token::ServiceTokenId;
use crate::config::names::BadName;

/// Names of upstream clusters: `*` in it stands for any run of characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterPattern(String);

impl ClusterPattern {
    /// Whether the cluster called `name` is meant.
    #[must_use]
    pub fn matches(&self, name: &[u8]) -> bool {
        let mut pieces = self.0.as_bytes().split(|byte| *byte == b'*');
        let first = pieces.next().unwrap_or_default();
        let Some(mut rest) = name.strip_prefix(first) else {
            return false;
        };
        let Some(last) = pieces.next_back() else {
            return rest.is_empty();
        };
        // What stands between two `*` is found where it comes first: so most is left for what follows.
        for piece in pieces.filter(|piece| !piece.is_empty()) {
            let Some(place) = rest.windows(piece.len()).position(|window| window == piece) else {
                return false;
            };
            rest = rest.get(place.saturating_add(piece.len())..).unwrap_or_default();
        }
        rest.ends_with(last)
    }
}

impl FromStr for ClusterPattern {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        if text.is_empty() || text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(BadName(format!(
                "`{text}` names no Envoy cluster, write a name such as `users` or `outbound|80||users.*`"
            )));
        }
        Ok(Self(text.to_owned()))
    }
}

/// What becomes of something on its way to a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passage {
    /// It is taken off.
    Strip,
    /// It goes on.
    Forward,
}

/// What may go to some upstream clusters.
#[derive(Debug)]
pub struct Destination {
    /// Which.
    pub clusters: Vec<ClusterPattern>,
    /// The user's token.
    pub user_token: Passage,
    /// The user's context.
    pub context: Passage,
    /// The service's own token that is shown there.
    pub service_token: Option<ServiceTokenId>,
}

impl Destination {
    /// The first of these that the cluster of this name belongs to. Where Envoy names none, none.
    #[must_use]
    pub fn of<'a>(all: &'a [Self], cluster: Option<&[u8]>) -> Option<&'a Self> {
        let cluster = cluster?;
        all.iter().find(|one| one.clusters.iter().any(|pattern| pattern.matches(cluster)))
    }

    /// Whether the service says there who it is.
    #[must_use]
    pub fn names_service(&self) -> bool {
        self.service_token.is_some() || self.context == Passage::Forward
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_means_whole_names() {
        for (pattern, name, meant) in [
            ("channels", "channels", true),
            ("channels", "channels-evil", false),
            ("channels", "evil-channels", false),
            ("outbound|80||channels.*", "outbound|80||channels.default.svc.cluster.local", true),
            ("outbound|80||channels.*", "outbound|80||channels-evil.default", false),
            ("outbound|80||channels.*", "outbound|80||channels.", true),
            ("*.default.svc", "a.default.svc", true),
            ("*.default.svc", "a.default.svc.evil", false),
            ("a*b*c", "abc", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("a*bc*bc", "a-bc", false),
            ("a*a", "a", false),
            ("a**a", "aa", true),
            ("*", "", true),
            ("*", "anything", true),
            ("a|b", "A|b", false),
        ] {
            let pattern: ClusterPattern = pattern.parse().unwrap();
            assert_eq!(pattern.matches(name.as_bytes()), meant, "{pattern:?} {name}");
        }
        for bad in ["", "a b", "a\n"] {
            assert!(bad.parse::<ClusterPattern>().is_err());
        }
    }
}
