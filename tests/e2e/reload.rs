//! A module that has trapped, which ours is not known to do: nobody gets through meanwhile, and it comes back by
//! itself where the config has it reloaded. The trap is put into the built module: see [`trapping`].

use std::fs;
use std::time::{Duration, Instant};

use harness::client::Request;
use harness::module;
use harness::process::scratch;
use harness::server::{Answer, Behavior};
use harness::testbed::{Builder, Testbed};
use serde_json::json;
use tempfile::TempDir;

use crate::support::{
    LONG, USER, active, assert_all, assert_context, begin_all, plugin, sharing, token_of,
    user_token, wait_until,
};
use crate::trapping::{HEADERS, trapping};

/// How long a module that has trapped is left alone at least.
const BACKOFF: Duration = Duration::from_millis(500);

/// Has Envoy run the module with the trap, from a file in this directory.
pub fn with_trap(builder: Builder, policy: &str, dir: &TempDir) -> Builder {
    let file = dir.path().join("trapping.wasm");
    fs::write(&file, trapping(&fs::read(module::build()).unwrap())).unwrap();
    builder.bootstrap(|bootstrap| {
        let plugin = plugin(bootstrap);
        plugin["failure_policy"] = json!(policy);
        if policy == "FAIL_RELOAD" {
            plugin["reload_config"] = json!({"backoff": {"base_interval": "0.5s"}});
        }
        plugin["vm_config"]["code"]["local"]["filename"] = json!(file);
    })
}

/// So many workers, of the module with the trap.
fn workers(count: u32, policy: &str) -> (Builder, TempDir) {
    let dir = scratch();
    (with_trap(sharing(count), policy, &dir), dir)
}

/// With so many headers that the module traps.
fn deadly(request: Request) -> Request {
    (0..HEADERS).fold(request, |request, number| request.header(&format!("x-{number}"), "x"))
}

fn reloads(bed: &Testbed) -> u64 {
    bed.envoy.stat("wasm.meshgate.vm_reload_success")
}

/// How many connections each of the two workers has taken so far.
fn taken(bed: &Testbed) -> [u64; 2] {
    let stats = bed.envoy.admin_get("/stats");
    let taken = |worker: usize| {
        let name = format!(".worker_{worker}.downstream_cx_total");
        let mut lines = stats.lines().filter_map(|line| line.split_once(": "));
        let (_, count) = lines.find(|(stat, _)| stat.ends_with(&name)).unwrap();
        count.parse().unwrap()
    };
    [taken(0), taken(1)]
}

fn comments(bed: &Testbed) -> Request {
    bed.get("/api/comments").bearer(&user_token(bed))
}

/// Sends 32 requests, to all workers, and counts those that are served. The others must be 503.
#[track_caller]
fn served(bed: &Testbed) -> u64 {
    bed.upstream.take();
    let pending = begin_all(&comments(bed), 32);
    let statuses: Vec<u16> = pending.into_iter().map(|pending| pending.finish().status).collect();
    let served = statuses.iter().filter(|status| **status == 200).count();
    assert!(statuses.iter().all(|status| [200, 503].contains(status)), "{statuses:?}");
    let seen = bed.upstream.take();
    assert_eq!(seen.len(), served);
    for seen in &seen {
        assert_context(seen, USER);
    }
    served.try_into().unwrap()
}

/// The same, and how many each worker had: about as many, as Envoy gives them out.
#[track_caller]
fn served_of(bed: &Testbed) -> (u64, [u64; 2]) {
    let before = taken(bed);
    let served = served(bed);
    let after = taken(bed);
    let had = [after[0] - before[0], after[1] - before[1]];
    assert_eq!(had[0] + had[1], 32);
    (served, had)
}

#[test]
fn a_module_that_traps_lets_nobody_through_and_is_reloaded() {
    let (builder, _dir) = workers(2, "FAIL_RELOAD");
    let bed = builder.start();
    wait_until("both are warm", || served(&bed) == 32);
    let known = bed.envoy.stat("wasmcustom.meshgate.tokens.cache_miss");
    for round in 1..=3 {
        let trapped = Instant::now();
        let response = deadly(comments(&bed)).send();
        assert_eq!(response.status, 503, "{response:?}");
        assert_eq!(bed.upstream.take().len(), 0, "it was let through");
        // At the other worker, nothing has happened; at this one, the module may be back already.
        let (at_once, had) = served_of(&bed);
        assert!(at_once >= had[0].min(had[1]), "{at_once} are served, the workers had {had:?}");
        wait_until("it is reloaded", || served(&bed) == 32);
        println!("round {round}: {at_once} of 32 at once, all after {:.1?}", trapped.elapsed());
        assert_eq!(reloads(&bed), round);
        // Its own caches are gone.
        wait_until("it has had to look at the token again", || {
            bed.envoy.stat("wasmcustom.meshgate.tokens.cache_miss") > known + round - 1
        });
    }
    // What the workers share has outlived it: nobody was asked again. And they share still.
    assert_eq!((bed.idp.requests(), bed.users.requests()), (1, 1));
    assert_all(&bed.get("/api/comments").bearer(&token_of(&bed, "user_2adm")), 200);
    assert_eq!((bed.idp.requests(), bed.users.requests()), (1, 2));
}

#[test]
fn a_module_that_is_not_reloaded_refuses_everybody_at_its_worker() {
    let (builder, _dir) = workers(2, "FAIL_CLOSED");
    let bed = builder.start();
    assert_eq!(served(&bed), 32);
    assert_eq!(deadly(comments(&bed)).send().status, 503);
    assert_eq!(bed.upstream.take().len(), 0, "it was let through");
    let trapped = Instant::now();
    while trapped.elapsed() < 3 * BACKOFF {
        let (served, had) = served_of(&bed);
        assert!(had.contains(&served), "{served} are served, the workers had {had:?}");
    }
    // Several at once, for one alone may always be given to the same worker.
    assert_all(&deadly(comments(&bed)), 503);
    wait_until("the other worker is hit, too", || served(&bed) == 0);
}

/// Nobody but Envoy can end them: they wait for a VM that is no more.
#[test]
fn who_waits_when_the_module_traps_is_ended_by_envoys_idle_timeout_and_not_let_through() {
    const IDLE: Duration = Duration::from_secs(3);
    type Trap = fn(&Testbed);
    let traps: [(&str, Trap); 2] = [
        ("by another request", |bed| {
            assert_eq!(deadly(comments(bed)).send().status, 503);
            bed.users.release();
        }),
        ("by the answer", |bed| {
            let deadly = (0..HEADERS).fold(Answer::json(200, &json!({})), |answer, number| {
                answer.header(&format!("x-{number}"), "x")
            });
            bed.users.behave(Behavior::Answer(deadly));
            bed.envoy.wait_for_log("Function: proxy_on_http_call_response failed", LONG);
            bed.users.behave(Behavior::Serve);
        }),
    ];
    for (what, trap) in traps {
        let (builder, _dir) = workers(1, "FAIL_RELOAD");
        let bed = builder
            // The next to ask waits so long for the VM that is no more: it may be alive, for all they know.
            .filter_config(|config| config["user"]["lookup"]["timeout"] = json!("1s"))
            .bootstrap(|bootstrap| {
                let listener = &mut bootstrap["static_resources"]["listeners"][0];
                let hcm = &mut listener["filter_chains"][0]["filters"][0]["typed_config"];
                hcm["stream_idle_timeout"] = json!(format!("{}s", IDLE.as_secs()));
            })
            .users(|users| users.behave(Behavior::Hold))
            .start();
        let start = Instant::now();
        let waiting = begin_all(&comments(&bed), 8);
        wait_until("they wait", || active(&bed) == 8);
        trap(&bed);

        wait_until("it is reloaded", || served(&bed) == 32);
        for pending in waiting {
            let response = pending.finish();
            assert_eq!(response.status, 503, "{what}: {response:?}");
        }
        assert!(start.elapsed() >= IDLE, "{what}: {:?}", start.elapsed());
        println!("{what}: ended after {:.1?}", start.elapsed());
        assert_eq!(bed.upstream.take().len(), 0, "{what}: they were let through");
        assert_eq!(served(&bed), 32, "{what}");
    }
}

/// Has the module trap, and asserts that nobody gets through. Returns whether it is loaded anew and serves.
#[track_caller]
pub fn comes_back(bed: &Testbed) -> bool {
    bed.upstream.take();
    assert_eq!(deadly(comments(bed)).send().status, 503);
    assert_eq!(bed.upstream.take().len(), 0, "it was let through");
    wait_until("it is reloaded", || served(bed) == 32);
    reloads(bed) == 1
}
