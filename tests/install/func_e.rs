//! `func-e run -c envoy/gateway.yaml`, as the README has it.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use harness::idp::seed_claims;
use harness::testbed::Testbed;
use harness::{envoy, go, skip};

/// The Envoy is the one that the other tests have: what func-e would download is not what is tested.
#[test]
fn func_e_runs_the_gateway() {
    let Some(func_e) = skip::require("func-e", go::func_e()) else { return };
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("home");
    // The harness starts an Envoy with arguments of Envoy's; func-e takes the same behind `run`.
    let run = dir.path().join("run");
    fs::write(&run, format!("#!/bin/sh\nexec '{}' run \"$@\"\n", func_e.display())).unwrap();
    fs::set_permissions(&run, fs::Permissions::from_mode(0o755)).unwrap();

    let bed = Testbed::gateway()
        .launch(|launch| launch.binary(&run))
        .env("ENVOY_PATH", &envoy::find().unwrap().display().to_string())
        .env("FUNC_E_HOME", &home.display().to_string())
        .start();
    assert!(home.is_dir(), "func-e has kept nothing in its home, was it asked at all?");
    assert_eq!(bed.get("/api/comments").send().status, 401);
    let token = bed.idp.token(seed_claims("user_2abc"));
    assert_eq!(bed.get("/api/comments").bearer(&token).send().status, 200);
    assert_eq!(bed.upstream.take()[0].header("x-user-id"), Some(&b"u-1001"[..]));
    bed.no_traps();
}
