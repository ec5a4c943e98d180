//! The resources under `envoy/istio` are what Istio takes, by the schemas that a cluster with Istio checks them with.
//!
//! A cluster drops fields that it does not know without a word; here they are errors.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use harness::go::istio_crds;
use harness::skip::require;
use jsonschema::Validator;
use serde_json::{Value, json};

fn documents(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).unwrap();
    let texts = text.split("\n---\n");
    texts
        .map(|text| {
            yaml_serde::from_str(text).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
        })
        .collect()
}

/// Makes fields that nobody knows an error, wherever the schema says what there is. Conditions are left as they are: they
/// name only the fields that they are about.
fn strict(schema: &mut Value) {
    let Some(members) = schema.as_object_mut() else { return };
    let open = members.contains_key("x-kubernetes-preserve-unknown-fields");
    if members.contains_key("properties") && !open {
        members.entry("additionalProperties").or_insert(json!(false));
    }
    for (name, member) in members {
        match name.as_str() {
            "properties" => member.as_object_mut().unwrap().values_mut().for_each(strict),
            "items" | "additionalProperties" => strict(member),
            _ => {}
        }
    }
}

/// The validators of what is in `spec`, by kind and version.
fn validators(crds: &Path) -> BTreeMap<(String, String), Validator> {
    let mut validators = BTreeMap::new();
    for mut crd in documents(crds) {
        let spec = crd["spec"].take();
        for version in spec["versions"].as_array().unwrap() {
            let mut schema = version["schema"]["openAPIV3Schema"]["properties"]["spec"].clone();
            strict(&mut schema);
            let kind = spec["names"]["kind"].as_str().unwrap().to_owned();
            let group = spec["group"].as_str().unwrap();
            let version = format!("{group}/{}", version["name"].as_str().unwrap());
            validators.insert((kind, version), jsonschema::draft202012::new(&schema).unwrap());
        }
    }
    validators
}

fn files(dir: PathBuf, all: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(path, all);
        } else {
            all.push(path);
        }
    }
}

#[test]
fn every_resource_is_one_that_istio_takes() {
    let Some(crds) = require("Istio's schemas", istio_crds()) else { return };
    let validators = validators(&crds);
    let mut all = Vec::new();
    files(Path::new(env!("CARGO_MANIFEST_DIR")).join("envoy/istio"), &mut all);
    let mut checked = BTreeMap::new();
    for file in all {
        for resource in documents(&file) {
            let text = |member: &Value| member.as_str().unwrap_or_default().to_owned();
            let (kind, version) = (text(&resource["kind"]), text(&resource["apiVersion"]));
            if !version.contains("istio.io/") {
                continue;
            }
            let place = format!("{}: {kind} {}", file.display(), resource["metadata"]["name"]);
            let validator = validators.get(&(kind.clone(), version.clone()));
            let validator = validator.unwrap_or_else(|| panic!("{place}: Istio has no {version}"));
            let errors: Vec<String> = validator
                .iter_errors(&resource["spec"])
                .map(|error| format!("spec{}: {error}", error.instance_path()))
                .collect();
            assert!(errors.is_empty(), "{place}:\n{}", errors.join("\n"));
            *checked.entry(kind).or_insert(0) += 1;
        }
    }
    for kind in [
        "WasmPlugin",
        "TrafficExtension",
        "ServiceEntry",
        "DestinationRule",
        "Telemetry",
        "PeerAuthentication",
        "AuthorizationPolicy",
        "Gateway",
        "VirtualService",
    ] {
        assert!(checked.contains_key(kind), "no {kind} among {checked:?}");
    }
}

#[test]
fn what_istio_does_not_know_would_be_found() {
    let Some(crds) = require("Istio's schemas", istio_crds()) else { return };
    let validators = validators(&crds);
    let validator =
        &validators[&("WasmPlugin".to_owned(), "extensions.istio.io/v1alpha1".to_owned())];
    let good = json!({"url": "oci://a/b", "phase": "AUTHN", "failStrategy": "FAIL_CLOSE", "pluginConfig": {"any": [1]},
                      "vmConfig": {"env": [{"name": "A", "valueFrom": "HOST"}]}});
    assert!(validator.is_valid(&good));
    for (pointer, value) in [
        ("/failStrategy", json!("FAIL_CLOSED")),
        ("/phase", json!("AUTHENTICATION")),
        ("/vmConfig/env/0/valueFrom", json!("SECRET")),
        ("/vmConfig/env/0", json!({"name": "A", "from": "HOST"})),
        ("/vmConfig", json!({"environment": []})),
        ("", json!({"url": "oci://a/b", "fail_strategy": "FAIL_CLOSE"})),
    ] {
        let mut bad = good.clone();
        *bad.pointer_mut(pointer).unwrap() = value;
        assert!(!validator.is_valid(&bad), "{bad}");
    }
}
