//! Users, shared by all workers of a process: asserted at the users service, which counts how often the
//! whole process asks it.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use harness::client::Request;
use harness::module;
use harness::process::scratch;
use harness::server::Behavior;
use harness::testbed::Testbed;
use serde_json::{Value, json};

use crate::support::{
    LONG, USER, active, assert_all, assert_context, assert_denied, assert_serves, begin_all,
    connections_by_worker, patient_lookup, sharing, token_of, user_token, wait_until,
};

#[track_caller]
fn assert_four_workers_took_part(bed: &Testbed, at_least: u64) {
    let connections = connections_by_worker(bed);
    assert!(
        connections.len() == 4 && connections.iter().all(|count| *count >= at_least),
        "{connections:?}"
    );
}

#[test]
fn a_thousand_first_requests_of_one_user_at_four_workers_make_one_lookup() {
    let bed = sharing(4)
        .filter_config(patient_lookup)
        .users(|users| users.behave(Behavior::Hold))
        .start();
    let pending = begin_all(&bed.get("/api/comments").bearer(&user_token(&bed)), 1_000);
    wait_until("all are held", || active(&bed) == 1_000);
    assert_four_workers_took_part(&bed, 100);
    assert_eq!(bed.users.requests(), 1);
    bed.users.release();
    for pending in pending {
        assert_eq!(pending.finish().status, 200);
    }
    assert_eq!(bed.users.requests(), 1);
    let seen = bed.upstream.take();
    assert_eq!(seen.len(), 1_000);
    for seen in &seen {
        assert_context(seen, USER);
    }
    bed.no_traps();
}

#[test]
fn what_one_worker_was_told_of_a_user_all_workers_know() {
    let bed = sharing(4).start();
    let known = bed.get("/api/comments").bearer(&user_token(&bed));
    assert_eq!(known.send().status, 200);
    assert_all(&known, 200);
    for seen in bed.upstream.take() {
        assert_context(&seen, USER);
    }
    assert_eq!(bed.users.requests(), 1);
    let unknown = bed.get("/api/comments").bearer(&token_of(&bed, "user_nobody"));
    assert_denied(&unknown.send(), 403, "user_unknown");
    assert_all(&unknown, 403);
    assert_eq!(bed.users.requests(), 2);
    assert_four_workers_took_part(&bed, 20);
    assert_eq!(bed.upstream.requests(), 65);
    bed.no_traps();
}

#[test]
fn workers_that_wait_for_another_ones_answer_are_woken_by_it() {
    let bed = sharing(4).filter_config(patient_lookup).start();
    assert_serves(&bed);
    let waited = ["user_1", "user_2", "user_3", "user_4", "user_5"].map(|user| {
        bed.users.behave(Behavior::Hold);
        let pending = begin_all(&bed.get("/api/comments").bearer(&token_of(&bed, user)), 32);
        wait_until("all are held", || active(&bed) == 32);
        let released = Instant::now();
        bed.users.release();
        for pending in pending {
            assert_denied(&pending.finish(), 403, "user_unknown");
        }
        released.elapsed()
    });
    // Their clocks tick every 100 ms. One round at least was not held up by a busy machine.
    assert!(waited.iter().min() < Some(&Duration::from_millis(25)), "{waited:?}");
    assert_eq!(bed.users.requests(), 6);
    bed.no_traps();
}

#[test]
fn a_shared_record_is_forgotten_by_all_workers_when_its_ttl_ends() {
    let bed = sharing(4)
        .filter_config(|config| {
            config["user"]["lookup"]["cache"] = json!({"ttl": "500ms", "negative_ttl": "500ms"});
        })
        .start();
    let request = bed.get("/api/comments").bearer(&user_token(&bed));
    assert_all(&request, 200);
    let fetched = Instant::now();
    assert_eq!(bed.users.requests(), 1);
    bed.users.set_role("user_2abc", "ADMIN");
    std::thread::sleep(Duration::from_millis(500).saturating_sub(fetched.elapsed()));
    bed.upstream.take();
    assert_all(&request, 200);
    for seen in bed.upstream.take() {
        assert_eq!(seen.header("x-user-role"), Some(&b"ADMIN"[..]));
    }
    assert_eq!(bed.users.requests(), 2);
    bed.no_traps();
}

#[test]
fn a_users_service_that_never_answers_ends_every_request_in_time_and_comes_back_by_itself() {
    let bed = sharing(4).users(|users| users.behave(Behavior::Hold)).start();
    let request = bed.get("/api/comments").bearer(&user_token(&bed));
    // The first request of each worker waits for keys, which is not what is measured.
    assert_all(&bed.get("/api/videos").bearer("x"), 401);
    let sent = Instant::now();
    let pending = begin_all(&request, 64);
    for pending in pending {
        assert_denied(&pending.finish(), 503, "user_lookup_unavailable");
    }
    let took = sent.elapsed();
    // The lookup's 300 ms, and those of a worker that asks in its turn.
    assert!(took < Duration::from_millis(1_500), "{took:?}");
    assert!(bed.users.requests() <= 4, "asked {} times", bed.users.requests());
    assert_eq!(bed.upstream.requests(), 0);
    bed.users.release();
    wait_until("it is served", || request.send().status == 200);
    assert_all(&request, 200);
    assert_serves(&bed);
}

#[test]
fn a_worker_that_is_gone_is_replaced_when_its_turn_ends() {
    let dir = scratch();
    let file = dir.path().join("listeners.json");
    let bed = sharing(1)
        .drain_time(Duration::from_secs(1))
        .filter_config(|config| config["user"]["lookup"]["timeout"] = json!("3s"))
        .bootstrap(|bootstrap| {
            let gateway = bootstrap["static_resources"]["listeners"].take()[0].take();
            put_listeners(&file, &[named(&gateway, "a"), named(&gateway, "b")]);
            bootstrap["node"] = json!({"id": "gateway", "cluster": "gateway"});
            bootstrap["dynamic_resources"] =
                json!({"lds_config": {"path_config_source": {"path": file}}});
        })
        .users(|users| users.behave(Behavior::Hold))
        .start();
    let to = |listener: &str| {
        Request::get(bed.envoy.address_of(listener), "/api/comments").bearer(&user_token(&bed))
    };
    let machines = || bed.envoy.stat("wasm.envoy.wasm.runtime.v8.active");
    let before = machines();
    let first = to("a").begin();
    bed.users.wait_for_requests(1, LONG);
    let second = to("b").begin();
    wait_until("both are held", || {
        ["a", "b"]
            .iter()
            .all(|name| bed.envoy.stat(&format!("http.{name}.downstream_rq_active")) == 1)
    });
    let listeners: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    put_listeners(&file, &listeners["resources"].as_array().unwrap()[1..]);
    wait_until("the first listener's VMs are gone", || machines() <= before / 2);
    drop(first);
    assert_eq!(bed.users.requests(), 1, "its turn has not ended");
    bed.users.behave(Behavior::Serve);
    assert_eq!(second.finish().status, 200);
    assert_eq!(bed.users.requests(), 2);
    assert_context(&bed.upstream.take()[0], USER);
    bed.no_traps();
}

/// A copy of the gateway's listener, with a VM of its own that shares its data with the others.
pub fn named(gateway: &Value, name: &str) -> Value {
    let mut listener = gateway.clone();
    listener["@type"] = json!("type.googleapis.com/envoy.config.listener.v3.Listener");
    listener["name"] = json!(name);
    let hcm = &mut listener["filter_chains"][0]["filters"][0]["typed_config"];
    hcm["stat_prefix"] = json!(name);
    let vm = &mut hcm["http_filters"][0]["typed_config"]["config"]["vm_config"];
    vm["code"]["local"]["filename"] = json!(module::build());
    vm["configuration"] =
        json!({"@type": "type.googleapis.com/google.protobuf.StringValue", "value": name});
    listener
}

/// Puts a file of listeners where Envoy looks for it. Renamed into place, it is never seen in part.
pub fn put_listeners(file: &Path, listeners: &[Value]) {
    let new = file.with_extension("new");
    fs::write(&new, json!({"resources": listeners}).to_string()).unwrap();
    fs::rename(new, file).unwrap();
}

#[test]
fn lookups_that_differ_share_no_records_whatever_else_they_share() {
    let bed = sharing(1)
        .bootstrap(|bootstrap| {
            let listeners = bootstrap["static_resources"]["listeners"].as_array_mut().unwrap();
            let mut other = listeners[0].clone();
            other["name"] = json!("other");
            listeners.push(other);
            let hcm = &mut listeners[1]["filter_chains"][0]["filters"][0]["typed_config"];
            let config = &mut hcm["http_filters"][0]["typed_config"]["config"]["configuration"];
            config["value"]["user"]["lookup"]["path"] =
                json!("/internal/users/by-clerk-id/{key}?of=other");
        })
        .start();
    for listener in ["gateway", "other", "gateway", "other"] {
        let request = Request::get(bed.envoy.address_of(listener), "/api/comments");
        assert_eq!(request.bearer(&user_token(&bed)).send().status, 200);
    }
    let asked: Vec<_> = bed.users.take().into_iter().map(|seen| seen.path).collect();
    assert_eq!(
        asked,
        ["/internal/users/by-clerk-id/user_2abc", "/internal/users/by-clerk-id/user_2abc?of=other"]
    );
    assert_eq!(bed.idp.requests(), 1, "they share the issuer's keys");
    bed.no_traps();
}
