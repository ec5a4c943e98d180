//! The trust boundary: real Envoys that speak mTLS, and what each kind of hop can make the app believe.

use std::time::Duration;

use harness::client::{Request, Response, h2};
use harness::idp::{now, seed_claims, service_claims};
use harness::mesh::{Builder, Mesh, SERVICE_TOKEN, spiffe};
use harness::pki::{Ca, Identity};
use harness::server::Seen;
use serde_json::{Value, json};

use crate::support::{CONTEXT, NOBODY, USER, assert_denied, assert_names, claims_with};

/// What an attacker would like to be.
const FORGED: [&str; 4] = ["u-forged", "user_forged", "ADMIN", "ch-forged"];

fn with_context<'a>(request: Request, values: impl IntoIterator<Item = &'a str>) -> Request {
    CONTEXT.iter().zip(values).fold(request, |request, (name, value)| request.header(name, value))
}

fn forge(request: Request) -> Request {
    with_context(request, FORGED)
}

/// The context of `u-1001`, as a hop sends it on.
fn assert_user(request: Request) -> Request {
    with_context(request, USER.into_iter().flatten())
}

fn gateway(mesh: &Mesh) -> Identity {
    mesh.ca.issue(&spiffe("edge", "gateway"))
}

fn channels(mesh: &Mesh) -> Identity {
    mesh.ca.issue(&spiffe("default", "channels-service"))
}

/// Known by name, and may assert nobody.
fn job(mesh: &Mesh) -> Identity {
    mesh.ca.issue(&spiffe("jobs", "reports-service"))
}

/// Of the mesh, and in no pattern.
fn stranger(mesh: &Mesh) -> Identity {
    mesh.ca.issue(&spiffe("elsewhere", "stranger-service"))
}

fn user_token(mesh: &Mesh) -> String {
    mesh.idp.token(seed_claims("user_2abc"))
}

fn with_service_token(request: Request, token: &str) -> Request {
    request.header(SERVICE_TOKEN, format!("Bearer {token}"))
}

/// Asserts that the app was told of this user and this service, and of no other in any way.
#[track_caller]
fn assert_told(mesh: &Mesh, response: &Response, user: [Option<&str>; 4], service: Option<&str>) {
    assert_eq!(response.status, 200, "{}", response.text());
    let seen = only_seen(mesh);
    assert_names(&seen, user, service);
    for (name, value) in &seen.headers {
        let value = String::from_utf8_lossy(value);
        let forged = FORGED.iter().any(|forged| value.contains(forged));
        assert!(!forged && !value.contains("spiffe:"), "{name}: {value}");
    }
    for secret in ["authorization", SERVICE_TOKEN, "x-forwarded-client-cert"] {
        assert_eq!(seen.header(secret), None, "{secret}");
    }
}

/// Asserts that the sidecar refused, and that the app saw nothing.
#[track_caller]
fn assert_refused(mesh: &Mesh, response: &Response, status: u16, code: &str) {
    assert_denied(response, status, code);
    let seen = mesh.app.take();
    assert!(seen.is_empty(), "the app saw {seen:?}");
}

#[track_caller]
fn only_seen(mesh: &Mesh) -> Seen {
    let mut seen = mesh.app.take();
    assert_eq!(seen.len(), 1, "the app saw {seen:?}");
    seen.remove(0)
}

/// Asserts that what the gateway says is still believed, and that nothing trapped.
#[track_caller]
fn assert_serves(mesh: &Mesh) {
    mesh.app.take();
    let response = assert_user(mesh.call(&gateway(mesh), "/comments")).send();
    assert_told(mesh, &response, USER, None);
    mesh.no_traps();
}

/// The sidecar, and callers made by hand.
fn sidecar() -> Builder {
    Mesh::videos().without_gateway()
}

fn otherwise(what: &str) -> Builder {
    sidecar().sidecar_config(|config| config["boundary"]["otherwise"] = json!(what))
}

#[test]
fn a_user_comes_from_the_edge_to_the_app() {
    let mesh = Mesh::videos().start();
    let token = user_token(&mesh);
    for _ in 0..2 {
        let request = mesh.get("/api/videos/42?sort=new").header("X-Request-Id", "mine");
        let response = forge(request).bearer(&token).send();
        assert_eq!(response.status, 200, "{}", response.text());
        let seen = only_seen(&mesh);
        assert_names(&seen, USER, None);
        assert_eq!(seen.path, "/videos/42?sort=new");
        assert_eq!(seen.header("authorization"), None);
        // The edge's, and the same all the way.
        let id = String::from_utf8_lossy(seen.header("x-request-id").unwrap());
        assert_eq!(id.len(), 36);
    }
    assert_eq!(mesh.users.requests(), 1, "the sidecar believes the gateway, and asks nobody");

    assert_told(&mesh, &forge(mesh.get("/api/videos/42")).send(), NOBODY, None);
    assert_told(&mesh, &mesh.get("/api/comments").bearer(&token).send(), USER, None);
    assert_refused(&mesh, &forge(mesh.get("/api/comments")).send(), 401, "token_missing");
    // Ada has no channel: what the gateway left out is left out here.
    let token = mesh.idp.token(seed_claims("user_2adm"));
    let admin = [Some("u-1002"), Some("user_2adm"), Some("ADMIN"), None];
    let response = mesh.get("/api/comments").bearer(&token).send();
    assert_eq!(response.status, 200, "{}", response.text());
    assert_names(&only_seen(&mesh), admin, None);
    mesh.no_traps();
}

#[test]
fn a_service_passes_the_user_on_and_is_named_as_its_certificate_says() {
    let mesh = sidecar().start();
    let channels = channels(&mesh);
    let name = Some("channels-service");
    for path in ["/videos/1", "/comments", "/internal/counts"] {
        let request = assert_user(mesh.call(&channels, path));
        assert_told(&mesh, &request.send(), USER, name);
        let named = request.header("X-Service-Name", "channels-service");
        assert_told(&mesh, &named.send(), USER, name);
    }
    // Nobody's request, by a service of its own accord.
    assert_told(&mesh, &mesh.call(&channels, "/internal/counts").send(), NOBODY, name);
    assert_told(&mesh, &mesh.call(&channels, "/videos").send(), NOBODY, name);
    assert_eq!(mesh.users.requests(), 0);
    // Without a context, the user's own token says who it is; beside one it goes no further than here.
    let token = user_token(&mesh);
    let request = mesh.call(&channels, "/comments").bearer(&token);
    assert_told(&mesh, &request.send(), USER, name);
    assert_told(&mesh, &assert_user(request).send(), USER, name);
    let request = mesh.call(&channels, "/comments").bearer("rubbish");
    assert_refused(&mesh, &request.send(), 401, "token_malformed");
    let response = mesh.call(&channels, "/comments").send();
    assert_refused(&mesh, &response, 401, "token_missing");
    assert_serves(&mesh);
}

#[test]
fn nobody_gets_in_without_a_certificate_of_the_mesh() {
    let mesh = sidecar().start();
    let other = Ca::new("the mesh").issue(&spiffe("edge", "gateway"));
    let another = Ca::new("another mesh").issue(&spiffe("edge", "gateway"));
    let plain = || Request::get(mesh.inbound(), "/videos");
    let attacks = [
        ("plain text", plain()),
        ("TLS without a certificate", plain().tls(&mesh.ca.client(None))),
        ("a CA of the same name", mesh.call(&other, "/videos")),
        ("another CA", mesh.call(&another, "/videos")),
    ];
    for (attack, request) in attacks {
        let request = forge(request).bearer(&user_token(&mesh));
        let outcome = request.try_send(Duration::from_secs(10));
        assert!(outcome.is_err(), "{attack}: {outcome:?}");
    }
    assert_eq!(mesh.app.requests(), 0);
    assert_serves(&mesh);
}

#[test]
fn a_hop_that_may_not_assert_is_authenticated_here() {
    let mesh = otherwise("authenticate").start();
    let token = user_token(&mesh);
    let hops = [
        (job(&mesh), Some("reports-service")),
        (stranger(&mesh), None),
        (mesh.ca.issue_with(&[]), None),
        // Envoy tells of the first.
        (mesh.ca.issue_with(&[&spiffe("elsewhere", "two"), &spiffe("edge", "gateway")]), None),
    ];
    for (hop, service) in &hops {
        let service = *service;
        let call = |path| forge(mesh.call(hop, path));
        // Where nobody is asked who they are, nobody is told.
        assert_told(&mesh, &call("/healthz").send(), NOBODY, None);
        assert_told(&mesh, &call("/videos").send(), NOBODY, service);
        assert_refused(&mesh, &call("/comments").send(), 401, "token_missing");
        assert_refused(&mesh, &call("/videos").method("POST").send(), 401, "token_missing");
        // The user's own token says who it is, whatever the headers say.
        assert_told(&mesh, &call("/videos").bearer(&token).send(), USER, service);
        assert_told(&mesh, &call("/comments").bearer(&token).send(), USER, service);
        let expired = mesh.idp.token(claims_with("exp", json!(now() - 3600)));
        for path in ["/videos", "/comments"] {
            let response = call(path).bearer(&expired).send();
            assert_refused(&mesh, &response, 401, "token_expired");
        }
        // In other spellings, and twice.
        let request = mesh.call(hop, "/videos").header("x_user_id", FORGED[0]);
        let request = request.header("X.User.Role", "ADMIN").header("X-User-Id", FORGED[0]);
        let request = request.header("X-USER-ID", "u-forged-2").header("x-user-clerk-id", "");
        assert_told(&mesh, &request.send(), NOBODY, service);
        assert_told(&mesh, &request.bearer(&token).send(), USER, service);

        let internal = call("/internal").send();
        match service {
            Some(_) => assert_told(&mesh, &internal, NOBODY, service),
            None => assert_refused(&mesh, &internal, 403, "service_required"),
        }
    }
    assert_serves(&mesh);
}

#[test]
fn a_hop_that_may_not_assert_is_rejected_where_the_config_says_so() {
    let mesh = otherwise("reject").start();
    let token = user_token(&mesh);
    for hop in [job(&mesh), stranger(&mesh), mesh.ca.issue_with(&[])] {
        for path in ["/videos", "/comments"] {
            let request = forge(mesh.call(&hop, path));
            assert_refused(&mesh, &request.send(), 403, "untrusted_peer");
            assert_refused(&mesh, &request.bearer(&token).send(), 403, "untrusted_peer");
        }
    }
    // A service that speaks of no user may call what is there for services.
    let internal = mesh.call(&job(&mesh), "/internal");
    assert_told(&mesh, &internal.send(), NOBODY, Some("reports-service"));
    assert_refused(&mesh, &forge(internal).send(), 403, "untrusted_peer");
    let internal = mesh.call(&stranger(&mesh), "/internal");
    assert_refused(&mesh, &internal.send(), 403, "service_required");
    assert_serves(&mesh);
}

#[test]
fn a_hop_that_may_not_assert_goes_on_without_a_user_where_the_config_says_so() {
    let mesh = otherwise("strip").start();
    let token = user_token(&mesh);
    for (hop, service) in [(job(&mesh), Some("reports-service")), (stranger(&mesh), None)] {
        let request = forge(mesh.call(&hop, "/videos"));
        assert_told(&mesh, &request.send(), NOBODY, service);
        assert_told(&mesh, &request.bearer(&token).send(), NOBODY, service);
        let request = forge(mesh.call(&hop, "/comments"));
        assert_refused(&mesh, &request.send(), 401, "token_missing");
    }
    assert_eq!(mesh.users.requests(), 0);
    assert_serves(&mesh);
}

#[test]
fn a_context_that_can_be_read_in_two_ways_is_refused_whoever_sends_it() {
    let mesh = sidecar().start();
    let good = ["x-user-id: u-1001", "x-user-clerk-id: user_2abc", "x-user-role: USER"];
    let attacks: [(&str, &[&[u8]]); 12] = [
        ("twice", &[b"X-User-Id: u-forged"]),
        ("twice, alike", &[b"X-User-Id: u-1001"]),
        ("the optional one twice", &[b"x-user-channel-id: ch-1", b"x-user-channel-id: ch-2"]),
        ("with underscores, too", &[b"x_user_id: u-forged"]),
        ("mixed, too", &[b"X-User_Id: u-forged"]),
        ("with dots, too", &[b"x.user.role: ADMIN"]),
        ("in capitals, too", &[b"X_USER_ROLE: ADMIN"]),
        ("with underscores alone", &[b"x_user_channel_id: ch-forged"]),
        ("empty", &[b"x-user-channel-id:"]),
        ("spaces", &[b"x-user-channel-id:   "]),
        ("not UTF-8", &[b"x-user-channel-id: ch-\xff"]),
        ("a letter that is no header's", &[b"x-user-channel-id: ch-\xc3\xa9"]),
    ];
    for hop in [gateway(&mesh), channels(&mesh)] {
        let call = |path| {
            good.iter().fold(mesh.call(&hop, path), |request, line| {
                let (name, value) = line.split_once(": ").unwrap();
                request.header(name, value)
            })
        };
        for path in ["/videos", "/comments"] {
            for (attack, lines) in &attacks {
                let request = lines.iter().fold(call(path), |request, line| {
                    let colon = line.iter().position(|byte| *byte == b':').unwrap();
                    let name = str::from_utf8(&line[..colon]).unwrap();
                    request.header(name, &line[colon + 1..])
                });
                let response = request.send();
                println!("{attack} on {path}: {}", response.text());
                assert_refused(&mesh, &response, 403, "untrusted_peer");
            }
            // A user without an id is nobody, and one without a role could be anybody.
            for lacking in [["x-user-role", "USER"], ["x-user-id", "u-1001"]] {
                let [name, value] = lacking;
                let response = mesh.call(&hop, path).header(name, value).send();
                assert_refused(&mesh, &response, 403, "untrusted_peer");
            }
        }
        // Names have no case.
        let response = mesh
            .call(&hop, "/comments")
            .header("X-USER-ID", "u-1001")
            .header("X-User-Clerk-ID", "user_2abc")
            .header("x-user-role", "USER")
            .header("X-user-channel-id", "ch-2001")
            .send();
        assert_eq!(response.status, 200, "{}", response.text());
        assert_eq!(only_seen(&mesh).headers_named("x-user-id"), [b"u-1001"]);
    }
    assert_serves(&mesh);
}

#[test]
fn an_identity_that_only_looks_like_a_trusted_one_is_none() {
    let mesh = otherwise("reject").start();
    let identities = [
        "spiffe://cluster.local/ns/edge/sa/gateway-evil",
        "spiffe://cluster.local/ns/edge/sa/gateway/evil",
        "spiffe://cluster.local/ns/edge/sa/gateway/",
        "spiffe://cluster.local/ns/edge/sa/gatewa",
        "spiffe://cluster.local/ns/edge/sa/GATEWAY",
        "spiffe://cluster.local/ns/edge/sa//gateway",
        "spiffe://cluster.local/ns/evil/../edge/sa/gateway",
        "spiffe://cluster.local/ns/edge/sa/%67ateway",
        "spiffe://cluster.local/ns/edge/sa/gateway?evil",
        "spiffe://cluster.local/ns/edge/sa/gateway#evil",
        "spiffe://cluster.local/ns/edge/sa/gateway,spiffe://cluster.local/ns/evil/sa/evil",
        "spiffe://cluster.local/ns/evil/sa/evil,spiffe://cluster.local/ns/edge/sa/gateway",
        "spiffe://cluster.local/ns/edge/sa/gateway ",
        " spiffe://cluster.local/ns/edge/sa/gateway",
        "spiffe://cluster.local.evil/ns/edge/sa/gateway",
        "spiffe://evil.cluster.local/ns/edge/sa/gateway",
        "spiffe://evil/cluster.local/ns/edge/sa/gateway",
        "spiffe://evil@cluster.local/ns/edge/sa/gateway",
        "spiffe://cluster.local:443/ns/edge/sa/gateway",
        "spiffe:cluster.local/ns/edge/sa/gateway",
        "https://cluster.local/ns/edge/sa/gateway",
        "evil:spiffe://cluster.local/ns/edge/sa/gateway",
        "cluster.local/ns/edge/sa/gateway",
        "spiffe://cluster.local/ns/default/sa/a/b",
        "spiffe://cluster.local/ns/default/sa/",
        "spiffe://cluster.local/ns/default/sa",
        "spiffe://cluster.local/ns/default/sa/..",
        "spiffe://cluster.local/ns/default/sa/*",
        "spiffe://cluster.local/ns/default/sa/a%2fb",
        "spiffe://cluster.local/ns/default/evil/sa/channels-service",
        "spiffe://cluster.local/ns/default-evil/sa/channels-service",
        "",
    ];
    for id in identities {
        println!("{id}");
        let hop = mesh.ca.issue(id);
        assert_refused(&mesh, &forge(mesh.call(&hop, "/videos")).send(), 403, "untrusted_peer");
    }
    // What follows a zero byte is part of the id, too.
    let zero = mesh.ca.issue("spiffe://cluster.local/ns/edge/sa/gateway\0.evil");
    let outcome = forge(mesh.call(&zero, "/videos")).try_send(Duration::from_secs(10));
    if let Ok(response) = outcome {
        assert_refused(&mesh, &response, 403, "untrusted_peer");
    }
    assert_eq!(mesh.app.requests(), 0);
    assert_serves(&mesh);
}

#[test]
fn a_header_makes_no_identity() {
    let edge = spiffe("edge", "gateway");
    let forwarded = format!("By={};Hash=00;Subject=\"\";URI={edge}", spiffe("default", "videos"));
    // Envoy drops the header, as the shipped config has it. Where it lets the header in, the filter reads
    // it from the hops that the config names alone.
    for forwards in [false, true] {
        let mut mesh = otherwise("reject");
        if forwards {
            mesh = mesh
                .sidecar(|bootstrap| {
                    let chain =
                        &mut bootstrap["static_resources"]["listeners"][0]["filter_chains"][0];
                    let hcm = &mut chain["filters"][0]["typed_config"];
                    hcm["forward_client_cert_details"] = json!("APPEND_FORWARD");
                    hcm["set_current_client_cert_details"] = json!({"uri": true});
                })
                .sidecar_config(|config| {
                    config["boundary"]["forwarded_client_cert"] =
                        json!({"from": [spiffe("edge", "waypoint")]});
                });
        }
        let mesh = mesh.start();
        for hop in [job(&mesh), stranger(&mesh), mesh.ca.issue_with(&[])] {
            for name in ["X-Forwarded-Client-Cert", "x_forwarded_client_cert"] {
                let request = mesh.call(&hop, "/videos").header(name, &forwarded);
                let request = request.header("X-Peer-Principal", &edge);
                let response = forge(request).send();
                assert_refused(&mesh, &response, 403, "untrusted_peer");
            }
        }
        // Nor is it a service's, where only that is asked for.
        let request = mesh.call(&stranger(&mesh), "/internal");
        let request = request.header("X-Forwarded-Client-Cert", &forwarded);
        let response = request.header("X-Service-Name", "channels-service").send();
        assert_eq!(response.status, 403, "{}", response.text());
        assert_eq!(mesh.app.requests(), 0);

        // The hop that may: it speaks for whom it names last, and only then.
        let waypoint = mesh.ca.issue(&spiffe("edge", "waypoint"));
        let evil = format!("URI={}", spiffe("evil", "evil"));
        for (header, good) in [
            (forwarded.clone(), true),
            (format!("{evil},{forwarded}"), true),
            (format!("{forwarded},{evil}"), false),
            (evil, false),
            (forwarded.replace("gateway", "gateway-evil"), false),
            (format!("By=\"x,URI={edge}\""), false),
            (format!("{forwarded};URI={edge}"), false),
            (forwarded.replace("URI=", "DNS="), false),
            ("rubbish".into(), false),
        ] {
            let request = mesh.call(&waypoint, "/videos");
            let response = assert_user(request.header("X-Forwarded-Client-Cert", &header)).send();
            println!("{header}: {}", response.text());
            if good && forwards {
                assert_eq!(response.status, 200, "{}", response.text());
                assert_names(&only_seen(&mesh), USER, None);
            } else {
                assert_refused(&mesh, &response, 403, "untrusted_peer");
            }
        }
        mesh.no_traps();
    }
}

#[test]
fn without_mtls_there_is_no_peer() {
    let mesh = sidecar()
        .sidecar(|bootstrap| {
            let chain = &mut bootstrap["static_resources"]["listeners"][0]["filter_chains"][0];
            chain.as_object_mut().unwrap().remove("transport_socket");
            chain["filters"][0]["typed_config"]["forward_client_cert_details"] =
                json!("ALWAYS_FORWARD_ONLY");
            // HTTP/2 toward the app, which is what carries trailers by default.
            let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
            let cluster = &mut bootstrap["static_resources"]["clusters"][0];
            cluster["typed_extension_protocol_options"] = json!({options: {
                "@type": format!("type.googleapis.com/{options}"),
                "explicit_http_config": {"http2_protocol_options": {}},
            }});
        })
        .service_tokens(&service_rules())
        .start();
    let call = |path| Request::get(mesh.inbound(), path);
    let forwarded = format!("URI={}", spiffe("edge", "gateway"));
    let request = forge(call("/videos"));
    for request in [request.clone(), request.header("X-Forwarded-Client-Cert", &forwarded)] {
        let response = request.send();
        assert_eq!(response.status, 200, "{}", response.text());
        assert_names(&only_seen(&mesh), NOBODY, None);
    }
    assert_refused(&mesh, &forge(call("/internal")).send(), 403, "service_required");

    // A token proves a service all the same.
    let token = mesh.service_token("channels-service", &["internal:read"]);
    let request = with_service_token(assert_user(call("/comments")), &token);
    assert_told(&mesh, &request.send(), USER, Some("channels-service"));
    let request = request.header("X-Service-Name", "videos-service");
    assert_refused(&mesh, &request.send(), 403, "untrusted_peer");

    // Who may assert does so in headers, and never in trailers.
    let bearer = format!("Bearer {token}");
    let mut headers: Vec<(&str, &[u8])> = vec![(SERVICE_TOKEN, bearer.as_bytes())];
    headers
        .extend(CONTEXT.iter().zip(USER).map(|(name, value)| (*name, value.unwrap().as_bytes())));
    let trailers: [(&str, &[u8]); 4] = [
        ("x-user-id", b"u-forged"),
        ("x_user_role", b"ADMIN"),
        ("x-service-name", b"videos-service"),
        ("x-checksum", b"abc"),
    ];
    let response = h2(mesh.inbound(), "POST", "/comments", &headers, b"some body", &trailers);
    assert_eq!(response.status, 200, "{}", response.text());
    let seen = only_seen(&mesh);
    assert_names(&seen, USER, Some("channels-service"));
    let trailers: Vec<&str> = seen.trailers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(trailers, ["x-checksum"]);
    mesh.no_traps();
}

#[test]
fn a_service_is_named_by_what_it_proved_alone() {
    let mesh = sidecar().start();
    let hops = [(channels(&mesh), "channels-service"), (job(&mesh), "reports-service")];
    for (hop, own) in &hops {
        for path in ["/videos", "/internal"] {
            let call = || mesh.call(hop, path);
            let attacks = [
                call().header("X-Service-Name", "videos-service"),
                call().header("X-Service-Name", ""),
                call().header("X-Service-Name", own.to_uppercase()),
                call().header("X-Service-Name", own).header("X-Service-Name", "videos-service"),
                call().header("X-Service-Name", "videos-service").header("x-service-name", own),
                call().header("X-Service-Name", own).header("x_service_name", "videos-service"),
                call().header("X_Service.Name", "videos-service"),
                call().header("X-Service-Name", b"\xff"),
            ];
            for request in attacks {
                assert_refused(&mesh, &request.send(), 403, "untrusted_peer");
            }
            assert_told(&mesh, &call().send(), NOBODY, Some(own));
        }
    }
    // Those who proved none have none.
    for hop in [gateway(&mesh), stranger(&mesh), mesh.ca.issue_with(&[])] {
        for name in ["X-Service-Name", "x_service_name"] {
            let response = mesh.call(&hop, "/videos").header(name, "channels-service").send();
            for seen in mesh.app.take() {
                assert_names(&seen, NOBODY, None);
            }
            assert!([200, 403].contains(&response.status), "{}", response.text());
            let response = mesh.call(&hop, "/internal").header(name, "channels-service").send();
            assert_eq!(response.status, 403, "{}", response.text());
        }
        let response = mesh.call(&hop, "/internal").send();
        assert_refused(&mesh, &response, 403, "service_required");
    }
    assert_serves(&mesh);
}

fn service_rules() -> Value {
    json!({"permissions": ["internal:read"], "may_assert_user": true, "bind_to_peer": true})
}

#[test]
fn a_service_token_is_worth_what_it_says_to_its_own_service() {
    let mesh = sidecar().service_tokens(&service_rules()).start();
    let permitted: &[&str] = &["internal:write", "internal:read"];
    let (own, others) =
        (mesh.service_token("channels-service", permitted), mesh.service_token("users", permitted));
    let channels = channels(&mesh);
    let call = |path| mesh.call(&channels, path);

    let name = Some("channels-service");
    let response = with_service_token(call("/internal"), &own).send();
    assert_told(&mesh, &response, NOBODY, name);
    let response = with_service_token(assert_user(call("/comments")), &own).send();
    assert_told(&mesh, &response, USER, name);
    // What the certificate's owner may not, the token allows.
    let token = mesh.service_token("reports-service", permitted);
    let request = assert_user(mesh.call(&job(&mesh), "/comments"));
    let response = with_service_token(request.clone(), &token).send();
    assert_told(&mesh, &response, USER, Some("reports-service"));
    assert_refused(&mesh, &request.send(), 401, "token_missing");

    let claims = |change: &dyn Fn(&mut Value)| {
        let mut claims = service_claims("channels-service", permitted);
        change(&mut claims);
        mesh.service_key.token(&claims)
    };
    let clerk_service = {
        let mut claims = seed_claims("channels-service");
        claims["type"] = json!("service");
        claims["permissions"] = json!(permitted);
        mesh.idp.token(claims)
    };
    let other_key = harness::idp::Key::es256(mesh.service_key.kid());
    let attacks: [(&str, String, u16, Option<&str>); 15] = [
        ("of another service", others.clone(), 403, Some("untrusted_peer")),
        ("a user's", user_token(&mesh), 401, None),
        ("the users' issuer's, with `type: service`", clerk_service, 401, None),
        ("without a type", claims(&|c| drop(c.as_object_mut().unwrap().remove("type"))), 401, None),
        ("of type user", claims(&|c| c["type"] = json!("user")), 401, None),
        ("of two types", claims(&|c| c["type"] = json!(["service", "user"])), 401, None),
        ("expired", claims(&|c| c["exp"] = json!(now() - 3600)), 401, Some("token_expired")),
        ("for others", claims(&|c| c["aud"] = json!("else")), 401, Some("audience_mismatch")),
        ("by another issuer", claims(&|c| c["iss"] = json!("else")), 401, None),
        (
            "by another key",
            other_key.token(&service_claims("channels-service", permitted)),
            401,
            Some("signature_invalid"),
        ),
        (
            "without a subject",
            claims(&|c| drop(c.as_object_mut().unwrap().remove("sub"))),
            401,
            None,
        ),
        (
            "without permissions",
            claims(&|c| drop(c.as_object_mut().unwrap().remove("permissions"))),
            403,
            Some("permission_required"),
        ),
        (
            "with too few",
            mesh.service_token("channels-service", &["internal:write"]),
            403,
            Some("permission_required"),
        ),
        (
            "with a text of them",
            claims(&|c| c["permissions"] = json!("xinternal:read")),
            403,
            Some("permission_required"),
        ),
        ("rubbish", "rubbish".into(), 401, None),
    ];
    for (attack, token, status, code) in attacks {
        for path in ["/internal", "/videos", "/comments"] {
            let response = with_service_token(assert_user(call(path)), &token).send();
            println!("{attack} on {path}: {}", response.text());
            assert_eq!(response.status, status, "{attack} on {path}: {}", response.text());
            if let Some(code) = code {
                assert_denied(&response, status, code);
            }
            assert!(mesh.app.take().is_empty(), "{attack} on {path}");
        }
    }
    // Two, of which one is good.
    for tokens in [[&own, &others], [&others, &own]] {
        let request =
            tokens.iter().fold(call("/internal"), |r, token| with_service_token(r, token));
        assert_refused(&mesh, &request.send(), 401, "token_ambiguous");
    }
    // A certificate that names no service does not name this one.
    for hop in [gateway(&mesh), stranger(&mesh)] {
        let request = assert_user(mesh.call(&hop, "/internal"));
        let response = with_service_token(request, &own).send();
        assert_refused(&mesh, &response, 403, "untrusted_peer");
    }
    assert_serves(&mesh);
}

#[test]
fn a_service_token_is_bound_to_a_certificate_that_says_nothing_too() {
    let mesh = sidecar().service_tokens(&service_rules()).start();
    let token = mesh.service_token("channels-service", &["internal:read"]);
    let certificates =
        [&[][..], &["https://mesh.example/thief"], &["spiffe://cluster.local/ns/x/sa/"]];
    let refused = certificates.map(|uris| {
        let request = assert_user(mesh.call(&mesh.ca.issue_with(uris), "/internal"));
        with_service_token(request, &token).send().status == 403 && mesh.app.take().is_empty()
    });
    assert_eq!(refused, [true; 3], "{certificates:?}");
}

#[test]
fn where_both_kinds_of_tokens_stand_in_one_place_each_says_what_it_is() {
    let mesh = sidecar()
        .service_tokens(&json!({"permissions": ["internal:read"]}))
        .sidecar_config(|config| {
            config["providers"]["mesh"].as_object_mut().unwrap().remove("from_headers");
        })
        .start();
    let job = job(&mesh);
    let name = Some("reports-service");
    let own = mesh.service_token("reports-service", &["internal:read"]);
    for path in ["/internal", "/videos"] {
        let request = mesh.call(&job, path).bearer(&own);
        assert_told(&mesh, &request.send(), NOBODY, name);
        assert_told(&mesh, &forge(request).send(), NOBODY, name);
        assert_told(&mesh, &mesh.call(&job, path).bearer(&user_token(&mesh)).send(), USER, name);
    }
    let response = mesh.call(&job, "/comments").bearer(&own).send();
    assert_refused(&mesh, &response, 401, "token_missing");
    let others = mesh.service_token("users-service", &["internal:read"]);
    let response = mesh.call(&job, "/internal").bearer(&others).send();
    assert_refused(&mesh, &response, 403, "untrusted_peer");
    let two = mesh.call(&job, "/internal").bearer(&own).bearer(&user_token(&mesh));
    assert_refused(&mesh, &two.send(), 401, "token_ambiguous");
    assert_serves(&mesh);
}

#[test]
fn a_service_token_is_no_users() {
    let rules = json!({"permissions": ["internal:read"], "bind_to_peer": true});
    let mesh = sidecar().service_tokens(&rules).start();
    let own = mesh.service_token("reports-service", &["internal:read"]);
    let mut claims = seed_claims("user_2abc");
    claims["type"] = json!("service");
    let clerks = mesh.idp.token(claims);
    let job = job(&mesh);
    for path in ["/videos", "/comments"] {
        let call = |token| forge(mesh.call(&job, path)).bearer(token);
        for request in [call(&own), call(&clerks), with_service_token(call(&clerks), &own)] {
            let response = request.send();
            assert_eq!(response.status, 401, "{path}: {}", response.text());
            assert!(mesh.app.take().is_empty());
        }
    }
    // The same token in both places is the one service token.
    let call = |path| with_service_token(forge(mesh.call(&job, path)).bearer(&own), &own);
    assert_told(&mesh, &call("/videos").send(), NOBODY, Some("reports-service"));
    assert_refused(&mesh, &call("/comments").send(), 401, "token_missing");
    // Side by side each does its own work, and neither reaches the app.
    let token = user_token(&mesh);
    let request = forge(mesh.call(&job, "/comments")).bearer(&token);
    let request = with_service_token(request, &own);
    assert_told(&mesh, &request.send(), USER, Some("reports-service"));
    assert_serves(&mesh);
}

#[test]
fn a_service_token_that_is_not_bound_speaks_for_itself() {
    let rules = json!({"permissions": ["internal:read"], "bind_to_peer": false});
    let mesh = sidecar().service_tokens(&rules).start();
    let token = mesh.service_token("users-service", &["internal:read"]);
    for hop in [stranger(&mesh), job(&mesh)] {
        let request = with_service_token(forge(mesh.call(&hop, "/internal")), &token);
        // It may not assert, and neither may they.
        assert_told(&mesh, &request.send(), NOBODY, Some("users-service"));
    }
    assert_serves(&mesh);
}

/// The listener once more under this name, where Envoy is told of a principal by its config, not by the client: as
/// a waypoint's inner listener is by its outer one.
fn told_of(bootstrap: &mut Value, name: &str, principal: Option<&str>) {
    const NETWORK: &str = "envoy.filters.network.set_filter_state";
    const HTTP: &str = "envoy.filters.http.set_filter_state";
    let listeners = bootstrap["static_resources"]["listeners"].as_array_mut().unwrap();
    let mut listener = listeners[0].clone();
    listener["name"] = json!(name);
    if let Some(principal) = principal {
        let values = json!([{
            "object_key": "io.istio.peer_principal", "factory_key": "envoy.string",
            "format_string": {"text_format_source": {"inline_string": principal}},
        }]);
        let filters = listener["filter_chains"][0]["filters"].as_array_mut().unwrap();
        let (at, name, kind, when) = match name {
            "by a filter of HTTP" => (
                &mut filters[0]["typed_config"]["http_filters"],
                HTTP,
                "http",
                "on_request_headers",
            ),
            _ => (
                &mut listener["filter_chains"][0]["filters"],
                NETWORK,
                "network",
                "on_new_connection",
            ),
        };
        let kind = format!(
            "type.googleapis.com/envoy.extensions.filters.{kind}.set_filter_state.v3.Config"
        );
        let filter = json!({"name": name, "typed_config": {"@type": kind, when: values}});
        at.as_array_mut().unwrap().insert(0, filter);
    }
    listeners.push(listener);
}

#[test]
fn in_ambient_mode_the_hop_is_whom_istio_names_whatever_it_shows_itself() {
    let edge = spiffe("edge", "gateway");
    let good = ["by a filter of the connection", "by a filter of HTTP"];
    let bad = [
        ("a job", spiffe("jobs", "reports-service"), Some("reports-service")),
        ("a stranger", spiffe("elsewhere", "stranger"), None),
        ("almost the edge", format!("{edge}-evil"), None),
        ("the edge and more", format!("{edge},{edge}"), None),
        ("not an id", "cluster.local/ns/edge/sa/gateway".to_owned(), None),
    ];
    let mesh = sidecar()
        .sidecar_config(|config| config["boundary"]["ambient"] = json!(true))
        .sidecar(|bootstrap| {
            for name in good {
                told_of(bootstrap, name, Some(&edge));
            }
            for (name, principal, _) in &bad {
                told_of(bootstrap, name, Some(principal));
            }
            told_of(bootstrap, "nobody", None);
        })
        .start();
    let call = |listener: &str, hop: &Identity, path: &str| {
        let address = mesh.sidecar.address_of(listener);
        Request::get(address, path).tls(&mesh.ca.client(Some(hop)))
    };
    // What a client could try to be taken for the edge by.
    let claiming = |request: Request| {
        ["io.istio.peer_principal", "x-peer-principal", "x-istio-peer-principal"]
            .iter()
            .fold(request, |request, name| request.header(name, &edge))
            .header("X-Forwarded-Client-Cert", format!("URI={edge}"))
            .header("Baggage", format!("io.istio.peer_principal={edge}"))
    };
    for listener in good {
        // It is the principal that counts: this certificate asserts nobody.
        for hop in [job(&mesh), stranger(&mesh)] {
            let response = assert_user(call(listener, &hop, "/comments")).send();
            assert_told(&mesh, &response, USER, None);
        }
    }
    let others = bad.iter().map(|(name, _, service)| (*name, *service)).chain([("nobody", None)]);
    for (listener, service) in others {
        println!("{listener}");
        // And this one's word would be good, were it asked.
        for hop in [gateway(&mesh), channels(&mesh)] {
            let request = claiming(forge(call(listener, &hop, "/comments")));
            assert_refused(&mesh, &request.send(), 401, "token_missing");
            let request = request.bearer(&user_token(&mesh));
            let response = request.send();
            assert_eq!(response.status, 200, "{}", response.text());
            assert_names(&only_seen(&mesh), USER, service);
            let response = claiming(forge(call(listener, &hop, "/internal"))).send();
            match service {
                Some(_) => {
                    assert_eq!(response.status, 200, "{}", response.text());
                    assert_names(&only_seen(&mesh), NOBODY, service);
                }
                None => assert_refused(&mesh, &response, 403, "service_required"),
            }
        }
    }
    mesh.no_traps();
}
