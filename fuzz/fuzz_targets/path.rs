//! The path of a request: whoever reads it, however they undo escapes, dots and slashes, the rule of what they read
//! has been met.

#![no_main]

use libfuzzer_sys::fuzz_target;
use meshgate::rules::{Level, Match, PathMatch, Requirement, Rule, Rules, Segment, Target};

/// What a reader may do to a path: each step written as its RFC or its software has it.
#[derive(Clone, Copy, PartialEq)]
enum Act {
    /// Percent-decoding (RFC 3986 section 2.1).
    Decode,
    /// Dots (RFC 3986 section 5.2.4).
    Dots,
    /// `//` is `/`, as Envoy's `merge_slashes` has it, and then dots, as nginx has them.
    MergeAndDots,
    /// `\` is `/`, as IIS and Envoy's `path_with_escaped_slashes_action` have it.
    Backslashes,
    /// Nothing from `;` on in a segment, as Java's servlets have it.
    Parameters,
    /// Nothing from `?` or `#` on.
    Query,
}

use Act::{Backslashes, Decode, Dots, MergeAndDots, Parameters, Query};

/// Readers that there are, by what they do and in which order; one more is drawn.
const READERS: [&[Act]; 12] = [
    &[],
    &[Dots],
    &[MergeAndDots],
    &[Backslashes, Dots],
    &[Decode, Dots],
    &[Decode, MergeAndDots],
    &[Decode, Backslashes, MergeAndDots],
    &[Dots, Decode],
    &[Parameters, Decode, Dots],
    &[Decode, Parameters, MergeAndDots],
    &[MergeAndDots, Decode, Decode, MergeAndDots],
    &[Decode, Query, Decode, Dots],
];

fn decode(path: &[u8]) -> Vec<u8> {
    let hex = |byte: u8| (byte as char).to_digit(16);
    let (mut out, mut place) = (Vec::new(), 0);
    while place < path.len() {
        let digits = path.get(place + 1..place + 3).map(|two| (hex(two[0]), hex(two[1])));
        if let (b'%', Some((Some(high), Some(low)))) = (path[place], digits) {
            out.push(u8::try_from(high * 16 + low).unwrap_or_default());
            place += 3;
        } else {
            out.push(path[place]);
            place += 1;
        }
    }
    out
}

/// The algorithm of RFC 3986 section 5.2.4, step by step on a buffer.
fn dots(path: &[u8]) -> Vec<u8> {
    let mut input = path.to_vec();
    let mut output: Vec<u8> = Vec::new();
    while !input.is_empty() {
        if input.starts_with(b"/./") {
            input.drain(..2);
        } else if input == b"/." {
            input = b"/".to_vec();
        } else if input.starts_with(b"/../") || input == b"/.." {
            input = if input == b"/.." { b"/".to_vec() } else { input[3..].to_vec() };
            let last = output.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
            output.truncate(last);
        } else {
            let end = input
                .iter()
                .skip(1)
                .position(|byte| *byte == b'/')
                .map_or(input.len(), |end| end + 1);
            output.extend(input.drain(..end));
        }
    }
    output
}

fn act(path: &[u8], act: Act) -> Vec<u8> {
    match act {
        Decode => decode(path),
        Dots => dots(path),
        MergeAndDots => {
            let mut merged = path.to_vec();
            merged.dedup_by(|one, before| *one == b'/' && *before == b'/');
            dots(&merged)
        }
        Backslashes => path.iter().map(|byte| if *byte == b'\\' { b'/' } else { *byte }).collect(),
        Parameters => {
            let segments: Vec<&[u8]> = path
                .split(|byte| *byte == b'/')
                .map(|segment| segment.split(|byte| *byte == b';').next().unwrap_or_default())
                .collect();
            segments.join(&b'/')
        }
        Query => path.split(|byte| matches!(byte, b'?' | b'#')).next().unwrap_or_default().to_vec(),
    }
}

/// The reader that the first three bytes of the input stand for.
fn drawn(choice: &[u8]) -> Vec<Act> {
    const ALL: [Act; 6] = [Decode, Dots, MergeAndDots, Backslashes, Parameters, Query];
    let acts: Vec<Act> = choice
        .iter()
        .flat_map(|byte| [byte & 7, byte >> 3 & 7])
        .filter_map(|place| ALL.get(usize::from(place)).copied())
        .collect();
    // A router and an upstream may each decode once.
    let decodes = acts.iter().filter(|act| **act == Decode).count();
    if decodes <= 2 { acts } else { Vec::new() }
}

/// The rules, with what a segment-wise reading of them matches.
const RULES: [(&str, Level); 6] = [
    ("/public/admin/**", Level::User),
    ("/healthz", Level::Anonymous),
    ("/public/{id}/x", Level::Optional),
    ("/public/**", Level::Anonymous),
    ("/a/b", Level::Optional),
    ("/files/**", Level::Anonymous),
];

fn rules() -> Rules {
    let rule = |(template, level): &(&str, Level)| {
        let segments = template.split('/').skip(1).map(|part| match part {
            "**" => Segment::Rest,
            "{id}" => Segment::Any,
            text => Segment::Text(text.to_owned()),
        });
        let requirement = match level {
            Level::Anonymous => Requirement::Anonymous,
            Level::Optional => Requirement::Optional,
            Level::User | Level::Nobody => Requirement::User(meshgate::rules::Needs::default()),
        };
        Rule {
            matches: Match {
                path: PathMatch::Template(segments.collect()),
                methods: Vec::new(),
                hosts: Vec::new(),
            },
            requirement,
            forward_token: None,
        }
    };
    Rules::new(RULES.iter().map(rule).collect())
}

/// What the first rule for a path asks, where its reader takes it as it stands.
fn naive_level(path: &str) -> Level {
    let parts: Vec<&str> = path.split('/').collect();
    let fits = |template: &str| {
        let wanted: Vec<&str> = template.split('/').collect();
        let open = wanted.last() == Some(&"**");
        let fixed = if open { &wanted[..wanted.len() - 1] } else { &wanted[..] };
        let length = if open { parts.len() > fixed.len() } else { parts.len() == fixed.len() };
        let rest_is_there = !open || parts.get(fixed.len()..).is_some_and(|rest| rest != [""]);
        length
            && rest_is_there
            && fixed
                .iter()
                .zip(&parts)
                .all(|(wanted, part)| wanted == part || (*wanted == "{id}" && !part.is_empty()))
    };
    RULES.iter().find(|(template, _)| fits(template)).map_or(Level::User, |(_, level)| *level)
}

fuzz_target!(|data: &[u8]| {
    let Some((choice, sent)) = data.split_at_checked(3) else { return };
    let rules = rules();
    let target = |path| Target { method: b"GET", host: b"api.example", path };
    let demand = rules.demand(&[target(sent)], false);
    let Some(readings) = rules.readings(&target(sent)) else {
        assert_eq!(demand.level, Level::Nobody, "what has too many readings is nobody's");
        return;
    };
    let paths: Vec<&str> = readings.iter().map(|reading| reading.path.as_str()).collect();
    assert!(paths.len() <= 64, "{} readings", paths.len());
    let drawn = drawn(choice);
    let end = sent.iter().position(|byte| matches!(byte, b'?' | b'#')).unwrap_or(sent.len());
    // Envoy lets no path through that does not begin with a slash, but for `*`.
    if !sent.starts_with(b"/") {
        return;
    }
    for reader in READERS.into_iter().chain([drawn.as_slice()]) {
        let read = reader.iter().fold(sent[..end].to_vec(), |path, step| act(&path, *step));
        let text = String::from_utf8_lossy(&read);
        // A reader who undoes a dot of dots that somebody else undid is counted, and so is every other.
        assert!(
            paths.contains(&text.as_ref()),
            "{text:?} is no reading of {:?}",
            String::from_utf8_lossy(sent)
        );
        let asked = naive_level(&text);
        assert!(
            demand.level >= asked,
            "{text:?} asks for {asked:?}, the request only for {:?}",
            demand.level
        );
        if matches!(reader.last(), Some(Dots | MergeAndDots)) {
            assert!(
                read.starts_with(b"/") && !text.split('/').any(|part| part == ".." || part == "."),
                "{text}"
            );
        }
    }
    // A reading that has no more escapes is one in which everything is undone that is undone at all.
    for reading in paths.iter().filter(|path| path.starts_with('/') && !path.contains('%')) {
        let again = rules.readings(&target(reading.as_bytes()));
        for deeper in again.iter().flatten() {
            assert!(
                paths.contains(&deeper.path.as_str()),
                "{:?} only from {reading:?}",
                deeper.path
            );
        }
    }
});
