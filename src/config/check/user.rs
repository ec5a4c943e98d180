//! Where the user's record comes from.

use std::time::Duration;

use serde_json::json;

use super::super::names::{ClusterName, PathTemplate};
use super::super::read::At;
use super::super::{Active, Environment, Lookup, RedisCache, Secret, UserSource, raw};
use super::{RawRedis, check_call_headers, check_redis};

/// Checks where the user's record comes from.
pub(super) fn check_user(
    raw: Option<raw::User>,
    at: &At<'_>,
    env: Environment<'_>,
) -> Option<UserSource> {
    let raw::User { source, key, lookup, active } = at.required(raw)?;

    let active = match active {
        Some(raw) => check_active(raw, &at.field("active")).map(Some),
        None => Some(None),
    };
    match at.field("source").required(source)?.as_str() {
        "claims" => {
            let unused = |name: &str, present: bool| {
                if present {
                    let _: Option<()> =
                        at.field(name).problem("has no use with `source: claims`, remove it");
                }
            };
            unused("lookup", lookup.is_some());
            unused("key", key.is_some());
            unused("active", !matches!(active, Some(None)));
            Some(UserSource::Claims)
        }
        "lookup" => {
            let key = match key {
                Some(key) => at.field("key").texts(key),
                None => Some(vec!["sub".to_owned()]),
            };
            let raw = at.field("lookup").required(lookup)?;
            let lookup = check_lookup(raw, &at.field("lookup"), env);
            Some(UserSource::Lookup(Box::new(Lookup { key: key?, active: active?, ..lookup? })))
        }
        other => at
            .field("source")
            .problem(format!("`{other}` is not a source, write `lookup` or `claims`")),
    }
}

/// All of a [`Lookup`] but `key` and `active`, which stand beside `lookup` in the config.
fn check_lookup(raw: raw::Lookup, at: &At<'_>, env: Environment<'_>) -> Option<Lookup> {
    let raw::Lookup {
        cluster,
        authority,
        path,
        body,
        record,
        key_field,
        headers,
        timeout,
        cache,
        redis,
    } = raw;
    let raw::Cache { ttl, negative_ttl, stale_while_revalidate, stale_if_error, max_entries } =
        cache.unwrap_or_default();

    let texts = json!([cluster, authority, path, body, record, key_field]);
    let cluster: Option<ClusterName> = at.field("cluster").parsed(cluster);
    let authority = match authority {
        Some(text) => at.field("authority").parsed(Some(text)),
        None => at.default("users"),
    };
    let path: Option<PathTemplate> = at.field("path").parsed(path);
    let named_in_body = body.as_ref().is_some_and(|body| body.to_string().contains("{key}"));
    if path.as_ref().is_some_and(|path| !path.has_key()) && !named_in_body {
        at.field("path").problem::<()>(
            "names no user, put `{key}` where the user's key goes, there or in a text of `body`",
        );
    }
    let record = match record {
        Some(text) => at.field("record").parsed(Some(text)).map(Some),
        None => Some(None),
    };
    let key_field = match key_field {
        Some(text) => at.field("key_field").parsed(Some(text)).map(Some),
        None => Some(None),
    };
    let headers = check_call_headers(headers.unwrap_or_default(), &at.field("headers"), env);
    let redis = match redis {
        Some(raw) => check_redis_cache(raw, &at.field("redis"), env).map(Some),
        None => Some(None),
    };
    let timeout = at.field("timeout").duration(timeout.as_deref(), "300ms", "1ms", "60s");
    let cache = at.field("cache");
    let ttl = cache.field("ttl").duration(ttl.as_deref(), "300s", "0s", "1d");
    let negative_ttl =
        cache.field("negative_ttl").duration(negative_ttl.as_deref(), "10s", "0s", "1h");
    let stale_while_revalidate = cache.field("stale_while_revalidate").duration(
        stale_while_revalidate.as_deref(),
        "0s",
        "0s",
        "1d",
    );
    let stale_if_error =
        cache.field("stale_if_error").duration(stale_if_error.as_deref(), "0s", "0s", "1d");
    let max_entries = cache.field("max_entries").number(max_entries, 10_000, 2, 1_000_000);
    if redis.as_ref().is_some_and(Option::is_some)
        && ttl.is_some_and(|ttl| ttl < Duration::from_secs(1))
    {
        cache.field("ttl").problem::<()>(
            "must be 1s or more with `redis`, which counts in seconds, or nothing would be stored there",
        );
    }
    let headers = headers?;
    let values: Vec<_> =
        headers.iter().map(|(name, value)| (name.as_str(), value.reveal())).collect();
    Some(Lookup {
        key: Vec::new(),
        active: None,
        identity: Secret::new(json!([texts, values]).to_string()),
        redis: redis?,
        cluster: cluster?,
        authority: authority?,
        path: path?,
        body,
        record: record?,
        key_field: key_field?,
        headers,
        timeout: timeout?,
        ttl: ttl?,
        negative_ttl: negative_ttl?,
        stale_while_revalidate: stale_while_revalidate?,
        stale_if_error: stale_if_error?,
        max_entries,
    })
}

fn check_redis_cache(
    raw: raw::RedisCache,
    at: &At<'_>,
    env: Environment<'_>,
) -> Option<RedisCache> {
    let raw::RedisCache { cluster, authority, headers, timeout, prefix } = raw;
    let raw = RawRedis { cluster, authority, headers, timeout };
    let redis = check_redis(raw, at, env);
    Some(RedisCache { redis: redis?, prefix: prefix.unwrap_or_else(|| "user:".to_owned()) })
}

fn check_active(raw: raw::Active, at: &At<'_>) -> Option<Active> {
    let raw::Active { field, equals } = raw;
    let field = at.field("field").parsed(field);
    let equals = at.field("equals").required(equals);
    Some(Active { field: field?, equals: equals? })
}
