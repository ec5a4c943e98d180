//! Configs that are broken in one place each: `meshgate check` names it, and the schema refuses them too.

use std::collections::BTreeMap;
use std::fs;

use serde_json::Value;

use crate::schema::validator;
use crate::support::{directory, meshgate};

const GATEWAY: &str = r#"
mode: gateway
providers:
  idp:
    issuer: https://idp.example
    audiences: [api]
    remote_jwks:
      uri: https://idp.example/jwks
      cluster: idp
user:
  source: lookup
  key: [sub]
  lookup:
    cluster: users
    path: /users/{key}
    key_field: /id
    headers:
      authorization: Bearer ${env:KEY}
    cache:
      ttl: 300s
    redis:
      cluster: webdis
  active: {field: /status, equals: ACTIVE}
sharing:
  key: ${env:KEY}
revocation:
  feed:
    uri: https://auth.example/revocations
    cluster: auth
  redis:
    cluster: webdis
    keys: ["revoked:{jti}"]
context:
  headers:
    x-user-id: {user: /id, required: true}
rules:
  - match:
      path_prefix: /api
      methods: [GET]
    require: user
    roles: [ADMIN]
txn_token:
  issue:
    issuer: gateway
    audience: mesh
    key: ${env:KEY}
    kid: g1
  jwks_path: /keys
crypto: auto
limits:
  max_waiters: 10
answers:
  type_prefix: https://errors.example/
cors:
  allow_origins: [https://www.example.com]
  preflight: answer
login:
  uri: https://accounts.example.com/?to={original_url}
  origins: [https://www.example.com]
"#;

const SERVICE: &str = r#"
mode: service
service:
  name: videos
providers:
  idp:
    issuer: idp
    audiences: [api]
    discovery:
      uri: https://idp.example/metadata
      cluster: idp
  mesh:
    type: service
    issuer: mesh
    audiences: [mesh]
    local_jwks: {keys: [{kty: OKP, crv: Ed25519, x: 11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo}]}
    from_headers:
      - name: x-service-authorization
  edge:
    type: transaction
    issuer: edge
    audiences: [domain]
    remote_jwks: {uri: https://edge.example/keys, cluster: edge}
  opaque:
    issuer: opaque
    audiences: [api]
    introspection:
      uri: https://idp.example/introspect
      cluster: idp
      client_id: videos
      client_secret: ${env:KEY}
user:
  source: claims
boundary:
  peers:
    - spiffe_id: spiffe://cluster.local/ns/default/sa/*
      service_name: "*"
      may_assert_user: true
  service_tokens:
    provider: mesh
    permissions: [internal]
  txn_token:
    provider: edge
  forwarded_client_cert:
    from: [spiffe://cluster.local/ns/istio/sa/waypoint]
  otherwise: authenticate
rules:
  - match:
      path: /internal
    require: service
"#;

const AUTHZ: &str = r#"
mode: authz
providers:
  idp:
    issuer: idp
    audiences: [api]
    remote_jwks: {uri: https://idp.example/jwks, cluster: idp}
user:
  source: claims
authz:
  peers:
    - address: 10.0.0.0/8
    - spiffe_id: spiffe://cluster.local/ns/edge/sa/nginx
  original_uri: [x-original-uri]
answers:
  realm: api
  bodies:
    "403":
      json: {error: "{code}"}
rules:
  - match:
      path_template: /videos/{id}
      hosts: [api.example.com]
    require: user
    scopes: [video:read]
    claims: {org: [acme]}
    max_age: 10m
"#;

const EGRESS: &str = r"
mode: egress
service:
  name: videos
providers:
  idp: {from_cookies: [__session]}
destinations:
  - clusters: [channels]
    context: forward
    service_token: asked
service_tokens:
  asked:
    client_credentials:
      uri: https://idp.example/token
      cluster: idp
      client_id: videos
      client_secret: ${env:KEY}
  signed:
    sign:
      key: ${env:KEY}
      issuer: mesh
      audience: mesh
    header:
      name: x-service-authorization
sharing:
  key: ${env:KEY}
propagation:
  by_request_id: true
";

/// A part of a config, what stands there instead, and the path of the one problem that this makes. Its line
/// is the one that ends in `# here`.
type Case = (&'static str, &'static str, &'static str, &'static str);

const CASES: &[Case] = &[
    // The top.
    (GATEWAY, "mode: gateway", "mode: gatway # here", "mode"),
    (GATEWAY, "mode: gateway", "mode: 7 # here", "mode"),
    (GATEWAY, "crypto: auto", "crypto: openssl # here", "crypto"),
    (GATEWAY, "crypto: auto", "colour: blue # here", "colour"),
    (GATEWAY, "crypto: auto", "service: {name: a} # here", "service"),
    (GATEWAY, "crypto: auto", "boundary: {} # here", "boundary"),
    (GATEWAY, "crypto: auto", "destinations: [] # here", "destinations"),
    (SERVICE, "rules:", "service_tokens: {} # here\nrules:", "service_tokens"),
    (EGRESS, "sharing:", "user: {source: claims} # here\nsharing:", "user"),
    (EGRESS, "sharing:", "rules: [] # here\nsharing:", "rules"),
    (
        EGRESS,
        "sharing:",
        "context:\n  forward_token: true # here\nsharing:",
        "context.forward_token",
    ),
    // `providers`
    (GATEWAY, "    issuer: https://idp.example\n", "", "providers.idp.issuer"),
    (GATEWAY, "issuer: https://idp.example", "issuer: \"\" # here", "providers.idp.issuer"),
    (GATEWAY, "audiences: [api]", "audience: [api] # here", "providers.idp.audience"),
    (GATEWAY, "audiences: [api]", "audiences: [] # here", "providers.idp.audiences"),
    (GATEWAY, "audiences: [api]", "audiences: api # here", "providers.idp.audiences"),
    (
        GATEWAY,
        "audiences: [api]",
        "audiences: [api]\n    allow_any_audience: true # here",
        "providers.idp.allow_any_audience",
    ),
    (
        GATEWAY,
        "audiences: [api]",
        "audiences: [api]\n    type: service # here",
        "providers.idp.type",
    ),
    (GATEWAY, "audiences: [api]", "audiences: [api]\n    type: robot # here", "providers.idp.type"),
    (
        GATEWAY,
        "audiences: [api]",
        "audiences: [api]\n    preset: auth0 # here",
        "providers.idp.preset",
    ),
    (
        GATEWAY,
        "audiences: [api]",
        "audiences: [api]\n    algorithms: [none] # here",
        "providers.idp.algorithms[0]",
    ),
    (
        GATEWAY,
        "audiences: [api]",
        "audiences: [api]\n    algorithms: [HS256] # here",
        "providers.idp.algorithms",
    ),
    (
        GATEWAY,
        "audiences: [api]",
        "audiences: [api]\n    clock_skew: 30 # here",
        "providers.idp.clock_skew",
    ),
    (
        GATEWAY,
        "audiences: [api]",
        "audiences: [api]\n    max_lifetime: 1 day # here",
        "providers.idp.max_lifetime",
    ),
    (
        GATEWAY,
        "audiences: [api]",
        "audiences: [api]\n    required_claims:\n      org: {} # here",
        "providers.idp.required_claims.org",
    ),
    (
        GATEWAY,
        "audiences: [api]",
        "audiences: [api]\n    from_headers: [] # here",
        "providers.idp.from_headers",
    ),
    (
        GATEWAY,
        "audiences: [api]",
        "audiences: [api]\n    from_headers: [{name: \"a b\"}] # here",
        "providers.idp.from_headers[0].name",
    ),
    (
        GATEWAY,
        "audiences: [api]",
        "audiences: [api]\n    from_cookies: [\"\"] # here",
        "providers.idp.from_cookies[0]",
    ),
    (
        GATEWAY,
        "    remote_jwks:\n      uri: https://idp.example/jwks\n      cluster: idp\n",
        "",
        "providers.idp",
    ),
    (
        GATEWAY,
        "    remote_jwks:\n",
        "    local_jwks: {keys: []}\n    remote_jwks:\n",
        "providers.idp",
    ),
    (
        GATEWAY,
        "    remote_jwks:\n      uri: https://idp.example/jwks\n      cluster: idp\n",
        "    local_jwks: {jwks: []} # here\n",
        "providers.idp.local_jwks",
    ),
    (
        GATEWAY,
        "uri: https://idp.example/jwks",
        "uri: idp/jwks # here",
        "providers.idp.remote_jwks.uri",
    ),
    (
        GATEWAY,
        "uri: https://idp.example/jwks",
        "uri: https://me:secret@idp/jwks # here",
        "providers.idp.remote_jwks.uri",
    ),
    (
        GATEWAY,
        "      cluster: idp\n",
        "      cluster: i d p # here\n",
        "providers.idp.remote_jwks.cluster",
    ),
    (
        GATEWAY,
        "      cluster: idp\n",
        "      cluster: idp\n      timeout: 2 seconds # here\n",
        "providers.idp.remote_jwks.timeout",
    ),
    (
        SERVICE,
        "audiences: [domain]",
        "audiences: [domain]\n    preset: clerk # here",
        "providers.edge.preset",
    ),
    (
        SERVICE,
        "      client_id: videos\n",
        "      client_id: \"\" # here\n",
        "providers.opaque.introspection.client_id",
    ),
    (
        SERVICE,
        "      client_secret: ${env:KEY}\n",
        "      client_secret: ${env:KEY # here\n",
        "providers.opaque.introspection.client_secret",
    ),
    // `user`
    (GATEWAY, "  source: lookup\n", "  source: ldap # here\n", "user.source"),
    (GATEWAY, "  key: [sub]\n", "  key: [] # here\n", "user.key"),
    (GATEWAY, "    cluster: users\n", "    cluster: ${env:C} # here\n", "user.lookup.cluster"),
    (
        GATEWAY,
        "    cluster: users\n",
        "    cluster: users\n    authority: a/b # here\n",
        "user.lookup.authority",
    ),
    (GATEWAY, "path: /users/{key}", "path: /users # here", "user.lookup.path"),
    (GATEWAY, "path: /users/{key}", "path: /users/{key}/{id} # here", "user.lookup.path"),
    (GATEWAY, "path: /users/{key}", "path: users/{key} # here", "user.lookup.path"),
    (GATEWAY, "key_field: /id", "key_field: id # here", "user.lookup.key_field"),
    (
        GATEWAY,
        "authorization: Bearer",
        "\"a:b\": Bearer # here\n      x-c:",
        "user.lookup.headers.a:b",
    ),
    (GATEWAY, "ttl: 300s", "ttl: 300 # here", "user.lookup.cache.ttl"),
    (GATEWAY, "ttl: 300s", "max_entries: 1 # here", "user.lookup.cache.max_entries"),
    (
        GATEWAY,
        "      cluster: webdis\n  active",
        "      prefix: u\n  active",
        "user.lookup.redis.cluster",
    ),
    (GATEWAY, "sharing:\n  key: ${env:KEY}\n", "", "user.lookup.redis"),
    (GATEWAY, "sharing:\n  key: ${env:KEY}\n", "sharing:\n  key: short # here\n", "sharing.key"),
    (GATEWAY, "{field: /status, equals: ACTIVE}", "{field: /status} # here", "user.active.equals"),
    (SERVICE, "  source: claims\n", "  source: claims\n  key: [sub] # here\n", "user.key"),
    // `revocation`
    (GATEWAY, "uri: https://auth.example/revocations", "uri: auth # here", "revocation.feed.uri"),
    (
        GATEWAY,
        "    cluster: auth\n",
        "    cluster: auth\n    interval: often # here\n",
        "revocation.feed.interval",
    ),
    (GATEWAY, "keys: [\"revoked:{jti}\"]", "keys: [revoked] # here", "revocation.redis.keys[0]"),
    (
        GATEWAY,
        "keys: [\"revoked:{jti}\"]",
        "keys: [\"{a}\", \"{b}\", \"{c}\", \"{d}\", \"{e}\", \"{f}\", \"{g}\", \"{h}\", \"{i}\"] # here",
        "revocation.redis.keys",
    ),
    (
        GATEWAY,
        "  redis:\n    cluster: webdis\n",
        "  on_unavailable: pass # here\n  redis:\n    cluster: webdis\n",
        "revocation.on_unavailable",
    ),
    // `context`
    (
        GATEWAY,
        "x-user-id: {user: /id,",
        "x-user-id: {user: id, # here\n      ",
        "context.headers.x-user-id.user",
    ),
    (
        GATEWAY,
        "x-user-id: {user: /id,",
        "x-user-id: {user: /id, claim: /id, # here\n      ",
        "context.headers.x-user-id",
    ),
    (GATEWAY, "x-user-id: {user: /id,", "x-user-id: { # here\n      ", "context.headers.x-user-id"),
    (GATEWAY, "    x-user-id: {", "    cookie: { # here\n      ", "context.headers.cookie"),
    (
        GATEWAY,
        "    x-user-id: {",
        "    x-envoy-user: { # here\n      ",
        "context.headers.x-envoy-user",
    ),
    (
        GATEWAY,
        "  headers:\n    x-user-id: {user: /id, required: true}",
        "  headers: {} # here",
        "context.headers",
    ),
    // `rules`
    (GATEWAY, "path_prefix: /api", "path_prefix: api # here", "rules[0].match.path_prefix"),
    (GATEWAY, "path_prefix: /api", "path_prefix: /a/../b # here", "rules[0].match.path_prefix"),
    (GATEWAY, "path_prefix: /api", "path_prefix: /a%20b # here", "rules[0].match.path_prefix"),
    (GATEWAY, "path_prefix: /api", "path_prefix: /a//b # here", "rules[0].match.path_prefix"),
    (GATEWAY, "  - match:\n", "  - match: # here\n      path: /a\n", "rules[0].match"),
    (GATEWAY, "      path_prefix: /api\n", "", "rules[0].match"),
    (GATEWAY, "methods: [GET]", "methods: [get] # here", "rules[0].match.methods"),
    (GATEWAY, "require: user", "require: admin # here", "rules[0].require"),
    (GATEWAY, "require: user", "require: optional # here", "rules[0].require"),
    (
        GATEWAY,
        "    require: user\n    roles: [ADMIN]",
        "    require: service # here",
        "rules[0].require",
    ),
    (GATEWAY, "roles: [ADMIN]", "role: [ADMIN] # here", "rules[0].role"),
    (GATEWAY, "roles: [ADMIN]", "roles: [] # here", "rules[0].roles"),
    // `txn_token`
    (GATEWAY, "    kid: g1\n", "    kid: \"\" # here\n", "txn_token.issue.kid"),
    (GATEWAY, "    kid: g1\n", "    kid: g1\n    alg: RS256 # here\n", "txn_token.issue.alg"),
    (GATEWAY, "    kid: g1\n", "    kid: g1\n    ttl: one minute # here\n", "txn_token.issue.ttl"),
    (GATEWAY, "jwks_path: /keys", "jwks_path: keys # here", "txn_token.jwks_path"),
    (
        GATEWAY,
        "jwks_path: /keys",
        "jwks_path: /keys\n  also_publish: [{kty: OKP, kid: a, crv: Ed25519, x: a, d: a}] # here",
        "txn_token.also_publish[0]",
    ),
    // `limits`
    (GATEWAY, "max_waiters: 10", "max_waiters: 0 # here", "limits.max_waiters"),
    (GATEWAY, "max_waiters: 10", "max_waiters: ten # here", "limits.max_waiters"),
    (GATEWAY, "max_waiters: 10", "max_token_bytes: 100000 # here", "limits.max_token_bytes"),
    // `service` and `boundary`
    (SERVICE, "service:\n  name: videos\n", "", "service"),
    (SERVICE, "  name: videos\n", "  name: \"vidéos\" # here\n", "service.name"),
    (SERVICE, "sa/*", "sa/v* # here", "boundary.peers[0].spiffe_id"),
    (
        SERVICE,
        "service_name: \"*\"",
        "service_name: \" a\" # here",
        "boundary.peers[0].service_name",
    ),
    (
        SERVICE,
        "sa/*\n      service_name: \"*\"",
        "sa/a\n      service_name: \"*\" # here",
        "boundary.peers[0].service_name",
    ),
    (SERVICE, "otherwise: authenticate", "otherwise: shrug # here", "boundary.otherwise"),
    (
        SERVICE,
        "    permissions: [internal]",
        "    permissions: [] # here",
        "boundary.service_tokens.permissions",
    ),
    (
        SERVICE,
        "    from: [",
        "    from: [b, # here\n      ",
        "boundary.forwarded_client_cert.from[0]",
    ),
    (SERVICE, "user:\n  source: claims\n", "", "user"),
    // `destinations`, `service_tokens` and `propagation`
    (EGRESS, "clusters: [channels]", "clusters: [] # here", "destinations[0].clusters"),
    (EGRESS, "context: forward", "context: keep # here", "destinations[0].context"),
    (EGRESS, "context: forward", "user_token: keep # here", "destinations[0].user_token"),
    (EGRESS, "  signed:\n", "  none: {} # here\n  signed:\n", "service_tokens.none"),
    (
        EGRESS,
        "      issuer: mesh\n",
        "      issuer: \"\" # here\n",
        "service_tokens.signed.sign.issuer",
    ),
    (
        EGRESS,
        "      key: ${env:KEY}\n",
        "      key: hush # here\n",
        "service_tokens.signed.sign.key",
    ),
    (EGRESS, "      client_id: videos\n", "", "service_tokens.asked.client_credentials.client_id"),
    (EGRESS, "  by_request_id: true", "  by_request: true # here", "propagation.by_request"),
    (EGRESS, "sharing:\n  key: ${env:KEY}\n", "", "propagation"),
    // `authz`, `answers`, `cors` and `login`
    (AUTHZ, "address: 10.0.0.0/8", "address: gateway # here", "authz.peers[0].address"),
    (AUTHZ, "- address: 10.0.0.0/8", "- {} # here", "authz.peers[0]"),
    (AUTHZ, "original_uri: [x-original-uri]", "original_uri: [] # here", "authz.original_uri"),
    (AUTHZ, "authz:\n", "cors: {allow_origins: [https://a.example]} # here\nauthz:\n", "cors"),
    (AUTHZ, "authz:\n", "service: {name: a} # here\nauthz:\n", "service"),
    (GATEWAY, "crypto: auto", "authz: {} # here\ncrypto: auto", "authz"),
    (
        AUTHZ,
        "      json: {error: \"{code}\"}",
        "      status: 200 # here",
        "answers.bodies.403.status",
    ),
    (AUTHZ, "      json: {", "      text: x\n      json: {", "answers.bodies.403"),
    (GATEWAY, "preflight: answer", "preflight: ignore # here", "cors.preflight"),
    (
        GATEWAY,
        "allow_origins: [https://www.example.com]",
        "allow_origins: [www.example.com] # here",
        "cors.allow_origins[0]",
    ),
    (
        GATEWAY,
        "preflight: answer",
        "allow_credentials: true\n  allow_headers: [a]\n  max_age: 2 # here",
        "cors.max_age",
    ),
    (GATEWAY, "  origins: [https://www.example.com]\n", "", "login.origins"),
    (
        GATEWAY,
        "crypto: auto",
        "access_log: {facts: [user]} # here\ncrypto: auto",
        "access_log.facts[0]",
    ),
    (
        AUTHZ,
        "path_template: /videos/{id}",
        "path_template: /videos/{id # here",
        "rules[0].match.path_template",
    ),
    (
        AUTHZ,
        "      path_template: /videos/{id}",
        "      path: /\n      path_template: /videos/{id}",
        "rules[0].match",
    ),
    (AUTHZ, "hosts: [api.example.com]", "hosts: [https://a] # here", "rules[0].match.hosts[0]"),
    (AUTHZ, "scopes: [video:read]", "scopes: [a b] # here", "rules[0].scopes[0]"),
    (AUTHZ, "claims: {org: [acme]}", "claims: {org: {}} # here", "rules[0].claims.org"),
    (AUTHZ, "max_age: 10m", "max_age: ten # here", "rules[0].max_age"),
    (AUTHZ, "require: user", "require: optional # here", "rules[0].require"),
];

/// What `check` knows and a schema cannot, or not without being read by nobody: bounds of durations, what one
/// part must be because of what another is called or says, and what is in a key. docs/cli.md lists it.
const BEYOND_THE_SCHEMA: &[Case] = &[
    (GATEWAY, "ttl: 300s", "ttl: 48h # here", "user.lookup.cache.ttl"),
    (GATEWAY, "ttl: 300s", "ttl: 500ms # here", "user.lookup.cache.ttl"),
    (
        GATEWAY,
        "    cluster: auth\n",
        "    cluster: auth\n    max_age: 2s # here\n",
        "revocation.feed.max_age",
    ),
    (GATEWAY, "    kid: g1\n", "    kid: g1\n    reuse: 50s # here\n", "txn_token.issue.reuse"),
    (
        GATEWAY,
        "    key: ${env:KEY}\n    kid",
        "    key: '{}' # here\n    kid",
        "txn_token.issue.key",
    ),
    (GATEWAY, "    x-user-id: {", "    Cookie: { # here\n      ", "context.headers.Cookie"),
    (
        GATEWAY,
        "x-user-id: {user: /id, required: true}",
        "x-user-id: {user: /id}\n    x_user_id: {user: /id} # here",
        "context.headers.x_user_id",
    ),
    (
        GATEWAY,
        "audiences: [api]",
        "audiences: [api]\n    from_headers: [{name: x-user-id}] # here",
        "providers.idp.from_headers",
    ),
    (
        GATEWAY,
        "user:\n",
        "  twin:\n    issuer: https://idp.example # here\n    audiences: [api]\n    remote_jwks: {uri: https://a/, cluster: a}\nuser:\n",
        "providers.twin.issuer",
    ),
    (
        SERVICE,
        "x: 11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
        "x: AA",
        "providers.mesh.local_jwks",
    ),
    (
        SERVICE,
        "    provider: mesh\n",
        "    provider: idp # here\n",
        "boundary.service_tokens.provider",
    ),
    (
        SERVICE,
        "    provider: edge\n",
        "    provider: nobody # here\n",
        "boundary.txn_token.provider",
    ),
    (
        EGRESS,
        "service_token: asked",
        "service_token: other # here",
        "destinations[0].service_token",
    ),
    (
        EGRESS,
        "context: forward\n",
        "user_token: forward\n    context: forward\n",
        "destinations[0].service_token",
    ),
];

/// What is told of each of these texts: lines and paths.
fn told(dir: &str, texts: &[String]) -> Vec<Vec<(u64, String)>> {
    let dir = directory(dir);
    let files: Vec<String> = (0..texts.len())
        .map(|number| dir.join(format!("{number}.yaml")).to_str().unwrap().to_owned())
        .collect();
    for (file, text) in files.iter().zip(texts) {
        fs::write(file, text).unwrap();
    }
    let mut arguments = vec!["check", "--format", "json"];
    arguments.extend(files.iter().map(String::as_str));
    let ran = meshgate(&arguments, &[], "");
    assert_eq!(ran.stderr, "");
    let told: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(told["configs"], texts.len());
    let mut all: BTreeMap<&str, Vec<(u64, String)>> = BTreeMap::new();
    for finding in told["findings"].as_array().unwrap() {
        if finding["severity"] == "error" {
            let line = finding["line"].as_u64().unwrap();
            let path = finding["path"].as_str().unwrap().to_owned();
            all.entry(finding["file"].as_str().unwrap()).or_default().push((line, path));
        }
    }
    files.iter().map(|file| all.remove(file.as_str()).unwrap_or_default()).collect()
}

fn broken((base, part, instead, _): &Case) -> String {
    assert_eq!(base.matches(part).count(), 1, "{part:?} must stand there once");
    base.replacen(part, instead, 1)
}

fn assert_told_by_check(dir: &str, cases: &[Case]) {
    let texts: Vec<String> = cases.iter().map(broken).collect();
    for ((case, text), told) in cases.iter().zip(&texts).zip(told(dir, &texts)) {
        let [(line, path)] = told.as_slice() else {
            panic!("{}: {told:?} is not one problem\n{text}", case.3);
        };
        assert_eq!(path, case.3, "{text}");
        // What is missing is told of what it is missing in.
        if let Some(here) = text.lines().position(|line| line.contains("# here")) {
            assert_eq!(*line, u64::try_from(here).unwrap() + 1, "{path}\n{text}");
        }
    }
}

fn is_valid(text: &str) -> bool {
    validator().is_valid(&yaml_serde::from_str(text).unwrap())
}

#[test]
fn the_configs_that_are_broken_here_are_good_otherwise() {
    let bases = [GATEWAY, SERVICE, EGRESS, AUTHZ];
    assert_eq!(told("good", &bases.map(str::to_owned)), [vec![], vec![], vec![], vec![]]);
    assert!(bases.iter().all(|base| is_valid(base)));
}

#[test]
fn check_names_what_is_broken_and_its_line() {
    assert_told_by_check("broken", CASES);
    assert_told_by_check("beyond", BEYOND_THE_SCHEMA);
}

#[test]
fn the_schema_refuses_what_check_refuses() {
    let validator = validator();
    for case in CASES {
        let text = broken(case);
        let config: Value = yaml_serde::from_str(&text).unwrap();
        assert!(!validator.is_valid(&config), "{}\n{text}", case.3);
    }
}

#[test]
fn what_only_check_knows_is_still_beyond_the_schema() {
    for case in BEYOND_THE_SCHEMA {
        assert!(is_valid(&broken(case)), "move {} to the other cases", case.3);
    }
}

#[test]
fn every_section_of_a_config_is_broken_somewhere() {
    let schema = meshgate::config::schema();
    for section in schema["properties"].as_object().unwrap().keys() {
        let broken = |case: &&Case| case.3.split(['.', '[']).next() == Some(section.as_str());
        assert!(CASES.iter().any(|case| broken(&case)), "{section}");
    }
}
