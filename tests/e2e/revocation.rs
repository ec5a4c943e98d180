//! What was revoked before its time: by a feed, which counts how often the process polls it, and by a
//! blacklist in a real Redis, which counts how often it is asked.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use harness::client::Request;
use harness::idp::{now, seed_claims};
use harness::redis::{Redis, Reply, Webdis};
use harness::server::{Answer, Behavior, Seen, Server};
use harness::skip;
use harness::testbed::{Builder, Testbed};
use harness::users::User;
use serde_json::{Value, json};

use crate::support::{
    LONG, USER, active, assert_all, assert_context, assert_denied, assert_serves, begin_all,
    claims_with, patient_lookup, sharing, wait_until,
};

const INTERVAL: Duration = Duration::from_millis(200);

/// A feed whose whole list a test sets.
struct Feed {
    server: Server,
    entries: Arc<Mutex<Value>>,
}

impl Feed {
    fn start() -> Self {
        let entries = Arc::new(Mutex::new(json!([])));
        let listed = Arc::clone(&entries);
        let server = Server::start(move |_: &Seen| {
            Answer::json(200, &json!({"v": 1, "entries": *listed.lock().unwrap()}))
        });
        Self { server, entries }
    }

    /// Sets the list, and waits until every worker must know it: the poll after the one that brought it has
    /// begun.
    #[track_caller]
    fn publish(&self, entries: Value) {
        *self.entries.lock().unwrap() = entries;
        self.two_more_polls();
    }

    #[track_caller]
    fn two_more_polls(&self) {
        two_more_polls(&self.server);
    }
}

/// The first of them may have been answered before.
#[track_caller]
fn two_more_polls(feed: &Server) {
    feed.wait_for_requests(feed.requests() + 2, LONG);
}

/// So many workers, with this feed.
fn revoking(workers: u32, feed: &Server) -> Builder {
    sharing(workers).with_cluster("auth", feed.address()).filter_config(|config| {
        config["revocation"] = json!({"feed": {
            "uri": "http://auth.internal/revocations", "cluster": "auth",
            "interval": "200ms", "timeout": "500ms", "max_age": "1s",
        }});
    })
}

fn request(bed: &Testbed, claims: Value) -> Request {
    bed.get("/api/comments").bearer(&bed.idp.token(claims))
}

/// The claims of a good token with these changed.
fn claims(changes: &Value) -> Value {
    let mut claims = seed_claims("user_2abc");
    for (name, value) in changes.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
}

#[test]
fn an_entry_refuses_the_tokens_that_all_of_it_means_and_no_others() {
    let feed = Feed::start();
    let bed = revoking(1, &feed.server).start();
    for user in ["user_a", "user_b", "user_c"] {
        bed.users.add(User::new(user, user));
    }
    let user = |name: &str, iat: u64| json!({"sub": name, "clerkId": name, "iat": iat});
    let now = now();
    // An entry, a token that it means, and one that it does not.
    let cases = [
        (json!({"jti": "j-1"}), json!({"jti": "j-1"}), json!({"jti": "j-2", "sid": "j-1"})),
        (json!({"sid": "s-1"}), json!({"sid": "s-1"}), json!({"sid": "s-2", "jti": "s-1"})),
        (json!({"sub": "user_a"}), user("user_a", now), user("user_2adm", now)),
        (
            json!({"sub": "user_b", "iat_before": now - 50}),
            user("user_b", now - 51),
            user("user_b", now - 50),
        ),
        (
            json!({"sub": "user_c", "sid": "s-3"}),
            json!({"sub": "user_c", "clerkId": "user_c", "sid": "s-3"}),
            user("user_c", now),
        ),
        (
            json!({"match": {"/azp": "https://bad.example"}}),
            json!({"azp": "https://bad.example"}),
            json!({"azp": "https://good.example"}),
        ),
        (
            json!({"match": {"/org/id": 7, "/org/on": true}}),
            json!({"org": {"id": 7, "on": true}}),
            json!({"org": {"id": 7}}),
        ),
        (
            json!({"iss": "youtube-clone-auth", "iat_before": now - 1_000}),
            json!({"iat": now - 1_001}),
            json!({"iat": now - 1_000}),
        ),
        (json!({"iss": "somebody-else", "sub": "user_2abc"}), json!({"jti": "j-1"}), json!({})),
    ];
    let mut pairs: Vec<_> = cases
        .iter()
        .map(|(_, meant, other)| [meant, other].map(|changes| request(&bed, claims(changes))))
        .collect();
    let mut entries: Vec<_> = cases.iter().map(|(entry, _, _)| entry.clone()).collect();
    let of_key = bed.get("/api/comments").bearer(&bed.idp.key("es-1").token(&claims(&json!({}))));
    entries.push(json!({"kid": "es-1", "reason": "it leaked", "exp": now + 3_600}));
    pairs.push([of_key, request(&bed, claims(&json!({})))]);

    for pair in pairs.iter().flatten() {
        assert_eq!(pair.send().status, 200, "nothing is revoked, and all tokens are cached now");
    }
    bed.upstream.take();
    feed.publish(json!(entries));
    for ([meant, other], entry) in pairs.iter().zip(&entries) {
        let refused = meant.send();
        assert_eq!(refused.status, 401, "{entry}");
        assert_denied(&refused, 401, "token_revoked");
        assert_eq!(other.send().status, 200, "{entry}");
    }
    assert_eq!(bed.upstream.take().len(), pairs.len());
    feed.publish(json!([]));
    for pair in pairs.iter().flatten() {
        assert_eq!(pair.send().status, 200, "nothing is revoked any more");
    }
    bed.no_traps();
}

#[test]
fn an_entry_ends_at_its_exp_though_the_feed_goes_on_naming_it() {
    let feed = Feed::start();
    let bed = revoking(1, &feed.server)
        .filter_config(|config| config["providers"]["clerk"]["clock_skew"] = json!("0s"))
        .start();
    let meant = request(&bed, claims_with("jti", json!("j-1")));
    assert_eq!(meant.send().status, 200);
    let exp = now() + 2;
    feed.publish(json!([{"jti": "j-1", "exp": exp}]));
    assert_denied(&meant.send(), 401, "token_revoked");
    wait_until("the entry ends", || meant.send().status == 200);
    assert!((exp..=exp + 1).contains(&now()), "at its exp");
}

#[test]
fn four_workers_poll_once_an_interval_and_all_know_a_new_entry_by_the_next_poll() {
    let feed = Feed::start();
    let bed = revoking(4, &feed.server).start();
    let victim = request(&bed, claims_with("jti", json!("j-1")));
    let other = request(&bed, claims_with("jti", json!("j-2")));
    assert_all(&victim, 200);
    assert_all(&other, 200);

    let (before, start) = (feed.server.requests(), Instant::now());
    feed.server.wait_for_requests(before + 8, LONG);
    // A worker's clock ticks every 100 ms.
    let intervals = start.elapsed().div_duration_f64(INTERVAL);
    assert!(intervals >= 6.5, "8 polls within {intervals} intervals");

    bed.upstream.take();
    let published = Instant::now();
    feed.publish(json!([{"jti": "j-1"}]));
    assert!(published.elapsed() < Duration::from_secs(1), "{:?}", published.elapsed());
    assert_all(&victim, 401);
    assert_eq!(bed.upstream.requests(), 128);
    assert_all(&other, 200);
    bed.no_traps();
}

#[test]
fn an_entry_with_a_sub_has_the_users_record_asked_for_anew() {
    let feed = Feed::start();
    let bed = revoking(4, &feed.server).start();
    let old = request(&bed, claims_with("iat", json!(now() - 100)));
    let new = request(&bed, claims_with("iat", json!(now())));
    assert_all(&old, 200);
    assert_eq!(bed.users.requests(), 1);
    bed.users.set_role("user_2abc", "ADMIN");
    feed.publish(json!([{"sub": "user_2abc", "iat_before": now() - 50}]));
    bed.upstream.take();
    assert_all(&new, 200);
    for seen in bed.upstream.take() {
        assert_eq!(seen.header("x-user-role"), Some(&b"ADMIN"[..]));
    }
    assert_all(&old, 401);
    assert_eq!(bed.users.requests(), 2, "once for all workers, and then remembered again");
    bed.no_traps();
}

#[test]
fn an_answer_that_was_under_way_when_the_entry_came_is_asked_for_again() {
    let feed = Feed::start();
    let answers = AtomicUsize::new(0);
    let users = Server::start(move |_: &Seen| {
        let first = answers.fetch_add(1, Ordering::Relaxed) == 0;
        let role = if first { "BEFORE" } else { "AFTER" };
        Answer::json(200, &json!({"id": "u-1001", "clerkId": "user_2abc", "role": role}))
    });
    users.behave(Behavior::Hold);
    let bed = revoking(4, &feed.server)
        .with_cluster("users", users.address())
        .filter_config(patient_lookup)
        .start();
    let pending = begin_all(&request(&bed, seed_claims("user_2abc")), 32);
    let refused = begin_all(&request(&bed, claims_with("jti", json!("j-1"))), 32);
    wait_until("all are held", || active(&bed) == 64);
    feed.publish(json!([{"sub": "user_2abc", "iat_before": now() - 50}, {"jti": "j-1"}]));
    assert_eq!(users.requests(), 1);
    users.release();
    for pending in refused {
        assert_denied(&pending.finish(), 401, "token_revoked");
    }
    for pending in pending {
        assert_eq!(pending.finish().status, 200);
    }
    for seen in bed.upstream.take() {
        assert_eq!(seen.header("x-user-role"), Some(&b"AFTER"[..]));
    }
    assert_eq!(users.requests(), 2);
    bed.no_traps();
}

#[test]
fn a_list_that_has_not_changed_is_confirmed_by_a_304() {
    let version = Arc::new(Mutex::new(("v1", json!([{"jti": "j-1"}]))));
    let served = Arc::clone(&version);
    let feed = Server::start(move |seen: &Seen| {
        let (etag, entries) = &*served.lock().unwrap();
        let etag = format!("\"{etag}\"");
        if seen.header("if-none-match") == Some(etag.as_bytes()) {
            return Answer::new(304, "application/json", "").header("etag", &etag);
        }
        Answer::json(200, &json!({"v": 1, "entries": entries})).header("etag", &etag)
    });
    let bed = revoking(2, &feed).start();
    let victims = ["j-1", "j-2"].map(|jti| request(&bed, claims_with("jti", json!(jti))));
    assert_all(&victims[0], 401);
    let start = Instant::now();
    wait_until("it is older than its max_age", || {
        assert_eq!(victims[0].send().status, 401);
        assert_eq!(victims[1].send().status, 200);
        start.elapsed() > Duration::from_millis(1_300)
    });
    let polls = feed.take();
    assert_eq!(polls[0].header("if-none-match"), None);
    assert!(polls[1..].iter().all(|poll| poll.header("if-none-match") == Some(b"\"v1\"")));
    *version.lock().unwrap() = ("v2", json!([{"jti": "j-2"}]));
    two_more_polls(&feed);
    assert_all(&victims[0], 200);
    assert_all(&victims[1], 401);
    bed.no_traps();
}

#[test]
fn a_feed_with_a_bookmark_is_asked_for_what_is_new_and_for_all_once_it_has_lost_the_place() {
    let gone = Arc::new(Mutex::new(false));
    let forgotten = Arc::clone(&gone);
    let feed = Server::start(move |seen: &Seen| {
        let list = |jti: &[&str], next: &str| {
            let entries: Vec<_> = jti.iter().map(|jti| json!({"jti": jti})).collect();
            Answer::json(200, &json!({"v": 1, "entries": entries, "next": next}))
        };
        match (*forgotten.lock().unwrap(), seen.path.as_str()) {
            (false, "/revocations?of=all") => list(&["j-1"], "a&b 1"),
            (
                false,
                "/revocations?of=all&since=a%26b+1" | "/revocations?of=all&since=a%26b%201",
            ) => list(&["j-2"], "2"),
            (false, "/revocations?of=all&since=2") => list(&[], "2"),
            (true, "/revocations?of=all") => list(&["j-3"], "9"),
            (true, "/revocations?of=all&since=9") => list(&[], "9"),
            (true, "/revocations?of=all&since=2") => Answer::problem(410, "Gone"),
            (_, other) => Answer::problem(400, other),
        }
    });
    let bed = revoking(2, &feed)
        .filter_config(|config| {
            config["revocation"]["feed"]["uri"] = json!("http://auth.internal/revocations?of=all");
        })
        .start();
    let tokens = ["j-1", "j-2", "j-3"].map(|jti| request(&bed, claims_with("jti", json!(jti))));
    let assert_answers = |statuses: [u16; 3]| {
        for (token, status) in tokens.iter().zip(statuses) {
            assert_all(token, status);
        }
    };
    let poll = |end: &str| {
        wait_until(end, || feed.take().iter().any(|seen| seen.path.ends_with(end)));
        two_more_polls(&feed);
    };
    poll("since=2");
    assert_answers([401, 401, 200]);
    *gone.lock().unwrap() = true;
    poll("since=9");
    assert_answers([200, 200, 401]);
    bed.no_traps();
}

#[test]
fn requests_wait_for_the_first_list_and_no_longer_than_it_may_take() {
    let feed = Feed::start();
    feed.server.behave(Behavior::Hold);
    *feed.entries.lock().unwrap() = json!([{"jti": "j-1"}]);
    let bed = revoking(4, &feed.server)
        .filter_config(|config| {
            config["revocation"]["feed"]["timeout"] = json!("5s");
            config["revocation"]["feed"]["max_age"] = json!("10s");
        })
        .start();
    let good = begin_all(&request(&bed, seed_claims("user_2abc")), 32);
    let victims = begin_all(&request(&bed, claims_with("jti", json!("j-1"))), 32);
    wait_until("all are held", || active(&bed) == 64);
    assert_eq!((bed.upstream.requests(), bed.users.requests()), (0, 0));
    assert_eq!(feed.server.requests(), 1);
    feed.server.release();
    for pending in good {
        assert_eq!(pending.finish().status, 200);
    }
    for pending in victims {
        assert_denied(&pending.finish(), 401, "token_revoked");
    }
    bed.no_traps();

    feed.server.behave(Behavior::Hold);
    let bed = revoking(1, &feed.server).start();
    let start = Instant::now();
    let refused = request(&bed, seed_claims("user_2abc")).send();
    assert_denied(&refused, 503, "revocation_unavailable");
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    feed.server.release();
    wait_until("it is served", || request(&bed, seed_claims("user_2abc")).send().status == 200);
    assert_serves(&bed);
}

#[test]
fn a_feed_at_fault_is_believed_for_its_max_age_and_no_fault_is_taken_for_a_list() {
    let document = |document: Value| Behavior::Answer(Answer::json(200, &document));
    let entries = |entries: Value| document(json!({"v": 1, "entries": entries}));
    let faults = [
        Behavior::Status(500),
        Behavior::Status(404),
        Behavior::Status(304),
        Behavior::Status(410),
        Behavior::Reset,
        Behavior::Answer(Answer::new(200, "application/json", b"\xff{".to_vec())),
        document(json!([])),
        document(json!({"entries": []})),
        document(json!({"v": 2, "entries": []})),
        document(json!({"v": 1, "entries": [], "more": true})),
        document(json!({"v": 1, "entries": [], "next": "\n"})),
        entries(json!([{"jti": "j-2", "device": "d-1"}])),
        entries(json!([{"exp": now() + 60, "reason": "of none"}])),
        entries(json!([{"jti": 1}])),
        entries(json!([{"match": {"azp": "x"}}])),
        entries(json!([{"jti": "a"}, {"jti": "b"}, {"jti": "c"}])),
        Behavior::Huge(2_000_000),
    ];
    let feed = Feed::start();
    *feed.entries.lock().unwrap() = json!([{"jti": "j-1"}]);
    let bed = revoking(2, &feed.server)
        .filter_config(|config| {
            config["revocation"]["feed"]["interval"] = json!("100ms");
            config["limits"] = json!({"max_revocations": 2});
        })
        .start();
    let good = request(&bed, claims_with("jti", json!("j-2")));
    let victim = request(&bed, claims_with("jti", json!("j-1")));
    assert_all(&good, 200);
    assert_all(&victim, 401);
    let assert_unavailable = || {
        let response = good.send();
        assert_denied(&response, 503, "revocation_unavailable");
        assert!(response.header("retry-after").is_some());
    };

    let mut too_old = false;
    for fault in faults {
        feed.server.behave(fault);
        feed.server.wait_for_requests(feed.server.requests() + 1, LONG);
        too_old |= good.send().status != 200;
        if too_old {
            assert_unavailable();
        }
        assert_denied(&victim.send(), 401, "token_revoked");
    }
    wait_until("the list is too old", || good.send().status == 503);
    feed.server.shut();
    assert_unavailable();
    feed.server.behave(Behavior::Serve);
    feed.server.reopen();
    two_more_polls(&feed.server);
    assert_all(&good, 200);
    assert_all(&victim, 401);
    bed.no_traps();
}

#[test]
fn without_a_feed_tokens_pass_where_the_config_allows_it_but_for_those_on_the_last_list() {
    let feed = Feed::start();
    feed.server.behave(Behavior::Status(500));
    let bed = revoking(1, &feed.server)
        .filter_config(|config| config["revocation"]["on_unavailable"] = json!("allow"))
        .start();
    let good = request(&bed, claims_with("jti", json!("j-2")));
    let victim = request(&bed, claims_with("jti", json!("j-1")));
    for request in [&good, &victim] {
        assert_eq!(request.send().status, 200, "nothing was ever heard");
    }
    feed.server.behave(Behavior::Serve);
    feed.publish(json!([{"jti": "j-1"}]));
    let heard = Instant::now();
    feed.server.shut();
    wait_until("the list is too old", || {
        assert_eq!(good.send().status, 200);
        assert_denied(&victim.send(), 401, "token_revoked");
        heard.elapsed() > Duration::from_millis(1_300)
    });
    *feed.entries.lock().unwrap() = json!([]);
    feed.server.reopen();
    wait_until("the feed is heard again", || victim.send().status == 200);
    bed.no_traps();
}

/// A real Redis, a real webdis, and a gateway whose blacklist is there.
fn blacklisting(change: impl Fn(&mut Value)) -> Option<(Redis, Webdis, Testbed)> {
    let redis = skip::require("a real Redis", Redis::start())?;
    let webdis = skip::require("a real webdis", Webdis::start(&redis))?;
    let bed = Testbed::gateway()
        .with_cluster("webdis", webdis.address())
        .filter_config(|config| {
            config["revocation"] =
                json!({"redis": {"cluster": "webdis", "timeout": "300ms", "cache_ttl": "0s"}});
            change(config);
        })
        .start();
    Some((redis, webdis, bed))
}

/// How often Redis was asked for names.
fn times_asked(redis: &Redis) -> u64 {
    let Reply::Text(stats) = redis.command(&["INFO", "commandstats"]) else {
        panic!("no statistics");
    };
    let calls = stats.split_once("cmdstat_mget:calls=").map(|(_, rest)| rest.split(',').next());
    calls.map_or(0, |calls| calls.unwrap().parse().unwrap())
}

#[test]
fn a_token_is_refused_as_long_as_one_of_its_names_is_on_the_blacklist() {
    let Some((redis, _webdis, bed)) = blacklisting(|_| ()) else { return };
    for jti in [
        "j-1",
        "..",
        "a.json",
        "https://id.example/t?a=1&b=2#c/../d.txt",
        "a b+c%2Fd",
        "\"\\{\u{eb}\u{1f600}*",
    ] {
        let victim = request(&bed, claims_with("jti", json!(jti)));
        let other = request(&bed, claims_with("jti", json!(format!("{jti}x"))));
        assert_eq!(victim.send().status, 200, "{jti}");
        let name = format!("revoked:{jti}");
        // Any value will do.
        redis.command(&["SET", &name, ""]);
        assert_denied(&victim.send(), 401, "token_revoked");
        assert_eq!(other.send().status, 200, "{jti}");
        redis.command(&["DEL", &name]);
        assert_eq!(victim.send().status, 200, "{jti}");
    }
    // A token without a `jti` is known by its `sub` alone.
    let [with, without] = [claims_with("jti", json!("j-1")), seed_claims("user_2abc")];
    redis.command(&["SET", "revoked:user:user_2abc", "1"]);
    assert_denied(&request(&bed, with).send(), 401, "token_revoked");
    assert_denied(&request(&bed, without).send(), 401, "token_revoked");
    assert_eq!(request(&bed, seed_claims("user_2adm")).send().status, 200);
    let mut nameless = seed_claims("user_2abc");
    nameless.as_object_mut().unwrap().remove("sub");
    assert_denied(&request(&bed, nameless).send(), 401, "token_malformed");
    bed.no_traps();
}

#[test]
fn the_blacklist_is_asked_once_within_its_cache_ttl() {
    let change = |config: &mut Value| {
        config["revocation"]["redis"]["cache_ttl"] = json!("500ms");
        config["revocation"]["redis"]["timeout"] = json!("10s");
    };
    let Some((redis, _webdis, bed)) = blacklisting(change) else { return };
    let victim = request(&bed, claims_with("jti", json!("j-1")));
    redis.pause();
    let pending = begin_all(&victim, 64);
    wait_until("all are held", || active(&bed) == 64);
    redis.resume();
    for pending in pending {
        assert_eq!(pending.finish().status, 200);
    }
    let asked = Instant::now();
    assert_eq!(victim.send().status, 200);
    assert_eq!(times_asked(&redis), 1);
    redis.command(&["SET", "revoked:j-1", "1"]);
    wait_until("the blacklist is asked again", || victim.send().status == 401);
    assert!(asked.elapsed() < Duration::from_millis(800), "{:?}", asked.elapsed());
    for _ in 0..10 {
        assert_denied(&victim.send(), 401, "token_revoked");
    }
    assert_eq!(times_asked(&redis), 2);
    assert_eq!(bed.users.requests(), 1);
    bed.no_traps();
}

#[test]
fn without_the_blacklist_the_config_decides_and_it_comes_back_by_itself() {
    for on_unavailable in ["deny", "allow"] {
        let change = |config: &mut Value| {
            config["revocation"]["on_unavailable"] = json!(on_unavailable);
        };
        let Some((redis, webdis, bed)) = blacklisting(change) else { return };
        let token = request(&bed, claims_with("jti", json!("j-1")));
        let assert_decided = |fault: &str| {
            let start = Instant::now();
            for pending in begin_all(&token, 8) {
                let response = pending.finish();
                if on_unavailable == "allow" {
                    assert_eq!(response.status, 200, "{fault}");
                } else {
                    assert_denied(&response, 503, "revocation_unavailable");
                    assert!(response.header("retry-after").is_some());
                }
            }
            assert!(
                start.elapsed() < Duration::from_millis(1_500),
                "{fault}: {:?}",
                start.elapsed()
            );
        };
        let assert_back = |fault: &str| {
            redis.command(&["SET", "revoked:j-1", "1"]);
            wait_until(fault, || token.send().status == 401);
            redis.command(&["DEL", "revoked:j-1"]);
            assert_eq!(token.send().status, 200);
        };
        assert_eq!(token.send().status, 200);
        redis.pause();
        assert_decided("Redis hangs");
        redis.resume();
        assert_back("Redis goes on");
        redis.stop();
        assert_decided("Redis is down");
        redis.restart();
        assert_back("Redis is back");
        webdis.stop();
        assert_decided("webdis is down");
        webdis.restart();
        assert_back("webdis is back");
        bed.upstream.take();
        assert_serves(&bed);
        assert_eq!(token.send().status, 200);
        assert_context(&bed.upstream.take()[0], USER);
        bed.no_traps();
    }
}
