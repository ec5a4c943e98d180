//! What rules ask for, by whole requests.

use meshgate::config::Config;
use meshgate::denial::Code;
use meshgate::worker::Disposition;
use serde_json::{Value, json};

use crate::support::{Flow, START, claims, config, denied, record};

fn ruled(rules: Value) -> Value {
    let mut config = config();
    config["rules"] = rules;
    config
}

#[test]
fn a_user_must_show_what_the_rule_asks_for() {
    let config = ruled(json!([{
        "match": {"path_template": "/videos/{id}/studio", "hosts": ["studio.example"]},
        "require": "user", "scopes": ["video:write"], "claims": {"org": ["acme"]}, "max_age": "10m",
    }]));
    let good = json!({"scope": "openid video:write", "org": "acme", "auth_time": START - 60});
    for (change, code) in [
        (json!({}), None),
        (json!({"scope": "openid"}), Some(Code::ScopeRequired)),
        (json!({"org": "other"}), Some(Code::ClaimRequired)),
        (json!({"auth_time": START - 700}), Some(Code::AuthenticationTooOld)),
    ] {
        let mut flow = Flow::with(&config).with_keys();
        let mut claims = claims();
        for (name, value) in good.as_object().unwrap().iter().chain(change.as_object().unwrap()) {
            claims[name] = value.clone();
        }
        let authorization = format!("Bearer {}", flow.key.token(&claims));
        let headers =
            [("authorization", authorization.as_bytes()), (":authority", &b"studio.example"[..])];
        let (stream, _, disposition) = flow.send("/videos/7/studio", &headers);
        assert_eq!(disposition, Disposition::Pause);
        let call = flow.call();
        let released = flow.answer(call.id, 200, record().to_string().as_bytes());
        let disposition = crate::support::only(released, stream);
        match code {
            None => drop(crate::support::forwarded(disposition)),
            Some(code) => assert_eq!(denied(&disposition), code, "{change}"),
        }
    }
}

#[test]
fn a_token_that_is_good_today_is_too_old_for_the_rule_tomorrow() {
    let config = ruled(json!([{
        "match": {"path_prefix": "/"}, "require": "user", "max_age": "10m",
    }]));
    let mut flow = Flow::with(&config).with_keys();
    let mut claims = claims();
    claims["auth_time"] = json!(START);
    let token = flow.key.token(&claims);
    crate::support::forwarded(flow.whole("/", &token, &record()));
    flow.advance(std::time::Duration::from_secs(629));
    crate::support::forwarded(flow.whole("/", &token, &record()));
    flow.advance(std::time::Duration::from_secs(2));
    assert_eq!(denied(&flow.whole("/", &token, &record())), Code::AuthenticationTooOld);
}

#[test]
fn rules_that_make_no_sense_are_named() {
    let matches = json!({"path_prefix": "/"});
    for (rule, problem) in [
        (
            json!({"match": {"path_template": "/a/{id"}, "require": "user"}),
            "rules[0].match.path_template: `{id`",
        ),
        (
            json!({"match": {"path_template": "/a/x{id}"}, "require": "user"}),
            "rules[0].match.path_template: `x{id}`",
        ),
        (
            json!({"match": {"path_template": "/**/a"}, "require": "user"}),
            "rules[0].match.path_template: `**`",
        ),
        (
            json!({"match": {"path_template": "/a/{}"}, "require": "user"}),
            "rules[0].match.path_template: `{}`",
        ),
        (
            json!({"match": {"path_template": "a"}, "require": "user"}),
            "rules[0].match.path_template: `a` must start",
        ),
        (
            json!({"match": {"path": "/", "path_template": "/"}, "require": "user"}),
            "rules[0].match: has more than one",
        ),
        (
            json!({"match": {"path": "/", "hosts": ["https://a"]}, "require": "user"}),
            "rules[0].match.hosts[0]: `https://a`",
        ),
        (
            json!({"match": {"path": "/", "hosts": []}, "require": "user"}),
            "rules[0].match.hosts: is empty",
        ),
        (
            json!({"match": matches, "require": "anonymous", "scopes": ["a"]}),
            "rules[0].require: roles, permissions",
        ),
        (
            json!({"match": matches, "require": "user", "scopes": ["a b"]}),
            "rules[0].scopes[0]: `a b` is not a scope",
        ),
        (
            json!({"match": matches, "require": "user", "claims": {"a": {}}}),
            "rules[0].claims.a: must be a value",
        ),
        (
            json!({"match": matches, "require": "user", "max_age": "0s"}),
            "rules[0].max_age: must be from 1s",
        ),
        (
            json!({"match": matches, "require": "optional", "max_age": "1m"}),
            "rules[0].require: roles, permissions",
        ),
    ] {
        let config = ruled(json!([rule]));
        let error = Config::parse(config.to_string().as_bytes(), &|_| None).unwrap_err();
        assert!(error.to_string().contains(problem), "{problem}: {error}");
    }
}
