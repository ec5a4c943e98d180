//! Signed context in real Envoys: what the gateway signs arrives at the app over any hop, and nothing else does.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use harness::client::{Request, Response, h2};
use harness::envoy::Envoy;
use harness::idp::{Key, now, seed_claims, service_claims};
use harness::load::Load;
use harness::mesh::{Builder, Mesh, SERVICE_TOKEN, spiffe};
use harness::pki::Identity;
use harness::server::Seen;
use harness::testbed::{self, Testbed};
use harness::upstream::Upstream;
use serde_json::{Value, json};

use crate::support::{
    CONTEXT, NOBODY, USER, assert_denied, assert_names, assert_signed, patient_lookup, wait_until,
};

const KEYS: &str = "/.well-known/meshgate/jwks.json";

/// Which hop it is counts for nothing: all that is believed is what the gateway signed.
fn asserts_nobody(config: &mut Value) {
    for peer in config["boundary"]["peers"].as_array_mut().unwrap() {
        peer["may_assert_user"] = json!(false);
    }
}

fn mesh() -> Builder {
    Mesh::signed().sidecar_config(asserts_nobody)
}

fn user_token(mesh: &Mesh) -> String {
    mesh.idp.token(seed_claims("user_2abc"))
}

/// Known by name, and may assert nobody.
fn job(mesh: &Mesh) -> Identity {
    mesh.ca.issue(&spiffe("jobs", "reports-service"))
}

fn gateway(mesh: &Mesh) -> Identity {
    mesh.ca.issue(&spiffe("edge", "gateway"))
}

fn forge(request: Request) -> Request {
    let forged = ["u-forged", "user_forged", "ADMIN", "ch-forged"];
    CONTEXT.iter().zip(forged).fold(request, |request, (name, value)| request.header(name, value))
}

#[track_caller]
fn only(upstream: &Upstream, response: &Response) -> Seen {
    assert_eq!(response.status, 200, "{}", response.text());
    let mut seen = upstream.take();
    assert_eq!(seen.len(), 1, "{seen:?}");
    seen.remove(0)
}

/// The token that the app gets when the user comes through this gateway.
#[track_caller]
fn through(mesh: &Mesh, gateway: &Envoy) -> String {
    let request = forge(Request::get(gateway.address(), "/api/comments"));
    let response = request.header("Txn-Token", "mine").bearer(&user_token(mesh)).send();
    let seen = only(&mesh.app, &response);
    assert_eq!(seen.header("authorization"), None);
    assert_signed(&seen, USER, None)
}

#[track_caller]
fn assert_refused(mesh: &Mesh, response: &Response, status: u16, code: &str) {
    assert_denied(response, status, code);
    let seen = mesh.app.take();
    assert!(seen.is_empty(), "the app saw {seen:?}");
}

/// What a part of a JWS says: the header is 0, the claims are 1.
fn part(token: &str, place: usize) -> Value {
    let part = token.split('.').nth(place).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

fn encode(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

#[test]
fn what_the_gateway_signed_arrives_over_hops_that_may_assert_nobody() {
    let mesh = mesh().start();
    let token = through(&mesh, mesh.gateway());
    let header = part(&token, 0);
    assert_eq!(header, json!({"typ": "txntoken+jwt", "alg": "ES256", "kid": "g1"}));
    let claims = part(&token, 1);
    assert_eq!(claims["aud"], "prod.example.com");
    let said: Vec<Option<&str>> =
        CONTEXT.iter().map(|name| claims["tctx"].get(*name)?.as_str()).collect();
    assert_eq!(said, USER);

    // The hop alone is not believed, be it the gateway's own.
    let hops = [
        (gateway(&mesh), None),
        (job(&mesh), Some("reports-service")),
        (mesh.ca.issue(&spiffe("elsewhere", "stranger")), None),
        (mesh.ca.issue_with(&[]), None),
    ];
    for (hop, service) in &hops {
        let plain = forge(mesh.call(hop, "/comments"));
        assert_refused(&mesh, &plain.send(), 401, "token_missing");
        // The token is, whatever stands beside it, on its own or over and over.
        for request in [mesh.call(hop, "/comments"), plain.clone(), forge(plain)] {
            let request = request.header("Txn-Token", &token);
            let seen = only(&mesh.app, &request.header("x_user_role", "ADMIN").send());
            assert_eq!(assert_signed(&seen, USER, *service), token);
        }
    }
    // Who says nothing is nobody, and where nobody is asked who they are, nobody is told.
    let response = forge(mesh.get("/api/videos/1")).send();
    assert_names(&only(&mesh.app, &response), NOBODY, None);
    let request = forge(mesh.call(&job(&mesh), "/healthz")).header("Txn-Token", &token);
    assert_names(&only(&mesh.app, &request.send()), NOBODY, None);
    assert_eq!(mesh.users.requests(), 1, "the gateway asks, and nobody else");
    mesh.no_traps();
}

/// What could stand in `Txn-Token` in place of the gateway's `good` token, and the code that each is refused with.
fn bad_tokens(mesh: &Mesh, good: &str) -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let [head, payload, signature] = good.split('.').collect::<Vec<_>>()[..] else {
        panic!("{good}")
    };
    let (header, claims) = (part(good, 0), part(good, 1));
    let with = |value: &Value, name: &str, new: Value| {
        let mut value = value.clone();
        value[name] = new;
        value
    };
    // By the gateway's own key, so that the signature is not what is wrong.
    let key = mesh.txn_key();
    let header_with = |name, new| key.token_with(&with(&header, name, new), &claims);
    let claims_with = |name, new| key.token_with(&header, &with(&claims, name, new));
    let without = |value: &Value, name: &str| {
        let mut value = value.clone();
        value.as_object_mut().unwrap().remove(name);
        value
    };
    let context = with(&claims["tctx"], "x-user-role", json!("ADMIN"));
    let admin = encode(&with(&claims, "tctx", context));
    let none = encode(&with(&header, "alg", json!("none")));
    let unknown = with(&header, "kid", json!("g9"));
    let silent = URL_SAFE_NO_PAD.encode([1; 64]);
    let texts = [
        ("the payload altered", format!("{head}.{admin}.{signature}"), "signature_invalid"),
        ("the signature altered", format!("{head}.{payload}.{silent}"), "signature_invalid"),
        ("the signature gone", format!("{head}.{payload}."), "signature_invalid"),
        ("of no algorithm", format!("{none}.{payload}."), "algorithm_not_allowed"),
        ("of none, signed", format!("{none}.{payload}.{signature}"), "algorithm_not_allowed"),
        ("by an unknown key", Key::es256("g9").token_with(&unknown, &claims), "key_unknown"),
        (
            "by another key of the name",
            Key::es256("g1").token_with(&header, &claims),
            "signature_invalid",
        ),
        ("past its life", claims_with("exp", json!(now() - 3600)), "token_expired"),
        (
            "of another trust domain",
            claims_with("aud", json!("test.example.com")),
            "audience_mismatch",
        ),
        ("of another gateway", claims_with("iss", json!("https://else")), "issuer_unknown"),
        ("of another type", header_with("typ", json!("JWT")), "token_malformed"),
        ("of no type", key.token_with(&without(&header, "typ"), &claims), "token_malformed"),
        ("of nobody", key.token_with(&header, &without(&claims, "tctx")), "token_malformed"),
        ("a user's", user_token(mesh), "issuer_unknown"),
        ("a service's", mesh.service_token("reports-service", SERVICES), "issuer_unknown"),
        ("nothing", String::new(), "token_malformed"),
        ("with a scheme", format!("Bearer {good}"), "token_malformed"),
    ];
    let bytes = [
        ("not UTF-8", b"\xff\xfe".to_vec(), "token_malformed"),
        ("not UTF-8 at its end", [good.as_bytes(), b"\xff"].concat(), "token_malformed"),
    ];
    let texts = texts.into_iter().map(|(attack, token, code)| (attack, token.into_bytes(), code));
    texts.chain(bytes).collect()
}

/// The permissions that the sidecar asks services for.
const SERVICES: &[&str] = &["internal:read"];

#[test]
fn a_token_that_the_gateway_did_not_sign_for_this_is_refused() {
    // As shipped: beside a bad token, the gateway's own word counts for nothing.
    let mesh = Mesh::signed()
        .service_tokens(&json!({"permissions": SERVICES, "may_assert_user": true}))
        .start();
    let good = through(&mesh, mesh.gateway());
    let bad = bad_tokens(&mesh, &good);
    let right = || CONTEXT.iter().zip(USER.into_iter().flatten());
    for hop in [gateway(&mesh), job(&mesh)] {
        for path in ["/videos", "/comments"] {
            let call = || {
                let request = mesh.call(&hop, path).bearer(&user_token(&mesh));
                right().fold(request, |request, (name, value)| request.header(name, value))
            };
            for (attack, token, code) in &bad {
                let response = call().header("Txn-Token", token).send();
                println!("{attack} on {path}: {}", response.text());
                assert_refused(&mesh, &response, 401, code);
            }
            for [(one, first), (other, second)] in [
                [("Txn-Token", &*good), ("Txn-Token", &*good)],
                [("Txn-Token", &good), ("Txn-Token", "")],
                [("Txn-Token", ""), ("Txn-Token", &good)],
                [("Txn-Token", &good), ("txn_token", &good)],
            ] {
                let response = call().header(one, first).header(other, second).send();
                assert_refused(&mesh, &response, 401, "token_ambiguous");
            }
            let response = call().header("txn_token", &good).send();
            assert_refused(&mesh, &response, 401, "token_malformed");
        }
    }
    // Nor does it pass for a user's or a service's token, or one of theirs for both.
    let call = |path| mesh.call(&job(&mesh), path);
    let service = mesh.service_token("reports-service", SERVICES);
    let [signed, serving] = [&good, &service].map(|token| format!("Bearer {token}"));
    for request in [
        call("/comments").header("Authorization", &signed),
        call("/internal").header(SERVICE_TOKEN, &signed),
        call("/internal").header(SERVICE_TOKEN, &signed).header("Txn-Token", &good),
        call("/internal").header(SERVICE_TOKEN, &serving).header("Txn-Token", &service),
    ] {
        let response = request.send();
        assert_eq!((response.status, mesh.app.take().len()), (401, 0), "{}", response.text());
    }
    // The tests' own tokens are as the gateway's, but for what makes each bad.
    let own = mesh.txn_key().token_with(&part(&good, 0), &part(&good, 1));
    let request = call("/comments").header(SERVICE_TOKEN, &serving).header("Txn-Token", &own);
    assert_signed(&only(&mesh.app, &request.send()), USER, Some("reports-service"));
    through(&mesh, mesh.gateway());
    mesh.no_traps();
}

#[test]
fn a_token_that_is_kept_is_of_no_use_past_its_life() {
    let mesh = mesh()
        .gateway_config(|config| {
            config["txn_token"]["issue"]["ttl"] = json!("3s");
            config["txn_token"]["issue"]["reuse"] = json!("1s");
        })
        .sidecar_config(|config| config["providers"]["gateway"]["clock_skew"] = json!("0s"))
        .start();
    let token = through(&mesh, mesh.gateway());
    let end = part(&token, 1)["exp"].as_u64().unwrap();
    let replay = mesh.call(&job(&mesh), "/comments").header("Txn-Token", &token);
    let seen = only(&mesh.app, &replay.send());
    assert_signed(&seen, USER, Some("reports-service"));
    wait_until("the token's time is over", || now() >= end);
    // That it was verified before is remembered, and makes it no better.
    assert_refused(&mesh, &replay.send(), 401, "token_expired");
    // The user goes on with another one.
    assert_ne!(through(&mesh, mesh.gateway()), token);
    mesh.no_traps();
}

#[test]
fn no_request_is_refused_while_the_gateway_takes_another_key() {
    let next = Key::es256("g2");
    let mesh = mesh()
        .gateway_config(|config| config["txn_token"]["also_publish"] = json!([next.jwk()]))
        .sidecar_config(|config| {
            config["providers"]["gateway"]["remote_jwks"]["unknown_kid_cooldown"] = json!("100ms");
        })
        .start();
    let first = through(&mesh, mesh.gateway());
    assert_eq!(part(&first, 0)["kid"], "g1");
    // Old and new gateways serve side by side, and the sidecar has the keys that the old one published.
    let newer = mesh.another_gateway(|config| {
        config["txn_token"]["issue"]["key"] = json!(next.private_jwk().to_string());
        config["txn_token"]["issue"]["kid"] = json!("g2");
        config["txn_token"]["also_publish"] = json!([mesh.txn_key().jwk()]);
    });
    mesh.publish_keys_of(&newer);
    for _ in 0..20 {
        for (gateway, kid) in [(mesh.gateway(), "g1"), (&newer, "g2")] {
            assert_eq!(part(&through(&mesh, gateway), 0)["kid"], kid);
        }
    }
    // At the start, the worker and Envoy's main thread.
    assert!(mesh.edge().requests() <= 2, "the keys were fetched anew");

    // A key that nobody was told of is fetched when it is seen, and one that is withdrawn works no more.
    drop(newer);
    let sudden = Key::es256("g3");
    let newest = mesh.another_gateway(|config| {
        config["txn_token"]["issue"]["key"] = json!(sudden.private_jwk().to_string());
        config["txn_token"]["issue"]["kid"] = json!("g3");
        config["txn_token"]["also_publish"] = json!([]);
    });
    mesh.publish_keys_of(&newest);
    assert_eq!(part(&through(&mesh, &newest), 0)["kid"], "g3");
    let old = mesh.call(&job(&mesh), "/comments").header("Txn-Token", &first);
    assert_refused(&mesh, &old.send(), 401, "key_unknown");
    newest.no_traps();
    mesh.no_traps();
}

/// The gateway alone, which signs with `key`.
fn signing(key: &Key) -> testbed::Builder {
    let key = key.private_jwk().to_string();
    Testbed::gateway().filter_config(|config| {
        config["txn_token"] = json!({
            "issue": {"issuer": "https://gateway.example.com", "audience": "prod.example.com",
                      "key": key, "kid": "g1"},
            "jwks_path": KEYS,
        });
    })
}

#[test]
fn the_gateway_serves_its_public_keys_and_nothing_else_there() {
    let key = Key::es256("g1");
    let bed = signing(&key).start();
    let published = json!({"keys": [key.jwk()]});
    for target in [KEYS.to_owned(), format!("{KEYS}?v=1")] {
        // Anybody reads them, whatever they show.
        for request in [bed.get(&target), bed.get(&target).bearer("rubbish")] {
            let response = request.send();
            assert_eq!(response.status, 200, "{}", response.text());
            assert_eq!(response.json(), published);
            assert_eq!(response.header("content-type"), Some(&b"application/json"[..]));
            let held = response.header("cache-control");
            assert_eq!(held, Some(&b"public, max-age=300"[..]));
        }
    }
    let response = h2(bed.envoy.address(), "HEAD", KEYS, &[], b"", &[]);
    assert_eq!((response.status, response.text().as_str()), (200, ""));
    assert_eq!(response.header("content-type"), Some(&b"application/json"[..]));
    assert_eq!(response.header("cache-control"), Some(&b"public, max-age=300"[..]));
    for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
        let request = bed.get(KEYS).method(method).body("{}");
        let response = request.send();
        assert_denied(&response, 405, "method_not_allowed");
        assert_eq!(response.header("allow"), Some(&b"GET, HEAD"[..]), "{method}");
        assert_ne!(response.header("cache-control"), Some(&b"public, max-age=300"[..]));
    }
    // Beside it there is nothing.
    assert_eq!(bed.get(format!("{KEYS}/")).send().status, 401);
    assert_eq!(bed.get("/.well-known/meshgate").send().status, 401);
    assert_eq!(bed.upstream.requests(), 0);
    bed.no_traps();
}

#[test]
fn one_signature_serves_a_users_requests_of_a_moment() {
    const COUNT: u64 = 500;
    let bed = signing(&Key::es256("g1")).filter_config(patient_lookup).start();
    let token = bed.idp.token(seed_claims("user_2abc"));
    let request = bed.get("/api/comments").bearer(&token);
    let load = Load { connections: 4, count: COUNT, time_limit: Duration::MAX };
    let report = load.run(|_| request.clone());
    assert_eq!(report.statuses.get(&200), Some(&COUNT), "{report:?}");
    let mut tokens: Vec<String> =
        bed.upstream.take().iter().map(|seen| assert_signed(seen, USER, None)).collect();
    tokens.sort_unstable();
    tokens.dedup();
    println!("{} signatures for {report:?}", tokens.len());
    // One at the start, and one every `reuse`, which is 5 s.
    let most = 1 + report.elapsed.as_secs().div_ceil(5);
    assert!((1..=most).contains(&u64::try_from(tokens.len()).unwrap()), "{report:?}");
    bed.no_traps();
}

/// What a service makes of a call, with the token that it got.
type Change = fn(Request, &str) -> Request;

/// Has `videos` call `/channels/7` with what `change` makes of the token that it got.
fn call_on(
    mesh: &Mesh,
    host: &'static str,
    change: impl Fn(Request, &str) -> Request + Send + Sync + 'static,
) {
    let outbound = Request::get(mesh.sidecar.address_of("outbound"), "/v1/channels/7");
    mesh.app.calls(move |seen| {
        let token = String::from_utf8_lossy(seen.header("txn-token").unwrap());
        let id = seen.header("x-request-id").unwrap();
        change(outbound.clone().header("Host", host).header("x-request-id", id), &token)
    });
}

#[test]
fn it_goes_on_through_services_and_proves_itself_at_each() {
    let mesh = mesh().exit().channels_config(asserts_nobody).start();
    let token = user_token(&mesh);
    let send = || mesh.get("/api/comments").bearer(&token).send();
    let channels = &mesh.beyond().channels;

    // The app copies the token alone, or beside what it makes up.
    call_on(&mesh, "channels", |request, token| request.header("txn-token", token));
    let seen = only(channels, &send());
    let signed = assert_signed(&seen, USER, Some("videos"));
    let videos = mesh.app.take().remove(0);
    assert_eq!(assert_signed(&videos, USER, None), signed);
    assert_eq!(seen.header("x-request-id"), videos.header("x-request-id"));
    call_on(&mesh, "channels", |request, token| forge(request).header("txn-token", token));
    assert_eq!(assert_signed(&only(channels, &send()), USER, Some("videos")), signed);

    // What it makes up is nothing without the token, and the token nothing if it is not as it was signed.
    let attacks: [(Change, u16, &str); 4] = [
        (|request, _| forge(request), 401, "token_missing"),
        (
            |request, token| {
                let [head, _, signature] = token.split('.').collect::<Vec<_>>()[..] else {
                    return request;
                };
                let mut claims = part(token, 1);
                claims["tctx"]["x-user-id"] = json!("u-forged");
                request.header("txn-token", format!("{head}.{}.{signature}", encode(&claims)))
            },
            401,
            "signature_invalid",
        ),
        (
            |request, _| {
                let claims = service_claims("videos", &["internal:read"]);
                request.header("txn-token", Key::es256("g1").token(&claims))
            },
            401,
            "issuer_unknown",
        ),
        (
            |request, token| request.header("txn-token", token).header("txn-token", token),
            403,
            "untrusted_peer",
        ),
    ];
    for (change, status, code) in attacks {
        call_on(&mesh, "channels", change);
        assert_denied(&send(), status, code);
        assert!(channels.take().is_empty(), "{code}");
    }
    // Somebody else's service is not told.
    call_on(&mesh, "thumbnails.example.com", |request, token| {
        forge(request).header("txn-token", token)
    });
    assert_names(&only(&mesh.beyond().thumbnails, &send()), NOBODY, None);
    mesh.no_traps();
}
