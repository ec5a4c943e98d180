//! What the access log is told of a request, on every way that it can take.

use std::collections::BTreeMap;

use meshgate::account::Account;
use meshgate::answers::Words;
use meshgate::boundary::peer::Hop;
use meshgate::callout::Failure;
use meshgate::worker::Disposition;
use serde_json::{Value, json};

use crate::support::{Flow, Key, START, claims, config, only, record};

/// The facts, without `meshgate.`.
fn facts(flow: &Flow, disposition: &Disposition) -> BTreeMap<String, String> {
    let config = flow.worker.config();
    let account = Account::of(disposition, &config).expect("the request is not held");
    account
        .facts()
        .map(|(name, value)| (name.trim_start_matches("meshgate.").to_owned(), value.to_owned()))
        .collect()
}

#[track_caller]
fn assert_facts(flow: &Flow, disposition: &Disposition, expected: &[(&str, &str)]) {
    let expected = expected.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    assert_eq!(facts(flow, disposition), expected.collect());
}

const ID: (&str, &[u8]) = ("x-request-id", b"r-1");

fn get(flow: &mut Flow, path: &str, token: &str) -> (meshgate::callout::StreamId, Disposition) {
    let bearer = format!("Bearer {token}");
    let (stream, _, disposition) = flow.send(path, &[("authorization", bearer.as_bytes()), ID]);
    (stream, disposition)
}

#[test]
fn the_access_log_is_told_the_facts_that_the_config_names_and_no_other() {
    let mut config = config();
    config["access_log"] = json!({"facts": ["user_id", "code"]});
    let mut flow = Flow::with(&config).with_keys();
    let token = flow.token();
    let (stream, held) = get(&mut flow, "/x", &token);
    assert_eq!(held, Disposition::Pause);
    let call = flow.call();
    let released = flow.answer(call.id, 200, record().to_string().as_bytes());
    assert_facts(&flow, &only(released, stream), &[("user_id", "u-1001")]);
    let (_, refused) = get(&mut flow, "/x", "no token");
    assert_facts(&flow, &refused, &[("code", "token_malformed")]);
}

#[test]
fn a_request_that_is_held_has_no_account_and_then_tells_who_the_user_is() {
    let mut flow = Flow::ready();
    let token = flow.token();
    let (stream, disposition) = get(&mut flow, "/x", &token);
    assert_eq!(Account::of(&disposition, &flow.worker.config()), None);
    let call = flow.call();
    let released = flow.answer(call.id, 200, record().to_string().as_bytes());
    let user = [
        ("decision", "allowed"),
        ("provider", "clerk"),
        ("subject", "user_2abc"),
        ("user_id", "u-1001"),
    ];
    assert_facts(&flow, &only(released, stream), &user);
    let (_, disposition) = get(&mut flow, "/x", &token);
    assert_facts(&flow, &disposition, &user);
}

#[test]
fn nobodys_request_tells_of_nobody() {
    let mut flow = Flow::ready();
    let (_, _, disposition) = flow.send("/healthz", &[ID, ("x-user-id", b"u-forged")]);
    assert_facts(&flow, &disposition, &[("decision", "allowed")]);
}

#[test]
fn a_refusal_tells_its_code_its_id_and_no_more_of_the_token_than_was_verified() {
    let mut flow = Flow::ready();
    let refused =
        |code: &'static str| vec![("decision", "denied"), ("code", code), ("request_id", "r-1")];
    let with = |code, more: &[(&'static str, &'static str)]| {
        let mut facts = refused(code);
        facts.extend_from_slice(more);
        facts
    };
    let mut expired = claims();
    expired["exp"] = json!(START - 3600);
    let mut elsewhere = claims();
    elsewhere["iss"] = json!("somebody else");
    for (token, expected) in [
        ("garbage".to_owned(), refused("token_malformed")),
        (flow.key.token(&elsewhere), refused("issuer_unknown")),
        // Whose it says it is; not whom it speaks of.
        (flow.key.token(&expired), with("token_expired", &[("provider", "clerk")])),
        (Key::new("k9").token(&claims()), with("key_unknown", &[("provider", "clerk")])),
    ] {
        let (_, disposition) = get(&mut flow, "/x", &token);
        assert_facts(&flow, &disposition, &expected);
    }
    let (_, _, disposition) = flow.send("/x", &[ID]);
    assert_facts(&flow, &disposition, &refused("token_missing"));

    let verified = [("provider", "clerk"), ("subject", "user_2abc")];
    let token = flow.token();
    let (stream, _) = get(&mut flow, "/x", &token);
    let call = flow.call();
    let released = flow.fail_for_good(call.id, Failure::TimedOut);
    assert_facts(&flow, &only(released, stream), &with("user_lookup_unavailable", &verified));

    let (stream, _) = get(&mut flow, "/admin", &token);
    let call = flow.call();
    let released = flow.answer(call.id, 200, record().to_string().as_bytes());
    let known = [verified[0], verified[1], ("user_id", "u-1001")];
    assert_facts(&flow, &only(released, stream), &with("role_required", &known));
}

#[test]
fn a_request_without_an_id_is_known_by_the_one_that_its_answer_carries() {
    let mut flow = Flow::ready();
    let (_, _, disposition) = flow.send("/x", &[("x-request-id", b"two words")]);
    let Disposition::Deny(denial) = &disposition else { panic!("{disposition:?}") };
    assert_eq!(facts(&flow, &disposition)["request_id"], denial.request_id);
    assert_eq!(denial.request_id.len(), 36);
    assert!(denial.reply(&Words::default()).body.contains(&denial.request_id));
}

#[test]
fn the_time_of_a_wait_that_ends_by_itself_changes_nothing() {
    let mut flow = Flow::ready();
    let token = flow.token();
    let (stream, _) = get(&mut flow, "/x", &token);
    flow.advance(std::time::Duration::from_secs(60));
    let released = flow.tick();
    assert_facts(
        &flow,
        &only(released, stream),
        &[
            ("decision", "denied"),
            ("code", "user_lookup_unavailable"),
            ("request_id", "r-1"),
            ("provider", "clerk"),
            ("subject", "user_2abc"),
        ],
    );
}

#[test]
fn no_text_of_an_issuer_or_a_hop_can_write_lines_of_its_own() {
    let mut flow = Flow::with(&{
        let mut config = config();
        config["user"] = json!({"source": "claims"});
        config["context"] = json!({"headers": {"x-user-id": {"claim": "/name"}}});
        config
    })
    .with_keys();
    let mut evil = claims();
    evil["sub"] = json!("u\r\n{\"code\":\"none\"}");
    evil["name"] = json!("a \"b\" ".repeat(100) + "x");
    let token = flow.key.token(&evil);
    let (_, disposition) = get(&mut flow, "/x", &token);
    let facts = facts(&flow, &disposition);
    assert_eq!(facts["subject"], "u%0D%0A{%22code%22:%22none%22}");
    assert!(facts["user_id"].starts_with("a%20%22b%22%20a"), "{facts:?}");
    assert!(facts["user_id"].len() <= 256);
}

const GATEWAY: &str = "spiffe://cluster.local/ns/edge/sa/gateway";

fn door() -> Flow {
    let mut config = config();
    config["mode"] = json!("service");
    config["service"] = json!({"name": "channels"});
    config["boundary"] = json!({"peers": [{"spiffe_id": GATEWAY, "may_assert_user": true}]});
    let mut flow = Flow::with(&config).with_keys();
    flow.hop =
        Hop { has_certificate: true, uri_san: Some(GATEWAY.as_bytes().to_vec()), ..Hop::default() };
    flow
}

const CONTEXT: [(&str, &[u8]); 3] = [("x-user-id", b"u-1001"), ("x-user-role", b"USER"), ID];

#[test]
fn at_a_services_door_the_user_is_whom_the_hop_named() {
    let mut flow = door();
    let (_, _, disposition) = flow.send("/x", &CONTEXT);
    assert_facts(&flow, &disposition, &[("decision", "allowed"), ("user_id", "u-1001")]);
    let (_, _, disposition) = flow.send("/admin", &CONTEXT);
    assert_facts(
        &flow,
        &disposition,
        &[
            ("decision", "denied"),
            ("code", "role_required"),
            ("request_id", "r-1"),
            ("user_id", "u-1001"),
        ],
    );
    // A stranger's word is nobody's.
    flow.hop = Hop::default();
    let (_, _, disposition) = flow.send("/x", &CONTEXT);
    assert_facts(
        &flow,
        &disposition,
        &[("decision", "denied"), ("code", "token_missing"), ("request_id", "r-1")],
    );
}

#[test]
fn at_a_services_exit_the_user_is_whom_the_request_takes_along() {
    let config: Value = json!({
        "mode": "egress", "service": {"name": "videos"},
        "providers": {"clerk": {"from_cookies": ["__session"]}},
        "destinations": [{"clusters": ["channels"], "context": "forward"}],
    });
    let mut flow = Flow::with(&config);
    for (cluster, expected) in [
        ("channels", vec![("decision", "allowed"), ("user_id", "u-1001")]),
        ("elsewhere", vec![("decision", "allowed")]),
    ] {
        flow.hop = Hop { cluster: Some(cluster.as_bytes().to_vec()), ..Hop::default() };
        let (_, _, disposition) = flow.send("/x", &CONTEXT);
        assert_facts(&flow, &disposition, &expected);
    }
}

#[test]
fn a_request_that_another_proxy_asks_about_is_allowed_as_any_other() {
    let mut config = config();
    config["mode"] = json!("authz");
    let mut flow = Flow::with(&config).with_keys();
    let token = flow.token();
    let (stream, _) = get(&mut flow, "/x", &token);
    let call = flow.call();
    let released = flow.answer(call.id, 200, record().to_string().as_bytes());
    assert_facts(
        &flow,
        &only(released, stream),
        &[
            ("decision", "allowed"),
            ("provider", "clerk"),
            ("subject", "user_2abc"),
            ("user_id", "u-1001"),
        ],
    );
}
