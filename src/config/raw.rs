//! The config as it is written: serde only, nothing checked.
//!
//! Every field may be absent here, so that a wrong one can be left out and the rest still read:
//! that is how all problems come to be reported at once. What is required, and what a word may be,
//! is said in [`super`], which takes each of these structs apart in full.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

/// The configuration of meshgate, an Envoy filter that turns a JWT into trusted user context.
#[derive(Deserialize, Default)]
#[cfg_attr(all(feature = "schema", not(target_family = "wasm")), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where in the mesh this filter stands: `gateway` at the edge, `service` at a service's door
    /// (its inbound sidecar), `egress` at its exit (its outbound sidecar), `authz` beside other proxies,
    /// which ask it about their requests.
    pub mode: Option<String>,
    /// The service whose door or exit this is. For `mode: service` and `mode: egress`, which
    /// require it.
    pub service: Option<Service>,
    /// Whose word counts at the service's door. For `mode: service`.
    pub boundary: Option<Boundary>,
    /// What the service's requests take along, by the upstream cluster; the first that fits holds,
    /// and nothing goes along where none does. For `mode: egress`, which requires it.
    pub destinations: Option<Vec<Destination>>,
    /// The tokens by which the service shows who it is, by names of your choice. For
    /// `mode: egress`.
    pub service_tokens: Option<BTreeMap<String, OwnToken>>,
    /// How the context of a request reaches the requests that its service makes for its sake. For
    /// `mode: service` and `mode: egress`.
    pub propagation: Option<Propagation>,
    /// How the gateway signs the context, so that it proves itself wherever it arrives. For
    /// `mode: gateway` and `mode: authz`.
    pub txn_token: Option<TxnToken>,
    /// Who may issue tokens, by names of your choice, which logs use. With `mode: egress` only
    /// `type`, `preset` and `from_*` count.
    pub providers: Option<BTreeMap<String, Provider>>,
    /// Where the user's record comes from. Required but for `mode: egress`, which has none, and
    /// `boundary.otherwise: reject` or `strip`.
    pub user: Option<User>,
    /// How it is known which tokens were revoked before they expire. Default: it is not.
    pub revocation: Option<Revocation>,
    /// What the upstream is told.
    pub context: Option<Context>,
    /// What a request must show, by its host, path and method; the first rule that matches holds.
    /// Where none does, a user is required.
    pub rules: Option<Vec<Rule>>,
    /// How other proxies say what request they ask about. For `mode: authz`.
    pub authz: Option<Authz>,
    /// In what words refusals are told. Default: problem documents (RFC 9457).
    pub answers: Option<Answers>,
    /// Which sites' scripts may call (the CORS protocol of the Fetch standard). Default: nothing is done
    /// about that. For `mode: gateway` and `mode: service`.
    pub cors: Option<Cors>,
    /// Where people are sent who ask for a page and should sign in. Default: nowhere. For `mode: gateway`
    /// and `mode: service`.
    pub login: Option<Login>,
    /// What access logs are told of each request.
    pub access_log: Option<AccessLog>,
    /// Who checks RS and ES signatures: `auto`, Envoy if it can, else the module; `host`, Envoy or
    /// the config is refused; `module`, the module. Default `auto`.
    pub crypto: Option<String>,
    /// By what the workers of one Envoy share what one of them fetched. Default: each fetches for
    /// itself.
    pub sharing: Option<Sharing>,
    /// Bounds on what strangers can make meshgate hold.
    pub limits: Option<Limits>,
}

/// The service whose door or exit this is.
#[derive(Deserialize, Default)]
#[cfg_attr(all(feature = "schema", not(target_family = "wasm")), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// Its name, as `X-Service-Name` and as the `sub` of its tokens.
    pub name: Option<String>,
}

/// What may go to some upstream clusters.
#[derive(Deserialize, Default)]
#[cfg_attr(all(feature = "schema", not(target_family = "wasm")), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Destination {
    /// Names of clusters, in which `*` is any run of characters: `channels`,
    /// `outbound|80||channels.*`.
    pub clusters: Option<Vec<String>>,
    /// What becomes of the user's token: `strip` takes it off, `forward` lets it go on as the
    /// service sent it. Default `strip`.
    pub user_token: Option<String>,
    /// What becomes of the context headers that the service sent. Default `strip`.
    pub context: Option<String>,
    /// The name of one of `service_tokens`, which is shown there. Default: none.
    pub service_token: Option<String>,
}

/// A token by which the service shows who it is, from one of two places.
#[derive(Deserialize, Default)]
#[cfg_attr(all(feature = "schema", not(target_family = "wasm")), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct OwnToken {
    /// A token endpoint gives it (RFC 6749 section 4.4).
    pub client_credentials: Option<ClientCredentials>,
    /// It is signed here.
    pub sign: Option<Sign>,
    /// Where it is shown. Default `{name: authorization, value_prefix: "Bearer "}`.
    pub header: Option<FromHeader>,
}

/// How a token endpoint is asked for a token.
#[derive(Deserialize, Default)]
#[cfg_attr(all(feature = "schema", not(target_family = "wasm")), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ClientCredentials {
    /// The token endpoint, an absolute `http` or `https` URI.
    pub uri: Option<String>,
    /// The Envoy cluster that leads there; with Istio such as
    /// `outbound|80||users.default.svc.cluster.local`.
    pub cluster: Option<String>,
    /// The client's name, sent as HTTP Basic.
    pub client_id: Option<String>,
    /// The client's secret, sent as HTTP Basic; write it as `${env:NAME}`.
    pub client_secret: Option<String>,
    /// What is asked for. Default: nothing.
    pub scope: Option<String>,
    /// How long one call may take. Default `1s`, from `1ms` to `60s`.
    pub timeout: Option<String>,
}

/// How a token of the service is signed.
#[derive(Deserialize, Default)]
#[cfg_attr(all(feature = "schema", not(target_family = "wasm")), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Sign {
    /// A private key as a JWK in JSON text, Ed25519 or P-256; write it as `${env:NAME}`.
    pub key: Option<String>,
    /// The key's name in the token. Default: the JWK's.
    pub kid: Option<String>,
    /// What the key signs, to have it checked: `EdDSA` or `ES256`. Default: the key's.
    pub alg: Option<String>,
    /// The token's `iss`.
    pub issuer: Option<String>,
    /// The token's `aud`.
    pub audience: Option<String>,
    /// How long a token is good, in whole seconds. Default `5m`, from `10s` to `1d`.
    pub ttl: Option<String>,
    /// What the token allows. Default: nothing.
    pub permissions: Option<Vec<String>>,
}

/// How the context of a request reaches the requests that its service makes for its sake.
#[derive(Deserialize, Default)]
#[cfg_attr(all(feature = "schema", not(target_family = "wasm")), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Propagation {
    /// Whether context that the service did not copy is restored by `x-request-id`, and what it
    /// says is held against what it was told. `true` needs `sharing`.
    pub by_request_id: Option<bool>,
}

/// Whose word counts at the service's door.
#[derive(Deserialize, Default)]
#[cfg_attr(all(feature = "schema", not(target_family = "wasm")), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Boundary {
    /// Hops that are known by their certificates; the first that fits holds. Default: none.
    pub peers: Option<Vec<Peer>>,
    /// How services prove by a token who they are. Default: not.
    pub service_tokens: Option<ServiceTokens>,
    /// Whose signed context is believed, whoever brings it. Default: nobody's.
    pub txn_token: Option<AcceptedTxnToken>,
    /// Hops that may say for whom they speak, in `x-forwarded-client-cert`. Default: none.
    pub forwarded_client_cert: Option<ForwardedClientCert>,
    /// Whether the hop's identity is Istio's `io.istio.peer_principal` (a waypoint), not the
    /// connection's certificate. Default `false`.
    pub ambient: Option<bool>,
    /// What becomes of other hops' requests: `authenticate`, the user's token is verified here;
    /// `reject`, they are refused; `strip`, they go on without a user. Default `authenticate`.
    pub otherwise: Option<String>,
}

/// A hop that is known by its certificate.
#[derive(Deserialize, Default)]
#[cfg_attr(all(feature = "schema", not(target_family = "wasm")), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// The URI in its certificate's SAN, a SPIFFE id in which `*` is one whole segment of the path:
    /// `spiffe://cluster.local/ns/default/sa/*`.
    pub spiffe_id: Option<String>,
    /// The service that it is; `"*"` is what stands at the one `*` of `spiffe_id`. Default: none.
    pub service_name: Option<String>,
    /// Whether it may say who the user is. Default `false`.
    pub may_assert_user: Option<bool>,
}

/// How services prove by a token who they are.
#[derive(Deserialize, Default)]
#[cfg_attr(all(feature = "schema", not(target_family = "wasm")), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ServiceTokens {
    /// The name of a provider with `type: service`.
    pub provider: Option<String>,
    /// What the token's `permissions` must have, all of it. Default: nothing.
    pub permissions: Option<Vec<String>>,
    /// Whether who has such a token may say who the user is. Default `false`.
    pub may_assert_user: Option<bool>,
    /// Whether, where the hop has a certificate, the token's `sub` must be that peer's
    /// `service_name`. Default `true`.
    pub bind_to_peer: Option<bool>,
}

/// Whose signed context is believed.
#[derive(Deserialize, Default)]
#[cfg_attr(all(feature = "schema", not(target_family = "wasm")), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct AcceptedTxnToken {
    /// The name of a provider with `type: transaction`.
    pub provider: Option<String>,
}

/// How the gateway signs the context (draft-ietf-oauth-transaction-tokens).
#[derive(Deserialize, Default)]
#[cfg_attr(all(feature = "schema", not(target_family = "wasm")), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct TxnToken {
    /// What with, and for whom.
    pub issue: Option<TxnIssue>,
    /// Further public JWKs that are served at `jwks_path`, each with a `kid`. Default: none.
    pub also_publish: Option<Vec<Value>>,
    /// The exact path at which the filter itself serves its public keys. Default: nowhere.
    pub jwks_path: Option<String>,
}

/// What transaction tokens are signed with, and for whom.
#[derive(Deserialize, Default)]
#[cfg_attr(all(feature = "schema", not(target_family = "wasm")), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct TxnIssue {
    /// The token's `iss`.
    pub issuer: Option<String>,
    /// The token's `aud`: the name of the trust domain.
    pub audience: Option<String>,
    /// How long a token lives, in whole seconds. Default `60s`, from `2s` to `1h`.
    pub ttl: Option<String>,
    /// How long a token is used for further requests with the same user token and the same context,
    /// in one worker; `0s` signs for each request. Default `5s`, from `0s` to `30m`, at most half
    /// of `ttl`.
    pub reuse: Option<String>,
    /// A private key as a JWK in JSON text, Ed25519 or P-256; write it as `${env:NAME}`.
    pub key: Option<String>,
    /// The key's name.
    pub kid: Option<String>,
    /// What the key signs, to have it checked: `EdDSA` or `ES256`. Default: the key's.
    pub alg: Option<String>,
}

/// Hops that may say for whom they speak.
#[derive(Deserialize, Default)]
#[cfg_attr(all(feature = "schema", not(target_family = "wasm")), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ForwardedClientCert {
    /// Their SPIFFE ids, in which `*` is one whole segment of the path.
    pub from: Option<Vec<String>>,
}

/// Who issues tokens, and how they are checked.
#[derive(Deserialize, Default)]
#[cfg_attr(all(feature = "schema", not(target_family = "wasm")), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Provider {
    /// Whom its tokens speak of: `user`; `service`, whose claim `type` is `service`; `transaction`,
    /// a gateway's signed context. Default `user`, and nothing else with `mode: gateway`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// What is known of an issuer's tokens: `clerk` reads the cookie `__session` too, and refuses
    /// sessions with `sts: pending`. Default: nothing.
    pub preset: Option<String>,
    /// What `iss` must be, byte for byte (RFC 7519 section 4.1.1).
    pub issuer: Option<String>,
    /// `aud` must name one of these (RFC 7519 section 4.1.3). Required, unless `allow_any_audience`
    /// is set.
    pub audiences: Option<Vec<String>>,
    /// `true` instead of `audiences`, for an issuer that writes none. Default `false`.
    pub allow_any_audience: Option<bool>,
    /// Where the token has an `azp`, it must be one of these. Default: any.
    pub authorized_parties: Option<Vec<String>>,
    /// The algorithms that its keys may be used with. Default: all but `HS*`.
    pub algorithms: Option<Vec<String>>,
    /// Where its JWKS is. One of `remote_jwks`, `discovery` and `local_jwks` is required, or
    /// `introspection`.
    pub remote_jwks: Option<RemoteJwks>,
    /// Its JWKS itself: `{keys: [...]}`, or the same as a string of JSON. Only here may symmetric
    /// keys stand.
    pub local_jwks: Option<Value>,
    /// Where the OpenID provider's metadata is, which names the JWKS.
    pub discovery: Option<RemoteJwks>,
    /// Who is asked about tokens that are not JWTs, and about all where there are no keys (RFC
    /// 7662). At most one provider can have it.
    pub introspection: Option<Introspection>,
    /// By how much its clock and Envoy's may differ, for `exp`, `nbf` and `iat`. Default `30s`,
    /// from `0s` to `10m`.
    pub clock_skew: Option<String>,
    /// Whether a token without `exp` is refused. Default `true`.
    pub require_expiration: Option<bool>,
    /// How far ahead `exp` may be; a token without `exp` is then refused. Default: not limited,
    /// from `1s` to `365d`.
    pub max_lifetime: Option<String>,
    /// What the header's `typ` must be in a JWT, such as `at+jwt` (RFC 9068). Default: any.
    pub token_type: Option<String>,
    /// Claims that must be there, each with a value or one of a list of values; `[]` is any value.
    /// Default: none.
    pub required_claims: Option<BTreeMap<String, Value>>,
    /// The headers in which its tokens stand. Default `authorization` with `Bearer `, unless
    /// `from_cookies` or `from_params` is set.
    pub from_headers: Option<Vec<FromHeader>>,
    /// The cookies in which its tokens stand. Default: none, with `preset: clerk` `__session`.
    pub from_cookies: Option<Vec<String>>,
    /// The query parameters in which its tokens stand. Default: none.
    pub from_params: Option<Vec<String>>,
}

/// How an issuer is asked about a token (RFC 7662).
#[derive(Deserialize, Default)]
#[cfg_attr(all(feature = "schema", not(target_family = "wasm")), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Introspection {
    /// The introspection endpoint, an absolute `http` or `https` URI.
    pub uri: Option<String>,
    /// The Envoy cluster that leads there; with Istio such as
    /// `outbound|80||users.default.svc.cluster.local`.
    pub cluster: Option<String>,
    /// The client's name, sent as HTTP Basic.
    pub client_id: Option<String>,
    /// The client's secret, sent as HTTP Basic; write it as `${env:NAME}`.
    pub client_secret: Option<String>,
    /// How long one call may take. Default `1s`, from `1ms` to `60s`.
    pub timeout: Option<String>,
    /// How long an answer is used, good or bad, and never past the token's `exp`. Default `30s`,
    /// from `0s` to `1h`.
    pub cache_ttl: Option<String>,
}

/// A document behind a URI: a JWKS, or the metadata that names one.
#[derive(Deserialize, Default)]
#[cfg_attr(all(feature = "schema", not(target_family = "wasm")), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RemoteJwks {
    /// An absolute `http` or `https` URI; its path and authority are sent.
    pub uri: Option<String>,
    /// The Envoy cluster that leads there; TLS is the cluster's affair. With Istio such as
    /// `outbound|80||users.default.svc.cluster.local`.
    pub cluster: Option<String>,
    /// How long one fetch may take. Default `2s`, from `1ms` to `60s`.
    pub timeout: Option<String>,
    /// How long keys are fresh at most; they are fetched again after nine tenths of it. Default
    /// `10m`, from `1s` to `7d`.
    pub cache_duration: Option<String>,
    /// How long keys are still used after that, while the issuer cannot be reached. Default `24h`,
    /// from `0s` to `30d`.
    pub max_stale: Option<String>,
    /// A token with an unknown `kid` causes a fetch, but not sooner than this after the last one.
    /// Default `10s`, from `100ms` to `1h`.
    pub unknown_kid_cooldown: Option<String>,
}

/// A header that carries a token.
#[derive(Deserialize, Default)]
#[cfg_attr(all(feature = "schema", not(target_family = "wasm")), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct FromHeader {
    /// Its name.
    pub name: Option<String>,
    /// What stands before the token, compared without regard to case. Default: nothing, in
    /// `service_tokens` `Bearer `.
    pub value_prefix: Option<String>,
}

/// Where the user's record comes from.
#[derive(Deserialize, Default)]
#[cfg_attr(all(feature = "schema", not(target_family = "wasm")), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct User {
    /// `lookup`, a service is asked; `claims`, the token's claims are the record.
    pub source: Option<String>,
    /// The claims that may name the user; the first one that is a text does. Default `[sub]`.
    pub key: Option<Vec<String>>,
    /// How the users service is asked. Required with `source: lookup`.
    pub lookup: Option<Lookup>,
    /// What marks a user who may act; others are `user_disabled`. Default: everyone may.
    pub active: Option<Active>,
}

/// How the users service is asked. It answers 200 with a JSON object, or 404.
#[derive(Deserialize, Default)]
#[cfg_attr(all(feature = "schema", not(target_family = "wasm")), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Lookup {
    /// The Envoy cluster of the users service; with Istio such as
    /// `outbound|80||users.default.svc.cluster.local`.
    pub cluster: Option<String>,
    /// `:authority` of the call. Default `users`.
    pub authority: Option<String>,
    /// `:path` of the call, with `{key}` where the user's key goes, and `{claim:/name}` (a JSON
    /// Pointer) where a claim does; both are percent-encoded.
    pub path: Option<String>,
    /// The JSON body of the call, which is then a POST. `{key}` in its texts stands for the key.
    /// Default: none.
    pub body: Option<Value>,
    /// Where in the answer the record is, a JSON Pointer. Default: the whole answer.
    pub record: Option<String>,
    /// The record's field that must be the key that was asked for, a JSON Pointer. Default: not
    /// checked.
    pub key_field: Option<String>,
    /// Further headers of the call, by name. `${env:NAME}` in a value reads the VM's environment.
    /// Default: none.
    pub headers: Option<BTreeMap<String, String>>,
    /// How long one call may take. Default `300ms`, from `1ms` to `60s`.
    pub timeout: Option<String>,
    /// How long records are used, and how many.
    pub cache: Option<Cache>,
    /// Where records are kept for all proxies. Needs `sharing`. Default: nowhere.
    pub redis: Option<RedisCache>,
}

/// Users' records in Redis, behind a webdis.
#[derive(Deserialize, Default)]
#[cfg_attr(all(feature = "schema", not(target_family = "wasm")), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RedisCache {
    /// The Envoy cluster of webdis; with Istio such as
    /// `outbound|80||users.default.svc.cluster.local`.
    pub cluster: Option<String>,
    /// `:authority` of the call. Default `webdis`.
    pub authority: Option<String>,
    /// Further headers of the call, by name. `${env:NAME}` in a value reads the VM's environment.
    /// Default: none.
    pub headers: Option<BTreeMap<String, String>>,
    /// How long one call may take. Default `100ms`, from `1ms` to `60s`.
    pub timeout: Option<String>,
    /// What a record's name begins with. Default `user:`.
    pub prefix: Option<String>,
}

/// How it is known which tokens were revoked before they expire.
#[derive(Deserialize, Default)]
#[cfg_attr(all(feature = "schema", not(target_family = "wasm")), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Revocation {
    /// A list that is asked for again and again. Default: none.
    pub feed: Option<Feed>,
    /// A blacklist in Redis. Default: none.
    pub redis: Option<Blacklist>,
    /// What becomes of a token where that cannot be known: `deny` refuses it, `allow` holds it to
    /// be good. Default `deny`.
    pub on_unavailable: Option<String>,
}

/// A list of what is revoked.
#[derive(Deserialize, Default)]
#[cfg_attr(all(feature = "schema", not(target_family = "wasm")), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Feed {
    /// Where it is, an absolute `http` or `https` URI.
    pub uri: Option<String>,
    /// The Envoy cluster that leads there; with Istio such as
    /// `outbound|80||users.default.svc.cluster.local`.
    pub cluster: Option<String>,
    /// Further headers of the call, by name. `${env:NAME}` in a value reads the VM's environment.
    /// Default: none.
    pub headers: Option<BTreeMap<String, String>>,
    /// How long one poll may take. Default `1s`, from `1ms` to `60s`.
    pub timeout: Option<String>,
    /// How long after a poll the next one is made. Default `2s`, from `100ms` to `1h`.
    pub interval: Option<String>,
    /// How long a list is believed after the feed last answered; longer than `interval` and
    /// `timeout` together. Default `30s`, from `1s` to `1d`.
    pub max_age: Option<String>,
}

/// Names in Redis, behind a webdis, each of which revokes a token.
#[derive(Deserialize, Default)]
#[cfg_attr(all(feature = "schema", not(target_family = "wasm")), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Blacklist {
    /// The Envoy cluster of webdis; with Istio such as
    /// `outbound|80||users.default.svc.cluster.local`.
    pub cluster: Option<String>,
    /// `:authority` of the call. Default `webdis`.
    pub authority: Option<String>,
    /// Further headers of the call, by name. `${env:NAME}` in a value reads the VM's environment.
    /// Default: none.
    pub headers: Option<BTreeMap<String, String>>,
    /// How long one call may take. Default `100ms`, from `1ms` to `60s`.
    pub timeout: Option<String>,
    /// A token's names there, with claims that are texts in braces, at most 8. Default
    /// `["revoked:{jti}", "revoked:user:{sub}"]`.
    pub keys: Option<Vec<String>>,
    /// How long an answer is used: so late a revocation may take effect. Default `2s`, from `0s` to
    /// `1h`.
    pub cache_ttl: Option<String>,
}

/// How long records are used, and how many.
#[derive(Deserialize, Default)]
#[cfg_attr(all(feature = "schema", not(target_family = "wasm")), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Cache {
    /// How long a record is used; with `redis` at least `1s`. Default `300s`, from `0s` to `1d`.
    pub ttl: Option<String>,
    /// How long a user is held to be unknown. Default `10s`, from `0s` to `1h`.
    pub negative_ttl: Option<String>,
    /// How long after its `ttl` a record is still used, while it is asked for anew. Default `0s`,
    /// from `0s` to `1d`.
    pub stale_while_revalidate: Option<String>,
    /// How long after its `ttl` a record is still used, while the users service is down. Default
    /// `0s`, from `0s` to `1d`.
    pub stale_if_error: Option<String>,
    /// How many users each worker remembers at most. Default 10000, from 2 to 1000000.
    pub max_entries: Option<usize>,
}

/// A field of the user's record and the value it has for a user who may act.
#[derive(Deserialize, Default)]
#[cfg_attr(all(feature = "schema", not(target_family = "wasm")), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Active {
    /// The field, a JSON Pointer.
    pub field: Option<String>,
    /// The value.
    pub equals: Option<Value>,
}

/// What the upstream is told.
#[derive(Deserialize, Default)]
#[cfg_attr(all(feature = "schema", not(target_family = "wasm")), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Context {
    /// The context headers, by name. Default: `x-user-id`, `x-user-clerk-id`, `x-user-role` and
    /// `x-user-channel-id`.
    pub headers: Option<BTreeMap<String, ContextHeader>>,
    /// Whether the upstream gets the verified token too. Default `false`. Not for `mode: egress`.
    pub forward_token: Option<bool>,
}

/// Where a context header's value comes from: `user` or `claim`.
#[derive(Deserialize, Default)]
#[cfg_attr(all(feature = "schema", not(target_family = "wasm")), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ContextHeader {
    /// A JSON Pointer into the user's record.
    pub user: Option<String>,
    /// A JSON Pointer into the token's claims.
    pub claim: Option<String>,
    /// Whether a request without this value is refused. Default `false`.
    pub required: Option<bool>,
    /// What stands between the items of an array. Default: an array is refused.
    pub join: Option<String>,
}

/// What requests that match must show.
#[derive(Deserialize, Default)]
#[cfg_attr(all(feature = "schema", not(target_family = "wasm")), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// The requests it is for.
    #[serde(rename = "match")]
    pub matches: Option<Match>,
    /// `anonymous`, a token is not looked at; `optional`, a good token or none; `user`; with
    /// `mode: service` also `service`, a service that proved who it is.
    pub require: Option<String>,
    /// The user has one of these. Needs `require: user`. Default: any.
    pub roles: Option<Vec<String>>,
    /// The user has all of these. Needs `require: user`. Default: none.
    pub permissions: Option<Vec<String>>,
    /// The token's `scope` (RFC 8693 section 4.2) or `scp` has all of these. Needs `require: user`. Default:
    /// none.
    pub scopes: Option<Vec<String>>,
    /// Claims that the token has with one of these values: `{org: [acme, beta], email_verified: true}`, where
    /// `[]` is any value; of an array, one item suffices. Needs `require: user`. Default: none.
    pub claims: Option<BTreeMap<String, Value>>,
    /// How long ago the token's `auth_time` may be (RFC 9470), from 1s to 365d. Needs `require: user`.
    /// Default: any time, and none.
    pub max_age: Option<String>,
    /// Whether the upstream gets the verified token too. Default: `context.forward_token`.
    pub forward_token: Option<bool>,
}

/// The requests that a rule is for, by `path`, `path_prefix` or `path_template`.
#[derive(Deserialize, Default)]
#[cfg_attr(all(feature = "schema", not(target_family = "wasm")), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Match {
    /// This path, without its query.
    pub path: Option<String>,
    /// This path and those below it: `/api` matches `/api` and `/api/x`, not `/apix`.
    pub path_prefix: Option<String>,
    /// Paths of this form: `/videos/{id}` matches `/videos/7`, not `/videos/7/x`, and `/files/**` all that is
    /// below `/files/`.
    pub path_template: Option<String>,
    /// The methods, such as `[GET, HEAD]`; case counts. Default: all.
    pub methods: Option<Vec<String>>,
    /// The hosts, as Envoy's `domains`: `api.example.com`, `*.example.com`, `localhost:8080`. Default: all.
    pub hosts: Option<Vec<String>>,
}

/// How other proxies say what request they ask about.
#[derive(Deserialize, Default)]
#[cfg_attr(all(feature = "schema", not(target_family = "wasm")), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Authz {
    /// Who may say by headers which request it asks about. Default: nobody, and who asks asks about its own.
    pub peers: Option<Vec<AuthzPeer>>,
    /// The headers that have the request's path and query, or its whole URI. Default `[x-original-uri,
    /// x-original-url, x-forwarded-uri]`.
    pub original_uri: Option<Vec<String>>,
    /// The headers that have its method. Default `[x-original-method, x-forwarded-method]`.
    pub original_method: Option<Vec<String>>,
    /// The headers that have its host. Default `[x-original-host, x-forwarded-host]`.
    pub original_host: Option<Vec<String>>,
}

/// A proxy that is believed, by `address` or `spiffe_id`.
#[derive(Deserialize, Default)]
#[cfg_attr(all(feature = "schema", not(target_family = "wasm")), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct AuthzPeer {
    /// The IP address it connects from, or a range of them: `10.0.0.0/8`.
    pub address: Option<String>,
    /// The SPIFFE id of its client certificate, in which `*` is one whole segment of the path.
    pub spiffe_id: Option<String>,
}

/// In what words refusals are told.
#[derive(Deserialize, Default)]
#[cfg_attr(all(feature = "schema", not(target_family = "wasm")), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Answers {
    /// The realm of `WWW-Authenticate`, 256 bytes at most. Default `meshgate`.
    pub realm: Option<String>,
    /// What stands before the code in a problem's `type`, 256 bytes at most. Default
    /// `urn:meshgate:error:`.
    pub type_prefix: Option<String>,
    /// Answers of your own, by code (`token_expired`), status (`"403"`) or class (`4xx`, `5xx`); the most
    /// exact one holds. Default: none.
    pub bodies: Option<BTreeMap<String, Body>>,
}

/// An answer of your own.
#[derive(Deserialize, Default)]
#[cfg_attr(all(feature = "schema", not(target_family = "wasm")), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Body {
    /// The body as JSON. `{code}`, `{status}`, `{detail}` and `{request_id}` stand for themselves in its
    /// texts.
    pub json: Option<Value>,
    /// The body as text, instead of `json`, 16 KiB at most.
    pub text: Option<String>,
    /// Its type. Default `application/json` of `json`, `text/plain; charset=utf-8` of `text`.
    pub content_type: Option<String>,
    /// The status, from 400 to 599 but 401. Default: the code's own.
    pub status: Option<u16>,
}

/// Which sites' scripts may call.
#[derive(Deserialize, Default)]
#[cfg_attr(all(feature = "schema", not(target_family = "wasm")), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Cors {
    /// The sites: `https://www.example.com`, or `https://*.example.com` for all hosts below one; `"*"` is
    /// all, and `"null"` what has no origin.
    pub allow_origins: Option<Vec<String>>,
    /// Whether cookies may come along; not with `"*"` or `"null"`. Default `false`.
    pub allow_credentials: Option<bool>,
    /// The methods that a preflight is answered. Default `[GET, HEAD, POST, PUT, PATCH, DELETE]`.
    pub allow_methods: Option<Vec<String>>,
    /// The headers that a preflight is answered. Default `[authorization, content-type]`.
    pub allow_headers: Option<Vec<String>>,
    /// The headers of a refusal that scripts may read. Default `[www-authenticate, retry-after,
    /// x-request-id]`.
    pub expose_headers: Option<Vec<String>>,
    /// How long browsers remember what a preflight was answered, from 0s to 1d. Default `10m`.
    pub max_age: Option<String>,
    /// What becomes of preflights: `answer`, they are answered here; `pass`, the upstream answers them.
    /// Default `answer`.
    pub preflight: Option<String>,
}

/// Where people are sent who should sign in.
#[derive(Deserialize, Default)]
#[cfg_attr(all(feature = "schema", not(target_family = "wasm")), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// The page: an http or https URI, or a path of this site. `{original_url}` behind its `?` or `#` stands
    /// for the URL that was asked for.
    pub uri: Option<String>,
    /// The origins under which browsers know this site. Required with `{original_url}`.
    pub origins: Option<Vec<String>>,
    /// The refusals that are answered so, of 401 only. Default `[token_missing, token_expired,
    /// token_revoked]`.
    pub codes: Option<Vec<String>>,
}

/// What access logs are told of each request.
#[derive(Deserialize, Default)]
#[cfg_attr(all(feature = "schema", not(target_family = "wasm")), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct AccessLog {
    /// The facts that are told, of `decision`, `code`, `provider`, `subject`, `user_id` and `request_id`. Each
    /// costs a host call: name those that your access log shows. Default: all of them.
    pub facts: Option<Vec<String>>,
}

/// By what the workers of one Envoy share what one of them fetched.
#[derive(Deserialize, Default)]
#[cfg_attr(all(feature = "schema", not(target_family = "wasm")), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Sharing {
    /// The key that what is shared is authenticated with, 16 random bytes or more; write it as
    /// `${env:NAME}`.
    pub key: Option<String>,
}

/// Bounds on what strangers can make meshgate hold.
#[derive(Deserialize, Default, Clone, Copy)]
#[cfg_attr(all(feature = "schema", not(target_family = "wasm")), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_field_names, reason = "these are the names that users write")]
pub struct Limits {
    /// Longest token looked at, in bytes. Default 8192, from 256 to 65536.
    pub max_token_bytes: Option<usize>,
    /// Most verified tokens remembered in one worker. Default 2048, from 2 to 1000000.
    pub max_cached_tokens: Option<usize>,
    /// Most requests that wait at once in one worker; more are `overloaded`. Default 1024, from 1
    /// to 1000000.
    pub max_waiters: Option<usize>,
    /// Most callouts at once in one worker. Default 256, from 1 to 100000.
    pub max_inflight_callouts: Option<usize>,
    /// Longest JWKS read, in bytes. Default 262144, from 256 to 4194304.
    pub max_jwks_bytes: Option<usize>,
    /// Longest user record read, in bytes. Default 65536, from 16 to 4194304.
    pub max_user_bytes: Option<usize>,
    /// Longest answer of the revocation feed read, in bytes. Default 1048576, from 256 to 16777216.
    pub max_feed_bytes: Option<usize>,
    /// Most entries of the revocation feed held in one worker; a feed with more is not believed.
    /// Default 10000, from 1 to 1000000.
    pub max_revocations: Option<usize>,
}
