//! The same generated requests before each mode: at the edge, at a service's door, at its exit, and at the
//! shared auth service.

use harness::idp::seed_claims;
use harness::mesh::{Mesh, spiffe};
use harness::testbed::{Testbed, point};
use harness::wire::Wire;
use serde_json::{Value, json};

use super::battery::{Battery, requests, upstream};
use super::grammar::Soil;
use super::lenient;
use crate::support::{NOBODY, user_token};

const PATHS: [&str; 6] = [
    "/api/videos",
    "/api/videos/1",
    "/api/comments",
    "/api/comments/1",
    "/api/channels",
    "/healthz",
];

fn soil(token: String) -> Soil {
    Soil { host: "api.example", paths: &PATHS, token }
}

/// Puts the bytes' upstream in the place of a cluster.
fn behind(name: &'static str, wire: &Wire) -> impl FnOnce(&mut Value) {
    let address = wire.address();
    move |bootstrap| assert!(point(bootstrap, name, address), "no cluster `{name}`")
}

#[test]
fn a_gateway_holds_against_generated_requests() {
    let shipped: fn(&mut Value) = |_| ();
    for (what, change, seed) in [("gateway", shipped, 1), ("lenient gateway", lenient, 2)] {
        let wire = upstream();
        let bed =
            Testbed::gateway().with_cluster("videos", wire.address()).bootstrap(change).start();
        let token = user_token(&bed);
        let battery = Battery::new(bed.envoy.address(), Some(&wire), "/api/comments", &token);
        battery.generated(seed, requests(2_000), &soil(token));
        battery.report(what);
        bed.no_traps();
    }
}

#[test]
fn the_auth_service_holds_against_generated_requests() {
    let bed = Testbed::config("authz.yaml").start();
    let token = user_token(&bed);
    let battery = Battery::new(bed.envoy.address(), None, "/api/comments", &token);
    battery.generated(3, requests(1_000), &soil(token));
    battery.report("authz");
    bed.no_traps();
}

#[test]
fn a_service_holds_at_its_door_and_at_its_exit_against_generated_requests() {
    let (app, thumbnails) = (upstream(), upstream());
    let mesh = Mesh::videos()
        .without_gateway()
        .exit()
        .sidecar(|bootstrap| {
            behind("app", &app)(bootstrap);
            lenient(bootstrap);
        })
        .egress(|bootstrap| {
            behind("thumbnails", &thumbnails)(bootstrap);
            lenient(bootstrap);
            let hcm = &mut bootstrap["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0];
            // Whatever is asked, it goes to somebody whom nothing is told.
            hcm["typed_config"]["route_config"]["virtual_hosts"] = json!([{
                "name": "all", "domains": ["*"],
                "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "thumbnails"}}],
            }]);
        })
        .start();
    let token = mesh.idp.token(seed_claims("user_2abc"));
    // Of the mesh, and in no pattern: what it says of a user is nothing, and its token is looked at.
    let stranger = mesh.ca.issue(&spiffe("elsewhere", "stranger-service"));
    let mut door = Battery::new(mesh.inbound(), Some(&app), "/videos/1", &token);
    door.tls = Some(mesh.ca.client(Some(&stranger)));
    door.generated(4, requests(500), &soil(token.clone()));
    door.report("service");

    let outbound = mesh.sidecar.address_of("outbound");
    let mut exit = Battery::new(outbound, Some(&thumbnails), "/v1/1", &token);
    exit.user = NOBODY;
    exit.generated(5, requests(1_000), &soil(token));
    exit.report("egress");
    mesh.no_traps();
}
