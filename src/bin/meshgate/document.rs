//! Configs as they lie in files: bare, in Envoy's config or in a `WasmPlugin`, as YAML or JSON.

use std::fs;
use std::path::Path;

use serde::Deserialize as _;
use serde_json::Value;

/// The filter's config in `file`, as JSON. Where there are several, the one of this `mode`.
///
/// # Errors
/// Where there is none, or not one alone. Nothing of the file is quoted.
pub fn config(file: &Path, mode: Option<&str>) -> Result<Vec<u8>, String> {
    let place = file.display();
    let text = fs::read_to_string(file).map_err(|error| format!("{place}: {error}"))?;
    let mut found = Vec::new();
    for document in yaml_serde::Deserializer::from_str(&text) {
        let document = Value::deserialize(document)
            .map_err(|error| format!("{place}: neither YAML nor JSON: {error}"))?;
        if document.get("providers").is_some() || document.get("mode").is_some_and(Value::is_string)
        {
            found.push(document);
        } else {
            collect(&document, &mut found);
        }
    }
    let word =
        |config: &Value| config.get("mode").and_then(Value::as_str).unwrap_or("gateway").to_owned();
    let modes: Vec<String> = found.iter().map(&word).collect();
    found.retain(|config| mode.is_none_or(|mode| word(config) == mode));
    match (found.as_slice(), mode) {
        ([one], _) => Ok(one.to_string().into_bytes()),
        ([], None) => Err(format!("{place}: there is no meshgate config in it")),
        ([], Some(mode)) => Err(format!("{place}: it has no config with `mode: {mode}`")),
        (_, _) => Err(format!(
            "{place}: it has {} meshgate configs ({}), choose one by --mode or give it a file of its own",
            modes.len(),
            modes.join(", ")
        )),
    }
}

/// Istio's `pluginConfig`, and Envoy's `configuration`, as a `Struct` or as a text.
fn collect(value: &Value, found: &mut Vec<Value>) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                let config = match name.as_str() {
                    "pluginConfig" => Some(member.clone()),
                    "configuration" => match member.get("value") {
                        Some(Value::String(text)) => serde_json::from_str(text).ok(),
                        other => other.cloned(),
                    },
                    _ => None,
                };
                match config {
                    Some(config) => found.push(config),
                    None => collect(member, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Whether a text has a JWT in it: its header begins with `{"`.
pub fn looks_like_token(text: &str) -> bool {
    text.contains("eyJ") && text.matches('.').count() >= 2
}
