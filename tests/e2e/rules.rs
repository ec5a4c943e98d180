//! What rules let through, by what the upstream gets to see: of paths that can be read in more than one way, and
//! of rules that would each have an answer.

use harness::testbed::{Builder, Testbed};
use serde_json::{Value, json};

use crate::support::{
    NOBODY, assert_context, assert_denied, claims_with, only_seen, token_of, user_token,
};

/// Everything goes to the upstream as it came. `normal` says whether Envoy makes paths normal first.
fn bed(normal: bool, rules: Value) -> Builder {
    Testbed::gateway()
        .bootstrap(move |bootstrap| {
            let listener = &mut bootstrap["static_resources"]["listeners"][0];
            let hcm = &mut listener["filter_chains"][0]["filters"][0]["typed_config"];
            hcm["normalize_path"] = json!(normal);
            hcm["merge_slashes"] = json!(normal);
            hcm["path_with_escaped_slashes_action"] =
                json!(if normal { "UNESCAPE_AND_FORWARD" } else { "KEEP_UNCHANGED" });
            hcm["route_config"]["virtual_hosts"][0]["routes"] =
                json!([{"match": {"prefix": ""}, "route": {"cluster": "videos"}}]);
        })
        .filter_config(move |config| config["rules"] = rules.clone())
}

/// Where the most careless of upstreams would take a path to: whatever order it undoes escapes, dots, slashes
/// and parameters in. Written apart from the filter's own way of looking at paths.
fn destinations(path: &str) -> Vec<String> {
    type Step = fn(&str) -> String;
    let decode: Step = |path| {
        let mut out = Vec::new();
        let mut bytes = path.bytes();
        while let Some(byte) = bytes.next() {
            let rest: Vec<u8> = bytes.clone().take(2).collect();
            let hex = std::str::from_utf8(&rest).ok().filter(|hex| hex.len() == 2);
            match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
                Some(value) if byte == b'%' => {
                    out.push(value);
                    bytes.nth(1);
                }
                _ => out.push(byte),
            }
        }
        String::from_utf8_lossy(&out).into_owned()
    };
    let slashes: Step = |path| path.replace('\\', "/").replace("//", "/").replace("//", "/");
    let parameters: Step = |path| {
        path.split('/').map(|part| part.split(';').next().unwrap()).collect::<Vec<_>>().join("/")
    };
    let query: Step = |path| path.split(['?', '#']).next().unwrap().to_owned();
    let dots: Step = |path| {
        let mut kept: Vec<&str> = Vec::new();
        for part in path.split('/').skip(1) {
            match part {
                "." => {}
                ".." => drop(kept.pop()),
                part => kept.push(part),
            }
        }
        format!("/{}", kept.join("/"))
    };
    let mut found = vec![query(path)];
    for _ in 0..5 {
        for known in found.clone() {
            for step in [decode, slashes, parameters, query, dots] {
                let next = step(&known);
                if !found.contains(&next) {
                    found.push(next);
                }
            }
        }
    }
    found
}

#[test]
fn no_spelling_of_a_path_reaches_the_admins_part_without_an_admin() {
    let rules = json!([
        {"match": {"path_prefix": "/public"}, "require": "anonymous"},
        {"match": {"path_template": "/users/{id}/avatar"}, "require": "anonymous"},
        {"match": {"path_prefix": "/admin"}, "require": "user", "roles": ["ADMIN"]},
        {"match": {"path_prefix": "/"}, "require": "anonymous"},
    ]);
    let paths = [
        "/admin",
        "/admin/",
        "/admin/users?x=/public",
        "/admin?",
        "/admin#x",
        "//admin",
        "///admin",
        "/./admin",
        "/x/../admin",
        "/public/../admin",
        "/public/./../admin",
        "/public//../../admin",
        "/public/%2e%2e/admin",
        "/public/%2E%2E/admin",
        "/public/.%2e/admin",
        "/public/%2e./admin",
        "/public/..%2fadmin",
        "/public/..%2Fadmin",
        "/public%2f..%2fadmin",
        "/public/..%5cadmin",
        "/public/..\\admin",
        "/public\\..\\admin",
        "/public/..;/admin",
        "/public/..;a=b/admin",
        "/public;/../admin",
        "/public/%2e%2e;/admin",
        "/public/%2e%2e%3b/admin",
        "/public/%252e%252e/admin",
        "/public/%252e%252e%252fadmin",
        "/%61dmin",
        "/%2561dmin",
        "/a%64min/x",
        "/admin%2fusers",
        "/admin%3fx",
        "/admin%23x",
        "/admin;x",
        "/admin;/x",
        "/admin%3bx",
        "/admin%00",
        "/users/../admin",
        "/users/1/avatar/../../../admin",
        "/users/..%2f..%2fadmin/avatar",
        "/users/%2e%2e%2fadmin%3f/avatar",
        "/users/../admin/avatar",
    ];
    for normal in [true, false] {
        let bed = bed(normal, rules.clone()).start();
        let user = user_token(&bed);
        let admin = token_of(&bed, "user_2adm");
        let mut arrived = 0;
        for path in paths {
            for token in [None, Some(&user)] {
                let request = bed.get(path);
                let request = match token {
                    Some(token) => request.bearer(token),
                    None => request,
                };
                let response = request.send();
                for seen in bed.upstream.take() {
                    let reached = destinations(&seen.path)
                        .into_iter()
                        .find(|path| path == "/admin" || path.starts_with("/admin/"));
                    assert_eq!(reached, None, "{path} (normal: {normal}): {}", seen.path);
                    arrived += 1;
                }
                assert!(response.status != 500, "{path}: {}", response.text());
            }
        }
        // What Envoy itself refuses or what leads elsewhere aside, an admin gets through.
        for path in ["/admin", "/public/../admin", "/admin;x", "/%61dmin"] {
            let response = bed.get(path).bearer(&admin).send();
            assert_eq!(response.status, 200, "{path}: {}", response.text());
            bed.upstream.take();
        }
        assert_eq!(bed.get("/public/a%20b").send().status, 200);
        assert_eq!(bed.get("/users/a%20b/avatar").send().status, 200);
        assert!(bed.upstream.take().len() == 2 && arrived < paths.len(), "{arrived} arrived");
        bed.no_traps();
    }
}

/// A method, a host and a path, a token, and why the request is refused.
type Case<'a> = (&'a str, &'a str, &'a str, Option<&'a str>, Option<(u16, &'a str)>);

#[test]
fn the_first_rule_that_matches_holds() {
    let rules = json!([
        {"match": {"path": "/videos/search"}, "require": "anonymous"},
        {"match": {"path_template": "/videos/{id}/comments", "methods": ["GET", "HEAD"]}, "require": "anonymous"},
        {"match": {"path_template": "/videos/{id}", "methods": ["DELETE"]}, "require": "user", "roles": ["ADMIN"]},
        {"match": {"path_prefix": "/videos", "methods": ["GET"]}, "require": "optional"},
        {"match": {"path_prefix": "/studio", "hosts": ["studio.example.com"]}, "require": "user", "scopes": ["studio:write"]},
        {"match": {"path_prefix": "/", "hosts": ["*.cdn.example.com"]}, "require": "anonymous"},
        {"match": {"path_prefix": "/account"}, "require": "user", "max_age": "10m"},
        {"match": {"path_prefix": "/org"}, "require": "user", "claims": {"org": ["acme"]}},
    ]);
    let bed = bed(true, rules).start();
    let user = user_token(&bed);
    let admin = token_of(&bed, "user_2adm");
    let with = |name: &str, value: Value| bed.idp.token(claims_with(name, value));
    let writer = with("scope", json!("studio:read studio:write"));
    let member = with("org", json!("acme"));
    let fresh = with("auth_time", json!(harness::idp::now()));
    let stale = with("auth_time", json!(harness::idp::now() - 3_600));

    let cases: [Case<'_>; 25] = [
        ("GET", "a", "/videos/search", None, None),
        ("POST", "a", "/videos/search?q=x", None, None),
        ("GET", "a", "/videos/search/", None, None),
        ("POST", "a", "/videos/search/", None, Some((401, "token_missing"))),
        ("GET", "a", "/videos/7/comments", None, None),
        ("POST", "a", "/videos/7/comments", None, Some((401, "token_missing"))),
        ("POST", "a", "/videos/7/comments", Some(&user), None),
        ("DELETE", "a", "/videos/7", Some(&user), Some((403, "role_required"))),
        ("DELETE", "a", "/videos/7", Some(&admin), None),
        ("DELETE", "a", "/videos/7/comments", Some(&user), None),
        ("GET", "a", "/videos/7", None, None),
        ("GET", "studio.example.com", "/studio", Some(&user), Some((403, "scope_required"))),
        ("GET", "STUDIO.example.com", "/studio", Some(&user), Some((403, "scope_required"))),
        ("GET", "studio.example.com:443", "/studio", Some(&user), Some((403, "scope_required"))),
        ("GET", "studio.example.com", "/studio", Some(&writer), None),
        ("GET", "a", "/studio", Some(&user), None),
        ("GET", "img.cdn.example.com", "/x", None, None),
        ("GET", "cdn.example.com", "/x", None, Some((401, "token_missing"))),
        ("GET", "img.cdn.example.com.evil.example", "/x", None, Some((401, "token_missing"))),
        ("GET", "a", "/account", Some(&user), Some((401, "authentication_too_old"))),
        ("GET", "a", "/account", Some(&stale), Some((401, "authentication_too_old"))),
        ("GET", "a", "/account", Some(&fresh), None),
        ("GET", "a", "/org", Some(&user), Some((403, "claim_required"))),
        ("GET", "a", "/org", Some(&member), None),
        ("GET", "a", "/nowhere", None, Some((401, "token_missing"))),
    ];
    for (method, host, path, token, refusal) in cases {
        let request = bed.get(path).method(method).header("host", host);
        let request = match token {
            Some(token) => request.bearer(token),
            None => request,
        };
        let response = request.header("x-user-role", "ADMIN").send();
        let what = format!("{method} {host}{path}: {}", response.text());
        match refusal {
            None => {
                assert_eq!(response.status, 200, "{what}");
                let seen = only_seen(&bed);
                match token {
                    None => assert_context(&seen, NOBODY),
                    Some(_) => assert!(seen.header("x-user-id").is_some(), "{what}"),
                }
            }
            Some((status, code)) => {
                assert_denied(&response, status, code);
                assert!(bed.upstream.take().is_empty(), "{what}");
            }
        }
    }
    bed.no_traps();
}
