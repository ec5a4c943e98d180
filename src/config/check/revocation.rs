//! How it is known which tokens were revoked.

use super::super::names::{ClusterName, HttpUri};
use super::super::read::At;
use super::super::{Blacklist, Environment, Feed, OnUnavailable, Revocation, raw};
use super::{RawRedis, check_call_headers, check_redis};

/// Most names that a token may have on the blacklist: each is sent with every question.
const MAX_KEYS: usize = 8;

/// Checks how it is known which tokens were revoked.
pub(super) fn check_revocation(
    raw: raw::Revocation,
    at: &At<'_>,
    env: Environment<'_>,
) -> Option<Revocation> {
    let raw::Revocation { feed, redis, on_unavailable } = raw;

    let on_unavailable = match on_unavailable.as_deref() {
        None | Some("deny") => Some(OnUnavailable::Deny),
        Some("allow") => Some(OnUnavailable::Allow),
        Some(other) => at
            .field("on_unavailable")
            .problem(format!("`{other}` is not an answer, write `deny` or `allow`")),
    };
    let feed = match feed {
        Some(raw) => check_feed(raw, &at.field("feed"), env).map(Some),
        None => Some(None),
    };
    let blacklist = match redis {
        Some(raw) => check_blacklist(raw, &at.field("redis"), env).map(Some),
        None => Some(None),
    };
    Some(Revocation { feed: feed?, blacklist: blacklist?, on_unavailable: on_unavailable? })
}

fn check_feed(raw: raw::Feed, at: &At<'_>, env: Environment<'_>) -> Option<Feed> {
    let raw::Feed { uri, cluster, headers, timeout, interval, max_age } = raw;
    let uri: Option<HttpUri> = at.field("uri").parsed(uri);
    let cluster: Option<ClusterName> = at.field("cluster").parsed(cluster);
    let headers = check_call_headers(headers.unwrap_or_default(), &at.field("headers"), env);
    let timeout = at.field("timeout").duration(timeout.as_deref(), "1s", "1ms", "60s");
    let interval = at.field("interval").duration(interval.as_deref(), "2s", "100ms", "1h");
    let max_age = at.field("max_age").duration(max_age.as_deref(), "30s", "1s", "1d");
    if let (Some(timeout), Some(interval), Some(max_age)) = (timeout, interval, max_age)
        && max_age <= interval.saturating_add(timeout)
    {
        return at.field("max_age").problem(
            "must be longer than `interval` and `timeout` together, or the list is too old before it is asked for anew",
        );
    }
    Some(Feed {
        uri: uri?,
        cluster: cluster?,
        headers: headers?,
        timeout: timeout?,
        interval: interval?,
        max_age: max_age?,
    })
}

fn check_blacklist(raw: raw::Blacklist, at: &At<'_>, env: Environment<'_>) -> Option<Blacklist> {
    let raw::Blacklist { cluster, authority, headers, timeout, keys, cache_ttl } = raw;
    let raw = RawRedis { cluster, authority, headers, timeout };
    let redis = check_redis(raw, at, env);
    let keys = match keys {
        Some(keys) if keys.len() > MAX_KEYS => {
            at.field("keys").problem(format!("has more than {MAX_KEYS} keys"))
        }
        Some(keys) => at.field("keys").parsed_list(&keys),
        None => at
            .field("keys")
            .parsed_list(&["revoked:{jti}".to_owned(), "revoked:user:{sub}".to_owned()]),
    };
    let cache_ttl = at.field("cache_ttl").duration(cache_ttl.as_deref(), "2s", "0s", "1h");
    Some(Blacklist { redis: redis?, keys: keys?, cache_ttl: cache_ttl? })
}
