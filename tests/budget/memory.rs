//! How large a worker's memory becomes when strangers and users have filled all that it may hold, with the default
//! limits. Its peaks count, since wasm's memory never shrinks.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::budgets;
use crate::heads::bearing;
use crate::host::{Callout, PLAIN, Vm};
use crate::scenes::{START, gateway_config};
use crate::tokens::{Es256, claims, record};

/// The defaults of `limits` and `user.lookup.cache`.
const TOKENS: usize = 2_048;
const USERS: usize = 10_000;
const WAITERS: usize = 1_024;
const CALLOUTS: usize = 256;
const REVOCATIONS: usize = 10_000;

/// RFC 8037 appendix A.1.
const TXN_KEY: &str = r#"{"kty":"OKP","crv":"Ed25519","d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;

#[test]
fn a_worker_whose_tables_are_full_stays_within_its_budget() {
    let mut full = Filling::new(&gateway_config());
    full.with_users();
    full.with_waiters();
    full.assert_at_most(budgets::MEMORY_BYTES);
}

#[test]
fn so_does_one_with_as_many_revocations_as_are_believed() {
    Filling::new(&revoking_config()).assert_at_most(budgets::MEMORY_BYTES_FEED);
}

/// Signing takes an interpreter long: `cargo test --test budget -- --ignored --nocapture`.
#[test]
#[ignore = "takes minutes"]
fn so_does_one_that_has_every_table_there_is() {
    let mut config = revoking_config();
    config["txn_token"] = json!({"issue": {
        "issuer": "https://gateway.example.com", "audience": "prod.example.com", "ttl": "60s",
        "key": "${env:TXN_KEY}", "kid": "g1",
    }});
    let mut full = Filling::new(&config);
    full.with_users();
    full.with_waiters();
    full.assert_at_most(budgets::MEMORY_BYTES_ALL);
}

/// With a feed and a blacklist.
fn revoking_config() -> Value {
    let mut config = gateway_config();
    config["revocation"] = json!({
        "feed": {"uri": "http://auth.internal/revocations", "cluster": "auth"},
        "redis": {"cluster": "webdis", "keys": ["revoked:{jti}"]},
    });
    config
}

/// A worker that is being filled.
struct Filling {
    vm: Vm,
    key: Es256,
    began: Instant,
}

impl Filling {
    fn new(config: &Value) -> Self {
        let key = Es256::new();
        let jwks = json!({"keys": [key.jwk()]});
        let answers = move |callout: &Callout| {
            let last = callout.path.rsplit('/').next().unwrap();
            let body = match callout.cluster.as_str() {
                "clerk" => jwks.clone(),
                "users" if last.starts_with("held") => return None,
                "users" => record(last),
                "webdis" => json!({"MGET": [null]}),
                "auth" => feed(),
                other => panic!("nobody asks {other}"),
            };
            Some((200, body.to_string().into_bytes()))
        };
        let now = Duration::from_secs(START);
        #[expect(clippy::disallowed_methods, reason = "how long it takes is worth to be told")]
        let began = Instant::now();
        let mut vm = Vm::load(&PLAIN, &[("TXN_KEY", TXN_KEY)], now, Box::new(answers));
        vm.configure(config);
        let mut filling = Self { vm, key, began };
        filling.tell("configured");
        filling.vm.tick_after(Duration::from_millis(1));
        filling.tell("keys and feed");
        filling
    }

    /// Each half of a table is for what was asked for again.
    fn with_users(&mut self) {
        for user in 0..USERS {
            let token = self.token(&format!("user_{user:022}"));
            for _ in 0..if user < USERS / 2 { 2 } else { 1 } {
                let stream = self.vm.request(bearing(&token), &[]);
                assert!(stream.goes_on, "{user}: {stream:?}");
            }
        }
        // The first and the last of them are held, and so are all between.
        for user in [0, USERS - 1] {
            let token = self.token(&format!("user_{user:022}"));
            assert!(self.vm.request(bearing(&token), &[]).goes_on);
        }
        self.vm.tick_after(Duration::from_millis(100));
        let lookups = self.vm.world().metric("meshgate.user.cache_miss");
        assert_eq!(lookups, Some(USERS.try_into().unwrap()), "a user was looked up twice");
        self.tell(&format!("{TOKENS} tokens and {USERS} users"));
    }

    fn with_waiters(&mut self) {
        for user in 0..CALLOUTS {
            let token = self.token(&format!("held_{user:022}"));
            for _ in 0..WAITERS / CALLOUTS {
                self.vm.begin(bearing(&token), &[]);
                self.vm.settle();
            }
        }
        assert_eq!(self.vm.held(), CALLOUTS);
        self.vm.tick_after(Duration::from_millis(100));
        assert_eq!(self.vm.world().metric("meshgate.waiters"), Some(WAITERS.try_into().unwrap()));
        self.tell(&format!("{WAITERS} requests held by {CALLOUTS} callouts"));
    }

    /// Of about 1 KiB, as an issuer's with RSA.
    fn token(&self, user: &str) -> String {
        let mut claims = claims(user, START - 60);
        claims["pla"] = json!("u:".to_owned() + &"x".repeat(240));
        self.key.token(&claims)
    }

    fn tell(&self, what: &str) {
        let (bytes, took) = (self.vm.memory_bytes(), self.began.elapsed().as_secs());
        println!("memory: {:.2} MiB, {what}, after {took} s", mebibytes(bytes));
    }

    #[track_caller]
    fn assert_at_most(&self, budget: usize) {
        let bytes = self.vm.memory_bytes();
        assert!(
            bytes <= budget,
            "a full worker has {:.2} MiB of memory, and may have {:.2}: each of Envoy's workers takes as much. Hold \
             less for each token and user, or lower a default limit; if it is worth it, raise the budget in \
             tests/budget/budgets.rs",
            mebibytes(bytes),
            mebibytes(budget)
        );
    }
}

/// As many entries as are believed.
fn feed() -> Value {
    let entry = |number: usize| json!({"jti": format!("{number:032x}"), "exp": START + 3_600});
    json!({"v": 1, "entries": (0..REVOCATIONS).map(entry).collect::<Vec<_>>()})
}

#[expect(clippy::as_conversions, clippy::cast_precision_loss, reason = "for a reader's eye")]
fn mebibytes(bytes: usize) -> f64 {
    bytes as f64 / 1024.0 / 1024.0
}
