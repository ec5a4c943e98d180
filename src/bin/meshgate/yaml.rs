//! YAML, and with it JSON, as a tree that knows where everything stands.
//!
//! Scalars mean what they mean to Envoy (yaml-cpp) and Kubernetes, which both read YAML 1.1: an unquoted
//! `yes` or `on` is a boolean.

use std::collections::HashMap;
use std::fmt;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span, StrInput, Tag};
use serde_json::{Map, Number, Value};

/// Most nodes of a file, those counted again that an alias repeats: a few lines of aliases to aliases can
/// stand for more than any memory holds.
const MAX_NODES: usize = 500_000;

/// Deepest nesting, as the filter has it (`serde_json`'s own limit).
const MAX_DEPTH: usize = 128;

/// A place in a file; both count from one, columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Its line.
    pub line: usize,
    /// Its column.
    pub column: usize,
}

impl Place {
    /// Where a file begins.
    pub const START: Self = Self { line: 1, column: 1 };

    fn of(marker: &Marker) -> Self {
        Self { line: marker.line(), column: marker.col().saturating_add(1) }
    }
}

/// Why a text is no YAML.
#[derive(Debug)]
pub struct Fault {
    /// Where.
    pub at: Place,
    /// What the matter is.
    pub message: String,
}

/// A value, and where it begins.
#[derive(Debug, Clone)]
pub struct Node {
    /// Where.
    pub at: Place,
    /// What.
    pub kind: Kind,
}

/// What a value is.
#[derive(Debug, Clone)]
pub enum Kind {
    /// Nothing, a boolean or a number.
    Plain(Value),
    /// A text, and whether its lines stand as they are, below a `|`.
    Text { text: String, literal: bool },
    /// A list.
    List(Vec<Node>),
    /// A map, in its order and with names that are there twice.
    Map(Vec<Entry>),
}

/// A member of a map.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Where its name stands.
    pub at: Place,
    /// Its name; `None` where that is no scalar.
    pub name: Option<String>,
    /// Whether it is an unquoted `<<`, which merges another map into this one.
    pub merge: bool,
    /// Its value.
    pub value: Node,
}

impl Node {
    /// The members of a map; none of anything else.
    pub fn entries(&self) -> &[Entry] {
        match &self.kind {
            Kind::Map(entries) => entries,
            Kind::Plain(_) | Kind::Text { .. } | Kind::List(_) => &[],
        }
    }

    /// The items of a list; none of anything else.
    pub fn items(&self) -> &[Self] {
        match &self.kind {
            Kind::List(items) => items,
            Kind::Plain(_) | Kind::Text { .. } | Kind::Map(_) => &[],
        }
    }

    /// The member of this name.
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries().iter().find(|entry| entry.name.as_deref() == Some(name))
    }

    /// The value of the member of this name.
    pub fn get(&self, name: &str) -> Option<&Self> {
        self.entry(name).map(|entry| &entry.value)
    }

    /// The value at the end of these names.
    pub fn find(&self, names: &[&str]) -> Option<&Self> {
        names.iter().try_fold(self, |node, name| node.get(name))
    }

    /// Its text, if it is one.
    pub fn text(&self) -> Option<&str> {
        match &self.kind {
            Kind::Text { text, .. } => Some(text),
            Kind::Plain(_) | Kind::List(_) | Kind::Map(_) => None,
        }
    }

    /// The same as JSON. What JSON cannot say, or another reader may read otherwise, is added to `faults`.
    pub fn to_json(&self, faults: &mut Vec<Fault>) -> Value {
        match &self.kind {
            Kind::Plain(value) => value.clone(),
            Kind::Text { text, .. } => Value::String(text.clone()),
            Kind::List(items) => items.iter().map(|item| item.to_json(faults)).collect(),
            Kind::Map(entries) => {
                let mut members = Map::new();
                for entry in entries {
                    let fault = |message: String| Fault { at: entry.at, message };
                    let Some(name) = &entry.name else {
                        faults.push(fault("a name must be a text".to_owned()));
                        continue;
                    };
                    if entry.merge {
                        faults.push(fault(
                            "merge keys (`<<`) are not read by Envoy, write the fields out"
                                .to_owned(),
                        ));
                        continue;
                    }
                    let value = entry.value.to_json(faults);
                    if members.insert(name.clone(), value).is_some() {
                        faults.push(fault(format!("`{name}` stands here a second time")));
                    }
                }
                Value::Object(members)
            }
        }
    }

    /// Where what has this path in a config stands: the name of a member, an item of a list; where it is
    /// not there, what is nearest around it.
    pub fn locate(&self, path: &str) -> Place {
        self.nearest(path, self.at).1
    }

    /// How much of `path` there is, in bytes, and where that stands. Names may have dots in them, so
    /// whichever reading of the path leads farthest is the one that was meant.
    fn nearest(&self, path: &str, at: Place) -> (usize, Place) {
        let mut best = (0, at);
        let mut consider = |taken: usize, at: Place, value: &Self| {
            let rest = path.get(taken..).unwrap_or_default();
            let (further, at) = value.nearest(rest, at);
            if taken + further > best.0 {
                best = (taken + further, at);
            }
        };
        let name_at = usize::from(path.starts_with('.'));
        let rest = path.get(name_at..).unwrap_or_default();
        for entry in self.entries() {
            let Some(name) = &entry.name else { continue };
            let ends = rest
                .strip_prefix(name.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']));
            if ends && !name.is_empty() {
                consider(name_at + name.len(), entry.at, &entry.value);
            }
        }
        if let Some((index, _)) = path.strip_prefix('[').and_then(|rest| rest.split_once(']'))
            && let Some(item) = index.parse().ok().and_then(|index: usize| self.items().get(index))
        {
            consider(index.len() + 2, item.at, item);
        }
        best
    }

    fn size(&self) -> usize {
        let inner = match &self.kind {
            Kind::Plain(_) | Kind::Text { .. } => 0,
            Kind::List(items) => items.iter().map(Self::size).sum(),
            Kind::Map(entries) => entries.iter().map(|entry| entry.value.size()).sum(),
        };
        1 + inner
    }
}

/// Reads all documents of a file.
///
/// # Errors
/// Where it is no YAML.
pub fn parse(text: &str) -> Result<Vec<Node>, Fault> {
    let mut reader =
        Reader { parser: Parser::new_from_str(text), anchors: HashMap::new(), nodes: 0 };
    let mut documents = Vec::new();
    loop {
        let (event, span) = reader.next()?;
        match event {
            Event::StreamEnd => return Ok(documents),
            Event::DocumentStart(_) => {
                let (event, span) = reader.next()?;
                documents.push(reader.node(event, &span, 0)?);
            }
            Event::Nothing | Event::StreamStart | Event::DocumentEnd => {}
            Event::Alias(_)
            | Event::Scalar(..)
            | Event::SequenceStart(..)
            | Event::SequenceEnd
            | Event::MappingStart(..)
            | Event::MappingEnd => {
                return fault(&span.start, "a value outside of any document");
            }
        }
    }
}

fn fault<T>(at: &Marker, message: impl fmt::Display) -> Result<T, Fault> {
    Err(Fault { at: Place::of(at), message: format!("is not YAML: {message}") })
}

struct Reader<'a> {
    parser: Parser<'a, StrInput<'a>>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span), Fault> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => fault(error.marker(), error.info()),
            None => fault(&Marker::new(0, 1, 0), "it ends too early"),
        }
    }

    fn count(&mut self, nodes: usize, at: &Marker) -> Result<(), Fault> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes > MAX_NODES {
            return fault(at, "it has more values than any config");
        }
        Ok(())
    }

    fn node(&mut self, event: Event<'a>, span: &Span, depth: usize) -> Result<Node, Fault> {
        if depth > MAX_DEPTH {
            return fault(&span.start, format!("it is nested more than {MAX_DEPTH} deep"));
        }
        self.count(1, &span.start)?;
        let at = Place::of(&span.start);
        let (anchor, kind) = match event {
            Event::Alias(anchor) => {
                let Some(node) = self.anchors.get(&anchor).cloned() else {
                    return fault(&span.start, "an alias to what is not complete");
                };
                self.count(node.size(), &span.start)?;
                return Ok(node);
            }
            Event::Scalar(text, style, anchor, tag) => {
                (anchor, scalar(text.into_owned(), style, tag.as_deref()))
            }
            Event::SequenceStart(anchor, _) => {
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, _) => break (anchor, Kind::List(items)),
                        (event, span) => items.push(self.node(event, &span, depth + 1)?),
                    }
                }
            }
            Event::MappingStart(anchor, _) => {
                let mut entries = Vec::new();
                loop {
                    match self.next()? {
                        (Event::MappingEnd, _) => break (anchor, Kind::Map(entries)),
                        (event, span) => entries.push(self.entry(event, &span, depth + 1)?),
                    }
                }
            }
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd
            | Event::SequenceEnd
            | Event::MappingEnd => return fault(&span.start, "a value is missing"),
        };
        let node = Node { at, kind };
        // Zero stands for none.
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn entry(&mut self, event: Event<'a>, span: &Span, depth: usize) -> Result<Entry, Fault> {
        let at = Place::of(&span.start);
        let (name, merge) = match &event {
            Event::Scalar(text, style, _, _) => {
                (Some(text.clone().into_owned()), text == "<<" && *style == ScalarStyle::Plain)
            }
            _ => (None, false),
        };
        let key = self.node(event, span, depth)?;
        let name = name.or_else(|| key.text().map(str::to_owned));
        let (event, span) = self.next()?;
        Ok(Entry { at, name, merge, value: self.node(event, &span, depth)? })
    }
}

fn scalar(text: String, style: ScalarStyle, tag: Option<&Tag>) -> Kind {
    let is_text = tag.is_some_and(|tag| matches!(tag.suffix.as_str(), "str" | "!" | ""));
    if style != ScalarStyle::Plain || is_text {
        return Kind::Text { text, literal: style == ScalarStyle::Literal };
    }
    match text.as_str() {
        "" | "~" | "null" | "Null" | "NULL" => Kind::Plain(Value::Null),
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => {
            Kind::Plain(Value::Bool(true))
        }
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => {
            Kind::Plain(Value::Bool(false))
        }
        _ => match number(&text) {
            Some(number) => Kind::Plain(Value::Number(number)),
            None => Kind::Text { text, literal: false },
        },
    }
}

/// A decimal number. What begins with a zero is octal to some readers and a text to others.
fn number(text: &str) -> Option<Number> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let first = digits.trim_start_matches('.').chars().next()?;
    let octal =
        digits.starts_with('0') && digits.chars().nth(1).is_some_and(|c| c.is_ascii_digit());
    if !first.is_ascii_digit() || octal {
        return None;
    }
    let text = text.strip_prefix('+').unwrap_or(text);
    text.parse::<i64>()
        .map(Number::from)
        .or_else(|_| text.parse::<u64>().map(Number::from))
        .ok()
        .or_else(|| text.parse::<f64>().ok().and_then(Number::from_f64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn one(text: &str) -> Node {
        parse(text).unwrap().remove(0)
    }

    fn json_of(text: &str) -> (Value, Vec<String>) {
        let mut faults = Vec::new();
        let value = one(text).to_json(&mut faults);
        (value, faults.into_iter().map(|f| format!("{}: {}", f.at.line, f.message)).collect())
    }

    #[test]
    fn scalars_are_what_envoy_and_kubernetes_read() {
        let text = "{a: yes, b: 'yes', c: 1, d: 1.5, e: ~, f: 10m, g: 0x1, h: 007, i: -3, j: !!str 1, k: null, l: \"\", m: .5, n: infinity, o: 1e3}";
        assert_eq!(
            json_of(text).0,
            json!({
                "a": true, "b": "yes", "c": 1, "d": 1.5, "e": null, "f": "10m", "g": "0x1", "h": "007",
                "i": -3, "j": "1", "k": null, "l": "", "m": 0.5, "n": "infinity", "o": 1000.0,
            })
        );
    }

    #[test]
    fn json_is_yaml() {
        let text = "{\n\t\"a\": [1, {\"b\": \"\\u00e9\\/\\n\"}],\n\t\"c\": null\n}";
        assert_eq!(json_of(text), (json!({"a": [1, {"b": "é/\n"}], "c": null}), Vec::new()));
    }

    #[test]
    fn aliases_are_followed_and_what_readers_read_differently_is_told() {
        let (value, faults) =
            json_of("a: &a {x: 1}\nb: *a\nc: {<<: *a}\nd: 1\nd: 2\n'<<': 3\n[e]: 4");
        assert_eq!(value, json!({"a": {"x": 1}, "b": {"x": 1}, "c": {}, "d": 2, "<<": 3}));
        assert_eq!(
            faults,
            [
                "3: merge keys (`<<`) are not read by Envoy, write the fields out",
                "5: `d` stands here a second time",
                "7: a name must be a text",
            ]
        );
    }

    #[test]
    fn a_file_that_would_grow_without_end_is_refused() {
        let twice = |n: u32| format!("a{}: &a{} [*a{n}, *a{n}]\n", n + 1, n + 1);
        let text = ["a0: &a0 [x]\n".to_owned()].into_iter().chain((0..40).map(twice)).collect();
        let texts: [String; 3] =
            [text, "[".repeat(1_000) + &"]".repeat(1_000), "a: &a [*a]".to_owned()];
        assert!(texts.iter().all(|text| parse(text).is_err()));
    }

    #[test]
    fn what_is_no_yaml_is_told_with_its_line() {
        let fault = parse("a: 1\nb: [1, 2\nc: 3\n").unwrap_err();
        assert!(fault.at.line >= 2 && fault.message.starts_with("is not YAML: "), "{fault:?}");
    }

    #[test]
    fn paths_lead_to_names_and_items_or_what_is_nearest() {
        let node = one("a:\n  b.c: [x,\n    {d: 1}]\n  b:\n    c2: 1\n  é: {k: 1}\ne: 2\n");
        for (path, line, column) in [
            ("", 1, 1),
            ("a", 1, 1),
            ("a.b.c", 2, 3),
            ("a.b.c[0]", 2, 9),
            ("a.b.c[1].d", 3, 6),
            ("a.b.c[7]", 2, 3),
            ("a.b.c2", 5, 5),
            ("a.b.other", 4, 3),
            ("a.é.k", 6, 7),
            ("e", 7, 1),
            ("f.g", 1, 1),
        ] {
            assert_eq!(node.locate(path), Place { line, column }, "{path}");
        }
    }
}
