//! Where requests are measured: workers with the configs that users copy, warmed up.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::host::{COUNTING, Callout, Vm};
use crate::tokens::{Rs256, claims, record};

/// 2026-01-01T00:00:00Z.
pub const START: u64 = 1_767_225_600;

/// The gateway's mTLS identity, as `envoy/sidecar.yaml` knows it.
pub const GATEWAY: (&str, &[u8]) =
    ("connection.uri_san_peer_certificate", b"spiffe://cluster.local/ns/edge/sa/gateway");

/// The plugin's config in a file under `envoy/`.
pub fn shipped(file: &str) -> Value {
    fn plugin(value: Value) -> Option<Value> {
        match value {
            Value::Object(mut members) => match members.remove("configuration") {
                Some(mut found) => Some(found["value"].take()),
                None => members.into_iter().find_map(|(_, member)| plugin(member)),
            },
            Value::Array(items) => items.into_iter().find_map(plugin),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
        }
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("envoy").join(file);
    plugin(yaml_serde::from_str(&fs::read_to_string(path).unwrap()).unwrap()).unwrap()
}

/// The shipped gateway, with a fifth context header.
pub fn gateway_config() -> Value {
    let mut config = shipped("gateway.yaml");
    config["context"]["headers"]["x-user-permissions"] =
        json!({"user": "/permissions", "join": ","});
    config
}

/// A worker with the module in it, and neither config nor time yet.
pub fn loaded() -> Vm {
    let environment = [("MESH_CLIENT_SECRET", "a secret")];
    let services = |call: &Callout| Some(answer(&call.cluster, &call.path));
    Vm::load(&COUNTING, &environment, Duration::from_secs(START), Box::new(services))
}

/// A worker that has this config and the issuer's keys, or the service's own token.
pub fn ready(config: &Value) -> Vm {
    let mut vm = loaded();
    vm.configure(config);
    vm.tick_after(Duration::from_millis(1));
    // So that ticks find nothing to tell of that was before.
    vm.tick_after(Duration::from_millis(100));
    vm
}

/// What the one issuer, users service and token endpoint answer.
pub fn answer(cluster: &str, path: &str) -> (u16, Vec<u8>) {
    let body = match cluster {
        "clerk" => json!({"keys": [Rs256::jwk()]}),
        "users" => record(path.rsplit('/').next().unwrap()),
        "mesh-auth" => {
            json!({"access_token": "a".repeat(600), "token_type": "Bearer", "expires_in": 3_600})
        }
        other => panic!("nobody asks {other}"),
    };
    (200, body.to_string().into_bytes())
}

/// A token of this user's that is good for an hour.
pub fn token(user: &str) -> String {
    Rs256::new().token(&claims(user, START - 60))
}
