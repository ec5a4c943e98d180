//! What the command tells of a request is what the filter does with it, and never has a token in it.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::process::Output;

use meshgate::boundary::peer::Hop;
use meshgate::callout::{Dispatch, Failure};
use meshgate::denial::Code;
use meshgate::time::UnixTime;
use meshgate::worker::Disposition;
use serde_json::{Value, json};

use crate::flow::{Flow, Key, START, claims, config, jwks, record};
use crate::support::{command, written};

const GATEWAY: &str = "spiffe://cluster.local/ns/edge/sa/gateway";
const MAILER: &str = "spiffe://cluster.local/ns/batch/sa/mailer";
const SECRET: &str = "0123456789abcdef0123456789abcdef";
const CONTEXT: [(&str, &str); 2] = [("x-user-id", "u-1001"), ("x-user-role", "USER")];

/// A request, the world around it, and what becomes of it.
struct Case {
    name: &'static str,
    config: Value,
    token: Option<String>,
    service_token: Option<String>,
    txn_token: Option<String>,
    path: &'static str,
    headers: Vec<(&'static str, &'static str)>,
    jwks: Option<Vec<u8>>,
    user: Option<(u16, Value)>,
    introspection: Option<Value>,
    feed: Option<Value>,
    is_listed: Option<bool>,
    token_endpoint: Option<Value>,
    peer: Option<&'static str>,
    cluster: Option<&'static str>,
    code: Option<Code>,
}

/// One that goes well, but for what `change` makes of it.
fn case(name: &'static str, code: impl Into<Option<Code>>, change: impl FnOnce(&mut Case)) -> Case {
    let key = Key::new("k1");
    let mut case = Case {
        name,
        config: config(),
        token: Some(key.token(&claims())),
        service_token: None,
        txn_token: None,
        path: "/x",
        headers: Vec::new(),
        jwks: Some(jwks(&[&key])),
        user: Some((200, record())),
        introspection: None,
        feed: None,
        is_listed: None,
        token_endpoint: None,
        peer: None,
        cluster: None,
        code: code.into(),
    };
    change(&mut case);
    case
}

fn token(name: &str, value: Value) -> String {
    let mut claims = claims();
    claims[name] = value;
    Key::new("k1").token(&claims)
}

fn service(case: &mut Case) {
    case.config["mode"] = json!("service");
    case.config["service"] = json!({"name": "channels"});
    case.config["providers"]["mesh"] = json!({
        "type": "service", "issuer": "mesh-auth", "audiences": ["mesh"],
        "local_jwks": {"keys": [Key::new("mesh").jwk()]},
        "from_headers": [{"name": "x-service-authorization", "value_prefix": "Bearer "}],
    });
    case.config["providers"]["gateway"] = json!({
        "type": "transaction", "issuer": "https://gw.example", "audiences": ["prod.example"],
        "local_jwks": {"keys": [Key::new("g1").jwk()]},
    });
    case.config["boundary"] = json!({
        "peers": [{"spiffe_id": GATEWAY, "may_assert_user": true},
                  {"spiffe_id": "spiffe://cluster.local/ns/batch/sa/*", "service_name": "*"}],
        "service_tokens": {"provider": "mesh", "permissions": ["internal:read"], "may_assert_user": true},
        "txn_token": {"provider": "gateway"},
        "otherwise": "authenticate",
    });
    let internal = json!({"match": {"path_prefix": "/internal"}, "require": "service"});
    case.config["rules"].as_array_mut().unwrap().insert(0, internal);
}

fn of_service(permissions: &[&str]) -> String {
    let claims = json!({"sub": "videos", "type": "service", "iss": "mesh-auth", "aud": "mesh",
                        "iat": START, "exp": START + 300, "permissions": permissions});
    Key::new("mesh").token(&claims)
}

fn of_transaction(expires: u64) -> String {
    let header = json!({"typ": "txntoken+jwt", "alg": "ES256", "kid": "g1"});
    let claims = json!({"iss": "https://gw.example", "aud": "prod.example", "iat": START - 30, "exp": expires,
                        "txn": "r-1", "tctx": {"x-user-id": "u-1001", "x-user-role": "USER"}});
    Key::new("g1").sign(header.to_string().as_bytes(), claims.to_string().as_bytes())
}

fn opaque(case: &mut Case) {
    case.token = Some("an-opaque-token-of-32-characters".to_owned());
    case.config["providers"]["clerk"] = json!({
        "issuer": "youtube-clone-auth", "audiences": ["youtube-clone-api"],
        "introspection": {"uri": "https://idp.example/introspect", "cluster": "idp", "client_id": "us",
                          "client_secret": SECRET},
    });
}

fn egress(case: &mut Case) {
    case.config = json!({
        "mode": "egress",
        "service": {"name": "videos"},
        "providers": {"clerk": {"from_headers": [{"name": "authorization", "value_prefix": "Bearer "}]}},
        "destinations": [{"clusters": ["channels"], "context": "forward", "service_token": "mesh"}],
        "service_tokens": {"mesh": {"client_credentials": {
            "uri": "https://idp.example/token", "cluster": "idp", "client_id": "videos", "client_secret": SECRET,
        }}},
    });
    case.cluster = Some("channels");
    case.token_endpoint = Some(
        json!({"access_token": "the-services-own-access-token", "token_type": "Bearer", "expires_in": 300}),
    );
    case.headers = CONTEXT.to_vec();
}

fn needs(case: &mut Case, needs: Value) {
    case.config["rules"] = json!([{"match": {"path_prefix": "/"}, "require": "user"}]);
    let Value::Object(needs) = needs else { panic!("{needs}") };
    case.config["rules"][0].as_object_mut().unwrap().extend(needs);
}

fn signs(case: &mut Case) {
    let key = json!({"kty": "OKP", "crv": "Ed25519", "d": "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A",
                     "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"});
    case.config["txn_token"] = json!({"issue": {
        "issuer": "https://gw.example", "audience": "prod.example", "key": key.to_string(), "kid": "g1"}});
}

fn blacklist(case: &mut Case) {
    case.config["revocation"] = json!({"redis": {"cluster": "webdis"}});
    case.token = Some(token("jti", json!("t-1")));
}

fn feed(case: &mut Case) {
    case.config["revocation"] =
        json!({"feed": {"uri": "http://auth.internal/revocations", "cluster": "auth"}});
}

#[rustfmt::skip] // a table
#[allow(clippy::too_many_lines, reason = "a table")]
fn cases() -> Vec<Case> {
    let other = Key::new("k2");
    vec![
        case("a good request", None, |_| ()),
        case("forged headers", None, |c| c.headers = vec![("x_user_id", "u-1"), ("x-user-role", "ADMIN")]),
        case("no token where none is asked for", None, |c| { c.token = None; c.path = "/public/x"; }),
        case("a bad token where none is looked at", None, |c| { c.token = Some("x".repeat(40)); c.path = "/healthz"; }),
        case("no token", Code::TokenMissing, |c| c.token = None),
        case("no JWT", Code::TokenMalformed, |c| c.token = Some("Zm9v-YmFy-cXV4-aaaa".to_owned())),
        case("no `exp`", Code::TokenMalformed, |c| c.token = Some(token("exp", json!("soon")))),
        case("too long", Code::TokenMalformed, |c| c.config["limits"] = json!({"max_token_bytes": 256})),
        case("an algorithm that is not allowed", Code::AlgorithmNotAllowed, |c| c.config["providers"]["clerk"]["algorithms"] = json!(["RS256"])),
        case("another issuer", Code::IssuerUnknown, |c| c.token = Some(token("iss", json!("https://evil.example")))),
        case("an unknown key", Code::KeyUnknown, |c| c.jwks = Some(jwks(&[&other]))),
        case("an altered token", Code::SignatureInvalid, |c| {
            let (good, evil) = (c.token.take().unwrap(), token("sub", json!("admin")));
            let payload = |token: &str| token.split('.').nth(1).unwrap().to_owned();
            c.token = Some(good.replace(&payload(&good), &payload(&evil)));
        }),
        case("another audience", Code::AudienceMismatch, |c| c.token = Some(token("aud", json!(["other"])))),
        case("another party", Code::AuthorizedPartyMismatch, |c| {
            c.config["providers"]["clerk"]["authorized_parties"] = json!(["https://app.example"]);
            c.token = Some(token("azp", json!("https://evil.example")));
        }),
        case("a claim of another value", Code::ClaimMismatch, |c| c.config["providers"]["clerk"]["required_claims"] = json!({"tenant": ["acme"]})),
        case("expired", Code::TokenExpired, |c| c.token = Some(token("exp", json!(START - 7_380)))),
        case("to come", Code::TokenNotYetValid, |c| c.token = Some(token("nbf", json!(START + 600)))),
        case("of another type", Code::TokenMalformed, |c| c.config["providers"]["clerk"]["token_type"] = json!("at+jwt")),
        case("two tokens", Code::TokenAmbiguous, |c| c.headers = vec![("authorization", "Bearer another-credential")]),
        case("no keys", Code::KeysUnavailable, |c| c.jwks = None),
        case("keys that are none", Code::KeysUnavailable, |c| c.jwks = Some(b"{}".to_vec())),
        case("keys by discovery", None, |c| {
            let provider = c.config["providers"]["clerk"].as_object_mut().unwrap();
            provider.remove("remote_jwks");
            provider.insert("discovery".to_owned(), json!({"uri": "https://clerk.example/.well-known/openid-configuration", "cluster": "clerk"}));
        }),
        case("no answer about the user", Code::UserLookupUnavailable, |c| c.user = None),
        case("a users service that is down", Code::UserLookupUnavailable, |c| c.user = Some((503, json!(null)))),
        case("an unknown user", Code::UserUnknown, |c| c.user = Some((404, json!(null)))),
        case("a disabled user", Code::UserDisabled, |c| {
            c.config["user"]["active"] = json!({"field": "/status", "equals": "ACTIVE"});
            c.user = Some((200, json!({"id": "u-1001", "role": "USER", "status": "BANNED"})));
        }),
        case("a record that makes no context", Code::UserLookupUnavailable, |c| c.user = Some((200, json!({"role": "USER"})))),
        case("no claim that names the user", Code::TokenMalformed, |c| c.config["user"]["key"] = json!(["userId"])),
        case("a role is lacking", Code::RoleRequired, |c| c.path = "/admin/x"),
        case("a permission is lacking", Code::PermissionRequired, |c| c.path = "/upload"),
        case("a path that hides another", Code::RoleRequired, |c| c.path = "/public/..%2fadmin/x"),
        case("a path of too many readings", Code::PathRefused, |c| c.path = "/%61".repeat(3_000).leak()),
        case("revoked by the feed", Code::TokenRevoked, |c| { feed(c); c.feed = Some(json!({"v": 1, "entries": [{"sub": "somebody", "exp": START + 9}, {"sub": "user_2abc", "exp": START + 9_999}]})); }),
        case("not revoked by the feed", None, |c| { feed(c); c.feed = Some(json!({"v": 1, "entries": [{"sub": "somebody", "exp": START + 9}]})); }),
        case("no feed", Code::RevocationUnavailable, feed),
        case("no feed, and that is allowed", None, |c| { feed(c); c.config["revocation"]["on_unavailable"] = json!("allow"); }),
        case("on the blacklist", Code::TokenRevoked, |c| { blacklist(c); c.is_listed = Some(true); }),
        case("not on the blacklist", None, |c| { blacklist(c); c.is_listed = Some(false); }),
        case("no blacklist", Code::RevocationUnavailable, blacklist),
        case("opaque and active", None, |c| { opaque(c); c.introspection = Some(json!({"active": true, "sub": "user_2abc", "aud": "youtube-clone-api"})); }),
        case("opaque and over", Code::TokenRevoked, |c| { opaque(c); c.introspection = Some(json!({"active": false})); }),
        case("opaque, and nobody is asked", Code::IntrospectionUnavailable, opaque),
        case("a trusted hop", None, |c| { service(c); c.peer = Some(GATEWAY); c.token = None; c.headers = CONTEXT.to_vec(); }),
        case("a hop that may not say it", Code::UntrustedPeer, |c| { service(c); c.config["boundary"]["otherwise"] = json!("reject"); c.peer = Some(MAILER); c.headers = CONTEXT.to_vec(); }),
        case("a stranger with forged headers and a token", None, |c| { service(c); c.headers = vec![("x-user-id", "u-1"), ("x-user-role", "ADMIN")]; }),
        case("half a context", Code::UntrustedPeer, |c| { service(c); c.peer = Some(GATEWAY); c.headers = vec![("x-user-id", "u-1")]; }),
        case("a service where one is asked for", None, |c| { service(c); c.path = "/internal/x"; c.peer = Some(MAILER); c.token = None; }),
        case("nobody where a service is asked for", Code::ServiceRequired, |c| { service(c); c.path = "/internal/x"; }),
        case("a service token", None, |c| { service(c); c.service_token = Some(of_service(&["internal:read"])); c.token = None; c.headers = CONTEXT.to_vec(); }),
        case("a service token that lacks a permission", Code::PermissionRequired, |c| { service(c); c.service_token = Some(of_service(&[])); }),
        case("a service token of another service", Code::UntrustedPeer, |c| { service(c); c.service_token = Some(of_service(&["internal:read"])); c.peer = Some(MAILER); }),
        case("a user's token for a service's", Code::IssuerUnknown, |c| { service(c); c.service_token = c.token.take(); }),
        case("a signed context", None, |c| { service(c); c.txn_token = Some(of_transaction(START + 30)); c.token = None; }),
        case("a signed context that is over", Code::TokenExpired, |c| { service(c); c.txn_token = Some(of_transaction(START - 60)); c.token = None; }),
        case("a scope is lacking", Code::ScopeRequired, |c| needs(c, json!({"scopes": ["videos:write"]}))),
        case("a claim is lacking", Code::ClaimRequired, |c| needs(c, json!({"claims": {"tenant": ["acme"]}}))),
        case("signed in long ago", Code::AuthenticationTooOld, |c| { needs(c, json!({"max_age": "10m"})); c.token = Some(token("auth_time", json!(START - 3_600))); }),
        case("signed in just now", None, |c| { needs(c, json!({"max_age": "10m"})); c.token = Some(token("auth_time", json!(START - 60))); }),
        case("another host", None, |c| c.config["rules"] = json!([{"match": {"path_prefix": "/", "hosts": ["admin.example"]}, "require": "user", "roles": ["ADMIN"]}])),
        case("a gateway that signs", None, signs),
        case("a shared auth service", None, |c| { signs(c); c.config["mode"] = json!("authz"); }),
        case("a stranger asks the auth service", Code::UntrustedPeer, |c| { c.config["mode"] = json!("authz"); c.headers = vec![("x-original-uri", "/admin")]; }),
        case("a way out", None, egress),
        case("a way out without a token of its own", Code::ServiceTokenUnavailable, |c| { egress(c); c.token_endpoint = None; }),
        case("a way to nowhere", None, |c| { egress(c); c.cluster = Some("evil"); }),
        case("a way out with half a context", Code::UntrustedPeer, |c| { egress(c); c.headers.pop(); }),
    ]
}

impl Case {
    /// The request through the core, apart from the command.
    fn decided(&self) -> Option<Code> {
        let mut flow = Flow::with(&self.config);
        flow.now = UnixTime::from_secs(START);
        flow.hop = Hop {
            has_certificate: self.peer.is_some(),
            uri_san: self.peer.map(|peer| peer.as_bytes().to_vec()),
            cluster: self.cluster.map(|cluster| cluster.as_bytes().to_vec()),
            ..Hop::default()
        };
        flow.tick();
        self.answer_all(&mut flow);
        let bearer = |token: &String| format!("Bearer {token}").into_bytes();
        let own: Vec<(&str, Vec<u8>)> = [
            ("authorization", self.token.as_ref().map(bearer)),
            ("x-service-authorization", self.service_token.as_ref().map(bearer)),
            ("txn-token", self.txn_token.clone().map(String::into_bytes)),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect();
        let host = (":authority", &b"explain.invalid"[..]);
        let headers: Vec<(&str, &[u8])> = std::iter::once(host)
            .chain(self.headers.iter().map(|(name, value)| (*name, value.as_bytes())))
            .chain(own.iter().map(|(name, value)| (*name, value.as_slice())))
            .collect();
        let (_, _, mut disposition) = flow.send(self.path, &headers);
        for _ in 0..10_000 {
            if disposition != Disposition::Pause {
                break;
            }
            let mut released = self.answer_all(&mut flow);
            if released.is_empty() {
                flow.advance(std::time::Duration::from_millis(50));
                released = flow.tick();
            }
            disposition = released.pop().map_or(Disposition::Pause, |(_, decided)| decided);
        }
        match disposition {
            Disposition::Deny(denial) => Some(denial.code),
            Disposition::Forward(..) | Disposition::Answer(_) | Disposition::Allow(..) => None,
            other @ Disposition::Pause => panic!("{}: {other:?}", self.name),
        }
    }

    fn answer_all(&self, flow: &mut Flow) -> Vec<meshgate::worker::Released> {
        let mut released = Vec::new();
        while let Some(Dispatch { id, request }) = flow.worker.next_call() {
            let path = request.headers.iter().find(|(name, _)| name == ":path").unwrap().1.clone();
            let bytes = |value: &Value| value.to_string().into_bytes();
            let answer = match request.cluster.as_str() {
                "clerk" if path.ends_with("openid-configuration") => self.jwks.as_ref().map(|_| {
                    (200, bytes(&json!({"issuer": "youtube-clone-auth", "jwks_uri": "https://clerk.example/jwks"})))
                }),
                "clerk" => self.jwks.clone().map(|body| (200, body)),
                "users" => self.user.as_ref().map(|(status, body)| (*status, bytes(body))),
                "auth" => self.feed.as_ref().map(|body| (200, bytes(body))),
                "idp" if path == "/token" => self.token_endpoint.as_ref().map(|body| (200, bytes(body))),
                "idp" => self.introspection.as_ref().map(|body| (200, bytes(body))),
                "webdis" => self.is_listed.map(|listed| {
                    let value = if listed { json!("1") } else { json!(null) };
                    let count = path.split('/').count() - 2;
                    (200, bytes(&json!({"MGET": vec![value; count]})))
                }),
                other => panic!("{other}"),
            };
            released.extend(match answer {
                Some((status, body)) => flow.answer(id, status, &body),
                None => flow.fail(id, Failure::UnknownCluster),
            });
        }
        released
    }

    /// The command's run.
    fn explained(&self, dir: &Path, format: &str) -> Output {
        let file = |name: &str, bytes: &[u8]| -> PathBuf {
            let file = dir.join(name);
            fs::write(&file, bytes).unwrap();
            file
        };
        let json = |name: &str, value: &Value| file(name, value.to_string().as_bytes());
        let mut command = command();
        command.arg("explain").args(["--format", format, "--path", self.path]);
        command.arg("--config").arg(json("config.yaml", &self.config));
        command.arg("--at").arg(START.to_string());
        let mut option = |name: &str, file: Option<PathBuf>| {
            if let Some(file) = file {
                command.arg(name).arg(file);
            }
        };
        option("--token", self.token.as_ref().map(|token| file("token", token.as_bytes())));
        option(
            "--service-token",
            self.service_token.as_ref().map(|t| file("service", t.as_bytes())),
        );
        option("--txn-token", self.txn_token.as_ref().map(|token| file("txn", token.as_bytes())));
        option("--jwks", self.jwks.as_ref().map(|jwks| file("jwks", jwks)));
        option(
            "--introspection",
            self.introspection.as_ref().map(|body| json("introspection", body)),
        );
        option("--feed", self.feed.as_ref().map(|body| json("feed", body)));
        option("--token-endpoint", self.token_endpoint.as_ref().map(|body| json("endpoint", body)));
        match &self.user {
            Some((200, body)) => drop(command.arg("--user").arg(json("user", body))),
            Some((status, _)) => drop(command.arg("--user-status").arg(status.to_string())),
            None => {}
        }
        if let Some(listed) = self.is_listed {
            command.arg("--blacklist").arg(if listed { "hit" } else { "miss" });
        }
        if let Some(peer) = self.peer {
            command.args(["--peer", peer]);
        }
        if let Some(cluster) = self.cluster {
            command.args(["--cluster", cluster]);
        }
        for (name, value) in &self.headers {
            command.arg("--header").arg(format!("{name}: {value}"));
        }
        if self.config["mode"] == "egress" || !self.has_remote_keys() {
            // It has no provider that fetches keys, and says so.
            command = without(&command, "--jwks");
        }
        command.output().unwrap()
    }

    fn has_remote_keys(&self) -> bool {
        let provider = &self.config["providers"]["clerk"];
        provider.get("remote_jwks").is_some() || provider.get("discovery").is_some()
    }

    /// Nothing that is secret was written.
    fn assert_silent(&self, output: &Output) {
        let written = written(output);
        let tokens = [&self.token, &self.service_token, &self.txn_token];
        let parts = tokens.into_iter().flatten().flat_map(|token| token.split('.'));
        let own = self.token_endpoint.iter().filter_map(|answer| answer["access_token"].as_str());
        for part in parts.chain(own).chain([SECRET]) {
            assert!(!written.contains(part), "{}: {part} in {written}", self.name);
        }
        assert!(!written.contains("eyJ"), "{}: a JWT in {written}", self.name);
        // Nor did the last line of defence have anything to take out.
        assert!(!written.contains("(not shown)"), "{}: {written}", self.name);
    }
}

/// The same command without an option and its value.
fn without(whole: &std::process::Command, option: &str) -> std::process::Command {
    let mut other = command();
    let mut arguments = whole.get_args();
    while let Some(argument) = arguments.next() {
        if argument == option {
            arguments.next();
        } else {
            other.arg(argument);
        }
    }
    other
}

#[test]
fn what_is_explained_is_what_is_decided() {
    let dir = tempfile::tempdir().unwrap();
    for case in cases() {
        assert_eq!(case.decided(), case.code, "{}", case.name);
        let output = case.explained(dir.path(), "json");
        case.assert_silent(&output);
        let told: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{}: {error}: {}", case.name, written(&output)));
        let code = case.code.map(Code::name);
        assert_eq!(told["code"].as_str(), code, "{}: {told:#}", case.name);
        assert_eq!(told["explained"], true, "{}: {told:#}", case.name);
        assert_eq!(output.status.code(), Some(i32::from(code.is_some())), "{}", case.name);

        // The last step, and none before it, is the one that says so.
        let steps = told["steps"].as_array().unwrap();
        let codes: Vec<Option<&str>> = steps.iter().map(|step| step["code"].as_str()).collect();
        let (last, before) = codes.split_last().unwrap();
        assert_eq!(*last, code, "{}: {told:#}", case.name);
        assert!(before.iter().all(Option::is_none), "{}: {told:#}", case.name);
        assert_eq!(told["remedy"].is_string(), code.is_some(), "{}", case.name);

        let output = case.explained(dir.path(), "text");
        case.assert_silent(&output);
        let text = written(&output);
        match code {
            Some(code) => {
                assert!(text.contains(&format!("refused: {} {code}", told["status"])), "{text}");
            }
            None if case.config["mode"] == "authz" => {
                assert!(text.contains("allowed; the proxy that asks is told so"), "{text}");
            }
            None => assert!(text.contains("allowed; the upstream sees:"), "{text}"),
        }
    }
}

/// The text for one case of the table.
fn text(name: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let case = cases().into_iter().find(|case| case.name == name).unwrap();
    written(&case.explained(dir.path(), "text"))
}

#[test]
fn an_explanation_says_what_a_person_needs() {
    for (name, said) in [
        ("expired", "2025-12-31T21:57:00Z: expired 2h 3m ago"),
        ("another audience", "accepted: `youtube-clone-api`"),
        ("an unknown key", "`clerk` has 1 key: `k2` (P256)"),
        ("another issuer", "the config has the issuers `youtube-clone-auth`"),
        (
            "no keys",
            "no --jwks clerk=FILE was given; it would be asked for by GET https://clerk.example/jwks by cluster `clerk`",
        ),
        (
            "no answer about the user",
            "GET http://users.internal/internal/users/by-clerk-id/user_2abc by cluster `users`",
        ),
        ("a role is lacking", "one of the roles `ADMIN` is asked for; the record has `USER`"),
        (
            "a path that hides another",
            "`/admin/x`: `rules[2]` asks for a user with one of the roles `ADMIN`",
        ),
        ("forged headers", "only meshgate may set them: `x_user_id`, `x-user-role`"),
        ("forged headers", "x-user-role: USER"),
        ("two tokens", "other credentials beside one"),
        ("revoked by the feed", r#"an entry of the feed means it: {"sub":"user_2abc""#),
        ("a disabled user", "/status is `BANNED`, and must be `ACTIVE`"),
        ("a trusted hop", "client certificate of `spiffe://cluster.local/ns/edge/sa/gateway`"),
        ("expired", "www-authenticate: Bearer realm=\"meshgate\", error=\"invalid_token\""),
        ("expired", "remedy: the client has to get a new token"),
        ("a way out", "authorization: (36 bytes)"),
    ] {
        let text = text(name);
        assert!(text.contains(said), "{name}: {said} not in\n{text}");
    }
}

#[test]
fn a_token_among_the_arguments_is_refused_and_not_repeated() {
    let dir = tempfile::tempdir().unwrap();
    let config_file = dir.path().join("config.json");
    fs::write(&config_file, config().to_string()).unwrap();
    let token = Key::new("k1").token(&claims());
    for arguments in [
        vec!["--token", &token],
        vec![&token],
        vec!["--header", &format!("authorization: Bearer {token}")],
        vec!["--path", &format!("/x?access_token={token}")],
        vec!["--user-status", &token],
        vec![&format!("--user-status={token}")],
        vec![&format!("--at=2026-01-01,{token}"), "--blacklist", &format!("no {token}")],
        vec!["--user", &token],
        vec!["--jwks", &format!("clerk={token}")],
        vec!["--mode", &token],
    ] {
        let output = command()
            .arg("explain")
            .arg("--config")
            .arg(&config_file)
            .args(&arguments)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", written(&output));
        let parts: Vec<&str> = token.split('.').collect();
        assert!(!parts.iter().any(|part| written(&output).contains(part)), "{}", written(&output));
    }
}

#[test]
fn no_command_repeats_a_token_whatever_it_is_taken_for() {
    let token = Key::new("k1").token(&claims());
    // A byte that is no UTF-8, as from a terminal of another encoding.
    let odd = OsString::from_vec([token.as_bytes(), b"\xff"].concat());
    let file = OsString::from(format!("/nowhere/{token}"));
    for arguments in [
        vec!["check".into(), OsString::from(&token)],
        vec!["explain".into(), "--config".into(), file.clone()],
        vec!["keygen".into(), "sharing".into(), "--out".into(), file],
        vec!["keygen".into(), odd.clone()],
        vec![odd],
    ] {
        let output = command().args(&arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", written(&output));
        let told = written(&output);
        assert!(!token.split('.').any(|part| told.contains(part)), "{told}");
    }
}

#[test]
fn the_token_may_come_from_the_environment_or_stdin_and_the_config_from_envoys() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let file = dir.path().join(name);
        fs::write(&file, bytes).unwrap();
        file
    };
    let jwks = file("jwks", &jwks(&[&Key::new("k1")]));
    let user = file("user", record().to_string().as_bytes());
    let token = Key::new("k1").token(&claims());
    let envoy = json!({"http_filters": [{"typed_config": {"config": {"configuration": {
        "@type": "type.googleapis.com/google.protobuf.StringValue", "value": config().to_string()}}}}]});
    let envoy = file("envoy.yaml", envoy.to_string().as_bytes());
    let mut istio = config();
    istio["user"]["lookup"]["headers"] = json!({"x-key": "${env:MESHGATE_TEST_UNSET}"});
    let istio = json!({"kind": "WasmPlugin", "spec": {"pluginConfig": istio}});
    let istio = file("istio.yaml", format!("kind: Other\n---\n{istio}\n").as_bytes());

    for config in [envoy, istio] {
        let mut command = command();
        command.args(["explain", "--at", "2026-01-01T01:00:00+01:00", "--config"]).arg(&config);
        command.arg("--jwks").arg(&jwks).arg("--user").arg(&user);
        let output = command.env("MESHGATE_TOKEN", format!("{token}\n")).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", written(&output));
        let is_told = written(&output).contains("MESHGATE_TEST_UNSET is not set here");
        assert_eq!(is_told, config.ends_with("istio.yaml"), "{}", written(&output));

        command.env_remove("MESHGATE_TOKEN").args(["--token", "-"]);
        let stdin = file("token", token.as_bytes());
        let output = command.stdin(fs::File::open(stdin).unwrap()).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", written(&output));
    }
}
