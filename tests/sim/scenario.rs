//! What a seed makes of the world: the config, and how many workers there are.
//!
//! Limits and times are small, so that a minute of virtual time reaches all of them.

use std::time::Duration;

use fastrand::Rng;
use meshgate::callout::GRACE;
use serde_json::{Value, json};

/// Milliseconds, of the world's own time since its beginning or of a span.
pub type Millis = u64;

/// 2026-01-01T00:00:00Z: what the clock shows in the beginning.
pub const START: Millis = 1_767_225_600_000;
/// How often the shell ticks.
pub const TICK: Millis = 100;
pub const USERS: usize = 6;
pub const ISSUER: &str = "https://issuer.example";
pub const AUDIENCE: &str = "sim";
pub const METADATA: &str = "/.well-known/openid-configuration";
pub const SHARING_KEY: &str = "sixteen random bytes";

/// One world.
#[derive(Debug, Clone)]
pub struct Scenario {
    pub seed: u64,
    pub workers: usize,
    pub sharing: bool,
    pub skew: Millis,
    pub keys: Keys,
    /// Where there is none, the claims are the record.
    pub lookup: Option<Lookup>,
    pub feed: Option<Feed>,
    /// What is asked of Redis: who is revoked, and which records other proxies keep.
    pub blacklist: Option<Blacklist>,
    pub records: Option<Records>,
    pub max_waiters: usize,
    pub max_calls: usize,
    pub max_tokens: usize,
}

#[derive(Debug, Clone)]
pub struct Keys {
    pub discovery: bool,
    pub timeout: Millis,
    pub cache: Millis,
    pub stale: Millis,
    pub cooldown: Millis,
}

#[derive(Debug, Clone)]
pub struct Lookup {
    pub timeout: Millis,
    pub ttl: Millis,
    pub negative_ttl: Millis,
    pub revalidate: Millis,
    pub if_error: Millis,
    pub max_entries: usize,
    pub active: bool,
}

#[derive(Debug, Clone)]
pub struct Feed {
    pub timeout: Millis,
    pub interval: Millis,
    pub max_age: Millis,
    pub allow: bool,
    pub tagged: bool,
}

#[derive(Debug, Clone)]
pub struct Blacklist {
    pub timeout: Millis,
    pub cache: Millis,
    /// Where there is a feed, that says so.
    pub allow: bool,
}

#[derive(Debug, Clone)]
pub struct Records {
    pub timeout: Millis,
}

fn one_of<T: Copy>(rng: &mut Rng, of: &[T]) -> T {
    of[rng.usize(..of.len())]
}

impl Scenario {
    /// The world of `seed`.
    pub fn draw(seed: u64, rng: &mut Rng) -> Self {
        let keys = Keys {
            discovery: rng.u8(..4) == 0,
            timeout: one_of(rng, &[100, 300, 1_000]),
            cache: one_of(rng, &[1_000, 3_000, 10_000, 60_000]),
            stale: one_of(rng, &[0, 1_000, 5_000, 60_000]),
            cooldown: one_of(rng, &[100, 1_000, 3_000]),
        };
        let lookup = (rng.u8(..5) != 0).then(|| Lookup {
            timeout: one_of(rng, &[100, 300, 800]),
            ttl: one_of(rng, &[0, 1_000, 3_000, 20_000]),
            negative_ttl: one_of(rng, &[0, 1_000, 4_000]),
            revalidate: one_of(rng, &[0, 0, 2_000, 10_000]),
            if_error: one_of(rng, &[0, 0, 5_000, 20_000]),
            max_entries: one_of(rng, &[2, 8, 64, 512]),
            active: rng.bool(),
        });
        let feed = (rng.u8(..3) != 0).then(|| Feed {
            timeout: one_of(rng, &[100, 300]),
            interval: one_of(rng, &[500, 1_000, 2_000]),
            max_age: one_of(rng, &[4_000, 8_000]),
            allow: rng.u8(..3) == 0,
            tagged: rng.bool(),
        });
        Self {
            seed,
            workers: rng.usize(1..=4),
            sharing: rng.bool(),
            skew: one_of(rng, &[0, 0, 1_000, 5_000]),
            keys,
            lookup,
            feed,
            blacklist: None,
            records: None,
            max_waiters: one_of(rng, &[1, 2, 4, 1_000]),
            max_calls: one_of(rng, &[1, 2, 256]),
            max_tokens: one_of(rng, &[2, 8, 2_048]),
        }
    }

    /// With what needs Redis, which older seeds go without.
    pub fn with_redis(mut self, rng: &mut Rng) -> Self {
        let timeout = [30, 100, 300];
        self.blacklist = rng.bool().then(|| Blacklist {
            timeout: one_of(rng, &timeout),
            cache: one_of(rng, &[0, 500, 2_000]),
            allow: rng.bool(),
        });
        let lasts = self.lookup.as_ref().is_some_and(|lookup| lookup.ttl >= 1_000);
        self.records = (self.sharing && lasts && rng.u8(..4) != 0)
            .then(|| Records { timeout: one_of(rng, &timeout) });
        self
    }

    /// Whether a token passes of which it cannot be known whether it is revoked.
    pub fn allows(&self) -> bool {
        let feed = self.feed.as_ref().map(|feed| feed.allow);
        feed.or(self.blacklist.as_ref().map(|list| list.allow)).unwrap_or(false)
    }

    /// The config, as Envoy would hand it over.
    pub fn config(&self) -> Value {
        let span = |millis: Millis| format!("{millis}ms");
        let keys = &self.keys;
        let mut source = json!({
            "cluster": "issuer", "timeout": span(keys.timeout),
            "cache_duration": span(keys.cache), "max_stale": span(keys.stale),
            "unknown_kid_cooldown": span(keys.cooldown),
        });
        let (place, path) =
            if keys.discovery { ("discovery", METADATA) } else { ("remote_jwks", "/jwks") };
        source["uri"] = json!(format!("{ISSUER}{path}"));
        let mut provider = json!({
            "issuer": ISSUER, "audiences": [AUDIENCE], "clock_skew": span(self.skew),
        });
        provider[place] = source;
        let mut config = json!({
            "mode": "gateway",
            "providers": {"issuer": provider},
            "limits": {
                "max_waiters": self.max_waiters, "max_inflight_callouts": self.max_calls,
                "max_cached_tokens": self.max_tokens,
            },
            "rules": [
                {"match": {"path": "/open"}, "require": "anonymous"},
                {"match": {"path": "/maybe"}, "require": "optional"},
                {"match": {"path": "/admin"}, "require": "user", "roles": ["ADMIN"]},
                {"match": {"path": "/raw"}, "require": "user", "forward_token": true},
            ],
        });
        if self.sharing {
            config["sharing"] = json!({ "key": SHARING_KEY });
        }
        let (user, headers) = match &self.lookup {
            None => (
                json!({"source": "claims"}),
                json!({
                    "x-user-id": {"claim": "/sub", "required": true},
                    "x-user-role": {"claim": "/role"},
                }),
            ),
            Some(lookup) => (
                lookup.config(),
                json!({
                    "x-user-id": {"user": "/id", "required": true},
                    "x-user-role": {"user": "/role"},
                    "x-record-version": {"user": "/version"},
                }),
            ),
        };
        config["user"] = user;
        if let Some(records) = &self.records {
            config["user"]["lookup"]["redis"] =
                json!({"cluster": "records", "timeout": span(records.timeout)});
        }
        config["context"] = json!({ "headers": headers });
        if let Some(feed) = &self.feed {
            config["revocation"]["feed"] = json!({
                "uri": "http://feed.example/revoked", "cluster": "feed",
                "timeout": span(feed.timeout), "interval": span(feed.interval),
                "max_age": span(feed.max_age),
            });
        }
        if let Some(list) = &self.blacklist {
            config["revocation"]["redis"] = json!({
                "cluster": "blacklist", "timeout": span(list.timeout),
                "cache_ttl": span(list.cache),
            });
        }
        if self.feed.is_some() || self.blacklist.is_some() {
            let on_unavailable = if self.allows() { "allow" } else { "deny" };
            config["revocation"]["on_unavailable"] = json!(on_unavailable);
        }
        config
    }

    /// How long a request may wait at most, ticks aside: for keys, for the feed, for the blacklist, and for its
    /// user twice, each time first for another worker's turn and then for a call of its own.
    pub fn longest_wait(&self) -> Millis {
        let grace = grace();
        let keys =
            self.keys.timeout + if self.keys.discovery { self.keys.timeout + grace } else { 0 };
        let feed = self.feed.as_ref().map_or(0, |feed| feed.timeout + grace);
        let blacklist = self.blacklist.as_ref().map_or(0, |list| list.timeout + grace);
        let records = self.records.as_ref().map_or(0, |records| records.timeout + grace);
        let user = self.lookup.as_ref().map_or(0, |lookup| lookup.timeout + grace + records);
        let once = keys + grace + feed + 2 * user;
        blacklist + if self.sharing { 2 * once + 4 * grace } else { once }
    }

    /// The same in ticks: each wait ends with one.
    pub fn stages(&self) -> Millis {
        let redis = [self.blacklist.is_some(), self.records.is_some(), self.records.is_some()];
        4 + redis.into_iter().map(Millis::from).sum::<Millis>()
    }
}

impl Lookup {
    fn config(&self) -> Value {
        let span = |millis: Millis| format!("{millis}ms");
        let mut user = json!({
            "source": "lookup",
            "lookup": {
                "cluster": "users", "path": "/users/{key}", "timeout": span(self.timeout),
                "cache": {
                    "ttl": span(self.ttl), "negative_ttl": span(self.negative_ttl),
                    "stale_while_revalidate": span(self.revalidate),
                    "stale_if_error": span(self.if_error), "max_entries": self.max_entries,
                },
            },
        });
        if self.active {
            user["active"] = json!({"field": "/status", "equals": "ACTIVE"});
        }
        user
    }
}

/// How much later than its timeout a call is given up.
pub fn grace() -> Millis {
    Duration::as_millis(&GRACE).try_into().unwrap()
}
