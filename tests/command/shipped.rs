//! What `meshgate check` cannot see of the files that users copy: the parts that are commented out, and whether files fit
//! each other.

use std::fs;
use std::path::Path;

use harness::testbed::with_parts;
use meshgate::config::Config;
use serde_json::{Value, json};

use crate::support::within;

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
            for config in within(&document) {
                assert_accepted(config, &format!("{file} with {parts:?}"));
                for place in places {
                    assert!(config.pointer(place).is_some(), "{file}: no {place} with {parts:?}");
                }
            }
        }
    }
}

#[test]
fn those_who_ask_pass_every_context_header_of_the_auth_service_on() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("envoy");
    let service = documents(&fs::read_to_string(root.join("authz.yaml")).unwrap());
    let context = within(&service[0])[0]["context"]["headers"].as_object().unwrap();
    assert!(context.len() >= 4, "{context:?}");
    let nginx = fs::read_to_string(root.join("nginx/auth_request.conf")).unwrap().to_lowercase();
    let client = fs::read_to_string(root.join("authz-client.yaml")).unwrap();
    for name in context.keys() {
        let variable = name.replace('-', "_");
        assert!(nginx.contains(&format!("proxy_set_header {name} ")), "nginx: {name}");
        assert!(nginx.contains(&format!("$upstream_http_{variable};")), "nginx: {name}");
        assert!(client.contains(&format!("- exact: {name}\n")), "ext_authz: {name}");
    }
}
