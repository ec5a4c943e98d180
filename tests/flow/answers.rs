//! What a refused request is told: to scripts of other sites, in the operator's words, and to people.

use meshgate::config::Config;
use meshgate::denial::{Code, Denial, Reply, Wanted};
use meshgate::headers::{Edit, Field, Stripped};
use meshgate::worker::Disposition;
use serde_json::{Value, json};

use crate::support::{Flow, config, denied, forwarded, record, removed};

const SITE: &str = "https://www.example.com";

fn with(part: &str, value: Value) -> Value {
    let mut config = config();
    config[part] = value;
    config
}

fn cors(preflight: &str) -> Value {
    with(
        "cors",
        json!({
            "allow_origins": [SITE, "https://*.example.org"],
            "allow_credentials": true,
            "preflight": preflight,
        }),
    )
}

fn head(method: &str, path: &str, headers: &[(&str, &str)], config: &Config) -> Stripped {
    let fields = [(":method", method), (":path", path), (":authority", "www.example.com")];
    // A test may set one of these itself: the first one counts.
    let fields = headers.iter().chain(&fields).map(|(name, value)| Field {
        name: name.to_ascii_lowercase(),
        value: value.as_bytes().to_vec(),
    });
    Stripped::strip(fields.collect(), &config.context.managed).1
}

/// What becomes of a request, and what it is answered where it is refused.
fn ask(
    flow: &mut Flow,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> (Disposition, Option<Reply>) {
    let config = flow.worker.config();
    let head = head(method, path, headers, &config);
    let disposition = flow.request(&head);
    let reply = match &disposition {
        Disposition::Deny(denial) => Some(config.answers.reply(denial, &head)),
        Disposition::Answer(reply) | Disposition::Allow(reply, _) => Some(reply.clone()),
        Disposition::Forward(..) | Disposition::Pause => None,
    };
    (disposition, reply)
}

fn refusal(config: &Value, method: &str, path: &str, headers: &[(&str, &str)]) -> Reply {
    let mut flow = Flow::with(config).with_keys();
    let (disposition, reply) = ask(&mut flow, method, path, headers);
    assert!(matches!(disposition, Disposition::Deny(_)), "{disposition:?}");
    reply.unwrap()
}

fn header<'a>(reply: &'a Reply, name: &str) -> Option<&'a str> {
    let mut found = reply.headers.iter().filter(|(n, _)| *n == name);
    let first = found.next().map(|(_, value)| value.as_str());
    assert!(found.next().is_none(), "{name} is there twice");
    first
}

type Headers<'a> = &'a [(&'a str, &'a str)];

fn preflight(origin: &str) -> Vec<(&str, &str)> {
    vec![("origin", origin), ("access-control-request-method", "DELETE")]
}

#[test]
fn a_preflight_is_answered_here_and_names_what_is_allowed() {
    let mut config = cors("answer");
    config["cors"]["allow_methods"] = json!(["GET", "DELETE"]);
    config["cors"]["allow_headers"] = json!(["Authorization", "X-Csrf-Token"]);
    config["cors"]["max_age"] = json!("2m");
    let mut flow = Flow::with(&config).with_keys();
    // Whatever the rule, and however the path can be read: nothing goes anywhere.
    for path in ["/admin/x", "/public", "/healthz", "/a/%2e%2e/admin"] {
        for origin in [SITE, "https://a.b.example.org"] {
            let (disposition, reply) = ask(&mut flow, "OPTIONS", path, &preflight(origin));
            assert!(matches!(disposition, Disposition::Answer(_)), "{path}: {disposition:?}");
            let reply = reply.unwrap();
            let expected = [
                ("access-control-allow-origin", origin.to_owned()),
                ("vary", "origin".to_owned()),
                ("access-control-allow-credentials", "true".to_owned()),
                ("access-control-allow-methods", "GET, DELETE".to_owned()),
                ("access-control-allow-headers", "authorization, x-csrf-token".to_owned()),
                ("access-control-max-age", "120".to_owned()),
            ];
            let expected = expected.map(|(name, value)| (name.into(), value));
            assert_eq!((reply.status, reply.headers), (204, expected.to_vec()));
            assert_eq!(reply.body, "");
        }
    }
    flow.no_call();
}

#[test]
fn what_is_no_allowed_preflight_is_a_request_like_any_other() {
    for mode in ["answer", "pass"] {
        for (why, method, headers) in [
            ("another site", "OPTIONS", preflight("https://evil.example")),
            ("no site", "OPTIONS", preflight("null")),
            ("no origin", "OPTIONS", vec![("access-control-request-method", "GET")]),
            ("an empty origin", "OPTIONS", preflight("")),
            ("two origins", "OPTIONS", [preflight(SITE), vec![("origin", SITE)]].concat()),
            ("not asked for a method", "OPTIONS", vec![("origin", SITE)]),
            (
                "an empty method",
                "OPTIONS",
                vec![("origin", SITE), ("access-control-request-method", "")],
            ),
            ("another method", "POST", preflight(SITE)),
            ("another case", "options", preflight(SITE)),
            ("with a body", "OPTIONS", [preflight(SITE), vec![("content-length", "5")]].concat()),
            ("an upgrade", "OPTIONS", [preflight(SITE), vec![("upgrade", "websocket")]].concat()),
            (
                "with a body of any length",
                "OPTIONS",
                [preflight(SITE), vec![("transfer-encoding", "chunked")]].concat(),
            ),
        ] {
            let mut flow = Flow::with(&cors(mode)).with_keys();
            let (disposition, _) = ask(&mut flow, method, "/x", &headers);
            assert_eq!(denied(&disposition), Code::TokenMissing, "{mode}: {why}");
        }
        // Without `cors` nothing of this is looked at.
        let mut flow = Flow::ready();
        let (disposition, _) = ask(&mut flow, "OPTIONS", "/x", &preflight(SITE));
        assert_eq!(denied(&disposition), Code::TokenMissing);
    }
}

#[test]
fn a_preflight_that_passes_is_nobodys_and_bare() {
    let mut config = cors("pass");
    config["providers"]["clerk"]["from_cookies"] = json!(["__session"]);
    config["providers"]["clerk"]["from_headers"] =
        json!([{"name": "authorization", "value_prefix": "Bearer "}, {"name": "x-token"}]);
    config["providers"]["clerk"]["from_params"] = json!(["access_token"]);
    config["context"] = json!({"forward_token": true});
    let token = format!("Bearer {}", Flow::new().token());
    let extra = [
        ("authorization", token.as_str()),
        ("cookie", "__session=a; theme=dark"),
        ("x-token", "a"),
        ("X-HTTP-Method-Override", "DELETE"),
        ("x_http_method", "DELETE"),
        ("x-user-id", "forged"),
        ("x-trace", "t-1"),
    ];
    for path in ["/admin/x", "/raw", "/healthz", "/public"] {
        let mut flow = Flow::with(&config).with_keys();
        let target = format!("{path}?access_token=a&sort=new");
        let headers = [preflight(SITE), extra.to_vec()].concat();
        let (disposition, _) = ask(&mut flow, "OPTIONS", &target, &headers);
        let edits = forwarded(disposition);
        flow.no_call();
        for name in [
            "x-user-id",
            "x-user-clerk-id",
            "x-user-role",
            "x-user-channel-id",
            "authorization",
            "cookie",
            "x-token",
            "x-http-method-override",
            "x_http_method",
        ] {
            assert!(edits.contains(&removed(name)), "{path} {name}: {edits:?}");
        }
        let sort = format!("{path}?sort=new").into_bytes();
        assert!(edits.contains(&Edit::Set(":path".to_owned(), sort)), "{path}: {edits:?}");
        let sets = edits.iter().filter_map(|edit| match edit {
            Edit::Set(name, value) => Some((name.as_str(), value.as_slice())),
            Edit::Remove(_) => None,
        });
        // The cookie is taken apart first, and what is left of it goes, too.
        for (name, _) in sets {
            assert!([":path", "x-request-id", "cookie"].contains(&name), "{path}: {name}");
        }
        let last = edits.iter().rfind(
            |edit| matches!(edit, Edit::Set(name, _) | Edit::Remove(name) if name == "cookie"),
        );
        assert_eq!(last, Some(&removed("cookie")), "{path}");
    }
    let mut flow = Flow::with(&config).with_keys();
    let odd = "/%61".repeat(5_000);
    let (disposition, _) = ask(&mut flow, "OPTIONS", &odd, &preflight(SITE));
    assert_eq!(denied(&disposition), Code::PathRefused);
}

#[test]
fn at_a_services_door_a_preflight_is_nobodys_too_whatever_the_hop_says() {
    let site = [preflight(SITE), vec![("x-user-id", "forged"), ("x-service-name", "videos")]];
    let ask_door = |cors: Option<&str>| {
        let mut config = config();
        config["mode"] = json!("service");
        config["service"] = json!({"name": "channels-service"});
        config["boundary"] = json!({"otherwise": "reject"});
        if let Some(preflight) = cors {
            config["cors"] = json!({"allow_origins": [SITE], "preflight": preflight});
        }
        let mut flow = Flow::with(&config).with_keys();
        ask(&mut flow, "OPTIONS", "/x", &site.concat()).0
    };
    assert_eq!(denied(&ask_door(None)), Code::UntrustedPeer);
    assert!(matches!(ask_door(Some("answer")), Disposition::Answer(reply) if reply.status == 204));
    let edits = forwarded(ask_door(Some("pass")));
    assert!(edits.contains(&removed("x-user-id")), "{edits:?}");
    let told = |edit: &Edit| matches!(edit, Edit::Set(name, _) if name != "x-request-id");
    assert!(!edits.iter().any(told), "{edits:?}");
}

#[test]
fn a_refusal_can_be_read_by_the_scripts_of_allowed_sites_alone() {
    let credentials = cors("answer");
    let mut plain = credentials.clone();
    plain["cors"] = json!({"allow_origins": ["*", "null"], "expose_headers": []});
    let exposed = "www-authenticate, retry-after, x-request-id";
    let cases: [(&Value, Headers<'_>, [Option<&str>; 4]); 8] = [
        (
            &credentials,
            &[("origin", SITE)],
            [Some(SITE), Some("true"), Some(exposed), Some("origin")],
        ),
        (
            &credentials,
            &[("origin", "https://a.example.org")],
            [Some("https://a.example.org"), Some("true"), Some(exposed), Some("origin")],
        ),
        (&credentials, &[("origin", "https://evil.example")], [None; 4]),
        (&credentials, &[("origin", "null")], [None; 4]),
        (&credentials, &[], [None; 4]),
        (&credentials, &[("origin", SITE), ("origin", "https://evil.example")], [None; 4]),
        (&plain, &[("origin", "https://any.example")], [Some("*"), None, None, Some("origin")]),
        (&plain, &[("origin", "null")], [Some("null"), None, None, Some("origin")]),
    ];
    for (config, headers, expected) in cases {
        for (method, path) in [("GET", "/x"), ("POST", "/admin")] {
            let reply = refusal(config, method, path, headers);
            let found = [
                "access-control-allow-origin",
                "access-control-allow-credentials",
                "access-control-expose-headers",
                "vary",
            ]
            .map(|name| header(&reply, name));
            assert_eq!(found, expected, "{headers:?}");
            assert_eq!(reply.status, 401);
        }
    }
    // Of another site's request the answer is what it is without `cors`, byte for byte.
    let same = [("x-request-id", "r-1"), ("origin", "https://evil.example")];
    assert_eq!(refusal(&credentials, "GET", "/x", &same), refusal(&config(), "GET", "/x", &same));
}

#[test]
fn a_refusal_after_a_wait_is_answered_like_any_other() {
    let mut flow = Flow::with(&cors("answer")).with_keys();
    let bearer = format!("Bearer {}", flow.token());
    let headers = [("authorization", bearer.as_str()), ("origin", SITE)];
    let (disposition, _) = ask(&mut flow, "GET", "/x", &headers);
    assert!(matches!(disposition, Disposition::Pause));
    let call = flow.call();
    let mut released = flow.answer(call.id, 404, b"");
    let (_, Disposition::Deny(denial)) = released.remove(0) else { panic!() };
    assert_eq!(denial.code, Code::UserUnknown);
    let config = flow.worker.config();
    let reply = config.answers.reply(&denial, &head("GET", "/x", &headers, &config));
    assert_eq!(header(&reply, "access-control-allow-origin"), Some(SITE));
}

#[test]
fn answers_are_in_the_operators_words() {
    let page = "<h1>{status}</h1><p>{detail}</p><code>{request_id}</code>";
    let config = with(
        "answers",
        json!({
            "realm": "api.example",
            "type_prefix": "https://errors.example.com/",
            "bodies": {
                "token_missing": {"json": {"error": {"code": "{code}", "id": "{request_id}"}, "status": "{status}"}},
                "token_malformed": {"text": page, "content_type": "text/html; charset=utf-8"},
                "403": {"status": 404},
            },
        }),
    );
    let hostile = r#"<b>"\{code}"#;
    let reply = refusal(&config, "GET", "/x", &[("x-request-id", hostile)]);
    assert_eq!(reply.status, 401);
    assert_eq!(header(&reply, "content-type"), Some("application/json"));
    assert_eq!(header(&reply, "cache-control"), Some("no-store"));
    assert_eq!(header(&reply, "x-content-type-options"), Some("nosniff"));
    assert_eq!(header(&reply, "www-authenticate"), Some("Bearer realm=\"api.example\""));
    assert_eq!(
        serde_json::from_str::<Value>(&reply.body).unwrap(),
        json!({"error": {"code": "token_missing", "id": hostile}, "status": 401})
    );

    let bad = [("authorization", "Bearer bad"), ("x-request-id", hostile)];
    let reply = refusal(&config, "GET", "/x", &bad);
    assert_eq!(header(&reply, "content-type"), Some("text/html; charset=utf-8"));
    assert!(reply.body.starts_with("<h1>401</h1><p>the token cannot be read"), "{}", reply.body);
    assert!(reply.body.ends_with("<code>&lt;b&gt;&quot;\\{code}</code>"), "{}", reply.body);
    let challenge = header(&reply, "www-authenticate").unwrap();
    assert!(challenge.starts_with("Bearer realm=\"api.example\", error=\"invalid_token\""));

    // gRPC clients are told in gRPC, with the code's own status.
    let grpc = [("content-type", "application/grpc"), ("x-request-id", hostile)];
    let reply = refusal(&config, "POST", "/x", &grpc);
    assert_eq!((reply.status, reply.grpc_status), (200, Some(16)));
    assert!(reply.body.starts_with("token_missing: "), "{}", reply.body);
    assert_eq!(header(&reply, "content-type"), None);

    // Another status hides the reason from the status line, and no challenge gives it away.
    let mut flow = Flow::with(&config).with_keys();
    let token = flow.token();
    let disposition = flow.whole("/upload", &token, &record());
    let Disposition::Deny(denial) = disposition else { panic!("{disposition:?}") };
    assert_eq!(denial.code, Code::PermissionRequired);
    let config = flow.worker.config();
    let reply = config.answers.reply(&denial, &head("GET", "/upload", &[], &config));
    let problem: Value = serde_json::from_str(&reply.body).unwrap();
    assert_eq!((reply.status, &problem["status"]), (404, &json!(404)));
    assert_eq!(problem["title"], "Not Found");
    assert_eq!(problem["type"], "https://errors.example.com/permission_required");
    assert_eq!(header(&reply, "www-authenticate"), None);
}

fn login() -> Value {
    with(
        "login",
        json!({
            "uri": "https://accounts.example.com/sign-in?redirect_url={original_url}",
            "origins": [SITE, "https://*.example.org", "http://localhost:3000"],
        }),
    )
}

const NAVIGATES: [(&str, &str); 1] = [("sec-fetch-mode", "navigate")];
const BROWSER: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";

#[test]
fn people_are_sent_to_sign_in_and_programs_are_told() {
    let there = "https://accounts.example.com/sign-in?redirect_url=https%3A%2F%2Fwww.example.com%2Fx%3Fa%3D1%26b%3D%252F";
    let cases: [(&str, &str, Headers<'_>, bool); 16] = [
        ("a navigation", "GET", &NAVIGATES, true),
        ("a browser of before Sec-Fetch", "GET", &[("accept", BROWSER)], true),
        ("a look without a body", "HEAD", &NAVIGATES, true),
        ("a form", "POST", &NAVIGATES, false),
        ("a fetch", "GET", &[("sec-fetch-mode", "cors"), ("accept", BROWSER)], false),
        ("a fetch of the site itself", "GET", &[("sec-fetch-mode", "same-origin")], false),
        ("an image", "GET", &[("sec-fetch-mode", "no-cors"), ("accept", BROWSER)], false),
        ("a websocket", "GET", &[("sec-fetch-mode", "websocket")], false),
        ("an API client", "GET", &[("accept", "application/json")], false),
        ("curl", "GET", &[("accept", "*/*")], false),
        ("nothing said", "GET", &[], false),
        ("JSON as well", "GET", &[("accept", "application/json, text/html")], false),
        (
            "an API client with a browser's accept",
            "GET",
            &[("accept", BROWSER), ("authorization", "Basic eDp5")],
            false,
        ),
        ("gRPC", "GET", &[("content-type", "application/grpc"), ("accept", BROWSER)], false),
        (
            "another site's name",
            "GET",
            &[("sec-fetch-mode", "navigate"), (":authority", "evil.example")],
            false,
        ),
        ("a preflight", "OPTIONS", &[("accept", BROWSER)], false),
    ];
    for (who, method, headers, sent) in cases {
        let reply = refusal(&login(), method, "/x?a=1&b=%2F", headers);
        if sent {
            assert_eq!(reply.status, 303, "{who}");
            assert_eq!(header(&reply, "location"), Some(there), "{who}");
            assert_eq!(header(&reply, "cache-control"), Some("no-store"), "{who}");
            assert_eq!(header(&reply, "www-authenticate"), None, "{who}");
            assert_eq!(reply.body, "", "{who}");
        } else {
            assert!(header(&reply, "location").is_none(), "{who}");
            assert!(header(&reply, "www-authenticate").is_some(), "{who}");
        }
    }
}

#[test]
fn only_what_signing_in_mends_is_sent_to_sign_in() {
    let config = Flow::with(&login()).worker.config();
    let head = head("GET", "/x", &NAVIGATES, &config);
    for code in Code::ALL {
        let reply = config.answers.reply(&Denial { code, ..Denial::internal() }, &head);
        let mended = [Code::TokenMissing, Code::TokenExpired, Code::TokenRevoked].contains(&code);
        assert_eq!(reply.status == 303, mended, "{code:?}");
    }
    let mut other = login();
    other["login"]["codes"] = json!(["token_malformed"]);
    let malformed = [("cookie", "__session=bad"), ("sec-fetch-mode", "navigate")];
    other["providers"]["clerk"]["from_cookies"] = json!(["__session"]);
    assert_eq!(refusal(&other, "GET", "/x", &malformed).status, 303);
    assert_eq!(refusal(&other, "GET", "/x", &NAVIGATES).status, 401);
}

#[test]
fn the_way_back_leads_to_this_site_and_nowhere_else() {
    let back = |path: &str, authority: &str| {
        let headers = [(":authority", authority), ("sec-fetch-mode", "navigate")];
        let reply = refusal(&login(), "GET", path, &headers);
        let location = header(&reply, "location")?;
        let url = location.strip_prefix("https://accounts.example.com/sign-in?redirect_url=");
        let legal = |b: u8| b.is_ascii_alphanumeric() || b"-._~%".contains(&b);
        assert!(url.unwrap().bytes().all(legal), "{location}");
        Some(String::from_utf8(meshgate::rules::percent_decoded(url.unwrap().as_bytes())).unwrap())
    };
    let long = format!("/{}", "a".repeat(2_048));
    for (path, authority, url) in [
        ("/", "www.example.com", Some("https://www.example.com/")),
        ("/x", "WWW.EXAMPLE.COM", Some("https://www.example.com/x")),
        ("/x", "www.example.com:443", Some("https://www.example.com/x")),
        ("/x", "a.example.org", Some("https://a.example.org/x")),
        ("/x", "localhost:3000", Some("http://localhost:3000/x")),
        ("//evil.example/x", "www.example.com", Some("https://www.example.com//evil.example/x")),
        ("/\\evil.example", "www.example.com", Some("https://www.example.com/\\evil.example")),
        (
            "/x?next=https://evil.example&y=\"<>'#",
            "www.example.com",
            Some("https://www.example.com/x?next=https://evil.example&y=\"<>'#"),
        ),
        ("/x\r\nset-cookie: a=b", "www.example.com", Some("https://www.example.com/")),
        ("/\u{e9}", "www.example.com", Some("https://www.example.com/")),
        (&long, "www.example.com", Some("https://www.example.com/")),
        // What does not begin with a slash could end the authority otherwise.
        ("@evil.example/x", "www.example.com", None),
        (".evil.example/x", "www.example.com", None),
        ("https://evil.example/x", "www.example.com", None),
        ("*", "www.example.com", None),
        ("/x", "evil.example", None),
        ("/x", "www.example.com.evil.example", None),
        ("/x", "www.example.com:80", None),
        ("/x", "www.example.com@evil.example", None),
        ("/x", "evil.example/.example.org", None),
        ("/x", "a.example.org\r\nx: y", None),
        ("/x", "example.org", None),
        ("/x", "", None),
    ] {
        assert_eq!(back(path, authority).as_deref(), url, "{authority} {path}");
    }
}

#[test]
fn no_token_goes_along_to_where_people_sign_in() {
    let mut config = login();
    config["providers"]["clerk"]["from_params"] = json!(["access_token"]);
    let path = "/x?access_token=bad.bad.bad&a=1";
    config["login"]["codes"] = json!(["token_malformed"]);
    let reply = refusal(&config, "GET", path, &NAVIGATES);
    assert_eq!(
        header(&reply, "location"),
        Some(
            "https://accounts.example.com/sign-in?redirect_url=https%3A%2F%2Fwww.example.com%2Fx%3Fa%3D1"
        )
    );
}

#[test]
fn the_page_to_sign_in_is_not_sent_to_itself() {
    for uri in ["/sign-in?next={original_url}", "https://www.example.com/sign-in#{original_url}"] {
        let mut config = login();
        config["login"]["uri"] = json!(uri);
        let reply = refusal(&config, "GET", "/x", &NAVIGATES);
        let location = uri.replace("{original_url}", "https%3A%2F%2Fwww.example.com%2Fx");
        assert_eq!(header(&reply, "location"), Some(location.as_str()));
        assert_eq!(refusal(&config, "GET", "/sign-in?next=y", &NAVIGATES).status, 401, "{uri}");
    }
    let mut config = login();
    config["login"]["uri"] = json!("https://www.example.com?next={original_url}");
    assert_eq!(refusal(&config, "GET", "/x", &NAVIGATES).status, 303);
    assert_eq!(refusal(&config, "GET", "/?next=y", &NAVIGATES).status, 401);
    // Without a place for the URL the host is of no matter.
    let config = with("login", json!({"uri": "https://accounts.example.com/"}));
    let headers = [(":authority", "any.example"), ("sec-fetch-mode", "navigate")];
    let reply = refusal(&config, "GET", "/x", &headers);
    assert_eq!(header(&reply, "location"), Some("https://accounts.example.com/"));
}

#[test]
fn a_script_may_read_where_it_is_sent_and_a_challenge_carries_what_is_wanted() {
    let mut config = login();
    config["cors"] = json!({"allow_origins": [SITE]});
    let headers = [("sec-fetch-mode", "navigate"), ("origin", SITE)];
    let reply = refusal(&config, "GET", "/x", &headers);
    assert_eq!(reply.status, 303);
    assert_eq!(header(&reply, "access-control-allow-origin"), Some(SITE));

    let config = Flow::with(&config).worker.config();
    let denial = Denial {
        code: Code::PermissionRequired,
        wanted: Some(Wanted::Scope("video:create".to_owned())),
        ..Denial::internal()
    };
    let reply = config.answers.reply(&denial, &head("GET", "/x", &[], &config));
    let challenge = header(&reply, "www-authenticate").unwrap();
    assert!(challenge.ends_with(", scope=\"video:create\""), "{challenge}");
}
