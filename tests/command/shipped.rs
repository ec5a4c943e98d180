//! What `meshgate check` cannot see of the files that users copy and read: the parts that are commented out, and whether
//! files fit each other.

use std::fs;
use std::path::Path;

use harness::testbed::with_parts;
use meshgate::config::Config;
use serde_json::{Value, json};

use crate::support::{ROOT, meshgate, within};

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

/// Istio's newer kind has what is about the module in a part of its own.
fn as_traffic_extension(plugin: &Value) -> Value {
    let mut resource = plugin.clone();
    resource["kind"] = json!("TrafficExtension");
    let spec = resource["spec"].as_object_mut().unwrap();
    let names: Vec<String> = spec.keys().cloned().collect();
    let mut wasm = serde_json::Map::new();
    for name in names {
        if !["selector", "targetRefs", "phase", "priority", "match"].contains(&name.as_str()) {
            wasm.insert(name.clone(), spec.remove(&name).unwrap());
        }
    }
    spec.insert("wasm".to_owned(), wasm.into());
    resource
}

#[test]
fn the_traffic_extensions_are_the_wasm_plugins() {
    let istio = Path::new(ROOT).join("envoy/istio");
    let read = |file: &str| documents(&fs::read_to_string(istio.join(file)).unwrap());
    let plugins: Vec<Value> = ["ingressgateway.yaml", "sidecar.yaml", "waypoint.yaml"]
        .into_iter()
        .flat_map(read)
        .filter(|one| one["kind"] == "WasmPlugin")
        .map(|one| as_traffic_extension(&one))
        .collect();
    assert_eq!(plugins.len(), 4);
    assert_eq!(read("trafficextension.yaml"), plugins);
}

#[test]
fn every_plugin_for_istio_fails_closed_and_comes_first() {
    let mut plugins = 0;
    for file in ["ingressgateway", "sidecar", "waypoint", "quickstart"] {
        let path = Path::new(ROOT).join(format!("envoy/istio/{file}.yaml"));
        for one in documents(&fs::read_to_string(path).unwrap()) {
            if one["kind"] == "WasmPlugin" {
                let spec = &one["spec"];
                assert_eq!(
                    (&spec["failStrategy"], &spec["phase"], &spec["priority"]),
                    (&json!("FAIL_CLOSE"), &json!("AUTHN"), &json!(100)),
                    "{file}: {}",
                    one["metadata"]["name"]
                );
                plugins += 1;
            }
        }
    }
    assert_eq!(plugins, 8);
}

#[test]
fn the_manuals_table_of_codes_is_the_commands() {
    let ran = meshgate(&["codes", "--format", "markdown"], &[], "");
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    let page = fs::read_to_string(Path::new(ROOT).join("docs/troubleshooting.md")).unwrap();
    assert!(
        page.contains(&ran.stdout),
        "put this between the marks in docs/troubleshooting.md:\n{}",
        ran.stdout
    );
}

#[test]
fn a_code_is_told_with_its_remedy_and_an_unknown_one_is_said_to_be() {
    let ran = meshgate(&["codes", "token_expired"], &[], "");
    assert_eq!(ran.code, 0);
    assert!(
        ran.stdout.starts_with("token_expired (401): the token has expired\n  "),
        "{}",
        ran.stdout
    );
    let ran = meshgate(&["codes", "token_stale"], &[], "");
    assert_eq!((ran.code, ran.stdout.as_str()), (2, ""));
    assert_eq!(ran.stderr, "error: there is no code `token_stale`, `meshgate codes` lists them\n");
}

/// All Rust of the repository's tests and sources.
fn sources(dir: &Path, text: &mut String) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, text);
        } else if path.extension().is_some_and(|one| one == "rs") {
            text.push_str(&fs::read_to_string(&path).unwrap());
        }
    }
}

#[test]
fn every_test_that_the_threat_model_names_is_there() {
    let model = fs::read_to_string(Path::new(ROOT).join("SECURITY.md")).unwrap();
    let mut code = String::new();
    for dir in ["src", "tests"] {
        sources(&Path::new(ROOT).join(dir), &mut code);
    }
    let mut named = 0;
    for row in model.lines().filter(|line| line.starts_with("| ")) {
        let last = row.trim_end_matches('|').rsplit('|').next().unwrap();
        for name in last.split('`').skip(1).step_by(2).filter(|name| name.contains('_')) {
            assert!(code.contains(&format!("fn {name}()")), "SECURITY.md: no test `{name}`");
            named += 1;
        }
    }
    assert!(named > 50, "{named}");
}

/// The anchors of a page, as GitHub makes them of headings, and those that are written.
fn anchors(page: &str) -> Vec<String> {
    let headings = page.lines().filter_map(|line| {
        let heading = line.strip_prefix('#')?.trim_start_matches('#').strip_prefix(' ')?;
        let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
        Some(heading.to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-"))
    });
    let written = page.split("<a id=\"").skip(1).filter_map(|rest| rest.split('"').next());
    headings.chain(written.map(str::to_owned)).collect()
}

#[test]
fn every_link_of_the_manual_leads_somewhere() {
    let root = Path::new(ROOT);
    let mut pages =
        vec![root.join("README.md"), root.join("SECURITY.md"), root.join("fuzz/README.md")];
    pages.extend(fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path()));
    pages.retain(|page| page.extension().is_some_and(|one| one == "md"));
    let (mut links, mut broken) = (0, Vec::new());
    for page in &pages {
        let text = fs::read_to_string(page).unwrap();
        for link in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            if link.starts_with("https://") {
                continue;
            }
            links += 1;
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { page.clone() } else { page.with_file_name(file) };
            let there = anchor.is_empty()
                || fs::read_to_string(&target)
                    .is_ok_and(|text| anchors(&text).iter().any(|one| one == anchor));
            if !target.exists() || !there {
                broken.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    assert!(links > 100, "{links}");
}
