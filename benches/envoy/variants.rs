//! The Envoys that are compared: `envoy/gateway.yaml`, each with HTTP filters of its own.

use std::time::{Duration, Instant};

use harness::envoy::{Envoy, Launch};
use harness::idp::{AUDIENCE, ISSUER, JWKS_PATH};
use harness::testbed;
use serde_json::{Value, json};

use crate::services::{AUTHZ, CLERK_ID, Services};

/// What stands before the router.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Variant {
    /// Nothing: what the others' costs are counted from.
    Bare,
    /// Envoy's own filter, which verifies each token.
    JwtAuthn,
    /// The same, which remembers tokens.
    JwtAuthnCache,
    /// The same without memory, and the users service asked about each request: what people run today.
    JwtAuthnExtAuthz,
    /// The same with memory, and a script that strips, asks for users, remembers them, and sets the headers.
    JwtAuthnLua,
    /// The filter that this is about.
    Meshgate,
    /// The same, which tells the access log the user's id and no other fact.
    MeshgateTerse,
    /// The same as the first, which signs the context (`Txn-Token`, Ed25519).
    MeshgateSigning,
}

impl Variant {
    pub fn name(self) -> &'static str {
        match self {
            Self::Bare => "no filter",
            Self::JwtAuthn => "jwt_authn",
            Self::JwtAuthnCache => "jwt_authn, cached",
            Self::JwtAuthnExtAuthz => "jwt_authn + ext_authz",
            Self::JwtAuthnLua => "jwt_authn, cached + Lua",
            Self::Meshgate => "meshgate",
            Self::MeshgateTerse => "meshgate, one fact",
            Self::MeshgateSigning => "meshgate, signing",
        }
    }

    /// Starts it, and says how long that took.
    pub fn start(self, services: &Services, workers: u32) -> (Envoy, Duration) {
        let clusters = [
            ("clerk", services.idp.address()),
            ("users", services.users.address()),
            ("videos", services.upstream.address()),
        ];
        let mut bootstrap = testbed::bootstrap("gateway.yaml", &clusters);
        let manager = &mut bootstrap["static_resources"]["listeners"][0]["filter_chains"][0]["filters"]
            [0]["typed_config"];
        // It costs all of them the same, and more than what is measured here.
        manager["access_log"] = json!([]);
        let filters = manager["http_filters"].as_array_mut().expect("a list of filters");
        let (mut ours, router) = (filters.remove(0), filters.remove(0));
        // As patient as the others: a busy machine is slow, and an answer in time costs the same.
        config_of(&mut ours)["user"]["lookup"]["timeout"] = json!("1s");
        *filters = self.filters(ours);
        filters.push(router);
        testbed::load_module(&mut bootstrap);
        let began = Instant::now();
        let launch = Launch::new(bootstrap).concurrency(workers).component_log_level("wasm:info");
        (launch.start(), began.elapsed())
    }

    fn filters(self, meshgate: Value) -> Vec<Value> {
        match self {
            Self::Bare => Vec::new(),
            Self::JwtAuthn => vec![jwt_authn(false)],
            Self::JwtAuthnCache => vec![jwt_authn(true)],
            Self::JwtAuthnExtAuthz => vec![jwt_authn(false), ext_authz()],
            Self::JwtAuthnLua => vec![jwt_authn(true), lua()],
            Self::Meshgate => vec![meshgate],
            Self::MeshgateTerse => {
                vec![with(meshgate, "access_log", json!({"facts": ["user_id"]}))]
            }
            Self::MeshgateSigning => vec![signing(meshgate)],
        }
    }
}

fn jwt_authn(remembers: bool) -> Value {
    let mut provider = json!({
        "issuer": ISSUER,
        "audiences": [AUDIENCE],
        "remote_jwks": {
            "http_uri": {
                "uri": format!("http://clerk.internal{JWKS_PATH}"), "cluster": "clerk", "timeout": "2s",
            },
            "cache_duration": "600s",
        },
        "claim_to_headers": [{"header_name": CLERK_ID, "claim_name": "clerkId"}],
    });
    if remembers {
        provider["jwt_cache_config"] = json!({"jwt_cache_size": 1000});
    }
    filter(
        "envoy.filters.http.jwt_authn",
        "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
        json!({
            "providers": {"clerk": provider},
            "rules": [{"match": {"prefix": "/api"}, "requires": {"provider_name": "clerk"}}],
        }),
    )
}

fn ext_authz() -> Value {
    let exact = |name: &str| json!({"exact": name});
    let context = ["x-user-id", "x-user-clerk-id", "x-user-role", "x-user-channel-id"].map(exact);
    filter(
        "envoy.filters.http.ext_authz",
        "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
        json!({
            "http_service": {
                "server_uri": {"uri": "http://users.internal", "cluster": "users", "timeout": "1s"},
                "path_prefix": AUTHZ,
                "authorization_response": {"allowed_upstream_headers": {"patterns": context}},
            },
            "allowed_headers": {"patterns": [exact(CLERK_ID)]},
        }),
    )
}

fn lua() -> Value {
    filter(
        "envoy.filters.http.lua",
        "envoy.extensions.filters.http.lua.v3.Lua",
        json!({"default_source_code": {"inline_string": include_str!("context.lua")}}),
    )
}

/// With the private key of RFC 8037 appendix A.1.
fn signing(meshgate: Value) -> Value {
    let key = json!({
        "kty": "OKP", "crv": "Ed25519", "kid": "g1",
        "d": "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A",
        "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
    });
    let issue = json!({
        "issuer": "https://gateway.example.com", "audience": "prod.example.com",
        "key": key.to_string(), "kid": "g1",
    });
    with(meshgate, "txn_token", json!({"issue": issue}))
}

fn with(mut meshgate: Value, field: &str, value: Value) -> Value {
    config_of(&mut meshgate)[field] = value;
    meshgate
}

fn config_of(meshgate: &mut Value) -> &mut Value {
    &mut meshgate["typed_config"]["config"]["configuration"]["value"]
}

fn filter(name: &str, kind: &str, config: Value) -> Value {
    let mut config = config;
    config["@type"] = json!(format!("type.googleapis.com/{kind}"));
    json!({"name": name, "typed_config": config})
}
