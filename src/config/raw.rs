//! The config as it is written: serde only, nothing checked.
//!
//! Every field may be absent here, so that a wrong one can be left out and the rest still read:
//! that is how all problems come to be reported at once. What is required, and what a word may be,
//! is said in [`super`], which takes each of these structs apart in full.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub mode: Option<String>,
    pub service: Option<Service>,
    pub boundary: Option<Boundary>,
    pub destinations: Option<Vec<Destination>>,
    pub service_tokens: Option<BTreeMap<String, OwnToken>>,
    pub propagation: Option<Propagation>,
    pub txn_token: Option<TxnToken>,
    pub providers: Option<BTreeMap<String, Provider>>,
    pub user: Option<User>,
    pub revocation: Option<Revocation>,
    pub context: Option<Context>,
    pub rules: Option<Vec<Rule>>,
    pub authz: Option<Authz>,
    pub crypto: Option<String>,
    pub sharing: Option<Sharing>,
    pub limits: Option<Limits>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct Service {
    pub name: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct Destination {
    pub clusters: Option<Vec<String>>,
    pub user_token: Option<String>,
    pub context: Option<String>,
    pub service_token: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct OwnToken {
    pub client_credentials: Option<ClientCredentials>,
    pub sign: Option<Sign>,
    pub header: Option<FromHeader>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct ClientCredentials {
    pub uri: Option<String>,
    pub cluster: Option<String>,
    pub client_id: Option<String>,
    pub client_secret: Option<String>,
    pub scope: Option<String>,
    pub timeout: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct Sign {
    pub key: Option<String>,
    pub kid: Option<String>,
    pub alg: Option<String>,
    pub issuer: Option<String>,
    pub audience: Option<String>,
    pub ttl: Option<String>,
    pub permissions: Option<Vec<String>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct Propagation {
    pub by_request_id: Option<bool>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct Boundary {
    pub peers: Option<Vec<Peer>>,
    pub service_tokens: Option<ServiceTokens>,
    pub txn_token: Option<AcceptedTxnToken>,
    pub forwarded_client_cert: Option<ForwardedClientCert>,
    pub ambient: Option<bool>,
    pub otherwise: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    pub spiffe_id: Option<String>,
    pub service_name: Option<String>,
    pub may_assert_user: Option<bool>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct ServiceTokens {
    pub provider: Option<String>,
    pub permissions: Option<Vec<String>>,
    pub may_assert_user: Option<bool>,
    pub bind_to_peer: Option<bool>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct AcceptedTxnToken {
    pub provider: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct TxnToken {
    pub issue: Option<TxnIssue>,
    pub also_publish: Option<Vec<Value>>,
    pub jwks_path: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct TxnIssue {
    pub issuer: Option<String>,
    pub audience: Option<String>,
    pub ttl: Option<String>,
    pub reuse: Option<String>,
    pub key: Option<String>,
    pub kid: Option<String>,
    pub alg: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct ForwardedClientCert {
    pub from: Option<Vec<String>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct Provider {
    #[serde(rename = "type")]
    pub kind: Option<String>,
    pub preset: Option<String>,
    pub issuer: Option<String>,
    pub audiences: Option<Vec<String>>,
    pub allow_any_audience: Option<bool>,
    pub authorized_parties: Option<Vec<String>>,
    pub algorithms: Option<Vec<String>>,
    pub remote_jwks: Option<RemoteJwks>,
    pub local_jwks: Option<Value>,
    pub discovery: Option<RemoteJwks>,
    pub introspection: Option<Introspection>,
    pub clock_skew: Option<String>,
    pub require_expiration: Option<bool>,
    pub max_lifetime: Option<String>,
    pub token_type: Option<String>,
    pub required_claims: Option<BTreeMap<String, Value>>,
    pub from_headers: Option<Vec<FromHeader>>,
    pub from_cookies: Option<Vec<String>>,
    pub from_params: Option<Vec<String>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct Introspection {
    pub uri: Option<String>,
    pub cluster: Option<String>,
    pub client_id: Option<String>,
    pub client_secret: Option<String>,
    pub timeout: Option<String>,
    pub cache_ttl: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct RemoteJwks {
    pub uri: Option<String>,
    pub cluster: Option<String>,
    pub timeout: Option<String>,
    pub cache_duration: Option<String>,
    pub max_stale: Option<String>,
    pub unknown_kid_cooldown: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct FromHeader {
    pub name: Option<String>,
    pub value_prefix: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct User {
    pub source: Option<String>,
    pub key: Option<Vec<String>>,
    pub lookup: Option<Lookup>,
    pub active: Option<Active>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct Lookup {
    pub cluster: Option<String>,
    pub authority: Option<String>,
    pub path: Option<String>,
    pub body: Option<Value>,
    pub record: Option<String>,
    pub key_field: Option<String>,
    pub headers: Option<BTreeMap<String, String>>,
    pub timeout: Option<String>,
    pub cache: Option<Cache>,
    pub redis: Option<RedisCache>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct RedisCache {
    pub cluster: Option<String>,
    pub authority: Option<String>,
    pub headers: Option<BTreeMap<String, String>>,
    pub timeout: Option<String>,
    pub prefix: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct Revocation {
    pub feed: Option<Feed>,
    pub redis: Option<Blacklist>,
    pub on_unavailable: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct Feed {
    pub uri: Option<String>,
    pub cluster: Option<String>,
    pub headers: Option<BTreeMap<String, String>>,
    pub timeout: Option<String>,
    pub interval: Option<String>,
    pub max_age: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct Blacklist {
    pub cluster: Option<String>,
    pub authority: Option<String>,
    pub headers: Option<BTreeMap<String, String>>,
    pub timeout: Option<String>,
    pub keys: Option<Vec<String>>,
    pub cache_ttl: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct Cache {
    pub ttl: Option<String>,
    pub negative_ttl: Option<String>,
    pub stale_while_revalidate: Option<String>,
    pub stale_if_error: Option<String>,
    pub max_entries: Option<usize>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct Active {
    pub field: Option<String>,
    pub equals: Option<Value>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct Context {
    pub headers: Option<BTreeMap<String, ContextHeader>>,
    pub forward_token: Option<bool>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct ContextHeader {
    pub user: Option<String>,
    pub claim: Option<String>,
    pub required: Option<bool>,
    pub join: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    #[serde(rename = "match")]
    pub matches: Option<Match>,
    pub require: Option<String>,
    pub roles: Option<Vec<String>>,
    pub permissions: Option<Vec<String>>,
    pub scopes: Option<Vec<String>>,
    pub claims: Option<BTreeMap<String, Value>>,
    pub max_age: Option<String>,
    pub forward_token: Option<bool>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct Match {
    pub path: Option<String>,
    pub path_prefix: Option<String>,
    pub path_template: Option<String>,
    pub methods: Option<Vec<String>>,
    pub hosts: Option<Vec<String>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct Authz {
    pub peers: Option<Vec<AuthzPeer>>,
    pub original_uri: Option<Vec<String>>,
    pub original_method: Option<Vec<String>>,
    pub original_host: Option<Vec<String>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct AuthzPeer {
    pub address: Option<String>,
    pub spiffe_id: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct Sharing {
    pub key: Option<String>,
}

#[derive(Deserialize, Default, Clone, Copy)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_field_names, reason = "these are the names that users write")]
pub struct Limits {
    pub max_token_bytes: Option<usize>,
    pub max_cached_tokens: Option<usize>,
    pub max_waiters: Option<usize>,
    pub max_inflight_callouts: Option<usize>,
    pub max_jwks_bytes: Option<usize>,
    pub max_user_bytes: Option<usize>,
    pub max_feed_bytes: Option<usize>,
    pub max_revocations: Option<usize>,
}
