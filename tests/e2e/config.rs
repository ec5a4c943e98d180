//! How a config reaches the filter, and what Envoy says of a bad one.

use harness::testbed::Testbed;
use serde_json::json;

use crate::support::{LONG, assert_serves, plugin, user_token};

#[test]
fn a_bad_config_stops_envoy_with_every_problem_in_its_log() {
    let Err(error) = Testbed::gateway()
        .filter_config(|config| {
            config["providers"]["clerk"]["audience"] = json!(["x"]);
            config["user"]["lookup"]["timeout"] = json!("fast");
            config["mode"] = json!("gatway");
        })
        .try_start()
    else {
        panic!("Envoy started with a bad config");
    };
    for problem in [
        "the config has 3 problems",
        "providers.clerk.audience: unknown field, did you mean `audiences`?",
        "mode: `gatway` is not a mode, write `gateway`",
        "user.lookup.timeout: `fast` is not a duration",
    ] {
        assert!(error.log.contains(problem), "{problem} is not in {}", error.log);
    }
}

#[test]
fn an_empty_config_is_refused_with_a_remedy() {
    let Err(error) = Testbed::gateway()
        .bootstrap(|bootstrap| {
            plugin(bootstrap).as_object_mut().unwrap().remove("configuration");
        })
        .try_start()
    else {
        panic!("Envoy started without a config");
    };
    assert!(error.log.contains("is empty, write at least `mode`"), "{}", error.log);
}

#[test]
fn a_string_value_works_like_a_struct() {
    let bed = Testbed::gateway()
        .bootstrap(|bootstrap| {
            let configuration = &mut plugin(bootstrap)["configuration"];
            *configuration = json!({
                "@type": "type.googleapis.com/google.protobuf.StringValue",
                "value": configuration["value"].to_string(),
            });
        })
        .start();
    assert_serves(&bed);
}

#[test]
fn a_secret_of_the_environment_reaches_the_users_service_and_no_log() {
    let bed = Testbed::gateway()
        .env("USERS_API_KEY", "correct-horse")
        .bootstrap(|bootstrap| {
            plugin(bootstrap)["vm_config"]["environment_variables"] =
                json!({"host_env_keys": ["USERS_API_KEY"]});
        })
        .filter_config(|config| {
            config["user"]["lookup"]["headers"] =
                json!({"authorization": "Bearer ${env:USERS_API_KEY}"});
        })
        .component_log_level("wasm:trace")
        .start();
    assert_serves(&bed);
    let asked = bed.users.seen();
    assert_eq!(asked[0].header("authorization"), Some(&b"Bearer correct-horse"[..]));
    let log = bed.envoy.log();
    assert!(!log.contains("correct-horse"));
    let token = user_token(&bed);
    assert!(!log.contains(token.rsplit('.').next().unwrap()));
}

#[test]
fn the_module_says_its_version_when_it_starts() {
    let bed = Testbed::gateway().start();
    let line = format!("meshgate {}: configured", env!("CARGO_PKG_VERSION"));
    bed.envoy.wait_for_log(&line, LONG);
}
