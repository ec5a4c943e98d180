//! Paths: which of them a rule is for, and the ways in which one may be read.

use std::collections::BTreeSet;

/// The paths a rule is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathMatch {
    /// This path.
    Exact(String),
    /// This path and those below it. `/api` holds `/api` and `/api/x` but not `/apix`.
    Prefix(String),
    /// Paths of this form.
    Template(Vec<Segment>),
}

/// One part of a template, between two slashes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    /// This text.
    Text(String),
    /// `{name}`: any text that is not empty. The name is for who reads the config.
    Any,
    /// `**`, the last one: all that follows, and at least one character of it.
    Rest,
}

impl PathMatch {
    /// The path `prefix` and those below it, whether or not it ends with a slash.
    #[must_use]
    pub fn prefix(prefix: &str) -> Self {
        Self::Prefix(prefix.trim_end_matches('/').to_owned())
    }

    /// Whether every path that `other` matches is, for certain, one of these.
    pub(super) fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            // What lies below a path lies below whatever that lies below.
            (_, Self::Exact(path)) | (Self::Prefix(_), Self::Prefix(path)) => self.matches(path),
            (Self::Prefix(prefix), Self::Template(segments)) => {
                let beginning = prefix.split('/').skip(1);
                beginning.clone().count() <= segments.len()
                    && beginning.zip(segments).all(|(text, segment)| {
                        matches!(segment, Segment::Text(literal) if literal == text)
                    })
            }
            (Self::Template(own), Self::Template(others)) => covers(own, others),
            (Self::Exact(_), Self::Prefix(_) | Self::Template(_))
            | (Self::Template(_), Self::Prefix(_)) => false,
        }
    }

    pub(super) fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == path,
            Self::Prefix(prefix) => path
                .strip_prefix(prefix.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
            Self::Template(segments) => fits(segments, path),
        }
    }
}

fn covers(own: &[Segment], others: &[Segment]) -> bool {
    match (own, others) {
        ([], []) => true,
        // An empty text is a path that ends with a slash, below which nothing is.
        ([Segment::Rest], [first, ..]) => {
            *first != Segment::Text(String::new()) || others.len() > 1
        }
        ([Segment::Text(one), own @ ..], [Segment::Text(other), others @ ..]) => {
            one == other && covers(own, others)
        }
        ([Segment::Any, own @ ..], [Segment::Text(other), others @ ..]) => {
            !other.is_empty() && covers(own, others)
        }
        ([Segment::Any, own @ ..], [Segment::Any, others @ ..]) => covers(own, others),
        _ => false,
    }
}

fn fits(template: &[Segment], path: &str) -> bool {
    let Some(mut rest) = path.strip_prefix('/').map(Some) else {
        return false;
    };
    for segment in template {
        let Some(text) = rest else {
            return false;
        };
        let (first, more) = match text.split_once('/') {
            Some((first, more)) => (first, Some(more)),
            None => (text, None),
        };
        match segment {
            Segment::Text(literal) if literal == first => {}
            Segment::Any if !first.is_empty() => {}
            Segment::Rest => return !text.is_empty(),
            Segment::Text(_) | Segment::Any => return false,
        }
        rest = more;
    }
    rest.is_none()
}

/// Most readings of one path, and the longest path whose readings are looked for: what is beyond that
/// was made to be misread, and costs more than it is worth.
const MAX_READINGS: usize = 64;
/// See [`MAX_READINGS`]; in bytes.
const MAX_ODD_PATH: usize = 8_192;
/// Most bytes of all readings of one path together. Each costs some passes over all of it, so that a long path
/// with many readings, which anybody can send, would hold a worker up for tens of milliseconds. A path of
/// 1 KiB may have as many as there may be, the longest eight.
const MAX_READ_BYTES: usize = 65_536;

/// Every way in which one path may be read.
#[derive(Debug)]
pub(super) enum Readings<'a> {
    /// Everybody reads it as it was sent.
    Plain(&'a str),
    /// These.
    Odd(BTreeSet<String>),
}

impl<'a> Readings<'a> {
    /// The readings of the path of `target`. `None` where there are too many.
    ///
    /// Routers, servers and frameworks undo escapes, cut parameters and queries off, and resolve dots and
    /// slashes, each in an order of its own and some of them twice. So whatever any of these steps makes of
    /// any reading is a reading too, until there is nothing new.
    pub(super) fn of(target: &'a [u8]) -> Option<Self> {
        let end = target.iter().position(|byte| matches!(byte, b'?' | b'#'));
        let path = target.get(..end.unwrap_or(target.len())).unwrap_or_default();
        match plain(path) {
            Some(plain) => Some(Self::Plain(plain)),
            None if path.len() > MAX_ODD_PATH => None,
            None => odd(path.to_vec()).map(Self::Odd),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &str> {
        let (plain, odd) = match self {
            Self::Plain(plain) => (Some(*plain), None),
            Self::Odd(odd) => (None, Some(odd)),
        };
        plain.into_iter().chain(odd.into_iter().flatten().map(String::as_str))
    }
}

/// Signs are read last: one of two bytes may be half decoded already and half an escape, and is there once
/// that is decoded too.
fn odd(as_sent: Vec<u8>) -> Option<BTreeSet<String>> {
    // With each reading goes how often it was decoded: a router and an upstream may each do it once.
    let mut found = BTreeSet::from([(as_sent.clone(), 0)]);
    let mut read_bytes = as_sent.len();
    let mut open = vec![(as_sent, 0)];
    while let Some((text, decoded)) = open.pop() {
        let mut steps = vec![
            (text.iter().map(|byte| if *byte == b'\\' { b'/' } else { *byte }).collect(), decoded),
            (without_parameters(&text), decoded),
            (until_query(&text).to_vec(), decoded),
            (resolved(&text, false), decoded),
            (resolved(&text, true), decoded),
        ];
        if decoded < 2 {
            steps.push((percent_decoded(&text), decoded + 1));
        }
        for step in steps {
            if found.insert(step.clone()) {
                read_bytes += step.0.len();
                open.push(step);
            }
        }
        if found.len() > MAX_READINGS || read_bytes > MAX_READ_BYTES {
            return None;
        }
    }
    Some(found.iter().map(|(text, _)| String::from_utf8_lossy(text).into_owned()).collect())
}

/// The path without what a decoded `?` or `#` makes a query or fragment.
fn until_query(path: &[u8]) -> &[u8] {
    path.split(|byte| matches!(byte, b'?' | b'#')).next().unwrap_or_default()
}

/// The path, if everyone reads it the same way.
fn plain(path: &[u8]) -> Option<&str> {
    let odd = |byte: &u8| matches!(byte, b'%' | b'\\' | b';') || !byte.is_ascii_graphic();
    let is_plain = !path.iter().any(odd)
        && !path.windows(2).any(|pair| pair == b"//")
        && !path.split(|byte| *byte == b'/').any(|segment| matches!(segment, b"." | b".."));
    std::str::from_utf8(path).ok().filter(|_| is_plain)
}

/// The text with its percent-escapes resolved; what is not an escape stays.
#[must_use]
pub fn percent_decoded(path: &[u8]) -> Vec<u8> {
    let digit =
        |byte: Option<&u8>| char::from(*byte?).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        match (first, digit(tail.first()), digit(tail.get(1))) {
            (b'%', Some(high), Some(low)) => {
                out.push(high << 4 | low);
                rest = tail.get(2..).unwrap_or_default();
            }
            (byte, _, _) => out.push(*byte),
        }
    }
    out
}

/// The path without what stands behind a `;` in each segment, as Java's servlets read it.
fn without_parameters(path: &[u8]) -> Vec<u8> {
    let segments: Vec<&[u8]> = segments(path)
        .map(|segment| segment.split(|byte| *byte == b';').next().unwrap_or_default())
        .collect();
    segments.join(&b'/')
}

/// The path with `.` and `..` resolved (RFC 3986 section 5.2.4) and, where `merge`, `//` as `/`.
fn resolved(path: &[u8], merge: bool) -> Vec<u8> {
    let mut kept: Vec<&[u8]> = Vec::new();
    let mut segments = segments(path).skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            b"." | b".." => {
                if segment == b".." {
                    kept.pop();
                }
                if last {
                    kept.push(b"");
                }
            }
            b"" if merge && !last => {}
            other => kept.push(other),
        }
    }
    [&b"/"[..], &kept.join(&b'/')].concat()
}

fn segments(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/')
}
