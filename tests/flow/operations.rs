//! What operators copy: alert rules that Prometheus takes, each with its entry in the runbook, and labels that
//! are the same however they are made. The e2e tests hold it all against a live Envoy.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use meshgate::config::Config;
use meshgate::metrics::Report;
use regex::Regex;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::support::config;

fn read(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A file of rules, as Prometheus reads it: a name that it does not know is an error there, too.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rules {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    name: String,
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    alert: String,
    expr: String,
    #[serde(default, rename = "for")]
    lasts: Option<String>,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
}

fn rules() -> Vec<Rule> {
    let rules: Rules = yaml_serde::from_str(&read("envoy/prometheus/meshgate.rules.yaml")).unwrap();
    assert!(rules.groups.iter().all(|group| !group.name.is_empty()));
    rules.groups.into_iter().flat_map(|group| group.rules).collect()
}

#[test]
fn every_alert_is_well_formed_and_has_its_entry_in_the_runbook() {
    let manual = read("docs/operations.md");
    let runbook = manual.split("\n## Runbook\n").nth(1).unwrap();
    let mut entries: Vec<&str> =
        runbook.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    let duration = Regex::new("^[0-9]+(s|m|h|d)$").unwrap();
    for Rule { alert, expr, lasts, labels, annotations } in rules() {
        promql_parser::parser::parse(&expr).unwrap_or_else(|error| panic!("{alert}: {error}"));
        assert!(lasts.is_none_or(|lasts| duration.is_match(&lasts)), "{alert}");
        assert!(matches!(labels["severity"].as_str(), "critical" | "warning"), "{alert}");
        assert_eq!(labels.len(), 1, "{alert}");
        let place = format!("docs/operations.md#{}", alert.to_lowercase());
        assert_eq!(annotations["runbook_url"], place);
        assert!(!annotations["summary"].is_empty() && annotations.len() == 2, "{alert}");
        let entry = entries.iter().position(|entry| *entry == alert);
        entries.remove(entry.unwrap_or_else(|| panic!("{alert} is not in the runbook, or twice")));
    }
    assert!(entries.is_empty(), "the runbook has entries of no alert: {entries:?}");
}

#[test]
fn a_broken_expression_is_no_query() {
    // The test above rests on that.
    for broken in ["sum(rate(meshgate_requests[5m])", "rate(meshgate_waiters)", "a{b=c}"] {
        assert!(promql_parser::parser::parse(broken).is_err(), "{broken}");
    }
}

/// A metric as Prometheus knows it.
type Labelled = (String, BTreeMap<String, String>);

/// As Prometheus sees it where Envoy makes no labels.
fn flat(name: &str) -> String {
    name.replace(['.', '-'], "_")
}

/// As Envoy makes labels: of each tag's regex, the second group is the value, and the first is cut out.
fn by_envoy(name: &str, tags: &[(String, Regex)]) -> Labelled {
    let full = format!("wasmcustom.{name}");
    let mut rest = full.clone();
    let mut labels = BTreeMap::new();
    for (tag, regex) in tags {
        if let Some(found) = regex.captures(&full) {
            labels.insert(tag.clone(), found[2].to_owned());
            rest = rest.replacen(&found[1], "", 1);
        }
    }
    (flat(rest.trim_start_matches("wasmcustom.")), labels)
}

/// As Prometheus does with the rules for that.
fn by_prometheus(name: &str, rules: &[Value]) -> Labelled {
    let mut labels = BTreeMap::from([("__name__".to_owned(), flat(name))]);
    for rule in rules {
        assert_eq!(rule["source_labels"], json!(["__name__"]));
        let whole = format!("^(?:{})$", rule["regex"].as_str().unwrap());
        let source = labels["__name__"].clone();
        if let Some(found) = Regex::new(&whole).unwrap().captures(&source) {
            let mut value = String::new();
            let template = rule["replacement"].as_str().unwrap();
            // `$1_` would be a group of that name in Prometheus as it is here.
            found.expand(template, &mut value);
            let target = rule["target_label"].as_str().unwrap().to_owned();
            if value.is_empty() {
                labels.remove(&target);
            } else {
                labels.insert(target, value);
            }
        }
    }
    (labels.remove("__name__").unwrap(), labels)
}

fn stats_tags(file: &str) -> Value {
    let bootstrap: Value = yaml_serde::from_str(&read(file)).unwrap();
    bootstrap["stats_config"]["stats_tags"].clone()
}

/// A config of each mode, with all that has metrics.
fn configs() -> Vec<Value> {
    let mut gateway = config();
    gateway["sharing"] = json!({"key": "sixteen random bytes"});
    gateway["user"]["lookup"]["redis"] = json!({"cluster": "webdis"});
    gateway["revocation"] = json!({
        "feed": {"uri": "http://auth.internal/revocations", "cluster": "auth"},
        "redis": {"cluster": "webdis"},
    });
    gateway["providers"]["opaque-tokens"] = json!({
        "issuer": "idp", "audiences": ["api"],
        "introspection": {"uri": "http://idp.internal/introspect", "cluster": "idp",
                          "client_id": "a", "client_secret": "b"},
    });
    for name in ["fetch_ok", "my-idp"] {
        gateway["providers"][name] = gateway["providers"]["clerk"].clone();
        gateway["providers"][name]["issuer"] = json!(name);
    }
    let mut service = config();
    service["mode"] = json!("service");
    service["service"] = json!({"name": "videos"});
    service["boundary"] = json!({"peers": [{"spiffe_id": "spiffe://a/b"}]});
    let egress = json!({
        "mode": "egress", "service": {"name": "videos"},
        "providers": {"clerk": {"from_cookies": ["__session"]}},
        "destinations": [{"clusters": ["channels"], "service_token": "mesh"}],
        "service_tokens": {"mesh": {"client_credentials": {
            "uri": "http://idp.internal/token", "cluster": "idp", "client_id": "a", "client_secret": "b"}}},
    });
    vec![gateway, service, egress]
}

#[test]
fn labels_are_the_same_whether_envoy_or_prometheus_makes_them() {
    let tags: Vec<(String, Regex)> = stats_tags("envoy/gateway.yaml")
        .as_array()
        .unwrap()
        .iter()
        .map(|tag| {
            let regex = Regex::new(tag["regex"].as_str().unwrap()).unwrap();
            (tag["tag_name"].as_str().unwrap().to_owned(), regex)
        })
        .collect();
    let relabel: Value =
        yaml_serde::from_str(&read("envoy/prometheus/meshgate.relabel.yaml")).unwrap();
    let relabel = relabel["metric_relabel_configs"].as_array().unwrap();
    let mut labelled = 0;
    for config in configs() {
        let config = Config::parse(config.to_string().as_bytes(), &|_| None)
            .unwrap_or_else(|error| panic!("{error}"));
        for definition in Report::new(&config).definitions() {
            let (name, mut labels) = by_envoy(&definition.name, &tags);
            // Prometheus cannot tell what was a dot.
            for value in labels.values_mut() {
                *value = flat(value);
            }
            labelled += labels.len();
            assert_eq!(by_prometheus(&definition.name, relabel), (name, labels));
        }
    }
    assert!(labelled > 200, "{labelled} labels");
}

#[test]
fn every_shipped_bootstrap_makes_the_same_labels() {
    let tags = stats_tags("envoy/gateway.yaml");
    assert_eq!(tags.as_array().unwrap().len(), 6);
    for file in ["envoy/clerk.yaml", "envoy/sidecar.yaml", "envoy/egress.yaml"] {
        assert_eq!(stats_tags(file), tags, "{file}");
    }
}
