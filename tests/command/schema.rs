//! The schema is current, says what every field is, and takes what the filter takes.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::{ROOT, meshgate, shown_configs};

/// A validator of the schema.
pub fn validator() -> jsonschema::Validator {
    jsonschema::draft202012::new(&meshgate::config::schema()).unwrap()
}

#[test]
fn the_schema_and_the_page_in_the_repository_are_what_the_command_prints() {
    for (format, file) in
        [("json", "envoy/meshgate.schema.json"), ("markdown", "docs/reference.md")]
    {
        let ran = meshgate(&["schema", "--format", format], &[], "");
        assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
        let kept = fs::read_to_string(Path::new(ROOT).join(file)).unwrap();
        assert!(
            ran.stdout == kept,
            "{file} is not current, run: cargo run --bin meshgate -- schema --format {format} > {file}"
        );
    }
}

/// A field that is in the schema and not on the page would be one that nobody hears of.
#[test]
fn the_page_names_every_field_of_the_schema_and_links_to_what_is_on_it() {
    let page = fs::read_to_string(Path::new(ROOT).join("docs/reference.md")).unwrap();
    let schema = meshgate::config::schema();
    let definitions = schema["$defs"].as_object().unwrap();
    for (owner, definition) in definitions.iter().filter(|(owner, _)| *owner != "Verified") {
        for name in definition
            .get("properties")
            .and_then(Value::as_object)
            .into_iter()
            .flat_map(|all| all.keys())
        {
            assert!(page.contains(&format!("| `{name}` |")), "{owner}.{name}");
        }
    }
    let links: Vec<&str> =
        page.split("](#").skip(1).map(|rest| rest.split(')').next().unwrap()).collect();
    assert!(links.len() > 100, "{links:?}");
    for link in links {
        assert!(page.contains(&format!("<a id=\"{link}\">")), "#{link} is nowhere");
    }
}

#[test]
fn the_schema_is_of_draft_2020_12() {
    let schema = meshgate::config::schema();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    if let Err(error) = jsonschema::meta::validate(&schema) {
        panic!("{}: {error}", error.instance_path());
    }
}

#[test]
fn every_field_is_described_and_no_other_is_taken() {
    let schema = meshgate::config::schema();
    let definitions = schema["$defs"].as_object().unwrap();
    let mut fields = 0;
    for (owner, definition) in definitions.iter().chain([(&"Config".to_owned(), &schema)]) {
        // `Verified` adds to `Provider`.
        let Some(properties) = definition.get("properties").filter(|_| owner != "Verified") else {
            continue;
        };
        assert_eq!(definition["additionalProperties"], false, "{owner}");
        for (name, property) in properties.as_object().unwrap() {
            let description = property["description"].as_str().unwrap_or_default();
            assert!(description.ends_with('.'), "{owner}.{name}: {description:?}");
            fields += 1;
        }
    }
    assert!(fields > 150, "{fields}");
}

#[test]
fn the_schema_takes_every_config_that_the_repository_shows() {
    let validator = validator();
    let configs = shown_configs();
    for (file, config) in &configs {
        let errors: Vec<String> = validator
            .iter_errors(config)
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect();
        assert!(errors.is_empty(), "{}: {errors:?}", file.display());
    }
    assert!(configs.len() >= 10, "{}", configs.len());
}

/// So what is refused is refused for what it says, not because the schema could never take anything.
#[test]
fn words_of_the_schema_are_words_of_the_config() {
    fn words(value: &Value, all: &mut Vec<String>) {
        match value {
            Value::Object(members) => {
                let words_here = members.get("enum").and_then(Value::as_array);
                all.extend(
                    words_here.into_iter().flatten().map(|one| one.as_str().unwrap().to_owned()),
                );
                members.values().for_each(|member| words(member, all));
            }
            Value::Array(items) => items.iter().for_each(|item| words(item, all)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let mut all = Vec::new();
    words(&meshgate::config::schema()["$defs"]["Algorithm"], &mut all);
    for word in &all {
        let parsed = word.parse::<meshgate::token::algorithm::Algorithm>();
        assert!(parsed.is_ok(), "{word}");
    }
    let told = "none".parse::<meshgate::token::algorithm::Algorithm>().unwrap_err().0;
    assert_eq!(told.matches('`').count() / 2 - 1, all.len(), "{told}");
}
