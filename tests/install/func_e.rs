//! `func-e run -c envoy/gateway.yaml`, as the README has it.

use std::fs;
use std::process::Command;
use std::time::Duration;

use harness::client::Request;
use harness::idp::seed_claims;
use harness::process::Process;
use harness::testbed::Testbed;
use harness::{envoy, go, skip};
use tempfile::TempDir;

/// The Envoy is the one that the other tests have: func-e's own downloads are not what is tested.
#[test]
fn func_e_runs_the_gateway() {
    let Some(func_e) = skip::require("func-e", go::func_e()) else { return };
    // The ports, clusters and module that an Envoy of the testbed has.
    let bed = Testbed::gateway().start();
    let config = bed.bootstrap_file();
    let dir = TempDir::new().unwrap();
    let home = dir.path().to_owned();
    let admin_file = home.join("admin.address");
    let copy = home.join("gateway.json");
    fs::copy(config, &copy).unwrap();
    let mut command = Command::new(func_e);
    command
        .args(["run", "--config-path"])
        .arg(&copy)
        .args(["--admin-address-path"])
        .arg(&admin_file)
        .env("ENVOY_PATH", envoy::find().unwrap())
        .env("FUNC_E_HOME", home.join("func-e"))
        .current_dir(harness::module::workspace());
    let process = Process::start(&command, dir).unwrap();
    process.wait_for_log("starting main dispatch loop", Duration::from_secs(90));
    let admin = fs::read_to_string(admin_file).unwrap().trim().parse().unwrap();
    let listeners = Request::get(admin, "/listeners").send().text();
    let port = listeners.lines().next().unwrap().rsplit(':').next().unwrap();
    let address = format!("127.0.0.1:{port}").parse().unwrap();
    assert_eq!(Request::get(address, "/api/comments").send().status, 401, "{}", process.log());
    let token = bed.idp.token(seed_claims("user_2abc"));
    let response = Request::get(address, "/api/comments").bearer(&token).send();
    assert_eq!(response.status, 200, "{}", response.text());
    let seen = bed.upstream.take();
    assert_eq!(seen[0].header("x-user-id"), Some(&b"u-1001"[..]));
}
