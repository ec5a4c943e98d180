//! The config: read once, checked in full, and after that nothing but values that make sense.
//!
//! Three steps, each of which goes on after a problem, so that one run reports them all: the bytes are
//! JSON (`encoding`), it has the right shape (`raw`, `read`), its words make sense (`check`). What makes
//! sense and is seldom meant is told as well (`warnings`), and kept.

mod check;
mod encoding;
pub mod names;
mod raw;
mod read;
#[cfg(all(feature = "schema", not(target_family = "wasm")))]
mod schema;
mod warnings;

use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use serde_json::Value;

use crate::account::Fact;
use crate::answers::Answers;
use crate::boundary::destination::Destination;
use crate::boundary::peer::{Network, PeerName, SpiffePattern};
use crate::boundary::txn_token::{Issuer, Published};
use crate::headers::ManagedHeaders;
use crate::jwks::KeySet;
use crate::rules::Rules;
use crate::signature::Preference;
use crate::signature::signing::SigningKey;
use crate::token::ProviderId;
use crate::token::algorithm::Algorithm;
#[cfg(all(feature = "schema", not(target_family = "wasm")))]
pub use schema::schema;

pub use warnings::Callee;

use names::{Authority, ClusterName, HeaderName, HttpUri, JsonPointer, KeyTemplate, PathTemplate};

/// What `${env:NAME}` is read from: the environment of Envoy's VM.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// One thing that is wrong with a config, or that is to be told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where: `providers.clerk.remote_jwks.uri`, `rules[2].match`; empty for the config as a whole.
    pub path: String,
    /// What, and what to do about it.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.path, self.message)
        }
    }
}

/// Everything that is wrong with a config, in the order of its text as far as that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError(pub Vec<Problem>);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.0.len() == 1 { "" } else { "s" };
        write!(f, "the config has {} problem{plural}", self.0.len())?;
        self.0.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

impl std::error::Error for ConfigError {}

/// A text that never prints: a key or a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps `text` from printing.
    #[must_use]
    pub const fn new(text: String) -> Self {
        Self(text)
    }

    /// The text itself, for the one place that sends it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({} bytes)", self.0.len())
    }
}

/// A checked config.
#[derive(Debug)]
pub struct Config {
    /// Where in the mesh this filter stands.
    pub mode: Mode,
    /// Who may issue tokens, in the order of their names.
    pub providers: Vec<Provider>,
    /// Where the user's record comes from.
    pub user: UserSource,
    /// How a gateway signs the context, where it does.
    pub txn_token: Option<TxnTokens>,
    /// How it is known which tokens were revoked before their time.
    pub revocation: Revocation,
    /// What the upstream is told.
    pub context: Context,
    /// What a request must show, by its path and method.
    pub rules: Rules,
    /// How refusals are answered.
    pub answers: Answers,
    /// What the access log is told of each request.
    pub access_log: Vec<Fact>,
    /// Who checks signatures.
    pub crypto: Preference,
    /// The key under which workers share what they fetched; without it each fetches for itself.
    pub sharing: Option<Secret>,
    /// How the context of a request reaches the requests that are made for its sake.
    pub propagation: Propagation,
    /// Bounds on what strangers can make meshgate hold.
    pub limits: Limits,
    /// What is allowed and yet seldom meant, to be told to who wrote it.
    pub warnings: Vec<Problem>,
}

/// Where in the mesh a filter stands.
#[derive(Debug)]
pub enum Mode {
    /// At the edge, where clients come in.
    Gateway,
    /// At a service's door, where other services come in.
    Service(Box<Boundary>),
    /// Where a service's own requests leave.
    Egress(Box<Egress>),
    /// Beside other proxies, which ask it about their requests.
    Authz(Box<Authz>),
}

impl Mode {
    /// Its word in the config.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Service(_) => "service",
            Self::Egress(_) => "egress",
            Self::Authz(_) => "authz",
        }
    }

    /// How requests leave, where they do.
    #[must_use]
    pub fn egress(&self) -> Option<&Egress> {
        match self {
            Self::Egress(egress) => Some(egress),
            Self::Gateway | Self::Service(_) | Self::Authz(_) => None,
        }
    }

    /// The name of the service whose door or exit this is.
    #[must_use]
    pub fn service(&self) -> Option<&str> {
        match self {
            Self::Gateway | Self::Authz(_) => None,
            Self::Service(boundary) => Some(&boundary.service),
            Self::Egress(egress) => Some(&egress.service),
        }
    }
}

/// How other proxies say what request they ask about.
#[derive(Debug)]
pub struct Authz {
    /// Who may say so.
    pub peers: Vec<AuthzPeer>,
    /// The headers that have its path and query, or its whole URI.
    pub original_uri: Vec<HeaderName>,
    /// The headers that have its method.
    pub original_method: Vec<HeaderName>,
    /// The headers that have its host.
    pub original_host: Vec<HeaderName>,
}

/// Who may say what request is asked about.
#[derive(Debug)]
pub enum AuthzPeer {
    /// Who connects from there.
    Address(Network),
    /// Who has such a certificate.
    Spiffe(SpiffePattern),
}

/// How the context of a request that came in reaches the requests that its service makes for its sake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// By the service alone, which copies the headers.
    ByService,
    /// By the request id, too, and what the service says is held against that.
    ByRequestId,
}

/// What a service's own requests take along.
#[derive(Debug)]
pub struct Egress {
    /// The service's own name.
    pub service: String,
    /// Where users' tokens may stand; `authorization` among them.
    pub places: Vec<Places>,
    /// Other headers in which services show tokens: what the service writes there goes nowhere.
    pub service_headers: Vec<HeaderName>,
    /// What may go where; the first that fits holds, and nothing goes where none does.
    pub destinations: Vec<Destination>,
    /// The tokens by which the service shows who it is.
    pub service_tokens: Vec<OwnToken>,
}

/// A token by which a service shows who it is.
#[derive(Debug)]
pub struct OwnToken {
    /// The key in `service_tokens`; names it in logs.
    pub name: String,
    /// The header that it is sent in.
    pub header: FromHeader,
    /// Where it comes from.
    pub source: TokenSource,
}

/// Where a service's own token comes from.
#[derive(Debug)]
pub enum TokenSource {
    /// A token endpoint gives it.
    ClientCredentials(ClientCredentials),
    /// It is signed here.
    Sign(Signing),
}

/// How a token endpoint is asked for a token (RFC 6749 section 4.4).
#[derive(Debug)]
pub struct ClientCredentials {
    /// Where.
    pub endpoint: ClientEndpoint,
    /// The body of the call.
    pub form: String,
}

/// How a service's own token is signed.
#[derive(Debug)]
pub struct Signing {
    /// With what.
    pub signer: SigningKey,
    /// The key's name.
    pub kid: Option<String>,
    /// `iss`.
    pub issuer: String,
    /// `aud`.
    pub audience: String,
    /// How long a token is good. Whole seconds.
    pub ttl: Duration,
    /// `permissions`.
    pub permissions: Vec<String>,
}

/// Who may say who the user is, at a service's door.
#[derive(Debug)]
pub struct Boundary {
    /// The service's own name.
    pub service: String,
    /// Hops that are known by their certificates; the first that fits holds.
    pub peers: Vec<PeerRule>,
    /// How services prove by a token who they are.
    pub service_tokens: Option<ServiceTokens>,
    /// Whose signed context is believed, whoever sends it.
    pub txn_token: Option<ProviderId>,
    /// Hops that may speak for others, in `x-forwarded-client-cert`.
    pub forwarders: Vec<SpiffePattern>,
    /// Whether the hop's identity is told by Istio's ambient mode, not by the connection's certificate.
    pub ambient: bool,
    /// What becomes of requests of hops that may not say who the user is.
    pub otherwise: Otherwise,
}

/// A hop that is known by its certificate.
#[derive(Debug)]
pub struct PeerRule {
    /// The identities that it is for.
    pub pattern: SpiffePattern,
    /// The service that it is.
    pub service_name: Option<PeerName>,
    /// Whether it may say who the user is.
    pub may_assert_user: bool,
}

/// How services prove by a token who they are.
#[derive(Debug)]
pub struct ServiceTokens {
    /// Who issues these tokens.
    pub provider: ProviderId,
    /// What such a token must allow, all of it.
    pub permissions: Vec<String>,
    /// Whether who has one may say who the user is.
    pub may_assert_user: bool,
    /// Whether its `sub` must be the service that the hop's certificate names, where there is one.
    pub bind_to_peer: bool,
}

/// How a gateway signs the context.
#[derive(Debug)]
pub struct TxnTokens {
    /// What with, and for whom.
    pub issuer: Issuer,
    /// Where its keys are served, if they are.
    pub published: Option<Published>,
}

/// What becomes of requests of hops that may not say who the user is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Otherwise {
    /// The user's token is verified here.
    Authenticate,
    /// They are refused.
    Reject,
    /// They go on without a user.
    Strip,
}

/// Whom a provider's tokens speak of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// Users.
    User,
    /// Services: their claim `type` is `service`.
    Service,
    /// The user of a transaction, as a gateway signed it: the `typ` of their header is `txntoken+jwt`.
    Transaction,
}

impl TokenKind {
    /// Its word in the config.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Service => "service",
            Self::Transaction => "transaction",
        }
    }
}

/// Who issues tokens, and how they are checked.
#[derive(Debug)]
pub struct Provider {
    /// The key in `providers`; names it in logs and metrics.
    pub name: String,
    /// Whom its tokens speak of.
    pub kind: TokenKind,
    /// What `iss` must be, byte for byte.
    pub issuer: String,
    /// What `aud` must name one of; `None` where any will do.
    pub audiences: Option<Vec<String>>,
    /// What `azp` must be one of, where the token has one; `None` where any will do.
    pub authorized_parties: Option<Vec<String>>,
    /// The algorithms that its keys may be used with.
    pub algorithms: Vec<Algorithm>,
    /// What its tokens are verified with.
    pub trust: Trust,
    /// By how much its clock and ours may differ.
    pub clock_skew: Duration,
    /// Whether a token without `exp` is refused.
    pub require_expiration: bool,
    /// How far ahead a token's `exp` may be, where that is limited.
    pub max_lifetime: Option<Duration>,
    /// What the header's `typ` must be, where that is said.
    pub token_type: Option<String>,
    /// Claims that must be there with one of these values; none named, with any.
    pub required_claims: Vec<(String, Vec<Value>)>,
    /// Claims that must not have this value.
    pub refused_claims: Vec<(String, Value)>,
    /// Where its tokens stand.
    pub places: Places,
}

/// What a provider's tokens are verified with: keys, or the issuer's word for each of them.
#[derive(Debug)]
pub struct Trust {
    /// The keys of its JWTs.
    pub keys: Option<KeySource>,
    /// Who is asked about tokens that are not JWTs, and about JWTs where there are no keys.
    pub introspection: Option<Introspection>,
}

/// Where keys are.
#[derive(Debug)]
pub enum KeySource {
    /// In the config.
    Local(Rc<KeySet>),
    /// Behind a URI.
    Remote(RemoteJwks),
}

/// A key set behind a URI.
#[derive(Debug)]
pub struct RemoteJwks {
    /// The URI.
    pub location: Location,
    /// The Envoy cluster that leads there.
    pub cluster: ClusterName,
    /// How long one fetch may take.
    pub timeout: Duration,
    /// How long a fetched set is fresh at most. It is fetched again a little before that ends.
    pub cache_duration: Duration,
    /// How long a set is still used after it ceased to be fresh, while fetching fails.
    pub max_stale: Duration,
    /// How long after a fetch an unknown `kid` may not cause another.
    pub unknown_kid_cooldown: Duration,
}

/// Which document a URI leads to.
#[derive(Debug, Clone)]
pub enum Location {
    /// The JWKS.
    Jwks(HttpUri),
    /// The OpenID provider's metadata, which names the JWKS.
    Discovery(HttpUri),
}

/// An endpoint of an authorization server that knows its clients by a secret.
#[derive(Debug)]
pub struct ClientEndpoint {
    /// The endpoint.
    pub uri: HttpUri,
    /// The Envoy cluster that leads there.
    pub cluster: ClusterName,
    /// How the client names itself there: the value of `authorization`.
    pub authorization: Secret,
    /// How long one call may take.
    pub timeout: Duration,
}

/// How an issuer is asked about a token (RFC 7662).
#[derive(Debug)]
pub struct Introspection {
    /// Where.
    pub endpoint: ClientEndpoint,
    /// How long an answer is used, where the token does not expire before.
    pub cache_ttl: Duration,
}

/// The places in a request in which a provider's tokens stand: none for transaction tokens, which have a
/// header of their own.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// Headers.
    pub headers: Vec<FromHeader>,
    /// Cookies.
    pub cookies: Vec<String>,
    /// Query parameters.
    pub params: Vec<String>,
}

impl Places {
    /// Those of these that are none of `others`.
    #[must_use]
    pub fn but(&self, others: &[&Self]) -> Self {
        let mut rest = self.clone();
        rest.headers.retain(|one| !others.iter().any(|other| other.headers.contains(one)));
        rest.cookies.retain(|one| !others.iter().any(|other| other.cookies.contains(one)));
        rest.params.retain(|one| !others.iter().any(|other| other.params.contains(one)));
        rest
    }
}

/// A header that carries a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FromHeader {
    /// Its name.
    pub name: HeaderName,
    /// What stands before the token, compared without regard to case (RFC 9110 section 11.1).
    pub value_prefix: String,
}

/// Where the user's record comes from.
#[derive(Debug)]
pub enum UserSource {
    /// That is not said: no user's token is looked at.
    Unsaid,
    /// The token's own claims are the record.
    Claims,
    /// A service is asked.
    Lookup(Box<Lookup>),
}

impl UserSource {
    /// How the users service is asked, where it is.
    #[must_use]
    pub fn lookup(&self) -> Option<&Lookup> {
        match self {
            Self::Lookup(lookup) => Some(lookup),
            Self::Claims | Self::Unsaid => None,
        }
    }
}

/// How the users service is asked.
#[derive(Debug)]
pub struct Lookup {
    /// The claims that may name the user; the first one present does.
    pub key: Vec<String>,
    /// The Envoy cluster of the service.
    pub cluster: ClusterName,
    /// `:authority` of the call.
    pub authority: Authority,
    /// `:path` of the call.
    pub path: PathTemplate,
    /// The JSON body of the call, which is then a POST. `{key}` in its texts stands for the key.
    pub body: Option<Value>,
    /// Where in the answer the record is; the whole of it where this is unset.
    pub record: Option<JsonPointer>,
    /// The record's field that must be the key that was asked for.
    pub key_field: Option<JsonPointer>,
    /// Further headers of the call.
    pub headers: Vec<(HeaderName, Secret)>,
    /// How long one call may take.
    pub timeout: Duration,
    /// How long a record is used.
    pub ttl: Duration,
    /// How long a user is held to be unknown.
    pub negative_ttl: Duration,
    /// How long after its `ttl` a record is still used while it is asked for anew.
    pub stale_while_revalidate: Duration,
    /// How long after its `ttl` a record is still used while the users service is down.
    pub stale_if_error: Duration,
    /// How many users are remembered.
    pub max_entries: usize,
    /// What marks a user who may act.
    pub active: Option<Active>,
    /// Where records are kept for all proxies.
    pub redis: Option<RedisCache>,
    /// All of this that a record depends on, as one text: lookups that differ in it share no records.
    pub identity: Secret,
}

impl Lookup {
    /// How long after it was asked for a record may be used, whatever happens.
    #[must_use]
    pub fn longest_life(&self) -> Duration {
        let stale = self.stale_while_revalidate.max(self.stale_if_error);
        self.ttl.saturating_add(stale).max(self.negative_ttl)
    }
}

/// Redis, behind a webdis.
#[derive(Debug)]
pub struct Redis {
    /// The Envoy cluster of webdis.
    pub cluster: ClusterName,
    /// `:authority` of the call.
    pub authority: Authority,
    /// Further headers of the call.
    pub headers: Vec<(HeaderName, Secret)>,
    /// How long one call may take.
    pub timeout: Duration,
}

/// Users' records in Redis.
#[derive(Debug)]
pub struct RedisCache {
    /// Which Redis.
    pub redis: Redis,
    /// What the names of records begin with.
    pub prefix: String,
}

/// How it is known which tokens were revoked before their time.
#[derive(Debug)]
pub struct Revocation {
    /// A list that is asked for again and again.
    pub feed: Option<Feed>,
    /// Names in Redis.
    pub blacklist: Option<Blacklist>,
    /// What becomes of a token where that cannot be known.
    pub on_unavailable: OnUnavailable,
}

/// What becomes of a token of which it cannot be known whether it is revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnUnavailable {
    /// It is refused.
    Deny,
    /// It is held to be good.
    Allow,
}

/// A list of what is revoked.
#[derive(Debug)]
pub struct Feed {
    /// Where it is.
    pub uri: HttpUri,
    /// The Envoy cluster that leads there.
    pub cluster: ClusterName,
    /// Further headers of the call.
    pub headers: Vec<(HeaderName, Secret)>,
    /// How long one poll may take.
    pub timeout: Duration,
    /// How long after a poll the next one is made.
    pub interval: Duration,
    /// How long after a poll that brought an answer its list is believed.
    pub max_age: Duration,
}

/// Names in Redis.
#[derive(Debug)]
pub struct Blacklist {
    /// Which Redis.
    pub redis: Redis,
    /// The names of a token there, each of which revokes it.
    pub keys: Vec<KeyTemplate>,
    /// How long an answer is used.
    pub cache_ttl: Duration,
}

/// A field of the user's record and the value it has for a user who may act.
#[derive(Debug)]
pub struct Active {
    /// The field.
    pub field: JsonPointer,
    /// The value.
    pub equals: Value,
}

/// What the upstream is told.
#[derive(Debug)]
pub struct Context {
    /// The context headers, and where each comes from.
    pub headers: Vec<ContextHeader>,
    /// Whether the upstream also gets the token.
    pub forward_token: bool,
    /// Every name that a client cannot send past this filter.
    pub managed: ManagedHeaders,
    /// The same for trailers, in which tokens have no place either.
    pub not_in_trailers: ManagedHeaders,
}

/// One context header.
#[derive(Debug)]
pub struct ContextHeader {
    /// Its name.
    pub name: HeaderName,
    /// Where its value is.
    pub source: ValueSource,
    /// Whether a request without this value is refused.
    pub required: bool,
    /// What stands between the items of an array; without it an array is not a legal value.
    pub join: Option<String>,
}

/// Where a context header's value is.
#[derive(Debug)]
pub enum ValueSource {
    /// In the user's record.
    User(JsonPointer),
    /// In the token's claims.
    Claim(JsonPointer),
}

/// Bounds on what strangers can make meshgate hold.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Longest token looked at, in bytes. Default 8192: Envoy's own limit on all headers is 60 KiB.
    pub max_token_bytes: usize,
    /// Most verified tokens remembered in one worker. Default 2048: with tokens of 1 KiB, some 6 MiB.
    pub max_cached_tokens: usize,
    /// Most requests that wait at once in one worker. Default 1024.
    pub max_waiters: usize,
    /// Most callouts that are under way at once in one worker. Default 256.
    pub max_inflight_callouts: usize,
    /// Longest JWKS body read, in bytes. Default 262144: 64 RSA-4096 keys with a certificate each.
    pub max_jwks_bytes: usize,
    /// Longest user record read, in bytes. Default 65536.
    pub max_user_bytes: usize,
    /// Longest answer of the revocation feed read, in bytes. Default 1048576: 10,000 entries of 100 bytes.
    pub max_feed_bytes: usize,
    /// Most entries of the revocation feed held in one worker. Default 10000.
    pub max_revocations: usize,
}

impl Config {
    /// How many users each worker remembers.
    #[must_use]
    pub fn max_users(&self) -> usize {
        self.user.lookup().map_or(0, |lookup| lookup.max_entries)
    }

    /// Reads and checks a config.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(text: &[u8], env: Environment<'_>) -> Result<Self, ConfigError> {
        read::config(text, |raw, at| check::config(raw, at, env))
    }
}

#[cfg(test)]
mod tests;
