//! Users' records in a real Redis, shared by proxies: asserted at the users service, at Redis, and at the
//! upstream.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use harness::idp::{now, seed_claims};
use harness::redis::{Redis, Reply, Webdis};
use harness::server::{Answer, Behavior, Seen, Server};
use harness::skip;
use harness::testbed::{Builder, Testbed};
use harness::users::{User, Users};
use serde_json::json;

use crate::support::{
    USER, active, assert_all, assert_context, assert_denied, assert_serves, begin_all, only_seen,
    sharing, token_of, user_token, wait_until,
};

/// What all proxies of a test have in common.
struct Mesh {
    redis: Redis,
    webdis: Webdis,
    users: Users,
}

impl Mesh {
    fn start() -> Option<Self> {
        let redis = skip::require("a real Redis", Redis::start())?;
        let webdis = skip::require("a real webdis", Webdis::start(&redis))?;
        Some(Self { redis, webdis, users: Users::start() })
    }

    /// A proxy with so many workers.
    fn proxy(&self, workers: u32) -> Builder {
        let address: SocketAddr = self.users.address();
        sharing(workers)
            .with_cluster("users", address)
            .with_cluster("webdis", self.webdis.address())
            .filter_config(|config| {
                config["user"]["lookup"]["redis"] =
                    json!({"cluster": "webdis", "timeout": "300ms"});
                config["user"]["lookup"]["timeout"] = json!("500ms");
            })
    }

    /// Asks this proxy for a user, and waits until Redis has the record, which is its value here.
    #[track_caller]
    fn stored(&self, bed: &Testbed, user: &str, status: u16) -> String {
        assert_eq!(bed.get("/api/comments").bearer(&token_of(bed, user)).send().status, status);
        let mut value = Reply::Nil;
        wait_until("it is stored", || {
            value = self.redis.command(&["GET", &name(user)]);
            value != Reply::Nil
        });
        match value {
            Reply::Text(value) => value,
            other => panic!("{other:?}"),
        }
    }

    /// The seconds that Redis keeps a user's record.
    fn life(&self, user: &str) -> i64 {
        match self.redis.command(&["TTL", &name(user)]) {
            Reply::Number(seconds) => seconds,
            other => panic!("{other:?}"),
        }
    }

    /// How often Redis was asked for a record by the proxies.
    fn times_asked(&self) -> u64 {
        let Reply::Text(stats) = self.redis.command(&["INFO", "commandstats"]) else {
            panic!("no statistics");
        };
        let calls = stats.split_once("cmdstat_get:calls=").map(|(_, rest)| rest.split(',').next());
        calls.map_or(0, |calls| calls.unwrap().parse().unwrap())
    }
}

fn name(user: &str) -> String {
    format!("user:clerk:{user}")
}

#[test]
fn what_one_proxy_was_told_of_a_user_the_others_know_as_long_as_it_holds() {
    let Some(mesh) = Mesh::start() else { return };
    let short = |bed: Builder| {
        bed.filter_config(|config| {
            config["user"]["lookup"]["cache"] = json!({"ttl": "300s", "negative_ttl": "3s"});
        })
    };
    let one = short(mesh.proxy(1)).start();
    let other = short(mesh.proxy(4)).start();
    mesh.stored(&one, "user_2abc", 200);
    assert!((295..=300).contains(&mesh.life("user_2abc")), "{}", mesh.life("user_2abc"));
    let before = mesh.times_asked();
    assert_all(&other.get("/api/comments").bearer(&user_token(&other)), 200);
    for seen in other.upstream.take() {
        assert_context(&seen, USER);
    }
    assert_eq!(mesh.users.requests(), 1);
    assert_eq!(mesh.times_asked(), before + 1, "once for four workers");

    let unknown =
        |bed: &Testbed| bed.get("/api/comments").bearer(&token_of(bed, "user_new")).send();
    mesh.stored(&one, "user_new", 403);
    let asked = Instant::now();
    assert!((1..=3).contains(&mesh.life("user_new")), "{}", mesh.life("user_new"));
    assert_denied(&unknown(&other), 403, "user_unknown");
    assert_eq!(mesh.users.requests(), 2);
    mesh.users.add(User::new("user_new", "u-7"));
    wait_until("it is known", || unknown(&other).status == 200);
    assert!(asked.elapsed() < Duration::from_millis(3_500), "{:?}", asked.elapsed());
    assert_eq!(unknown(&one).status, 200);
    assert_eq!(mesh.users.requests(), 3);
    one.no_traps();
    other.no_traps();
}

#[test]
fn what_somebody_else_wrote_to_redis_is_not_believed() {
    let Some(mesh) = Mesh::start() else { return };
    let one = mesh.proxy(1).start();
    let genuine: Vec<String> = (0..10)
        .map(|number| {
            let user = format!("user_{number}");
            mesh.users.add(User::new(&user, &format!("u-{number}")));
            mesh.stored(&one, &user, 200)
        })
        .collect();
    let admin = mesh.stored(&one, "user_2adm", 200);
    assert_eq!(mesh.users.requests(), 11);

    let forged =
        json!({"fetched": now() * 1_000, "record": {"id": "u-1002", "role": "ADMIN"}}).to_string();
    let flipped = |value: &String, at: usize| {
        let mut value = value.clone().into_bytes();
        value[at] = if value[at] == b'A' { b'B' } else { b'A' };
        String::from_utf8(value).unwrap()
    };
    // In the place of the record of `user_0`, of `user_1` and so on.
    let written = [
        flipped(&genuine[0], 0),
        flipped(&genuine[1], genuine[1].len() / 2),
        genuine[2][..genuine[2].len() / 2].to_owned(),
        genuine[3].clone() + "AAAA",
        admin,
        forged,
        "null".to_owned(),
        "x".repeat(500_000),
    ];
    for (number, value) in written.iter().enumerate() {
        let name = name(&format!("user_{number}"));
        mesh.redis.command(&["SET", &name, value]);
    }
    mesh.redis.command(&["DEL", &name("user_8"), &name("user_9")]);
    mesh.redis.command(&["LPUSH", &name("user_8"), "x"]);
    mesh.redis.command(&[b"SET", name("user_9").as_bytes(), b"\xff\x00"]);

    let other = mesh.proxy(1).start();
    for number in 0..10 {
        let user = format!("user_{number}");
        let response = other.get("/api/comments").bearer(&token_of(&other, &user)).send();
        assert_eq!(response.status, 200, "{number}: {}", response.text());
        let id = format!("u-{number}");
        assert_context(&only_seen(&other), [Some(&id), Some(&user), Some("USER"), None]);
        assert_eq!(mesh.users.requests(), 12 + number, "it was asked");
    }
    wait_until("what it was told stands there instead", || mesh.life("user_9") > 0);
    // With another key, what we wrote is not believed, either.
    let stranger = mesh.proxy(1).env("SHARING_KEY", "a-key-of-somebody-else").start();
    let sent = stranger.get("/api/comments").bearer(&token_of(&stranger, "user_0")).send();
    assert_eq!((sent.status, mesh.users.requests()), (200, 22));
    for bed in [one, other, stranger] {
        bed.no_traps();
    }
}

#[test]
fn a_record_that_redis_keeps_too_long_or_that_a_revocation_made_void_is_asked_for_again() {
    let Some(mesh) = Mesh::start() else { return };
    let feed = Server::start(|_: &Seen| {
        Answer::json(
            200,
            &json!({"v": 1, "entries": [{"sub": "user_2adm", "iat_before": now() - 50}]}),
        )
    });
    let short = |bed: Builder| {
        bed.filter_config(|config| config["user"]["lookup"]["cache"] = json!({"ttl": "2s"}))
    };
    let one = short(mesh.proxy(1)).start();
    mesh.stored(&one, "user_2abc", 200);
    let asked = Instant::now();
    mesh.stored(&one, "user_2adm", 200);
    mesh.redis.command(&["PERSIST", &name("user_2abc")]);
    mesh.redis.command(&["PERSIST", &name("user_2adm")]);
    mesh.users.set_role("user_2adm", "USER");
    let warned = mesh.proxy(1).with_cluster("auth", feed.address()).filter_config(|config| {
        config["user"]["lookup"]["cache"] = json!({"ttl": "1h"});
        config["revocation"] =
            json!({"feed": {"uri": "http://auth/revocations", "cluster": "auth"}});
    });
    let warned = warned.start();
    // With an hour, user_2abc's record is as good as new, and so would user_2adm's be.
    let send = |bed: &Testbed, user: &str| {
        bed.get("/api/comments").bearer(&bed.idp.token(seed_claims(user))).send().status
    };
    assert_eq!((send(&warned, "user_2abc"), mesh.users.requests()), (200, 2));
    assert_eq!((send(&warned, "user_2adm"), mesh.users.requests()), (200, 3));
    assert_eq!(warned.upstream.take()[1].header("x-user-role"), Some(&b"USER"[..]));

    mesh.users.set_role("user_2abc", "ADMIN");
    let other = short(mesh.proxy(1)).start();
    std::thread::sleep(Duration::from_secs(2).saturating_sub(asked.elapsed()));
    assert_eq!(send(&other, "user_2abc"), 200);
    assert_eq!(only_seen(&other).header("x-user-role"), Some(&b"ADMIN"[..]));
    assert_eq!(mesh.users.requests(), 4);
    for bed in [one, warned, other] {
        bed.no_traps();
    }
}

#[test]
fn without_redis_the_users_service_is_asked_once_and_requests_end_in_time() {
    let Some(mesh) = Mesh::start() else { return };
    let bed = mesh.proxy(4).start();
    assert_serves(&bed);
    let mut users = 0;
    let mut assert_asked_once = |fault: &str| {
        users += 1;
        let user = format!("user_{users}");
        mesh.users.add(User::new(&user, &user));
        let before = mesh.users.requests();
        let start = Instant::now();
        let pending = begin_all(&bed.get("/api/comments").bearer(&token_of(&bed, &user)), 64);
        for pending in pending {
            assert_eq!(pending.finish().status, 200, "{fault}");
        }
        // Redis has 300 ms.
        assert!(start.elapsed() < Duration::from_secs(1), "{fault}: {:?}", start.elapsed());
        assert_eq!(mesh.users.requests(), before + 1, "{fault}");
    };
    mesh.redis.pause();
    assert_asked_once("Redis hangs");
    mesh.redis.resume();
    mesh.redis.stop();
    assert_asked_once("Redis is down");
    mesh.webdis.stop();
    assert_asked_once("webdis is down");
    for _ in 0..10 {
        assert_asked_once("it is left alone");
    }

    // The other way round, what Redis remembers is served.
    mesh.redis.restart();
    mesh.webdis.restart();
    let other = mesh.proxy(1).start();
    wait_until("Redis is used again", || {
        users += 1;
        let user = format!("user_{users}");
        mesh.users.add(User::new(&user, &user));
        let request = bed.get("/api/comments").bearer(&token_of(&bed, &user));
        assert_eq!(request.send().status, 200);
        mesh.redis.command(&["KEYS", "*"]) != Reply::List(Vec::new())
    });
    let Reply::List(names) = mesh.redis.command(&["KEYS", "*"]) else { panic!("no list") };
    let Reply::Text(kept) = &names[0] else { panic!("no name") };
    let kept = kept.strip_prefix("user:clerk:").unwrap();
    mesh.users.behave(Behavior::Hold);
    assert_eq!(other.get("/api/comments").bearer(&token_of(&other, kept)).send().status, 200);
    assert_context(&only_seen(&other), [Some(kept), Some(kept), Some("USER"), None]);
    // With neither, both have their time, and then it is over.
    mesh.redis.pause();
    let start = Instant::now();
    let lost = other.get("/api/comments").bearer(&token_of(&other, "user_2adm"));
    let pending = begin_all(&lost, 8);
    wait_until("all are held", || active(&other) == 8);
    for pending in pending {
        assert_denied(&pending.finish(), 503, "user_lookup_unavailable");
    }
    assert!(start.elapsed() < Duration::from_millis(1_600), "{:?}", start.elapsed());
    mesh.redis.resume();
    mesh.users.release();
    wait_until("it is served", || lost.send().status == 200);
    for bed in [bed, other] {
        bed.no_traps();
    }
}
