//! At a service's door: whose word counts, and what becomes of everybody else's.

use meshgate::boundary::peer::Hop;
use meshgate::denial::Code;
use meshgate::headers::Edit;
use meshgate::worker::Disposition;
use serde_json::{Value, json};

use crate::support::{
    Flow, Key, START, claims, config, denied, forwarded, jwks, record, removed, set,
};

const GATEWAY: &str = "spiffe://cluster.local/ns/edge/sa/gateway";
const VIDEOS: &str = "spiffe://cluster.local/ns/default/sa/videos";
const BATCH: &str = "spiffe://cluster.local/ns/batch/sa/mailer";

type Header = (&'static str, &'static [u8]);

/// The context headers as a trusted hop sends them.
const CONTEXT: [Header; 4] = [
    ("x-user-id", b"u-1001"),
    ("x-user-clerk-id", b"user_2abc"),
    ("x-user-role", b"USER"),
    ("x-user-channel-id", b"ch-2001"),
];

fn service_config() -> Value {
    let mut config = config();
    config["mode"] = json!("service");
    config["service"] = json!({"name": "channels-service"});
    config["providers"]["mesh"] = json!({
        "type": "service", "issuer": "mesh-auth", "audiences": ["mesh"],
        "local_jwks": {"keys": [Key::new("mesh").jwk()]},
        "from_headers": [{"name": "x-service-authorization", "value_prefix": "Bearer "}],
    });
    config["boundary"] = json!({
        "peers": [
            {"spiffe_id": GATEWAY, "may_assert_user": true},
            {"spiffe_id": "spiffe://cluster.local/ns/default/sa/*", "service_name": "*", "may_assert_user": true},
            {"spiffe_id": "spiffe://cluster.local/ns/batch/sa/*", "service_name": "*"},
        ],
        "service_tokens": {"provider": "mesh", "permissions": ["internal:read"], "may_assert_user": true},
    });
    config["rules"]
        .as_array_mut()
        .unwrap()
        .insert(0, json!({"match": {"path_prefix": "/internal"}, "require": "service"}));
    config
}

fn door(change: impl FnOnce(&mut Value)) -> Flow {
    let mut config = service_config();
    change(&mut config);
    Flow::with(&config).with_keys()
}

fn from(uri: &str) -> Hop {
    Hop { has_certificate: true, uri_san: Some(uri.as_bytes().to_vec()), ..Hop::default() }
}

fn service_claims() -> Value {
    json!({"sub": "videos", "type": "service", "iss": "mesh-auth", "aud": "mesh",
           "iat": START, "exp": START + 3600, "permissions": ["internal:read"]})
}

fn service_token(claims: &Value) -> Vec<u8> {
    format!("Bearer {}", Key::new("mesh").token(claims)).into_bytes()
}

fn send(flow: &mut Flow, path: &str, headers: &[(&str, &[u8])]) -> Disposition {
    let (_, strip, disposition) = flow.send(path, headers);
    // Whatever is decided, what the hop sent is gone first.
    let managed = ["x-user", "x_user", "x-service-name", "txn-token"];
    for (name, _) in headers.iter().filter(|(name, _)| managed.iter().any(|m| name.starts_with(m)))
    {
        assert!(strip.contains(&removed(name)), "{name}");
    }
    disposition
}

fn context_of(edits: &[Edit]) -> Vec<Edit> {
    edits
        .iter()
        .filter(|edit| matches!(edit, Edit::Set(name, _) if name.starts_with("x-user")))
        .cloned()
        .collect()
}

fn whole_context() -> Vec<Edit> {
    CONTEXT.iter().map(|(name, value)| Edit::Set((*name).to_owned(), value.to_vec())).collect()
}

#[test]
fn a_hop_that_may_say_who_the_user_is_is_believed_and_no_other() {
    for (uri, believed) in [
        (Some(GATEWAY), true),
        (Some(VIDEOS), true),
        (Some(BATCH), false),
        (Some("spiffe://cluster.local/ns/edge/sa/gateway-evil"), false),
        (Some("spiffe://cluster.local/ns/edge/sa/gateway/x"), false),
        (Some("spiffe://evil.local/ns/edge/sa/gateway"), false),
        (Some("spiffe://cluster.local/ns/default/sa/a/b"), false),
        (Some("https://cluster.local/ns/edge/sa/gateway"), false),
        (Some(""), false),
        (None, false),
    ] {
        let mut flow = door(|_| ());
        flow.hop = uri.map_or_else(Hop::default, from);
        let disposition = send(&mut flow, "/x", &CONTEXT);
        if believed {
            assert_eq!(context_of(&forwarded(disposition)), whole_context(), "{uri:?}");
        } else {
            assert_eq!(denied(&disposition), Code::TokenMissing, "{uri:?}");
        }
        flow.no_call();
    }
    let mut flow = door(|_| ());
    let uri_san = Some(b"spiffe://cluster.local/ns/edge/sa/\xff".to_vec());
    flow.hop = Hop { has_certificate: true, uri_san, ..Hop::default() };
    assert_eq!(denied(&send(&mut flow, "/x", &CONTEXT)), Code::TokenMissing);
}

#[test]
fn what_becomes_of_other_hops_is_the_configs_choice() {
    for (otherwise, open, closed) in [
        ("authenticate", None, Some(Code::TokenMissing)),
        ("strip", None, Some(Code::TokenMissing)),
        ("reject", Some(Code::UntrustedPeer), Some(Code::UntrustedPeer)),
    ] {
        let mut flow = door(|config| config["boundary"]["otherwise"] = json!(otherwise));
        for hop in [Hop::default(), from(BATCH)] {
            flow.hop = hop;
            for (path, code) in [("/public", open), ("/x", closed), ("/healthz", None)] {
                let disposition = send(&mut flow, path, &CONTEXT);
                match code {
                    None => assert_eq!(context_of(&forwarded(disposition)), []),
                    Some(code) => assert_eq!(denied(&disposition), code, "{otherwise} {path}"),
                }
            }
        }
    }
}

#[test]
fn a_users_token_is_verified_here_where_nobody_vouches_for_the_user() {
    for hop in [Hop::default(), from(BATCH), from(GATEWAY)] {
        let mut flow = door(|_| ());
        let vouches = hop.id() == from(GATEWAY).id();
        flow.hop = hop;
        let token = flow.token();
        let edits = forwarded(flow.whole("/x", &token, &record()));
        assert_eq!(context_of(&edits), whole_context());
        assert!(edits.contains(&removed("authorization")));
        // A bad one is refused, even on paths that need none.
        let bad = Key::new("evil").token(&claims());
        let (_, disposition) = flow.get("/public", &bad);
        assert!(matches!(denied(&disposition), Code::KeyUnknown), "{vouches}");
    }
    let mut flow = door(|config| config["boundary"]["otherwise"] = json!("strip"));
    let token = flow.token();
    assert_eq!(denied(&flow.get("/x", &token).1), Code::TokenMissing);
}

#[test]
fn a_context_that_is_not_whole_or_not_clear_is_refused() {
    let cases: [(&str, Vec<Header>); 11] = [
        ("twice", vec![("x-user-id", b"u-1"), ("x-user-id", b"u-2"), ("x-user-role", b"USER")]),
        (
            "twice the same",
            vec![("x-user-id", b"u-1"), ("x-user-id", b"u-1"), ("x-user-role", b"USER")],
        ),
        ("another spelling", vec![("x_user_id", b"u-1"), ("x-user-role", b"USER")]),
        (
            "beside another spelling",
            vec![("x-user-id", b"u-1"), ("x_user_id", b"u-2"), ("x-user-role", b"USER")],
        ),
        ("without what is required", vec![("x-user-id", b"u-1")]),
        ("without what is required", vec![("x-user-channel-id", b"ch-1")]),
        ("empty", vec![("x-user-id", b""), ("x-user-role", b"USER")]),
        ("not ASCII", vec![("x-user-id", b"u-\xff"), ("x-user-role", b"USER")]),
        ("with spaces around", vec![("x-user-id", b" u-1 "), ("x-user-role", b"USER")]),
        ("with a tab at the end", vec![("x-user-id", b"u-1\t"), ("x-user-role", b"USER")]),
        ("with a line's end", vec![("x-user-id", b"u\n1"), ("x-user-role", b"USER")]),
    ];
    for (name, headers) in cases {
        let mut flow = door(|_| ());
        flow.hop = from(GATEWAY);
        assert_eq!(denied(&send(&mut flow, "/public", &headers)), Code::UntrustedPeer, "{name}");
    }
}

#[test]
fn rules_hold_for_a_user_whom_a_hop_names() {
    let mut flow = door(|config| {
        config["context"] = json!({"headers": {
            "x-user-id": {"user": "/id", "required": true},
            "x-user-role": {"user": "/role"},
            "x-user-permissions": {"user": "/permissions", "join": ","},
        }});
    });
    flow.hop = from(GATEWAY);
    let user = |role: &'static [u8], permissions: &'static [u8]| {
        [("x-user-id", &b"u-1"[..]), ("x-user-role", role), ("x-user-permissions", permissions)]
    };
    assert_eq!(denied(&send(&mut flow, "/admin", &user(b"USER", b"a"))), Code::RoleRequired);
    forwarded(send(&mut flow, "/admin", &user(b"ADMIN", b"a")));
    assert_eq!(
        denied(&send(&mut flow, "/upload", &user(b"USER", b"video:creat"))),
        Code::PermissionRequired
    );
    forwarded(send(&mut flow, "/upload", &user(b"USER", b"a,video:create")));
}

#[test]
fn a_services_name_is_the_one_that_was_proved() {
    let name = |service: &'static str| ("x-service-name", service.as_bytes());
    for (uri, sent, told) in [
        (Some(VIDEOS), None, Ok(Some("videos"))),
        (Some(VIDEOS), Some("videos"), Ok(Some("videos"))),
        (Some(VIDEOS), Some("users"), Err(Code::UntrustedPeer)),
        (Some(BATCH), None, Ok(Some("mailer"))),
        (Some(GATEWAY), Some("videos"), Ok(None)),
        (None, Some("videos"), Ok(None)),
        (None, None, Ok(None)),
    ] {
        let mut flow = door(|_| ());
        flow.hop = uri.map_or_else(Hop::default, from);
        let headers: Vec<_> = sent.map(name).into_iter().collect();
        let disposition = send(&mut flow, "/public", &headers);
        match told {
            Err(code) => assert_eq!(denied(&disposition), code),
            Ok(service) => {
                let edits = forwarded(disposition);
                let names: Vec<_> = edits
                    .iter()
                    .filter(|edit| matches!(edit, Edit::Set(name, _) if name == "x-service-name"))
                    .cloned()
                    .collect();
                let expected: Vec<_> =
                    service.map(|service| set("x-service-name", service)).into_iter().collect();
                assert_eq!(names, expected, "{uri:?} {sent:?}");
            }
        }
    }
}

#[test]
fn a_path_for_services_is_for_those_that_prove_who_they_are() {
    for otherwise in ["authenticate", "strip", "reject"] {
        let mut flow = door(|config| config["boundary"]["otherwise"] = json!(otherwise));
        for (uri, code) in [
            (Some(VIDEOS), None),
            (Some(BATCH), None),
            (Some(GATEWAY), Some(Code::ServiceRequired)),
            (None, Some(Code::ServiceRequired)),
        ] {
            flow.hop = uri.map_or_else(Hop::default, from);
            let disposition = send(&mut flow, "/internal/x", &[]);
            match code {
                None => drop(forwarded(disposition)),
                Some(code) => assert_eq!(denied(&disposition), code, "{uri:?}"),
            }
        }
        // A user is not enough.
        flow.hop = Hop::default();
        let token = flow.token();
        assert_eq!(denied(&flow.get("/internal/x", &token).1), Code::ServiceRequired);
    }
}

#[test]
fn a_service_token_proves_a_service_and_is_taken_off() {
    let mut flow = door(|_| ());
    let token = service_token(&service_claims());
    for _ in 0..2 {
        let mut headers = CONTEXT.to_vec();
        headers.push(("x-service-authorization", &token));
        let edits = forwarded(send(&mut flow, "/x", &headers));
        assert_eq!(context_of(&edits), whole_context());
        assert!(edits.contains(&set("x-service-name", "videos")));
        assert!(edits.contains(&removed("x-service-authorization")));
        forwarded(send(&mut flow, "/internal/x", &[("x-service-authorization", &token)]));
    }
    let mut flow =
        door(|config| config["boundary"]["service_tokens"]["may_assert_user"] = json!(false));
    let mut headers = CONTEXT.to_vec();
    headers.push(("x-service-authorization", &token));
    assert_eq!(denied(&send(&mut flow, "/x", &headers)), Code::TokenMissing);
}

#[test]
fn a_service_token_that_is_not_good_is_refused_whatever_the_certificate() {
    let with = |name: &str, value: Value| {
        let mut claims = service_claims();
        claims[name] = value;
        claims
    };
    for (claims, code) in [
        (with("type", json!("user")), Code::ClaimMismatch),
        (with("type", json!(["service"])), Code::ClaimMismatch),
        (with("exp", json!(START - 60)), Code::TokenExpired),
        (with("aud", json!("other")), Code::AudienceMismatch),
        (with("iss", json!("youtube-clone-auth")), Code::IssuerUnknown),
        (with("iss", json!("nobody")), Code::IssuerUnknown),
        (with("permissions", json!([])), Code::PermissionRequired),
        (with("permissions", json!("internal:write")), Code::PermissionRequired),
        (with("sub", json!("")), Code::TokenMalformed),
        (with("sub", json!("vidéos")), Code::TokenMalformed),
        (with("sub", json!("channels")), Code::UntrustedPeer),
    ] {
        let mut flow = door(|_| ());
        flow.hop = from(VIDEOS);
        let token = service_token(&claims);
        let disposition = send(&mut flow, "/public", &[("x-service-authorization", &token)]);
        assert_eq!(denied(&disposition), code, "{claims}");
    }
    let mut flow = door(|_| ());
    let forged = format!("Bearer {}", Key::new("evil").token(&service_claims()));
    let disposition = send(&mut flow, "/public", &[("x-service-authorization", forged.as_bytes())]);
    assert_eq!(denied(&disposition), Code::KeyUnknown);
}

#[test]
fn a_service_token_is_bound_to_the_certificate_unless_the_config_lets_it_go() {
    for (uri, bound, served) in [
        (Some(VIDEOS), true, true),
        (Some(BATCH), true, false),
        (Some(GATEWAY), true, false),
        (Some("spiffe://unknown/sa/x"), true, false),
        (Some("https://mesh.example/thief"), true, false),
        (Some("spiffe://cluster.local/ns/x/sa/"), true, false),
        (None, true, true),
        (Some(BATCH), false, true),
        (Some(GATEWAY), false, true),
    ] {
        let mut flow =
            door(|config| config["boundary"]["service_tokens"]["bind_to_peer"] = json!(bound));
        flow.hop = uri.map_or_else(Hop::default, from);
        let token = service_token(&service_claims());
        let disposition = send(&mut flow, "/public", &[("x-service-authorization", &token)]);
        if served {
            forwarded(disposition);
        } else {
            assert_eq!(denied(&disposition), Code::UntrustedPeer, "{uri:?}");
        }
    }
}

#[test]
fn a_service_token_is_bound_to_a_certificate_that_says_nothing_too() {
    let mut flow = door(|_| ());
    flow.hop = Hop { has_certificate: true, ..Hop::default() };
    let token = service_token(&service_claims());
    let disposition = send(&mut flow, "/public", &[("x-service-authorization", &token)]);
    assert_eq!(denied(&disposition), Code::UntrustedPeer);
}

#[test]
fn a_user_token_is_no_service_token_nor_the_other_way_about() {
    for same_place in [false, true] {
        let mut flow = door(|config| {
            if same_place {
                config["providers"]["mesh"].as_object_mut().unwrap().remove("from_headers");
            }
        });
        let service_place = if same_place { "authorization" } else { "x-service-authorization" };
        let user = format!("Bearer {}", flow.token());
        // A user's token where a service's belongs proves no service.
        let disposition = send(&mut flow, "/internal/x", &[(service_place, user.as_bytes())]);
        let code = denied(&disposition);
        assert!(matches!(code, Code::IssuerUnknown | Code::ServiceRequired), "{code:?}");
        // A service's token where a user's belongs is no user.
        let token = service_token(&service_claims());
        let code = denied(&send(&mut flow, "/x", &[("authorization", &token)]));
        assert!(matches!(code, Code::IssuerUnknown | Code::TokenMissing), "{code:?}");
        // Nor is one that a users' issuer signed, or the other way about.
        let mut claims = claims();
        claims["type"] = json!("service");
        let odd = format!("Bearer {}", flow.key.token(&claims));
        let code = denied(&send(&mut flow, "/x", &[("authorization", odd.as_bytes())]));
        assert_eq!(code, Code::ClaimMismatch);
        // Both together are both.
        if !same_place {
            let headers =
                [("authorization", user.as_bytes()), ("x-service-authorization", &token[..])];
            assert_eq!(
                send(&mut flow, "/x", &headers),
                Disposition::Pause,
                "the user is looked up"
            );
        }
    }
}

#[test]
fn one_issuer_may_serve_users_and_services() {
    let mut config = service_config();
    config["providers"]["mesh"]["issuer"] = json!("youtube-clone-auth");
    let mut flow = Flow::with(&config).with_keys();
    let mut claims = service_claims();
    claims["iss"] = json!("youtube-clone-auth");
    let token = service_token(&claims);
    forwarded(send(&mut flow, "/internal/x", &[("x-service-authorization", &token)]));
    let token = flow.token();
    assert_eq!(flow.get("/x", &token).1, Disposition::Pause);
}

#[test]
fn a_service_token_waits_for_keys_and_then_for_its_user() {
    let mut config = service_config();
    let mesh = &mut config["providers"]["mesh"];
    mesh.as_object_mut().unwrap().remove("local_jwks");
    mesh["remote_jwks"] = json!({"uri": "https://mesh.example/jwks", "cluster": "mesh"});
    let mut flow = Flow::with(&config);
    flow.tick();
    let token = service_token(&service_claims());
    let user = format!("Bearer {}", flow.token());
    let (stream, _, disposition) =
        flow.send("/x", &[("x-service-authorization", &token), ("authorization", user.as_bytes())]);
    assert_eq!(disposition, Disposition::Pause);
    let calls: Vec<_> = std::iter::from_fn(|| flow.worker.next_call()).collect();
    for cluster in ["mesh", "clerk"] {
        let call = calls.iter().find(|call| call.request.cluster == cluster).unwrap().id;
        let key = if cluster == "mesh" { Key::new("mesh") } else { Key::new("k1") };
        assert!(flow.answer(call, 200, &jwks(&[&key])).is_empty());
    }
    let lookup = flow.call();
    assert_eq!(lookup.request.cluster, "users");
    let edits = forwarded(crate::support::only(
        flow.answer(lookup.id, 200, record().to_string().as_bytes()),
        stream,
    ));
    assert!(edits.contains(&set("x-service-name", "videos")));
    assert_eq!(context_of(&edits), whole_context());
}

#[test]
fn a_forwarded_certificate_counts_only_from_a_hop_that_the_config_names() {
    let forwarded_cert = format!("By=spiffe://a/b;URI={GATEWAY}");
    for (hop, named, believed) in [
        (from("spiffe://cluster.local/ns/istio/sa/waypoint"), true, true),
        (from("spiffe://cluster.local/ns/istio/sa/waypoint"), false, false),
        (from(BATCH), true, false),
        (Hop::default(), true, false),
    ] {
        let mut flow = door(|config| {
            if named {
                config["boundary"]["forwarded_client_cert"] =
                    json!({"from": ["spiffe://cluster.local/ns/istio/sa/*"]});
            }
        });
        flow.hop = hop;
        let mut headers = CONTEXT.to_vec();
        headers.push(("x-forwarded-client-cert", forwarded_cert.as_bytes()));
        let disposition = send(&mut flow, "/x", &headers);
        if believed {
            assert_eq!(context_of(&forwarded(disposition)), whole_context());
        } else {
            assert_eq!(denied(&disposition), Code::TokenMissing);
        }
    }
}

#[test]
fn of_several_forwarded_certificates_the_nearest_hops_counts() {
    let mut flow = door(|config| {
        config["boundary"]["forwarded_client_cert"] =
            json!({"from": ["spiffe://cluster.local/ns/istio/sa/*"]});
    });
    flow.hop = from("spiffe://cluster.local/ns/istio/sa/waypoint");
    let [gateway, batch] = [GATEWAY, BATCH].map(|id| format!("URI={id}").into_bytes());
    let header = "x-forwarded-client-cert";
    for (sent, believed) in [([&gateway, &batch], false), ([&batch, &gateway], true)] {
        let certificates = sent.map(|value| (header, value.as_slice()));
        let headers: Vec<(&str, &[u8])> = CONTEXT.into_iter().chain(certificates).collect();
        let disposition = send(&mut flow, "/x", &headers);
        assert_eq!(matches!(disposition, Disposition::Forward(..)), believed);
    }
}

#[test]
fn a_service_that_trusts_hops_only_needs_no_users_service() {
    let mut config = service_config();
    config["boundary"]["otherwise"] = json!("reject");
    config.as_object_mut().unwrap().remove("user");
    let mut flow = Flow::with(&config).with_keys();
    flow.hop = from(GATEWAY);
    forwarded(send(&mut flow, "/x", &CONTEXT));
}

#[test]
fn a_users_token_names_no_user_where_the_config_says_nothing_of_users() {
    for otherwise in ["reject", "strip"] {
        let mut config = service_config();
        config["boundary"]["otherwise"] = json!(otherwise);
        config.as_object_mut().unwrap().remove("user");
        let mut flow = Flow::with(&config).with_keys();
        flow.hop = from(GATEWAY);
        let mut claims = claims();
        claims["id"] = json!("u-1001");
        claims["role"] = json!("ADMIN");
        let token = flow.key.token(&claims);
        for path in ["/x", "/admin"] {
            assert_eq!(denied(&flow.get(path, &token).1), Code::TokenMissing, "{otherwise}");
        }
        let edits = forwarded(flow.get("/public", &token).1);
        assert_eq!(context_of(&edits), []);
        assert!(edits.contains(&removed("authorization")));
    }
}

#[test]
fn a_service_is_told_one_request_id_and_it_is_the_one_that_is_spoken_of() {
    for path in ["/x", "/healthz"] {
        let mut flow = door(|_| ());
        flow.hop = from(GATEWAY);
        let ids: [Header; 4] = [
            ("x-request-id", b"r-1"),
            ("x-request-id", b"r-2"),
            ("x_request_id", b"r-2"),
            ("x.request.id", b"r-2"),
        ];
        let edits = forwarded(send(&mut flow, path, &[&ids[..], &CONTEXT].concat()));
        for edit in [set("x-request-id", "r-1"), removed("x_request_id"), removed("x.request.id")] {
            assert!(edits.contains(&edit), "{edit:?}");
        }
        // One id is as it should be.
        let edits = forwarded(send(&mut flow, path, &[&ids[..1], &CONTEXT].concat()));
        assert!(!edits.contains(&set("x-request-id", "r-1")));
    }
    let config = door(|_| ()).worker.config();
    assert!(config.context.not_in_trailers.covers("x_request_id"));
}

#[test]
fn a_hop_that_speaks_for_others_is_nobody_where_it_does_not_say_for_whom() {
    let mut flow = door(|config| {
        config["boundary"]["forwarded_client_cert"] = json!({"from": [VIDEOS]});
    });
    flow.hop = from(VIDEOS);
    assert_eq!(denied(&send(&mut flow, "/x", &CONTEXT)), Code::TokenMissing);
}

#[test]
fn a_services_token_stays_at_the_door_though_the_users_goes_on() {
    let mut flow = door(|config| config["context"] = json!({"forward_token": true}));
    flow.hop = from(VIDEOS);
    let user = format!("Bearer {}", flow.token());
    let service = service_token(&service_claims());
    let headers: [(&str, &[u8]); 2] =
        [("authorization", user.as_bytes()), ("x-service-authorization", &service)];
    let (stream, _, disposition) = flow.send("/x", &headers);
    assert_eq!(disposition, Disposition::Pause);
    let call = flow.call();
    let released = flow.answer(call.id, 200, record().to_string().as_bytes());
    let edits = forwarded(crate::support::only(released, stream));
    assert!(!edits.contains(&removed("authorization")));
    assert!(edits.contains(&removed("x-service-authorization")));
}

#[test]
fn a_context_header_is_none_that_the_filter_sets_by_other_means() {
    for name in ["x-service-name", "X_Service_Name", "txn-token"] {
        let mut config = service_config();
        config["context"] = json!({"headers": {name: {"claim": "/x"}}});
        let parsed = meshgate::config::Config::parse(config.to_string().as_bytes(), &|_| None);
        assert!(parsed.is_err(), "{name}");
    }
}

#[test]
fn a_service_that_is_revoked_while_its_user_is_looked_up_is_refused() {
    let mut config = service_config();
    config["user"]["lookup"]["timeout"] = json!("20s");
    config["revocation"] =
        json!({"feed": {"uri": "https://auth.example/revocations", "cluster": "auth"}});
    let mut flow = Flow::with(&config);
    let calls =
        |flow: &mut Flow| -> Vec<_> { std::iter::from_fn(|| flow.worker.next_call()).collect() };
    let list = |entries: Value| json!({"v": 1, "entries": entries}).to_string().into_bytes();
    flow.tick();
    for call in calls(&mut flow) {
        let body = match call.request.cluster.as_str() {
            "auth" => list(json!([])),
            _ => jwks(&[&flow.key]),
        };
        assert!(flow.answer(call.id, 200, &body).is_empty());
    }
    let user = format!("Bearer {}", flow.token());
    let service = service_token(&service_claims());
    let headers: [(&str, &[u8]); 2] =
        [("authorization", user.as_bytes()), ("x-service-authorization", &service)];
    let (stream, _, disposition) = flow.send("/x", &headers);
    assert_eq!(disposition, Disposition::Pause);
    let lookup = flow.call();
    flow.advance(std::time::Duration::from_secs(2));
    flow.tick();
    let poll = calls(&mut flow).into_iter().find(|call| call.request.cluster == "auth").unwrap();
    let revoked = list(json!([{"sub": "videos", "exp": START + 3600}]));
    let _ = flow.answer(poll.id, 200, &revoked);
    let released = flow.answer(lookup.id, 200, record().to_string().as_bytes());
    assert_eq!(denied(&crate::support::only(released, stream)), Code::TokenRevoked);
}
