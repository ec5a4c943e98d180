//! Signed context: a gateway signs what it says of a user, and a service believes that and nothing else.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use meshgate::boundary::peer::Hop;
use meshgate::callout::StreamId;
use meshgate::config::Config;
use meshgate::denial::Code;
use meshgate::headers::{Edit, Field, Stripped};
use meshgate::worker::Disposition;
use serde_json::{Value, json};

use crate::support::{
    Flow, Key, START, claims, config, denied, forwarded, only, record, removed, set,
};

const GATEWAY: &str = "spiffe://cluster.local/ns/edge/sa/gateway";
const VIDEOS: &str = "spiffe://cluster.local/ns/default/sa/videos";
const KEYS: &str = "/.well-known/meshgate/jwks.json";

type Headers<'a> = &'a [(&'a str, &'a [u8])];
type Change<'a> = &'a dyn Fn(&mut Value);

/// RFC 8037 appendix A.1: an Ed25519 key.
fn ed25519() -> Value {
    json!({"kty": "OKP", "crv": "Ed25519", "kid": "g1",
           "d": "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A",
           "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"})
}

/// RFC 7517 appendix A.2: a P-256 key.
fn p256() -> Value {
    json!({"kty": "EC", "crv": "P-256", "kid": "g1",
           "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
           "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM",
           "d": "870MB6gfuTJ4HtUnUvYMyJpr5eUZNP4Bk43bVdj3eAE"})
}

fn gateway_config() -> Value {
    let mut config = config();
    config["txn_token"] = json!({
        "issue": {"issuer": "https://gw.example", "audience": "prod.example",
                  "key": ed25519().to_string(), "kid": "g1"},
        "also_publish": [Key::new("g2").jwk()],
        "jwks_path": KEYS,
    });
    config
}

fn gateway(change: impl FnOnce(&mut Value)) -> Flow {
    let mut config = gateway_config();
    change(&mut config);
    Flow::with(&config).with_keys()
}

/// A service that knows these keys of the gateway's.
fn service_config(keys: &Value) -> Value {
    let mut config = config();
    config["mode"] = json!("service");
    config["service"] = json!({"name": "channels-service"});
    config["providers"]["gateway"] = json!({
        "type": "transaction", "issuer": "https://gw.example", "audiences": ["prod.example"],
        "local_jwks": keys,
    });
    config["providers"]["mesh"] = json!({
        "type": "service", "issuer": "mesh-auth", "audiences": ["mesh"],
        "local_jwks": {"keys": [Key::new("mesh").jwk()]},
        "from_headers": [{"name": "x-service-authorization", "value_prefix": "Bearer "}],
    });
    config["boundary"] = json!({
        "peers": [
            {"spiffe_id": GATEWAY, "may_assert_user": true},
            {"spiffe_id": "spiffe://cluster.local/ns/default/sa/*", "service_name": "*"},
        ],
        "service_tokens": {"provider": "mesh"},
        "txn_token": {"provider": "gateway"},
        "otherwise": "reject",
    });
    config
}

fn service(change: impl FnOnce(&mut Value)) -> Flow {
    let mut config = service_config(&published(&mut gateway(|_| ())));
    change(&mut config);
    Flow::with(&config).with_keys()
}

fn from(uri: &str) -> Hop {
    Hop { has_certificate: true, uri_san: Some(uri.as_bytes().to_vec()), ..Hop::default() }
}

/// What no gateway would sign, by the key `g2` that the gateway publishes beside its own.
fn forged(header: &Value, claims: &Value) -> String {
    Key::new("g2").sign(header.to_string().as_bytes(), claims.to_string().as_bytes())
}

fn header() -> Value {
    json!({"typ": "txntoken+jwt", "alg": "ES256", "kid": "g2"})
}

fn txn_claims() -> Value {
    json!({"iss": "https://gw.example", "aud": "prod.example", "iat": START, "exp": START + 60,
           "txn": "r-1", "sub": "user_2abc",
           "tctx": {"x-user-id": "u-1001", "x-user-role": "USER"}})
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = txn_claims();
    claims[name] = value;
    claims
}

#[track_caller]
fn published(flow: &mut Flow) -> Value {
    match flow.send(KEYS, &[]).2 {
        Disposition::Answer(reply) => serde_json::from_str(&reply.body).unwrap(),
        other => panic!("{other:?}"),
    }
}

/// The `Txn-Token` that goes upstream.
fn txn_token(edits: &[Edit]) -> Option<String> {
    let mut found = edits.iter().filter_map(|edit| match edit {
        Edit::Set(name, value) if name == "txn-token" => {
            Some(String::from_utf8(value.clone()).unwrap())
        }
        Edit::Set(..) | Edit::Remove(_) => None,
    });
    let token = found.next();
    assert_eq!(found.next(), None);
    token
}

fn context_of(edits: &[Edit]) -> Vec<Edit> {
    let is_context =
        |edit: &&Edit| matches!(edit, Edit::Set(name, _) if name.starts_with("x-user"));
    edits.iter().filter(is_context).cloned().collect()
}

fn whole_context() -> Vec<Edit> {
    vec![
        set("x-user-id", "u-1001"),
        set("x-user-clerk-id", "user_2abc"),
        set("x-user-role", "USER"),
        set("x-user-channel-id", "ch-2001"),
    ]
}

fn part(token: &str, place: usize) -> Value {
    let part = token.split('.').nth(place).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

/// The token that a gateway makes of the seed's user.
fn signed(flow: &mut Flow) -> String {
    let token = flow.token();
    txn_token(&forwarded(flow.whole("/x", &token, &record()))).unwrap()
}

fn bring(flow: &mut Flow, token: &str) -> Disposition {
    flow.send("/x", &[("txn-token", token.as_bytes())]).2
}

#[test]
fn a_context_that_a_gateway_signed_is_believed_whoever_brings_it() {
    for (key, alg) in [(ed25519(), "EdDSA"), (p256(), "ES256")] {
        let mut edge = gateway(|config| {
            config["txn_token"]["issue"]["key"] = json!(key.to_string());
            config["txn_token"]["issue"]["alg"] = json!(alg);
        });
        let user = format!("Bearer {}", edge.token());
        let headers =
            [("authorization", user.as_bytes()), ("x-request-id", b"r-77"), ("txn-token", b"mine")];
        let (stream, strip, _) = edge.send("/x", &headers);
        assert!(strip.contains(&removed("txn-token")));
        let call = edge.call();
        let edits =
            forwarded(only(edge.answer(call.id, 200, record().to_string().as_bytes()), stream));
        assert_eq!(context_of(&edits), whole_context());
        let token = txn_token(&edits).unwrap();
        assert_eq!(part(&token, 0), json!({"typ": "txntoken+jwt", "alg": alg, "kid": "g1"}));
        assert_eq!(
            part(&token, 1),
            json!({
                "iss": "https://gw.example", "aud": "prod.example", "iat": START, "exp": START + 60,
                "txn": "r-77", "sub": "user_2abc",
                "tctx": {"x-user-id": "u-1001", "x-user-clerk-id": "user_2abc",
                         "x-user-role": "USER", "x-user-channel-id": "ch-2001"},
            })
        );

        let mut inner = Flow::with(&service_config(&published(&mut edge)));
        for uri in [None, Some(GATEWAY), Some(VIDEOS), Some("spiffe://evil/x")] {
            inner.hop = uri.map_or_else(Hop::default, from);
            let edits = forwarded(bring(&mut inner, &token));
            assert_eq!(context_of(&edits), whole_context());
            // It goes on to the next hop as it came.
            assert_eq!(txn_token(&edits), Some(token.clone()));
        }
    }
}

#[test]
fn one_token_serves_a_user_for_a_moment() {
    let mut flow = gateway(|_| ());
    let first = signed(&mut flow);
    flow.advance(Duration::from_millis(4_999));
    assert_eq!(signed(&mut flow), first);
    flow.advance(Duration::from_millis(1));
    let second = signed(&mut flow);
    assert_ne!(second, first);
    assert_eq!(part(&second, 1)["iat"], START + 5);
    assert_ne!(part(&second, 1)["txn"], part(&first, 1)["txn"]);
    assert_eq!(signed(&mut flow), second);

    // Another token, be it of the same user, is another matter.
    let mut other = claims();
    other["jti"] = json!("another");
    let token = flow.key.token(&other);
    let third = txn_token(&forwarded(flow.whole("/x", &token, &record()))).unwrap();
    assert_ne!(third, second);

    let mut flow = gateway(|config| config["txn_token"]["issue"]["reuse"] = json!("0s"));
    let first = signed(&mut flow);
    assert_ne!(signed(&mut flow), first);
}

#[test]
fn another_user_or_another_context_has_another_token() {
    let mut flow = gateway(|config| {
        config["user"]["lookup"]["cache"] = json!({"ttl": "1s"});
        config["txn_token"]["issue"]["reuse"] = json!("30s");
    });
    let first = signed(&mut flow);
    let mut other = claims();
    other["sub"] = json!("user_3");
    other["clerkId"] = json!("user_3");
    let token = flow.key.token(&other);
    let their_record = json!({"id": "u-3", "role": "USER"});
    let theirs = txn_token(&forwarded(flow.whole("/x", &token, &their_record))).unwrap();
    assert_eq!(part(&theirs, 1)["sub"], "user_3");
    assert_eq!(part(&theirs, 1)["tctx"]["x-user-id"], "u-3");
    assert_eq!(part(&theirs, 1)["tctx"].get("x-user-channel-id"), None);
    assert_eq!(signed(&mut flow), first);

    flow.advance(Duration::from_secs(2));
    let mut promoted = record();
    promoted["role"] = json!("ADMIN");
    let token = flow.token();
    let second = txn_token(&forwarded(flow.whole("/x", &token, &promoted))).unwrap();
    assert_eq!(part(&second, 1)["tctx"]["x-user-role"], "ADMIN");
}

#[test]
fn nobodys_request_has_none() {
    let mut flow = gateway(|_| ());
    for path in ["/healthz", "/public"] {
        let (_, strip, disposition) = flow.send(path, &[("Txn_Token", b"forged")]);
        assert!(strip.contains(&removed("txn_token")));
        assert_eq!(txn_token(&forwarded(disposition)), None);
    }
    // Nor has one where the gateway does not sign.
    let mut flow = Flow::ready();
    let token = flow.token();
    assert_eq!(txn_token(&forwarded(flow.whole("/x", &token, &record()))), None);
}

#[test]
fn what_is_not_the_gateways_is_refused_whatever_else_the_request_has() {
    let good = signed(&mut gateway(|_| ()));
    let (head, rest) = good.split_once('.').unwrap();
    let (payload, signature) = rest.split_once('.').unwrap();
    let mut claims = part(&good, 1);
    claims["tctx"]["x-user-role"] = json!("ADMIN");
    let altered = URL_SAFE_NO_PAD.encode(claims.to_string());
    let mut typ = header();
    let mut kinds = Vec::new();
    for name in ["JWT", "at+jwt", "txntoken", "txntoken+jwt "] {
        typ["typ"] = json!(name);
        kinds.push((forged(&typ, &txn_claims()), Code::TokenMalformed));
    }
    typ.as_object_mut().unwrap().remove("typ");
    kinds.push((forged(&typ, &txn_claims()), Code::TokenMalformed));
    let unsigned =
        URL_SAFE_NO_PAD.encode(json!({"typ": "txntoken+jwt", "alg": "none"}).to_string());
    let hmac = URL_SAFE_NO_PAD
        .encode(json!({"typ": "txntoken+jwt", "alg": "HS256", "kid": "g1"}).to_string());
    let swapped = URL_SAFE_NO_PAD
        .encode(json!({"typ": "txntoken+jwt", "alg": "ES256", "kid": "g1"}).to_string());
    let evil = Key::new("evil");
    let mut evil_header = header();
    let by_evil = |header: &Value| {
        evil.sign(header.to_string().as_bytes(), txn_claims().to_string().as_bytes())
    };
    let as_g2 = by_evil(&evil_header);
    evil_header["kid"] = json!("evil");
    let as_evil = by_evil(&evil_header);
    evil_header["jwk"] = evil.jwk();
    let with_own_key = by_evil(&evil_header);
    let cases = [
        (format!("{head}.{altered}.{signature}"), Code::SignatureInvalid),
        (format!("{head}.{payload}."), Code::SignatureInvalid),
        (format!("{head}.{payload}"), Code::TokenMalformed),
        (format!("{unsigned}.{payload}."), Code::AlgorithmNotAllowed),
        (format!("{hmac}.{payload}.{signature}"), Code::AlgorithmNotAllowed),
        (format!("{swapped}.{payload}.{signature}"), Code::KeyUnknown),
        (String::new(), Code::TokenMalformed),
        (format!("{good},{good}"), Code::TokenMalformed),
        (format!("Bearer {good}"), Code::TokenMalformed),
        (as_g2, Code::SignatureInvalid),
        (as_evil, Code::KeyUnknown),
        (with_own_key, Code::KeyUnknown),
        (forged(&header(), &with("aud", json!("other.example"))), Code::AudienceMismatch),
        (forged(&header(), &with("aud", json!([]))), Code::AudienceMismatch),
        (forged(&header(), &with("iss", json!("https://evil"))), Code::IssuerUnknown),
        (forged(&header(), &with("iss", json!("mesh-auth"))), Code::IssuerUnknown),
        (forged(&header(), &with("exp", json!(START - 60))), Code::TokenExpired),
        (forged(&header(), &with("exp", json!(null))), Code::TokenMalformed),
        (forged(&header(), &with("iat", json!(START + 600))), Code::TokenNotYetValid),
        (forged(&header(), &with("tctx", json!(null))), Code::TokenMalformed),
        (forged(&header(), &with("tctx", json!({}))), Code::TokenMalformed),
        (forged(&header(), &with("tctx", json!({"x-user-id": "u"}))), Code::TokenMalformed),
        (
            forged(&header(), &with("tctx", json!({"x-user-id": "u", "X-User-Role": "USER"}))),
            Code::TokenMalformed,
        ),
        (
            forged(&header(), &with("tctx", json!({"x-user-id": "u\r\nx: y", "x-user-role": "U"}))),
            Code::TokenMalformed,
        ),
        (
            forged(&header(), &with("tctx", json!({"x-user-id": ["u"], "x-user-role": "USER"}))),
            Code::TokenMalformed,
        ),
    ];
    for (token, code) in cases.into_iter().chain(kinds) {
        let mut flow = service(|_| ());
        flow.hop = from(GATEWAY);
        let user = format!("Bearer {}", flow.token());
        for path in ["/x", "/public"] {
            let headers = [
                ("txn-token", token.as_bytes()),
                ("x-user-id", b"u-1001"),
                ("x-user-role", b"USER"),
                ("authorization", user.as_bytes()),
            ];
            assert_eq!(denied(&flow.send(path, &headers).2), code, "{token}");
        }
        // Where no token is looked at, this one goes no further.
        let (_, strip, disposition) = flow.send("/healthz", &[("txn-token", token.as_bytes())]);
        assert!(strip.contains(&removed("txn-token")));
        assert_eq!(txn_token(&forwarded(disposition)), None);
    }
    // The tests' own key is good for what is right, so that the cases fail for their own reason.
    let right = forged(&header(), &txn_claims());
    let edits = forwarded(bring(&mut service(|_| ()), &right));
    assert_eq!(context_of(&edits), [set("x-user-id", "u-1001"), set("x-user-role", "USER")]);
    assert!(edits.contains(&removed("x-user-channel-id")));
    let mut long = header();
    long["typ"] = json!("application/TxnToken+JWT");
    forwarded(bring(&mut service(|_| ()), &forged(&long, &txn_claims())));
}

#[test]
fn a_token_cannot_be_replayed_past_its_life() {
    let token = signed(&mut gateway(|_| ()));
    let mut flow = service(|config| config["providers"]["gateway"]["clock_skew"] = json!("1s"));
    for (wait, code) in [(60_999, None), (1, Some(Code::TokenExpired))] {
        flow.advance(Duration::from_millis(wait));
        let disposition = bring(&mut flow, &token);
        match code {
            None => drop(forwarded(disposition)),
            Some(code) => assert_eq!(denied(&disposition), code),
        }
    }
}

#[test]
fn the_header_is_there_once_and_spelled_as_it_is() {
    let token = signed(&mut gateway(|_| ()));
    let token = token.as_bytes();
    let cases: [(Headers<'_>, Code); 5] = [
        (&[("txn-token", token), ("txn-token", token)], Code::TokenAmbiguous),
        (&[("txn-token", token), ("txn-token", b"")], Code::TokenAmbiguous),
        (&[("txn-token", token), ("txn_token", token)], Code::TokenAmbiguous),
        (&[("txn_token", token)], Code::TokenMalformed),
        (&[("txn.token", token)], Code::TokenMalformed),
    ];
    for (headers, code) in cases {
        let mut flow = service(|_| ());
        assert_eq!(denied(&flow.send("/x", headers).2), code);
    }
    forwarded(service(|_| ()).send("/x", &[("Txn-Token", token)]).2);
}

#[test]
fn plain_headers_beside_it_count_for_nothing() {
    let token = signed(&mut gateway(|_| ()));
    let mut flow = service(|_| ());
    flow.hop = from(GATEWAY);
    for plain in [
        vec![("x-user-id", &b"u-6666"[..]), ("x-user-role", b"ADMIN")],
        vec![("x-user-id", b"u-1"), ("x-user-id", b"u-2")],
        vec![("x_user_role", b"ADMIN")],
    ] {
        let mut headers = plain;
        headers.push(("txn-token", token.as_bytes()));
        let (_, _, disposition) = flow.send("/x", &headers);
        assert_eq!(context_of(&forwarded(disposition)), whole_context());
        assert_eq!(denied(&flow.send("/admin", &headers).2), Code::RoleRequired);
    }
}

#[test]
fn rules_hold_for_a_user_whom_a_gateway_signed_for() {
    let mut flow = service(|_| ());
    let user = forged(&header(), &txn_claims());
    let admin =
        forged(&header(), &with("tctx", json!({"x-user-id": "u-1", "x-user-role": "ADMIN"})));
    let to = |flow: &mut Flow, path: &str, token: &str| {
        flow.send(path, &[("txn-token", token.as_bytes())]).2
    };
    assert_eq!(denied(&to(&mut flow, "/admin", &user)), Code::RoleRequired);
    forwarded(to(&mut flow, "/admin", &admin));
    assert_eq!(denied(&to(&mut flow, "/upload", &admin)), Code::PermissionRequired);
}

#[test]
fn the_service_is_who_proved_it_and_the_user_who_was_signed_for() {
    let token = signed(&mut gateway(|_| ()));
    let service_claims = json!({"sub": "videos", "type": "service", "iss": "mesh-auth", "aud": "mesh",
                                "iat": START, "exp": START + 3600});
    let service_token = format!("Bearer {}", Key::new("mesh").token(&service_claims));
    let both =
        [("txn-token", token.as_bytes()), ("x-service-authorization", service_token.as_bytes())];
    let mut flow = service(|_| ());
    for _ in 0..2 {
        let edits = forwarded(flow.send("/x", &both).2);
        assert!(edits.contains(&set("x-service-name", "videos")));
        assert!(edits.contains(&removed("x-service-authorization")));
        assert_eq!(context_of(&edits), whole_context());
    }
    flow.hop = from(VIDEOS);
    let edits = forwarded(bring(&mut flow, &token));
    assert!(edits.contains(&set("x-service-name", "videos")));
    let named = [("txn-token", token.as_bytes()), ("x-service-name", b"users")];
    assert_eq!(denied(&flow.send("/x", &named).2), Code::UntrustedPeer);
    // One that is bad is not made good by the other.
    let bad = [("txn-token", &b"bad"[..]), ("x-service-authorization", service_token.as_bytes())];
    assert_eq!(denied(&flow.send("/x", &bad).2), Code::TokenMalformed);
    let bad = [("txn-token", token.as_bytes()), ("x-service-authorization", b"Bearer bad")];
    assert_eq!(denied(&flow.send("/x", &bad).2), Code::TokenMalformed);
}

#[test]
fn no_kind_of_token_passes_for_another() {
    let user = |issuer: &str| {
        let mut claims = claims();
        claims["iss"] = json!(issuer);
        Key::new("g2").token(&claims)
    };
    let service_of = |issuer: &str| {
        Key::new("g2").token(&json!({"sub": "videos", "type": "service", "iss": issuer,
                                     "aud": ["mesh", "prod.example", "youtube-clone-api"],
                                     "iat": START, "exp": START + 3600}))
    };
    let transaction = |issuer: &str| {
        let mut claims = with("iss", json!(issuer));
        claims["aud"] = json!(["mesh", "prod.example", "youtube-clone-api"]);
        claims["clerkId"] = json!("user_2abc");
        claims["type"] = json!("service");
        forged(&header(), &claims)
    };
    // Once each issuer has its own name, once all have one; the key is the same in any case.
    for one_issuer in [false, true] {
        let names = if one_issuer {
            ["one", "one", "one"]
        } else {
            ["youtube-clone-auth", "mesh-auth", "https://gw.example"]
        };
        let make = || {
            let mut config = service_config(&json!({"keys": [Key::new("g2").jwk()]}));
            for (provider, name) in ["clerk", "mesh", "gateway"].into_iter().zip(names) {
                let provider = &mut config["providers"][provider];
                provider["issuer"] = json!(name);
                provider["audiences"] = json!(["mesh", "prod.example", "youtube-clone-api"]);
                provider.as_object_mut().unwrap().remove("remote_jwks");
                provider["local_jwks"] = json!({"keys": [Key::new("g2").jwk()]});
            }
            config["boundary"]["otherwise"] = json!("authenticate");
            Flow::with(&config)
        };
        let refused = |header: &str, token: &str| {
            let mut flow = make();
            let bearer = format!("Bearer {token}");
            let value = if header == "txn-token" { token } else { &bearer };
            // Known from its right place, it is no better in a wrong one.
            for right in [
                ("txn-token", token),
                ("authorization", &bearer),
                ("x-service-authorization", &bearer),
            ] {
                let _ = flow.send("/x", &[(right.0, right.1.as_bytes())]);
            }
            let code = denied(&flow.send("/x", &[(header, value.as_bytes())]).2);
            let wrong = [Code::IssuerUnknown, Code::TokenMalformed, Code::ClaimMismatch];
            assert!(wrong.contains(&code), "{header} {code:?}");
        };
        let (user, service, transaction) =
            (user(names[0]), service_of(names[1]), transaction(names[2]));
        refused("txn-token", &user);
        refused("txn-token", &service);
        refused("authorization", &service);
        refused("authorization", &transaction);
        refused("x-service-authorization", &user);
        refused("x-service-authorization", &transaction);
        // And each is good for what it is.
        let mut flow = make();
        forwarded(bring(&mut flow, &transaction));
        assert_eq!(flow.get("/x", &user).1, Disposition::Pause);
        let bearer = format!("Bearer {service}");
        forwarded(flow.send("/public", &[("x-service-authorization", bearer.as_bytes())]).2);
    }
    // Where nobody issues transaction tokens, one signed by the users' issuer is no user's.
    let mut flow = Flow::ready();
    let mut claims = claims();
    claims["tctx"] = json!({});
    let header = json!({"typ": "txntoken+jwt", "alg": "ES256", "kid": "k1"});
    let token = flow.key.sign(header.to_string().as_bytes(), claims.to_string().as_bytes());
    assert_eq!(denied(&flow.get("/x", &token).1), Code::TokenMalformed);
}

#[test]
fn without_boundary_txn_token_it_is_stripped() {
    let token = signed(&mut gateway(|_| ()));
    let mut flow = service(|config| {
        config["boundary"].as_object_mut().unwrap().remove("txn_token");
    });
    let (_, strip, disposition) = flow.send("/x", &[("txn-token", token.as_bytes())]);
    assert!(strip.contains(&removed("txn-token")));
    assert_eq!(denied(&disposition), Code::UntrustedPeer);
    flow.hop = from(GATEWAY);
    let edits = forwarded(flow.send("/public", &[("txn-token", token.as_bytes())]).2);
    assert_eq!((txn_token(&edits), context_of(&edits)), (None, vec![]));
}

#[test]
fn a_user_whom_the_feed_revokes_is_gone_at_the_service_too() {
    let token = signed(&mut gateway(|_| ()));
    let mut config = service_config(&published(&mut gateway(|_| ())));
    config["revocation"] =
        json!({"feed": {"uri": "https://auth.example/revocations", "cluster": "auth"}});
    let mut flow = Flow::with(&config);
    flow.tick();
    // It waits for the first list, as any token does.
    let (stream, _, disposition) = flow.send("/x", &[("txn-token", token.as_bytes())]);
    assert_eq!(disposition, Disposition::Pause);
    let calls: Vec<_> = std::iter::from_fn(|| flow.worker.next_call()).collect();
    let feed = calls.iter().find(|call| call.request.cluster == "auth").unwrap();
    let empty = json!({"v": 1, "entries": []}).to_string();
    forwarded(only(flow.answer(feed.id, 200, empty.as_bytes()), stream));
    forwarded(bring(&mut flow, &token));
    flow.advance(Duration::from_secs(2));
    flow.tick();
    let poll = std::iter::from_fn(|| flow.worker.next_call())
        .find(|call| call.request.cluster == "auth")
        .unwrap();
    let entries = json!({"v": 1, "entries": [
        {"sub": "user_2abc", "iat_before": START + 1, "exp": START + 3600},
    ]});
    let _ = flow.answer(poll.id, 200, entries.to_string().as_bytes());
    assert_eq!(denied(&bring(&mut flow, &token)), Code::TokenRevoked);
}

#[test]
fn a_service_waits_for_the_gateways_keys() {
    let mut edge = gateway(|_| ());
    let token = signed(&mut edge);
    let mut config = service_config(&json!({}));
    let provider = &mut config["providers"]["gateway"];
    provider.as_object_mut().unwrap().remove("local_jwks");
    provider["remote_jwks"] =
        json!({"uri": format!("https://gw.example{KEYS}"), "cluster": "edge"});
    let mut flow = Flow::with(&config);
    flow.tick();
    let (stream, _, disposition) = flow.send("/x", &[("txn-token", token.as_bytes())]);
    assert_eq!(disposition, Disposition::Pause);
    let call = std::iter::from_fn(|| flow.worker.next_call())
        .find(|call| call.request.cluster == "edge")
        .unwrap();
    let keys = published(&mut edge).to_string();
    let edits = forwarded(only(flow.answer(call.id, 200, keys.as_bytes()), stream));
    assert_eq!(context_of(&edits), whole_context());
    assert_eq!(txn_token(&edits), Some(token.clone()));
    // From now on it is known.
    assert_eq!(txn_token(&forwarded(bring(&mut flow, &token))), Some(token));
}

#[test]
fn a_service_that_is_revoked_while_the_gateways_keys_are_fetched_is_refused() {
    let mut edge = gateway(|_| ());
    let token = signed(&mut edge);
    let mut config = service_config(&json!({}));
    let provider = &mut config["providers"]["gateway"];
    provider.as_object_mut().unwrap().remove("local_jwks");
    provider["remote_jwks"] =
        json!({"uri": "https://gw.example/jwks", "cluster": "edge", "timeout": "20s"});
    config["revocation"] =
        json!({"feed": {"uri": "https://auth.example/revocations", "cluster": "auth"}});
    let mut flow = Flow::with(&config);
    let call = |flow: &mut Flow, cluster: &str| {
        flow.tick();
        let calls: Vec<_> = std::iter::from_fn(|| flow.worker.next_call()).collect();
        calls.into_iter().find(|call| call.request.cluster == cluster).unwrap().id
    };
    let answer = |flow: &mut Flow, id, entries: Value| {
        let body = json!({"v": 1, "entries": entries}).to_string();
        flow.answer(id, 200, body.as_bytes())
    };
    flow.tick();
    let calls: Vec<_> = std::iter::from_fn(|| flow.worker.next_call()).collect();
    let of = |cluster: &str| calls.iter().find(|call| call.request.cluster == cluster).unwrap().id;
    let (keys, feed) = (of("edge"), of("auth"));
    let _ = answer(&mut flow, feed, json!([]));
    let service_token = Key::new("mesh").token(&json!({"sub": "videos", "type": "service",
        "iss": "mesh-auth", "aud": "mesh", "iat": START, "exp": START + 3600}));
    let service_token = format!("Bearer {service_token}");
    let headers =
        [("txn-token", token.as_bytes()), ("x-service-authorization", service_token.as_bytes())];
    let (stream, _, disposition) = flow.send("/x", &headers);
    assert_eq!(disposition, Disposition::Pause);
    flow.advance(Duration::from_secs(2));
    let poll = call(&mut flow, "auth");
    let _ = answer(&mut flow, poll, json!([{"sub": "videos", "exp": START + 3600}]));
    let document = published(&mut edge).to_string();
    let disposition = only(flow.answer(keys, 200, document.as_bytes()), stream);
    assert_eq!(denied(&disposition), Code::TokenRevoked);
}

#[test]
fn a_key_is_published_before_it_signs_and_after() {
    let next = |key: Value, kid: &str, other: Value| {
        let mut key = key;
        key["kid"] = json!(kid);
        gateway(|config| {
            config["txn_token"]["issue"]["key"] = json!(key.to_string());
            config["txn_token"]["issue"]["kid"] = json!(kid);
            config["txn_token"]["also_publish"] = json!([other]);
        })
    };
    let public = |key: Value, kid: &str| {
        let mut key = key;
        key["kid"] = json!(kid);
        key.as_object_mut().unwrap().remove("d");
        key
    };
    let mut old = next(ed25519(), "g1", public(p256(), "g3"));
    let mut new = next(p256(), "g3", public(ed25519(), "g1"));
    for keys in [published(&mut old), published(&mut new)] {
        let mut flow = Flow::with(&service_config(&keys));
        for edge in [&mut old, &mut new] {
            let token = signed(edge);
            forwarded(bring(&mut flow, &token));
        }
    }
}

#[test]
fn the_gateway_serves_its_public_keys_to_who_reads_them() {
    let mut flow = gateway(|_| ());
    let send = |flow: &mut Flow, method: &str, path: &str| {
        let field = |name: &str, value: &str| Field {
            name: name.to_owned(),
            value: value.as_bytes().to_vec(),
        };
        let fields = vec![field(":method", method), field(":path", path)];
        let (_, head) = Stripped::strip(fields, &flow.worker.config().context.managed);
        flow.worker.on_request(StreamId(9_000), &head, &Hop::default(), flow.now)
    };
    for (method, path) in [("GET", KEYS), ("HEAD", KEYS), ("GET", &format!("{KEYS}?v=1"))] {
        let Disposition::Answer(reply) = send(&mut flow, method, path) else { panic!("{path}") };
        assert_eq!(reply.status, 200);
        assert!(reply.headers.contains(&("content-type".into(), "application/json".to_owned())));
        assert!(
            reply.headers.contains(&("cache-control".into(), "public, max-age=300".to_owned()))
        );
        let document: Value = serde_json::from_str(&reply.body).unwrap();
        assert_eq!(
            document,
            json!({"keys": [
                {"kty": "OKP", "crv": "Ed25519", "kid": "g1", "use": "sig", "alg": "EdDSA",
                 "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"},
                Key::new("g2").jwk(),
            ]})
        );
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "get"] {
        assert_eq!(denied(&send(&mut flow, method, KEYS)), Code::MethodNotAllowed, "{method}");
    }
    for path in [
        "/.well-known/meshgate/jwks.json/",
        "/.well-known/meshgate/./jwks.json",
        "/.well-known/meshgate/JWKS.json",
        "/.well-known/meshgate/jwks%2ejson",
        "/x/.well-known/meshgate/jwks.json",
    ] {
        assert_eq!(denied(&send(&mut flow, "GET", path)), Code::TokenMissing, "{path}");
    }
    // Where no path is named, or it is no gateway, nothing is served.
    let mut flow = gateway(|config| {
        let txn_token = config["txn_token"].as_object_mut().unwrap();
        txn_token.remove("jwks_path");
        txn_token.remove("also_publish");
    });
    assert_eq!(denied(&send(&mut flow, "GET", KEYS)), Code::TokenMissing);
    assert_eq!(denied(&send(&mut service(|_| ()), "GET", KEYS)), Code::UntrustedPeer);
}

fn problems(config: &Value) -> Vec<String> {
    match Config::parse(config.to_string().as_bytes(), &|_| None) {
        Ok(_) => Vec::new(),
        Err(error) => error.0.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn keys_are_read_strictly_and_never_shown() {
    let d = "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A";
    let with_key = |change: &dyn Fn(&mut Value)| {
        let mut config = gateway_config();
        let mut key = ed25519();
        change(&mut key);
        config["txn_token"]["issue"]["key"] = json!(key.to_string());
        problems(&config)
    };
    let cases: [(Change<'_>, &str); 9] = [
        (&|key| key["kid"] = json!("g9"), "has another `kid`"),
        (&|key| key["kty"] = json!("RSA"), "neither an Ed25519 key"),
        (&|key| key["crv"] = json!("X25519"), "neither an Ed25519 key"),
        (&|key| drop(key.as_object_mut().unwrap().remove("d")), "no private part"),
        (&|key| key["x"] = p256()["x"].clone(), "not of the same key"),
        (&|key| key["d"] = json!(format!("{d}AA")), "not of the same key"),
        (&|key| key["use"] = json!("enc"), "marked for something else"),
        (&|key| key["key_ops"] = json!(["verify"]), "marked for something else"),
        (&|key| key["alg"] = json!("ES256"), "marked for something else"),
    ];
    for (change, message) in cases {
        let told = with_key(change);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(
            told[0].starts_with("txn_token.issue.key: ") && told[0].contains(message),
            "{told:?}"
        );
        assert!(!told[0].contains(d));
    }
    for key in [format!("{{\"d\":\"{d}\""), format!("\"{d}\""), d.to_owned(), format!("${{env:{d}")]
    {
        let mut config = gateway_config();
        config["txn_token"]["issue"]["key"] = json!(key);
        let told = problems(&config);
        assert!(!told.is_empty() && !told.concat().contains(d), "{told:?}");
    }
    let mut config = gateway_config();
    config["txn_token"]["issue"]["key"] = ed25519();
    let told = problems(&config);
    assert!(!told.is_empty() && !told.concat().contains(d), "{told:?}");

    let text = gateway_config().to_string();
    let config = Config::parse(text.as_bytes(), &|_| None).unwrap();
    let printed = format!("{config:?}");
    assert!(printed.contains("SigningKey(EdDSA)") && !printed.contains(d));
    let mut flow = gateway(|_| ());
    let token = flow.token();
    let disposition = flow.whole("/x", &token, &record());
    let printed = format!("{disposition:?} {:?}", flow.worker);
    let signature = txn_token(&forwarded(disposition)).unwrap();
    assert!(!printed.contains(signature.rsplit('.').next().unwrap()));
}

#[test]
fn a_config_that_makes_no_sense_is_told_so() {
    let with = |pointer: &str, value: Value| {
        let mut config = gateway_config();
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        config.pointer_mut(parent).unwrap()[name] = value;
        problems(&config)
    };
    let mut private = Key::new("g2").jwk();
    private["d"] = json!("AAAA");
    let mut nameless = Key::new("g2").jwk();
    nameless.as_object_mut().unwrap().remove("kid");
    for (pointer, value, place) in [
        ("/txn_token/issue/ttl", json!("1s"), "txn_token.issue.ttl"),
        ("/txn_token/issue/ttl", json!("5s"), "txn_token.issue.reuse"),
        ("/txn_token/issue/reuse", json!("31s"), "txn_token.issue.reuse"),
        ("/txn_token/issue/alg", json!("ES256"), "txn_token.issue.alg"),
        ("/txn_token/issue/alg", json!("none"), "txn_token.issue.alg"),
        ("/txn_token/issue/issuer", json!(""), "txn_token.issue.issuer"),
        ("/txn_token/issue/audience", json!(null), "txn_token.issue.audience"),
        ("/txn_token/issue/kid", json!(null), "txn_token.issue.kid"),
        ("/txn_token/issue/kid", json!("g2"), "txn_token.issue.key"),
        ("/txn_token/also_publish", json!([ed25519()]), "txn_token.also_publish[0]"),
        ("/txn_token/also_publish", json!([private]), "txn_token.also_publish[0]"),
        ("/txn_token/also_publish", json!([nameless]), "txn_token.also_publish[0].kid"),
        ("/txn_token/also_publish", json!(["x"]), "txn_token.also_publish[0]"),
        (
            "/txn_token/also_publish",
            json!([{"kty": "oct", "kid": "k"}]),
            "txn_token.also_publish[0]",
        ),
        (
            "/txn_token/also_publish",
            json!([Key::new("g2").jwk(), Key::new("g2").jwk()]),
            "txn_token.also_publish",
        ),
        ("/txn_token/jwks_path", json!("keys"), "txn_token.jwks_path"),
        ("/txn_token/jwks_path", json!("/a?b"), "txn_token.jwks_path"),
        ("/txn_token/jwks_path", json!(null), "txn_token.also_publish"),
        ("/txn_token/issue", json!(null), "txn_token.issue"),
        ("/providers/clerk/type", json!("transaction"), "providers.clerk.type"),
    ] {
        let told = with(pointer, value);
        assert!(
            told.len() == 1 && told[0].starts_with(&format!("{place}: ")),
            "{pointer}: {told:?}"
        );
    }
    let with = |pointer: &str, value: Value| {
        let mut config = service_config(&json!({"keys": [Key::new("g2").jwk()]}));
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        config.pointer_mut(parent).unwrap()[name] = value;
        problems(&config)
    };
    for (pointer, value, place) in [
        ("/boundary/txn_token/provider", json!("clerk"), "boundary.txn_token.provider"),
        ("/boundary/txn_token/provider", json!("mesh"), "boundary.txn_token.provider"),
        ("/boundary/txn_token/provider", json!("nobody"), "boundary.txn_token.provider"),
        ("/boundary/service_tokens/provider", json!("gateway"), "boundary.service_tokens.provider"),
        ("/providers/gateway/from_cookies", json!(["t"]), "providers.gateway.from_cookies"),
        ("/providers/gateway/from_params", json!(["t"]), "providers.gateway.from_params"),
        ("/providers/gateway/token_type", json!("JWT"), "providers.gateway.token_type"),
        (
            "/providers/gateway/require_expiration",
            json!(false),
            "providers.gateway.require_expiration",
        ),
        ("/providers/gateway/algorithms", json!(["HS256"]), "providers.gateway.algorithms"),
        ("/txn_token", json!({}), "txn_token"),
    ] {
        let told = with(pointer, value);
        assert!(
            told.len() == 1 && told[0].starts_with(&format!("{place}: ")),
            "{pointer}: {told:?}"
        );
    }
}
