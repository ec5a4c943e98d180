//! The identity of a hop: a SPIFFE id, and the patterns of a config.
//!
//! A pattern holds whole segments, so no id fits by its beginning or its end.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use crate::config::names::BadName;

/// What Envoy knows of the way of a request: of the connection that it came by, and of where it goes.
#[derive(Debug, Clone, Default)]
pub struct Hop {
    /// Whether it has a client certificate at all.
    pub has_certificate: bool,
    /// The URI SAN of the client certificate that Envoy verified, as it stands there.
    pub uri_san: Option<Vec<u8>>,
    /// The address and port that the connection came from.
    pub address: Option<Vec<u8>>,
    /// The upstream cluster that Envoy chose for it. Read only where a service's own requests leave.
    pub cluster: Option<Vec<u8>>,
}

impl Hop {
    /// The identity, where it is a SPIFFE id.
    #[must_use]
    pub fn id(&self) -> Option<SpiffeId> {
        std::str::from_utf8(self.uri_san.as_deref()?).ok()?.parse().ok()
    }
}

/// A range of IP addresses: `10.0.0.0/8`, `fd00::/8`, or one address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    /// How many leading bits count.
    bits: u32,
}

impl Network {
    /// Whether an `address`, as Envoy writes it with its port, is one of these.
    #[must_use]
    pub fn holds(&self, address: &[u8]) -> bool {
        let text = std::str::from_utf8(address).ok();
        let Some(peer) = text.and_then(|text| text.parse::<SocketAddr>().ok()) else {
            return false;
        };
        match (self.address, peer.ip().to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(peer)) => {
                let same = (own.to_bits() ^ peer.to_bits()).leading_zeros();
                same >= self.bits
            }
            (IpAddr::V6(own), IpAddr::V6(peer)) => {
                let same = (own.to_bits() ^ peer.to_bits()).leading_zeros();
                same >= self.bits
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

impl FromStr for Network {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let bad = || {
            BadName(format!("`{text}` is neither an IP address nor a range such as `10.0.0.0/8`"))
        };
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse().map_err(|_| bad())?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let whole = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(whole);
        (bits <= whole).then_some(Self { address, bits }).ok_or_else(bad)
    }
}

/// A SPIFFE id (SPIFFE-ID section 2): `spiffe://cluster.local/ns/default/sa/videos`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpiffeId {
    /// The trust domain, then the segments of the path.
    segments: Vec<String>,
}

const SCHEME: &str = "spiffe://";

/// Longest id, in bytes (SPIFFE-ID section 2.3).
const MAX_ID_BYTES: usize = 2_048;

/// Whether `segment` may be a part of an id (SPIFFE-ID sections 2.1 and 2.2).
fn is_segment(segment: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    !segment.is_empty() && !matches!(segment, "." | "..") && segment.bytes().all(allowed)
}

impl FromStr for SpiffeId {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let bad = || {
            BadName(format!(
                "`{text}` is not a SPIFFE id such as `spiffe://cluster.local/ns/default/sa/videos`"
            ))
        };
        let rest = text.strip_prefix(SCHEME).filter(|_| text.len() <= MAX_ID_BYTES);
        let segments: Vec<String> = rest.ok_or_else(bad)?.split('/').map(str::to_owned).collect();
        let whole = segments.len() > 1 && segments.iter().all(|segment| is_segment(segment));
        whole.then_some(Self { segments }).ok_or_else(bad)
    }
}

/// A SPIFFE id in which `*` stands for any one segment of the path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpiffePattern {
    segments: Vec<Option<String>>,
}

impl SpiffePattern {
    /// How many segments it leaves open.
    #[must_use]
    pub fn wildcards(&self) -> usize {
        self.segments.iter().filter(|segment| segment.is_none()).count()
    }

    /// Whether `id` fits, and what stands where the first `*` does; an empty text where there is none.
    #[must_use]
    pub fn matches<'a>(&self, id: &'a SpiffeId) -> Option<&'a str> {
        if self.segments.len() != id.segments.len() {
            return None;
        }
        let mut wildcard = None;
        for (pattern, segment) in self.segments.iter().zip(&id.segments) {
            match pattern {
                Some(fixed) if fixed != segment => return None,
                Some(_) => {}
                None => wildcard = wildcard.or(Some(segment.as_str())),
            }
        }
        Some(wildcard.unwrap_or_default())
    }
}

impl FromStr for SpiffePattern {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let bad = || {
            BadName(format!(
                "`{text}` is not a SPIFFE id such as `spiffe://cluster.local/ns/default/sa/*`, where `*` is one whole segment of the path"
            ))
        };
        let rest = text.strip_prefix(SCHEME).ok_or_else(bad)?;
        let mut segments = Vec::new();
        for (place, segment) in rest.split('/').enumerate() {
            segments.push(match segment {
                "*" if place > 0 => None,
                segment if is_segment(segment) => Some(segment.to_owned()),
                _ => return Err(bad()),
            });
        }
        if segments.len() < 2 {
            return Err(bad());
        }
        Ok(Self { segments })
    }
}

/// The name of the service that a peer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerName {
    /// This.
    Fixed(String),
    /// The segment at the pattern's `*`.
    Segment,
}

impl PeerName {
    /// The name, where `wildcard` is what stands at the `*`.
    #[must_use]
    pub fn resolve(&self, wildcard: &str) -> Option<String> {
        match self {
            Self::Fixed(name) => Some(name.clone()),
            Self::Segment => (!wildcard.is_empty()).then(|| wildcard.to_owned()),
        }
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}", self.segments.join("/"))
    }
}

/// The identity that the hop `direct` says it speaks for, in Envoy's `x-forwarded-client-cert`: the last
/// element's `URI`. Where `direct` itself is named there, since this Envoy appends it, the one before it.
/// Nothing where that cannot be read, or names several.
#[must_use]
pub fn forwarded_id(header: &[u8], direct: &SpiffeId) -> Option<SpiffeId> {
    let text = std::str::from_utf8(header).ok()?;
    let elements = split_quoted(text, ',')?;
    let mut ids = elements.iter().rev().map(|element| uri_of(element));
    let last = ids.next()??;
    if last == *direct { ids.next()? } else { Some(last) }
}

fn uri_of(element: &str) -> Option<SpiffeId> {
    let mut found = None;
    for pair in split_quoted(element, ';')? {
        let (name, value) = pair.split_once('=')?;
        if name.trim().eq_ignore_ascii_case("uri") {
            if found.is_some() {
                return None;
            }
            let value = value.trim();
            let bare = value.strip_prefix('"').and_then(|inner| inner.strip_suffix('"'));
            found = Some(bare.unwrap_or(value).parse().ok()?);
        }
    }
    found
}

/// The parts of `text` between `separator`s that stand outside of quotes. `None` where a quote is not
/// closed.
fn split_quoted(text: &str, separator: char) -> Option<Vec<&str>> {
    let mut parts = Vec::new();
    let (mut start, mut quoted, mut escaped) = (0, false, false);
    for (place, sign) in text.char_indices() {
        match sign {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ if sign == separator && !quoted => {
                parts.push(text.get(start..place)?);
                start = place.checked_add(sign.len_utf8())?;
            }
            _ => {}
        }
    }
    parts.push(text.get(start..)?);
    (!quoted).then_some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> SpiffeId {
        text.parse().unwrap()
    }

    #[test]
    fn a_pattern_holds_whole_segments() {
        let pattern: SpiffePattern = "spiffe://cluster.local/ns/default/sa/*".parse().unwrap();
        assert_eq!(
            pattern.matches(&id("spiffe://cluster.local/ns/default/sa/videos")),
            Some("videos")
        );
        for other in [
            "spiffe://cluster.local/ns/default/sa/a/b",
            "spiffe://cluster.local/ns/default/sa",
            "spiffe://cluster.local/ns/other/sa/videos",
            "spiffe://evil.local/ns/default/sa/videos",
            "spiffe://cluster.local.evil/ns/default/sa/videos",
            "spiffe://cluster.local/ns/default/SA/videos",
        ] {
            assert_eq!(pattern.matches(&id(other)), None, "{other}");
        }
        let fixed: SpiffePattern = "spiffe://cluster.local/ns/edge/sa/gateway".parse().unwrap();
        assert_eq!(fixed.matches(&id("spiffe://cluster.local/ns/edge/sa/gateway")), Some(""));
        for other in [
            "spiffe://cluster.local/ns/edge/sa/gateway-evil",
            "spiffe://cluster.local/ns/edge/sa/gatewa",
        ] {
            assert_eq!(fixed.matches(&id(other)), None, "{other}");
        }
    }

    #[test]
    fn what_is_no_id_is_none() {
        for text in [
            "",
            "spiffe://",
            "spiffe://cluster.local",
            "spiffe://cluster.local/",
            "spiffe://cluster.local//sa",
            "spiffe://cluster.local/ns/../sa",
            "spiffe://cluster.local/ns/./sa",
            "spiffe://cluster.local/ns/a%2Fb",
            "spiffe://cluster.local/ns/*",
            "spiffe://cluster.local/ns/a?x=1",
            "spiffe://user@cluster.local/ns",
            "SPIFFE://cluster.local/ns",
            "https://cluster.local/ns",
            "spiffe://cluster.local/ns/a,spiffe://cluster.local/ns/b",
        ] {
            assert!(text.parse::<SpiffeId>().is_err(), "{text}");
        }
        for text in
            ["spiffe://*/ns", "spiffe://a/b*", "spiffe://a/", "spiffe://a", "a/b", "spiffe://a/**"]
        {
            assert!(text.parse::<SpiffePattern>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_forwarded_identity_is_the_last_one_before_the_hop_itself() {
        let direct = id("spiffe://a/proxy");
        for (header, found) in [
            ("By=spiffe://a/x;URI=spiffe://a/one", Some("spiffe://a/one")),
            ("URI=spiffe://a/forged,URI=spiffe://a/one", Some("spiffe://a/one")),
            ("URI=spiffe://a/one,By=spiffe://a/me;URI=spiffe://a/proxy", Some("spiffe://a/one")),
            ("URI=spiffe://a/proxy", None),
            ("Subject=\"CN=x,URI=spiffe://a/forged\";uri=spiffe://a/one", Some("spiffe://a/one")),
            (
                "Subject=\"a\\\",URI=spiffe://a/forged\";URI=\"spiffe://a/one\"",
                Some("spiffe://a/one"),
            ),
            ("URI=spiffe://a/one;URI=spiffe://a/two", None),
            ("URI=spiffe://a/one,Subject=\"open", None),
            ("URI=https://a/one", None),
            ("Hash=abc", None),
            ("garbage", None),
            ("", None),
        ] {
            let told = forwarded_id(header.as_bytes(), &direct).map(|id| id.to_string());
            assert_eq!(told.as_deref(), found, "{header}");
        }
        assert_eq!(forwarded_id(b"URI=\xff", &direct), None);
    }
}
