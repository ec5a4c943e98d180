//! The shipped configs on each Envoy that meshgate is held against, and what differs between them.

use std::fmt::Write;
use std::path::Path;
use std::sync::Mutex;
use std::thread;

use harness::envoy::{VERSIONS, install};
use harness::mesh::Mesh;
use harness::process::scratch;
use harness::server::{Answer, Seen, Server};
use harness::skip;
use harness::testbed::Testbed;
use harness::{idp, module};
use serde_json::{Value, json};

use crate::egress::{assert_told, by_token_alone, copy, sign};
use crate::reload;
use crate::support::{
    CONTEXT, NOBODY, USER, assert_all, assert_context, assert_denied, assert_signed, claims_with,
    only_seen, sharing, token_of, user_token, wait_until,
};

/// What a version was seen to do.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    version: &'static str,
    /// Who checks signatures: `host` or `module`.
    crypto: String,
    /// Whether a gauge in Prometheus's form has our labels.
    labels: bool,
    /// Whether two filters of one `vm_id` may have different `environment_variables`.
    environments: bool,
    /// Whether the module is reloaded after it has trapped.
    reloads: bool,
}

/// The columns that the manual has, of all rows.
fn table(rows: &[Row]) -> String {
    let mut table = String::from(
        "| Envoy | RS256 and ES256 checked by | metrics with labels | `environment_variables` of its own for each filter of a `vm_id` | `FAIL_RELOAD` |\n|---|---|---|---|---|\n",
    );
    let yes = |yes: bool| if yes { "yes" } else { "no" };
    for Row { version, crypto, labels, environments, reloads } in rows {
        let [labels, environments, reloads] = [*labels, *environments, *reloads].map(yes);
        writeln!(table, "| {version} | {crypto} | {labels} | {environments} | {reloads} |")
            .unwrap();
    }
    table
}

#[test]
fn the_shipped_configs_do_on_each_envoy_what_they_do_on_the_newest() {
    let envoys: Vec<_> = VERSIONS
        .into_iter()
        .filter_map(|version| Some((version, skip::require("this Envoy", install(version))?)))
        .collect();
    module::build();
    let (rows, rest) = (Mutex::new(Vec::new()), Mutex::new(envoys.iter()));
    let next = || rest.lock().unwrap().next();
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some((version, envoy)) = next() {
                    let (crypto, labels, reloads) = gateway(envoy);
                    let environments = mesh(envoy);
                    authz(envoy);
                    let row = Row { version, crypto, labels, environments, reloads };
                    rows.lock().unwrap().push(row);
                }
            });
        }
    });
    let mut rows = rows.into_inner().unwrap();
    rows.sort_unstable();
    let table = table(&rows);
    println!("{table}");
    let manual = module::workspace().join("docs/operations.md");
    let manual = std::fs::read_to_string(manual).unwrap();
    for line in table.lines() {
        assert!(manual.contains(line), "docs/operations.md has not `{line}`");
    }
}

/// Two workers that share, with a revocation feed; at the end, the module traps.
fn gateway(envoy: &Path) -> (String, bool, bool) {
    let feed = Server::start(|_: &Seen| {
        Answer::json(200, &json!({"v": 1, "entries": [{"jti": "revoked"}]}))
    });
    let dir = scratch();
    let bed = reload::with_trap(sharing(2), "FAIL_RELOAD", &dir)
        .launch(|launch| launch.binary(envoy))
        .with_cluster("auth", feed.address())
        .filter_config(|config| {
            config["revocation"] =
                json!({"feed": {"uri": "http://auth.internal/revocations", "cluster": "auth"}});
        })
        .start();
    let token = user_token(&bed);
    let cold = bed.get("/api/comments").bearer(&token);
    for request in [&cold, &cold] {
        let request =
            request.clone().header("X-User-Id", "u-forged").header("x_user_role", "ADMIN");
        assert_eq!(request.send().status, 200);
        let seen = only_seen(&bed);
        assert_context(&seen, USER);
        assert_eq!(seen.header("authorization"), None);
    }
    // What one worker was told, both know.
    assert_all(&cold, 200);
    assert_eq!((bed.idp.requests(), bed.users.requests()), (1, 1));
    bed.upstream.take();
    let es256 = bed.idp.key("es-1").token(&idp::seed_claims("user_2abc"));
    assert_eq!(bed.get("/api/comments").bearer(&es256).send().status, 200);
    assert_context(&only_seen(&bed), USER);
    assert_eq!(bed.get("/api/videos/1").header("X-User-Id", "u-forged").send().status, 200);
    assert_context(&only_seen(&bed), NOBODY);

    let send = |token: &str| bed.get("/api/comments").bearer(token).send();
    assert_denied(&bed.get("/api/comments").send(), 401, "token_missing");
    assert_denied(&send(&bed.idp.token(claims_with("exp", json!(1)))), 401, "token_expired");
    let forged = idp::Key::es256("es-1").token(&idp::seed_claims("user_2abc"));
    assert_denied(&send(&forged), 401, "signature_invalid");
    assert_denied(
        &send(&bed.idp.token(claims_with("jti", json!("revoked")))),
        401,
        "token_revoked",
    );
    assert_denied(&send(&token_of(&bed, "nobody")), 403, "user_unknown");
    bed.users.shut();
    assert_denied(&send(&token_of(&bed, "late")), 503, "user_lookup_unavailable");
    assert_eq!(bed.upstream.requests(), 68);

    wait_until("all is counted", || metric(&bed, "meshgate_requests", "allowed") == 68);
    assert_eq!(metric(&bed, "meshgate_requests", "code=\"token_revoked\""), 1);
    let labels = metric(&bed, "meshgate_build_info", "version=\"") > 0;
    let log = bed.envoy.log();
    let crypto = log.split_once("crypto=").unwrap().1;
    let crypto: String = crypto.chars().take_while(char::is_ascii_alphabetic).collect();
    bed.no_traps();
    bed.users.reopen();
    (crypto, labels, reload::comes_back(&bed))
}

/// The sum of a metric's samples with this in their labels.
fn metric(bed: &Testbed, name: &str, label: &str) -> u64 {
    let scrape = bed.envoy.admin_get("/stats/prometheus");
    let samples = scrape.lines().filter(|line| line.starts_with(name) && line.contains(label));
    samples.map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()).sum()
}

/// Gateway, two sidecars, and an exit that signs its tokens itself. Returns whether door and exit, which are in one VM,
/// may have different environments.
fn mesh(envoy: &Path) -> bool {
    let builder = || sign(by_token_alone(Mesh::signed().exit().binary(envoy)));
    let (mesh, environments) = match builder().try_start() {
        Ok(mesh) => (mesh, true),
        Err(refused) => {
            let missing = "the VM has no environment variable `MESH_SIGNING_KEY`";
            assert!(refused.log.contains(missing), "{refused}");
            let alone = |bootstrap: &mut Value| {
                let hcm = &mut bootstrap["static_resources"]["listeners"][0]["filter_chains"][0];
                let wasm = &mut hcm["filters"][0]["typed_config"]["http_filters"][0];
                wasm["typed_config"]["config"]["vm_config"]["vm_id"] = json!("a VM of its own");
            };
            (builder().egress(alone).start(), false)
        }
    };
    copy(&mesh, &[&CONTEXT[..], &["x-request-id"]].concat());
    let token = mesh.idp.token(idp::seed_claims("user_2abc"));
    for _ in 0..2 {
        let response = mesh.get("/api/videos/1").bearer(&token).send();
        assert_told(&mesh, &response, USER);
        let [videos] = &mesh.app.take()[..] else { panic!("videos is asked once") };
        assert_signed(videos, USER, None);
    }
    // Past the gateway there is no one to believe.
    let stranger = mesh.ca.issue(&harness::mesh::spiffe("elsewhere", "stranger"));
    let forged = mesh.call(&stranger, "/videos/1").header("X-User-Id", "u-1001").send();
    assert_denied(&forged, 401, "token_missing");
    mesh.no_traps();
    environments
}

fn authz(envoy: &Path) {
    let bed = Testbed::config("authz.yaml").launch(|launch| launch.binary(envoy)).start();
    let yes = bed.get("/api/comments").bearer(&user_token(&bed)).send();
    assert_eq!(yes.status, 200, "{yes:?}");
    for (name, value) in CONTEXT.into_iter().zip(USER) {
        assert_eq!(yes.header(name), value.map(str::as_bytes), "{name}");
    }
    assert_denied(&bed.get("/api/comments").send(), 401, "token_missing");
    bed.no_traps();
}
