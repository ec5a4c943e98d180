//! The seed's other ways to know the user in a service: the token goes along and is verified at each door, with a
//! gateway before it or without one, and both at once.

use harness::client::{Request, Response};
use harness::idp::{Key, now, seed_claims};
use harness::mesh::{Builder, Mesh, SERVICE_TOKEN, spiffe};
use harness::pki::Ca;
use harness::server::Seen;
use harness::upstream::Upstream;
use serde_json::{Value, json};

use crate::support::{CONTEXT, LONG, NOBODY, USER, assert_denied, assert_names};

const VIDEOS: &str = "videos-api";
const CHANNELS: &str = "channels-api";

/// A token of `u-1001` for these services, which says all that there is to say of the user.
fn claims(audiences: &[&str]) -> Value {
    let mut claims = seed_claims("user_2abc");
    let more =
        json!({"aud": audiences, "userId": "u-1001", "role": "USER", "channelId": "ch-2001"});
    claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    claims
}

/// The service verifies users' tokens that are meant for it, and needs nobody to tell it more.
fn verifies(config: &mut Value, audience: &str) {
    config["providers"]["clerk"]["audiences"] = json!([audience]);
    config["user"] = json!({"source": "claims"});
    config["context"]["headers"]["x-user-id"] = json!({"user": "/userId", "required": true});
}

/// Services are known by name, and none is believed about users.
fn asserts_nobody(config: &mut Value) {
    config["boundary"]["peers"] =
        json!([{"spiffe_id": spiffe("default", "*"), "service_name": "*"}]);
}

/// `videos` verifies and hands the token on to `channels`, which verifies it again.
fn forwarding(builder: Builder) -> Builder {
    builder
        .exit()
        .sidecar_config(|config| {
            verifies(config, VIDEOS);
            asserts_nobody(config);
            config["context"]["forward_token"] = json!(true);
        })
        .egress_config(|config| {
            let channels = &mut config["destinations"][0];
            assert_eq!(channels["clusters"], json!(["channels"]));
            channels["user_token"] = json!("forward");
            channels["context"] = json!("strip");
        })
        .channels_config(|config| {
            verifies(config, CHANNELS);
            asserts_nobody(config);
        })
}

/// Clients have no certificate of the mesh; services show theirs.
fn open_to_clients(bootstrap: &mut Value) {
    let chain = &mut bootstrap["static_resources"]["listeners"][0]["filter_chains"][0];
    chain["transport_socket"]["typed_config"]["require_client_certificate"] = json!(false);
}

/// A client that comes to `videos` over TLS, past any gateway.
fn direct(mesh: &Mesh, path: &str) -> Request {
    Request::get(mesh.inbound(), path).tls(&mesh.ca.client(None))
}

fn forge(request: Request) -> Request {
    let forged = ["u-forged", "user_forged", "ADMIN", "ch-forged"];
    let names = CONTEXT.iter().zip(forged);
    names.fold(request, |request, (name, value)| request.header(name, value))
}

/// Has `videos` call this host with all that it was told and more, the token among it.
fn copy_all(mesh: &Mesh, host: &'static str) {
    let request = Request::get(mesh.sidecar.address_of("outbound"), "/v1/channels/7");
    let request = request.header("Host", host);
    mesh.app.calls(move |seen| {
        let names = ["authorization", "x-request-id"];
        forge(names.iter().fold(request.clone(), |request, name| match seen.header(name) {
            Some(value) => request.header(name, value),
            None => request,
        }))
    });
}

#[track_caller]
fn only(upstream: &Upstream) -> Seen {
    let mut seen = upstream.take();
    assert_eq!(seen.len(), 1, "{seen:?}");
    seen.remove(0)
}

#[track_caller]
fn assert_served(response: &Response) {
    assert_eq!(response.status, 200, "{}", response.text());
}

/// Asserts that both services were told of the user, `videos` with the token and `channels` without.
#[track_caller]
fn assert_told(mesh: &Mesh, response: &Response, token: &str) {
    assert_served(response);
    let videos = only(&mesh.app);
    assert_names(&videos, USER, None);
    assert_eq!(videos.headers_named("authorization"), [format!("Bearer {token}").as_bytes()]);
    let channels = only(&mesh.beyond().channels);
    assert_names(&channels, USER, Some("videos"));
    for secret in ["authorization", SERVICE_TOKEN] {
        assert_eq!(channels.header(secret), None, "{secret}");
    }
    assert_eq!(channels.header("x-request-id"), videos.header("x-request-id"));
}

/// Asserts that `videos` refused, or that `channels` did where the request came so far.
#[track_caller]
fn assert_refused(mesh: &Mesh, response: &Response, by_channels: bool, code: &str) {
    assert_denied(response, 401, code);
    assert_eq!(mesh.app.take().len(), usize::from(by_channels), "{code}");
    assert!(mesh.beyond().channels.take().is_empty(), "{code}");
}

#[test]
fn without_a_gateway_each_service_verifies_the_token_for_itself() {
    let mesh = forwarding(Mesh::videos().without_gateway()).sidecar(open_to_clients).start();
    copy_all(&mesh, "channels");
    let token = mesh.idp.token(claims(&[VIDEOS, CHANNELS]));
    for path in ["/videos/1", "/comments"] {
        assert_told(&mesh, &direct(&mesh, path).bearer(&token).send(), &token);
        assert_told(&mesh, &forge(direct(&mesh, path)).bearer(&token).send(), &token);
    }
    // A certificate of the mesh makes nobody's word good, the edge's neither.
    let edge = mesh.ca.issue(&spiffe("edge", "gateway"));
    let response = forge(mesh.call(&edge, "/comments")).bearer(&token).send();
    assert_told(&mesh, &response, &token);
    assert_refused(&mesh, &forge(mesh.call(&edge, "/comments")).send(), false, "token_missing");

    // One of another mesh, which need not be shown, is no way in.
    let another = Ca::new("another mesh").issue(&spiffe("default", "videos"));
    let outcome = mesh.call(&another, "/comments").bearer(&token).try_send(LONG);
    assert!(outcome.is_err(), "{outcome:?}");

    let request = |audiences: &[&str]| {
        let token = mesh.idp.token(claims(audiences));
        forge(direct(&mesh, "/comments")).bearer(&token).send()
    };
    assert_refused(&mesh, &request(&[CHANNELS]), false, "audience_mismatch");
    assert_refused(&mesh, &request(&[VIDEOS]), true, "audience_mismatch");
    assert_refused(&mesh, &request(&["youtube-clone-api"]), false, "audience_mismatch");
    let both = claims(&[VIDEOS, CHANNELS]);
    let expired = {
        let mut claims = both.clone();
        claims["exp"] = json!(now() - 3600);
        mesh.idp.token(claims)
    };
    let roleless = {
        let mut claims = both.clone();
        claims.as_object_mut().unwrap().remove("role");
        mesh.idp.token(claims)
    };
    let forged = Key::es256("es-1").token(&both);
    for (token, code) in [
        (expired, "token_expired"),
        (roleless, "token_malformed"),
        (forged, "signature_invalid"),
        ("rubbish".to_owned(), "token_malformed"),
    ] {
        let response = forge(direct(&mesh, "/comments")).bearer(&token).send();
        assert_refused(&mesh, &response, false, code);
    }
    // Where nobody need be known, the next service still asks.
    let response = forge(direct(&mesh, "/videos/1")).send();
    assert_denied(&response, 401, "token_missing");
    assert_names(&only(&mesh.app), NOBODY, None);
    assert!(mesh.beyond().channels.take().is_empty());

    // The token goes to no service that is not named.
    copy_all(&mesh, "thumbnails.example.com");
    assert_served(&direct(&mesh, "/comments").bearer(&token).send());
    let seen = only(&mesh.beyond().thumbnails);
    assert_names(&seen, NOBODY, None);
    assert_eq!(seen.header("authorization"), None);
    assert_eq!(mesh.users.requests(), 0, "the token says it all");
    mesh.no_traps();
}

#[test]
fn a_token_that_the_gateway_forwards_is_verified_again_at_each_door() {
    let mesh = forwarding(Mesh::videos())
        .gateway_config(|config| config["context"]["forward_token"] = json!(true))
        .start();
    copy_all(&mesh, "channels");
    let send = |audiences: &[&str]| {
        let audiences = [&["youtube-clone-api"], audiences].concat();
        let token = mesh.idp.token(claims(&audiences));
        (forge(mesh.get("/api/comments")).bearer(&token).send(), token)
    };
    let (response, token) = send(&[VIDEOS, CHANNELS]);
    assert_told(&mesh, &response, &token);
    assert_refused(&mesh, &send(&[CHANNELS]).0, false, "audience_mismatch");
    assert_refused(&mesh, &send(&[VIDEOS]).0, true, "audience_mismatch");
    assert_refused(&mesh, &send(&[]).0, false, "audience_mismatch");
    mesh.no_traps();
}

#[test]
fn a_service_believes_the_gateway_and_verifies_those_who_come_another_way() {
    let mesh = Mesh::videos()
        .exit()
        .sidecar(open_to_clients)
        .sidecar_config(|config| verifies(config, VIDEOS))
        .start();
    let copied = mesh.outbound("/channels/7");
    mesh.app.calls(move |seen| {
        CONTEXT.iter().fold(copied.clone(), |request, name| match seen.header(name) {
            Some(value) => request.header(name, value),
            None => request,
        })
    });
    let told = |response: &Response| {
        assert_served(response);
        for (seen, service) in
            [(only(&mesh.app), None), (only(&mesh.beyond().channels), Some("videos"))]
        {
            assert_names(&seen, USER, service);
            assert_eq!(seen.header("authorization"), None);
        }
    };
    // The gateway's clients have tokens that say little, and the users service says the rest.
    let through = mesh.idp.token(seed_claims("user_2abc"));
    let past = mesh.idp.token(claims(&[VIDEOS]));
    for _ in 0..2 {
        told(&forge(mesh.get("/api/comments")).bearer(&through).send());
        told(&forge(direct(&mesh, "/comments")).bearer(&past).send());
    }
    assert_eq!(mesh.users.requests(), 1, "the gateway asks, and nobody else");
    // Neither's token is good at the other's door, and no way is open without one.
    let refused = [
        (direct(&mesh, "/comments").bearer(&through), "audience_mismatch"),
        (mesh.get("/api/comments").bearer(&past), "audience_mismatch"),
        (direct(&mesh, "/comments"), "token_missing"),
        (mesh.get("/api/comments"), "token_missing"),
    ];
    for (request, code) in refused {
        assert_refused(&mesh, &forge(request).send(), false, code);
    }
    mesh.no_traps();
}
