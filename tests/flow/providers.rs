//! What a provider may be: several of them, local keys, discovery, introspection, and where tokens stand.

use std::time::Duration;

use meshgate::callout::Failure;
use meshgate::config::Config;
use meshgate::denial::Code;
use meshgate::headers::Edit;
use meshgate::worker::Disposition;
use serde_json::{Value, json};

use crate::support::{
    Flow, Key, START, claims, config, denied, forwarded, jwks, only, record, removed, served, set,
};

const SECOND: Duration = Duration::from_secs(1);

/// The config with `changes` in its provider, and its `remote_jwks` taken out where they bring keys
/// of their own.
fn provider(changes: &Value) -> Value {
    let mut config = config();
    let provider = config["providers"]["clerk"].as_object_mut().unwrap();
    if ["local_jwks", "discovery", "introspection"].iter().any(|name| changes.get(name).is_some()) {
        provider.remove("remote_jwks");
    }
    provider.extend(changes.as_object().unwrap().clone());
    config
}

fn local_keys(changes: &Value) -> Value {
    let mut config = provider(&json!({"local_jwks": {"keys": [Key::new("k1").jwk()]}}));
    let provider = config["providers"]["clerk"].as_object_mut().unwrap();
    provider.extend(changes.as_object().unwrap().clone());
    config
}

#[test]
fn local_keys_are_there_from_the_start_and_never_fetched() {
    for document in [
        json!({"keys": [Key::new("k1").jwk()]}),
        json!(String::from_utf8(jwks(&[&Key::new("k1")])).unwrap()),
    ] {
        let mut flow = Flow::with(&provider(&json!({ "local_jwks": document })));
        flow.tick();
        flow.no_call();
        let token = flow.token();
        forwarded(flow.whole("/x", &token, &record()));
        let (_, disposition) = flow.get("/x", &Key::new("k2").token(&claims()));
        assert_eq!(denied(&disposition), Code::KeyUnknown);
        flow.no_call();
    }
}

#[test]
fn a_symmetric_key_works_only_where_the_config_has_it_and_allows_it() {
    let jwk = json!({"kty": "oct", "kid": "h1", "alg": "HS256", "k": "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T"});
    let changes = json!({"local_jwks": {"keys": [jwk]}, "algorithms": ["HS256"]});
    assert!(Config::parse(provider(&changes).to_string().as_bytes(), &|_| None).is_ok());
    // By default a provider's algorithms are those with public keys.
    let changes = json!({"local_jwks": {"keys": [jwk]}});
    let mut flow = Flow::with(&provider(&changes));
    let token = flow.key.sign(br#"{"alg":"HS256","kid":"h1"}"#, claims().to_string().as_bytes());
    let (_, disposition) = flow.get("/x", &token);
    assert_eq!(denied(&disposition), Code::AlgorithmNotAllowed);
}

#[test]
fn a_token_is_checked_by_the_provider_of_its_issuer_alone() {
    let mut config = local_keys(&json!({}));
    config["providers"]["other"] = json!({
        "issuer": "other-auth", "audiences": ["other-api"],
        "local_jwks": {"keys": [Key::new("k2").jwk()]},
    });
    let other = json!({"sub": "x", "iss": "other-auth", "aud": "other-api", "exp": START + 60});
    let mut flow = Flow::with(&config);
    let token = Key::new("k2").token(&other);
    forwarded(flow.whole("/x", &token, &record()));
    // A key of one issuer signs nothing for another, whatever the token says.
    let (_, disposition) = flow.get("/x", &Key::new("k1").token(&other));
    assert_eq!(denied(&disposition), Code::KeyUnknown);
    let mut imposter = Key::new("k2");
    imposter.kid = "k1";
    let (_, disposition) = flow.get("/x", &imposter.token(&claims()));
    assert_eq!(denied(&disposition), Code::SignatureInvalid);
}

#[test]
fn keys_are_found_by_discovery() {
    let discovery = json!({"discovery": {"uri": "https://idp.example/.well-known/openid-configuration", "cluster": "idp"}});
    let mut flow = Flow::with(&provider(&discovery));
    let token = flow.token();
    let (stream, disposition) = flow.get("/x", &token);
    assert_eq!(disposition, Disposition::Pause);
    let path = |request: &meshgate::callout::CallRequest| {
        request.headers.iter().find(|(name, _)| name == ":path").unwrap().1.clone()
    };
    let call = flow.call();
    assert_eq!(path(&call.request), "/.well-known/openid-configuration");
    let metadata = json!({"issuer": "youtube-clone-auth", "jwks_uri": "https://idp.example/keys"});
    let released = flow.answer(call.id, 200, metadata.to_string().as_bytes());
    assert!(released.is_empty(), "it waits on, for the keys");
    let call = flow.call();
    assert_eq!((call.request.cluster.as_str(), path(&call.request).as_str()), ("idp", "/keys"));
    let keys = jwks(&[&flow.key]);
    assert!(flow.answer(call.id, 200, &keys).is_empty());
    let call = flow.call();
    let released = flow.answer(call.id, 200, record().to_string().as_bytes());
    forwarded(only(released, stream));
    // The refresh goes to the keys at once.
    flow.advance(540 * SECOND);
    flow.tick();
    assert_eq!(path(&flow.call().request), "/keys");
}

#[test]
fn metadata_of_another_issuer_leads_nowhere_and_is_asked_for_again() {
    let discovery = json!({"discovery": {"uri": "https://idp.example/meta", "cluster": "idp"}});
    for (status, body) in [
        (200, json!({"issuer": "evil", "jwks_uri": "https://idp.example/keys"})),
        (200, json!({"issuer": "youtube-clone-auth"})),
        (200, json!([])),
        (404, json!({"issuer": "youtube-clone-auth", "jwks_uri": "https://idp.example/keys"})),
    ] {
        let mut flow = Flow::with(&provider(&discovery));
        let token = flow.token();
        let (stream, _) = flow.get("/x", &token);
        let call = flow.call();
        let released = flow.answer(call.id, status, body.to_string().as_bytes());
        assert_eq!(denied(&only(released, stream)), Code::KeysUnavailable, "{body}");
        flow.no_call();
        flow.advance(2 * SECOND);
        flow.tick();
        flow.call();
    }
}

#[test]
fn the_claims_that_a_provider_asks_for_must_be_there() {
    let asked = json!({"required_claims": {"tier": ["gold", "silver"], "org": []}});
    for (tier, org, passes) in [
        (json!("gold"), json!(1), true),
        (json!("silver"), json!("x"), true),
        (json!("bronze"), json!(1), false),
        (json!(null), json!(1), false),
        (json!(["gold"]), json!(1), false),
    ] {
        let mut flow = Flow::with(&local_keys(&asked));
        let mut claims = claims();
        claims["tier"] = tier.clone();
        claims["org"] = org;
        let token = flow.key.token(&claims);
        let disposition = flow.whole("/x", &token, &record());
        if passes {
            forwarded(disposition);
        } else {
            assert_eq!(denied(&disposition), Code::ClaimMismatch, "{tier}");
        }
    }
    let mut flow = Flow::with(&local_keys(&asked));
    let token = flow.token();
    let (_, disposition) = flow.get("/x", &token);
    assert_eq!(denied(&disposition), Code::ClaimMismatch, "neither is there");
}

#[test]
fn a_life_longer_than_allowed_and_a_type_not_asked_for_are_refused() {
    for (changes, header, life, code) in [
        (json!({"max_lifetime": "1h"}), json!({}), 3_600, None),
        (json!({"max_lifetime": "1h"}), json!({}), 3_631, Some(Code::TokenMalformed)),
        (json!({"token_type": "at+jwt"}), json!({"typ": "at+jwt"}), 60, None),
        (json!({"token_type": "at+jwt"}), json!({"typ": "application/AT+JWT"}), 60, None),
        (json!({"token_type": "at+jwt"}), json!({"typ": "JWT"}), 60, Some(Code::TokenMalformed)),
        (json!({"token_type": "at+jwt"}), json!({}), 60, Some(Code::TokenMalformed)),
    ] {
        let mut flow = Flow::with(&local_keys(&changes));
        let mut claims = claims();
        claims["exp"] = json!(START + life);
        let mut full = json!({"alg": "ES256", "kid": "k1"});
        full.as_object_mut().unwrap().extend(header.as_object().unwrap().clone());
        let token = flow.key.sign(full.to_string().as_bytes(), claims.to_string().as_bytes());
        let disposition = flow.whole("/x", &token, &record());
        match code {
            None => drop(forwarded(disposition)),
            Some(code) => assert_eq!(denied(&disposition), code, "{changes} {header}"),
        }
    }
}

#[test]
fn the_preset_for_clerk_reads_its_cookie_and_refuses_pending_sessions() {
    let preset = local_keys(&json!({"preset": "clerk"}));
    let mut flow = Flow::with(&preset);
    let mut session = claims();
    session["sid"] = json!("sess_1");
    session["v"] = json!(2);
    session["o"] = json!({"id": "org_1", "rol": "admin"});
    let cookie = format!("a=1; __session={}; b=2", flow.key.token(&session));
    let (_, _, disposition) = flow.send("/x", &[("cookie", cookie.as_bytes())]);
    assert_eq!(disposition, Disposition::Pause);
    let token = flow.key.token(&session);
    let (_, disposition) = flow.get("/x", &token);
    assert_eq!(disposition, Disposition::Pause, "the header is read too");
    session["sts"] = json!("pending");
    let token = flow.key.token(&session);
    let (_, disposition) = flow.get("/x", &token);
    assert_eq!(denied(&disposition), Code::ClaimMismatch);
    session["sts"] = json!("active");
    let token = flow.key.token(&session);
    let (_, disposition) = flow.get("/x", &token);
    assert_eq!(disposition, Disposition::Pause);
}

#[test]
fn tokens_in_cookies_and_parameters_are_found_and_taken_out() {
    let places = local_keys(&json!({
        "from_headers": [{"name": "authorization", "value_prefix": "Bearer "}],
        "from_cookies": ["__session"], "from_params": ["access_token"],
    }));
    let token = Key::new("k1").token(&claims());
    let escaped = token.replace('.', "%2E");
    for (path, headers, edits) in [
        (format!("/x?a=1&access_token={token}&b=2"), vec![], vec![set(":path", "/x?a=1&b=2")]),
        (format!("/x?access_token={token}"), vec![], vec![set(":path", "/x")]),
        (format!("/x?access%5Ftoken={escaped}&b"), vec![], vec![set(":path", "/x?b")]),
        (
            "/x".to_owned(),
            vec![("cookie", format!("a=1; __session={token}"))],
            vec![set("cookie", "a=1")],
        ),
        (
            "/x".to_owned(),
            vec![("cookie", format!("__session=\"{token}\""))],
            vec![removed("cookie")],
        ),
        (
            format!("/x?access_token={token}"),
            vec![
                ("authorization", format!("Bearer {token}")),
                ("cookie", format!("__session={token}; c=3")),
            ],
            vec![removed("authorization"), set("cookie", "c=3"), set(":path", "/x")],
        ),
    ] {
        let mut flow = Flow::with(&places);
        let headers: Vec<(&str, &[u8])> = headers.iter().map(|(n, v)| (*n, v.as_bytes())).collect();
        let (stream, _, disposition) = flow.send(&path, &headers);
        assert_eq!(disposition, Disposition::Pause, "{path}");
        let call = flow.call();
        let released = flow.answer(call.id, 200, record().to_string().as_bytes());
        let made = forwarded(only(released, stream));
        let gone: Vec<Edit> = made
            .into_iter()
            .filter(|edit| match edit {
                Edit::Set(name, _) | Edit::Remove(name) => !name.starts_with("x-"),
            })
            .collect();
        assert_eq!(gone, edits, "{path}");
    }
}

#[test]
fn different_tokens_in_two_places_are_ambiguous_and_a_place_is_its_providers_own() {
    let mut config = local_keys(&json!({"from_params": ["access_token"]}));
    config["providers"]["other"] = json!({
        "issuer": "other-auth", "audiences": ["other-api"], "from_cookies": ["other"],
        "local_jwks": {"keys": [Key::new("k2").jwk()]},
    });
    let mut flow = Flow::with(&config);
    let token = flow.token();
    let other = Key::new("k2")
        .token(&json!({"sub": "x", "iss": "other-auth", "aud": "other-api", "exp": START + 60}));
    let (_, _, disposition) = flow.send(
        &format!("/x?access_token={token}"),
        &[("cookie", format!("other={other}").as_bytes())],
    );
    assert_eq!(denied(&disposition), Code::TokenAmbiguous);
    let (_, _, disposition) =
        flow.send(&format!("/x?access_token={token}&access_token={other}"), &[]);
    assert_eq!(denied(&disposition), Code::TokenAmbiguous);
    let (_, _, disposition) = flow.send(&format!("/x?access_token={other}"), &[]);
    assert_eq!(denied(&disposition), Code::IssuerUnknown, "that one is read from its cookie only");
    let (_, _, disposition) = flow.send("/x", &[("cookie", format!("other={token}").as_bytes())]);
    assert_eq!(denied(&disposition), Code::IssuerUnknown);
    // Also where the token was verified before, in its own place.
    forwarded({
        let (stream, _, _) = flow.send(&format!("/x?access_token={token}"), &[]);
        let call = flow.call();
        only(flow.answer(call.id, 200, record().to_string().as_bytes()), stream)
    });
    let (_, _, disposition) = flow.send("/x", &[("cookie", format!("other={token}").as_bytes())]);
    assert_eq!(denied(&disposition), Code::IssuerUnknown);
}

fn introspected() -> Value {
    provider(&json!({"introspection": {
        "uri": "https://idp.example/introspect", "cluster": "idp",
        "client_id": "mesh gate", "client_secret": "a:b", "cache_ttl": "30s",
    }}))
}

#[test]
fn an_opaque_token_is_as_good_as_its_issuer_says() {
    let mut flow = Flow::with(&introspected());
    let active = json!({"active": true, "sub": "user_2abc", "aud": "youtube-clone-api", "exp": START + 3600});
    let (first, disposition) = flow.get("/x", "opaque-1");
    assert_eq!(disposition, Disposition::Pause);
    let (second, _) = flow.get("/x", "opaque-1");
    let call = flow.call();
    let header =
        |name: &str| call.request.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
    assert_eq!(header(":method"), Some("POST"));
    assert_eq!(header("content-type"), Some("application/x-www-form-urlencoded"));
    assert_eq!(header("authorization"), Some("Basic bWVzaCUyMGdhdGU6YSUzQWI="));
    let body = call.request.body.clone().unwrap();
    assert_eq!(body, b"token=opaque-1&token_type_hint=access_token");
    assert!(flow.answer(call.id, 200, active.to_string().as_bytes()).is_empty());
    let call = flow.call();
    let released = flow.answer(call.id, 200, record().to_string().as_bytes());
    assert_eq!(served(released), [first, second]);
    // The word holds for its time, and not longer.
    flow.advance(29 * SECOND);
    forwarded(flow.get("/x", "opaque-1").1);
    flow.advance(SECOND);
    assert_eq!(flow.get("/x", "opaque-1").1, Disposition::Pause);
}

#[test]
fn an_inactive_token_is_refused_and_remembered_as_that() {
    let mut flow = Flow::with(&introspected());
    let (stream, _) = flow.get("/x", "opaque-1");
    let call = flow.call();
    let released = flow.answer(call.id, 200, br#"{"active": false}"#);
    assert_eq!(denied(&only(released, stream)), Code::TokenRevoked);
    flow.advance(29 * SECOND);
    assert_eq!(denied(&flow.get("/x", "opaque-1").1), Code::TokenRevoked);
    flow.no_call();
    flow.advance(SECOND);
    assert_eq!(flow.get("/x", "opaque-1").1, Disposition::Pause);
}

#[test]
fn an_active_token_must_be_for_us_and_in_time() {
    for (answer, code) in [
        (json!({"active": true, "sub": "x", "aud": "other"}), Code::AudienceMismatch),
        (json!({"active": true, "sub": "x"}), Code::AudienceMismatch),
        (json!({"active": true, "aud": "youtube-clone-api", "iss": "evil"}), Code::IssuerUnknown),
        (
            json!({"active": true, "aud": "youtube-clone-api", "exp": START - 31}),
            Code::TokenExpired,
        ),
        (
            json!({"active": true, "aud": "youtube-clone-api", "nbf": START + 31}),
            Code::TokenNotYetValid,
        ),
    ] {
        let mut flow = Flow::with(&introspected());
        let (stream, _) = flow.get("/x", "opaque-1");
        let call = flow.call();
        let released = flow.answer(call.id, 200, answer.to_string().as_bytes());
        assert_eq!(denied(&only(released, stream)), code, "{answer}");
    }
}

#[test]
fn the_terms_of_a_provider_hold_for_introspected_tokens_too() {
    for (terms, answer, code) in [
        (json!({"max_lifetime": "1h"}), json!({"exp": START + 86_400}), Code::TokenMalformed),
        (json!({"max_lifetime": "1h"}), json!({}), Code::TokenMalformed),
        (json!({"required_claims": {"org": []}}), json!({}), Code::ClaimMismatch),
    ] {
        let mut config = introspected();
        let provider = config["providers"]["clerk"].as_object_mut().unwrap();
        provider.extend(terms.as_object().unwrap().clone());
        let mut flow = Flow::with(&config);
        let (stream, _) = flow.get("/x", "opaque-1");
        let call = flow.call();
        let mut active = json!({"active": true, "sub": "x", "aud": "youtube-clone-api"});
        active.as_object_mut().unwrap().extend(answer.as_object().unwrap().clone());
        let released = flow.answer(call.id, 200, active.to_string().as_bytes());
        assert_eq!(denied(&only(released, stream)), code, "{terms}");
        // The answer is remembered as it was: bad.
        assert_eq!(denied(&flow.get("/x", "opaque-1").1), code);
        flow.no_call();
    }
}

#[test]
fn a_jwt_of_a_provider_without_keys_is_introspected_whatever_signed_it() {
    let mut config = introspected();
    let jwt =
        Key::new("k1").sign(br#"{"alg":"HS256","typ":"JWT"}"#, claims().to_string().as_bytes());
    let mut flow = Flow::with(&config);
    assert_eq!(flow.get("/x", &jwt).1, Disposition::Pause);
    assert_eq!(flow.call().request.cluster, "idp");
    config["providers"]["clerk"]["token_type"] = json!("at+jwt");
    let mut flow = Flow::with(&config);
    assert_eq!(denied(&flow.get("/x", &jwt).1), Code::TokenMalformed);
    flow.no_call();
}

#[test]
fn an_answer_that_is_unclear_is_503_and_not_remembered() {
    for (status, body) in [
        (500, &b"{\"active\": true}"[..]),
        (401, b"{}"),
        (200, b"{}"),
        (200, b"garbage"),
        (200, br#"{"active": "true"}"#),
        (200, br#"{"active": true, "active": false}"#),
        (200, br#"{"active": true, "exp": "soon"}"#),
    ] {
        let mut flow = Flow::with(&introspected());
        let (stream, _) = flow.get("/x", "opaque-1");
        let call = flow.call();
        let released = flow.answer(call.id, status, body);
        assert_eq!(denied(&only(released, stream)), Code::IntrospectionUnavailable, "{body:?}");
        assert_eq!(flow.get("/x", "opaque-1").1, Disposition::Pause);
    }
    let mut flow = Flow::with(&introspected());
    let (stream, _) = flow.get("/x", "opaque-1");
    let call = flow.call();
    let released = flow.fail_for_good(call.id, Failure::Broken);
    assert_eq!(denied(&only(released, stream)), Code::IntrospectionUnavailable);
    // What cannot be a token is not asked about.
    let (_, _, disposition) = flow.send("/x", &[("authorization", b"Bearer \xff\xfe")]);
    assert_eq!(denied(&disposition), Code::TokenMalformed);
    flow.no_call();
}

#[test]
fn a_verified_token_is_remembered_as_long_as_its_key_is_held() {
    let mut flow = Flow::ready();
    let token = flow.token();
    forwarded(flow.whole("/x", &token, &record()));
    assert!(format!("{:?}", flow.worker).contains("Shared(1 tokens"));
    // It expires all the same.
    flow.advance(3_629 * SECOND);
    assert_eq!(flow.get("/x", &token).1, Disposition::Pause, "its user must be asked for again");
    flow.worker.next_call();
    flow.advance(SECOND);
    assert_eq!(denied(&flow.get("/x", &token).1), Code::TokenExpired);

    let mut flow = Flow::ready();
    forwarded(flow.whole("/x", &token, &record()));
    flow.advance(540 * SECOND);
    flow.tick();
    let call = flow.call();
    flow.answer(call.id, 200, &jwks(&[&Key::new("k2")]));
    assert_eq!(denied(&flow.get("/x", &token).1), Code::KeyUnknown, "its key left the JWKS");
}

#[test]
fn a_jwks_is_kept_as_long_as_its_issuer_says_within_bounds() {
    for (max_age, refreshed_after) in
        [(None, 540), (Some(100), 90), (Some(1), 54), (Some(10_000), 540)]
    {
        let mut flow = Flow::new();
        flow.tick();
        let call = flow.call();
        let body = jwks(&[&flow.key]);
        let max_age = max_age.map(Duration::from_secs);
        let answer = meshgate::callout::Answer::Response { status: 200, max_age, etag: None, body };
        let _ = flow.worker.on_answer(call.id, &answer, flow.now);
        flow.advance(Duration::from_millis(refreshed_after * 1_000 - 1));
        flow.tick();
        flow.no_call();
        flow.advance(Duration::from_millis(1));
        flow.tick();
        flow.call();
    }
}
