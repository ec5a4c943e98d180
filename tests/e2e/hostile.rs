//! What nobody should send, to the module in a real Envoy: requests as bytes and as frames, by hand and
//! generated, and answers of every service that it asks. Whatever comes, nothing forged reaches the upstream,
//! nothing traps, and the next good request is served.

mod answers;
mod battery;
mod bytes;
mod framing;
mod grammar;
mod http2;
mod modes;
mod sizes;
mod upgrades;

use harness::testbed::Testbed;
use serde_json::{Value, json};

use crate::support::{assert_denied, user_token};

/// The HTTP connection manager of the first listener.
fn manager(bootstrap: &mut Value) -> &mut Value {
    let chain = &mut bootstrap["static_resources"]["listeners"][0]["filter_chains"][0];
    &mut chain["filters"][0]["typed_config"]
}

/// An Envoy that lets through whatever it can be told to let through.
fn lenient(bootstrap: &mut Value) {
    let manager = manager(bootstrap);
    let options = manager.as_object_mut().unwrap();
    for option in ["normalize_path", "merge_slashes", "path_with_escaped_slashes_action"] {
        options.remove(option);
    }
    manager["http_protocol_options"] = json!({
        "accept_http_10": true, "allow_chunked_length": true, "allow_custom_methods": true,
        "enable_trailers": true,
    });
    manager["upgrade_configs"] = json!([{"upgrade_type": "websocket"}]);
    let clusters = bootstrap["static_resources"]["clusters"].as_array_mut().unwrap();
    for cluster in clusters.iter_mut().filter(|cluster| cluster["transport_socket"].is_null()) {
        cluster["typed_extension_protocol_options"] = json!({
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http_protocol_options": {"enable_trailers": true}},
            }
        });
    }
}

#[test]
fn a_cluster_that_envoy_does_not_know_is_503_and_named_in_the_log() {
    let bed = Testbed::gateway()
        .filter_config(|config| config["user"]["lookup"]["cluster"] = json!("no-such-cluster"))
        .start();
    let token = user_token(&bed);
    for _ in 0..3 {
        let response = bed.get("/api/comments").bearer(&token).send();
        assert_denied(&response, 503, "user_lookup_unavailable");
        assert_eq!(bed.get("/api/videos").send().status, 200, "other requests are served");
    }
    bed.envoy.wait_for_log(
        "user lookup cluster=no-such-cluster: Envoy has no such cluster",
        crate::support::LONG,
    );
    bed.no_traps();

    let bed = Testbed::gateway()
        .filter_config(|config| {
            config["providers"]["clerk"]["remote_jwks"]["cluster"] = json!("no-such-cluster");
        })
        .start();
    for _ in 0..3 {
        let response = bed.get("/api/comments").bearer(&user_token(&bed)).send();
        assert_denied(&response, 503, "keys_unavailable");
    }
    bed.no_traps();
}

#[test]
fn a_cluster_without_endpoints_is_503() {
    let bed = Testbed::gateway()
        .bootstrap(|bootstrap| {
            for cluster in bootstrap["static_resources"]["clusters"].as_array_mut().unwrap() {
                if cluster["name"] == "users" {
                    cluster["load_assignment"]["endpoints"] = json!([]);
                }
            }
        })
        .start();
    for _ in 0..3 {
        let response = bed.get("/api/comments").bearer(&user_token(&bed)).send();
        assert_denied(&response, 503, "user_lookup_unavailable");
    }
    bed.no_traps();
}
