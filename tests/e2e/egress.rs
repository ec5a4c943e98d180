//! The way out of a service: real Envoys, and what arrives at the service that is called, or at somebody else's.

use harness::client::{Request, Response};
use harness::idp::{Key, seed_claims, service_claims};
use harness::mesh::{Builder, CLIENT_SECRET, Mesh, SERVICE_TOKEN, spiffe};
use harness::server::{Answer, Behavior, Seen};
use harness::upstream::Upstream;
use serde_json::{Value, json};

use crate::support::{CONTEXT, NOBODY, USER, assert_denied, assert_names, wait_until};

const OTHER: [Option<&str>; 4] =
    [Some("u-2002"), Some("user_other"), Some("ADMIN"), Some("ch-2001")];
/// What the service is told, and whatever else it may have seen of who calls.
const TELLING: [&str; 7] = [
    "authorization",
    "x-service-authorization",
    "x-service-name",
    "txn-token",
    "x-user-id",
    "x-user-role",
    "x-user-clerk-id",
];

/// Without the gateway: its part is played by hand.
fn exit() -> Builder {
    Mesh::videos().without_gateway().exit()
}

/// With the context of a user, as a service copies it.
pub fn with_context(request: Request, user: [Option<&str>; 4]) -> Request {
    let names = CONTEXT.iter().zip(user).filter_map(|(name, value)| Some((name, value?)));
    names.fold(request, |request, (name, value)| request.header(name, value))
}

/// A request of the gateway's, to the door of `videos`.
fn enter(mesh: &Mesh, user: [Option<&str>; 4]) -> Request {
    let gateway = mesh.ca.issue(&spiffe("edge", "gateway"));
    with_context(mesh.call(&gateway, "/videos/1"), user)
}

/// Has the service call `/channels/7`, with these headers of the request that it serves.
pub fn copy(mesh: &Mesh, names: &[&'static str]) {
    let (names, request) = (names.to_vec(), mesh.outbound("/channels/7"));
    mesh.app.calls(move |seen| {
        names.iter().fold(request.clone(), |request, name| match seen.header(name) {
            Some(value) => request.header(name, value),
            None => request,
        })
    });
}

/// Has the service call `/channels/7` for this user, whoever it serves, by the id of the request or another.
fn claim(mesh: &Mesh, user: [Option<&'static str>; 4], id: Option<&'static str>) {
    let request = with_context(mesh.outbound("/channels/7"), user);
    mesh.app.calls(move |seen| {
        let own = seen.header("x-request-id").unwrap();
        request.clone().header("x-request-id", id.map_or(own, str::as_bytes))
    });
}

#[track_caller]
fn only(upstream: &Upstream, response: &Response) -> Seen {
    assert_eq!(response.status, 200, "{}", response.text());
    let mut seen = upstream.take();
    assert_eq!(seen.len(), 1, "{seen:?}");
    seen.remove(0)
}

/// Asserts that `channels` was told of this user and of `videos`, and saw no token.
#[track_caller]
pub fn assert_told(mesh: &Mesh, response: &Response, user: [Option<&str>; 4]) -> Seen {
    let seen = only(&mesh.beyond().channels, response);
    assert_names(&seen, user, Some("videos"));
    for secret in ["authorization", SERVICE_TOKEN, "x-forwarded-client-cert"] {
        assert_eq!(seen.header(secret), None, "{secret}");
    }
    seen
}

#[track_caller]
fn assert_stopped(mesh: &Mesh, response: &Response, status: u16, code: &str) {
    assert_denied(response, status, code);
    let seen = mesh.beyond().channels.take();
    assert!(seen.is_empty(), "channels saw {seen:?}");
}

/// `channels` believes tokens alone, whoever's certificate it is.
pub fn by_token_alone(builder: Builder) -> Builder {
    builder.channels_config(|config| {
        config["boundary"]["peers"] = json!([]);
        config["boundary"]["otherwise"] = json!("reject");
        let tokens = &mut config["boundary"]["service_tokens"];
        tokens["may_assert_user"] = json!(true);
        tokens["bind_to_peer"] = json!(false);
    })
}

#[test]
fn the_user_goes_through_two_services() {
    let mesh = Mesh::videos().exit().start();
    copy(&mesh, &[&CONTEXT[..], &["x-request-id"]].concat());
    let token = mesh.idp.token(seed_claims("user_2abc"));
    let mut asked = None;
    for _ in 0..5 {
        let response = mesh.get("/api/videos/1").bearer(&token).send();
        let channels = assert_told(&mesh, &response, USER);
        let videos = only(&mesh.app, &response);
        assert_names(&videos, USER, None);
        assert_eq!(channels.path, "/channels/7");
        assert_eq!(channels.header("x-request-id"), videos.header("x-request-id"));
        // One token is enough for all.
        let count = mesh.beyond().token_endpoint.requests();
        assert_eq!(*asked.get_or_insert(count), count);
    }
    println!("the token endpoint was asked {asked:?} times");

    let questions = mesh.beyond().token_endpoint.take();
    // One worker, and Envoy's main thread.
    assert!((1..=2).contains(&questions.len()), "{questions:?}");
    for question in questions {
        assert_eq!((&*question.method, &*question.path), ("POST", "/oauth/token"));
        let body = String::from_utf8(question.body.clone()).unwrap();
        assert_eq!(body, "grant_type=client_credentials&scope=internal%3Aread");
        let content_type = question.header("content-type").unwrap();
        assert_eq!(content_type, b"application/x-www-form-urlencoded");
        assert_eq!(question.header("authorization").unwrap(), basic(CLIENT_SECRET).as_bytes());
    }
    // A client without a token is nobody, at both.
    let response = mesh.get("/api/videos/1").send();
    assert_stopped(&mesh, &response, 401, "token_missing");
    let [videos] = &mesh.app.take()[..] else { panic!("videos is asked once") };
    assert_names(videos, NOBODY, None);
    mesh.no_traps();
}

fn basic(secret: &str) -> String {
    use base64::Engine;
    let engine = base64::engine::general_purpose::STANDARD;
    format!("Basic {}", engine.encode(format!("videos:{secret}")))
}

#[test]
fn a_fetched_token_is_what_the_next_door_believes() {
    let mesh = by_token_alone(exit()).start();
    let call = |path: &str| with_context(mesh.outbound(path), USER).send();
    assert_told(&mesh, &call("/channels/7"), USER);
    assert_told(&mesh, &call("/internal/7"), USER);
    mesh.no_traps();
}

#[test]
fn the_next_door_refuses_a_token_that_is_not_good() {
    let other = Key::es256("mesh-1");
    for (key, service, status, code) in
        [(None, "users", 403, "untrusted_peer"), (Some(other), "videos", 401, "signature_invalid")]
    {
        let builder = exit();
        let key = key.unwrap_or_else(|| builder.service_key().clone());
        let token = key.token(&service_claims(service, &["internal:read"]));
        let grant = json!({"access_token": token, "token_type": "bearer", "expires_in": 300});
        let answer = Answer::json(200, &grant);
        let mesh =
            builder.beyond(|b| b.token_endpoint.behave(Behavior::Answer(answer.clone()))).start();
        let response = with_context(mesh.outbound("/channels/7"), USER).send();
        assert_stopped(&mesh, &response, status, code);
    }
}

#[test]
fn a_signed_token_is_what_the_next_door_believes() {
    let mesh = sign(by_token_alone(exit())).start();
    for path in ["/channels/7", "/internal/7"] {
        let response = with_context(mesh.outbound(path), USER).send();
        assert_told(&mesh, &response, USER);
    }
    assert_eq!(mesh.beyond().token_endpoint.requests(), 0);
    mesh.no_traps();
}

/// Has the exit sign its tokens itself.
pub fn sign(builder: Builder) -> Builder {
    let jwk = builder.service_key().private_jwk().to_string();
    builder
        .egress(|bootstrap| {
            environment(bootstrap)["key_values"] = json!({"MESH_SIGNING_KEY": jwk});
        })
        .egress_config(|config| {
            config["service_tokens"]["mesh"] = json!({
                "sign": {
                    "key": "${env:MESH_SIGNING_KEY}", "issuer": "mesh-auth", "audience": "mesh",
                    "permissions": ["internal:read"],
                },
                "header": {"name": "x-service-authorization", "value_prefix": "Bearer "},
            });
        })
}

fn environment(bootstrap: &mut Value) -> &mut Value {
    let hcm = &mut bootstrap["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0];
    let wasm = &mut hcm["typed_config"]["http_filters"][0]["typed_config"]["config"];
    &mut wasm["vm_config"]["environment_variables"]
}

/// All that a service may have been told, and what it must not be believed about.
fn tell_all(request: Request, token: &str) -> Request {
    with_context(request, USER)
        .bearer(token)
        .header("Cookie", format!("theme=dark; __session={token}; lang=en"))
        .header(SERVICE_TOKEN, format!("Bearer {token}"))
        .header("X-Service-Name", "users")
        .header("x_service_name", "users")
        .header("X-User-Id", "u-forged")
        .header("X_User_Role", "ADMIN")
        .header("Txn-Token", token)
        .header("X-Mine", "kept")
}

/// A GET of the service `videos`, on its way out to somebody else's.
pub fn thumbnails(mesh: &Mesh, path: &str) -> Request {
    let to = mesh.sidecar.address_of("outbound");
    Request::get(to, path).header("Host", "thumbnails.example.com")
}

/// Has the host of `thumbnails` lead to its cluster in all ways that Envoy chooses a cluster.
fn other_routes(bootstrap: &mut Value) {
    let hcm = &mut bootstrap["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0];
    let hosts = &mut hcm["typed_config"]["route_config"]["virtual_hosts"];
    let routes = hosts[1]["routes"].as_array_mut().unwrap();
    let weighted = json!({"clusters": [{"name": "thumbnails", "weight": 1}]});
    routes.push(json!({"match": {"prefix": "/w/"}, "route": {"weighted_clusters": weighted}}));
    routes.push(json!({"match": {"prefix": "/h/"}, "route": {"cluster_header": "x-to"}}));
}

#[test]
fn nothing_goes_to_whom_no_destination_names() {
    let mesh = exit().egress(other_routes).start();
    let token = mesh.idp.token(seed_claims("user_2abc"));
    for path in ["/v1/a", "/w/a", "/h/a"] {
        let response =
            tell_all(thumbnails(&mesh, path), &token).header("X-To", "thumbnails").send();
        let seen = only(&mesh.beyond().thumbnails, &response);
        assert_names(&seen, NOBODY, None);
        for name in TELLING {
            assert_eq!(seen.header(name), None, "{path}: {name}");
        }
        for (name, value) in &seen.headers {
            let value = String::from_utf8_lossy(value);
            assert!(!value.contains(&token) && !value.contains("u-1001"), "{name}: {value}");
        }
        let cookies = seen.header("cookie").unwrap();
        assert_eq!(String::from_utf8_lossy(cookies).replace(' ', ""), "theme=dark;lang=en");
        assert_eq!(seen.header("x-mine"), Some(&b"kept"[..]));
        assert_eq!(seen.header("host"), Some(&b"thumbnails.example.com"[..]));
    }
    // Where no route leads, nothing goes.
    let nowhere = Request::get(mesh.sidecar.address_of("outbound"), "/").header("Host", "nowhere");
    assert_eq!(tell_all(nowhere, &token).send().status, 404);
    mesh.no_traps();
}

#[test]
fn a_destination_gets_what_it_is_given_and_nothing_that_the_service_made_up() {
    let forwards = [false, true];
    for forward in forwards {
        let mesh = exit()
            .egress(other_routes)
            .egress_config(|config| {
                let destinations = config["destinations"].as_array_mut().unwrap();
                let user_token = if forward { "forward" } else { "strip" };
                destinations.push(json!({
                    "clusters": ["thumb*"], "context": "forward", "user_token": user_token,
                    "service_token": "mesh",
                }));
            })
            .start();
        let token = mesh.idp.token(seed_claims("user_2abc"));
        for path in ["/v1/a", "/w/a", "/h/a"] {
            let request = with_context(thumbnails(&mesh, path), USER)
                .bearer(&token)
                .header("Cookie", format!("theme=dark; __session={token}"))
                .header("X-To", "thumbnails")
                .header(SERVICE_TOKEN, "Bearer somebody's")
                .header("X-Service-Name", "users");
            let seen = only(&mesh.beyond().thumbnails, &request.send());
            assert_names(&seen, USER, Some("videos"));
            let bearer = format!("Bearer {token}");
            let expected = forward.then_some(bearer.as_bytes());
            assert_eq!(seen.header("authorization"), expected, "{path}");
            let session = String::from_utf8_lossy(seen.header("cookie").unwrap()).into_owned();
            assert_eq!(session.contains("__session"), forward, "{path}: {session}");
            let [shown] = seen.headers_named(SERVICE_TOKEN)[..] else { panic!("{seen:?}") };
            assert!(shown.starts_with(b"Bearer ey"), "{path}: {seen:?}");
        }
        // Context in two voices is nobody's.
        let request = tell_all(thumbnails(&mesh, "/v1/a"), &token);
        assert_denied(&request.send(), 403, "untrusted_peer");
        assert!(mesh.beyond().thumbnails.take().is_empty());
        mesh.no_traps();
    }
}

#[test]
fn without_a_token_endpoint_only_those_wait_who_need_it() {
    let mesh = exit().beyond(|b| b.token_endpoint.behave(Behavior::Status(503))).start();
    let call = || with_context(mesh.outbound("/channels/7"), USER).send();
    for _ in 0..8 {
        assert_stopped(&mesh, &call(), 503, "service_token_unavailable");
    }
    assert_eq!(thumbnails(&mesh, "/v1/a").send().status, 200);
    mesh.beyond().token_endpoint.shut();
    assert_stopped(&mesh, &call(), 503, "service_token_unavailable");
    mesh.beyond().token_endpoint.reopen();
    mesh.beyond().token_endpoint.behave(Behavior::Serve);
    // It asks again by itself.
    let before = mesh.beyond().token_endpoint.requests();
    mesh.beyond().token_endpoint.wait_for_requests(before + 1, crate::support::LONG);
    wait_until("a call goes through", || call().status == 200);
    mesh.beyond().channels.take();
    assert_told(&mesh, &call(), USER);
    mesh.no_traps();
}

/// With `propagation`, for which door and exit share a board.
fn propagating() -> Builder {
    let both = |config: &mut Value| {
        config["sharing"] = json!({"key": "${env:MESHGATE_SHARING_KEY}"});
        config["propagation"] = json!({"by_request_id": true});
    };
    let variables = json!({"host_env_keys": ["MESH_CLIENT_SECRET", "MESHGATE_SHARING_KEY"]});
    exit()
        .sidecar(|bootstrap| *environment(bootstrap) = variables.clone())
        .egress(|bootstrap| *environment(bootstrap) = variables.clone())
        .sidecar_config(both)
        .egress_config(both)
}

#[test]
fn context_that_the_service_did_not_copy_is_restored() {
    let mesh = propagating().start();
    for names in [
        &["x-request-id"][..],
        &["x-request-id", "x-user-id"],
        &["x-request-id", "x-user-id", "x-user-clerk-id", "x-user-role", "x-user-channel-id"],
    ] {
        copy(&mesh, names);
        for user in [USER, OTHER] {
            let response = enter(&mesh, user).send();
            assert_told(&mesh, &response, user);
            assert_names(&only(&mesh.app, &response), user, None);
        }
    }
    // Without the id nobody knows whose it is: without context it goes on, with context it does not.
    copy(&mesh, &[]);
    let response = enter(&mesh, USER).send();
    assert_denied(&response, 401, "token_missing");
    copy(&mesh, &CONTEXT);
    assert_stopped(&mesh, &enter(&mesh, USER).send(), 403, "context_mismatch");
    mesh.no_traps();
}

#[test]
fn a_context_that_the_service_was_not_told_is_refused() {
    let mesh = propagating().start();
    let mut role = USER;
    role[2] = Some("ADMIN");
    let mut id = USER;
    id[0] = Some("u-2002");
    for user in [OTHER, role, id, [Some("u-2002"), None, None, None]] {
        claim(&mesh, user, None);
        assert_stopped(&mesh, &enter(&mesh, USER).send(), 403, "context_mismatch");
    }
    // Nor is a user there where there was none, or by an id that nobody knows.
    claim(&mesh, USER, None);
    let response = enter(&mesh, NOBODY).send();
    assert_stopped(&mesh, &response, 403, "context_mismatch");
    claim(&mesh, USER, Some("6a2d1c1e-0b5c-4c57-8d3a-000000000001"));
    assert_stopped(&mesh, &enter(&mesh, USER).send(), 403, "context_mismatch");
    // Two users with one id: neither.
    claim(&mesh, USER, None);
    let shared = "6a2d1c1e-0b5c-4c57-8d3a-000000000002";
    let as_user = enter(&mesh, USER).header("x-request-id", shared);
    assert_told(&mesh, &as_user.send(), USER);
    let as_other = enter(&mesh, OTHER).header("x-request-id", shared);
    assert_stopped(&mesh, &as_other.send(), 403, "context_mismatch");
    assert_stopped(&mesh, &as_user.send(), 403, "context_mismatch");

    claim(&mesh, USER, None);
    assert_told(&mesh, &enter(&mesh, USER).send(), USER);
    mesh.no_traps();
}

/// Envoy writes into `x-request-id` whether it traces, at each proxy anew.
#[test]
fn tracing_at_the_exit_does_not_part_it_from_the_door() {
    let mesh = propagating()
        .egress(|bootstrap| {
            let chain = &mut bootstrap["static_resources"]["listeners"][0]["filter_chains"][0];
            chain["filters"][0]["typed_config"]["tracing"] =
                json!({"random_sampling": {"value": 100}});
        })
        .start();
    copy(&mesh, &["x-request-id"]);
    let response = enter(&mesh, USER).send();
    let channels = assert_told(&mesh, &response, USER);
    let videos = only(&mesh.app, &response);
    let ids = [&videos, &channels].map(|seen| seen.header("x-request-id").unwrap().to_vec());
    assert_ne!(ids[0], ids[1], "Envoy traces");
    mesh.no_traps();
}

/// A filter that edits headers has Envoy choose the route anew, and is not told which. Within the cluster that
/// is settled.
#[test]
fn as_a_filter_of_the_cluster_it_bears_routes_by_headers_that_it_strips() {
    let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    let codec = "envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec";
    let mesh = exit()
        .beyond(|beyond| beyond.token_endpoint.behave(Behavior::Status(503)))
        .egress(|bootstrap| {
            let resources = &mut bootstrap["static_resources"];
            let chain = &mut resources["listeners"][0]["filter_chains"][0]["filters"][0];
            let hcm = &mut chain["typed_config"];
            let admin = json!({"name": "x-user-role", "string_match": {"exact": "ADMIN"}});
            hcm["route_config"]["virtual_hosts"][1]["routes"] = json!([
                {"match": {"prefix": "/", "headers": [admin]}, "route": {"cluster": "channels"}},
                {"match": {"prefix": "/"}, "route": {"cluster": "thumbnails"}},
            ]);
            let filter = hcm["http_filters"].as_array_mut().unwrap().remove(0);
            for name in ["channels", "thumbnails"] {
                let clusters = resources["clusters"].as_array_mut().unwrap();
                let cluster = clusters.iter_mut().find(|cluster| cluster["name"] == name).unwrap();
                cluster["typed_extension_protocol_options"] = json!({options: {
                    "@type": format!("type.googleapis.com/{options}"),
                    "explicit_http_config": {"http_protocol_options": {}},
                    "http_filters": [filter, {
                        "name": "envoy.filters.http.upstream_codec",
                        "typed_config": {"@type": format!("type.googleapis.com/{codec}")},
                    }],
                }});
            }
        })
        .start();
    let call = |user| with_context(thumbnails(&mesh, "/channels/7"), user).send();
    assert_stopped(&mesh, &call(OTHER), 503, "service_token_unavailable");
    let seen = only(&mesh.beyond().thumbnails, &call(USER));
    assert_names(&seen, NOBODY, None);
    assert_eq!(seen.header(SERVICE_TOKEN), None);

    mesh.beyond().token_endpoint.behave(Behavior::Serve);
    wait_until("a call goes through", || call(OTHER).status == 200);
    mesh.beyond().channels.take();
    assert_told(&mesh, &call(OTHER), OTHER);
    assert!(mesh.beyond().thumbnails.take().is_empty());
    mesh.no_traps();
}
