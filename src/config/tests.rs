//! What a config may say, and what it is told when it says something else.

use serde_json::{Value, json};

use super::*;

fn good() -> Value {
    json!({
        "mode": "gateway",
        "providers": {"clerk": {
            "issuer": "youtube-clone-auth",
            "audiences": ["youtube-clone-api"],
            "remote_jwks": {"uri": "https://clerk.example/jwks", "cluster": "clerk"},
        }},
        "user": {"source": "lookup", "lookup": {"cluster": "users", "path": "/users/{key}"}},
    })
}

fn problems(config: &Value) -> Vec<String> {
    match Config::parse(config.to_string().as_bytes(), &|_| None) {
        Ok(_) => Vec::new(),
        Err(error) => error.0.iter().map(Problem::to_string).collect(),
    }
}

/// The good config with the value at `pointer` replaced, or added.
fn with(pointer: &str, value: Value) -> Value {
    let mut config = good();
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    config.pointer_mut(parent).unwrap()[name] = value;
    config
}

#[test]
fn a_short_config_has_sane_defaults() {
    let config = Config::parse(good().to_string().as_bytes(), &|_| None).unwrap();
    let provider = &config.providers[0];
    assert_eq!(provider.clock_skew, Duration::from_secs(30));
    assert!(provider.require_expiration);
    assert_eq!(provider.algorithms, Algorithm::asymmetric());
    assert_eq!(provider.places.headers[0].name.as_str(), "authorization");
    let names: Vec<&str> = config.context.headers.iter().map(|h| h.name.as_str()).collect();
    assert_eq!(names, ["x-user-id", "x-user-clerk-id", "x-user-role", "x-user-channel-id"]);
    assert!(!config.context.forward_token);
    assert_eq!(config.limits.max_token_bytes, 8_192);
}

#[test]
fn numbers_of_a_protobuf_struct_are_doubles() {
    let mut config = with("/limits", json!({"max_waiters": 10.0}));
    config["user"]["lookup"]["cache"] = json!({"max_entries": 100.0});
    let config = Config::parse(config.to_string().as_bytes(), &|_| None).unwrap();
    assert_eq!(config.limits.max_waiters, 10);
    assert_eq!(
        problems(&with("/limits", json!({"max_waiters": 10.5}))),
        ["limits.max_waiters: invalid type: floating point, expected usize"]
    );
}

#[test]
fn istio_cluster_names_are_cluster_names() {
    let name = "outbound|80||users.default.svc.cluster.local";
    assert_eq!(problems(&with("/user/lookup/cluster", json!(name))), [""; 0]);
}

#[test]
fn every_problem_is_reported_at_once_and_says_what_to_do() {
    let config = json!({
        "mode": "gatway",
        "providers": {"clerk": {
            "issuer": "",
            "audience": ["youtube-clone-api"],
            "algorithms": ["RS256", "none", 7],
            "remote_jwks": {"uri": "clerk.example/jwks", "timeout": "2"},
            "clock_skew": "1h",
        }},
        "user": {"source": "lookup", "lookup": {"cluster": "users", "path": "/users", "cache": {"ttl": 300}}},
        "context": {"headers": {"x-user-id": {"user": "id"}, "content-length": {"user": "/id"}}},
        "rules": [{"match": {"path_prefix": "/a/../b"}, "require": "admin"}, {"require": "optional", "roles": ["X"]}, 5],
        "limits": {"max_waiters": 0},
        "colour": "blue",
    });
    assert_eq!(
        problems(&config),
        [
            "colour: unknown field, there are `mode`, `service`, `boundary`, `destinations`, `service_tokens`, `propagation`, `txn_token`, `providers`, `user`, `revocation`, `context`, `rules`, `authz`, `answers`, `cors`, `login`, `access_log`, `crypto`, `sharing`, `limits`",
            "providers.clerk.algorithms[2]: invalid type: integer, expected a string",
            "providers.clerk.audience: unknown field, did you mean `audiences`?",
            "rules[2]: invalid type: integer, expected an object of Rule",
            "user.lookup.cache.ttl: invalid type: integer, expected a string",
            "mode: `gatway` is not a mode, write `gateway`, `service`, `egress` or `authz`",
            "providers.clerk.issuer: is empty",
            "providers.clerk.algorithms[1]: `none` is not an algorithm, there are `RS256`, `RS384`, `RS512`, `PS256`, `PS384`, `PS512`, `ES256`, `ES384`, `ES512`, `ES256K`, `EdDSA`, `Ed25519`, `HS256`, `HS384`, `HS512`, `ML-DSA-44`, `ML-DSA-65`, `ML-DSA-87`",
            "providers.clerk.remote_jwks.uri: `clerk.example/jwks` is not an absolute http or https URI",
            "providers.clerk.remote_jwks.cluster: is required",
            "providers.clerk.remote_jwks.timeout: `2` is not a duration, write a number and a unit such as `250ms`, `30s`, `10m` or `24h`",
            "providers.clerk.clock_skew: must be from 0s to 10m",
            "user.lookup.path: names no user, put `{key}` where the user's key goes, there or in a text of `body`",
            "context.headers.content-length: this header has another meaning, choose a name such as `x-user-email`",
            "context.headers.x-user-id.user: `id` is not a JSON Pointer, write `/id` (RFC 6901)",
            "rules[0].match.path_prefix: `/a/../b` must be a plain path: no query, no escapes, no `//`, `.` or `..`",
            "rules[0].require: `admin` is not a requirement, write `anonymous`, `optional` or `user`",
            "rules[1].match: is required, write `match: {path_prefix: /}` to match everything",
            "rules[1].require: roles, permissions, scopes, claims and max_age need `require: user`",
            "limits.max_waiters: must be from 1 to 1000000",
        ]
    );
}

#[test]
fn what_is_no_config_at_all_is_said_so() {
    for (text, message) in [
        (&b""[..], "is empty"),
        (b"  \n", "is empty"),
        (b"mode: gateway", "is neither JSON nor"),
        (b"\xff", "is neither JSON nor"),
        (b"[]", "is not a JSON object"),
        (b"{\"mode\":\"gateway\",\"mode\":\"gateway\"}", "two members of one name"),
    ] {
        let error = Config::parse(text, &|_| None).unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
    }
    assert_eq!(
        problems(&json!({})),
        ["mode: is required", "providers: is required", "user: is required"]
    );
}

#[test]
fn a_thousand_problems_are_cut_short() {
    let rules: Vec<Value> = (0..1_000).map(|_| json!({})).collect();
    assert_eq!(problems(&with("/rules", json!(rules))).len(), 50);
    let fields: serde_json::Map<String, Value> =
        (0..1_000).map(|n| (format!("field{n}"), json!(n))).collect();
    assert!(problems(&Value::Object(fields)).len() <= 50);
}

#[test]
fn single_mistakes_are_told_by_path() {
    for (config, problem) in [
        (with("/providers", json!({})), "providers: name at least one token issuer"),
        (
            with("/providers/clerk/audiences", json!([])),
            "providers.clerk.audiences: is empty, name at least one or remove it",
        ),
        (
            with("/providers/clerk/allow_any_audience", json!(true)),
            "providers.clerk.allow_any_audience: cannot be true beside `audiences`, keep one of them",
        ),
        (
            with("/providers/other", good()["providers"]["clerk"].clone()),
            "providers.other.issuer: provider `clerk` has this issuer too, and a token is checked by one provider",
        ),
        (with("/user/lookup/timeout", json!("0s")), "user.lookup.timeout: must be from 1ms to 60s"),
        (
            with("/user/lookup/headers", json!({"x-key": "${env:KEY}"})),
            "user.lookup.headers.x-key: the VM has no environment variable `KEY`, add it to `vm_config.environment_variables` (Istio: `vmConfig.env`)",
        ),
        (
            with("/user/lookup/cluster", json!("${env:CLUSTER}")),
            "user.lookup.cluster: `${env:...}` is read in secrets only (`sharing.key`, `txn_token.issue.key`, `client_secret`, `sign.key`, the values of `headers` of a call)",
        ),
        (
            with("/user/lookup/redis", json!({"cluster": "webdis"})),
            "user.lookup.redis: needs `sharing: {key: ...}`, the same in all proxies: records in Redis are signed with it",
        ),
        (
            {
                let mut config = with("/sharing", json!({"key": "sixteen random bytes"}));
                config["user"]["lookup"]["redis"] = json!({"cluster": "webdis"});
                config["user"]["lookup"]["cache"] = json!({"ttl": "500ms"});
                config
            },
            "user.lookup.cache.ttl: must be 1s or more with `redis`, which counts in seconds, or nothing would be stored there",
        ),
        (
            with("/revocation", json!({"redis": {"cluster": "webdis", "keys": ["revoked"]}})),
            "revocation.redis.keys[0]: `revoked` names no claim, write a key such as `revoked:{jti}` or `revoked:user:{sub}`",
        ),
        (
            with("/revocation", json!({"redis": {"cluster": "webdis", "keys": ["a:{}"]}})),
            "revocation.redis.keys[0]: `a:{}` has a `{` without a claim's name and a `}`",
        ),
        (
            with("/revocation", json!({"redis": {"cluster": "webdis", "keys": vec!["{jti}"; 9]}})),
            "revocation.redis.keys: has more than 8 keys",
        ),
        (
            with("/revocation", json!({"redis": {"cluster": "webdis"}, "on_unavailable": "pass"})),
            "revocation.on_unavailable: `pass` is not an answer, write `deny` or `allow`",
        ),
        (
            with(
                "/revocation",
                json!({"feed": {"uri": "http://auth/r", "cluster": "auth", "max_age": "3s"}}),
            ),
            "revocation.feed.max_age: must be longer than `interval` and `timeout` together, or the list is too old before it is asked for anew",
        ),
        (
            with("/revocation", json!({"feed": {"uri": "auth/r", "cluster": "auth"}})),
            "revocation.feed.uri: `auth/r` is not an absolute http or https URI",
        ),
        (
            with("/user/source", json!("claims")),
            "user.lookup: has no use with `source: claims`, remove it",
        ),
        (
            with(
                "/rules",
                json!([{"match": {"path": "/a", "methods": ["get"]}, "require": "user"}]),
            ),
            "rules[0].match.methods: `get` never matches, write `GET`",
        ),
        (
            with("/context", json!({"headers": {"x-a": {"user": "/a", "claim": "/a"}}})),
            "context.headers.x-a: has `user` and `claim`, keep the one its value comes from",
        ),
        (
            with("/rules", json!([{"match": {"path": "/a"}, "require": "user", "role": ["A"]}])),
            "rules[0].role: unknown field, did you mean `roles`?",
        ),
    ] {
        assert_eq!(problems(&config), [problem]);
    }
}

#[test]
fn a_secret_never_shows_in_an_error_or_in_debug_output() {
    let config = with("/user/lookup/headers", json!({"x-key": "${env:KEY}"}));
    let text = config.to_string();
    let error = Config::parse(text.as_bytes(), &|_| Some("hush\n".to_owned())).unwrap_err();
    assert_eq!(
        error.0[0].to_string(),
        "user.lookup.headers.x-key: its value is not a legal header value"
    );
    for (place, value) in [
        ("/sharing", json!("hush, expected x")),
        ("/sharing", json!({"key": ["hush\", expected x"]})),
        ("/user/lookup/headers", json!("hush")),
        ("/user/lookup/headers", json!({"x-key": {"hush": 1}})),
        ("/revocation", json!({"feed": {"headers": {"x-key": "hush\n"}}})),
        ("/revocation", json!({"redis": {"headers": {"x-key": ["hush"]}}})),
    ] {
        let told = problems(&with(place, value));
        assert!(!told.is_empty() && !told.concat().contains("hush"), "{told:?}");
    }
    let config = Config::parse(text.as_bytes(), &|_| Some("hush".to_owned())).unwrap();
    assert!(!format!("{config:?}").contains("hush"));
}

#[test]
fn what_could_never_work_is_refused() {
    for (config, problem) in [
        (
            with("/providers/clerk/from_headers", json!([{"name": "Txn-Token"}])),
            "providers.clerk.from_headers: `txn-token` is stripped from every request, name another header",
        ),
        (
            with("/providers/clerk/from_headers", json!([{"name": "x_user_id"}])),
            "providers.clerk.from_headers: `x_user_id` is stripped from every request, name another header",
        ),
        (
            with(
                "/context",
                json!({"headers": {"X-User-Id": {"user": "/id"}, "x_user_id": {"user": "/id"}}}),
            ),
            "context.headers.x_user_id: another header here has the same name, but for case or `_`",
        ),
        (
            with("/providers/clerk/algorithms", json!(["HS256", "HS512"])),
            "providers.clerk.algorithms: HMAC keys are taken from `local_jwks` only, so no token could be verified",
        ),
    ] {
        assert_eq!(problems(&config), [problem]);
    }
    // One that can be used beside them is enough.
    let mixed = with("/providers/clerk/algorithms", json!(["HS256", "ES256"]));
    assert_eq!(problems(&mixed), [""; 0]);
}

fn egress() -> Value {
    json!({
        "mode": "egress",
        "service": {"name": "videos-service"},
        "providers": {"clerk": {}},
        "destinations": [{"clusters": ["channels"], "context": "forward", "service_token": "mesh"}],
        "service_tokens": {"mesh": {"client_credentials": {
            "uri": "https://idp.internal/token", "cluster": "idp", "client_id": "videos",
            "client_secret": "${env:CLIENT_SECRET}",
        }}},
    })
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn an_exit_needs_little_and_what_it_cannot_use_is_refused() {
    let told = |change: &dyn Fn(&mut Value)| {
        let mut config = egress();
        change(&mut config);
        let env = |name: &str| (name == "CLIENT_SECRET").then(|| "hush".to_owned());
        match Config::parse(config.to_string().as_bytes(), &env) {
            Ok(_) => String::new(),
            Err(error) => error.0.iter().map(Problem::to_string).collect::<Vec<_>>().join("; "),
        }
    };
    assert_eq!(told(&|_| ()), "");
    assert_eq!(told(&|config| config["answers"] = json!({"realm": "exit"})), "");
    let cases: [(&str, Value, &str); 28] = [
        ("/boundary", json!({}), "boundary: has no use with `mode: egress`, remove it"),
        ("/user", json!({"source": "claims"}), "user: has no use with `mode: egress`, remove it"),
        ("/revocation", json!({}), "revocation: has no use with `mode: egress`, remove it"),
        ("/rules", json!([]), "rules: has no use with `mode: egress`, remove it"),
        ("/cors", json!({}), "cors: has no use with `mode: egress`, remove it"),
        ("/login", json!({}), "login: has no use with `mode: egress`, remove it"),
        ("/crypto", json!("auto"), "crypto: has no use with `mode: egress`, remove it"),
        (
            "/context",
            json!({"forward_token": true}),
            "context.forward_token: has no use with `mode: egress`, write `user_token: forward` for a destination",
        ),
        ("/service", Value::Null, "service: is required"),
        ("/providers", Value::Null, "providers: is required"),
        ("/destinations", Value::Null, "destinations: is required"),
        (
            "/destinations/0/clusters",
            json!([]),
            "destinations[0].clusters: is empty, name at least one or remove it",
        ),
        (
            "/destinations/0/clusters",
            json!(["a b"]),
            "destinations[0].clusters[0]: `a b` names no Envoy cluster, write a name such as `users` or `outbound|80||users.*`",
        ),
        (
            "/destinations/0/context",
            json!("keep"),
            "destinations[0].context: `keep` is neither `strip` nor `forward`",
        ),
        (
            "/destinations/0/user_token",
            json!("forward"),
            "destinations[0].service_token: goes in `authorization`, where the user's token may stand that is forwarded, give it another header: `service_tokens.mesh.header`",
        ),
        (
            "/destinations/0/service_token",
            json!("mash"),
            "destinations[0].service_token: there is no `service_tokens.mash`",
        ),
        (
            "/service_tokens/mesh",
            json!({}),
            "service_tokens.mesh: says not where the token comes from, add `client_credentials` or `sign`",
        ),
        (
            "/service_tokens/mesh/sign",
            json!({}),
            "service_tokens.mesh: has `client_credentials` and `sign`, keep one of them",
        ),
        (
            "/service_tokens/mesh/client_credentials/cluster",
            Value::Null,
            "service_tokens.mesh.client_credentials.cluster: is required",
        ),
        (
            "/service_tokens/mesh/client_credentials/client_secret",
            json!("${env:NONE}"),
            "service_tokens.mesh.client_credentials.client_secret: the VM has no environment variable `NONE`, add it to `vm_config.environment_variables` (Istio: `vmConfig.env`)",
        ),
        (
            "/service_tokens/mesh/header",
            json!({"name": "cookie"}),
            "service_tokens.mesh.header.name: this header has another meaning, choose a name such as `x-user-email`",
        ),
        (
            "/service_tokens/mesh/header",
            json!({"name": "x-a", "value_prefix": "a\nb"}),
            "service_tokens.mesh.header.value_prefix: is not the beginning of a legal header value",
        ),
        (
            "/service_tokens/mesh/header",
            json!({"name": "x-user-id"}),
            "context.headers: `x-user-id` is the header of a service token, too, give that another one",
        ),
        (
            "/service_tokens/mesh",
            json!({"sign": {"key": "hush", "issuer": "a", "audience": "b"}}),
            "service_tokens.mesh.sign.key: is not a JWK (RFC 7517) as JSON text",
        ),
        (
            "/service_tokens/mesh",
            json!({"sign": {"key": KEY, "issuer": "a", "audience": "b", "alg": "ES256"}}),
            "service_tokens.mesh.sign.alg: the key signs `EdDSA`",
        ),
        (
            "/service_tokens/mesh",
            json!({"sign": {"key": KEY, "issuer": "a", "audience": "b", "ttl": "10500ms"}}),
            "service_tokens.mesh.sign.ttl: must be whole seconds",
        ),
        (
            "/propagation",
            json!({"by_request_id": true}),
            "propagation: needs `sharing: {key: ...}`, the same in the filters of both directions: they tell each other by it",
        ),
        ("/propagation", json!({}), "propagation.by_request_id: is required"),
    ];
    for (pointer, value, problem) in cases {
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        let found = told(&|config| {
            let parent = config.pointer_mut(parent).unwrap();
            match name.parse::<usize>() {
                Ok(index) => parent[index] = value.clone(),
                Err(_) => parent[name] = value.clone(),
            }
        });
        assert_eq!(found, problem, "{pointer}");
    }
    let taken = told(&|config| {
        config["providers"]["clerk"]["from_headers"] = json!([{"name": "x-service-token"}]);
        config["service_tokens"]["mesh"]["header"] = json!({"name": "x_service_token"});
    });
    assert_eq!(
        taken,
        "service_tokens.mesh.header: `x_service_token` is where users' tokens stand, name another header"
    );
    for (field, value) in
        [("destinations", json!([])), ("service_tokens", json!({})), ("propagation", json!({}))]
    {
        assert_eq!(
            problems(&with(&format!("/{field}"), value)),
            [format!("{field}: has no use with `mode: gateway`, remove it")]
        );
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn mistakes_in_how_refusals_are_answered_are_told_with_the_remedy() {
    let site = "https://www.example.com";
    let login = "https://accounts.example.com/sign-in?redirect_url={original_url}";
    let body = |body: Value| json!({"bodies": {"401": body}});
    for (field, value, problem) in [
        ("cors", json!({}), "cors.allow_origins: is required"),
        (
            "cors",
            json!({"allow_origins": []}),
            "cors.allow_origins: is empty, name at least one or remove it",
        ),
        (
            "cors",
            json!({"allow_origins": [site, "https://www.example.com/"]}),
            "cors.allow_origins[1]: `https://www.example.com/` is not an origin, which is a scheme, a host and a port only, without a `/` at the end",
        ),
        (
            "cors",
            json!({"allow_origins": [site, "*"], "allow_credentials": true}),
            "cors.allow_origins: `*` with `allow_credentials: true` lets any site act as the user, name the origins",
        ),
        (
            "cors",
            json!({"allow_origins": ["null"], "allow_credentials": true}),
            "cors.allow_origins: `null` with `allow_credentials: true` lets any site act as the user, name the origins",
        ),
        (
            "cors",
            json!({"allow_origins": [site], "allow_methods": ["GET", "patch"]}),
            "cors.allow_methods: `patch` is not a method, write its name in upper case, such as `PATCH`",
        ),
        (
            "cors",
            json!({"allow_origins": [site], "allow_methods": ["*"]}),
            "cors.allow_methods: `*` is not a method, write its name in upper case, such as `PATCH`",
        ),
        (
            "cors",
            json!({"allow_origins": [site], "allow_headers": ["*"]}),
            "cors.allow_headers[0]: `*` is not what browsers take for all headers, name them",
        ),
        (
            "cors",
            json!({"allow_origins": [site], "expose_headers": ["a b"]}),
            "cors.expose_headers[0]: `a b` is not a header name (RFC 9110 section 5.1)",
        ),
        (
            "cors",
            json!({"allow_origins": [site], "max_age": "2d"}),
            "cors.max_age: must be from 0s to 1d",
        ),
        (
            "cors",
            json!({"allow_origins": [site], "max_age": "1m", "preflight": "pass"}),
            "cors.max_age: has no use with `preflight: pass`, where the upstream answers, remove it",
        ),
        (
            "cors",
            json!({"allow_origins": [site], "preflight": "ignore"}),
            "cors.preflight: `ignore` is nothing that becomes of preflights, write `answer` or `pass`",
        ),
        (
            "cors",
            json!({"allow_origin": [site]}),
            "cors.allow_origin: unknown field, did you mean `allow_origins`?",
        ),
        (
            "answers",
            json!({"realm": "a\"b"}),
            "answers.realm: must be visible ASCII and inner spaces without `\"` and `\\`, 256 bytes at most",
        ),
        (
            "answers",
            json!({"type_prefix": "errors/"}),
            "answers.type_prefix: must be the beginning of a URI such as `https://errors.example.com/`, 256 bytes at most",
        ),
        (
            "answers",
            json!({"bodies": {"404": {"text": "x"}}}),
            "answers.bodies.404: is no code of a refusal such as `token_expired`, no status of one such as `403`, and neither `4xx` nor `5xx`",
        ),
        (
            "answers",
            body(json!({})),
            "answers.bodies.401: changes nothing, add `json`, `text` or `status`",
        ),
        (
            "answers",
            body(json!({"json": {}, "text": "x"})),
            "answers.bodies.401: has `json` and `text`, keep one of them",
        ),
        (
            "answers",
            body(json!({"text": "x", "status": 200})),
            "answers.bodies.401.status: must be from 400 to 599: a refusal stays one",
        ),
        (
            "answers",
            json!({"bodies": {"403": {"status": 401}}}),
            "answers.bodies.403.status: cannot be made 401, which needs a challenge",
        ),
        (
            "answers",
            body(json!({"content_type": "text/html"})),
            "answers.bodies.401.content_type: is of a body, add `json` or `text`",
        ),
        (
            "answers",
            body(json!({"json": {"id": ["{reqest_id}"]}})),
            "answers.bodies.401.json.id[0]: `{reqest_id}` is not a place, there are `{code}`, `{status}`, `{detail}` and `{request_id}`",
        ),
        (
            "answers",
            body(json!({"json": {}, "content_type": "text/html"})),
            "answers.bodies.401.content_type: must be a type of JSON, such as `application/json` or `application/problem+json`",
        ),
        (
            "answers",
            body(json!({"text": "{code", "content_type": "application/json"})),
            "answers.bodies.401.text: is not JSON, as its `content_type` says, write it as `json: ...`",
        ),
        (
            "answers",
            body(json!({"text": "<id>{request_id}</id>", "content_type": "application/xml"})),
            "answers.bodies.401.content_type: it is not known how a value is escaped in this type: write JSON, `text/html` or `text/plain`, or a text without places",
        ),
        (
            "answers",
            body(json!({"text": "x", "content_type": "text/html\r\nx: y"})),
            "answers.bodies.401.content_type: is not a media type, write one such as `text/html; charset=utf-8`",
        ),
        (
            "answers",
            body(json!({"text": "x".repeat(16_385)})),
            "answers.bodies.401.text: is longer than 16384 bytes",
        ),
        ("login", json!({}), "login.uri: is required"),
        (
            "login",
            json!({"uri": login}),
            "login.origins: is required with `{original_url}`, name the origins of this site, such as `https://www.example.com`",
        ),
        (
            "login",
            json!({"uri": login, "origins": ["*"]}),
            "login.origins: `*` would let people be sent anywhere once they signed in, name the origins of this site",
        ),
        (
            "login",
            json!({"uri": "//accounts.example.com/"}),
            "login.uri: is neither an http or https URI nor a path of this site, write `https://accounts.example.com/sign-in?redirect_url={original_url}` or `/sign-in?next={original_url}`",
        ),
        (
            "login",
            json!({"uri": "https://accounts.example.com/{original_url}", "origins": [site]}),
            "login.uri: has `{original_url}` before its `?`, give it a parameter such as `?redirect_url={original_url}`",
        ),
        (
            "login",
            json!({"uri": "/sign-in?next={url}"}),
            "login.uri: has a byte that must be percent-encoded, or a place that is not the one `{original_url}`",
        ),
        (
            "login",
            json!({"uri": "/sign-in", "codes": ["token_expired", "role_required"]}),
            "login.codes[1]: `role_required` is not mended by signing in, write codes of 401 such as `token_expired`",
        ),
        (
            "login",
            json!({"uri": "/sign-in", "codes": ["expired"]}),
            "login.codes[0]: `expired` is no code, write one such as `token_expired`",
        ),
    ] {
        assert_eq!(problems(&with(&format!("/{field}"), value)), [problem]);
    }
    for (field, value) in [
        ("cors", json!({"allow_origins": ["*", "null"], "expose_headers": []})),
        ("cors", json!({"allow_origins": [site], "preflight": "pass"})),
        ("answers", body(json!({"text": "<a/>", "content_type": "application/xml"}))),
        (
            "answers",
            json!({"bodies": {"5xx": {"status": 500}, "role_required": {"json": "{code}"}}}),
        ),
        ("login", json!({"uri": "/sign-in"})),
        ("login", json!({"uri": login, "origins": [site], "codes": ["token_malformed"]})),
    ] {
        assert_eq!(problems(&with(&format!("/{field}"), value)), [""; 0]);
    }
}

/// What a config is warned of: paths, and the beginnings of what is said.
#[track_caller]
fn assert_warned(config: &Value, expected: &[(&str, &str)]) {
    let env = |_: &str| Some("sixteen random bytes".to_owned());
    let config = Config::parse(config.to_string().as_bytes(), &env).unwrap();
    let told: Vec<(&str, &str)> =
        config.warnings.iter().map(|one| (one.path.as_str(), one.message.as_str())).collect();
    assert_eq!(told.len(), expected.len(), "{told:?}");
    for ((path, message), (at, begins)) in told.into_iter().zip(expected) {
        assert_eq!(path, *at);
        assert!(message.starts_with(begins), "{message}");
    }
}

#[test]
fn what_is_seldom_meant_is_warned_of_and_what_is_right_is_not() {
    let mut quiet = good();
    quiet["user"]["lookup"]["key_field"] = json!("/clerkId");
    assert_warned(&quiet, &[]);
    let of_key_field = ("user.lookup", "has no `key_field`");
    assert_warned(&good(), &[of_key_field]);

    let provider = |field: &str, value: Value| {
        let mut config = quiet.clone();
        config["providers"]["clerk"][field] = value;
        config
    };
    assert_warned(
        &provider("clock_skew", json!("121s")),
        &[("providers.clerk.clock_skew", "tokens are taken for so long")],
    );
    assert_warned(&provider("clock_skew", json!("2m")), &[]);
    let mut endless = provider("require_expiration", json!(false));
    assert_warned(&endless, &[("providers.clerk.require_expiration", "a token without `exp`")]);
    endless["providers"]["clerk"]["max_lifetime"] = json!("24h");
    assert_warned(&endless, &[]);

    let mut any = provider("allow_any_audience", json!(true));
    any["providers"]["clerk"].as_object_mut().unwrap().remove("audiences");
    assert_warned(&any, &[("providers.clerk.allow_any_audience", "tokens that the issuer made")]);
    any["providers"]["clerk"]["authorized_parties"] = json!(["https://www.example"]);
    assert_warned(&any, &[]);

    let mut shared = provider("algorithms", json!(["RS256", "HS256"]));
    assert_warned(&shared, &[]);
    let clerk = shared["providers"]["clerk"].as_object_mut().unwrap();
    clerk.remove("remote_jwks");
    clerk.insert("local_jwks".to_owned(), json!({"keys": [{"kty": "oct", "k": "A".repeat(43)}]}));
    assert_warned(&shared, &[("providers.clerk.algorithms", "who checks tokens with an HMAC key")]);
}

#[test]
fn what_is_asked_in_the_clear_is_warned_of_but_on_the_loopback_and_in_a_mesh() {
    let mesh = "outbound|80||auth.default.svc.cluster.local";
    for (uri, cluster, open) in [
        ("http://idp.example/jwks", "idp", true),
        ("http://idp.example:8080/jwks", "idp", true),
        ("http://10.0.0.1/jwks", "idp", true),
        ("http://localhost.example/jwks", "idp", true),
        ("http://127.0.0.1.example/jwks", "idp", true),
        ("http://[2001:db8::1]:80/jwks", "idp", true),
        ("http://idp.example/jwks", "outbound|80||idp.example", true),
        ("http://auth.default.svc.cluster.local/jwks", mesh, false),
        ("http://127.0.0.1:9100/jwks", "idp", false),
        ("http://[::1]:9100/jwks", "idp", false),
        ("http://localhost:9100/jwks", "idp", false),
        ("https://idp.example/jwks", "idp", false),
    ] {
        let config = json!({
            "mode": "gateway",
            "providers": {
                "a": {"issuer": "a", "audiences": ["x"], "remote_jwks": {"uri": uri, "cluster": cluster}},
                "b": {"issuer": "b", "audiences": ["x"], "discovery": {"uri": uri, "cluster": cluster}},
                "c": {"issuer": "c", "audiences": ["x"], "introspection": {
                    "uri": uri, "cluster": cluster, "client_id": "c", "client_secret": "${env:S}",
                }},
            },
            "user": {"source": "claims"},
            "revocation": {"feed": {"uri": uri, "cluster": cluster}},
        });
        let paths = [
            "providers.a.remote_jwks.uri",
            "providers.b.discovery.uri",
            "providers.c.introspection.uri",
            "revocation.feed.uri",
        ];
        let all = paths.map(|path| (path, "is asked in the clear"));
        assert_warned(&config, if open { &all } else { &[] });
        let mut config = egress();
        config["service_tokens"]["mesh"]["client_credentials"]["uri"] = json!(uri);
        config["service_tokens"]["mesh"]["client_credentials"]["cluster"] = json!(cluster);
        let token = [("service_tokens.mesh.client_credentials.uri", "is asked in the clear")];
        assert_warned(&config, if open { &token } else { &[] });
    }
}

#[test]
fn a_secret_in_the_config_itself_is_warned_of() {
    let mut config = good();
    config["user"]["lookup"]["key_field"] = json!("/id");
    config["user"]["lookup"]["headers"] =
        json!({"accept": "a/b", "authorization": "Bearer hush", "x-api-key": "${env:KEY}"});
    config["sharing"] = json!({"key": "hush, hush, hush, hush"});
    assert_warned(
        &config,
        &[
            ("sharing.key", "the secret stands in the config"),
            ("user.lookup.headers.authorization", "the secret stands in the config"),
        ],
    );
}

#[test]
fn a_door_at_which_nobody_may_say_who_the_user_is_is_warned_of() {
    let mut config = json!({
        "mode": "service",
        "service": {"name": "videos"},
        "providers": good()["providers"],
        "user": {"source": "claims"},
        "boundary": {"peers": [{"spiffe_id": "spiffe://a/b"}]},
    });
    assert_warned(&config, &[]);
    for word in ["reject", "strip"] {
        config["boundary"]["otherwise"] = json!(word);
        let says = format!("with `{word}` no request will have a user");
        assert_warned(&config, &[("boundary.otherwise", &says)]);
    }
    config["boundary"]["peers"][0]["may_assert_user"] = json!(true);
    assert_warned(&config, &[]);
}

#[test]
fn a_rule_that_never_matches_is_warned_of() {
    let mut config = good();
    config["user"]["lookup"]["key_field"] = json!("/id");
    config["rules"] = json!([
        {"match": {"path_prefix": "/api"}, "require": "user"},
        {"match": {"path": "/api/open"}, "require": "anonymous"},
        {"match": {"path": "/open"}, "require": "anonymous"},
    ]);
    assert_warned(&config, &[("rules[1]", "never matches, since `rules[0]` matches")]);
}

const KEY: &str = r#"{"kty":"OKP","crv":"Ed25519","d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
