//! What operators see: metrics in Prometheus's form, held against the dashboard, the alert rules and the manual;
//! and the access log, in which a refusal is found by the id that its client was told.

#![allow(clippy::float_cmp, reason = "these are counts, and small ones")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::{Duration, Instant};

use harness::client::{Request, Response};
use harness::envoy::Envoy;
use harness::idp::{Key, seed_claims};
use harness::mesh::{Mesh, spiffe};
use harness::module;
use harness::process::scratch;
use harness::server::{Answer, Behavior, Seen, Server};
use harness::testbed::{Builder, Testbed};
use promql_parser::label::MatchOp;
use promql_parser::parser::{Expr, VectorSelector};
use promql_parser::util::{ExprVisitor, walk_expr};
use serde_json::{Value, json};

use crate::sharing::{named, put_listeners};
use crate::support::{
    LONG, assert_denied, claims_with, patient_lookup, sharing, token_of, user_token, wait_until,
};

fn read(file: &str) -> String {
    let path = module::workspace().join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What `/stats/prometheus` shows.
struct Scrape {
    /// The type of each metric.
    types: BTreeMap<String, String>,
    samples: Vec<Sample>,
}

#[derive(Debug)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Scrape {
    fn of(envoy: &Envoy) -> Self {
        let mut scrape = Self { types: BTreeMap::new(), samples: Vec::new() };
        for line in envoy.admin_get("/stats/prometheus").lines() {
            if let Some(declared) = line.strip_prefix("# TYPE ") {
                let (name, kind) = declared.split_once(' ').unwrap();
                let before = scrape.types.insert(name.to_owned(), kind.to_owned());
                assert_eq!(before, None, "{name} is declared twice");
            } else if !line.starts_with('#') && !line.is_empty() {
                scrape.samples.push(Sample::read(line));
            }
        }
        scrape
    }

    fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Sample> {
        self.samples.iter().filter(move |sample| sample.name == name)
    }

    /// The sum of all samples of `name` that have these labels, and maybe others.
    fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let fits = |sample: &&Sample| {
            labels
                .iter()
                .all(|(label, value)| sample.labels.get(*label).is_some_and(|v| v == value))
        };
        self.named(name).filter(fits).map(|sample| sample.value).sum()
    }
}

impl Sample {
    fn read(line: &str) -> Self {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let mut read = BTreeMap::new();
        let mut rest = labels.strip_suffix('}').unwrap();
        while let Some((label, after)) = rest.split_once("=\"") {
            // None of ours holds a quotation mark.
            let (value, after) = after.split_once('"').unwrap();
            read.insert(label.trim_start_matches(',').to_owned(), value.to_owned());
            rest = after;
        }
        let value = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
        Self { name: name.to_owned(), labels: read, value }
    }
}

/// A webdis that knows nothing.
fn empty_webdis() -> Server {
    Server::start(|seen: &Seen| {
        let reply = match seen.path.split('/').nth(1) {
            Some("MGET") => {
                let names = seen.path.split('/').skip(2);
                json!({"MGET": names.map(|_| Value::Null).collect::<Vec<_>>()})
            }
            Some("SETEX") => json!({"SETEX": [true, "OK"]}),
            _ => json!({"GET": null}),
        };
        Answer::json(200, &reply)
    })
}

/// A gateway that uses everything, with these around it.
fn everything(webdis: &Server, feed: &Server, idp: &Server) -> Builder {
    sharing(2)
        // Envoy shows histograms as they were at the last flush.
        .bootstrap(|bootstrap| bootstrap["stats_flush_interval"] = json!("0.2s"))
        .with_cluster("webdis", webdis.address())
        .with_cluster("auth", feed.address())
        .with_cluster("opaque", idp.address())
        .filter_config(|config| {
            config["user"]["lookup"]["redis"] = json!({"cluster": "webdis"});
            config["user"]["lookup"]["timeout"] = json!("2s");
            config["revocation"] = json!({
                "feed": {"uri": "http://auth.internal/revocations", "cluster": "auth"},
                "redis": {"cluster": "webdis"},
            });
            config["providers"]["opaque"] = json!({
                "issuer": "opaque-idp", "allow_any_audience": true,
                "introspection": {"uri": "http://opaque.internal/introspect", "cluster": "opaque",
                                  "client_id": "gateway", "client_secret": "hush"},
            });
            config["rules"].as_array_mut().unwrap().insert(
                0,
                json!({"match": {"path_prefix": "/api/admin"}, "require": "user", "roles": ["ADMIN"]}),
            );
        })
}

#[test]
fn what_the_dashboard_the_alerts_and_the_manual_name_is_what_envoy_shows() {
    let webdis = empty_webdis();
    let feed = Server::start(|_: &Seen| {
        Answer::json(200, &json!({"v": 1, "entries": [{"jti": "revoked"}, {"jti": "others"}]}))
    });
    let idp = Server::start(|_: &Seen| Answer::json(200, &json!({"active": false})));
    let bed = everything(&webdis, &feed, &idp).start();
    let send = |token: &str| bed.get("/api/comments").bearer(token).send();

    // The ordinary way, cold and warm.
    let token = user_token(&bed);
    for _ in 0..10 {
        assert_eq!(send(&token).status, 200);
    }
    assert_eq!(bed.get("/healthz").send().status, 200);
    // What clients get wrong.
    assert_denied(&bed.get("/api/comments").send(), 401, "token_missing");
    assert_denied(&send(&bed.idp.token(claims_with("exp", json!(1)))), 401, "token_expired");
    let forged = Key::es256("es-1").token(&seed_claims("user_2abc"));
    assert_denied(&send(&forged), 401, "signature_invalid");
    assert_denied(&send("opaque-token"), 401, "token_revoked");
    assert_denied(
        &send(&bed.idp.token(claims_with("jti", json!("revoked")))),
        401,
        "token_revoked",
    );
    assert_denied(&send(&token_of(&bed, "nobody")), 403, "user_unknown");
    assert_denied(&bed.get("/api/admin/x").bearer(&token).send(), 403, "role_required");
    // A users service that is down.
    bed.users.shut();
    assert_denied(&send(&token_of(&bed, "late")), 503, "user_lookup_unavailable");

    // Each worker tells within a tick.
    wait_until("all of it is told", || {
        let scrape = Scrape::of(&bed.envoy);
        scrape.sum("meshgate_requests", &[]) >= 19.0
            && scrape.sum("meshgate_user_lookup_error", &[]) >= 1.0
            && scrape.sum("meshgate_user_lookup_ms_count", &[]) >= 3.0
    });
    let scrape = Scrape::of(&bed.envoy);
    let gateway = |decision| [("mode", "gateway"), ("decision", decision)];
    for (name, labels, least) in [
        ("meshgate_requests", &gateway("allowed")[..], 11.0),
        ("meshgate_requests", &gateway("denied")[..], 8.0),
        ("meshgate_requests", &[("code", "token_missing")], 1.0),
        ("meshgate_requests", &[("code", "token_revoked")], 2.0),
        ("meshgate_requests", &[("code", "user_lookup_unavailable")], 1.0),
        ("meshgate_tokens_cache_hit", &[], 8.0),
        ("meshgate_tokens_cache_miss", &[], 5.0),
        ("meshgate_verify_host", &[], 5.0),
        ("meshgate_jwks_fetch_ok", &[("provider", "clerk")], 1.0),
        ("meshgate_user_cache_hit", &[], 8.0),
        ("meshgate_user_lookup_ok", &[], 2.0),
        ("meshgate_user_lookup_ms_count", &[], 3.0),
        ("meshgate_user_redis_miss", &[], 2.0),
        ("meshgate_revocation_poll_ok", &[], 1.0),
        ("meshgate_revocation_refused", &[], 1.0),
        ("meshgate_revocation_entries", &[], 2.0),
        ("meshgate_revocation_blacklist_cache_miss", &[], 1.0),
        ("meshgate_callouts_ok", &[("dependency", "introspection")], 1.0),
        ("meshgate_callouts_ok", &[("dependency", "blacklist")], 1.0),
        ("meshgate_callouts_error", &[("dependency", "users")], 1.0),
        ("meshgate_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 2.0),
    ] {
        let sum = scrape.sum(name, labels);
        assert!(sum >= least, "{name}{labels:?} is {sum}");
    }
    assert_eq!(scrape.sum("meshgate_requests", &[]), 19.0, "each request counts once");
    assert_eq!(scrape.sum("meshgate_waiters", &[]), 0.0);
    assert_eq!(scrape.sum("meshgate_callouts_in_flight", &[("dependency", "users")]), 0.0);
    let text = bed.envoy.admin_get("/stats/prometheus");
    for secret in ["hush", "user_2abc", "u-1001", token.split('.').next_back().unwrap()] {
        assert!(!text.contains(secret), "{secret}");
    }

    the_manual_has_each_metric(&scrape);
    let mut queries = 0;
    for (place, query) in dashboard_queries().into_iter().chain(alert_queries()) {
        assert_exists(&scrape, &place, &query);
        queries += 1;
    }
    assert!(queries > 40, "{queries} queries");
    bed.no_traps();
}

/// The table of the manual, against what there is: names, kinds and labels, both ways.
#[track_caller]
fn the_manual_has_each_metric(scrape: &Scrape) {
    type Metrics = BTreeMap<String, (String, BTreeSet<String>)>;
    let manual = read("docs/operations.md");
    let documented: Metrics = manual
        .lines()
        .filter_map(|line| line.strip_prefix("| `meshgate_"))
        .map(|row| {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            let labels = cells[2].split('`').filter(|part| part.chars().any(char::is_alphabetic));
            let name = format!("meshgate_{}", cells[0].trim_end_matches('`'));
            (name, (cells[1].to_owned(), labels.map(str::to_owned).collect()))
        })
        .collect();
    let shown: Metrics = scrape
        .types
        .iter()
        .filter(|(name, _)| name.starts_with("meshgate_"))
        .map(|(name, kind)| {
            let suffix = if kind == "histogram" { "_count" } else { "" };
            let series = format!("{name}{suffix}");
            let labels = scrape.named(&series).flat_map(|sample| sample.labels.keys().cloned());
            (name.clone(), (kind.clone(), labels.collect()))
        })
        .collect();
    assert_eq!(documented, shown);
}

fn alert_queries() -> Vec<(String, String)> {
    let rules: Value = yaml_serde::from_str(&read("envoy/prometheus/meshgate.rules.yaml")).unwrap();
    let groups = rules["groups"].as_array().unwrap();
    let rules = groups.iter().flat_map(|group| group["rules"].as_array().unwrap());
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    rules.map(|rule| (text(&rule["alert"]), text(&rule["expr"]))).collect()
}

fn dashboard_queries() -> Vec<(String, String)> {
    let dashboard: Value = serde_json::from_str(&read("envoy/dashboards/meshgate.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut queries = Vec::new();
    for panel in panels {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let place = format!("{}: {}", panel["title"], target["refId"]);
            // What Grafana fills in.
            let query = target["expr"].as_str().unwrap();
            let query = query.replace("$__rate_interval", "5m").replace("$instance", ".*");
            assert!(!query.contains('$'), "{place}: {query}");
            queries.push((place, query));
        }
    }
    queries
}

/// Labels that Prometheus adds when it scrapes.
const SCRAPED: [&str; 2] = ["instance", "job"];

/// Asserts that a query asks for metrics, labels and values that there are.
#[track_caller]
fn assert_exists(scrape: &Scrape, place: &str, query: &str) {
    let expression = promql_parser::parser::parse(query)
        .unwrap_or_else(|error| panic!("{place}: {error}: {query}"));
    let mut check = Check { scrape, place };
    walk_expr(&mut check, &expression).unwrap();
    assert!(!selectors(&expression).is_empty(), "{place} asks for nothing");
}

struct Check<'a> {
    scrape: &'a Scrape,
    place: &'a str,
}

impl ExprVisitor for Check<'_> {
    type Error = ();

    fn pre_visit(&mut self, expression: &Expr) -> Result<bool, ()> {
        match expression {
            Expr::VectorSelector(selector) => self.selector(selector),
            Expr::MatrixSelector(matrix) => self.selector(&matrix.vs),
            Expr::Aggregate(aggregate) => {
                let labels = aggregate.modifier.iter().flat_map(|by| by.labels().labels.clone());
                let of = selectors(&aggregate.expr);
                for label in labels.filter(|label| !SCRAPED.contains(&label.as_str())) {
                    let has = |name: &String| {
                        self.scrape.named(name).any(|sample| sample.labels.contains_key(&label))
                    };
                    assert!(of.iter().all(has), "{}: no label `{label}` on {of:?}", self.place);
                }
            }
            _ => {}
        }
        Ok(true)
    }
}

impl Check<'_> {
    fn selector(&self, selector: &VectorSelector) {
        let place = self.place;
        let name = selector.name.as_deref().expect("a query of a name");
        assert!(self.scrape.named(name).next().is_some(), "{place}: no metric `{name}`");
        let matchers = &selector.matchers;
        assert!(matchers.or_matchers.is_empty(), "{place}");
        let matchers = matchers.matchers.iter().filter(|m| !SCRAPED.contains(&m.name.as_str()));
        for matcher in matchers {
            let mut values =
                self.scrape.named(name).filter_map(|sample| sample.labels.get(&matcher.name));
            let found = match &matcher.op {
                MatchOp::Equal => values.any(|value| *value == matcher.value),
                MatchOp::NotEqual => values.next().is_some(),
                // Every alternative that is spelled out must be one that there is.
                MatchOp::Re(regex) => {
                    let values: Vec<&String> = values.collect();
                    matcher.value.split('|').all(|part| {
                        let plain = part.chars().all(|c| c.is_ascii_lowercase() || c == '_');
                        let there = |value: &&String| {
                            if plain { *value == part } else { regex.is_match(value) }
                        };
                        values.iter().any(there)
                    })
                }
                MatchOp::NotRe(_) => false,
            };
            assert!(found, "{place}: `{name}` never has {matcher:?}");
        }
    }
}

/// The metrics that an expression asks for.
fn selectors(expression: &Expr) -> Vec<String> {
    struct Names(Vec<String>);
    impl ExprVisitor for Names {
        type Error = ();

        fn pre_visit(&mut self, expression: &Expr) -> Result<bool, ()> {
            match expression {
                Expr::VectorSelector(selector) => self.0.extend(selector.name.clone()),
                Expr::MatrixSelector(matrix) => self.0.extend(matrix.vs.name.clone()),
                _ => {}
            }
            Ok(true)
        }
    }
    let mut names = Names(Vec::new());
    walk_expr(&mut names, expression).unwrap();
    names.0
}

#[test]
fn a_query_for_what_there_is_not_is_found_out() {
    let scrape = Scrape {
        types: BTreeMap::new(),
        samples: vec![Sample::read("meshgate_requests{mode=\"gateway\",code=\"overloaded\"} 1")],
    };
    assert_exists(
        &scrape,
        "",
        "sum by (mode, instance) (rate(meshgate_requests{code=\"overloaded\"}[5m]))",
    );
    for query in [
        "meshgate_request",
        "sum(rate(meshgate_requests[5m])) / sum(rate(meshgate_tokens[5m]))",
        "meshgate_requests{code=\"overload\"}",
        "meshgate_requests{kind=\"overloaded\"}",
        "meshgate_requests{code=~\"overloaded|other\"}",
        "sum by (provider) (meshgate_requests)",
        "1",
    ] {
        let check = || assert_exists(&scrape, "", query);
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(check)).is_err(), "{query}");
    }
}

/// The line of the access log for the request that this is the id of. The log comes with the request's end.
#[track_caller]
fn line(envoy: &Envoy, request_id: &str) -> Value {
    let start = Instant::now();
    loop {
        let log = envoy.log();
        let mut lines =
            log.lines().filter(|line| line.starts_with('{') && line.contains(request_id));
        if let Some(line) = lines.next() {
            assert_eq!(lines.next(), None, "one line a request");
            return serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        }
        assert!(start.elapsed() < LONG, "no line of {request_id} in {log}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Asserts that the line says this; `null` of what must not be in it.
#[track_caller]
fn assert_says(line: &Value, expected: &Value) {
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(line[name], *value, "`{name}` of {line}");
    }
}

fn request_id(response: &Response) -> String {
    response.json()["request_id"].as_str().unwrap().to_owned()
}

#[test]
fn a_refusal_is_found_by_the_id_that_the_client_was_told() {
    let bed = Testbed::gateway()
        .filter_config(|config| {
            let provider = &mut config["providers"]["clerk"];
            provider["from_params"] = json!(["access_token"]);
            provider["from_headers"] =
                json!([{"name": "authorization", "value_prefix": "Bearer "}]);
        })
        .start();
    let token = user_token(&bed);
    // Refused at once, with a token in the query.
    let expired = bed.idp.token(claims_with("exp", json!(1)));
    let response = bed.get(format!("/api/comments?access_token={expired}")).send();
    assert_denied(&response, 401, "token_expired");
    let found = line(&bed.envoy, &request_id(&response));
    assert_says(
        &found,
        &json!({"decision": "denied", "code": "token_expired", "provider": "clerk", "status": 401,
                "path": "/api/comments", "method": "GET", "subject": null, "user_id": null}),
    );
    assert!(!bed.envoy.log().contains(&expired), "the token is in the log");

    // Refused from the root context, after a wait.
    bed.users.shut();
    let response = bed.get("/api/comments").bearer(&token).send();
    assert_denied(&response, 503, "user_lookup_unavailable");
    assert_says(
        &line(&bed.envoy, &request_id(&response)),
        &json!({"decision": "denied", "code": "user_lookup_unavailable", "provider": "clerk",
                "subject": "user_2abc", "user_id": null}),
    );
    bed.users.reopen();

    // Allowed after a wait, and from the caches.
    wait_until("the users service is asked again", || {
        bed.get("/api/comments").bearer(&token).send().status == 200
    });
    for _ in 0..2 {
        bed.upstream.take();
        let response = bed.get("/api/comments/7").bearer(&token).send();
        assert_eq!(response.status, 200);
        let seen = bed.upstream.take().remove(0);
        let id = String::from_utf8_lossy(seen.header("x-request-id").unwrap()).into_owned();
        assert_says(
            &line(&bed.envoy, &id),
            &json!({"decision": "allowed", "code": null, "provider": "clerk", "subject": "user_2abc",
                    "user_id": "u-1001", "status": 200, "upstream": "videos"}),
        );
    }
    bed.no_traps();
}

#[test]
fn at_a_sidecar_refusals_and_callers_are_found_by_the_edges_id() {
    let mesh = Mesh::videos()
        .sidecar_config(|config| {
            config["rules"] = json!([
                {"match": {"path_prefix": "/comments"}, "require": "user", "roles": ["NOBODY"]},
            ]);
        })
        .start();
    let token = mesh.idp.token(seed_claims("user_2abc"));
    let response = mesh.get("/api/comments").bearer(&token).send();
    assert_denied(&response, 403, "role_required");
    // The gateway let it go on; the sidecar did not. One id finds both.
    let id = request_id(&response);
    assert_says(&line(mesh.gateway(), &id), &json!({"decision": "allowed", "user_id": "u-1001"}));
    assert_says(
        &line(&mesh.sidecar, &id),
        &json!({"decision": "denied", "code": "role_required", "user_id": "u-1001", "status": 403,
                "subject": null, "peer": spiffe("edge", "gateway")}),
    );
    let response = mesh.get("/api/videos/1").bearer(&token).send();
    assert_eq!(response.status, 200, "{}", response.text());
    let seen = mesh.app.take().remove(0);
    let id = String::from_utf8_lossy(seen.header("x-request-id").unwrap()).into_owned();
    for envoy in [mesh.gateway(), &mesh.sidecar] {
        let expected = json!({"decision": "allowed", "code": null, "user_id": "u-1001"});
        assert_says(&line(envoy, &id), &expected);
    }
    // An id that no answer can repeat is replaced, in the answer as in the log.
    let stranger = mesh.ca.issue(&spiffe("elsewhere", "stranger"));
    let request = mesh.call(&stranger, "/comments").header("X-Request-Id", "x".repeat(500));
    let response = request.header("X-User-Id", "u-forged").send();
    assert_denied(&response, 401, "token_missing");
    let found = line(&mesh.sidecar, &request_id(&response));
    assert_says(&found, &json!({"code": "token_missing", "user_id": null}));
    mesh.no_traps();
}

#[test]
fn what_an_issuer_writes_into_a_token_stays_within_its_field() {
    let bed = Testbed::gateway()
        .bootstrap(|bootstrap| {
            let hcm = &mut bootstrap["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0];
            hcm["typed_config"]["access_log"][0]["typed_config"]["log_format"] = json!({
                "text_format_source": {"inline_string":
                    "log id=%REQ(X-REQUEST-ID)% sub=\"%FILTER_STATE(wasm.meshgate.subject:PLAIN)%\" end\n"},
            });
        })
        .start();
    let mut claims = seed_claims("user_2abc");
    claims["sub"] = json!(format!("a\" end\nlog id=forged sub=\"{}", "b".repeat(2_000)));
    let response = bed.get("/api/comments").bearer(&bed.idp.token(claims)).send();
    assert_eq!(response.status, 200, "{}", response.text());
    bed.envoy.wait_for_log("log id=", LONG);
    let log = bed.envoy.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("log id=")).collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("sub=\"a%22%20end%0Alog%20id=forged%20sub=%22bbb"), "{lines:?}");
    assert!(lines[0].ends_with("b\" end") && lines[0].len() < 400, "{lines:?}");
    bed.no_traps();
}

#[test]
fn a_filter_that_the_config_takes_away_leaves_no_part_of_a_gauge_behind() {
    let dir = scratch();
    let file = dir.path().join("listeners.json");
    let bed = Testbed::gateway()
        .drain_time(Duration::from_secs(1))
        .filter_config(patient_lookup)
        .bootstrap(|bootstrap| {
            let gateway = bootstrap["static_resources"]["listeners"].take()[0].take();
            put_listeners(&file, &[named(&gateway, "a"), named(&gateway, "b")]);
            bootstrap["node"] = json!({"id": "gateway", "cluster": "gateway"});
            bootstrap["dynamic_resources"] =
                json!({"lds_config": {"path_config_source": {"path": file}}});
        })
        .users(|users| users.behave(Behavior::Hold))
        .start();
    let shown = |name: &str| Scrape::of(&bed.envoy).sum(name, &[]);
    // A filter of Envoy's main thread, and one of its one worker, for each listener.
    let filters = shown("meshgate_build_info");
    assert!(filters >= 2.0, "{filters}");
    let request = Request::get(bed.envoy.address_of("a"), "/api/comments");
    let held = request.bearer(&user_token(&bed)).begin();
    wait_until("it is seen to wait", || {
        shown("meshgate_waiters") == 1.0 && shown("meshgate_callouts_in_flight") == 1.0
    });
    let listeners: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    put_listeners(&file, &listeners["resources"].as_array().unwrap()[1..]);
    wait_until("its part is gone", || {
        shown("meshgate_build_info") == filters / 2.0
            && shown("meshgate_waiters") == 0.0
            && shown("meshgate_callouts_in_flight") == 0.0
    });
    drop(held);
    bed.no_traps();
}
