//! The schema as a page for people: `docs/reference.md`.

use std::collections::BTreeMap;

use serde_json::Value;

/// The page, in Markdown.
pub fn page(schema: &Value) -> String {
    let page = Page { schema, places: places(schema) };
    let mut sections = vec![
        "# Every field\n\n\
         `meshgate schema --format markdown` writes this page from the types that read the config. What the fields are for, and how they\n\
         go together, is told in [configuration.md](configuration.md).\n\n\
         `*` in a path is a name of your choice, `[]` each item of a list.\n"
            .to_owned(),
        page.object("## The config", schema),
    ];
    let mut parts: Vec<(&[String], &str, &Value)> = page
        .definitions()
        .filter(|(_, one)| is_object(one))
        .filter_map(|(name, one)| Some((page.places.get(name)?.as_slice(), name, one)))
        .collect();
    // In the order of a config's own parts, the inner ones after the outer.
    parts.sort_by_key(|(places, ..)| *places);
    for (places, name, definition) in parts {
        let heading = format!("## `{}`\n<a id=\"{}\"></a>", places.join("`, `"), anchor(name));
        sections.push(page.object(&heading, definition));
    }
    let kinds = page.definitions().filter(|(_, one)| !is_object(one)).filter_map(|(name, one)| {
        let what = description(one).map(str::to_owned).or_else(|| words(one))?;
        Some(format!("| <a id=\"{}\"></a>{} | {} |\n", anchor(name), spoken(name), cell(&what)))
    });
    sections.push(format!(
        "## Kinds of text\n\n| kind | what |\n|---|---|\n{}",
        kinds.collect::<String>()
    ));
    sections.join("\n")
}

struct Page<'a> {
    schema: &'a Value,
    /// The paths in a config at which each definition stands.
    places: BTreeMap<&'a str, Vec<String>>,
}

impl<'a> Page<'a> {
    fn definitions(&self) -> impl Iterator<Item = (&'a str, &'a Value)> {
        let all = self.schema.get("$defs").and_then(Value::as_object);
        all.into_iter().flatten().map(|(name, definition)| (name.as_str(), definition))
    }

    /// A section.
    fn object(&self, heading: &str, object: &Value) -> String {
        let required: Vec<&str> = object
            .get("required")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let rows = fields(object).map(|(name, field)| {
            let must = if required.contains(&name) { "**Required.** " } else { "" };
            let what = cell(description(field).unwrap_or_default());
            format!("| `{name}` | {} | {must}{what} |\n", self.kind(field))
        });
        format!(
            "{heading}\n\n{}\n\n| field | value | what |\n|---|---|---|\n{}",
            description(object).unwrap_or_default(),
            rows.collect::<String>()
        )
    }

    /// What a field's value is.
    fn kind(&self, field: &Value) -> String {
        if let Some((how, name)) = within(field) {
            let link = format!("[{}](#{})", spoken(name), anchor(name));
            // What is said nowhere else needs no link.
            let known = self.definitions().any(|(one, definition)| {
                one == name
                    && (is_object(definition)
                        || description(definition).is_some()
                        || words(definition).is_some())
            });
            let what = if known { link } else { spoken(name) };
            return match how {
                Within::Itself => what,
                Within::Items => format!("list of {what}"),
                Within::Members => format!("{what} by name"),
            };
        }
        if let Some(words) = words(field) {
            return cell(&words);
        }
        let one = |kind: &Value| match kind.as_str() {
            Some("string") => "text".to_owned(),
            Some("integer") => "whole number".to_owned(),
            Some("boolean") => "`true` or `false`".to_owned(),
            Some("array") => "list".to_owned(),
            Some(other) => other.to_owned(),
            None => String::new(),
        };
        match field.get("type") {
            Some(Value::Array(kinds)) => kinds.iter().map(one).collect::<Vec<_>>().join(" or "),
            Some(kind) => match field.get("items").map(|items| self.kind(items)) {
                Some(items) if !items.is_empty() => format!("list of {items}"),
                Some(_) | None => one(kind),
            },
            None => "anything".to_owned(),
        }
    }
}

/// Walks from the top of the config to every definition, by every way.
fn places(schema: &Value) -> BTreeMap<&str, Vec<String>> {
    let mut places: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut next = vec![(String::new(), schema)];
    while let Some((path, object)) = next.pop() {
        for (name, field) in fields(object) {
            let Some((how, definition)) = within(field) else { continue };
            let dot = if path.is_empty() { "" } else { "." };
            let place = match how {
                Within::Itself => format!("{path}{dot}{name}"),
                Within::Items => format!("{path}{dot}{name}[]"),
                Within::Members => format!("{path}{dot}{name}.*"),
            };
            if let Some(object) = schema.get("$defs").and_then(|all| all.get(definition)) {
                next.push((place.clone(), object));
            }
            places.entry(definition).or_default().push(place);
        }
    }
    for places in places.values_mut() {
        places.sort();
    }
    places
}

/// How a field holds what a definition describes.
enum Within {
    Itself,
    Items,
    Members,
}

fn within(field: &Value) -> Option<(Within, &str)> {
    if let Some(name) = definition(field) {
        return Some((Within::Itself, name));
    }
    if let Some(name) = field.get("items").and_then(definition) {
        return Some((Within::Items, name));
    }
    field.get("additionalProperties").and_then(definition).map(|name| (Within::Members, name))
}

fn definition(value: &Value) -> Option<&str> {
    value.get("$ref")?.as_str()?.rsplit('/').next()
}

fn fields(object: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let properties = object.get("properties").and_then(Value::as_object);
    properties.into_iter().flatten().map(|(name, field)| (name.as_str(), field))
}

fn is_object(definition: &Value) -> bool {
    definition.get("properties").is_some()
}

fn description(value: &Value) -> Option<&str> {
    value.get("description").and_then(Value::as_str)
}

/// The words that a text can be, where they are few.
fn words(value: &Value) -> Option<String> {
    let words = value.get("enum")?.as_array()?;
    let words = words.iter().filter_map(Value::as_str).map(|word| format!("`{word}`"));
    Some(words.collect::<Vec<_>>().join(", "))
}

/// The name of a type, as words.
fn spoken(name: &str) -> String {
    let mut words = String::new();
    for (place, letter) in name.chars().enumerate() {
        if place > 0 && letter.is_uppercase() {
            words.push(' ');
        }
        words.extend(letter.to_lowercase());
    }
    words
}

fn anchor(name: &str) -> String {
    spoken(name).replace(' ', "-")
}

/// A text in a cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}
