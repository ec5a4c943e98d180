//! Who gets through to a listener with mTLS, and the mesh without the module.

use std::time::Duration;

use harness::client::Request;
use harness::mesh::{Mesh, spiffe};
use harness::pki::Ca;
use serde_json::{Value, json};

/// No filter but the router, and the peer's URI SAN as Envoy sees it in a header.
fn plain(mesh: harness::mesh::Builder) -> harness::mesh::Builder {
    fn hcm(bootstrap: &mut Value) -> &mut Value {
        let filters = &mut bootstrap["static_resources"]["listeners"][0]["filter_chains"][0];
        &mut filters["filters"][0]["typed_config"]
    }
    fn without_module(bootstrap: &mut Value) {
        hcm(bootstrap)["http_filters"].as_array_mut().unwrap().remove(0);
    }
    mesh.gateway(without_module).sidecar(without_module).sidecar(|bootstrap| {
        hcm(bootstrap)["route_config"]["request_headers_to_add"] = json!([
            {"header": {"key": "x-peer", "value": "%DOWNSTREAM_PEER_URI_SAN%"},
             "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"},
        ]);
    })
}

#[test]
fn the_gateway_reaches_the_app_over_mtls_as_itself() {
    let mesh = plain(Mesh::videos()).start();
    let response = mesh
        .get("/api/videos/1")
        .header("X-Forwarded-Client-Cert", "URI=spiffe://cluster.local/ns/edge/sa/forged")
        .send();
    assert_eq!(response.status, 200, "{response:?}");
    let seen = mesh.app.take();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].path, "/videos/1");
    assert_eq!(seen[0].headers_named("x-peer"), [spiffe("edge", "gateway").as_bytes()]);
    assert_eq!(seen[0].header("x-forwarded-client-cert"), None);
    assert_eq!(mesh.gateway().stat("cluster.videos.ssl.handshake"), 1);
}

#[test]
fn a_peer_is_who_its_certificate_says_and_nobody_without_one_gets_in() {
    let mesh = plain(Mesh::videos()).start();
    let channels = mesh.ca.issue(&spiffe("default", "channels-service"));
    assert_eq!(mesh.call(&channels, "/videos").send().status, 200);
    let seen = mesh.app.take().remove(0);
    assert_eq!(seen.headers_named("x-peer"), [spiffe("default", "channels-service").as_bytes()]);

    let nameless = mesh.ca.issue_with(&[]);
    assert_eq!(mesh.call(&nameless, "/videos").send().status, 200);
    assert_eq!(mesh.app.take()[0].header("x-peer"), None);

    let other = Ca::new("the mesh");
    let evil = other.issue(&spiffe("edge", "gateway"));
    let refused = [
        Request::get(mesh.inbound(), "/videos"),
        Request::get(mesh.inbound(), "/videos").tls(&mesh.ca.client(None)),
        mesh.call(&evil, "/videos"),
        // We do not talk to whom we cannot trust, either.
        Request::get(mesh.inbound(), "/videos").tls(&other.client(Some(&channels))),
        Request::get(mesh.app.address(), "/videos").tls(&mesh.ca.client(Some(&channels))),
    ];
    for request in refused {
        let outcome = request.try_send(Duration::from_secs(5));
        assert!(outcome.is_err(), "{request:?}: {outcome:?}");
    }
    assert_eq!(mesh.app.requests(), 2);
}
