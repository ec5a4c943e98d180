//! The configs that users copy are configs that the filter takes.

use std::fs;
use std::path::{Path, PathBuf};

use harness::testbed::with_parts;
use meshgate::config::Config;
use serde_json::{Value, json};

/// Every YAML file below `dir`.
fn yaml_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(yaml_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "yaml") {
            files.push(path);
        }
    }
    files
}

/// The filter configs within a document: Istio's `pluginConfig` and Envoy's `configuration.value`.
fn filter_configs(value: &Value) -> Vec<&Value> {
    match value {
        Value::Object(members) => members
            .iter()
            .flat_map(|(name, member)| match name.as_str() {
                "pluginConfig" => vec![member],
                "configuration" => vec![&member["value"]],
                _ => filter_configs(member),
            })
            .collect(),
        Value::Array(items) => items.iter().flat_map(filter_configs).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
    }
}

#[track_caller]
fn assert_accepted(config: &Value, place: &str) {
    // RFC 8037 appendix A.1.
    let key = json!({"kty": "OKP", "crv": "Ed25519",
                     "d": "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A",
                     "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"});
    let env = |name: &str| match name {
        "TXN_KEY" | "MESH_SIGNING_KEY" => Some(key.to_string()),
        _ => Some("a secret of 32 bytes for a test.".to_owned()),
    };
    if let Err(error) = Config::parse(config.to_string().as_bytes(), &env) {
        panic!("{place}: {error}");
    }
}

fn documents(yaml: &str) -> Vec<Value> {
    yaml.split("\n---\n").map(|text| yaml_serde::from_str(text).unwrap()).collect()
}

#[test]
fn every_config_under_envoy_is_accepted() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = 0;
    for file in yaml_files(&root.join("envoy")) {
        for document in documents(&fs::read_to_string(&file).unwrap()) {
            for config in filter_configs(&document) {
                assert_accepted(config, &file.display().to_string());
                found += 1;
            }
        }
    }
    assert!(found >= 2, "found {found} configs");
}

/// The e2e tests run the signed context and the service tokens with these very lines, too.
#[test]
fn every_part_that_is_commented_out_under_envoy_can_be_had() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("envoy");
    let cases: [(&str, &[&str], &[&str]); 4] = [
        ("gateway.yaml", &["environment_variables:", "txn_token:"], &["/txn_token/issue"]),
        (
            "sidecar.yaml",
            &["gateway:", "txn_token:", "- name: edge"],
            &["/providers/gateway", "/boundary/txn_token"],
        ),
        (
            "sidecar.yaml",
            &["mesh:", "service_tokens:"],
            &["/providers/mesh", "/boundary/service_tokens/bind_to_peer"],
        ),
        ("egress.yaml", &["sharing:", "propagation:"], &["/sharing/key", "/propagation"]),
    ];
    for (file, parts, places) in cases {
        let text = fs::read_to_string(root.join(file)).unwrap();
        for document in documents(&with_parts(&text, parts)) {
            for config in filter_configs(&document) {
                assert_accepted(config, &format!("{file} with {parts:?}"));
                for place in places {
                    assert!(config.pointer(place).is_some(), "{file}: no {place} with {parts:?}");
                }
            }
        }
    }
}

#[test]
fn every_config_in_the_documents_is_accepted() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = 0;
    for file in ["README.md", "docs/configuration.md", "docs/migration.md", "docs/revocation.md"] {
        let text = fs::read_to_string(root.join(file)).unwrap();
        for block in text.split("```yaml\n").skip(1) {
            let block = block.split("```").next().unwrap();
            assert_accepted(&yaml_serde::from_str(block).unwrap(), file);
            found += 1;
        }
    }
    assert!(found >= 3, "found {found} configs");
}
