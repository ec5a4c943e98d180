//! Every vector that can be sent, as a request to a real Envoy with the built module: once where
//! Envoy's BoringSSL checks signatures, once where the module does. Both answer as the core does, at the real time.
//!
//! A filter refuses what has no claims before it looks at the signature, so of the vectors whose payload
//! is plain text only `native` checks that.

use std::collections::{BTreeMap, HashMap};
use std::time::{SystemTime, UNIX_EPOCH};

use harness::client::{Request, Response};
use harness::envoy::{Envoy, Launch};
use harness::{module, skip};
use meshgate::time::UnixTime;
use serde_json::{Value, json};

use crate::corpus::{Corpus, Http, Vector};
use crate::filter::{self, Answer};
use crate::say;

/// Who checks signatures, as the config says it.
const CRYPTO: [&str; 2] = ["host", "module"];

#[test]
fn envoy_s_crypto_and_the_module_s_answer_as_the_core_does() {
    let Some(corpus) = skip::require("the JWT vectors", Corpus::find()) else {
        return;
    };
    let vectors: Vec<&Vector> =
        corpus.vectors.iter().filter(|vector| vector.http != Http::Unsendable).collect();
    let configs: Vec<Value> =
        vectors.iter().map(|vector| filter::config(&corpus, vector)).collect();
    // One listener for each config and crypto.
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut listeners = Vec::new();
    for config in &configs {
        let place = places.len();
        if *places.entry(config.to_string()).or_insert(place) == place {
            listeners.extend(CRYPTO.map(|crypto| listener(crypto, place, config)));
        }
    }
    let envoy = Launch::new(bootstrap(&listeners)).component_log_level("wasm:warn").start();

    let mut wrong = Vec::new();
    let mut codes: BTreeMap<String, usize> = BTreeMap::new();
    for (vector, config) in vectors.iter().zip(&configs) {
        let place = places[&config.to_string()];
        let by = CRYPTO.map(|crypto| ask(&envoy, &name(crypto, place), vector));
        let core = filter::answer(config, vector, now());
        if by.iter().any(|answer| *answer != core) {
            let [host, module] = by;
            wrong.push(format!(
                "{} ({}): core {core:?}, host {host:?}, module {module:?}: {}",
                vector.id, vector.source, vector.note
            ));
        }
        *codes.entry(format!("{} {}", core.0, core.1).trim_end().to_owned()).or_default() += 1;
    }
    envoy.no_traps();
    let codes: Vec<String> = codes.iter().map(|(code, count)| format!("{code} {count}")).collect();
    say(&format!(
        "vectors, Envoy: {} of {} answered alike by core, host and module; {}",
        vectors.len() - wrong.len(),
        vectors.len(),
        codes.join(", ")
    ));
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), vectors.len(), wrong.join("\n"));
}

fn ask(envoy: &Envoy, listener: &str, vector: &Vector) -> Answer {
    let response = Request::get(envoy.address_of(listener), "/")
        .header("authorization", filter::authorization(vector))
        .send();
    (response.status, code(&response))
}

fn code(response: &Response) -> String {
    let problem: Value = serde_json::from_slice(&response.body).unwrap_or_default();
    problem["code"].as_str().unwrap_or_default().to_owned()
}

fn now() -> UnixTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    UnixTime::from_secs(since.as_secs())
}

fn name(crypto: &str, place: usize) -> String {
    format!("{crypto}-{place}")
}

fn bootstrap(listeners: &[Value]) -> Value {
    json!({
        "admin": {"address": free_port()},
        "static_resources": {"listeners": listeners},
    })
}

fn free_port() -> Value {
    json!({"socket_address": {"address": "127.0.0.1", "port_value": 0}})
}

/// Where a token passes, the answer is an empty 200.
fn listener(crypto: &str, place: usize, config: &Value) -> Value {
    let mut config = config.clone();
    config["crypto"] = json!(crypto);
    let http = "type.googleapis.com/envoy.extensions.filters.http";
    json!({
        "name": name(crypto, place),
        "address": free_port(),
        "filter_chains": [{"filters": [{
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                "stat_prefix": "vectors",
                "route_config": {"virtual_hosts": [{
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 200}}],
                }]},
                "http_filters": [
                    {"name": "meshgate", "typed_config": {
                        "@type": format!("{http}.wasm.v3.Wasm"),
                        "config": {
                            "name": "meshgate",
                            "root_id": "meshgate",
                            "failure_policy": "FAIL_CLOSED",
                            "vm_config": {
                                "vm_id": "meshgate",
                                "runtime": "envoy.wasm.runtime.v8",
                                "code": {"local": {"filename": module::build()}},
                            },
                            "configuration": {
                                "@type": "type.googleapis.com/google.protobuf.StringValue",
                                "value": config.to_string(),
                            },
                        },
                    }},
                    {"name": "envoy.filters.http.router", "typed_config": {
                        "@type": format!("{http}.router.v3.Router"),
                    }},
                ],
            },
        }]}],
    })
}
